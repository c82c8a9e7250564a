# _mpnet.py - MPNet: one bias for all layers of the encoder.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from typing import Any

import torch

from t5bucket.torch import compute_bias
from t5bucket.torch._tensors import is_eager
from t5bucket.transformers._layer import Layer, Method, require
from t5bucket.transformers._rules import find_rule, find_weight, tabulate


def _compute_position_bias(
    original: Method, self: Any, x: Any, position_ids: Any = None, num_buckets: Any = 32
) -> torch.Tensor:
    require(position_ids is None and is_eager(x), "given positions, another device, or tracing")
    weight = find_weight(self.relative_attention_bias, num_buckets)
    rule = find_rule(self, "relative_position_bucket")
    settings = (num_buckets, rule.__defaults__[-1])
    buckets = tabulate(rule, settings, lambda distances: rule(distances, *settings))
    batch, length = x.shape[:2]
    # transformers copies the bias for each example; here they share one.
    return compute_bias(weight, length, length, buckets=buckets).expand(batch, -1, -1, -1)


LAYERS = {
    "mpnet.MPNetEncoder": Layer(
        {"compute_position_bias": _compute_position_bias}, relies_on=("relative_position_bucket",)
    )
}
