# _udop.py - UDOP: T5's attention, and biases of words and of boxes on a page.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from typing import Any

import torch

from t5bucket._buckets import Buckets
from t5bucket.torch import compute_bias
from t5bucket.torch._tensors import is_eager
from t5bucket.transformers._layer import Layer, Method, require
from t5bucket.transformers._rules import find_function, find_weight, look_up, tabulate
from t5bucket.transformers._t5 import T5_ATTENTION


def _scheme(original: Method, layer: Any) -> Buckets:
    rule = find_function(original, "get_relative_position_bucket")
    settings = (layer.bidirectional, layer.relative_attention_num_buckets, layer.max_distance)
    return tabulate(rule, settings, lambda distances: rule(distances, *settings))


def _get_bucket(
    original: Method, self: Any, attention_mask: Any = None, bbox: Any = None
) -> torch.Tensor:
    require(is_eager(attention_mask, bbox), "another device, or tracing")
    buckets = _scheme(original, self)
    return look_up(buckets, self.prepare_input(attention_mask, bbox))


def _sequence_bias(
    original: Method, self: Any, attention_mask: Any = None, bbox: Any = None
) -> torch.Tensor:
    simple = self.scaling_factor == 1 and not (self.prefix_bucket or self.augmentation)
    require(simple and is_eager(attention_mask), "positions that are scaled, or traced")
    weight = find_weight(self.relative_attention_bias, self.relative_attention_num_buckets)
    length = attention_mask.shape[1]
    bias = compute_bias(weight, length, length, buckets=_scheme(original, self))
    if weight.requires_grad and (self.training or torch.is_grad_enabled()):
        # Then the sum with other biases has the same strides as in transformers.
        return bias.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return bias


PAGE = Layer({"get_bucket": _get_bucket})

LAYERS = {
    "udop.RelativePositionBias1D": Layer(
        {"forward": _sequence_bias},
        relies_on=("prepare_input", "get_relative_position", "get_bucket"),
    ),
    "udop.RelativePositionBiasHorizontal": PAGE,
    "udop.RelativePositionBiasVertical": PAGE,
    "udop.UdopAttention": T5_ATTENTION,
}
