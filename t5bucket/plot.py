# plot.py - pictures of schemes and biases, with Matplotlib (the extra "plot").
# SPDX-License-Identifier: BSD-3-Clause
"""Draw a scheme's buckets, and the bias of a weight.

Each function draws into Matplotlib axes, the current ones by default, and returns them.
Colour-blind readers can tell the colours apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from t5bucket._bias import RelativeAttentionBias
from t5bucket._buckets import Buckets
from t5bucket._checks import integer
from t5bucket._drawing import (
    DIVERGING,
    EARLIER,
    LATER,
    LINE_WIDTH,
    MAX_LEGEND_ROWS,
    SEQUENTIAL,
    add_color_bar,
    choose_looks,
    choose_positions,
    draw_pairs,
    find_axes,
    label_distances,
    label_integers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_bias", "plot_buckets", "plot_grid", "plot_head"]

MAX_DISTANCE_SHOWN = 1_000_000


def plot_grid(
    buckets: Buckets, query_length: int, key_length: int, *, ax: Axes | None = None
) -> Axes:
    """Draw the bucket of each pair of positions as a picture.

    Of more than 1024 positions, at most so many are drawn, evenly spaced.

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
        If a length is not an integer of at least 1.

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
    queries, keys = choose_positions(query_length), choose_positions(key_length)
    grid = buckets(keys - queries[:, None])
    lengths = query_length, key_length
    limits = {"vmin": 0, "vmax": buckets.num_buckets - 1}
    return draw_pairs(ax, grid, lengths, "bucket", cmap=SEQUENTIAL, **limits)


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
        If `distance` is not an integer, or out of range.

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
    ax = find_axes(ax)
    for side, color, label in (
        (relative_position <= 0, EARLIER, "earlier keys"),
        (relative_position > 0, LATER, "later keys"),
    ):
        line: Any = {"color": color, "label": label, "linewidth": LINE_WIDTH}
        ax.plot(relative_position[side], found[side], drawstyle="steps-mid", **line)
    label_distances(ax, buckets, distance)
    ax.set_ylabel("bucket")
    label_integers(ax.yaxis)
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
    """Draw the bias matrix of a head as a heat map; 0 is white.

    Of more than 1024 positions, at most so many are drawn, evenly spaced.

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
        If a length or the head is not an integer, or out of range.

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
    queries, keys = choose_positions(query_length), choose_positions(key_length)
    column = bias.weight[head] if bias.heads_first else bias.weight[:, head]
    values = column.astype(np.float64)[bias.buckets(keys - queries[:, None])]
    finite = np.abs(values[np.isfinite(values)])
    limit = float(finite.max(initial=0.0)) or 1.0
    lengths = query_length, key_length
    ax = draw_pairs(ax, values, lengths, "bias", cmap=DIVERGING, vmin=-limit, vmax=limit)
    ax.set_title(f"head {head}")
    return ax


def plot_bias(
    bias: RelativeAttentionBias,
    *,
    distance: int | None = None,
    heads: Iterable[int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the bias by relative position, with a line for each head.

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
        If `distance` or a head is not an integer, or out of range.

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
    ax = find_axes(ax)
    looks = choose_looks(shown, bias.num_heads)
    for head, look in zip(shown, looks, strict=True):
        ax.plot(
            relative_position, values[head], drawstyle="steps-mid", label=f"head {head}", **look
        )
    label_distances(ax, bias.buckets, distance)
    ax.set_ylabel("bias")
    if len(shown) > MAX_LEGEND_ROWS:
        add_color_bar(ax, bias.num_heads)
    elif shown:
        ax.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
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
