# plot.py - pictures of schemes and biases, with Matplotlib (the extra "plot").
# SPDX-License-Identifier: BSD-3-Clause
"""Draw a scheme's buckets, and the bias of a weight.

Each function draws into Matplotlib axes, the current ones by default, and returns them.
Colours are those that colour-blind readers tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from t5bucket._bias import RelativeAttentionBias
from t5bucket._buckets import Buckets
from t5bucket._checks import integer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_bias", "plot_buckets", "plot_grid", "plot_head"]

MAX_DISTANCE_SHOWN = 1_000_000
MAX_LEGEND_ROWS = 16
# Okabe and Ito, "Color Universal Design" (2008), without the yellow, which is faint on white
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLES = ("-", "--", ":")
SEQUENTIAL, DIVERGING = "cividis", "PuOr_r"
GUIDE: Any = {"color": "0.8", "linewidth": 0.8, "zorder": 0}
LINE_WIDTH = 1.4
LATER, EARLIER = COLORS[1], COLORS[0]


def plot_grid(
    buckets: Buckets, query_length: int, key_length: int, *, ax: Axes | None = None
) -> Axes:
    """Draw the bucket of each pair of positions as a picture.

    Parameters
    ----------
    buckets : Buckets
        The scheme.
    query_length, key_length : int
        Number of positions (tokens), at least 1.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        `ax` if given.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    TypeError, ValueError
        If a length is no integer of at least 1.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import t5bucket as tb
    >>> from t5bucket.plot import plot_grid
    >>> plot_grid(tb.Buckets(32, 128), 64, 64).get_xlabel()
    'key position (tokens)'
    """
    _check_buckets(buckets)
    query_length = integer("query_length", query_length, 1)
    key_length = integer("key_length", key_length, 1)
    grid = buckets.grid(query_length, key_length)
    return _draw_pairs(ax, grid, "bucket", cmap=SEQUENTIAL, vmin=0, vmax=buckets.num_buckets - 1)


def plot_buckets(buckets: Buckets, *, distance: int | None = None, ax: Axes | None = None) -> Axes:
    """Draw the bucket of each relative position as steps.

    Parameters
    ----------
    buckets : Buckets
        The scheme.
    distance : int, optional
        Largest distance (tokens) to show, at least 1. By default somewhat more
        than the scheme's `max_distance`.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        `ax` if given.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    TypeError, ValueError
        If `distance` is no integer, or out of range.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import t5bucket as tb
    >>> from t5bucket.plot import plot_buckets
    >>> plot_buckets(tb.Buckets(32, 128)).get_ylabel()
    'bucket'
    """
    _check_buckets(buckets)
    distance = _check_distance(buckets, distance)
    relative_position = np.arange(-distance, distance + 1)
    found = buckets(relative_position)
    ax = _axes(ax)
    for side, color, label in (
        (relative_position <= 0, EARLIER, "earlier keys"),
        (relative_position > 0, LATER, "later keys"),
    ):
        line: Any = {"color": color, "label": label, "linewidth": LINE_WIDTH}
        ax.plot(relative_position[side], found[side], drawstyle="steps-mid", **line)
    _label_distances(ax, buckets, distance)
    ax.set_ylabel("bucket")
    ax.locator_params(axis="y", integer=True)
    ax.legend(frameon=False)
    return ax


def plot_head(
    bias: RelativeAttentionBias,
    head: int,
    query_length: int,
    key_length: int,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw the bias matrix of a head as a heat map, in which 0 is white.

    Parameters
    ----------
    bias : RelativeAttentionBias
        The bias.
    head : int
        The head to show.
    query_length, key_length : int
        Number of positions (tokens), at least 1.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        `ax` if given.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    TypeError, ValueError
        If a length or the head is no integer, or out of range.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import numpy as np
    >>> import t5bucket as tb
    >>> from t5bucket.plot import plot_head
    >>> bias = tb.RelativeAttentionBias(np.ones((32, 12)), tb.Buckets())
    >>> plot_head(bias, 3, 64, 64).get_title()
    'head 3'
    """
    _check_bias(bias)
    head = integer("head", head, 0, bias.num_heads - 1)
    query_length = integer("query_length", query_length, 1)
    key_length = integer("key_length", key_length, 1)
    values = bias.view(query_length, key_length)[head].astype(np.float64)
    finite = np.abs(values[np.isfinite(values)])
    limit = float(finite.max(initial=0.0)) or 1.0
    ax = _draw_pairs(ax, values, "bias", cmap=DIVERGING, vmin=-limit, vmax=limit)
    ax.set_title(f"head {head}")
    return ax


def plot_bias(
    bias: RelativeAttentionBias,
    *,
    distance: int | None = None,
    heads: Iterable[int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the bias by relative position, a line for each head.

    Parameters
    ----------
    bias : RelativeAttentionBias
        The bias.
    distance : int, optional
        Largest distance (tokens) to show, at least 1. By default somewhat more
        than the scheme's `max_distance`.
    heads : iterable of int, optional
        The heads to show. By default all.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        `ax` if given.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    TypeError, ValueError
        If `distance` or a head is no integer, or out of range.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import numpy as np
    >>> import t5bucket as tb
    >>> from t5bucket.plot import plot_bias
    >>> bias = tb.RelativeAttentionBias(np.ones((32, 12)), tb.Buckets())
    >>> len(plot_bias(bias, heads=[0, 3]).lines)
    2
    """
    _check_bias(bias)
    distance = _check_distance(bias.buckets, distance)
    shown = range(bias.num_heads) if heads is None else heads
    if not isinstance(shown, Iterable):
        raise TypeError(f"heads must be iterable, got {heads!r}")
    shown = [integer("head", head, 0, bias.num_heads - 1) for head in shown]
    relative_position = np.arange(-distance, distance + 1)
    values = bias.view(1, 2 * distance + 1, key_offset=-distance)[:, 0].astype(np.float64)
    ax = _axes(ax)
    looks = _choose_looks(shown, bias.num_heads)
    for head, look in zip(shown, looks, strict=True):
        ax.plot(
            relative_position, values[head], drawstyle="steps-mid", label=f"head {head}", **look
        )
    _label_distances(ax, bias.buckets, distance)
    ax.axhline(0, **GUIDE)
    ax.set_ylabel("bias")
    if len(shown) > MAX_LEGEND_ROWS:
        _add_color_bar(ax, bias.num_heads)
    elif shown:
        ax.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


# ---- what they share ----


def _choose_looks(shown: list[int], num_heads: int) -> list[dict[str, Any]]:
    """Choose colours and styles by place in the legend; colours of many heads by number."""
    if len(shown) > MAX_LEGEND_ROWS:
        colors = _map_heads(num_heads)
        return [{"color": colors(head), "linewidth": 0.8} for head in shown]
    return [
        {
            "color": COLORS[place % len(COLORS)],
            "linestyle": STYLES[place // len(COLORS)],
            "linewidth": LINE_WIDTH,
        }
        for place in range(len(shown))
    ]


def _map_heads(num_heads: int) -> Any:
    """Map numbers of heads to colours, without the last ones, which are faint on white."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps[SEQUENTIAL](np.linspace(0, 0.88, num_heads)))


def _add_color_bar(ax: Axes, num_heads: int) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    colors = ScalarMappable(Normalize(-0.5, num_heads - 0.5), _map_heads(num_heads))
    bar = ax.figure.colorbar(colors, ax=ax, label="head", fraction=0.046, pad=0.04)
    bar.ax.locator_params(axis="y", integer=True)


def _draw_pairs(ax: Axes | None, values: NDArray[Any], label: str, **options: Any) -> Axes:
    """Draw a value for each pair of positions."""
    ax = _axes(ax)
    image = ax.imshow(values, interpolation="nearest", **options)
    ax.figure.colorbar(image, ax=ax, label=label, fraction=0.046, pad=0.04)
    ax.locator_params(integer=True)
    ax.set_xlabel("key position (tokens)")
    ax.set_ylabel("query position (tokens)")
    return ax


def _check_buckets(buckets: Buckets) -> None:
    if not isinstance(buckets, Buckets):
        raise TypeError(f"buckets must be a Buckets, got {type(buckets).__name__}")


def _check_bias(bias: RelativeAttentionBias) -> None:
    if not isinstance(bias, RelativeAttentionBias):
        raise TypeError(f"bias must be a RelativeAttentionBias, got {type(bias).__name__}")


def _check_distance(buckets: Buckets, distance: int | None) -> int:
    if distance is None:
        distance = min(buckets.max_distance * 5 // 4, MAX_DISTANCE_SHOWN)
    return integer("distance", distance, 1, MAX_DISTANCE_SHOWN)


def _label_distances(ax: Axes, buckets: Buckets, distance: int) -> None:
    """Scale an axis as the scheme does: linear where buckets are one-to-one, then logarithmic."""
    exact = buckets.max_exact or 1
    ax.set_xscale("symlog", linthresh=exact, linscale=1)
    ends = [n for n in (exact, buckets.max_distance) if n <= distance]
    ticks = ends if len(ends) < 2 else [exact, *_list_between(*ends), ends[1]]
    places = [*(-n for n in ticks[::-1]), 0, *ticks]
    ax.set_xticks(places, [f"{place:,}".replace("-", "\N{MINUS SIGN}") for place in places])
    ax.minorticks_off()
    ax.set_xlim(-distance, distance)
    for end in ends:
        for place in (-end, end):
            ax.axvline(place, **GUIDE)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("key position - query position (tokens)")


def _list_between(first: int, last: int) -> list[int]:
    """Choose a power of two times `first` in the middle, if there is room for its number."""
    doublings = math.log2(last / first)
    return [first * 2 ** int(doublings / 2)] if doublings >= 4 else []


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError:
        raise ImportError("plots need Matplotlib: pip install 't5bucket[plot]'") from None
    return pyplot.gca()
