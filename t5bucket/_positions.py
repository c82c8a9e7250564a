# _positions.py - integers that callers give for queries and keys, in the form the kernels take.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from t5bucket import _core
from t5bucket._arrays import broadcast
from t5bucket._checks import INT64_MAX, INT64_MIN, integers

INT32_RANGE = 2**30  # the kernels take positions in [0, 2^30) as int32


def check_pair(
    names: tuple[str, str], query: ArrayLike, key: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any], tuple[int, ...]]:
    """Check integers ``(..., q)`` and ``(..., k)``; return them with their batch shape.

    The queries' are the keys' as well if those are None.
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


def flatten_batch(positions: NDArray[Any], batch_shape: tuple[int, ...]) -> NDArray[Any]:
    """Positions as ``(batch, length)``; one row for all if all batches share it."""
    length = positions.shape[-1]
    if positions.size == length:
        return positions.reshape(1, length)
    return np.broadcast_to(positions, (*batch_shape, length)).reshape(-1, length)


class Pairs:
    """Integers of queries ``(batch or 1, q)`` and keys ``(batch or 1, k)``, copied.

    Copies, because the output may share memory with what the caller gave; in the
    smallest type that holds all differences, or their nearest ends: int32, int64, or
    Python's integers.
    """

    def __init__(self, query: NDArray[Any], key: NDArray[Any]) -> None:
        self.query, self.key = _to_int32(*_to_int64(query, key))

    @property
    def is_direct(self) -> bool:
        """Whether the kernels can read them."""
        return self.query.dtype != object

    def part(self, batch: slice, query: slice, key: slice) -> Pairs:
        """Cut out some batches, queries and keys, without a copy."""
        one = slice(None)
        part = Pairs.__new__(Pairs)
        part.query = self.query[batch if len(self.query) > 1 else one, query]
        part.key = self.key[batch if len(self.key) > 1 else one, key]
        return part

    def for_kernel(self, num_batches: int) -> _core.Pairs:
        """Put them into the form that the kernels take.

        Python's integers become relative positions, and so have to be of one query.
        """
        if not self.is_direct:
            relative_position = np.clip(self.key - self.query, INT64_MIN, INT64_MAX)
            return _core.Pairs(np.zeros((1, 1), np.int64), relative_position.astype(np.int64))
        return _core.Pairs(_stride(self.query, num_batches), _stride(self.key, num_batches))


def _stride(integers: NDArray[Any], num_batches: int) -> NDArray[Any]:
    """View as many batches; a stride of 0 if all share one row."""
    if len(integers) == num_batches:
        return integers
    return np.broadcast_to(integers, (num_batches, integers.shape[1]))


def _to_int64(query: NDArray[Any], key: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    both = (query, key)
    if all(x.dtype.str[1:] != "u8" or x.max(initial=0) <= INT64_MAX for x in both):
        return query.astype(np.int64, order="C"), key.astype(np.int64, order="C")
    if any(x.min(initial=0) < 0 for x in both):  # together with some above int64
        return query.astype(object), key.astype(object)
    half = np.uint64(2**63)  # move both from [0, 2^64) to [-2^63, 2^63)
    query, key = ((x.astype(np.uint64, order="C") ^ half).view(np.int64) for x in both)
    return query, key


def _to_int32(query: NDArray[Any], key: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    if query.dtype == object or query.size == 0 or key.size == 0:
        return query, key
    lowest = min(int(query.min()), int(key.min()))
    highest = max(int(query.max()), int(key.max()))
    if highest - lowest >= INT32_RANGE:
        return query, key
    return (query - lowest).astype(np.int32), (key - lowest).astype(np.int32)


def consecutive_pairs(query_length: int, key_length: int, offset: int) -> Pairs:
    """Positions of consecutive queries and keys; far offsets are moved nearer, on the same side."""
    offset = max(-key_length, min(offset, query_length))
    return Pairs(np.arange(query_length)[None], np.arange(offset, offset + key_length)[None])
