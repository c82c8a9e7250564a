# _merge.py - bias and mask for sdpa: merged once, with the gradients that its kernel depends on.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import inspect
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.weak import TensorWeakRef, WeakTensorKeyDictionary
from transformers.integrations import sdpa_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from t5bucket.torch._tensors import allocate_tensor, is_eager, needs_gradient

# ---- bias and mask, merged once ----


class _Merged:
    """A merged matrix, and what it was made from; the mask may be a view of the bias itself."""

    def __init__(
        self, mask: torch.Tensor | None, made_from: tuple[Any, ...], matrix: torch.Tensor
    ) -> None:
        self.mask = None if mask is None else TensorWeakRef(mask)
        self.made_from = made_from
        self.matrix = matrix

    def is_of(self, mask: torch.Tensor | None, made_from: tuple[Any, ...]) -> bool:
        kept_mask = None if self.mask is None else self.mask()
        return kept_mask is mask and self.made_from == made_from


_merged_by_bias = WeakTensorKeyDictionary()  # a merged matrix is freed with its bias


def merge(
    layer: Any, hidden_states: Any, mask: Any, position_bias: Any, kwargs: dict[str, Any]
) -> torch.Tensor | None:
    """Merge bias and mask as ``sdpa`` does, once for all layers; None if ``sdpa`` has to do it.

    The result is kept as long as the bias, which the model passes from layer to layer.
    """
    if position_bias is None:
        return None
    length = hidden_states.shape[1]
    causal = mask is None and length > 1 and layer.is_causal
    if mask is None and not causal and position_bias.is_contiguous():
        return None  # sdpa takes it as it is
    if "is_causal" in kwargs or layer.config._attn_implementation != "sdpa":
        return None
    if not _can_merge(hidden_states, mask, position_bias, causal):
        return None
    made_from = (causal, _version(mask), _version(position_bias))
    kept: _Merged | None = _merged_by_bias.get(position_bias)
    if kept is not None and kept.is_of(mask, made_from):
        return kept.matrix
    if mask is not None and mask.dtype == torch.bool:
        matrix = _merge_boolean(position_bias, mask)
    else:
        matrix = _merge_by_sdpa(position_bias, mask, causal, length)
    _merged_by_bias[position_bias] = _Merged(mask, made_from, matrix)
    return matrix


def _can_merge(hidden_states: Any, mask: Any, position_bias: Any, causal: bool) -> bool:
    key_length = position_bias.shape[-1]
    return (
        _sdpa_is_known()
        and not torch.is_autocast_enabled("cpu")
        and not needs_gradient(position_bias)  # checkpoints compare what is saved for it
        and (mask is None or not needs_gradient(mask))
        and is_eager(hidden_states, mask, position_bias)
        and hidden_states.dtype == position_bias.dtype
        and (not causal or hidden_states.shape[1] == key_length)
        and (mask is None or mask.shape[-1] == key_length)
    )


def _version(tensor: torch.Tensor | None) -> int | None:
    """How often a tensor was written; inference tensors do not count it."""
    return None if tensor is None or tensor.is_inference() else tensor._version


_create_position_bias_mask: Any = getattr(sdpa_attention, "create_position_bias_mask", None)


def _sdpa_is_known() -> bool:
    """Whether sdpa is transformers' own, and merges bias and mask as `merge` does."""
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
    return bool(torch.equal(_merge_by_sdpa(bias, mask, False, 2), _merge_boolean(bias, mask)))


def _merge_by_sdpa(bias: torch.Tensor, mask: Any, causal: bool, length: int) -> torch.Tensor:
    kind = {"device": bias.device, "dtype": bias.dtype}
    matrix: torch.Tensor = _create_position_bias_mask(
        bias,
        mask,
        causal,
        query=SimpleNamespace(shape=(1, 1, length, 1), **kind),
        key=SimpleNamespace(shape=(1, 1, bias.shape[-1], 1), **kind),
    )
    return matrix


def _merge_boolean(bias: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Do the same for a boolean mask, into memory that is faster to write."""
    matrix = allocate_tensor(torch.broadcast_shapes(bias.shape, mask.shape), bias.dtype)
    minimum = torch.tensor(torch.finfo(bias.dtype).min, dtype=bias.dtype, device=bias.device)
    return torch.where(mask, bias, minimum, out=matrix)


# ---- the storage mark: sdpa has another kernel for a mask that requires a gradient ----


def mark_heads_last(bias: torch.Tensor) -> None:
    """Mark the storage of a bias whose heads are last in memory in transformers.

    There, ``sdpa`` makes a contiguous copy, which requires no gradient under ``no_grad``.
    Our bias is contiguous already, and would keep the requirement. A checkpoint passes
    views of it on: they share the storage.
    """
    _, num_heads, query_length, key_length = bias.shape
    if num_heads > 1 and (query_length, key_length) != (1, 1):  # else both are contiguous
        storage: Any = bias.untyped_storage()
        storage._t5bucket_heads_last = True


def is_copied_without_gradient(bias: Any) -> bool:
    """Whether transformers' own bias would stop to require a gradient in ``sdpa``."""
    return (
        bias is not None
        and bias.requires_grad
        and not torch.is_grad_enabled()
        and is_eager(bias)
        and hasattr(bias.untyped_storage(), "_t5bucket_heads_last")
    )
