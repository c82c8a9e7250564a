# _terminal.py - what a terminal shows and a file does not: colours and progress.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

STYLES = {"bold": 1, "dim": 2, "green": 32, "yellow": 33, "cyan": 36}
PROGRESS_DELAY = 0.5  # seconds; what is done by then shows no bar


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal that can move its cursor."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def has_colors(stream: TextIO | None) -> bool:
    """Whether to print colours; NO_COLOR (https://no-color.org) and FORCE_COLOR decide first."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return is_terminal(stream)


def paint(text: str, *styles: str, stream: TextIO | None = None) -> str:
    """Colour a text, if the stream (standard output, if None) shows colours."""
    if not has_colors(sys.stdout if stream is None else stream):
        return text
    return f"\033[{';'.join(str(STYLES[style]) for style in styles)}m{text}\033[0m"


def can_print(text: str) -> bool:
    """Whether standard output's encoding has these characters."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def progress(total: int, what: str, unit: str = "") -> Iterator[Callable[[int], object]]:
    """Show a progress bar on a terminal, if tqdm is there (the extra ``cli``).

    Yields
    ------
    callable
        Takes how much was done since it was last called.
    """
    bar = _make_bar(total, what, unit) if is_terminal(sys.stderr) else None
    if bar is None:
        yield lambda done: None
        return
    with bar:
        yield bar.update


def _make_bar(total: int, what: str, unit: str) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(
        total=total,
        desc=what,
        unit=unit or "it",
        unit_scale=unit == "B",
        leave=False,
        delay=PROGRESS_DELAY,
    )


def print_above(line: str) -> None:
    """Print a line; progress bars stay below it."""
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if tqdm is None or sys.stdout is None:
        print(line, flush=True)
    else:
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
