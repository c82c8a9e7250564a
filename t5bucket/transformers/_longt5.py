# _longt5.py - LongT5: local attention to blocks of keys, and global summaries of blocks.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from t5bucket.torch import compute_bias, compute_bias_at
from t5bucket.torch._tensors import is_eager
from t5bucket.transformers._inexact import require_inference, require_unseen_weights
from t5bucket.transformers._layer import Layer, Method, require
from t5bucket.transformers._older import for_older
from t5bucket.transformers._rules import find_function, find_weight
from t5bucket.transformers._t5 import EAGER_T5_ATTENTION, t5_scheme


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


# ---- equal up to rounding: blocks of queries attend as the examples of a batch ----


def _attend_locally(
    original: Method,
    self: Any,
    hidden_states: Any,
    mask: Any = None,
    position_bias: Any = None,
    output_attentions: Any = False,
) -> Any:
    require_unseen_weights(output_attentions, self)
    require_inference(self, self.training and self.dropout, hidden_states, mask)
    is_plain = position_bias is None or is_eager(position_bias)
    require(is_plain and hidden_states.shape[1] > 0, "a bias of another kind, or no tokens")
    if position_bias is None:
        position_bias = _make_local_bias(self, hidden_states.dtype)
        if mask is not None:
            added = torch.where(mask > 0, 0.0, -1e10).float()  # independent of the default dtype
            position_bias = position_bias + added.transpose(1, 2)
    return _attend_to_blocks(self, hidden_states, position_bias), position_bias


def _attend_locally_before_5_0(
    original: Method,
    self: Any,
    hidden_states: Any,
    mask: Any = None,
    position_bias: Any = None,
    layer_head_mask: Any = None,
    output_attentions: Any = False,
) -> Any:
    require(layer_head_mask is None, "a mask of heads")
    return _attend_locally(original, self, hidden_states, mask, position_bias, output_attentions)


for_older(_attend_locally, _attend_locally_before_5_0)


def _attend_to_blocks(layer: Any, hidden_states: torch.Tensor, bias: torch.Tensor) -> Any:
    length, block_length = hidden_states.shape[1], layer.block_len
    rest = -length % block_length
    query, key, value = (
        projection(hidden_states).unflatten(2, (layer.n_heads, layer.key_value_proj_dim))
        for projection in (layer.q, layer.k, layer.v)
    )
    query = _pad(query, 0, rest).unflatten(1, (-1, block_length)).transpose(2, 3)
    key, value = (  # three blocks of keys for each block of queries; they overlap in memory
        _pad(tensor, block_length, block_length + rest).unfold(1, 3 * block_length, block_length).mT
        for tensor in (key, value)
    )
    examples = zip(query, key, value, bias.expand(len(query), -1, -1, -1, -1), strict=True)
    attended = torch.stack(
        [functional.scaled_dot_product_attention(*example, scale=1.0) for example in examples]
    )
    return layer.o(attended.transpose(2, 3).flatten(3).flatten(1, 2)[:, :length])


def _make_local_bias(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    if layer.has_relative_attention_bias:
        bias: torch.Tensor = layer.compute_bias(layer.block_len)
        return bias
    shape = (1, 1, layer.n_heads, layer.block_len, 3 * layer.block_len)
    return torch.zeros(shape, dtype=dtype, device="cpu")


def _pad(tensor: torch.Tensor, before: int, after: int) -> torch.Tensor:
    """Pad the second of four axes with zeros, before and after."""
    return functional.pad(tensor, (0, 0, 0, 0, before, after))


LAYERS = {
    "longt5.LongT5Attention": EAGER_T5_ATTENTION,
    "longt5.LongT5LocalAttention": Layer(
        {"compute_bias": _compute_bias}, inexact={"forward": _attend_locally}
    ),
    "longt5.LongT5TransientGlobalAttention": Layer(
        {"compute_bias": _compute_bias, "compute_side_bias": _compute_side_bias}
    ),
}
