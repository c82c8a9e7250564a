# scales.py - float8 tables as float32, times the scales that scaled files store next to them.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from t5bucket._weights.checkpoint import Checkpoint

# Of ComfyUI until 2025 and since, and of DeepSeek and transformers, where it is a factor too.
SCALES = ("scale_weight", "weight_scale", "weight_scale_inv")


def widen(checkpoint: Checkpoint, name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Widen float8, exactly; its scale, if there is one, is a product that float32 rounds once."""
    if not array.dtype.name.startswith("float8"):
        return array
    weight = array.astype(np.float32)
    stem = name.removesuffix("weight")
    for scale_name in (stem + scale for scale in SCALES):
        if scale_name in checkpoint.names:
            scale = checkpoint.read(scale_name)
            return weight * _fit(scale_name, scale, weight.shape).astype(np.float32)
    return weight


def _fit(name: str, scale: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Shape a scale so that it broadcasts: one, or one for each row."""
    if scale.size == 1:
        return scale.reshape(())
    if len(shape) == 2 and scale.shape in (shape[:1], (shape[0], 1)):
        return scale.reshape(-1, 1)
    raise ValueError(f"{name} must be one number, or one for each row, got shape {scale.shape}")
