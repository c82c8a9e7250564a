# _drawing.py - shared by all pictures: colours, axes and their labels, with Matplotlib.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from t5bucket._buckets import Buckets

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_LEGEND_ROWS = 16
MAX_PIXELS = 1024  # of a side of a picture of pairs
# Okabe and Ito, "Color Universal Design" (2008), without the yellow, which is faint on white
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLES = ("-", "--", ":")
SEQUENTIAL, DIVERGING = "cividis", "PuOr_r"
LINE_WIDTH = 1.4
LATER, EARLIER = COLORS[1], COLORS[0]


def choose_looks(shown: list[int], num_heads: int) -> list[dict[str, Any]]:
    """Choose colours and styles by place in the legend; with many heads, by head number."""
    if len(shown) > MAX_LEGEND_ROWS:
        colors = map_heads(num_heads)
        return [{"color": colors(head), "linewidth": 0.8} for head in shown]
    return [
        {
            "color": COLORS[place % len(COLORS)],
            "linestyle": STYLES[place // len(COLORS)],
            "linewidth": LINE_WIDTH,
        }
        for place in range(len(shown))
    ]


def map_heads(num_heads: int) -> Any:
    """Map numbers of heads to colours, without the last ones, which are faint on white."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps[SEQUENTIAL](np.linspace(0, 0.88, num_heads)))


def add_color_bar(ax: Axes, num_heads: int) -> None:
    """Add a bar that explains the colours of many heads."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    colors = ScalarMappable(Normalize(-0.5, num_heads - 0.5), map_heads(num_heads))
    bar = ax.figure.colorbar(colors, ax=ax, label="head", fraction=0.046, pad=0.04)
    label_integers(bar.ax.yaxis)


def choose_positions(length: int) -> NDArray[np.int64]:
    """Choose evenly spaced positions to draw: all of them, if a picture can show so many."""
    return np.arange(0, length, -(-length // MAX_PIXELS))


def draw_pairs(
    ax: Axes | None, values: NDArray[Any], lengths: tuple[int, int], label: str, **options: Any
) -> Axes:
    """Draw a value for each pair of positions; there may be more positions than values."""
    ax = find_axes(ax)
    query_length, key_length = lengths
    extent = (-0.5, key_length - 0.5, query_length - 0.5, -0.5)
    image = ax.imshow(values, interpolation="nearest", extent=extent, **options)
    ax.figure.colorbar(image, ax=ax, label=label, fraction=0.046, pad=0.04)
    label_integers(ax.xaxis)
    label_integers(ax.yaxis)
    ax.set_xlabel("key position (tokens)")
    ax.set_ylabel("query position (tokens)")
    return ax


def label_integers(axis: Any) -> None:
    """Label an axis with integers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))


def label_distances(ax: Axes, buckets: Buckets, distance: int) -> None:
    """Scale an axis as the scheme does: linear where buckets are one-to-one, then logarithmic."""
    exact = buckets.max_exact or 1
    ax.set_xscale("symlog", linthresh=exact, linscale=1)
    ticks = choose_ticks(exact, min(distance, buckets.max_distance))
    places = [*(-n for n in ticks[::-1]), 0, *ticks]
    ax.set_xticks(places, [f"{place:,}".replace("-", "\N{MINUS SIGN}") for place in places])
    ax.minorticks_off()
    ax.set_xlim(-distance, distance)
    ax.grid(color="0.88", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("key position - query position (tokens)")


def choose_ticks(exact: int, last: int) -> list[int]:
    """Choose ticks: the ends of both scales, and a distance between them if there is room."""
    if last < 2 * exact:
        return [last]
    doublings = math.log2(last / exact)
    return [exact, *[exact * 2 ** int(doublings / 2)] * (doublings >= 4), last]


def find_axes(ax: Axes | None) -> Axes:
    """Return the axes to draw on: the current ones if none are given."""
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError:
        raise ImportError("plots need Matplotlib: pip install 't5bucket[plot]'") from None
    return pyplot.gca()
