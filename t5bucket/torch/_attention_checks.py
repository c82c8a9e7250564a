# _attention_checks.py - check the arguments of attention.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from typing import Any

import torch

from t5bucket import _checks as common
from t5bucket.torch import _checks
from t5bucket.torch._tensors import FLOAT_DTYPES, INTEGER_DTYPES, broadcast_batch

Pair = tuple["torch.Tensor | None", "torch.Tensor | None"]


def check_tensors(query: Any, key: Any, value: Any, weight: Any, buckets: Any, mask: Any) -> None:
    """Check query, key, value, weight and mask, and that they fit together."""
    _checks.bias_options(weight, buckets, mask, False, None, "attn_mask")
    num_heads = weight.shape[1]
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        _checks.tensor(name, tensor, FLOAT_DTYPES, _checks.FLOATS)
        if tensor.dtype != weight.dtype:
            raise TypeError(f"{name} must have weight's dtype {weight.dtype}, got {tensor.dtype}")
        if tensor.ndim < 3 or tensor.shape[-3] != num_heads:
            raise ValueError(
                f"{name} must have shape (..., {num_heads}, length, size), "
                f"got {tuple(tensor.shape)}"
            )
    _check_size("key", key, -1, "query's size", query.shape[-1])
    _check_size("value", value, -2, "key's length", key.shape[-2])
    batch = _broadcast(query, key, value)
    if mask is not None:
        matrix_shape = (*batch, num_heads, query.shape[-2], key.shape[-2])
        _check_shape("attn_mask", mask, matrix_shape)


def _check_size(name: str, tensor: torch.Tensor, axis: int, whose: str, size: Any) -> None:
    if tensor.shape[axis] != size:
        raise ValueError(f"{name} must have {whose}, {size}, got shape {tuple(tensor.shape)}")


def _broadcast(*tensors: torch.Tensor) -> tuple[Any, ...]:
    try:
        return broadcast_batch(*tensors)
    except RuntimeError:
        given = ", ".join(str(tuple(tensor.shape[:-3])) for tensor in tensors)
        raise ValueError(
            f"query, key and value must broadcast on their batch axes, got {given}"
        ) from None


def _check_shape(name: str, tensor: torch.Tensor, shape: tuple[Any, ...]) -> None:
    """Check that a tensor broadcasts to a shape."""
    sizes = zip(reversed(tensor.shape), reversed(shape), strict=False)
    if tensor.ndim > len(shape) or any(size not in (1, length) for size, length in sizes):
        lengths = ", ".join(map(str, shape))
        raise ValueError(f"{name} must broadcast to ({lengths}), got shape {tuple(tensor.shape)}")


def check_options(
    dropout_p: Any, is_causal: Any, scale: Any, exact: Any
) -> tuple[float, float | None]:
    """Check the options; return the probability and the scale as Python floats."""
    common.flag("is_causal", is_causal)
    common.flag("exact", exact)
    probability = common.real("dropout_p", dropout_p)
    if not 0 <= probability <= 1:
        raise ValueError(f"dropout_p must be between 0 and 1, got {dropout_p}")
    return probability, None if scale is None else common.real("scale", scale)


def check_positions(
    query: torch.Tensor,
    key: torch.Tensor,
    query_offset: Any,
    key_offset: Any,
    query_positions: Any,
    key_positions: Any,
) -> tuple[tuple[Any, Any], Pair]:
    """Check offsets and explicit positions, and return them."""
    offsets = (
        _checks.integer("query_offset", query_offset),
        _checks.integer("key_offset", key_offset),
    )
    if query_positions is None and key_positions is None:
        return offsets, (None, None)
    if query_positions is None:
        raise ValueError("query_positions must come with key_positions, got None")
    for name, offset in (("query_offset", query_offset), ("key_offset", key_offset)):
        if offset != 0:
            raise ValueError(f"{name} must be 0 with explicit positions, got {offset}")
    names = ("query_positions", "key_positions")
    return offsets, _check_pair(names, query, key, query_positions, key_positions)


def check_segments(
    query: torch.Tensor,
    key: torch.Tensor,
    segment_ids: Any,
    key_segment_ids: Any,
    query_positions: Any,
) -> Pair:
    """Check segments and return them."""
    if segment_ids is None and key_segment_ids is None:
        return None, None
    if segment_ids is None:
        raise ValueError("segment_ids must come with key_segment_ids, got None")
    if query_positions is not None:
        raise ValueError("segment_ids must not come with explicit positions, got both")
    return _check_pair(("segment_ids", "key_segment_ids"), query, key, segment_ids, key_segment_ids)


def _check_pair(
    names: tuple[str, str], query: torch.Tensor, key: torch.Tensor, of_query: Any, of_key: Any
) -> Pair:
    """Check integers of each query and each key; None means that the keys have the queries'."""
    if of_key is None:
        names, of_key = (names[0], names[0]), of_query
    batch = _broadcast(query, key)
    for name, tensor, length in zip(
        names, (of_query, of_key), (query.shape[-2], key.shape[-2]), strict=True
    ):
        _checks.tensor(name, tensor, INTEGER_DTYPES, "integers")
        if tensor.ndim == 0 or tensor.shape[-1] != length:
            raise ValueError(f"{name} must have shape (..., {length}), got {tuple(tensor.shape)}")
        _check_shape(name, tensor, (*batch, length))
    return of_query, of_key
