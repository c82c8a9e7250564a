# _positions.py - convert a caller's positions and segments to the form that kernels read.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from t5bucket import _core
from t5bucket._arrays import broadcast
from t5bucket._checks import INT64_MAX, INT64_MIN, integers
from t5bucket._threads import divide_row

INT32_RANGE = 2**30  # kernels read positions in [0, 2^30) as int32


def check_pair(
    names: tuple[str, str], query: ArrayLike, key: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any], tuple[int, ...]]:
    """Check integers ``(..., q)`` and ``(..., k)``; return them with their batch shape.

    If the keys' integers are None, the queries' are used for both.
    """
    query = _with_axis(names[0], query)
    key = query if key is None else _with_axis(names[1], key)
    batch_shape = broadcast(query.shape[:-1], key.shape[:-1])
    if batch_shape is None:
        raise ValueError(
            f"{names[1]} must broadcast with {names[0]} of shape {query.shape} "
            f"on all axes but the last, got shape {key.shape}"
        )
    return query, key, batch_shape


def _with_axis(name: str, value: ArrayLike) -> NDArray[Any]:
    positions = integers(name, value)
    if positions.ndim == 0:
        raise ValueError(f"{name} must have at least one axis, got shape ()")
    return positions


def consecutive_pairs(query_length: int, key_length: int, offset: int) -> _core.Pairs:
    """Positions of consecutive queries and keys; offsets are clipped, which keeps causal order."""
    offset = max(-key_length, min(offset, query_length))
    query, key = np.arange(query_length), np.arange(offset, offset + key_length)
    return _core.Pairs(*_narrow(query[None], key[None]))


def segment_pairs(
    query_ids: NDArray[Any], key_ids: NDArray[Any], batch_shape: tuple[int, ...]
) -> _core.Pairs:
    """Segment ids, or other numbers that are equal exactly where the ids are equal."""
    return _core.Pairs(*_flatten(*number_ids(query_ids, key_ids), batch_shape))


def number_ids(query_ids: NDArray[Any], key_ids: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return ids in int64, or if it does not hold them, numbers in their place."""
    query, key = _to_int64(query_ids, key_ids)
    if query.dtype == object:
        _, numbers = np.unique(np.concatenate([query.ravel(), key.ravel()]), return_inverse=True)
        numbers = numbers.ravel()
        query, key = numbers[: query.size], numbers[query.size :]
    return query.reshape(query_ids.shape), key.reshape(key_ids.shape)


class Part(NamedTuple):
    """Batches, queries and keys of one kernel call, and their positions."""

    batch: slice
    query: slice
    key: slice
    pairs: _core.Pairs

    def cut(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """Cut this part out of a matrix (batch, num_heads, q, k)."""
        return matrix[self.batch, :, self.query, self.key]

    def cut_epilogue(self, epilogue: _core.Epilogue | None, causal: bool) -> _core.Epilogue | None:
        """Cut this part out of the matrix's epilogue; if `causal`, with these positions."""
        if epilogue is None:
            return None
        begins = (self.batch.start, self.query.start, self.key.start)
        return epilogue.part(*begins, self.pairs if causal else None)


def divide_pairs(
    query_positions: NDArray[Any], key_positions: NDArray[Any], shape: tuple[int, ...]
) -> Iterator[Part]:
    """Divide the pairs of a matrix (..., num_heads, q, k) into parts, with copies of positions.

    One call handles all pairs if int64 holds all their differences. Otherwise each call
    handles the relative positions of one query.
    """
    query, key = _flatten(query_positions, key_positions, shape[:-3])
    if query.dtype != object:
        pairs = _core.Pairs(query, key)
        every = slice(0, None)
        return (
            Part(every, every, slice(begin, end), pairs.part(0, 0, begin))
            for begin, end in divide_row(shape[-1])
        )
    return _divide_wide(query, key)


def _divide_wide(query: NDArray[Any], key: NDArray[Any]) -> Iterator[Part]:
    """Divide by query, and by batch if batches differ; positions are Python integers."""
    num_batches = max(len(query), len(key))
    query, key = (np.broadcast_to(x, (num_batches, x.shape[1])) for x in (query, key))
    zero = np.zeros((1, 1), np.int64)
    for batch, i in np.ndindex(query.shape):
        relative_position = np.clip(key[batch] - query[batch, i], INT64_MIN, INT64_MAX)
        pairs = _core.Pairs(zero, relative_position.astype(np.int64)[None])
        batches = slice(batch, batch + 1) if num_batches > 1 else slice(0, None)
        yield Part(batches, slice(i, i + 1), slice(0, None), pairs)


def _flatten(
    query: NDArray[Any], key: NDArray[Any], batch_shape: tuple[int, ...]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Copy to ``(batch or 1, length)``, in the smallest type that holds all differences.

    Copies are needed because the output may share memory with the caller's positions. The type
    is int32, int64, or Python integers.
    """
    return _narrow(*(_flatten_batch(integers, batch_shape) for integers in (query, key)))


def _flatten_batch(integers: NDArray[Any], batch_shape: tuple[int, ...]) -> NDArray[Any]:
    """View as ``(batch, length)``; with one row if all batches share it."""
    length = integers.shape[-1]
    if integers.size == length:
        return integers.reshape(1, length)
    return np.broadcast_to(integers, (*batch_shape, length)).reshape(-1, length)


def _narrow(query: NDArray[Any], key: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    query, key = _to_int64(query, key)
    if query.dtype == object or query.size == 0 or key.size == 0:
        return query, key
    lowest = min(int(query.min()), int(key.min()))
    highest = max(int(query.max()), int(key.max()))
    if highest - lowest >= INT32_RANGE:
        return query, key
    return (query - lowest).astype(np.int32), (key - lowest).astype(np.int32)


def _to_int64(query: NDArray[Any], key: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Convert both to int64, moved by 2^63 if they exceed it, or to Python integers."""
    both = (query, key)
    if all(x.dtype.str[1:] != "u8" or x.max(initial=0) <= INT64_MAX for x in both):
        return query.astype(np.int64, order="C"), key.astype(np.int64, order="C")
    if any(x.min(initial=0) < 0 for x in both):  # and others are above int64
        return query.astype(object), key.astype(object)
    half = np.uint64(2**63)  # move both from [0, 2^64) to [-2^63, 2^63)
    query, key = ((x.astype(np.uint64, order="C") ^ half).view(np.int64) for x in both)
    return query, key
