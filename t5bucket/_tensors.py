# _tensors.py - biases of CPU tensors as arrays of NumPy, without PyTorch's operators.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch._C import _get_tracing_state, _len_torch_dispatch_stack
from torch.autograd import forward_ad

from t5bucket._arrays import allocate, dtype_of_tensor, view_tensor
from t5bucket._bias import RelativeAttentionBias
from t5bucket._buckets import Buckets
from t5bucket._threads import choose_num_threads

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter)
MAX_KEPT_NBYTES = 16 << 10  # of a weight whose bias is kept for the next call


# ---- which tensors can go without the operators ----


def is_plain(*tensors: torch.Tensor | None) -> bool:
    """Whether these are tensors in the CPU's memory, and nothing traces or transforms them."""
    return not _is_watched() and all(
        tensor is None or (type(tensor) in PLAIN_TYPES and tensor.is_cpu) for tensor in tensors
    )


def _is_watched() -> bool:
    # Compiled or exported, traced, fake or counted, transformed, differentiated forwards.
    return bool(
        torch.compiler.is_compiling()
        or _get_tracing_state() is not None
        or _len_torch_dispatch_stack()
        or is_transformed()
    )


def is_transformed() -> bool:
    """Whether a transform of ``torch.func``, or forward mode, is active; compiled or not."""
    return bool(torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0)


def needs_gradient(tensor: torch.Tensor) -> bool:
    """Whether what is computed from a tensor will be differentiated."""
    return bool(tensor.requires_grad and torch.is_grad_enabled())


# ---- tensors as arrays, without a copy ----


def mask_options(mask: torch.Tensor | None, causal: bool, linear: bool) -> dict[str, Any]:
    """Masks in NumPy's terms; of a `linear` bias, masked pairs are 0 and nothing is added."""
    array: NDArray[Any] | None = None
    if mask is not None:
        array = view_tensor(mask, "mask")
        if linear and mask.dtype != torch.bool:
            array = np.broadcast_to(True, array.shape)
    return {"mask": array, "causal": causal}


def num_threads_of(tensor: torch.Tensor) -> int:
    """As many as pay, and not more than PyTorch itself would use."""
    nbytes = tensor.numel() * tensor.element_size()
    return min(choose_num_threads(nbytes), int(torch.get_num_threads()))


def bias_of(weight: torch.Tensor, buckets: Buckets) -> RelativeAttentionBias:
    """Find the bias of a weight by what the weight holds, since it may have changed."""
    array = view_tensor(weight, "weight")
    if array.nbytes > MAX_KEPT_NBYTES:
        return RelativeAttentionBias(array, buckets)
    return _make_bias(array.tobytes(), array.dtype, array.shape, buckets)


@lru_cache(maxsize=256)
def _make_bias(
    items: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], buckets: Buckets
) -> RelativeAttentionBias:
    return RelativeAttentionBias(np.frombuffer(items, dtype).reshape(shape), buckets)


def batch_axes(mask: torch.Tensor | None, *positions: torch.Tensor) -> tuple[Any, ...]:
    """Batch axes of a matrix."""
    shapes = [tensor.shape[:-1] for tensor in positions]
    if mask is not None:
        shapes.append(mask.shape[:-3])
    try:
        return tuple(torch.broadcast_shapes(*shapes)) if shapes else ()
    except RuntimeError:
        given = ", ".join(str(tuple(shape)) for shape in shapes)
        raise ValueError(
            f"mask and positions must broadcast on their batch axes, got {given}"
        ) from None


def result_shape(weight: torch.Tensor, batch: tuple[Any, ...], q: Any, k: Any) -> tuple[Any, ...]:
    """Shape of a result, with one batch axis at least."""
    return (*(batch or (1,)), weight.shape[1], q, k)


def allocate_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Allocate by NumPy, which asks for huge pages: new memory is written four times faster."""
    return _allocate(shape, dtype)[0]


def _allocate(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, NDArray[Any]]:
    """Allocate a tensor; return it with an array of the same memory."""
    array = allocate(shape, dtype_of_tensor(dtype))
    if dtype == torch.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(dtype), array
    return torch.from_numpy(array), array


# ---- biases ----


def fill_bias(
    weight: torch.Tensor,
    mask: torch.Tensor | None,
    buckets: Buckets,
    query_length: int,
    key_length: int,
    query_offset: int,
    key_offset: int,
    causal: bool = False,
    scale: float | None = None,
    linear: bool = False,
) -> torch.Tensor:
    """Compute the bias of plain tensors; of a `linear` one, masked pairs are 0."""
    batch = batch_axes(mask)
    shape = result_shape(weight, batch, query_length, key_length)
    result, out = _allocate(shape, weight.dtype)
    bias_of(weight, buckets).matrix(
        query_length,
        key_length,
        query_offset=query_offset,
        key_offset=key_offset,
        masked_value=0 if linear else None,
        scale=scale,
        out=out if batch else out[0],
        num_threads=num_threads_of(result),
        **mask_options(mask, causal, linear),
    )
    return result


def fill_bias_at(
    weight: torch.Tensor,
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    mask: torch.Tensor | None,
    buckets: Buckets,
    causal: bool = False,
    scale: float | None = None,
    linear: bool = False,
    onto: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute the bias of plain positions, or add it to another one.

    Of a `linear` bias, masked pairs are 0.
    """
    batch = batch_axes(mask, query_positions, key_positions)
    shape = result_shape(weight, batch, query_positions.shape[-1], key_positions.shape[-1])
    result, out = _allocate(shape, weight.dtype) if onto is None else (onto, view_tensor(onto))
    bias_of(weight, buckets).matrix_at(
        view_tensor(query_positions, "query_positions"),
        view_tensor(key_positions, "key_positions"),
        masked_value=0 if linear else None,
        scale=scale,
        out=out if batch else out[0],
        num_threads=num_threads_of(result),
        accumulate=onto is not None,
        **mask_options(mask, causal, linear),
    )
    return result
