# _bias.py - compute_bias, compute_bias_at: the bias of all pairs of positions, as a tensor.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import torch

from t5bucket._buckets import Buckets, encode_scheme
from t5bucket.torch import _checks, _operators
from t5bucket.torch._composite import compose_bias, compose_bias_at
from t5bucket.torch._tensors import (
    fill_bias,
    fill_bias_at,
    is_eager,
    is_transformed,
    needs_gradient,
)


def compute_bias(
    weight: torch.Tensor,
    query_length: int,
    key_length: int,
    *,
    buckets: Buckets,
    query_offset: int = 0,
    key_offset: int = 0,
    mask: torch.Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Bias of all pairs of consecutive query and key positions, with masks.

    Parameters
    ----------
    weight : Tensor, shape (num_buckets, num_heads)
        float16, bfloat16, float32 or float64, on the CPU: the weight of T5's
        ``relative_attention_bias``. Gradients flow into it.
    query_length, key_length : int
        Number of positions (tokens), at least 0.
    buckets : Buckets
        The scheme that `weight` was trained with.
    query_offset, key_offset : int, optional
        Position of query 0 and of key 0.
    mask : Tensor, optional
        Boolean (true = attend) or floating-point (added); it broadcasts to
        ``(batch, num_heads, query_length, key_length)``. It must not require a gradient.
    causal : bool, optional
        Mask keys whose position is greater than the query's.
    scale : float, optional
        Factor of every weight.

    Returns
    -------
    Tensor of `weight`'s dtype, shape (1, num_heads, query_length, key_length)
        Contiguous; ``(batch, ...)`` with a mask that has a batch. Masked pairs
        have the dtype's finite minimum.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, shape or device, or out of its limits.

    Notes
    -----
    The bias is linear in `weight`. It can be differentiated any number of times, in
    reverse and in forward mode, and ``torch.func`` can map over weights and masks. A
    transform needs several times the memory of its result.

    Examples
    --------
    >>> import torch
    >>> import t5bucket as tb
    >>> from t5bucket.torch import compute_bias
    >>> weight = torch.zeros(32, 12, requires_grad=True)
    >>> bias = compute_bias(weight, 3, 3, buckets=tb.Buckets(32, 128))
    >>> bias.shape
    torch.Size([1, 12, 3, 3])
    >>> bias.sum().backward()
    >>> weight.grad[0, 0]  # pairs of bucket 0
    tensor(3.)
    """
    scale = _checks.bias_options(weight, buckets, mask, causal, scale)
    lengths = (
        _checks.integer("query_length", query_length, 0),
        _checks.integer("key_length", key_length, 0),
        _checks.integer("query_offset", query_offset),
        _checks.integer("key_offset", key_offset),
    )
    if is_eager(weight, mask) and not needs_gradient(weight):
        return fill_bias(weight, mask, buckets, *lengths, causal, scale)
    if is_transformed():
        return compose_bias(weight, mask, buckets, *lengths, causal, scale)
    return _operators.bias(weight, mask, encode_scheme(buckets), *lengths, causal, scale, False)


def compute_bias_at(
    weight: torch.Tensor,
    query_positions: torch.Tensor,
    key_positions: torch.Tensor | None = None,
    *,
    buckets: Buckets,
    mask: torch.Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Bias of all pairs of explicit query and key positions, with masks.

    Parameters
    ----------
    weight : Tensor, shape (num_buckets, num_heads)
        float16, bfloat16, float32 or float64, on the CPU. Gradients flow into it.
    query_positions : Tensor of int, shape (..., q)
        Positions (tokens, or any other unit).
    key_positions : Tensor of int, shape (..., k), optional
        The query's if None. Leading axes broadcast.
    buckets : Buckets
        The scheme that `weight` was trained with.
    mask, causal, scale : optional
        As in `compute_bias`.

    Returns
    -------
    Tensor of `weight`'s dtype, shape (..., num_heads, q, k)
        Contiguous; with one batch axis at least.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, shape or device.

    Notes
    -----
    As for `compute_bias`; transforms can map over positions, too.

    Examples
    --------
    >>> import torch
    >>> import t5bucket as tb
    >>> from t5bucket.torch import compute_bias_at
    >>> positions = torch.tensor([[0, 1, 2, 0, 1]])  # two sequences in one row
    >>> compute_bias_at(torch.zeros(32, 12), positions, buckets=tb.Buckets()).shape
    torch.Size([1, 12, 5, 5])
    """
    scale = _checks.bias_options(weight, buckets, mask, causal, scale)
    key_positions = query_positions if key_positions is None else key_positions
    _checks.positions("query_positions", query_positions)
    _checks.positions("key_positions", key_positions)
    positions = (query_positions, key_positions)
    if is_eager(weight, mask, *positions) and not needs_gradient(weight):
        return fill_bias_at(weight, *positions, mask, buckets, causal, scale)
    if is_transformed():
        return compose_bias_at(weight, *positions, mask, buckets, causal, scale)
    return _operators.bias_at(
        weight, *positions, mask, encode_scheme(buckets), causal, scale, False
    )
