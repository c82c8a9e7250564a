# _sdpa.py - facts about transformers' own sdpa, which merges a bias and a mask.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import inspect
import sys
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from transformers.integrations import sdpa_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from t5bucket.torch._tensors import allocate_tensor, is_eager, needs_gradient

_create_position_bias_mask: Any = getattr(sdpa_attention, "create_position_bias_mask", None)


def has_choice(attention: type) -> bool:
    """Whether an attention's module lets users choose ``sdpa``, as T5's does since version 5.15."""
    return hasattr(sys.modules[attention.__module__], "ALL_ATTENTION_FUNCTIONS")


def is_plain(layer: Any, hidden_states: Any, mask: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a call of an attention runs transformers' own sdpa eagerly, as `merge` assumes."""
    return (
        layer.config._attn_implementation == "sdpa"
        and "is_causal" not in kwargs
        and _is_known()
        and not torch.is_autocast_enabled("cpu")
        and is_eager(hidden_states, mask)
        and (mask is None or not needs_gradient(mask))
    )


def merge_by_sdpa(bias: torch.Tensor, mask: Any, causal: bool, length: int) -> torch.Tensor:
    """Merge bias and mask with transformers' own function."""
    kind = {"device": bias.device, "dtype": bias.dtype}
    matrix: torch.Tensor = _create_position_bias_mask(
        bias,
        mask,
        causal,
        query=SimpleNamespace(shape=(1, 1, length, 1), **kind),
        key=SimpleNamespace(shape=(1, 1, bias.shape[-1], 1), **kind),
    )
    return matrix


def merge_boolean(bias: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Do the same for a boolean mask, in memory that is faster to write to."""
    matrix = allocate_tensor(torch.broadcast_shapes(bias.shape, mask.shape), bias.dtype)
    minimum = torch.tensor(torch.finfo(bias.dtype).min, dtype=bias.dtype, device=bias.device)
    return torch.where(mask, bias, minimum, out=matrix)


@cache
def copies_bias() -> bool:
    """Whether sdpa copies a bias to make it contiguous, as it does since version 5.20."""
    bias = torch.zeros(1, 2, 2, 2, device="cpu").transpose(1, 3)
    return _merging_is_known() and merge_by_sdpa(bias, None, False, 2).is_contiguous()


def _is_known() -> bool:
    """Whether sdpa is transformers' own, and merges bias and mask as this package does."""
    own = sdpa_attention.sdpa_attention_forward
    return ALL_ATTENTION_FUNCTIONS.get("sdpa") is own and _merging_is_known()


@cache
def _merging_is_known() -> bool:
    names = ["position_bias", "attention_mask", "is_causal", "query", "key"]
    if _create_position_bias_mask is None:
        return False
    if [*inspect.signature(_create_position_bias_mask).parameters] != names:
        return False
    bias = torch.arange(4.0, device="cpu").view(1, 1, 2, 2)
    mask = torch.tensor([True, False], device="cpu").view(1, 1, 1, 2)
    return bool(torch.equal(merge_by_sdpa(bias, mask, False, 2), merge_boolean(bias, mask)))
