# test_reference.py - the lists in the reference are complete: names, C functions, variables.
# SPDX-License-Identifier: BSD-3-Clause
"""`nox -s docs` compares the entries with the modules; these lists are written by hand."""

import ast
import re

from markdown import ROOT, read_blocks

REFERENCE = ROOT / "docs" / "reference"
MODULES = [
    ROOT / "t5bucket" / path
    for path in (
        "__init__.py",
        "torch/__init__.py",
        "transformers/__init__.py",
        "jax/__init__.py",
        "dask.py",
        "plot.py",
    )
]


def public_names() -> list[str]:
    """Read what modules export: nothing has to be installed."""
    found = []
    for path in MODULES:
        (names,) = re.findall(
            r"^__all__ = (\[.*?\])", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        )
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found += [f"{module}.{name}" for name in ast.literal_eval(names)]
    return found


def test_the_index_lists_every_public_name() -> None:
    (block,) = read_blocks("docs/reference/index.md", "{eval-rst}")
    listed = re.findall(r"^(?:   |\.\. data:: )(t5bucket\.\S+)$", block.source, re.MULTILINE)
    assert sorted(listed) == sorted(public_names())


def test_the_table_of_the_c_header_lists_every_function_in_order() -> None:
    header = (ROOT / "src_c" / "t5bucket.h").read_text(encoding="utf-8")
    page = (REFERENCE / "c_header.md").read_text(encoding="utf-8")
    declared = re.findall(r"^\w[^#\n]*?\b(t5b_\w+)\(", header, re.MULTILINE)
    assert len(declared) > 5
    assert re.findall(r"^\| `(\w+)`", page, re.MULTILINE) == declared


def test_the_page_shows_the_whole_c_header() -> None:
    header = (ROOT / "src_c" / "t5bucket.h").read_text(encoding="utf-8")
    blocks = read_blocks("docs/reference/c_header.md", "{literalinclude} ../../src_c/t5bucket.h")
    options = [
        dict(re.findall(r"^:(start-at|end-before): (.+)", block.source, re.M)) for block in blocks
    ]
    starts = [option["start-at"] for option in options]
    assert header.startswith(starts[0])
    assert [option.get("end-before") for option in options] == [*starts[1:], None]
    assert all(header.count(start) == 1 for start in starts)


OF_TESTS = {"T5BUCKET_TEST_NUM_THREADS", "T5BUCKET_WRITE_DOCS"}
READ = r'\b(?:get\(|environ\[)[\'"]([A-Z][A-Z0-9_]{3,})'


def test_the_page_lists_every_variable_that_is_read() -> None:
    page = (REFERENCE / "environment.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", page))
    paths = [ROOT / "setup.py", *ROOT.glob("t5bucket/**/*.py"), *ROOT.glob("t5bucket/*.pyx")]
    sources = [path.read_text(encoding="utf-8") for path in paths]
    read = {
        name for source in sources if "os.environ" in source for name in re.findall(READ, source)
    }
    assert {name for name in listed if name.startswith("T5BUCKET_")} - read == OF_TESTS
    assert read <= listed


def test_the_page_of_errors_lists_every_extra_that_a_message_names() -> None:
    sources = [path.read_text(encoding="utf-8") for path in ROOT.glob("t5bucket/**/*.py")]
    named = {name for source in sources for name in re.findall(r"'t5bucket\[(\w+)\]'", source)}
    page = (REFERENCE / "errors.md").read_text(encoding="utf-8")
    assert named
    assert named <= set(re.findall(r"'t5bucket\[(\w+)\]'", page))
