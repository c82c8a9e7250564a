# markdown.py - the fenced blocks of a document, which Sybil finds, and the section of each.
# SPDX-License-Identifier: BSD-3-Clause
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from sybil import Document
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md"))
CELL = "{code-cell} python"  # a block that the site runs, to show what it gives


class Block(NamedTuple):
    """The source of a block, the heading above it, and the page that it stands in."""

    page: str
    line: int  # number of its first line, from 0
    section: str
    language: str
    source: str


def read_blocks(page: str, *languages: str) -> list[Block]:
    """List the blocks in some languages, or in all, in the order of the page."""
    document = Document((ROOT / page).read_text(encoding="utf-8"), page)
    return [
        block for block in find_blocks(document) if not languages or block.language in languages
    ]


def find_blocks(document: Document) -> Iterator[Block]:
    for region in FencedCodeBlockLexer(".+")(document):
        above = document.text[: region.start]
        title = re.findall(r"^# (.*)", above, re.MULTILINE)[:1]
        section = ["", *title, *re.findall(r"^## (.*)", above, re.MULTILINE)][-1]
        line = above.count("\n") + 1
        language, source = region.lexemes["language"], region.lexemes["source"]
        yield Block(document.path, line, section, language, str(source))


def find_program(section: str, page: str = "") -> str:
    """Find the only program of a section of the how-to pages, or of one of them."""
    pages = [name for name in PAGES if name.startswith(f"docs/how_to/{page}")]
    blocks = [block for page in pages for block in read_blocks(page, "python")]
    (program,) = (block.source for block in blocks if block.section == section)
    return program


def write_program(blocks: Iterable[Block]) -> str:
    """Join blocks into a program whose lines have the numbers that they have in the page."""
    lines: list[str] = []
    for block in blocks:
        lines += [""] * (block.line - len(lines))
        lines += block.source.splitlines()
    return "\n".join(lines) + "\n"
