# _tensors.py - compute biases of CPU tensors as NumPy arrays, without PyTorch's operators.
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

FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGER_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
EAGER_TYPES = (torch.Tensor, torch.nn.Parameter)
MAX_KEPT_NBYTES = 16 << 10  # weights of at most this size are kept as a bias, for the next call


# ---- which tensors do not need the operators ----


def is_eager(*tensors: torch.Tensor | None) -> bool:
    """Whether all are eager CPU tensors: in memory, and not traced or transformed."""
    return not _is_watched() and all(
        tensor is None or (type(tensor) in EAGER_TYPES and tensor.is_cpu) for tensor in tensors
    )


def _is_watched() -> bool:
    """Whether PyTorch compiles, exports, traces, fakes, counts or transforms calls."""
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
    """Whether PyTorch records operations on a tensor to differentiate them."""
    return bool(tensor.requires_grad and torch.is_grad_enabled())


# ---- tensors as arrays, without a copy ----


def kernel_options(
    matrix: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    scale: float | None,
    linear_part: bool,
) -> dict[str, Any]:
    """Keyword arguments of all methods of `RelativeAttentionBias`, for this matrix.

    In the linear part of a bias, masked pairs are 0, and an additive mask only adds batch axes.
    """
    array: NDArray[Any] | None = None
    if mask is not None:
        array = view_tensor(mask, "mask")
        if linear_part and mask.dtype != torch.bool:
            array = np.broadcast_to(True, array.shape)
    num_threads = count_threads(matrix.numel() * matrix.element_size())
    return {"mask": array, "causal": causal, "scale": scale, "num_threads": num_threads}


def count_threads(nbytes: int) -> int:
    """Choose the number of threads for a matrix, at most PyTorch's."""
    return min(choose_num_threads(nbytes), int(torch.get_num_threads()))


def bias_of(weight: torch.Tensor, buckets: Buckets) -> RelativeAttentionBias:
    """Return the bias of a weight; look it up by the weight's values, which may have changed."""
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
    """Return the batch axes of a matrix."""
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


def broadcast_batch(*tensors: torch.Tensor) -> tuple[Any, ...]:
    """Return the batch axes of tensors (..., num_heads, length, size); often they are equal."""
    first, *others = (tensor.shape[:-3] for tensor in tensors)
    if all(shape == first for shape in others):
        return tuple(first)
    return tuple(torch.broadcast_shapes(first, *others))


def result_shape(weight: torch.Tensor, batch: tuple[Any, ...], q: Any, k: Any) -> tuple[Any, ...]:
    """Return the shape of a result, which has at least one batch axis."""
    return (*(batch or (1,)), weight.shape[1], q, k)


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype for additions of items of a dtype: float32 at least."""
    return torch.promote_types(dtype, torch.float32)


def allocate_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Allocate with NumPy, which requests huge pages: new memory is written four times faster."""
    if dtype == torch.bfloat16:  # in NumPy only with an optional package
        return torch.from_numpy(allocate(shape, np.dtype(np.int16))).view(dtype)
    return torch.from_numpy(allocate(shape, dtype_of_tensor(dtype)))


def allocate_both(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, NDArray[Any]]:
    """Allocate a tensor; return it with an array that shares its memory.

    It is not an inference tensor: those do not count how often they are written to.
    """
    array = allocate(shape, dtype_of_tensor(dtype))
    items = array.view(np.int16) if dtype == torch.bfloat16 else array
    with torch.inference_mode(False):
        return torch.from_numpy(items).view(dtype), array


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
    linear_part: bool = False,
) -> torch.Tensor:
    """Compute the bias of consecutive positions, or its linear part."""
    batch = batch_axes(mask)
    shape = result_shape(weight, batch, query_length, key_length)
    result, out = allocate_both(shape, weight.dtype)
    bias_of(weight, buckets).matrix(
        query_length,
        key_length,
        query_offset=query_offset,
        key_offset=key_offset,
        masked_value=0 if linear_part else None,
        out=out if batch else out[0],
        **kernel_options(result, mask, causal, scale, linear_part),
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
    linear_part: bool = False,
    onto: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute the bias of explicit positions, or its linear part; add it to `onto` if given."""
    batch = batch_axes(mask, query_positions, key_positions)
    shape = result_shape(weight, batch, query_positions.shape[-1], key_positions.shape[-1])
    result, out = allocate_both(shape, weight.dtype) if onto is None else (onto, view_tensor(onto))
    bias_of(weight, buckets).matrix_at(
        view_tensor(query_positions, "query_positions"),
        view_tensor(key_positions, "key_positions"),
        masked_value=0 if linear_part else None,
        out=out if batch else out[0],
        accumulate=onto is not None,
        **kernel_options(result, mask, causal, scale, linear_part),
    )
    return result
