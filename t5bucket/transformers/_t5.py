# _t5.py - T5, and the families with T5's attention.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from t5bucket._buckets import Buckets
from t5bucket.torch import compute_bias
from t5bucket.transformers._layer import Layer, Method, require
from t5bucket.transformers._merge import is_copied_without_gradient, mark_heads_last, merge
from t5bucket.transformers._rules import find_rule, find_weight, tabulate

RULE = "_relative_position_bucket"


def t5_scheme(layer: Any) -> Buckets:
    """Tabulate the rule of an attention, which can be an encoder's or a decoder's."""
    return _tabulate(layer, not layer.is_decoder)


def _pix2struct_scheme(layer: Any) -> Buckets:
    return _tabulate(layer, False)


def _tabulate(layer: Any, bidirectional: bool) -> Buckets:
    rule = find_rule(layer, RULE)
    settings = (bidirectional, *_sizes(layer))
    return tabulate(rule, settings, lambda distances: rule(distances, *settings))


def _umt5_scheme(layer: Any) -> Buckets:
    rule = find_rule(layer, RULE)
    settings = (layer.is_decoder, *_sizes(layer))
    return tabulate(rule, settings, lambda distances: rule(layer, distances))


def _sizes(layer: Any) -> tuple[Any, Any]:
    return layer.relative_attention_num_buckets, layer.relative_attention_max_distance


def _compute_bias_by(find_scheme: Callable[[Any], Buckets]) -> Method:
    def compute(
        original: Method,
        self: Any,
        query_length: Any,
        key_length: Any,
        device: Any = None,
        past_seen_tokens: Any = 0,
    ) -> torch.Tensor:
        lengths = (query_length, key_length, past_seen_tokens)
        require(all(type(length) is int for length in lengths), "lengths that are no integers")
        require(device is None or torch.device(device).type == "cpu", f"device {device}")
        weight = find_weight(self.relative_attention_bias, self.relative_attention_num_buckets)
        buckets = find_scheme(self)
        bias = compute_bias(
            weight, query_length, key_length, buckets=buckets, query_offset=past_seen_tokens
        )
        mark_heads_last(bias)
        return bias

    return compute


def _attend(
    original: Method,
    self: Any,
    hidden_states: Any,
    mask: Any = None,
    key_value_states: Any = None,
    position_bias: Any = None,
    cache: Any = None,
    **kwargs: Any,
) -> Any:
    given = {"key_value_states": key_value_states, "cache": cache, **kwargs}
    if (
        position_bias is key_value_states is cache is None
        and "past_key_values" not in kwargs
        and self.has_relative_attention_bias
    ):
        length = hidden_states.shape[1]
        position_bias = self.compute_bias(
            length, length, device=hidden_states.device, past_seen_tokens=0
        )
    merged = merge(self, hidden_states, mask, position_bias, kwargs)
    if merged is not None:
        given |= {"position_bias": merged, "is_causal": False}
    elif is_copied_without_gradient(position_bias):
        given |= {"mask": mask, "position_bias": position_bias.detach()}
    else:
        return original(self, hidden_states, mask=mask, position_bias=position_bias, **given)
    attended, _, weights = original(self, hidden_states, **given)
    return attended, position_bias, weights


T5_ATTENTION = Layer({"compute_bias": _compute_bias_by(t5_scheme)}, attend=_attend)

LAYERS = {
    "mt5.MT5Attention": T5_ATTENTION,
    "pix2struct.Pix2StructTextAttention": Layer(
        {"compute_bias": _compute_bias_by(_pix2struct_scheme)}, attend=_attend
    ),
    "pop2piano.Pop2PianoAttention": T5_ATTENTION,
    "switch_transformers.SwitchTransformersAttention": T5_ATTENTION,
    "t5.T5Attention": T5_ATTENTION,
    "umt5.UMT5Attention": Layer(
        {"compute_bias": _compute_bias_by(_umt5_scheme)}, relies_on=(RULE,)
    ),
}
