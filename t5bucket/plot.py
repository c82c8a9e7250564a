# plot.py - pictures of schemes and biases, with Matplotlib (the extra "plot").
# SPDX-License-Identifier: BSD-3-Clause
"""Draw a scheme's bucket grid and the bias of a weight by distance.

Both functions draw into Matplotlib axes, the current ones by default, and
return them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from t5bucket._bias import RelativeAttentionBias
from t5bucket._buckets import Buckets
from t5bucket._checks import integer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_bias", "plot_grid"]

MAX_DISTANCE_SHOWN = 1_000_000
MAX_LEGEND_ROWS = 16


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
    'key position'
    """
    if not isinstance(buckets, Buckets):
        raise TypeError(f"buckets must be a Buckets, got {type(buckets).__name__}")
    query_length = integer("query_length", query_length, 1)
    key_length = integer("key_length", key_length, 1)
    ax = _axes(ax)
    image = ax.imshow(buckets.grid(query_length, key_length), interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label="bucket")
    ax.set_xlabel("key position")
    ax.set_ylabel("query position")
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
    if not isinstance(bias, RelativeAttentionBias):
        raise TypeError(f"bias must be a RelativeAttentionBias, got {type(bias).__name__}")
    if distance is None:
        distance = min(bias.buckets.max_distance * 5 // 4, MAX_DISTANCE_SHOWN)
    distance = integer("distance", distance, 1, MAX_DISTANCE_SHOWN)
    shown = range(bias.num_heads) if heads is None else heads
    if not isinstance(shown, Iterable):
        raise TypeError(f"heads must be iterable, got {heads!r}")
    shown = [integer("head", head, 0, bias.num_heads - 1) for head in shown]
    relative_position = np.arange(-distance, distance + 1)
    values = bias.view(1, 2 * distance + 1, key_offset=-distance)[:, 0].astype(np.float64)
    ax = _axes(ax)
    for head in shown:
        # The default cycle has ten colours, a usual weight twelve heads.
        style = "-" if head % 20 < 10 else "--"
        ax.plot(relative_position, values[head], style, drawstyle="steps-mid", label=f"head {head}")
    _label_distances(ax, bias.buckets, distance)
    ax.set_ylabel("bias")
    if shown:
        columns = -(-len(shown) // MAX_LEGEND_ROWS)  # a T5-XXL has 64 heads
        ax.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5), ncols=columns)
    return ax


def _label_distances(ax: Axes, buckets: Buckets, distance: int) -> None:
    """Scale an axis as the scheme does: linear where buckets are one-to-one, then logarithmic."""
    exact = buckets.max_exact or 1
    ax.set_xscale("symlog", linthresh=exact)
    ticks = [n for n in (exact, buckets.max_distance) if n <= distance]
    ax.set_xticks([*(-n for n in ticks), 0, *ticks])
    ax.set_xticklabels([*(f"-{n}" for n in ticks), "0", *map(str, ticks)])
    ax.minorticks_off()
    ax.set_xlabel("key position - query position (tokens)")


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError:
        raise ImportError("plots need Matplotlib: pip install 't5bucket[plot]'") from None
    return pyplot.gca()
