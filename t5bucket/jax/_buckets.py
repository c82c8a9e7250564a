# _buckets.py - bucket numbers of arrays and of diagonals, by tables.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from t5bucket._buckets import Buckets, make_bucket_block, step_function
from t5bucket.jax import _checks

MAX_TABLE = 1 << 20  # relative positions; where buckets change over more, starts are compared


def bucket(relative_position: Any, *, buckets: Buckets) -> jax.Array:
    """Map relative positions to buckets, element by element.

    Parameters
    ----------
    relative_position : array_like of int, any shape
        ``d = key position - query position`` (tokens), of any integer dtype; may be traced.
    buckets : Buckets
        The scheme, of at most 2**31 buckets.

    Returns
    -------
    jax.Array of int32, shape of `relative_position`

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of its limits.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import t5bucket as tb
    >>> from t5bucket.jax import bucket
    >>> compiled = jax.jit(lambda d: bucket(d, buckets=tb.Buckets(32, 128)))
    >>> compiled(jnp.array([-64, -1, 0, 1, 64]))
    Array([14,  1,  0, 17, 30], dtype=int32)
    """
    _checks.scheme(buckets)
    positions = _checks.positions(relative_position)
    if isinstance(positions, jax.Array):
        return _look_up(positions, buckets)
    return jnp.asarray(buckets(positions, dtype=np.int32))


def number_diagonals(
    buckets: Buckets, query_length: int, key_length: int, query_offset: Any, key_offset: Any
) -> Any:
    """Find the bucket of each diagonal, that of the last query and the first key first."""
    if isinstance(query_offset, int):
        last_row = slice(query_length - 1, query_length)
        columns = slice(0, query_length + key_length - 1)
        offset = key_offset - query_offset
        return make_bucket_block(buckets, last_row, columns, offset, np.dtype(np.int32))[0]
    relative = _subtract(key_offset, query_offset)
    # Beyond these limits no bucket changes, and between them no sum exceeds the dtype.
    dtype, limits = relative.dtype.type, np.iinfo(relative.dtype)
    starts, _ = _cut_rule(buckets, np.dtype(dtype))
    first, last = (int(starts[0]), int(starts[-1])) if len(starts) else (0, 0)
    lowest = max(first - key_length, limits.min + query_length)
    highest = min(last + query_length, limits.max - key_length)
    relative = lax.clamp(dtype(lowest), relative, dtype(highest))
    return _look_up(relative + jnp.arange(1 - query_length, key_length, dtype=dtype), buckets)


def _subtract(key: jax.Array, query: jax.Array) -> jax.Array:
    """Subtract, and saturate where the difference exceeds the dtype."""
    difference = key - query
    overflows = ((key ^ query) & (key ^ difference)) < 0
    limits = np.iinfo(key.dtype)
    return jnp.where(overflows, jnp.where(key < 0, limits.min, limits.max), difference)


def _look_up(relative_position: jax.Array, buckets: Buckets) -> jax.Array:
    """Look the bucket of each relative position up."""
    if relative_position.dtype.itemsize < 4:  # with room for a difference
        relative_position = relative_position.astype(jnp.int32)
    dtype = np.dtype(relative_position.dtype.name)  # C has two types of 64 bits
    starts, numbers = _cut_rule(buckets, dtype)
    if len(starts) == 0:
        return jnp.full(relative_position.shape, numbers[0])
    first, last = starts[0] - dtype.type(1), starts[-1]
    if int(last) - int(first) < MAX_TABLE:
        widths = [1, *np.diff(starts).astype(int), 1]
        table = jnp.asarray(np.repeat(numbers, widths))
        index = (lax.clamp(first, relative_position, last) - first).astype(jnp.int32)
    else:
        table = jnp.asarray(numbers)
        index = jnp.searchsorted(
            jnp.asarray(starts), relative_position, side="right", method="compare_all"
        )
    return table.at[index].get(mode="promise_in_bounds")


@lru_cache
def _cut_rule(buckets: Buckets, dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """Return the starts of the rule that a dtype can reach, and the buckets of the ranges."""
    limits = np.iinfo(dtype)
    starts, numbers = step_function(buckets)
    begin, end = (bisect_right(starts, limit) for limit in (limits.min, limits.max))
    return np.array(starts[begin:end], dtype), np.array(numbers[begin : end + 1], np.int32)
