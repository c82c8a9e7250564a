# _attention.py - attention with the bias of relative positions, without its matrix.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import torch
from torch.nn import functional

from t5bucket._buckets import Buckets


def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    weight: torch.Tensor,
    *,
    buckets: Buckets,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    query_offset: int = 0,
    key_offset: int = 0,
    query_positions: torch.Tensor | None = None,
    key_positions: torch.Tensor | None = None,
    segment_ids: torch.Tensor | None = None,
    key_segment_ids: torch.Tensor | None = None,
    exact: bool = True,
) -> torch.Tensor:
    """Attention with the bias of relative positions, without its matrix."""
    from t5bucket.torch import compute_bias

    bias = compute_bias(
        weight,
        query.shape[-2],
        key.shape[-2],
        buckets=buckets,
        query_offset=query_offset,
        key_offset=key_offset,
        mask=attn_mask,
        causal=is_causal,
    )
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, dropout_p=dropout_p, scale=scale
    )
