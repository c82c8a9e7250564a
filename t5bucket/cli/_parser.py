# _parser.py - the parser of the command line, its first page, and shell completion.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import argparse
import os
import sys
from typing import Any, NoReturn

import t5bucket
from t5bucket.cli import bench, bias, buckets, estimate, info, plot
from t5bucket.cli._terminal import paint

COMMANDS = (bias, buckets, plot, bench, estimate, info)
EXAMPLES = {
    "Compute a bias matrix, and write it to a file": (
        "t5bucket bias --query-length 2048 --out bias.npy",
    ),
    "See which distances each bucket holds": (
        "t5bucket buckets --num-buckets 32 --max-distance 128",
    ),
    "Draw the buckets and the bias": ("t5bucket plot --out bias.png",),
    "Measure this machine, or a model of yours": (
        "t5bucket bench",
        "t5bucket estimate google-t5/t5-small --length 2048",
    ),
    "Show what a bug report needs": ("t5bucket info",),
}
NOTES = """\
bias, buckets and plot read your weights: a file, the folder of a model, or its name on
Hugging Face's hub. t5bucket COMMAND --help explains a command.

Choose a command, such as bias; t5bucket --help lists all of them"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line each."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.suggest_on_error = True  # since Python 3.14

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and where the options are explained."""
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help explains all options\n")


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of all commands."""
    parser = Parser(
        prog="t5bucket",
        description="T5 relative position buckets and attention-bias matrices: fast and exact.",
    )
    parser.add_argument("--version", action="version", version=f"t5bucket {t5bucket.__version__}")
    parser.set_defaults(run=None, parser=parser)
    subparsers = parser.add_subparsers(metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    for command_parser in subparsers.choices.values():
        command_parser.set_defaults(parser=command_parser)
    return parser


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that completes a line, and exit; otherwise return at once."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    try:
        import argcomplete
    except ImportError:
        return
    argcomplete.autocomplete(parser)


def print_first_page() -> None:
    """Show what one can do, each with an example."""
    title = paint(f"t5bucket {t5bucket.__version__}", "bold", stream=sys.stderr)
    lines = [f"{title}  T5's relative position buckets and attention biases, fast and exact", ""]
    for task, examples in EXAMPLES.items():
        lines.append(task)
        lines += [f"  {paint(example, 'cyan', stream=sys.stderr)}" for example in examples]
        lines.append("")
    print("\n".join([*lines, NOTES]), file=sys.stderr)
