# _layoutlm.py - LayoutLMv2 and v3: explicit positions of words and of boxes on a page.
# SPDX-License-Identifier: BSD-3-Clause
"""The weights are not trained: transformers computes these biases without gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from t5bucket._buckets import Buckets
from t5bucket.torch._tensors import INTEGER_DTYPES, fill_bias_at, is_eager
from t5bucket.transformers._layer import Layer, Method, require
from t5bucket.transformers._merge import merge
from t5bucket.transformers._rules import check_weight, find_function, find_rule, tabulate

FindScheme = Callable[[Any, Any, Any], Buckets]  # given a layer, num_buckets and max_distance


def _compute_at(
    projection: Any, positions: Any, buckets: Buckets, onto: torch.Tensor | None = None
) -> torch.Tensor:
    """Bias of a weight (num_heads, num_buckets) at positions; added to another bias if given."""
    require(is_eager(positions), "positions on another device, or traced ones")
    require(positions.dtype in INTEGER_DTYPES and positions.ndim == 2, "positions of another kind")
    weight = projection.weight
    check_weight(weight, weight.shape[1], buckets.num_buckets)
    return fill_bias_at(weight.t(), positions, positions, None, buckets, onto=onto)


def _compute_1d(
    layer: Any, position_ids: Any, find_scheme: FindScheme, onto: torch.Tensor | None = None
) -> torch.Tensor:
    buckets = find_scheme(layer, layer.rel_pos_bins, layer.max_rel_pos)
    return _compute_at(layer.rel_pos_bias, position_ids, buckets, onto)


def _compute_2d(layer: Any, bbox: Any, find_scheme: FindScheme) -> torch.Tensor:
    """Bias of the left edges plus bias of the lower edges."""
    buckets = find_scheme(layer, layer.rel_2d_pos_bins, layer.max_rel_2d_pos)
    left, lower = bbox[:, :, 0], bbox[:, :, 3]
    horizontal = _compute_at(layer.rel_pos_x_bias, left, buckets)
    return _compute_at(layer.rel_pos_y_bias, lower, buckets, onto=horizontal)


# ---- LayoutLMv2 ----


def _v2_scheme(original: Method) -> FindScheme:
    def find(layer: Any, num_buckets: Any, max_distance: Any) -> Buckets:
        rule = find_function(original, "relative_position_bucket")
        settings = (True, num_buckets, max_distance)
        return tabulate(rule, settings, lambda distances: rule(distances, *settings))

    return find


def _v2_1d(original: Method, self: Any, position_ids: Any) -> torch.Tensor:
    return _compute_1d(self, position_ids, _v2_scheme(original))


def _v2_2d(original: Method, self: Any, bbox: Any) -> torch.Tensor:
    return _compute_2d(self, bbox, _v2_scheme(original))


# ---- LayoutLMv3 ----


def _v3_scheme(layer: Any, num_buckets: Any, max_distance: Any) -> Buckets:
    rule = find_rule(layer, "relative_position_bucket")
    settings = (True, num_buckets, max_distance)
    return tabulate(rule, settings, lambda distances: rule(layer, distances, *settings))


def _v3_1d(original: Method, self: Any, position_ids: Any) -> torch.Tensor:
    return _compute_1d(self, position_ids, _v3_scheme)


def _v3_2d(original: Method, self: Any, bbox: Any) -> torch.Tensor:
    return _compute_2d(self, bbox, _v3_scheme)


def _v3_bias(original: Method, self: Any, position_ids: Any, bbox: Any) -> torch.Tensor:
    require(self.has_relative_attention_bias and self.has_spatial_attention_bias, "one bias")
    page = _compute_2d(self, bbox, _v3_scheme)
    bias = _compute_1d(self, position_ids, _v3_scheme, onto=page)
    head_size = int(self.config.hidden_size / self.config.num_attention_heads)
    return bias.div_(math.sqrt(head_size))


def _v3_attend(
    original: Method,
    self: Any,
    hidden_states: Any,
    attention_mask: Any = None,
    position_bias: Any = None,
    **kwargs: Any,
) -> Any:
    merged = merge(self, hidden_states, attention_mask, position_bias, kwargs)
    if merged is None:
        return original(self, hidden_states, attention_mask, position_bias=position_bias, **kwargs)
    return original(self, hidden_states, None, position_bias=merged, **kwargs)


LAYERS = {
    "layoutlmv2.LayoutLMv2Encoder": Layer(
        {
            "_calculate_1d_position_embeddings": _v2_1d,
            "_calculate_2d_position_embeddings": _v2_2d,
        }
    ),
    "layoutlmv3.LayoutLMv3Encoder": Layer(
        {
            "_cal_1d_pos_emb": _v3_1d,
            "_cal_2d_pos_emb": _v3_2d,
            "_compute_position_bias": _v3_bias,
        },
        relies_on=(
            "_cal_1d_pos_emb",
            "_cal_2d_pos_emb",
            "_relative_position_lookup",
            "relative_position_bucket",
        ),
    ),
    "layoutlmv3.LayoutLMv3SelfAttention": Layer({}, attend=_v3_attend),
}
