# _arrays.py - make and view arrays; their shapes and layout; rounding of floats.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t5bucket import _core

Examples = tuple[slice, ...]  # places on the batch axes


def allocate(
    shape: tuple[int, ...], dtype: np.dtype[Any], like: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Allocate an array, in the memory order of another one, or raise MemoryError."""
    try:
        if like is None or like.flags.c_contiguous:
            return np.empty(shape, dtype)
        # Not `empty_like`: when NumPy 1 runs out of memory there, it releases the dtype twice.
        axes = sorted(range(like.ndim), key=lambda axis: -abs(like.strides[axis]))
        memory = np.empty([shape[axis] for axis in axes], dtype)
        return memory.transpose(sorted(range(like.ndim), key=axes.__getitem__))
    except (MemoryError, ValueError):  # ValueError: the size does not fit in an address
        raise too_large(shape, dtype) from None


def too_large(shape: tuple[int, ...], dtype: np.dtype[Any]) -> MemoryError:
    """Make the error for an array that cannot be made."""
    nbytes = math.prod(shape) * dtype.itemsize
    return MemoryError(
        f"the result must fit in memory, got shape {shape} of {dtype}: {nbytes:.3g} bytes"
    )


def view_tensor(tensor: Any, name: str = "tensor") -> NDArray[Any]:
    """View the memory of a PyTorch CPU tensor as an array, also if it requires a gradient.

    ``Tensor.numpy`` would forbid resizing the storage from then on, and has no bfloat16.
    """
    if not tensor.is_cpu:
        raise ValueError(f"{name} must be on the CPU, got device {tensor.device}")
    dtype = dtype_of_tensor(tensor.dtype, name)
    try:
        if tensor.is_neg():  # a flag says so; the items in memory are not negated
            tensor = tensor.resolve_neg()
        storage = tensor.untyped_storage()
        # Not `data_ptr`: it copies memory that a lazy clone shares.
        address = getattr(tensor, "const_data_ptr", tensor.data_ptr)()
        shape, strides, count = tensor.shape, None, tensor.numel()
        if not tensor.is_contiguous():
            sizes = list(zip(shape, tensor.stride(), strict=True))
            strides = [stride * dtype.itemsize for _, stride in sizes]
            count = 1 + sum((size - 1) * stride for size, stride in sizes)
        end = (tensor.storage_offset() + count) * dtype.itemsize
        is_readable = count == 0 or (address != 0 and end <= storage.nbytes())
    except (RuntimeError, ValueError):  # sparse, nested, uninitialized, inside of a transform
        is_readable = False
    if not is_readable:
        raise TypeError(
            f"{name} must be a tensor whose items are in memory, got {_describe(tensor)}"
        )
    # Keep the storage alive. Keeping the tensor is not enough: its storage can be replaced.
    memory = _core.Memory(storage, address, count * dtype.itemsize)
    return np.ndarray(shape, dtype, memory, 0, strides)  # type: ignore[arg-type]


def _describe(tensor: Any) -> str:
    """Say why the memory of a tensor cannot be viewed."""
    if tensor.is_nested:
        return "a nested one"
    layout = str(tensor.layout).rpartition(".")[2]
    if layout != "strided":
        return f"one of layout {layout}"
    return f"a {type(tensor).__name__} without memory of its own"


@lru_cache
def dtype_of_tensor(dtype: Any, name: str = "tensor") -> np.dtype[Any]:
    """Return NumPy's equivalent of a dtype of PyTorch."""
    word = str(dtype).rpartition(".")[2]
    if word == "bfloat16":
        return bfloat16()
    try:
        return np.dtype(word)
    except TypeError:
        raise TypeError(f"{name} must have a dtype that NumPy has, got {dtype}") from None


FLOAT_NAMES = ("float16", "bfloat16", "float32", "float64")  # in the order of t5b_float


@lru_cache
def float_code(dtype: np.dtype[Any]) -> int:
    """Return the C core's t5b_float of a dtype."""
    return FLOAT_NAMES.index(dtype.name)


def integer_code(dtype: np.dtype[Any]) -> int:
    """Return the C core's t5b_integer of a dtype."""
    return dtype.itemsize if dtype.kind == "u" else -dtype.itemsize


def is_contiguous(array: NDArray[Any]) -> bool:
    """Whether a kernel can read or write all of this array as one run."""
    flags = array.flags
    return flags.c_contiguous and flags.aligned and array.dtype.isnative


def is_flat(matrix: NDArray[Any]) -> bool:
    """Whether a kernel can read or write this matrix with one stride for all batch axes."""
    shape, strides = matrix.shape, matrix.strides
    return is_direct(matrix) and all(
        strides[axis] == strides[axis + 1] * shape[axis + 1] for axis in range(matrix.ndim - 4)
    )


def flatten(matrix: NDArray[Any], keeps_items: bool = True) -> NDArray[Any]:
    """View ``(..., num_heads, q, k)`` as ``(batch, num_heads, q, k)``, which kernels can use.

    If they cannot use the matrix, make a new one, with its items if `keeps_items`.
    """
    flat = matrix
    if not is_flat(matrix):
        flat = allocate(matrix.shape, matrix.dtype.newbyteorder("="))
        if keeps_items:
            np.copyto(flat, matrix)
    return flat.reshape(-1, *matrix.shape[-3:])


def is_direct(array: NDArray[Any]) -> bool:
    """Whether a kernel can read or write this array: native byte order, contiguous last axis."""
    flags = array.flags
    return (
        flags.aligned
        and array.dtype.isnative
        and (flags.c_contiguous or array.shape[-1] <= 1 or array.strides[-1] == array.itemsize)
    )


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape that all shapes broadcast to, or None.

    `np.broadcast_shapes` stops at 32 axes, and at shapes of more than 2**63 items.
    """
    num_axes = max(map(len, shapes), default=0)
    padded = [(1,) * (num_axes - len(shape)) + shape for shape in shapes]
    result = []
    for sizes in zip(*padded, strict=True):
        others = set(sizes) - {1}
        if len(others) > 1:
            return None
        result.append(others.pop() if others else 1)
    return tuple(result)


def cut(array: NDArray[Any], *places: slice) -> NDArray[Any]:
    """View places on an array's last axes, where these do not broadcast."""
    own = places[len(places) - array.ndim :]
    sizes = zip(array.shape, own, strict=True)
    return array[tuple(slice(None) if size == 1 else place for size, place in sizes)]


def bfloat16() -> np.dtype[Any]:
    """Return the bfloat16 dtype."""
    return extension_dtype("bfloat16")


def extension_dtype(name: str) -> np.dtype[Any]:
    """Return a dtype that an optional package adds to NumPy."""
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError(f"{name} needs ml_dtypes: pip install 't5bucket[bfloat16]'") from None
    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return dtype


@lru_cache
def finite_minimum(dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the least finite number of a floating-point type, in an array of one."""
    is_bfloat16 = dtype.name == "bfloat16"  # not one of NumPy's own types
    minimum = np.array([0xFF7F], np.uint16) if is_bfloat16 else np.finfo(dtype).min
    array: NDArray[Any] = np.asarray(minimum).view(dtype).reshape(1)
    array.flags.writeable = False
    return array


def round_floats(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert floats with one rounding; values beyond the dtype's range become infinite."""
    if array.dtype == dtype:
        return array
    with np.errstate(all="ignore"):
        if dtype.name != "bfloat16" or array.dtype.name != "float64":
            return array.astype(dtype, copy=False)
        # Via float32, whose last bit records whether any bits were cut off: "round to odd".
        single = array.astype(np.float32)
        bits = single.view(np.uint32)
        bits -= np.abs(single) > np.abs(array)
        bits |= single.astype(np.float64) != array
        return single.astype(dtype)
