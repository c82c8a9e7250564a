# _wavlm.py - WavLM: the bias that its attentions gate.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from typing import Any

import torch

from t5bucket.torch import compute_bias
from t5bucket.transformers._layer import Layer, Method, require
from t5bucket.transformers._rules import find_rule, find_weight, tabulate

RULE = "_relative_positions_bucket"


def _compute_bias(original: Method, self: Any, query_length: Any, key_length: Any) -> torch.Tensor:
    require(type(query_length) is type(key_length) is int, "lengths that are no integers")
    weight = find_weight(self.rel_attn_embed, self.num_buckets)
    rule = find_rule(self, RULE)
    settings = (self.num_buckets, self.max_distance)
    buckets = tabulate(rule, settings, lambda distances: rule(self, distances))
    return compute_bias(weight, query_length, key_length, buckets=buckets)[0]


LAYERS = {"wavlm.WavLMAttention": Layer({"compute_bias": _compute_bias}, relies_on=(RULE,))}
