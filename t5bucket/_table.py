# _table.py - items by relative position, written over grids: what buckets and biases share.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t5bucket import _core
from t5bucket._arrays import allocate, is_direct
from t5bucket._machine import CACHE_NBYTES
from t5bucket._masks import FlatMasks, Masks
from t5bucket._positions import Pairs, consecutive_pairs, flatten_batch
from t5bucket._rule import Rule
from t5bucket._threads import PART_NBYTES, run

# A table with an item for each token where the rule changes is read by index, if
# it stays within a second-level cache; a larger one is searched.
MAX_INDEXED_NBYTES = 1 << 20
# The kernel of pairs counts bytes in 32 bits.
MAX_PAIRS_NBYTES = 2**32 - 1
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

    Attributes
    ----------
    core : Table
        The kernels' table. Its ranges are the rule's, or, if it is indexed, tokens.
    num_ranges, num_core_ranges : int
        Of the rule and of `core`.
    num_middle : int
        Relative positions that are neither in the first range nor in the last one.
    """

    def __init__(
        self, rule: Rule, items: NDArray[Any], counter: _core.Counter | None = None
    ) -> None:
        self._rule = rule
        self._items = items
        starts = rule.start_list or [0]
        self._first_start, self._last_start = starts[0], starts[-1]
        indexed_length = starts[-1] - starts[0] + 2
        indexed_nbytes = indexed_length * len(items) * items.itemsize
        self._is_indexed = len(starts) > 1 and indexed_nbytes <= MAX_INDEXED_NBYTES
        self.num_middle = starts[-1] - starts[0]
        self.num_ranges = items.shape[1]
        self.num_core_ranges = indexed_length if self._is_indexed else self.num_ranges
        self.core = self._make_table()
        self._elements: _core.Lookup = counter or self.core

    def map_items(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> RelativeTable:
        """Make the same table with other items."""
        return RelativeTable(self._rule, function(self._items))

    def _make_table(self, by_range: bool = False) -> _core.Table:
        items, num_heads = self._items, 0
        if by_range and len(items) > 1:
            num_heads = len(items)
            stride = 1 << max(4, (num_heads * items.itemsize - 1).bit_length())
            if self.num_core_ranges * stride > MAX_PAIRS_NBYTES:
                raise MemoryError(
                    f"weight must take at most {MAX_PAIRS_NBYTES} bytes for positions that are "
                    f"data, got {self.num_core_ranges * stride}"
                )
            padded = np.zeros((self.num_ranges, stride // items.itemsize), items.dtype)
            padded[:, :num_heads] = items.T
            items = padded
        if not self._is_indexed:
            return _core.Table(items, self._rule.starts, 0, num_heads)
        items = np.repeat(items, self._rule.widths, axis=0 if num_heads else 1)
        return _core.Table(items, None, self._first_start - 1, num_heads)

    @cached_property
    def _pairs_table(self) -> _core.Table:
        """The table with all heads of a range side by side."""
        return self._make_table(by_range=True) if len(self._items) > 1 else self.core

    def join_ranges(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn sums by the core's ranges, (ranges, ...), into those by the rule's."""
        if not self._is_indexed:
            return sums
        widths = self._rule.widths
        return np.add.reduceat(sums, np.cumsum(widths) - widths, axis=0)

    # ---- consecutive positions: (num_heads, query_length, key_length) ----

    def _diagonals(self, query_length: int, key_length: int, offset: int) -> NDArray[Any]:
        shape = (len(self._items), query_length + key_length - 1)
        diagonals = allocate(shape, self._items.dtype)
        self._fill_diagonals(diagonals, offset - query_length + 1, shape[1])
        return diagonals

    def _fill_diagonals(self, diagonals: NDArray[Any], first: int, count: int) -> None:
        if not self._first_start - count <= first <= self._last_start:
            first = self.move_within_int64(first, count)
        if count <= MAX_ROW_LENGTH:
            self.core.fill_diagonals(diagonals, first)
            return
        for begin in range(0, count, MAX_ROW_LENGTH):
            self.core.fill_diagonals(diagonals[..., begin : begin + MAX_ROW_LENGTH], first + begin)

    def move_within_int64(self, first: int, count: int) -> int:
        """Move `first` near, since outside of the rule's starts all items are equal."""
        if first > self._last_start:
            return self._last_start
        if first < self._first_start - count:
            return self._first_start - count
        return first

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
            write = partial(_copy_rows, diagonals, out, _streams(out, is_new))
            run(write, num_heads * query_length, out.nbytes, num_threads)
        else:
            window = _window(diagonals, query_length, key_length)
            run(
                lambda begin, end: np.copyto(out[:, begin:end], window[:, begin:end]),
                query_length,
                out.nbytes,
                num_threads,
            )

    def finish_matrix(
        self,
        out: NDArray[Any],
        offset: int,
        num_threads: int | None,
        is_new: bool,
        masks: Masks,
        accumulate: bool = False,
    ) -> None:
        """Write, or add to, ``out`` (..., num_heads, query, key), with masks."""
        if out.size > 0:
            finish = partial(self._finish_flat, offset, num_threads, masks, accumulate)
            _write(out, is_new, accumulate, finish)

    def _finish_flat(
        self,
        offset: int,
        num_threads: int | None,
        masks: Masks,
        accumulate: bool,
        out: NDArray[Any],
        is_new: bool,
    ) -> None:
        num_batches, _, query_length, key_length = out.shape
        diagonals = self._diagonals(query_length, key_length, offset)
        causal = None
        if masks.causal and (accumulate or masks.is_adding):
            causal = consecutive_pairs(query_length, key_length, offset)
        elif masks.causal:  # whether a key lies in the future depends on the diagonal alone
            visible = max(0, min(query_length - offset, query_length + key_length - 1))
            diagonals[:, visible:] = masks.masked_item
        epilogue = masks.flatten(causal, accumulate).epilogue(num_batches)
        streaming = _streams(out, is_new or accumulate)
        write = partial(_core.write_diagonals, diagonals, epilogue, out, streaming)
        run(write, num_batches * query_length, out.nbytes, num_threads)

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
        masks: Masks | None = None,
        accumulate: bool = False,
    ) -> None:
        """Write ``out`` (..., num_heads, q, k) for positions (..., q) and (..., k)."""
        if out.size == 0:
            return
        batch_shape = out.shape[:-3]
        positions = Pairs(
            flatten_batch(query_positions, batch_shape), flatten_batch(key_positions, batch_shape)
        )
        flat = None
        if masks is not None:
            flat = masks.flatten(positions if masks.causal else None, accumulate)
        write = partial(self._write_pairs, positions, num_threads, flat, accumulate)
        _write(out, is_new, accumulate, write)

    def _write_pairs(
        self,
        positions: Pairs,
        num_threads: int | None,
        masks: FlatMasks | None,
        accumulate: bool,
        out: NDArray[Any],
        is_new: bool,
    ) -> None:
        streaming = _streams(out, is_new or accumulate)
        for part in parts_of_pairs(positions, out.shape):
            target = out[part.batch, :, part.query, part.key]
            epilogue = None if masks is None else masks.part(*part).epilogue(len(target))
            write = partial(
                self._pairs_table.write_pairs,
                positions.part(*part).for_kernel(len(target)),
                epilogue,
                target,
                streaming,
            )
            run(write, len(target) * target.shape[2], target.nbytes, num_threads)


def _write(
    out: NDArray[Any],
    is_new: bool,
    accumulate: bool,
    fill: Callable[[NDArray[Any], bool], None],
) -> None:
    """Let ``fill`` write ``out`` as (batch, num_heads, q, k), by way of a copy where it has to."""
    if _is_flat(out):
        fill(out.reshape(-1, *out.shape[-3:]), is_new)
        return
    copy = allocate(out.shape, out.dtype.newbyteorder("="))
    if accumulate:
        np.copyto(copy, out)
    fill(copy.reshape(-1, *out.shape[-3:]), not accumulate)
    np.copyto(out, copy)


class Part(NamedTuple):
    """Some batches, queries and keys of a matrix."""

    batch: slice
    query: slice
    key: slice


def parts_of_pairs(positions: Pairs, shape: tuple[int, ...]) -> Iterator[Part]:
    """Parts of a matrix (batch, num_heads, q, k) that a kernel takes at once."""
    every = slice(None)
    if positions.is_direct:
        for key in range(0, shape[3], MAX_ROW_LENGTH):
            yield Part(every, every, slice(key, key + MAX_ROW_LENGTH))
        return
    for batch, query in np.ndindex(shape[0], shape[2]):
        yield Part(slice(batch, batch + 1), slice(query, query + 1), every)


def _copy_rows(
    diagonals: NDArray[Any], out: NDArray[Any], streaming: bool, begin: int, end: int
) -> None:
    """Copy rows begin, ..., end - 1 of all heads' rows, which are next to each other in memory."""
    query_length = out.shape[1]

    def write(first_head: int, end_head: int, first: int, last: int) -> None:
        heads = slice(first_head, end_head)
        _core.write_diagonals(diagonals[heads], None, out[heads], streaming, first, last)

    (first_head, first_row), (last_head, last_row) = (
        divmod(row, query_length) for row in (begin, end)
    )
    first_whole = first_head + (first_row > 0)
    if first_whole > first_head:
        write(
            first_head, first_whole, first_row, min(end - first_head * query_length, query_length)
        )
    if first_whole < last_head:
        write(first_whole, last_head, 0, query_length)
    if last_row > 0 and last_head >= first_whole:
        write(last_head, last_head + 1, 0, last_row)


def _streams(out: NDArray[Any], is_new: bool) -> bool:
    """Whether to write past the caches."""
    return not is_new and out.nbytes > STREAM_NBYTES


def _is_flat(out: NDArray[Any]) -> bool:
    """Whether a kernel can write ``out`` with one stride for all batch axes."""
    batches = range(out.ndim - 4)
    return is_direct(out) and all(
        out.strides[axis] == out.strides[axis + 1] * out.shape[axis + 1] for axis in batches
    )


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
