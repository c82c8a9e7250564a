# _bias.py - the bias of all pairs of consecutive positions, and its derivatives.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from t5bucket._buckets import Buckets
from t5bucket.jax import _checks
from t5bucket.jax._buckets import get, number_diagonals, sharding_of

ROWS = 8  # of gradients, which are summed at once. See CONTRIBUTING


def compute_bias(
    weight: Any,
    query_length: int,
    key_length: int,
    *,
    buckets: Buckets,
    query_offset: Any = 0,
    key_offset: Any = 0,
    heads_first: bool = False,
) -> jax.Array:
    """Bias of all pairs of consecutive query and key positions.

    Parameters
    ----------
    weight : array_like, shape (num_buckets, num_heads)
        float16, bfloat16, float32 or float64; ``(num_heads, num_buckets)`` with
        `heads_first`. Gradients flow into it.
    query_length, key_length : int
        Number of positions (tokens), at least 0; static.
    buckets : Buckets
        The scheme that `weight` was trained with.
    query_offset, key_offset : int or scalar array of int, optional
        Position of query 0 and of key 0; may be traced.
    heads_first : bool, optional
        Whether the first axis of `weight` is the heads, as in T5X.

    Returns
    -------
    jax.Array of `weight`'s dtype, shape (num_heads, query_length, key_length)
        Bit for bit that of `t5bucket.RelativeAttentionBias.matrix`.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or shape, or out of its limits.

    Notes
    -----
    The bias is linear in `weight`. It can be differentiated any number of times, in
    reverse and in forward mode; gradients are summed in float32, those of float64 in
    float64. As everywhere in JAX, float64 needs ``jax_enable_x64``.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import t5bucket as tb
    >>> from t5bucket.jax import compute_bias
    >>> def total(weight):
    ...     return compute_bias(weight, 2, 3, buckets=tb.Buckets(4, 2)).sum()
    >>> jax.jit(jax.grad(total))(jnp.zeros((4, 2)))  # the number of pairs of each bucket
    Array([[2., 2.],
           [1., 1.],
           [0., 0.],
           [3., 3.]], dtype=float32)
    """
    _checks.scheme(buckets)
    weight, heads_first = _checks.weight(weight, heads_first, buckets.num_buckets)
    lengths = (
        _checks.length("query_length", query_length),
        _checks.length("key_length", key_length),
    )
    offsets = _checks.offsets(query_offset, key_offset)
    if 0 in lengths:
        return jnp.zeros((weight.shape[0 if heads_first else 1], *lengths), weight.dtype)
    numbers = number_diagonals(buckets, *lengths, *offsets)
    return _compiled_expand(weight, numbers, *lengths, heads_first)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _expand(
    weight: jax.Array, numbers: jax.Array, query_length: int, key_length: int, heads_first: bool
) -> Any:
    """Expand the weights of the diagonals, ``bias[h, i, j] = d[h, query_length - 1 - i + j]``."""
    # As integers, since XLA converts bfloat16 on its way, which changes NaNs. They are made before
    # a transposition: XLA would lose the layout of a constant.
    items = lax.bitcast_convert_type(weight, f"uint{8 * weight.dtype.itemsize}")
    # XLA would fuse a lookup into the windows, and look each pair up. It fuses no concatenation.
    parts = [_take(items, part, heads_first) for part in (numbers, numbers[-1:])]
    diagonals = jnp.concatenate(parts, axis=1)
    bias = _cut_windows(diagonals, jnp.arange(query_length - 1, -1, -1), key_length)
    return lax.bitcast_convert_type(bias, weight.dtype)


@_expand.defjvp
def _(query_length: int, key_length: int, heads_first: bool, primals: Any, tangents: Any) -> Any:
    """Differentiate; JAX transposes what computes the tangent."""
    weight, numbers = primals
    wide = tangents[0].astype(jnp.promote_types(weight.dtype, jnp.float32))
    tangent = _expand_linear(_take(wide, numbers, heads_first), query_length, key_length)
    bias = _expand(weight, numbers, query_length, key_length, heads_first)
    return bias, tangent.astype(weight.dtype)


# Where nothing else is compiled, its operations need not make a matrix each.
_compiled_expand = jax.jit(_expand, static_argnums=(2, 3, 4))


def _expand_linear(diagonals: jax.Array, query_length: int, key_length: int) -> jax.Array:
    """Expand diagonals in a way whose transpose, the sums by diagonal, is fast.

    Rows are windows of blocks, and blocks windows of the diagonals. So the transpose adds
    the rows of each block in one pass, and then block after block to the diagonals.
    """
    num_rest = query_length % ROWS
    rest = _cut_windows(diagonals, jnp.arange(num_rest - 1, -1, -1), key_length)
    if num_rest == query_length:
        return rest
    begins = jnp.arange(query_length - ROWS, num_rest - 1, -ROWS)
    blocks = _cut_windows(diagonals, begins, key_length + ROWS - 1)
    rows = [blocks[..., begin : begin + key_length] for begin in range(ROWS - 1, -1, -1)]
    first = jnp.stack(rows, axis=2).reshape(-1, query_length - num_rest, key_length)
    return jnp.concatenate([first, rest], axis=1)


def _cut_windows(diagonals: jax.Array, begins: jax.Array, length: int) -> jax.Array:
    """Cut windows out of the diagonals: (num_heads, windows, length)."""

    def cut(begin: Any) -> Any:
        return lax.dynamic_slice_in_dim(diagonals, begin, length, axis=1)

    return jax.vmap(cut, out_axes=1)(begins)


def _take(weight: jax.Array, numbers: jax.Array, heads_first: bool) -> jax.Array:
    """Take the weights of buckets whose numbers are in bounds: (num_heads, numbers)."""
    by_head = weight if heads_first else weight.T
    sharding = sharding_of(by_head)
    if sharding is not None:  # of heads; buckets are taken from where they are
        sharding = NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0], None))
    return get(by_head.at[:, numbers], sharding)
