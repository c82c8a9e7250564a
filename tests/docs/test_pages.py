# test_pages.py - the programs of pages that need NumPy and Matplotlib alone run.
# SPDX-License-Identifier: BSD-3-Clause
from pathlib import Path
from typing import Any

import pytest
from markdown import Block, read_blocks

PAGES = (
    "docs/explanation/buckets.md",
    "docs/explanation/exactness.md",
    "docs/explanation/threads_and_memory.md",
    "docs/reference/calls.md",
)
PROGRAMS = [program for page in PAGES for program in read_blocks(page, "python")]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.section)
def test_the_program_runs(program: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "matplotlib" in program.source:
        matplotlib = pytest.importorskip("matplotlib")
        matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    exec(program.source, namespace)
    if "figure" in namespace:
        namespace["plt"].close(namespace["figure"])
