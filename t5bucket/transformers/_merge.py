# _merge.py - bias and mask for sdpa: merged once, with the gradients that its kernel depends on.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from typing import Any

import torch
from torch.utils.weak import TensorWeakRef, WeakTensorKeyDictionary

from t5bucket.torch._padding import shrink
from t5bucket.torch._tensors import is_eager, needs_gradient
from t5bucket.transformers._sdpa import copies_bias, is_plain, merge_boolean, merge_by_sdpa

# ---- bias and mask, merged once ----


class Kept:
    """What was made from a mask, for the next layer; the mask may be a view of the bias itself."""

    def __init__(self, result: torch.Tensor, mask: torch.Tensor | None, *made_from: Any) -> None:
        self.result, self.made_from = result, (version(mask), *made_from)
        self._mask = None if mask is None else TensorWeakRef(mask)
        self._items = mask.clone() if mask is not None and mask.is_inference() else None

    def is_of(self, mask: torch.Tensor | None, *made_from: Any) -> bool:
        """Whether the result would be the same, made from this mask and the rest."""
        if mask is None or self._mask is None:
            is_same = mask is self._mask
        else:
            is_same = mask is self._mask() and (
                self._items is None or torch.equal(self._items, mask)
            )
        return is_same and self.made_from == (version(mask), *made_from)


_kept_by_bias = WeakTensorKeyDictionary()  # a merged matrix is freed with its bias


def merge(
    layer: Any, hidden_states: Any, mask: Any, position_bias: Any, kwargs: dict[str, Any]
) -> torch.Tensor | None:
    """Merge bias and mask as ``sdpa`` does, once for all layers; None if ``sdpa`` has to do it.

    The result is kept as long as the bias, which the model passes from layer to layer. It
    broadcasts where both do, as the bias of `no_bias` does.
    """
    if position_bias is None:
        return None
    length = hidden_states.shape[1]
    causal = mask is None and length > 1 and layer.is_causal
    if mask is None and not causal and position_bias.is_contiguous():
        return None  # sdpa takes it as it is
    if not is_plain(layer, hidden_states, mask, kwargs):
        return None
    if not _can_merge(hidden_states, mask, position_bias, causal):
        return None
    made_from = (causal, version(position_bias))
    kept: Kept | None = _kept_by_bias.get(position_bias)
    if kept is None or position_bias.is_inference() or not kept.is_of(mask, *made_from):
        matrix = _merge(position_bias, mask, causal, length)
        kept = _kept_by_bias[position_bias] = Kept(matrix, mask, *made_from)
    return kept.result


def _can_merge(hidden_states: Any, mask: Any, position_bias: Any, causal: bool) -> bool:
    key_length = position_bias.shape[-1]
    return (
        not needs_gradient(position_bias)  # checkpoints compare what is saved for it
        and is_eager(position_bias)
        and hidden_states.dtype == position_bias.dtype
        and (not causal or hidden_states.shape[1] == key_length)
        and (mask is None or mask.shape[-1] == key_length)
    )


def _merge(bias: torch.Tensor, mask: Any, causal: bool, length: int) -> torch.Tensor:
    if not any(bias.stride()) and not causal:
        bias, mask = bias[:, :1, :1, :1], shrink(mask)
    if mask is not None and mask.dtype == torch.bool:
        return merge_boolean(bias, mask)
    return merge_by_sdpa(bias, mask, causal, length)


def version(tensor: torch.Tensor | None) -> int | None:
    """How often a tensor was written; inference tensors do not count it, and `Kept` copies them."""
    return None if tensor is None or tensor.is_inference() else tensor._version


# ---- what broadcasts ----


def no_bias(layer: Any, hidden_states: torch.Tensor, key_length: int) -> torch.Tensor:
    """Make the zeros that cross-attention has as its bias, in the memory of one."""
    with torch.inference_mode(False):
        zero = hidden_states.new_zeros(1)
    return zero.expand(1, layer.n_heads, hidden_states.shape[1], key_length)


# ---- the storage mark: sdpa has another kernel for a mask that requires a gradient ----


def mark_heads_last(bias: torch.Tensor) -> None:
    """Mark the storage of a bias whose heads are last in memory in transformers.

    There, ``sdpa`` makes a contiguous copy, which requires no gradient under ``no_grad``.
    Our bias is contiguous already, and would keep the requirement. A checkpoint passes
    views of it on: they share the storage.
    """
    *_, num_heads, query_length, key_length = bias.shape
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
        and copies_bias()
        and hasattr(bias.untyped_storage(), "_t5bucket_heads_last")
    )
