# command_line.py - the options of each command as tables, and the page that shows them.
# SPDX-License-Identifier: BSD-3-Clause
"""As a program it writes the tables of the page once more."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from t5bucket.cli._parser import make_parser

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "command_line.md"
TABLE = re.compile(r"(<!-- options of (\w+): begin -->\n).*?(<!-- options: end -->)", re.DOTALL)


def commands() -> dict[str, argparse.ArgumentParser]:
    """Find the parser of each command by its name."""
    (subparsers,) = (
        action
        for action in make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return dict(subparsers.choices)


def write_table(parser: argparse.ArgumentParser) -> str:
    rows = ["| option | meaning |", "|---|---|"]
    rows += [f"| `{name}` | {meaning} |" for name, meaning in list_options(parser)]
    return "".join(f"{row}\n" for row in rows)


def list_options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        words = [", ".join(action.option_strings)] if action.option_strings else []
        if action.nargs != 0:
            words.append(name_value(action))
        meaning = (action.help or "").replace("|", "\\|")
        if action.choices:
            meaning = f"{', '.join(f'`{choice}`' for choice in action.choices)}: {meaning}"
        yield " ".join(words), meaning


def name_value(action: argparse.Action) -> str:
    """Name what an option takes, as its help does."""
    metavar = action.metavar or action.dest.upper()
    name = metavar if isinstance(metavar, str) else " ".join(metavar)
    return f"[{name}]" if action.nargs == "?" else name


def fill(text: str) -> str:
    """Put the tables of the parser into the page."""
    parsers = commands()

    def replace(found: re.Match[str]) -> str:
        begin, command, end = found.groups()
        return f"{begin}{write_table(parsers[command])}{end}"

    return TABLE.sub(replace, text)


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
