# _gradient.py - the adjoint of writing a matrix: sums of its gradient by range of the rule.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t5bucket._arrays import allocate, flatten, float_code
from t5bucket._masks import Masks
from t5bucket._positions import consecutive_pairs, divide_pairs
from t5bucket._table import RelativeTable
from t5bucket._threads import run

# The shape alone decides the parts, and their sums are added in order: the result does
# not depend on the threads.
SUM_NBYTES = 16 << 20
MAX_SUMS = 64


def sum_consecutive(
    table: RelativeTable,
    gradient: NDArray[Any],
    offset: int,
    num_threads: int | None,
    masks: Masks,
) -> NDArray[np.float64]:
    """Sum a gradient ``(..., num_heads, q, k)`` of consecutive positions by range.

    Returns
    -------
    ndarray of float64, shape (num_ranges, num_heads)
    """
    if gradient.size == 0:
        return np.zeros((table.num_ranges, table.num_heads))
    query_length, key_length = gradient.shape[-2:]
    num_diagonals = query_length + key_length - 1
    first = table.move_within_int64(offset - query_length + 1, num_diagonals)
    length = min(num_diagonals, table.num_middle)
    code = float_code(gradient.dtype)
    flat = flatten(gradient)
    causal = consecutive_pairs(query_length, key_length, offset) if masks.causal else None
    epilogue = masks.make_epilogue(causal)
    rows = _divide(flat)
    sums = np.zeros((len(rows), table.num_core_ranges, table.num_heads))

    def add_parts(begin: int, end: int) -> None:
        diagonals = allocate((length,), sums.dtype)
        add = partial(table.core.sum_diagonals, first, code, epilogue, flat, diagonals)
        for part in range(begin, end):
            add(sums[part], *rows[part])

    run(add_parts, len(rows), flat.nbytes, num_threads)
    return _join_parts(table, sums)


def sum_explicit(
    table: RelativeTable,
    gradient: NDArray[Any],
    query_positions: NDArray[Any],
    key_positions: NDArray[Any],
    num_threads: int | None,
    masks: Masks,
) -> NDArray[np.float64]:
    """Sum a gradient ``(..., num_heads, q, k)`` of explicit positions by range."""
    total = np.zeros((table.num_ranges, table.num_heads))
    if gradient.size == 0:
        return total
    code = float_code(gradient.dtype)
    flat = flatten(gradient)
    epilogue = masks.make_epilogue(None)
    for part in divide_pairs(query_positions, key_positions, gradient.shape):
        matrix = part.cut(flat)
        finish = part.cut_epilogue(epilogue, masks.causal)
        add = partial(table.core.sum_pairs, part.pairs, code, finish, matrix)
        rows = _divide(matrix)
        sums = np.zeros((len(rows), table.num_core_ranges, table.num_heads))
        run(partial(_add_parts, add, sums, rows), len(rows), matrix.nbytes, num_threads)
        total += _join_parts(table, sums)
    return total


def _divide(gradient: NDArray[Any]) -> list[tuple[int, int]]:
    """Divide the rows of all batches into parts: some whole batches each, or a piece of one."""
    num_batches, _, query_length, _ = gradient.shape
    num_rows = num_batches * query_length
    part_nbytes = max(SUM_NBYTES, gradient.nbytes // MAX_SUMS)
    step = max(1, part_nbytes * num_rows // gradient.nbytes)
    if step >= query_length:
        step -= step % query_length
        return [(begin, min(begin + step, num_rows)) for begin in range(0, num_rows, step)]
    return [
        (first + begin, first + min(begin + step, query_length))
        for first in range(0, num_rows, query_length)
        for begin in range(0, query_length, step)
    ]


def _add_parts(
    add: Callable[[NDArray[np.float64], int, int], None],
    sums: NDArray[np.float64],
    rows: list[tuple[int, int]],
    begin: int,
    end: int,
) -> None:
    """Sum the rows of each part separately."""
    for part in range(begin, end):
        add(sums[part], *rows[part])


def _join_parts(table: RelativeTable, sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add up the sums of all parts, (parts, core's ranges, num_heads), in order."""
    with np.errstate(invalid="ignore"):  # infinities of both signs
        return table.join_ranges(sums.sum(axis=0))
