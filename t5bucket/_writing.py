# _writing.py - write a table's items into arrays: flatten, choose and call a kernel. No checks.
# SPDX-License-Identifier: BSD-3-Clause
"""``is_new`` means that the output was allocated for this call.

``offset`` is the relative position of query 0 and key 0 (tokens, any size).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t5bucket import _core
from t5bucket._arrays import (
    allocate,
    flatten,
    integer_code,
    is_contiguous,
    is_direct,
    is_flat,
    too_large,
)
from t5bucket._machine import CACHE_NBYTES
from t5bucket._masks import Masks
from t5bucket._positions import consecutive_pairs, divide_pairs
from t5bucket._table import RelativeTable
from t5bucket._threads import PART_NBYTES, run

# Larger outputs are written past the caches. On a processor with a cache of 32 MiB,
# ordinary stores are twice as fast up to 12 MiB, and half as fast from 19 MiB on.
# New memory is an exception: the system has just filled it with zeros, through the caches.
STREAM_NBYTES = CACHE_NBYTES // 2
# So few elements, of at most 8 bytes, are neither divided nor streamed.
SMALL_COUNT = min(PART_NBYTES, STREAM_NBYTES) // 8


# ---- consecutive positions ----


def view_consecutive(
    table: RelativeTable, query_length: int, key_length: int, offset: int
) -> NDArray[Any]:
    """Make a read-only matrix whose rows are windows of one vector for each head."""
    shape = (table.num_heads, query_length, key_length)
    if query_length == 0 or key_length == 0:
        matrix = allocate(shape, table.dtype)
        matrix.flags.writeable = False
        return matrix
    diagonals = table.make_diagonals(query_length, key_length, offset)
    diagonals.flags.writeable = False
    try:
        return _window(diagonals, query_length, key_length)
    except ValueError:  # the size of a view must fit in an address, too
        raise too_large(shape, table.dtype) from None


def make_block(
    table: RelativeTable, rows: slice, columns: slice, offset: int, num_threads: int | None
) -> NDArray[Any]:
    """Make a block (num_heads, rows, columns) of a matrix, at any positions."""
    shape = (table.num_heads, rows.stop - rows.start, columns.stop - columns.start)
    block = allocate(shape, table.dtype)
    copy_consecutive(table, block, offset + columns.start - rows.start, num_threads, True)
    return block


def copy_consecutive(
    table: RelativeTable,
    out: NDArray[Any],
    offset: int,
    num_threads: int | None,
    is_new: bool = False,
) -> None:
    """Write ``out`` (num_heads, q, k), of any layout; each row is a window of the diagonals."""
    num_heads, query_length, key_length = out.shape
    if query_length == 1 and (is_new or is_direct(out)):
        table.fill_diagonals(out, offset, key_length)
        return
    if out.size == 0:
        return
    diagonals = table.make_diagonals(query_length, key_length, offset)
    if is_new or is_direct(out):
        copy = partial(_core.copy_diagonals, diagonals, out, _streams(out, is_new))
        run(copy, num_heads * query_length, out.nbytes, num_threads)
        return
    window = _window(diagonals, query_length, key_length)
    run(
        lambda begin, end: np.copyto(out[:, begin:end], window[:, begin:end]),
        query_length,
        out.nbytes,
        num_threads,
    )


def write_consecutive(
    table: RelativeTable,
    out: NDArray[Any],
    offset: int,
    num_threads: int | None,
    is_new: bool,
    masks: Masks,
    accumulate: bool,
) -> None:
    """Write, or add to, ``out`` (..., num_heads, q, k), of any layout, with masks."""
    if out.size == 0:
        return
    query_length, key_length = out.shape[-2:]
    diagonals = table.make_diagonals(query_length, key_length, offset)
    causal = None
    if masks.causal and (accumulate or masks.is_adding):
        causal = consecutive_pairs(query_length, key_length, offset)
    elif masks.causal:  # the diagonal alone decides whether a key is in the future
        visible = max(0, min(query_length - offset, query_length + key_length - 1))
        diagonals[:, visible:] = masks.masked_item
    flat = flatten(out, accumulate)
    streaming = _streams(out, is_new or accumulate or not is_flat(out))
    epilogue = masks.make_epilogue(causal, accumulate)
    write = partial(_core.write_diagonals, diagonals, epilogue, flat, streaming)
    run(write, len(flat) * query_length, flat.nbytes, num_threads)
    _copy_back(flat, out)


def _window(diagonals: NDArray[Any], query_length: int, key_length: int) -> NDArray[Any]:
    """``matrix[h, i, j] = diagonals[h, query_length - 1 - i + j]`` without a copy."""
    itemsize = diagonals.itemsize
    return np.ndarray(
        (len(diagonals), query_length, key_length),
        diagonals.dtype,
        buffer=diagonals,
        offset=(query_length - 1) * itemsize,
        strides=(diagonals.strides[0], -itemsize, itemsize),
    )


# ---- explicit positions ----


def write_explicit(
    table: RelativeTable,
    out: NDArray[Any],
    query_positions: NDArray[Any],
    key_positions: NDArray[Any],
    num_threads: int | None,
    is_new: bool = False,
    masks: Masks | None = None,
    accumulate: bool = False,
) -> None:
    """Write ``out`` (..., num_heads, q, k) for positions (..., q) and (..., k), of any layout."""
    if out.size == 0:
        return
    parts = divide_pairs(query_positions, key_positions, out.shape)
    flat = flatten(out, accumulate)
    streaming = _streams(out, is_new or accumulate or not is_flat(out))
    epilogue = None if masks is None else masks.make_epilogue(None, accumulate)
    causal = masks is not None and masks.causal
    for part in parts:
        matrix = part.cut(flat)
        finish = part.cut_epilogue(epilogue, causal)
        write = partial(table.pairs_core.write_pairs, part.pairs, finish, matrix, streaming)
        run(write, len(matrix) * matrix.shape[2], matrix.nbytes, num_threads)
    _copy_back(flat, out)


# ---- relative positions, element by element ----


def write_elementwise(
    table: RelativeTable,
    out: NDArray[Any],
    relative_position: NDArray[Any],
    num_threads: int | None,
    is_new: bool = False,
) -> None:
    """Write the first head's item for each relative position; any layout, same shape."""
    look_up = table.elementwise.look_up
    dtype = relative_position.dtype
    code = integer_code(dtype)
    if out.ndim > 1 and relative_position.flags.f_contiguous and out.flags.f_contiguous:
        relative_position, out = relative_position.T, out.T
    if is_contiguous(relative_position) and is_contiguous(out):
        if not is_new and _overlaps(relative_position, out):
            relative_position = relative_position.copy()
        count = out.size
        if count <= SMALL_COUNT and (num_threads is None or num_threads == 1):
            look_up(relative_position, code, out, False, 0, count)  # as `run`, but faster
        else:
            write = partial(look_up, relative_position, code, out, _streams(out, is_new))
            run(write, count, max(out.nbytes, relative_position.nbytes), num_threads)
        return
    each: Any = ["contig", "aligned", "nbo"]
    with np.nditer(
        np.atleast_1d(relative_position, out),  # NumPy 1 gives 0-d arrays empty buffers
        flags=["external_loop", "buffered", "zerosize_ok", "copy_if_overlap"],
        op_flags=[["readonly", *each], ["writeonly", *each]],
        op_dtypes=[dtype.newbyteorder("="), table.dtype],
        casting="equiv",
    ) as chunks:
        for source, target in chunks:
            look_up(source, code, target, False, 0, target.size)


# ---- outputs ----


def _streams(out: NDArray[Any], is_new: bool) -> bool:
    """Whether to write past the caches."""
    return not is_new and out.nbytes > STREAM_NBYTES


def _copy_back(flat: NDArray[Any], out: NDArray[Any]) -> None:
    """Copy the result from `flat` into `out`, if kernels could not write `out` itself."""
    if not is_flat(out):
        np.copyto(out, flat.reshape(out.shape))


def _overlaps(source: NDArray[Any], out: NDArray[Any]) -> bool:
    """Whether writing could destroy items that are not read yet; not if each replaces its own."""
    if source.flags.owndata and out.flags.owndata:  # two different arrays, or the same array
        return False
    if not np.may_share_memory(source, out):
        return False
    return source.itemsize != out.itemsize or source.ctypes.data != out.ctypes.data
