# _prophetnet.py - ProphetNet: buckets of the main stream and of the predicting streams.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from typing import Any

import numpy as np
import torch

from t5bucket.torch._tensors import is_eager
from t5bucket.transformers._layer import Layer, Method, require
from t5bucket.transformers._rules import find_function, tabulate


def _compute_buckets(
    original: Method, self: Any, position_ids: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    require(is_eager(position_ids), "another device, or tracing")
    batch, length = position_ids.shape
    require(length + 2 <= self.max_target_positions, "more positions than the model has")
    rule = find_function(original, "compute_relative_buckets")
    sizes = (self.num_buckets, self.relative_max_distance)
    buckets = tabulate(rule, sizes, lambda distances: rule(*sizes, distances, False))
    # Keys of the predicting stream: each position's predecessor, then each position's successor.
    main, before, after = (
        torch.from_numpy(buckets.grid(length, length, key_offset=offset, dtype=np.int32))
        for offset in (0, -1, 1)
    )
    predicting = torch.cat([before, after], dim=1)
    return main.repeat(batch, 1, 1), predicting.repeat(batch, 1, 1)


LAYERS = {
    "prophetnet.ProphetNetDecoder": Layer({"compute_buffered_relative_buckets": _compute_buckets})
}
