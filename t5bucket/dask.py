# dask.py - grids and bias matrices as lazy Dask arrays (the extra "dask").
# SPDX-License-Identifier: BSD-3-Clause
"""Grids larger than memory, block by block, on whichever worker has time.

A block is computed from its offsets alone, in one thread, so that no block waits
for another, and a lost one is computed again. Equal arguments give equal keys.
For explicit positions, use ``dask.array.map_blocks`` with
`t5bucket.Buckets.__call__`; schemes and biases can be pickled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

try:
    import dask.array as da
    from dask.base import normalize_token
except ImportError:
    raise ImportError("t5bucket.dask needs Dask: pip install 't5bucket[dask]'") from None

from t5bucket import _checks
from t5bucket._bias import RelativeAttentionBias, make_bias_block
from t5bucket._buckets import Buckets, make_bucket_block

__all__ = ["grid", "matrix"]


def grid(
    buckets: Buckets,
    query_length: int,
    key_length: int,
    *,
    chunks: Any,
    query_offset: int = 0,
    key_offset: int = 0,
    dtype: DTypeLike = np.int64,
) -> da.Array:
    """Buckets of all pairs of consecutive query and key positions, lazily.

    Parameters
    ----------
    buckets : Buckets
        The scheme.
    query_length, key_length : int
        Number of positions (tokens), at least 0.
    chunks : int, tuple or str
        Of the array, in any of Dask's notations.
    query_offset, key_offset : int, optional
        Position of query 0 and of key 0.
    dtype : dtype, optional
        Any integer type that holds ``num_buckets - 1``.

    Returns
    -------
    dask.array.Array of `dtype`, shape (query_length, key_length)

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of its limits.

    Examples
    --------
    >>> import numpy as np
    >>> import t5bucket as tb
    >>> from t5bucket.dask import grid
    >>> lazy = grid(tb.Buckets(32, 128), 100_000, 100_000, chunks=4096, dtype=np.uint8)
    >>> lazy.nbytes
    10000000000
    >>> lazy[70_000, 69_995:70_006].compute()
    array([ 5,  4,  3,  2,  1,  0, 17, 18, 19, 20, 21], dtype=uint8)
    """
    if not isinstance(buckets, Buckets):
        raise TypeError(f"buckets must be a Buckets, got {type(buckets).__name__}")
    checked = _checks.bucket_dtype(dtype, buckets.num_buckets)
    q, k, offset = _checks.grid(query_length, key_length, query_offset, key_offset)
    return _lazy(_grid_block, buckets, (q, k), offset, chunks, checked)


def matrix(
    bias: RelativeAttentionBias,
    query_length: int,
    key_length: int,
    *,
    chunks: Any,
    query_offset: int = 0,
    key_offset: int = 0,
) -> da.Array:
    """Bias of all pairs of consecutive query and key positions, lazily.

    Parameters
    ----------
    bias : RelativeAttentionBias
        The bias.
    query_length, key_length : int
        Number of positions (tokens), at least 0.
    chunks : int, tuple or str
        Of the array, in any of Dask's notations; also the heads can be divided.
    query_offset, key_offset : int, optional
        Position of query 0 and of key 0.

    Returns
    -------
    dask.array.Array of the bias's dtype, shape (num_heads, query_length, key_length)

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of its limits.

    Examples
    --------
    >>> import numpy as np
    >>> import t5bucket as tb
    >>> from t5bucket.dask import matrix
    >>> bias = tb.RelativeAttentionBias(np.zeros((32, 12), np.float32), tb.Buckets())
    >>> matrix(bias, 50_000, 50_000, chunks=(12, 2048, 2048))[3, 7, :4].compute()
    array([0., 0., 0., 0.], dtype=float32)
    """
    if not isinstance(bias, RelativeAttentionBias):
        raise TypeError(f"bias must be a RelativeAttentionBias, got {type(bias).__name__}")
    q, k, offset = _checks.grid(query_length, key_length, query_offset, key_offset)
    return _lazy(_matrix_block, bias, (bias.num_heads, q, k), offset, chunks, bias.dtype)


def _lazy(
    function: Any, source: Any, shape: tuple[int, ...], offset: int, chunks: Any, dtype: Any
) -> da.Array:
    try:
        chunks = da.core.normalize_chunks(chunks, shape, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise type(error)(f"chunks must divide shape {shape}, got {chunks!r} ({error})") from None
    meta = np.empty((0,) * len(shape), dtype)
    return da.map_blocks(function, source, offset, chunks=chunks, dtype=dtype, meta=meta, name=None)


def _grid_block(buckets: Buckets, offset: int, block_info: Any = None) -> NDArray[Any]:
    (rows, columns), dtype = block_info[None]["array-location"], block_info[None]["dtype"]
    return make_bucket_block(buckets, slice(*rows), slice(*columns), offset, dtype)


def _matrix_block(bias: RelativeAttentionBias, offset: int, block_info: Any = None) -> NDArray[Any]:
    heads, rows, columns = (slice(*ends) for ends in block_info[None]["array-location"])
    return make_bias_block(bias, heads, rows, columns, offset, num_threads=1)


@normalize_token.register(Buckets)
def _(buckets: Buckets) -> Any:
    return "t5bucket.Buckets", buckets.num_buckets, buckets.max_distance, buckets.ranges()


@normalize_token.register(RelativeAttentionBias)
def _(bias: RelativeAttentionBias) -> Any:
    weight = normalize_token(bias.weight.view(f"u{bias.weight.itemsize}"))
    name = bias.dtype.name
    return "t5bucket.RelativeAttentionBias", name, weight, bias.heads_first, bias.buckets
