# _positions.py - positions that callers give, in the form that the pair kernel takes.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from t5bucket._checks import INT64_MAX, integers


def check_pair(
    query_positions: ArrayLike, key_positions: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any], tuple[int, ...]]:
    """Check positions ``(..., q)`` and ``(..., k)``; return them with their batch shape."""
    query = _with_axis("query_positions", query_positions)
    key = query if key_positions is None else _with_axis("key_positions", key_positions)
    try:
        batch_shape = np.broadcast_shapes(query.shape[:-1], key.shape[:-1])
    except (ValueError, RuntimeError):  # RuntimeError: more axes than NumPy has
        raise ValueError(
            f"key_positions must broadcast with query_positions of shape {query.shape} "
            f"on all axes but the last, got shape {key.shape}"
        ) from None
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


def to_int64(query: NDArray[Any], key: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Copy both to int64 with unchanged differences; None if int64 cannot hold them together.

    Copies, because the output may share memory with the positions.
    """
    both = (query, key)
    if all(x.dtype.str[1:] != "u8" or x.max(initial=0) <= INT64_MAX for x in both):
        return query.astype(np.int64, order="C"), key.astype(np.int64, order="C")
    if any(x.min(initial=0) < 0 for x in both):
        return None
    half = np.uint64(2**63)  # move both from [0, 2^64) to [-2^63, 2^63)
    query, key = ((x.astype(np.uint64, order="C") ^ half).view(np.int64) for x in both)
    return query, key
