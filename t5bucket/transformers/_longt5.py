# _longt5.py - LongT5: blocks of keys, and the summaries of blocks.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from typing import Any

import torch

from t5bucket.torch import compute_bias, compute_bias_at
from t5bucket.torch._tensors import is_eager
from t5bucket.transformers._layer import Layer, Method, require
from t5bucket.transformers._rules import find_function, find_weight
from t5bucket.transformers._t5 import T5_ATTENTION, t5_scheme


def _compute_bias(original: Method, self: Any, block_length: Any) -> torch.Tensor:
    require(type(block_length) is int, "a length that is no integer")
    weight = find_weight(self.relative_attention_bias, self.relative_attention_num_buckets)
    bias = compute_bias(
        weight,
        block_length,
        3 * block_length,
        buckets=t5_scheme(self),
        query_offset=block_length,
    )
    return bias[None]


def _compute_side_bias(
    original: Method, self: Any, mask: Any, global_segment_ids: Any
) -> torch.Tensor:
    require(is_eager(mask, global_segment_ids), "another device, or tracing")
    find_blocks = find_function(original, "_make_global_fixed_block_ids")
    weight = find_weight(self.global_relative_attention_bias, self.relative_attention_num_buckets)
    buckets = t5_scheme(self)
    block_ids, _ = find_blocks(mask, self.global_block_size)
    positions = torch.arange(global_segment_ids.shape[-1], device=block_ids.device)
    bias = compute_bias_at(weight, block_ids, positions, buckets=buckets)
    attended = (mask[..., None] == global_segment_ids[:, None, :])[:, None]
    return torch.where(attended, 0.0, -1e10) + bias


LAYERS = {
    "longt5.LongT5Attention": T5_ATTENTION,
    "longt5.LongT5LocalAttention": Layer({"compute_bias": _compute_bias}),
    "longt5.LongT5TransientGlobalAttention": Layer(
        {"compute_bias": _compute_bias, "compute_side_bias": _compute_side_bias}
    ),
}
