# _table.py - items by relative position, written over grids: what buckets and biases share.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t5bucket import _core
from t5bucket._checks import INT64_MAX, INT64_MIN, allocate, is_direct
from t5bucket._machine import CACHE_NBYTES
from t5bucket._positions import flatten_batch, to_int64
from t5bucket._rule import Rule
from t5bucket._threads import PART_NBYTES, run

# A table with an item for each token where the rule changes is read by index, if
# it stays within a second-level cache; a larger one is searched.
MAX_INDEXED_NBYTES = 1 << 20
# Longer rows are filled in pieces, so that Ctrl-C is answered.
MAX_ROW_LENGTH = 1 << 22
# Larger outputs are written past the caches. Copying rows on a processor with a
# cache of 32 MiB, ordinary stores win up to 12 MiB by a factor of two, and lose
# from 19 MiB on by the same. New memory is the exception: the system has just
# filled it with zeros, through the caches.
STREAM_NBYTES = CACHE_NBYTES // 2
# So few elements, of 8 bytes at most, are neither divided nor streamed.
SMALL_COUNT = min(PART_NBYTES, STREAM_NBYTES) // 8


class RelativeTable:
    """A row of items for each head, one item for each range of a rule.

    Buckets are one row of integers, a bias is a row of weights for each head;
    all that follows copies items by their size. Arguments have been checked:
    ``offset`` is the relative position of query 0 and key 0 (tokens, any size),
    and an output that `is_new` was allocated for this call alone.

    Parameters
    ----------
    rule : Rule
    items : array, shape (num_heads, num_ranges), C-contiguous
    counter : Counter, optional
        Gives the same items element by element, but faster.
    """

    def __init__(
        self, rule: Rule, items: NDArray[Any], counter: _core.Counter | None = None
    ) -> None:
        self._items = items
        starts = rule.start_list or [0]
        self._first_start, self._last_start = starts[0], starts[-1]
        indexed_length = starts[-1] - starts[0] + 2
        indexed_nbytes = indexed_length * len(items) * items.itemsize
        if len(starts) == 1 or indexed_nbytes > MAX_INDEXED_NBYTES:
            self._table = _core.Table(items, rule.starts)
        else:
            widths = np.concatenate(([1], np.diff(rule.starts), [1]))
            self._table = _core.Table(np.repeat(items, widths, axis=1), None, starts[0] - 1)
        self._elements: _core.Lookup = counter or self._table

    # ---- consecutive positions: (num_heads, query_length, key_length) ----

    def _diagonals(self, query_length: int, key_length: int, offset: int) -> NDArray[Any]:
        shape = (len(self._items), query_length + key_length - 1)
        diagonals = allocate(shape, self._items.dtype)
        self._fill_diagonals(diagonals, offset - query_length + 1, shape[1])
        return diagonals

    def _fill_diagonals(self, diagonals: NDArray[Any], first: int, count: int) -> None:
        # Outside of the rule's starts all items are the same: move there what int64 cannot hold.
        if first > self._last_start:
            first = self._last_start
        elif first < self._first_start - count:
            first = self._first_start - count
        for begin in range(0, count, MAX_ROW_LENGTH):
            end = begin + MAX_ROW_LENGTH
            piece = diagonals[..., begin:end] if count > MAX_ROW_LENGTH else diagonals
            self._table.fill_diagonals(piece, first + begin)

    def view(self, query_length: int, key_length: int, offset: int) -> NDArray[Any]:
        """Read-only matrix whose rows are windows of one vector for each head."""
        if query_length == 0 or key_length == 0:
            empty = np.empty((len(self._items), query_length, key_length), self._items.dtype)
            empty.flags.writeable = False
            return empty
        diagonals = self._diagonals(query_length, key_length, offset)
        diagonals.flags.writeable = False
        return _window(diagonals, query_length, key_length)

    def fill_matrix(
        self, out: NDArray[Any], offset: int, num_threads: int | None, is_new: bool = False
    ) -> None:
        """Write every row of ``out`` (num_heads, query, key), of any layout."""
        num_heads, query_length, key_length = out.shape
        if query_length == 0 or key_length == 0:
            return
        if query_length == 1 and (is_new or is_direct(out)):
            self._fill_diagonals(out, offset, key_length)
            return
        diagonals = self._diagonals(query_length, key_length, offset)
        if is_new or is_direct(out):
            copy = partial(_core.copy_diagonals, diagonals, out, _streams(out, is_new))
            run(copy, num_heads * query_length, out.nbytes, num_threads)
        else:
            window = _window(diagonals, query_length, key_length)
            run(
                lambda begin, end: np.copyto(out[:, begin:end], window[:, begin:end]),
                query_length,
                out.nbytes,
                num_threads,
            )

    # ---- positions that are data ----

    def fill(
        self,
        out: NDArray[Any],
        positions: NDArray[Any],
        num_threads: int | None,
        is_new: bool = False,
    ) -> None:
        """Write the first head's item for each of ``positions``; any layout, same shape."""
        lookup = self._elements.lookup
        dtype = positions.dtype
        code = dtype.itemsize if dtype.kind == "u" else -dtype.itemsize  # the C core's t5b_integer
        if positions.ndim > 1 and positions.flags.f_contiguous and out.flags.f_contiguous:
            positions, out = positions.T, out.T
        if _is_plain(positions) and _is_plain(out):
            if not is_new and _overlaps(positions, out):
                positions = positions.copy()
            count = out.size
            if count <= SMALL_COUNT and (num_threads is None or num_threads == 1):
                lookup(positions, code, out, False, 0, count)  # what `run` would do, but sooner
            else:
                work = partial(lookup, positions, code, out, _streams(out, is_new))
                run(work, count, max(out.nbytes, positions.nbytes), num_threads)
            return
        each: Any = ["contig", "aligned", "nbo"]
        with np.nditer(
            np.atleast_1d(positions, out),  # NumPy 1 leaves the buffers of a 0-d array empty
            flags=["external_loop", "buffered", "zerosize_ok", "copy_if_overlap"],
            op_flags=[["readonly", *each], ["writeonly", *each]],
            op_dtypes=[dtype.newbyteorder("="), self._items.dtype],
            casting="equiv",
        ) as chunks:
            for source, target in chunks:
                lookup(source, code, target, False, 0, target.size)

    def fill_pairs(
        self,
        out: NDArray[Any],
        query_positions: NDArray[Any],
        key_positions: NDArray[Any],
        num_threads: int | None,
        is_new: bool = False,
    ) -> None:
        """Write ``out`` (..., num_heads, q, k) for positions (..., q) and (..., k)."""
        if out.size == 0:
            return
        batch_shape = out.shape[:-3]
        matrix_shape = out.shape[-3:]
        num_batches = math.prod(batch_shape)
        target = out if _is_flat(out) else allocate(out.shape, self._items.dtype)
        flat = target.reshape(num_batches, *matrix_shape)
        query = flatten_batch(query_positions, batch_shape)
        key = flatten_batch(key_positions, batch_shape)
        self._fill_flat_pairs(flat, query, key, num_threads, is_new or target is not out)
        if target is not out:
            np.copyto(out, target)

    def _fill_flat_pairs(
        self,
        out: NDArray[Any],
        query: NDArray[Any],
        key: NDArray[Any],
        num_threads: int | None,
        is_new: bool,
    ) -> None:
        as_int64 = to_int64(query, key)
        if as_int64 is None:
            self._fill_rows_of_any_size(out, query, key)
            return
        # The kernel strides over the batches of keys alone, by 0 if they share one row.
        query, key = as_int64
        query = np.ascontiguousarray(np.broadcast_to(query, (len(out), query.shape[1])))
        key = np.broadcast_to(key, (len(out), key.shape[1]))
        streaming = _streams(out, is_new)
        for begin in range(0, key.shape[1], MAX_ROW_LENGTH):
            end = begin + MAX_ROW_LENGTH
            part = out[..., begin:end]
            work = partial(self._table.lookup_pairs, query, key[:, begin:end], part, streaming)
            run(work, query.size, part.nbytes, num_threads)

    def _fill_rows_of_any_size(
        self, out: NDArray[Any], query: NDArray[Any], key: NDArray[Any]
    ) -> None:
        """Negative positions together with some above int64: exact in Python's integers."""
        origin = np.zeros((1, 1), np.int64)
        query, key = query.astype(object), key.astype(object)  # copies, as `to_int64` makes
        for batch, row in np.ndindex(len(out), out.shape[2]):
            difference = key[batch % len(key)] - query[batch % len(query), row]
            relative = np.clip(difference, INT64_MIN, INT64_MAX).astype(np.int64)[None]
            self._fill_flat_pairs(
                out[batch : batch + 1, :, row : row + 1], origin, relative, 1, False
            )


def _streams(out: NDArray[Any], is_new: bool) -> bool:
    """Whether to write past the caches."""
    return not is_new and out.nbytes > STREAM_NBYTES


def _is_flat(out: NDArray[Any]) -> bool:
    """Whether a kernel can write ``out`` with one stride for all batch axes."""
    return is_direct(out) and (out.ndim <= 4 or out.flags.c_contiguous)


def _is_plain(array: NDArray[Any]) -> bool:
    """Whether a kernel can read or write all of this array as one run."""
    flags = array.flags
    return flags.c_contiguous and flags.aligned and array.dtype.isnative


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


def _overlaps(positions: NDArray[Any], out: NDArray[Any]) -> bool:
    """Whether a block could be written before it is read; item on item it cannot."""
    if positions.flags.owndata and out.flags.owndata:  # two arrays, or one twice
        return False
    if not np.may_share_memory(positions, out):
        return False
    return positions.itemsize != out.itemsize or positions.ctypes.data != out.ctypes.data
