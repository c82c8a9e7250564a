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
    span = jnp.arange(1 - query_length, key_length, dtype=key_offset.dtype)
    offset, turns = _add(key_offset, ~query_offset, 0)  # -query_offset is ~query_offset + 1
    return _look_up_turned(*_add(offset, span + 1, turns), buckets)


def _add(one: jax.Array, other: jax.Array, turns: Any) -> tuple[jax.Array, Any]:
    """Add, and count how many times sums wrap around: a sum is ``found + turns * 2**bits``."""
    found = one + other
    turns = turns + jnp.where((other >= 0) & (found < one), 1, 0)
    return found, turns - jnp.where((other < 0) & (found > one), 1, 0)


def _look_up_turned(relative_position: jax.Array, turns: Any, buckets: Buckets) -> jax.Array:
    """Look the bucket of each relative position up, where sums have wrapped around."""
    numbers = _look_up(relative_position, buckets)
    for turn in (-1, 1):
        numbers = jnp.where(turns == turn, _look_up(relative_position, buckets, turn), numbers)
    return numbers


def _look_up(relative_position: jax.Array, buckets: Buckets, turn: int = 0) -> jax.Array:
    """Look the bucket of each ``relative_position + turn * 2**bits`` up."""
    if relative_position.dtype.itemsize < 4:  # with room for a difference
        relative_position = relative_position.astype(jnp.int32)
    dtype = np.dtype(relative_position.dtype.name)  # C has two types of 64 bits
    starts, numbers = _cut_rule(buckets, dtype, turn)
    if len(starts) == 0:
        return jnp.full_like(relative_position, numbers[0], dtype=jnp.int32)
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
    return get(table.at[index], sharding_of(index))


def get(items: Any, sharding: Any) -> jax.Array:
    """Get items whose index is in bounds; JAX does not find an explicit sharding itself."""
    options = {} if sharding is None else {"out_sharding": sharding}
    found: jax.Array = items.get(mode="promise_in_bounds", **options)
    return found


def sharding_of(array: jax.Array) -> Any:
    """Return the explicit sharding of an array, or None."""
    typeof = getattr(jax, "typeof", None)  # since JAX 0.6
    sharding = getattr(typeof(array), "sharding", None) if typeof else None
    return sharding if sharding is not None and any(sharding.spec) else None


@lru_cache
def _cut_rule(buckets: Buckets, dtype: np.dtype[Any], turn: int) -> tuple[Any, Any]:
    """Return the starts of the rule that a dtype can reach, and the buckets of the ranges."""
    limits, first = np.iinfo(dtype), turn << 8 * dtype.itemsize
    starts, numbers = step_function(buckets)
    begin, end = (bisect_right(starts, first + limit) for limit in (limits.min, limits.max))
    reached = [start - first for start in starts[begin:end]]
    return np.array(reached, dtype), np.array(numbers[begin : end + 1], np.int32)
