# markdown.py - the fenced blocks of a document, which Sybil finds, and the section of each.
# SPDX-License-Identifier: BSD-3-Clause
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sybil import Document
from sybil.parsers.markdown import CodeBlockParser

ROOT = Path(__file__).parents[2]


class Block(NamedTuple):
    """The source of a block, and the heading above it."""

    section: str
    language: str
    source: str


def read_blocks(name: str, *languages: str) -> list[Block]:
    """List the blocks in some languages, in the order of the document."""
    document = Document.parse(str(ROOT / name), *map(CodeBlockParser, languages))
    return list(find_sections(document))


def find_sections(document: Document) -> Iterator[Block]:
    for example in document.examples():
        above = document.text[: example.start]
        section = ["", *re.findall(r"^## (.*)", above, re.MULTILINE)][-1]
        language = example.region.lexemes["arguments"]
        yield Block(section, language, str(example.parsed))
