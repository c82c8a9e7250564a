# versions.py - find what t5bucket accelerates in a version of transformers; write the table.
# SPDX-License-Identifier: BSD-3-Clause
"""As a program it prints the column of the installed version, as JSON; or writes a table of them.

python versions.py > column.json
python versions.py write '{"5.0": {...}, ...}'
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import models  # noqa: E402
from outputs import run  # noqa: E402

from t5bucket.transformers import _lazy, _merge, accelerated  # noqa: E402
from t5bucket.transformers._classes import _find_layer  # noqa: E402

SUPPORT = Path(__file__).parents[2] / "docs" / "reference" / "support.md"
BEGIN, END = "<!-- versions: begin -->\n", "<!-- versions: end -->"


def find_cell(family: str) -> str:
    """Find what t5bucket computes in a family's model: bias, attention, both, or nothing."""
    try:
        case = models.make(family, padded=True)
    except (AttributeError, ImportError):
        return "absent"
    with accelerated(case.model):
        has_bias = any(_replaced(module, "biases") for module in case.model.modules())
        attends = _attends(case)
    with accelerated(case.model, exact=False):
        attends_inexactly = any(
            "forward" in _replaced(module, "inexact")
            for module in case.model.modules()
            if type(module).__name__.endswith("Attention")
        )
    if attends:
        return "bias, attention"
    if attends_inexactly:
        return "bias (attention)"
    return "bias" if has_bias else "as before"


def _replaced(module: Any, *kinds: str) -> set[str]:
    """Name the methods of an accelerated layer with replacements of these kinds."""
    cls = type(module)
    if not hasattr(cls, "_t5bucket_base"):
        return set()
    _, layer = _find_layer(cls) or (cls, None)
    return set(vars(cls)) & {name for kind in kinds for name in getattr(layer, kind)}


def _attends(case: models.Case) -> bool:
    """Whether attention needs no matrix, or uses one that is merged for all layers."""
    called: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((_lazy, "scaled_dot_product_attention"), (_merge, "_merge")):
            function = getattr(module, name)

            def watched(*args: Any, function: Any = function, **kwargs: Any) -> Any:
                called.append(function.__name__)
                return function(*args, **kwargs)

            patch.setattr(module, name, watched)
        run(case)
    return bool(called)


# ---- the table ----


def as_numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def write_table(columns: dict[str, dict[str, str]]) -> str:
    """Write cells by family and version; equal neighbouring versions share a column."""
    groups: list[list[str]] = []
    for version in sorted(columns, key=as_numbers):
        if groups and columns[groups[-1][0]] == columns[version]:
            groups[-1].append(version)
        else:
            groups.append([version])
    heads = [group[0] if len(group) == 1 else f"{group[0]} to {group[-1]}" for group in groups]
    heads[-1] = f"from {groups[-1][0]}"
    rows = [["family", *heads], ["---"] * (1 + len(heads))]
    rows += [
        [f"`{family}`", *(columns[group[0]][family] for group in groups)]
        for family in columns[groups[0][0]]
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def read_column(text: str, version: str) -> dict[str, str]:
    """Read a version's cells from a document."""
    table = text.split(BEGIN)[1].split(END)[0]
    head, _, *rows = [line.strip("| ").split(" | ") for line in table.strip().splitlines()]
    place = sum(as_numbers(name) <= as_numbers(version) for name in head[1:])
    return {family.strip("`"): cells[place - 1] for family, *cells in rows}


def main() -> None:
    if sys.argv[1:2] == ["write"]:
        head, _, tail = re.split(f"({BEGIN}|{END})", SUPPORT.read_text(encoding="utf-8"))[::2]
        SUPPORT.write_text(
            f"{head}{BEGIN}{write_table(json.loads(sys.argv[2]))}{END}{tail}", encoding="utf-8"
        )
        return
    transformers.logging.set_verbosity_error()
    sys.modules["t5bucket.transformers._t5"].MIN_NBYTES = 0  # type: ignore[attr-defined]
    print(json.dumps({family: find_cell(family) for family in models.FAMILIES}))


if __name__ == "__main__":
    main()
