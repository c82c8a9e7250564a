# test_documentation.py - docstring examples run, and documents agree with the code.
# SPDX-License-Identifier: BSD-3-Clause
import doctest
import importlib
import importlib.util
import inspect
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown import read_blocks
from package import FRAMEWORKS, MODULES

import t5bucket as tb

ROOT = Path(__file__).parents[2]

shows_int64 = pytest.mark.skipif(
    np.dtype(int) != np.int64, reason="NumPy 1 of Windows prints the name of int64"
)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # in the exporter of PyTorch
@shows_int64
@pytest.mark.parametrize("name", ["t5bucket", *MODULES])
def test_examples_in_docstrings(name: str) -> None:
    if package := {**FRAMEWORKS, "t5bucket.plot": "matplotlib"}.get(name):
        pytest.importorskip(package)
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@shows_int64
def test_the_readmes_first_example_shows_its_true_results() -> None:
    block, _ = read_blocks("README.md", "python")
    namespace: dict[str, Any] = {}
    exec(block.source, namespace)
    result = r"^(\S+\(.*\)) +# (array\(.*?\)|\([\d, ]+\))"
    shown = re.findall(result, block.source, re.MULTILINE)
    assert len(shown) == 2
    for expression, result in shown:
        value = eval(expression, namespace)
        assert repr(value if result.startswith("array") else value.shape) == result


def test_the_readmes_second_example_accelerates_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    _, block = read_blocks("README.md", "python")
    (name,) = re.findall(r'from_pretrained\("(.*?)"\)', block.source)
    config = transformers.T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1)
    transformers.T5EncoderModel(config).save_pretrained(tmp_path / name)
    monkeypatch.chdir(tmp_path)  # a folder of that name comes before the hub
    namespace: dict[str, Any] = {}
    exec(block.source, namespace)
    layer = namespace["model"].encoder.block[0].layer[0].SelfAttention
    assert type(layer) is not transformers.models.t5.modeling_t5.T5Attention


def test_the_readme_says_what_the_tables_of_speed_say() -> None:
    script = runpy.run_path(str(ROOT / "tools" / "draw_front.py"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("\n", " ")
    (seconds, of_seconds), (nbytes, of_nbytes) = map(
        script["read_row"], ("t5-small, 1 x 4096", "growth of peak memory, t5-small, 1 x 4096")
    )
    assert f"{seconds:.2f} seconds with t5bucket instead of {of_seconds:.2f}" in readme
    assert f"{nbytes:.0f} MB of memory instead of {of_nbytes:,.0f}" in readme
    assert f"half of the time ({seconds / of_seconds:.2f})" in readme
    assert f"a sixth of the memory ({nbytes / of_nbytes:.2f})" in readme


def test_rows_that_miss_their_aim_are_marked() -> None:
    page = (ROOT / "docs" / "explanation" / "attention.md").read_text(encoding="utf-8")
    rows = re.findall(r"\| (\d\.\d{3})( †)? \| (\d\.\d{3}) \|$", page, re.MULTILINE)
    assert len(rows) > 30
    for ratio, mark, aim in rows:
        assert bool(mark) == (float(ratio) > float(aim))


def public_functions() -> list[str]:
    """List the names of the functions and methods that users call."""
    modules = ["t5bucket", *(name for name in FRAMEWORKS if "._" not in name)]
    names = [
        f"{module}.{name}"
        for module in modules
        if importlib.util.find_spec(FRAMEWORKS.get(module, "t5bucket"))
        for name in importlib.import_module(module).__all__
        if name != "__version__"
    ]
    methods = [
        f"t5bucket.{cls.__name__}.{name}"
        for cls in (tb.Buckets, tb.RelativeAttentionBias)
        for name, method in inspect.getmembers(cls)
        if (inspect.isfunction(method) or inspect.ismethod(method))
        and (not name.startswith("_") or name == "__call__")
    ]
    return [*names, *methods]


@pytest.mark.parametrize("name", public_functions())
def test_every_public_function_is_documented_as_numpydoc_wants_it(name: str) -> None:
    validate = pytest.importorskip("numpydoc.validate")
    hooks: Any = importlib.import_module("numpydoc.hooks.validate_docstrings")
    checks = validate.get_validation_checks(set(hooks.parse_config(str(ROOT))["checks"]))
    found = validate.validate(name)
    assert ">>> " in found["docstring"]
    assert [error for error in found["errors"] if error[0] in checks] == []


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(
        r"^## \[(\S+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert versions[0] == tb.__version__


@pytest.mark.parametrize(
    "pattern", ["t5bucket/**/*.py*", "src_c/*", "tests/**/*.[cp]*", "benchmarks/*.py"]
)
def test_every_file_says_what_it_is_for_in_its_first_lines(pattern: str) -> None:
    paths = [
        path
        for path in ROOT.glob(pattern)
        if path.suffix in (".py", ".pyx", ".pxd", ".pyi", ".c", ".h")
    ]
    assert paths
    for path in paths:
        if not path.name.startswith("_core.c"):  # generated
            assert f"{path.name} - " in path.read_text(encoding="utf-8")[:200], path


@pytest.mark.parametrize(
    ("script", "page"),
    [("draw_attention.py", "docs/explanation/attention.md"), ("draw_front.py", "README.md")],
)
def test_a_picture_is_what_its_script_draws(script: str, page: str) -> None:
    names = runpy.run_path(str(ROOT / "tools" / script))
    drawn = names["draw"]()
    assert names["PICTURE"].read_text(encoding="utf-8") == drawn
    (picture,) = re.findall(r"!\[[^]]+\]\((.*?)\)", (ROOT / page).read_text(encoding="utf-8"))
    path = names["PICTURE"].relative_to(ROOT).as_posix()
    if "://" in picture:  # in a release, since PyPI does not follow relative paths
        assert picture.endswith(f"/{path}")
    else:
        assert (ROOT / page).parent / picture == names["PICTURE"]
    assert "<title>" in drawn
    assert "<desc>" in drawn
