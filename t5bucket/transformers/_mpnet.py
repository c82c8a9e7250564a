# _mpnet.py - MPNet: one bias for all layers of the encoder.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from typing import Any

import torch

from t5bucket._buckets import Buckets
from t5bucket.torch import compute_bias, scaled_dot_product_attention
from t5bucket.torch._tensors import is_eager
from t5bucket.transformers._inexact import (
    find_recipe,
    repeat_lazily,
    require_inference,
    require_unseen_weights,
)
from t5bucket.transformers._layer import Layer, Method, require
from t5bucket.transformers._older import for_older
from t5bucket.transformers._rules import find_rule, find_weight, tabulate


def _find_scheme(layer: Any, num_buckets: Any) -> tuple[torch.Tensor, Buckets]:
    weight = find_weight(layer.relative_attention_bias, num_buckets)
    rule = find_rule(layer, "relative_position_bucket")
    settings = (num_buckets, rule.__defaults__[-1])
    return weight, tabulate(rule, settings, lambda distances: rule(distances, *settings))


def _compute_position_bias(
    original: Method, self: Any, x: Any, position_ids: Any = None, num_buckets: Any = 32
) -> torch.Tensor:
    require(position_ids is None and is_eager(x), "given positions, another device, or tracing")
    weight, buckets = _find_scheme(self, num_buckets)
    batch, length = x.shape[:2]
    # transformers copies the bias for each example; here they share one.
    return compute_bias(weight, length, length, buckets=buckets).expand(batch, -1, -1, -1)


# ---- equal up to rounding: attention without the matrix ----


def _make_position_bias(
    original: Method, self: Any, x: Any, position_ids: Any = None, num_buckets: Any = 32
) -> torch.Tensor:
    require(position_ids is None and is_eager(x), "given positions, another device, or tracing")
    return repeat_lazily(*_find_scheme(self, num_buckets), *x.shape[:2])


def _attend(
    original: Method,
    self: Any,
    hidden_states: Any,
    attention_mask: Any = None,
    position_bias: Any = None,
    output_attentions: Any = False,
    **kwargs: Any,
) -> Any:
    dropout = self.dropout
    require(type(dropout) is torch.nn.Dropout, "dropout of another kind")
    require_unseen_weights(output_attentions, self, dropout)
    require_inference(self, dropout.training and dropout.p, hidden_states, attention_mask)
    is_bool = attention_mask is not None and attention_mask.dtype == torch.bool
    require(not is_bool, "a mask of booleans, which transformers adds")
    recipe = find_recipe(position_bias)
    query, key, value = (
        projection(hidden_states)
        .unflatten(2, (self.num_attention_heads, self.attention_head_size))
        .transpose(1, 2)
        for projection in (self.q, self.k, self.v)
    )
    attended = scaled_dot_product_attention(
        query,
        key,
        value,
        recipe.weight,
        buckets=recipe.buckets,
        attn_mask=attention_mask,
        exact=False,
    )
    return (self.o(attended.transpose(1, 2).flatten(2)),)


def _attend_before_5_0(
    original: Method,
    self: Any,
    hidden_states: Any,
    attention_mask: Any = None,
    head_mask: Any = None,
    position_bias: Any = None,
    output_attentions: Any = False,
    **kwargs: Any,
) -> Any:
    require(head_mask is None, "a mask of heads")
    given = (hidden_states, attention_mask, position_bias, output_attentions)
    return _attend(original, self, *given, **kwargs)


for_older(_attend, _attend_before_5_0)

LAYERS = {
    "mpnet.MPNetEncoder": Layer(
        {"compute_position_bias": _compute_position_bias},
        relies_on=("relative_position_bucket",),
        inexact={"compute_position_bias": _make_position_bias},
    ),
    "mpnet.MPNetSelfAttention": Layer({}, inexact={"forward": _attend}),
}
