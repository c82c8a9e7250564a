# _bars.py - ratios as bars: how long t5bucket takes, next to a mark where the peer is.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from typing import Any

from t5bucket.cli._measure import show_seconds
from t5bucket.cli._terminal import can_print, paint

EIGHTHS = " ▏▎▍▌▋▊▉█"  # of a cell
LARGEST = 2.0  # ratio that a bar can show; a longer one ends in an arrow
MIN_CELLS, MAX_CELLS = 12, 40
COLUMNS = f"{'task':33} {'t5bucket':>8} {'ratio':>6} "
LEGEND = """\
bar      time of t5bucket; the mark is the peer's, and a bar that ends before it takes less
yellow   the ratio is larger than on an idle machine of the developers, with a margin for noise"""


def make_header() -> str:
    """Name the columns; 0, the mark and the end of bars have their numbers."""
    cells = _count_cells()
    middle = cells // 2
    scale = f"{'0':{middle}}1{LARGEST:>{cells - middle - 1}.0f}"
    return paint(f"{COLUMNS}{scale}  peer", "bold")


def make_line(row: Mapping[str, Any]) -> str:
    """Show a row of the report in the width of the terminal."""
    is_above = row["ratio"] > row["at_most"]
    bar = paint(make_bar(row["ratio"], _count_cells()), "yellow" if is_above else "green")
    mark = "  above" if is_above else ""
    time = show_seconds(row["t5bucket"])
    return f"{row['task']:33} {time:>8} {row['ratio']:6.3f} {bar}  {row['peer']}{mark}"


def make_bar(ratio: float, cells: int) -> str:
    """Draw a bar of a ratio, with a mark at 1."""
    full, mark, end = ("█", "│", "▶") if can_print(EIGHTHS + "│▶") else ("#", "|", ">")
    length = min(ratio, LARGEST) / LARGEST * cells
    bar = [*full * int(length)]
    if full == "█" and len(bar) < cells:
        bar.append(EIGHTHS[math.floor(length % 1 * 8)])
    bar = [*"".join(bar).ljust(cells)]
    bar[cells // 2] = mark
    if ratio > LARGEST:
        bar[-1] = end
    return "".join(bar)


def _count_cells() -> int:
    columns = shutil.get_terminal_size().columns
    return max(MIN_CELLS, min(MAX_CELLS, columns - len(COLUMNS) - 17))
