# _attention.py - attention with a bias by NumPy alone, in strips of queries.
# SPDX-License-Identifier: BSD-3-Clause
"""A strip holds the scores of some queries and heads of one example, or of some small examples.

NumPy's BLAS multiplies matrices, and the C core adds biases and masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from t5bucket import _checks
from t5bucket._arrays import Examples, allocate, broadcast, cut, is_direct, round_floats
from t5bucket._masks import Masks
from t5bucket._threads import run

STRIP_NBYTES = 8 << 20
QUERIES = 512  # of a strip, unless so many are too large: fewer make products of matrices slow
LEAST_QUERIES = 16
CHUNK_NBYTES = 1 << 20  # of scores: smaller ones make two threads wait for each other
SMALL_COUNT = 1 << 14  # of an example's scores
COST_OF_EXP = 8  # times that of writing a score


class Part(NamedTuple):
    """A strip's place in the scores (..., num_heads, q, k)."""

    examples: Examples
    heads: slice
    rows: slice
    keys: slice

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the strip."""
        places = (*self.examples, self.heads, self.rows, self.keys)
        return tuple(place.stop - place.start for place in places)


# Adds bias and masks to the scores of a part.
AddBias = Callable[[Part, NDArray[Any]], object]
# Finds the keys that some queries of an example see.
FindKeys = Callable[[Examples, slice], slice]


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

    def take(self, examples: Examples, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
        """Take query, key and value of examples, in the dtype to compute in, for BLAS."""
        every = slice(None)
        for array in self:
            own = cut(array, *examples, every, every, every)
            yield own if _is_ready(own, dtype) else np.ascontiguousarray(own, dtype)


def _is_ready(array: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Whether BLAS can read an array (..., num_heads, length, size)."""
    # Old versions of NumPy do not use BLAS if rows overlap or are in reverse order.
    has_rows = array.strides[-2] >= array.shape[-1] * array.itemsize
    return array.dtype == dtype and is_direct(array) and has_rows


def computing_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype to compute in: 16-bit types are widened."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


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
    """Write ``out`` (..., num_heads, q, size), strip by strip."""
    if out.size == 0:
        return
    dtype = computing_dtype(out.dtype)
    batch_shape, every = out.shape[:-3], slice(0, inputs.shape[2])
    num_examples, num_heads, num_rows = _choose_strip(inputs, is_uniform, dtype.itemsize)
    num_examples = min(num_examples, math.prod(batch_shape))
    memory = allocate((num_examples * num_heads * num_rows * inputs.shape[2],), dtype)
    for examples in _list_examples(batch_shape, num_examples):
        query, key, value = inputs.take(examples, dtype)
        target = out[examples]
        for heads, rows in _list_strips(inputs.shape, num_heads, num_rows):
            keys = find_keys(examples, rows) if num_examples == 1 else every
            part = Part(examples, heads, rows, keys)
            shape = part.shape
            scores = memory[: math.prod(shape)].reshape(shape)
            strip = query[..., heads, rows, :]
            if scale != 1:
                strip = strip * dtype.type(scale)
            np.matmul(strip, key[..., heads, keys, :].swapaxes(-1, -2), out=scores)
            add_bias(part, scores)
            sums = _exponentiate(scores, num_threads)
            attended = np.matmul(scores, value[..., heads, keys, :])
            attended /= sums
            target[..., heads, rows, :] = round_floats(attended, out.dtype)


def _choose_strip(inputs: Inputs, is_uniform: bool, itemsize: int) -> tuple[int, int, int]:
    """Choose how many examples, heads and queries a strip has.

    More examples than one if all have the same bias, or if these are so small that calls take
    longer than the arithmetic. No keys are skipped then.
    """
    num_heads, q, k = inputs.shape
    count = STRIP_NBYTES // itemsize
    size = num_heads * q * k
    if size <= (count if is_uniform else SMALL_COUNT):
        largest = max(1, size, *(math.prod(array.shape[-3:]) for array in inputs))
        return max(1, count // largest), num_heads, q
    num_rows = min(q, QUERIES, max(LEAST_QUERIES, count // max(1, k)))
    return 1, min(num_heads, max(1, count // max(1, num_rows * k))), num_rows


def _list_examples(batch_shape: tuple[int, ...], count: int) -> Iterator[Examples]:
    """Divide a batch into groups of at most `count` examples."""
    axis, num_inner = len(batch_shape), 1
    while axis > 0 and num_inner * batch_shape[axis - 1] <= count:
        axis -= 1
        num_inner *= batch_shape[axis]
    inner = tuple(slice(0, length) for length in batch_shape[axis:])
    if axis == 0:
        yield inner
        return
    *outer_shape, length = batch_shape[:axis]
    step = max(1, count // num_inner)
    for index in np.ndindex(*outer_shape):
        outer = tuple(slice(i, i + 1) for i in index)
        for first in range(0, length, step):
            yield (*outer, slice(first, min(length, first + step)), *inner)


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
