# platforms.py - what was built and tested where: the last table of docs/reference/support.md.
# SPDX-License-Identifier: BSD-3-Clause
"""The table of platforms, written by the runs.

platforms.py                   add the rows of finished sessions to docs/reference/support.md
platforms.py PYTEST_OUTPUT     print the row of this machine, for the summary of a workflow's job

Sessions keep their rows in build/trust/platforms. `nox` replaces the table, as all its sessions
have run.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sessions.figures import FOLDER, ROOT

if TYPE_CHECKING:
    import nox

TABLE = ROOT / "docs" / "reference" / "support.md"
BEGIN, END = "<!-- platforms: begin -->\n", "<!-- platforms: end -->"
COLUMNS = ["system", "architecture", "Python", "built by", "C tests", "suite", "how"]
NUM_KEYS = 3  # a platform is the first three
Rows = dict[tuple[str, ...], list[str]]  # the other cells by platform
RECORDED: Rows = {}  # by this process


def count_outcomes(*lines: str) -> str:
    """Add up the last lines of several runs of pytest."""
    counts: Counter[str] = Counter()
    for count, outcome in re.findall(r"(\d+) (passed|failed|skipped|error)", "\n".join(lines)):
        counts[outcome] += int(count)
    return ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items())


def read_platform(info: dict[str, Any]) -> tuple[str, ...]:
    """Read system, architecture and Python out of what `t5bucket info --json` prints."""
    system = str(info["platform"]).split("-")[0]
    if system == "Linux":
        system += ", glibc" if "glibc" in info["platform"] else ", musl"
    architecture = str(info["instruction set"]).split(" on ")[1]
    minor = re.match(r"\d+\.\d+", info["Python"])
    assert minor is not None
    return system, architecture, minor[0] + "t" * ("free-threaded" in info["Python"])


def merge(rows: Rows, platform: tuple[str, ...], cells: list[str]) -> None:
    """Put cells into the row of a platform; empty ones keep what is there."""
    old = rows.get(platform, [""] * len(cells))
    rows[platform] = [new or before for new, before in zip(cells, old, strict=True)]


def record_platform(
    session: nox.Session, info: dict[str, Any], how: str, *, c_tests: str = "", suite: str = ""
) -> None:
    """Keep a row for the table: what passed on the platform that `t5bucket info --json` names."""
    merge(RECORDED, read_platform(info), [info["compiler"], c_tests, suite, how])
    folder = FOLDER / "platforms"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [[*platform, *cells] for platform, cells in RECORDED.items()]
    (folder / f"{session.name}.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


def read_info(session: nox.Session, python: str = "python") -> dict[str, Any]:
    """Run `t5bucket info --json` in an environment."""
    command = [python, "-P", "-m", "t5bucket", "info", "--json"]
    info: dict[str, Any] = json.loads(str(session.run(*command, external=True, silent=True)))
    return info


def make_table(rows: Rows) -> str:
    """Write rows as Markdown."""
    lines = [COLUMNS, ["---"] * len(COLUMNS)]
    lines += [[*platform, *cells] for platform, cells in sorted(rows.items())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_platforms(*, keep: bool) -> None:
    """Write the recorded rows into the table, and keep the other rows, or not."""
    head, rest = TABLE.read_text(encoding="utf-8").split(BEGIN)
    old, tail = rest.split(END)
    rows: Rows = {}
    recorded = [row.strip("| ").split(" | ") for row in old.splitlines()[2:]] if keep else []
    for path in sorted((FOLDER / "platforms").glob("*.json")):
        recorded += json.loads(path.read_text(encoding="utf-8"))
    for row in recorded:
        merge(rows, tuple(row[:NUM_KEYS]), row[NUM_KEYS:])
    TABLE.write_text(f"{head}{BEGIN}{make_table(rows)}{END}{tail}", encoding="utf-8")


def make_row(output: str) -> str:
    """Make the table of this machine, where pytest has printed this."""
    command = [sys.executable, "-P", "-m", "t5bucket", "info", "--json"]
    info = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    last = output.strip().splitlines()[-1]
    cells = [info["compiler"], "", count_outcomes(re.sub("\x1b\\[[0-9;]*m", "", last)), "native"]
    return make_table({read_platform(info): cells})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(make_row(Path(sys.argv[1]).read_text(encoding="utf-8", errors="replace")), end="")
    else:
        write_platforms(keep=True)
