# _composite.py - biases composed of PyTorch's own functions, which can be transformed.
# SPDX-License-Identifier: BSD-3-Clause
"""The operators' values, for ``torch.func`` and forward mode.

PyTorch cannot differentiate an operator in forward mode, or map it over a batch. Inside a
transform, these functions replace the operators. For consecutive positions they make one
vector for each head, and never a bucket for each pair: a row is a window of the vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import embedding

from t5bucket import _checks
from t5bucket._buckets import Buckets, step_function
from t5bucket._checks import INT64_MAX, INT64_MIN
from t5bucket.torch._tensors import batch_axes, wide_dtype


def compose_bias(
    weight: torch.Tensor,
    mask: torch.Tensor | None,
    buckets: Buckets,
    query_length: int,
    key_length: int,
    query_offset: int,
    key_offset: int,
    causal: bool,
    scale: float | None,
    linear_part: bool = False,
) -> torch.Tensor:
    """Compose the bias of consecutive positions, or its linear part, with 0 for masked pairs."""
    # matrix[i, j] = diagonals[query_length - 1 - i + j]. One more diagonal makes lengths of 0
    # work like all others. Beyond max_distance all buckets are equal.
    num_diagonals = query_length + key_length
    limit = buckets.max_distance + num_diagonals
    first = max(-limit, min(key_offset - query_offset - query_length + 1, limit))
    relative_position = torch.arange(num_diagonals, device=weight.device) + first
    numbers = _number(relative_position, buckets)
    diagonals = _widen(weight, scale).index_select(0, numbers).t().to(wide_dtype(weight.dtype))
    bias = _windows(diagonals, query_length, key_length).flip(1)[None]
    future = None
    if causal:
        query = torch.arange(query_length, device=weight.device)[:, None]
        future = relative_position[:key_length] + query_length - 1 - query > 0
    return _finish(bias, weight, mask, future, linear_part)


def compose_bias_at(
    weight: torch.Tensor,
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    mask: torch.Tensor | None,
    buckets: Buckets,
    causal: bool,
    scale: float | None,
    linear_part: bool = False,
) -> torch.Tensor:
    """Compose the bias of explicit positions, or its linear part, with 0 for masked pairs."""
    batch_axes(mask, query_positions, key_positions)  # raises if they do not broadcast
    relative_position = _subtract(query_positions, key_positions)
    numbers = _number(relative_position, buckets)
    items = _widen(weight, scale)
    if 0 in numbers.shape:  # vmap would fail on `embedding`'s gradient
        bias = items.new_zeros(*numbers.shape, items.shape[1]).movedim(-1, -3)
    else:
        bias = embedding(numbers, items).movedim(-1, -3)
    bias = bias if bias.ndim > 3 else bias[None]
    future = relative_position[..., None, :, :] > 0 if causal else None
    return _finish(bias, weight, mask, future, linear_part)


def transpose(
    compose: Callable[..., torch.Tensor], gradient: torch.Tensor, num_buckets: int, *options: Any
) -> torch.Tensor:
    """Compute the weight's gradient, given the gradient of ``compose(weight, *options)``."""
    zeros = gradient.new_zeros(num_buckets, gradient.shape[-3])
    _, pull_back = torch.func.vjp(lambda weight: compose(weight, *options, True), zeros)
    (found,) = pull_back(gradient)
    return found


def _windows(diagonals: torch.Tensor, count: int, length: int) -> torch.Tensor:
    """``windows[h, i, j] = diagonals[h, i + j]``.

    Repeat a row of n items, then read rows of n + 1: each row begins one item later.
    ``Tensor.unfold`` would be shorter, but vmap fails on its gradient.
    """
    num_heads, n = diagonals.shape
    copies = diagonals[:, None].expand(num_heads, count + 1, n).reshape(num_heads, (count + 1) * n)
    return copies[:, : count * (n + 1)].reshape(num_heads, count, n + 1)[:, :, :length]


def _number(relative_position: torch.Tensor, buckets: Buckets) -> torch.Tensor:
    """Find the bucket of each relative position, by its range."""
    starts, numbers = (
        torch.tensor(values, dtype=torch.int64, device=relative_position.device)
        for values in step_function(buckets)
    )
    return numbers[torch.bucketize(relative_position, starts, right=True)]


def _subtract(query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
    """Relative positions of pairs, saturated if they exceed int64."""
    query = query_positions.to(torch.int64)[..., :, None]
    key = key_positions.to(torch.int64)[..., None, :]
    difference = key - query
    overflows = ((key ^ query) & (key ^ difference)) < 0
    return torch.where(overflows, torch.where(key < 0, INT64_MIN, INT64_MAX), difference)


def _widen(weight: torch.Tensor, scale: float | None) -> torch.Tensor:
    """Scale the weight, and convert it to float64, so that its gradient is summed in float64."""
    items = weight.to(wide_dtype(weight.dtype))
    return (items if scale is None else items * scale).double()


def _finish(
    bias: torch.Tensor,
    weight: torch.Tensor,
    mask: torch.Tensor | None,
    future: torch.Tensor | None,
    linear_part: bool,
) -> torch.Tensor:
    """Round, then add and mask, as the kernels do."""
    if mask is not None:
        _checks.mask_shape(mask.shape, bias.shape[-3:])
    bias = bias.to(weight.dtype)
    if mask is not None and mask.dtype != torch.bool and not linear_part:
        bias = bias + mask.to(weight.dtype)
    masked_value = 0.0 if linear_part else torch.finfo(weight.dtype).min
    if mask is not None and mask.dtype == torch.bool:
        bias = torch.where(mask, bias, masked_value)
    elif mask is not None and linear_part:
        bias = bias.expand(torch.broadcast_shapes(bias.shape, mask.shape))
    if future is not None:
        bias = torch.where(future, masked_value, bias)
    return bias.contiguous()
