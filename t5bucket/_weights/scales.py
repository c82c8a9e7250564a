# scales.py - float8 tables as float32, times the scales that scaled files store next to them.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from t5bucket._arrays import FLOAT_NAMES
from t5bucket._checks import naming, show
from t5bucket._weights.checkpoint import Checkpoint

# Of ComfyUI until 2025 and since, and of DeepSeek and transformers, where it is a factor too.
SCALES = ("scale_weight", "weight_scale", "weight_scale_inv")


def widen(checkpoint: Checkpoint, name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Widen float8, exactly; its scale, if there is one, is a product that float32 rounds once."""
    if not array.dtype.name.startswith("float8"):
        return array
    weight = array.astype(np.float32)
    # An index of shards may not list the scale that lies in the table's own shard.
    own_file = checkpoint.file_of(name)
    stem = name.removesuffix("weight")
    candidates = [stem + word for word in SCALES]
    found = [candidate for candidate in candidates if candidate in own_file.names]
    holder = own_file if found else checkpoint
    found = found or [candidate for candidate in candidates if candidate in checkpoint.names]
    if not found:
        return weight
    scale = holder.read(found[0])
    with naming(holder.path):
        if len(found) > 1:
            raise ValueError(f"{show(name)} must have one scale, got {show(found)}")
        return weight * _fit(found[0], scale, weight.shape).astype(np.float32)


def _fit(name: str, scale: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Shape a scale so that it broadcasts: one, or one for each row."""
    if scale.dtype.name not in FLOAT_NAMES:
        raise TypeError(f"{show(name)} must be floating-point, got dtype {scale.dtype}")
    if scale.size == 1:
        return scale.reshape(())
    if len(shape) == 2 and scale.shape in (shape[:1], (shape[0], 1)):
        return scale.reshape(-1, 1)
    raise ValueError(
        f"{show(name)} must be one number, or one for each row, got shape {scale.shape}"
    )
