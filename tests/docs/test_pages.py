# test_pages.py - every block of every page runs; links and pictures are valid.
# SPDX-License-Identifier: BSD-3-Clause
import doctest
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown import CELL, PAGES, ROOT, Block, read_blocks, write_program
from package import FRAMEWORKS
from programs import Runner, find_imports

# MyST's directives, which are not code.
DIRECTIVES = {"{include}", "{literalinclude}", "{eval-rst}", "{figure}"}
ELSEWHERE = {"docs/how_to/c_and_cython.md": "tests/c/test_c_and_cython.py"}  # pages with own tests
NOT_RUN = {  # commands, and why
    "pipx run nox": "runs these tests",
    "python -m benchmarks": "takes an hour",
    "python script.py": "stands for a reader's own",
}
ALONE = ("docs/how_to/", "docs/questions.md")  # each block is a complete program
BLOCKS = [block for page in PAGES if page not in ELSEWHERE for block in read_blocks(page)]


# ---- programs ----


def find_programs() -> Iterator[list[Block]]:
    """Each block of some pages is a program; other pages are read from top to bottom."""
    for page in PAGES:
        blocks = [block for block in BLOCKS if block.page == page]
        cells = [block for block in blocks if block.language == CELL]
        programs = [block for block in blocks if block.language == "python"]
        yield from [[block] for block in programs] if page.startswith(ALONE) else [programs]
        yield cells


PROGRAMS = [blocks for blocks in find_programs() if blocks]
assert len(PROGRAMS) > 30


def name_program(blocks: list[Block]) -> str:
    section = blocks[0].section if len(blocks) == 1 else ""
    return f"{blocks[0].page.removeprefix('docs/')}:{blocks[0].line + 1} {section}".strip()


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as runner:
        yield runner


def need_imports(source: str) -> None:
    """Skip the test if a package that the program imports is missing."""
    for node in find_imports(source):
        module = getattr(node, "module", None) or node.names[0].name
        for name in (module.split(".")[0], FRAMEWORKS.get(module)):
            if name:
                pytest.importorskip(name)


@pytest.mark.thread_unsafe(reason="one runner")
@pytest.mark.parametrize("blocks", PROGRAMS, ids=name_program)
def test_the_program_runs(blocks: list[Block], runner: Runner, tmp_path: Path) -> None:
    source = write_program(blocks)
    need_imports(source)
    finished = runner.run(source, tmp_path)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(
    "page", sorted({block.page for block in BLOCKS if block.language == "pycon"})
)
def test_sessions_show_what_python_prints(page: str) -> None:
    names: dict[str, object] = {}
    # Windows has its own words for errors of files.
    windows = doctest.IGNORE_EXCEPTION_DETAIL if sys.platform == "win32" else 0
    runner = doctest.DocTestRunner(optionflags=windows)
    for block in BLOCKS:
        if block.page == page and block.language == "pycon":
            test = doctest.DocTestParser().get_doctest(block.source, names, page, page, block.line)
            assert test.examples
            runner.run(test, clear_globs=False)
            names = test.globs
    assert runner.summarize(verbose=False).failed == 0


# ---- commands, and what they print ----


def run_command(command: str, folder: Path) -> str:
    """Run `t5bucket ...`, and check the extras that are installed."""
    words = shlex.split(command, comments=True)
    if words[:1] == ["t5bucket"]:
        if "plot" in words:
            pytest.importorskip("matplotlib")
        program = [sys.executable, "-P", "-m", *words]
        result = subprocess.run(program, capture_output=True, text=True, check=False, cwd=folder)
        assert result.returncode == 0, result.stderr
        return result.stdout
    if "pip install" in command:
        declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for extras in re.findall(r"(?:t5bucket|\.)\[(.*?)\]", command):
            assert {*extras.split(",")} <= {*declared["optional-dependencies"]}
    elif words:
        assert any(known in command for known in NOT_RUN), f"nothing runs {command!r}"
    return ""


def words_of(text: str) -> list[str]:
    """List the words; leave out numbers and their units, which depend on the machine."""
    return re.sub(r"\d[\d.,]*( ?[^\W\d]\S*)?", "#", text).split()


@pytest.mark.parametrize(
    "page", sorted({block.page for block in BLOCKS if block.language in ("sh", "text")})
)
def test_commands_run_and_print_what_is_shown(page: str, tmp_path: Path) -> None:
    printed = ""
    for block in BLOCKS:
        if block.page == page and block.language == "sh":
            commands = block.source.replace("\\\n", " ").splitlines()
            printed = "".join(run_command(command, tmp_path) for command in commands)
        elif block.page == page and block.language == "text":
            assert words_of(block.source) == words_of(printed)


# ---- pages ----


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_of_a_kind_that_runs(page: str) -> None:
    fences = re.findall(r"^[ \t]*```+(.*)", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    found = [block.language for block in read_blocks(page)]
    assert [info for info in fences if info] == found
    assert len(fences) == 2 * len(found), "every block has a language"
    found = [re.sub(r"^(\{\w+\}) .*", r"\1", info) if info != CELL else info for info in found]
    kinds = {"pycon", "python", "sh", "text", CELL, *DIRECTIVES}
    assert {*found} <= kinds | ({"c", "cython"} if page in ELSEWHERE else set())


@pytest.mark.parametrize("page", PAGES)
def test_every_picture_has_a_description(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for alt in re.findall(r"!\[(.*?)\]\(", text, re.DOTALL):
        assert len(alt) > 30
        assert "\n" not in alt, "MyST joins the lines without a space"
    assert "<img" not in text
    for figure in re.findall(r"^```\{figure\}.*?^```", text, re.DOTALL | re.MULTILINE):
        assert re.search(r"^:alt: .{30}", figure, re.MULTILINE)
    for block in read_blocks(page, CELL):
        draws = re.search(r"\bplt\.|\bplot\.\w+\(|imshow", block.source)
        assert bool(draws) == bool(re.match(r"# Picture: .{30}", block.source)), block.line


def anchors(text: str) -> set[str]:
    """List the anchors of headings, as viewers of repositories and MyST make them."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", [*PAGES, *(path.name for path in sorted(ROOT.glob("*.md")))])
def test_links_lead_to_files_and_headings(page: str) -> None:
    text = re.sub(r"`[^`\n]*`", "", (ROOT / page).read_text(encoding="utf-8"))
    for path, anchor in re.findall(r"\]\((?!\w+:)([^\s()#]*)#?([^\s()]*)\)", text):
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{path}#{anchor}"
