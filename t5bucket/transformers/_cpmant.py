# _cpmant.py - CPM-Ant: the buckets of its positions.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from typing import Any

import torch

from t5bucket.torch._tensors import is_eager
from t5bucket.transformers._layer import Layer, Method, require
from t5bucket.transformers._rules import look_up, tabulate


def _position_bucket(
    original: Method,
    self: Any,
    relative_position: Any,
    num_buckets: Any = 32,
    max_distance: Any = 128,
) -> torch.Tensor:
    require(is_eager(relative_position), "another device, or tracing")
    settings = (num_buckets, max_distance)
    buckets = tabulate(original, settings, lambda distances: original(self, distances, *settings))
    return look_up(buckets, relative_position)


LAYERS = {"cpmant.CpmAntSegmentPositionEmbedding": Layer({"_position_bucket": _position_bucket})}
