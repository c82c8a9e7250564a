# _checks.py - check arguments that are tensors.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from t5bucket import _checks
from t5bucket._buckets import Buckets
from t5bucket.torch._tensors import FLOAT_DTYPES, INTEGER_DTYPES

FLOATS = "float16, bfloat16, float32 or float64"


def bias_options(
    weight: Any, buckets: Any, mask: Any, causal: Any, scale: Any, mask_name: str = "mask"
) -> float | None:
    """Check the arguments of all functions; return the scale as a Python float."""
    _checks.flag("causal", causal)
    tensor("weight", weight, FLOAT_DTYPES, FLOATS)
    if isinstance(scale, torch.Tensor) and scale.requires_grad:
        raise ValueError("scale must not require a gradient, got one that does")
    factor = None
    if scale is not None:
        factor = _checks.scale(scale, is_double=weight.dtype == torch.float64)
    _weight_shape(weight, buckets)
    if mask is not None:
        tensor(mask_name, mask, (torch.bool, *FLOAT_DTYPES), "boolean or floating-point")
        if mask.requires_grad:
            raise ValueError(f"{mask_name} must not require a gradient, got one that does")
    return factor


def _weight_shape(weight: torch.Tensor, buckets: Any) -> None:
    if weight.ndim != 2:
        raise ValueError(
            f"weight must have two axes, buckets and heads, got shape {tuple(weight.shape)}"
        )
    if not isinstance(buckets, Buckets):
        raise TypeError(f"buckets must be a Buckets, got {type(buckets).__name__}")
    if weight.shape[0] != buckets.num_buckets:
        raise ValueError(
            f"weight must have one row for each of the {buckets.num_buckets} buckets, "
            f"got {weight.shape[0]} rows"
        )


def integer(name: str, value: Any, minimum: int = _checks.INT64_MIN) -> Any:
    """Check an integer; it is symbolic, without a known value, while PyTorch traces."""
    if isinstance(value, torch.SymInt):
        return value
    return _checks.integer(name, value, minimum)


def positions(name: str, value: Any) -> None:
    """Check explicit positions."""
    tensor(name, value, INTEGER_DTYPES, "integers")
    if value.ndim == 0:
        raise ValueError(f"{name} must have at least one axis, got shape ()")


def tensor(name: str, value: Any, dtypes: Sequence[torch.dtype], kind: str) -> None:
    """Check a dense CPU tensor of one of the dtypes, which `kind` describes."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.device.type != "cpu":
        raise ValueError(f"{name} must be on the CPU, got device {value.device}")
    if value.dtype not in dtypes:
        raise TypeError(f"{name} must be {kind}, got {value.dtype}")
    if value.layout is not torch.strided or value.is_nested:
        layout = "a nested one" if value.is_nested else value.layout
        raise TypeError(f"{name} must be a dense tensor, got {layout}")
