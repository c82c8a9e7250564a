# _table.py - a row of items for each head by relative position, in the form that kernels read.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t5bucket import _core, _threads
from t5bucket._arrays import allocate
from t5bucket._rule import Rule

# If it fits in a second-level cache, the table has one item for each token and is read by
# index. A larger table has one item for each range, and is searched.
MAX_INDEXED_NBYTES = 1 << 20
# The kernel for explicit pairs counts bytes in 32 bits; NumPy may have fewer.
MAX_PAIRS_NBYTES = min(2**32 - 1, sys.maxsize)


class RelativeTable:
    """A row of items for each head, one item for each range of a rule.

    Buckets are one row of integers; a bias has a row of weights for each head.
    Kernels copy both byte for byte. Arguments have been checked.

    Parameters
    ----------
    rule : Rule
    items : array, shape (num_heads, num_ranges), C-contiguous
    counter : BoundaryCounter, optional
        Gives the same items element by element, but faster.

    Attributes
    ----------
    num_heads : int
    dtype : dtype
        Of the items.
    core : Table
        The kernels' table. Its ranges are the rule's, or single tokens if it is indexed.
    elementwise : Elementwise
        Looks items up one by one: `counter` or `core`.
    num_ranges, num_core_ranges : int
        Of the rule and of `core`.
    num_middle : int
        How many relative positions lie between the first range and the last one.
    """

    def __init__(
        self, rule: Rule, items: NDArray[Any], counter: _core.BoundaryCounter | None = None
    ) -> None:
        self._rule = rule
        self._items = items
        starts = rule.start_list or [0]
        self._first_start, self._last_start = starts[0], starts[-1]
        indexed_length = starts[-1] - starts[0] + 2
        indexed_nbytes = indexed_length * len(items) * items.itemsize
        self._is_indexed = len(starts) > 1 and indexed_nbytes <= MAX_INDEXED_NBYTES
        self.num_heads, self.num_ranges = items.shape
        self.dtype = items.dtype
        self.num_middle = starts[-1] - starts[0]
        self.num_core_ranges = indexed_length if self._is_indexed else self.num_ranges
        self.core = self._make_core(items)
        self.elementwise: _core.Elementwise = counter or self.core

    def map_items(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> RelativeTable:
        """Make the same table with other items."""
        return RelativeTable(self._rule, function(self._items))

    def _make_core(self, items: NDArray[Any], num_heads: int = 0) -> _core.Table:
        """Make the kernels' table; `items` are (ranges, heads) if the number of heads is given."""
        if not self._is_indexed:
            return _core.Table(items, self._rule.starts, 0, num_heads)
        items = np.repeat(items, self._index_widths(), axis=0 if num_heads else 1)
        return _core.Table(items, None, self._first_start - 1, num_heads)

    def _index_widths(self) -> NDArray[np.intp]:
        """Return how many tokens each range of an indexed table has, in the type of indices."""
        return self._rule.widths.astype(np.intp, copy=False)

    @cached_property
    def pairs_core(self) -> _core.Table:
        """The kernels' table for explicit positions: all heads of a range are adjacent."""
        if self.num_heads == 1:
            return self.core
        itemsize = self._items.itemsize
        stride = 1 << max(4, (self.num_heads * itemsize - 1).bit_length())
        if self.num_core_ranges * stride > MAX_PAIRS_NBYTES:
            raise MemoryError(
                f"weight must take at most {MAX_PAIRS_NBYTES} bytes for positions given "
                f"explicitly, got {self.num_core_ranges * stride}"
            )
        items = np.zeros((self.num_ranges, stride // itemsize), self.dtype)
        items[:, : self.num_heads] = self._items.T
        return self._make_core(items, self.num_heads)

    def make_diagonals(self, query_length: int, key_length: int, offset: int) -> NDArray[Any]:
        """Make the items of all diagonals of a matrix; the first has the last query and key 0.

        `offset` is the relative position of query 0 and key 0 (tokens, any size).
        """
        count = query_length + key_length - 1
        diagonals = allocate((self.num_heads, count), self.dtype)
        self.fill_diagonals(diagonals, offset - query_length + 1, count)
        return diagonals

    def fill_diagonals(self, diagonals: NDArray[Any], first: int, count: int) -> None:
        """Fill ``diagonals`` (num_heads, ..., count) from relative position ``first`` on."""
        if not self._first_start - count <= first <= self._last_start:
            first = self.move_within_int64(first, count)
        if count <= _threads.MAX_ROW_LENGTH:
            self.core.fill_diagonals(diagonals, first)
            return
        for begin, end in _threads.divide_row(count):
            self.core.fill_diagonals(diagonals[..., begin:end], first + begin)

    def move_within_int64(self, first: int, count: int) -> int:
        """Move `first` into int64: beyond the rule's first and last start all items are equal."""
        if first > self._last_start:
            return self._last_start
        if first < self._first_start - count:
            return self._first_start - count
        return first

    def join_ranges(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn sums by the core's ranges, (ranges, ...), into sums by the rule's ranges."""
        if not self._is_indexed:
            return sums
        widths = self._index_widths()
        return np.add.reduceat(sums, np.cumsum(widths) - widths, axis=0)
