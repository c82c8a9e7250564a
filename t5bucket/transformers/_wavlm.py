# _wavlm.py - WavLM: a bias that each attention multiplies by a gate.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

from t5bucket._buckets import Buckets
from t5bucket.torch import compute_bias
from t5bucket.torch._tensors import fill_bias
from t5bucket.transformers._inexact import (
    find_recipe,
    repeat_lazily,
    require_inference,
    require_unseen_weights,
)
from t5bucket.transformers._layer import Layer, Method, require
from t5bucket.transformers._lazy import Recipe
from t5bucket.transformers._older import for_older
from t5bucket.transformers._rules import find_rule, find_weight, tabulate

RULE = "_relative_positions_bucket"
STRIP_NBYTES = 4 << 20  # of the gated bias, for each thread
TILE = 256  # rows that PyTorch's kernel computes together


def _find_scheme(layer: Any) -> tuple[torch.Tensor, Buckets]:
    weight = find_weight(layer.rel_attn_embed, layer.num_buckets)
    rule = find_rule(layer, RULE)
    settings = (layer.num_buckets, layer.max_distance)
    return weight, tabulate(rule, settings, lambda distances: rule(layer, distances))


def _compute_bias(original: Method, self: Any, query_length: Any, key_length: Any) -> torch.Tensor:
    require(type(query_length) is type(key_length) is int, "lengths that are no integers")
    weight, buckets = _find_scheme(self)
    return compute_bias(weight, query_length, key_length, buckets=buckets)[0]


# ---- equal up to rounding: the gated bias by strips ----


def _encode(
    original: Method, self: Any, hidden_states: Any, attention_mask: Any = None, **kwargs: Any
) -> Any:
    """Run the encoder; pass the configuration's ``output_attentions`` to its layers."""
    kwargs.setdefault("output_attentions", self.config.output_attentions)
    return original(self, hidden_states, attention_mask, **kwargs)


def _attend(
    original: Method,
    self: Any,
    hidden_states: Any,
    attention_mask: Any = None,
    position_bias: Any = None,
    index: Any = 0,
    **kwargs: Any,
) -> Any:
    require_unseen_weights(kwargs.get("output_attentions"), self)
    require_inference(self, self.training and self.dropout, hidden_states, attention_mask)
    kept = None if attention_mask is None else attention_mask.eq(1)
    require(kept is None or kept.any(dim=1).all(), "an example without a key")
    if position_bias is None:
        batch, length = hidden_states.shape[:2]
        position_bias = repeat_lazily(*_find_scheme(self), batch, length, heads_in_batch=True)
    attended = _attend_gated(self, hidden_states, kept, find_recipe(position_bias))
    attended = attended.transpose(1, 2).flatten(2)
    output = functional.linear(attended, self.out_proj.weight, self.out_proj.bias)
    return output, None, position_bias


def _attend_before_5_16(
    original: Method,
    self: Any,
    hidden_states: Any,
    attention_mask: Any = None,
    position_bias: Any = None,
    output_attentions: Any = False,
    index: Any = 0,
) -> Any:
    given = (hidden_states, attention_mask, position_bias, index)
    return _attend(original, self, *given, output_attentions=output_attentions)


for_older(_attend, _attend_before_5_16)


def _attend_gated(
    layer: Any, hidden_states: torch.Tensor, kept: torch.Tensor | None, recipe: Recipe
) -> torch.Tensor:
    """Attend with queries in reverse order, so that the bias is a view of its diagonals."""
    batch, length, _ = hidden_states.shape
    query, key, value = (
        functional.linear(hidden_states, projection.weight, projection.bias)
        .view(batch, length, layer.num_heads, layer.head_dim)
        .transpose(1, 2)
        for projection in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    query, gate = query.flip(2), _compute_gate(layer, hidden_states).flip(2)
    diagonals = fill_bias(recipe.weight, None, recipe.buckets, 1, 2 * length - 1, length - 1, 0)
    shape, strides = (layer.num_heads, length, length), (2 * length - 1, 1, 1)
    attended = torch.empty_like(query)
    for (example, heads, rows), keys, strip in _gate(
        gate, diagonals.as_strided(shape, strides), kept
    ):
        examples = slice(example, example + 1)
        attended[examples, heads, rows] = functional.scaled_dot_product_attention(
            query[examples, heads, rows],
            key[examples, heads, keys],
            value[examples, heads, keys],
            attn_mask=strip[None],
        )
    return attended.flip(2)


def _compute_gate(layer: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """Compute each query's gate, the factor of its bias, (batch, num_heads, length, 1)."""
    heads = hidden_states.unflatten(2, (layer.num_heads, -1)).transpose(1, 2)
    projected = layer.gru_rel_pos_linear(heads).unflatten(3, (2, 4)).sum(-1)
    first, second = torch.sigmoid(projected).chunk(2, dim=-1)
    gate: torch.Tensor = first * (second * layer.gru_rel_pos_const - 1.0) + 2.0
    return gate


Place = tuple[int, slice, slice]  # example, heads, rows


def _gate(
    gate: torch.Tensor, bias: torch.Tensor, kept: torch.Tensor | None
) -> Iterator[tuple[Place, slice, torch.Tensor]]:
    """Gate the bias in strips, one after the other in the same memory, without padded keys."""
    batch, num_heads, length, _ = gate.shape
    num_head, num_rows = _measure(num_heads, length, length * gate.element_size())
    memory = gate.new_empty(num_head * num_rows * length)
    for example in range(batch):
        keys, padded = _find_keys(None if kept is None else kept[example], length)
        for head in range(0, num_heads, num_head):
            for row in range(0, length, num_rows):
                heads, rows = slice(head, head + num_head), slice(row, row + num_rows)
                part = bias[heads, rows, keys]
                strip = memory[: part.numel()].view(part.shape)
                torch.mul(gate[example, heads, rows], part, out=strip)
                if padded is not None:
                    strip.masked_fill_(padded, -torch.inf)
                yield (example, heads, rows), keys, strip


def _measure(num_heads: int, length: int, row_nbytes: int) -> tuple[int, int]:
    """Choose the number of heads and rows of a strip."""
    count = STRIP_NBYTES * torch.get_num_threads() // row_nbytes  # rows
    if count < length:
        return 1, max(TILE, count - count % TILE)
    return min(num_heads, count // length), length


def _find_keys(kept: torch.Tensor | None, length: int) -> tuple[slice, torch.Tensor | None]:
    """Find the range of keys up to the last kept one, and which of them are padded, or None."""
    if kept is None:
        return slice(0, length), None
    end = int(kept.nonzero()[-1]) + 1
    padded = ~kept[:end]
    return slice(0, end), padded if padded.any() else None


ENCODER = Layer({}, inexact={"forward": _encode})

LAYERS = {
    "wavlm.WavLMAttention": Layer(
        {"compute_bias": _compute_bias},
        relies_on=(RULE, "torch_multi_head_self_attention"),
        inexact={"forward": _attend},
    ),
    "wavlm.WavLMEncoder": ENCODER,
    "wavlm.WavLMEncoderStableLayerNorm": ENCODER,
}
