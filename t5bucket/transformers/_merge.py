# _merge.py - merge bias and mask for sdpa once, and keep requires_grad, which selects its kernel.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.weak import TensorWeakRef, WeakTensorKeyDictionary

from t5bucket.torch._attend import SMALL_NBYTES
from t5bucket.torch._padding import shrink
from t5bucket.torch._tensors import is_eager, needs_gradient
from t5bucket.transformers._sdpa import copies_bias, is_plain, merge_boolean, merge_by_sdpa

# ---- bias and mask, merged once ----


class _Snapshot:
    """A tensor's state, to notice when it is written to.

    PyTorch counts writes, but not through ``.data`` or a NumPy array, and not to inference
    tensors. So small tensors and inference tensors are also compared with a copy.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor, self._version = TensorWeakRef(tensor), _version(tensor)
        is_copied = self._version is None or tensor.nbytes <= SMALL_NBYTES
        self._items = tensor.detach().clone() if is_copied else None

    def is_of(self, tensor: torch.Tensor | None) -> bool:
        return (
            tensor is not None
            and tensor is self._tensor()
            and self._version == _version(tensor)
            and (self._items is None or torch.equal(self._items, tensor))
        )


def _version(tensor: torch.Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


class Kept:
    """A result that is kept for the next layer, and the tensors it was made from."""

    def __init__(
        self, result: torch.Tensor, tensors: Iterable[torch.Tensor | None], *options: Any
    ) -> None:
        self.result, self._options = result, options
        self._snapshots = [None if tensor is None else _Snapshot(tensor) for tensor in tensors]

    def is_of(self, tensors: Iterable[torch.Tensor | None], *options: Any) -> bool:
        """Whether these tensors and options would give the same result."""
        return self._options == options and all(
            tensor is None if snapshot is None else snapshot.is_of(tensor)
            for tensor, snapshot in zip(tensors, self._snapshots, strict=True)
        )


_kept_by_bias = WeakTensorKeyDictionary()  # a merged matrix is freed with its bias


def merge(
    layer: Any, hidden_states: Any, mask: Any, position_bias: Any, kwargs: dict[str, Any]
) -> torch.Tensor | None:
    """Merge bias and mask as ``sdpa`` does, once for all layers; None if ``sdpa`` must do it.

    The result is kept as long as the bias, which the model passes from layer to layer. An axis
    that broadcasts in both, as in the bias of `no_bias`, broadcasts in the result.
    """
    if position_bias is None:
        return None
    length = hidden_states.shape[1]
    causal = mask is None and length > 1 and layer.is_causal
    if mask is None and not causal and position_bias.is_contiguous():
        return None  # sdpa uses it as it is
    if not is_plain(layer, hidden_states, mask, kwargs):
        return None
    if not _can_merge(hidden_states, mask, position_bias, causal):
        return None
    tensors = (position_bias, mask)
    kept: Kept | None = _kept_by_bias.get(position_bias)
    if kept is None or not kept.is_of(tensors, causal):
        matrix = _merge(position_bias, mask, causal, length)
        kept = _kept_by_bias[position_bias] = Kept(matrix, tensors, causal)
    return kept.result


def _can_merge(hidden_states: Any, mask: Any, position_bias: Any, causal: bool) -> bool:
    key_length = position_bias.shape[-1]
    return (
        not needs_gradient(position_bias)  # checkpoints compare the tensors that each layer saves
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


# ---- a bias of zeros ----


def no_bias(
    layer: Any, hidden_states: torch.Tensor, key_length: int, least_nbytes: int
) -> torch.Tensor:
    """Make the zeros of cross-attention's bias; if there are many, they share one item's memory."""
    shape = (1, layer.n_heads, hidden_states.shape[1], key_length)
    with torch.inference_mode(False):
        if math.prod(shape) * hidden_states.element_size() <= least_nbytes:
            return hidden_states.new_zeros(shape)
        return hidden_states.new_zeros(1).expand(shape)


# ---- a mark on storages: sdpa uses another kernel if its mask requires a gradient ----


def mark_heads_last(bias: torch.Tensor) -> None:
    """Mark the storage of a bias that transformers makes with heads last in memory.

    Transformers' ``sdpa`` makes a contiguous copy of it, which requires no gradient under
    ``no_grad``. Our bias is contiguous already, so it would still require one. Checkpoints
    pass on views of the bias, which share its storage and thus the mark.
    """
    *_, num_heads, query_length, key_length = bias.shape
    if num_heads > 1 and (query_length, key_length) != (1, 1):  # else both are contiguous
        storage: Any = bias.untyped_storage()
        storage._t5bucket_heads_last = True


def is_copied_without_gradient(bias: Any) -> bool:
    """Whether ``sdpa`` would copy transformers' own bias, so that it requires no gradient."""
    return (
        bias is not None
        and bias.requires_grad
        and not torch.is_grad_enabled()
        and is_eager(bias)
        and copies_bias()
        and hasattr(bias.untyped_storage(), "_t5bucket_heads_last")
    )
