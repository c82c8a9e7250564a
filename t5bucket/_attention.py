# _attention.py - attention with a bias by NumPy alone, in strips of queries.
# SPDX-License-Identifier: BSD-3-Clause
"""A strip holds the scores of some queries and heads of one example. It fits in the cache.

NumPy's BLAS multiplies matrices, and the C core adds biases and masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from t5bucket import _checks
from t5bucket._arrays import allocate, broadcast, is_direct, round_floats, take_example
from t5bucket._masks import Masks
from t5bucket._threads import run

STRIP_NBYTES = 8 << 20
QUERIES = 512  # of a strip, unless so many are too large: fewer make products of matrices slow
LEAST_QUERIES = 16
CHUNK_NBYTES = 1 << 20  # of scores: smaller ones make two threads wait for each other
COST_OF_EXP = 8  # times that of writing a score


class Part(NamedTuple):
    """A strip's place in the scores (..., num_heads, q, k); all examples if that is `...`."""

    example: Any
    heads: slice
    rows: slice
    keys: slice


# Adds bias and masks to the scores of a part.
AddBias = Callable[[Part, NDArray[Any]], object]
# Finds the keys that some queries of an example see.
FindKeys = Callable[[Any, slice], slice]


class Inputs(NamedTuple):
    """Query, key and value, each (..., num_heads, length, size), in one dtype."""

    query: NDArray[Any]
    key: NDArray[Any]
    value: NDArray[Any]

    @property
    def batch_shape(self) -> tuple[int, ...] | None:
        """Batch shape of the three together; None if they do not broadcast."""
        return broadcast(*(array.shape[:-3] for array in self))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an example's scores, (num_heads, q, k)."""
        num_heads, query_length = self.query.shape[-3:-1]
        return num_heads, query_length, self.key.shape[-2]

    def take(self, example: Any, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
        """Take an example's query, key and value, in the dtype to compute in, for BLAS."""
        for array in self:
            own = array if example is ... else take_example(array, example, 3)
            yield own if _is_ready(own, dtype) else np.ascontiguousarray(own, dtype)


def _is_ready(array: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Whether BLAS can read an array (..., num_heads, length, size)."""
    # Old versions of NumPy do not use BLAS if rows overlap or are in reverse order.
    has_rows = array.strides[-2] >= array.shape[-1] * array.itemsize
    return array.dtype == dtype and is_direct(array) and has_rows


def computing_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype to compute in: 16-bit types are widened."""
    return np.dtype(np.float64 if dtype.name == "float64" else np.float32)


def check_inputs(
    query: ArrayLike, key: ArrayLike, value: ArrayLike, num_heads: int, dtype: np.dtype[Any]
) -> Inputs:
    """Check that query, key and value have the bias's heads and dtype, and fit together."""
    arrays = []
    for name, given in (("query", query), ("key", key), ("value", value)):
        array = _checks.same_dtype(name, _checks.as_array(name, given), dtype)
        if array.ndim < 3 or array.shape[-3] != num_heads:
            raise ValueError(
                f"{name} must have shape (..., {num_heads}, length, size), got {array.shape}"
            )
        arrays.append(array)
    inputs = Inputs(*arrays)
    size, length = inputs.query.shape[-1], inputs.key.shape[-2]
    if inputs.key.shape[-1] != size:
        raise ValueError(f"key must have query's size, {size}, got shape {inputs.key.shape}")
    if inputs.value.shape[-2] != length:
        raise ValueError(f"value must have key's length, {length}, got shape {inputs.value.shape}")
    if inputs.batch_shape is None:
        given_shapes = ", ".join(str(array.shape[:-3]) for array in inputs)
        raise ValueError(
            f"query, key and value must broadcast on their batch axes, got {given_shapes}"
        )
    return inputs


def check_positions(
    inputs: Inputs, query: NDArray[Any], key: NDArray[Any], batch_shape: tuple[int, ...]
) -> tuple[int, ...]:
    """Check positions of each query and key against the inputs; return the batch shape of all."""
    _, *lengths = inputs.shape
    names = ("query_positions", "key_positions")
    for name, positions, length in zip(names, (query, key), lengths, strict=True):
        if positions.shape[-1] != length:
            raise ValueError(f"{name} must have shape (..., {length}), got {positions.shape}")
    own_shape = inputs.batch_shape or ()
    joined = broadcast(own_shape, batch_shape)
    if joined is None:
        raise ValueError(
            f"query_positions and key_positions must broadcast with a batch of shape "
            f"{own_shape}, got a batch of shape {batch_shape}"
        )
    return joined


def attend(
    inputs: Inputs,
    masks: Masks,
    positions: tuple[NDArray[Any], ...],
    add_bias: AddBias,
    find_keys: FindKeys,
    scale: Any,
    out: NDArray[Any] | None,
    num_threads: int,
) -> NDArray[Any]:
    """Check the other arguments, and attend; return the caller's ``out``, if there is one."""
    dtype = inputs.query.dtype.newbyteorder("=")
    scale = _checks.scale(scale, dtype == np.float64)
    shape = (*masks.batch_shape, *inputs.query.shape[-3:-1], inputs.value.shape[-1])
    target = result = _checks.output(out, shape, dtype)
    sources = (*inputs, *masks.arrays, *positions)
    if out is not None and any(np.may_share_memory(source, target) for source in sources):
        result = allocate(shape, dtype)
    try:
        with np.errstate(all="ignore"):
            is_uniform = not (masks.causal or masks.arrays or positions)
            _write(inputs, result, is_uniform, add_bias, find_keys, scale, num_threads)
    except MemoryError:
        shapes = ", ".join(str(array.shape) for array in inputs)
        raise MemoryError(
            f"parts of query, key and value must fit in memory, got shapes {shapes} of {dtype}"
        ) from None
    if result is not target:
        np.copyto(target, result)
    return target if out is None else out


def _write(
    inputs: Inputs,
    out: NDArray[Any],
    is_uniform: bool,
    add_bias: AddBias,
    find_keys: FindKeys,
    scale: float,
    num_threads: int,
) -> None:
    """Write ``out`` (..., num_heads, q, size), strip by strip.

    If all examples have the same bias, need no copies, and their scores fit in one strip,
    compute all at once.
    """
    if out.size == 0:
        return
    dtype = computing_dtype(out.dtype)
    num_heads, num_rows = _choose_strip(inputs.shape, dtype.itemsize)
    examples: Iterable[Any] = np.ndindex(out.shape[:-3])
    length = num_heads * num_rows * inputs.shape[2]
    total = math.prod((*out.shape[:-1], inputs.shape[2]))
    is_ready = all(_is_ready(array, dtype) for array in inputs)
    if is_uniform and is_ready and total * dtype.itemsize <= STRIP_NBYTES:
        (num_heads, num_rows, _), examples, length = inputs.shape, [...], total
    memory = allocate((length,), dtype)
    for example in examples:
        query, key, value = inputs.take(example, dtype)
        batch_shape = out[example].shape[:-3]
        for heads, rows in _list_strips(inputs.shape, num_heads, num_rows):
            keys = find_keys(example, rows)
            lengths = (place.stop - place.start for place in (heads, rows, keys))
            shape = (*batch_shape, *lengths)
            scores = memory[: math.prod(shape)].reshape(shape)
            strip = query[..., heads, rows, :]
            if scale != 1:
                strip = strip * dtype.type(scale)
            np.matmul(strip, key[..., heads, keys, :].swapaxes(-1, -2), out=scores)
            add_bias(Part(example, heads, rows, keys), scores)
            sums = _exponentiate(scores, num_threads)
            attended = np.matmul(scores, value[..., heads, keys, :])
            attended /= sums
            out[example][..., heads, rows, :] = round_floats(attended, out.dtype)


def _choose_strip(shape: tuple[int, int, int], itemsize: int) -> tuple[int, int]:
    """Choose how many heads and queries a strip has, for scores of a shape."""
    num_heads, q, k = shape
    count = STRIP_NBYTES // itemsize
    num_rows = min(q, QUERIES, max(LEAST_QUERIES, count // max(1, k)))
    return min(num_heads, max(1, count // max(1, num_rows * k))), num_rows


def _list_strips(
    shape: tuple[int, int, int], num_heads: int, num_rows: int
) -> Iterator[tuple[slice, slice]]:
    for head in range(0, shape[0], num_heads):
        for row in range(0, shape[1], num_rows):
            heads = slice(head, min(shape[0], head + num_heads))
            yield heads, slice(row, min(shape[1], row + num_rows))


def _exponentiate(scores: NDArray[Any], num_threads: int) -> NDArray[Any]:
    """Replace scores by their exponentials, less the largest of each row; return the sums."""
    if scores.shape[-1] == 0:
        return np.ones((*scores.shape[:-1], 1), scores.dtype)
    rows = scores.reshape(-1, scores.shape[-1])
    sums = np.empty((len(rows), 1), scores.dtype)
    work = partial(_exponentiate_rows, rows, sums)
    run(work, len(rows), COST_OF_EXP * scores.nbytes, num_threads)
    return sums.reshape(*scores.shape[:-1], 1)


def _exponentiate_rows(rows: NDArray[Any], sums: NDArray[Any], begin: int, end: int) -> None:
    step = max(1, CHUNK_NBYTES // rows[0].nbytes)
    with np.errstate(all="ignore"):  # each thread has its own
        for first in range(begin, end, step):
            chunk = rows[first : min(end, first + step)]
            most = chunk.max(axis=1, keepdims=True)
            most[most == -math.inf] = 0  # rows without a key get zeros, as from PyTorch
            chunk -= most
            np.exp(chunk, out=chunk)
            total = chunk.sum(axis=1, keepdims=True)
            total[total == 0] = 1
            sums[first : first + len(chunk)] = total
