# _attention_by_pytorch.py - attention by PyTorch's own functions, with the matrix.
# SPDX-License-Identifier: BSD-3-Clause
"""The same values as the operator has, for dropout, autocast, transforms and second derivatives."""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from t5bucket.torch._bias import compute_bias, compute_bias_at
from t5bucket.torch._kernels import Inputs, Kernel, expand_query, math_kernel
from t5bucket.torch._strips import Source
from t5bucket.torch._tensors import is_transformed


def attend_by_pytorch(
    inputs: Inputs, source: Source, dropout_p: float = 0.0, kernel: Kernel | None = None
) -> torch.Tensor:
    """Attend with the whole matrix, which is an operator's result or composed.

    The kernel is PyTorch's choice if None, or the one that can be transformed.
    """
    query, key, value, scale = inputs
    bias = _compute_bias(source, query.shape[-2], key.shape[-2])
    if query.ndim == key.ndim == value.ndim == 3:
        bias = bias[0]
    query = expand_query(query, key, bias)
    if kernel is None and is_transformed() and not dropout_p:
        kernel = math_kernel  # the others have no forward mode
    if kernel is not None:
        return kernel(query, key, value, attn_mask=bias, scale=scale)
    return scaled_dot_product_attention(
        query, key, value, attn_mask=bias, dropout_p=dropout_p, scale=scale
    )


def _compute_bias(source: Source, q: int, k: int) -> torch.Tensor:
    buckets, mask, causal = source.buckets, source.mask, source.causal
    if source.query_positions is not None:
        positions = (source.query_positions, source.key_positions)
        return compute_bias_at(source.weight, *positions, buckets=buckets, mask=mask, causal=causal)
    bias = compute_bias(
        source.weight,
        q,
        k,
        buckets=buckets,
        query_offset=source.query_offset,
        key_offset=source.key_offset,
        mask=mask,
        causal=causal,
    )
    if source.segment_ids is None or source.key_segment_ids is None:
        return bias
    is_same = source.segment_ids[..., None, :, None] == source.key_segment_ids[..., None, None, :]
    return torch.where(is_same, bias, torch.finfo(bias.dtype).min)
