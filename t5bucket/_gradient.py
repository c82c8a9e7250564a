# _gradient.py - the adjoint of writing a matrix: sums of its gradient by range of the rule.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t5bucket._arrays import allocate, is_direct
from t5bucket._masks import Masks, type_code
from t5bucket._positions import Pairs, consecutive_pairs, flatten_batch
from t5bucket._table import RelativeTable, parts_of_pairs
from t5bucket._threads import run

# Parts are fixed by the shape alone, and their sums added in order, so that the
# result does not depend on the threads.
SUM_NBYTES = 16 << 20
MAX_SUMS = 64


def sum_matrix(
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
        return np.zeros((table.num_ranges, gradient.shape[-3]))
    query_length, key_length = gradient.shape[-2:]
    causal = consecutive_pairs(query_length, key_length, offset) if masks.causal else None
    num_diagonals = query_length + key_length - 1
    first = table.move_within_int64(offset - query_length + 1, num_diagonals)
    flat = _flatten(gradient)
    epilogue = masks.flatten(causal).epilogue(len(flat))
    rows = _divide(flat)
    length = min(num_diagonals, table.num_middle)
    scratch = allocate((len(rows), length), np.dtype(np.float64))
    code = type_code(flat.dtype)
    add = partial(table.core.sum_diagonals, first, code, epilogue, flat)
    adders = [partial(add, diagonals) for diagonals in scratch]
    return _sum_parts(table, flat, rows, num_threads, adders)


def sum_pairs(
    table: RelativeTable,
    gradient: NDArray[Any],
    query_positions: NDArray[Any],
    key_positions: NDArray[Any],
    num_threads: int | None,
    masks: Masks,
) -> NDArray[np.float64]:
    """Sum a gradient ``(..., num_heads, q, k)`` of positions that are data by range."""
    total = np.zeros((table.num_ranges, gradient.shape[-3]))
    if gradient.size == 0:
        return total
    batch_shape = gradient.shape[:-3]
    positions = Pairs(
        flatten_batch(query_positions, batch_shape), flatten_batch(key_positions, batch_shape)
    )
    flat = _flatten(gradient)
    flat_masks = masks.flatten(positions if masks.causal else None)
    code = type_code(flat.dtype)
    for part in parts_of_pairs(positions, flat.shape):
        piece = flat[part.batch, :, part.query, part.key]
        pairs = positions.part(*part).for_kernel(len(piece))
        epilogue = flat_masks.part(*part).epilogue(len(piece))
        add = partial(table.core.sum_pairs, pairs, code, epilogue, piece)
        rows = _divide(piece)
        total += _sum_parts(table, piece, rows, num_threads, [add] * len(rows))
    return total


def _flatten(gradient: NDArray[Any]) -> NDArray[Any]:
    """View, or copy, a gradient as (batch, num_heads, q, k), its keys adjacent."""
    if not is_direct(gradient):
        copy = allocate(gradient.shape, gradient.dtype.newbyteorder("="))
        np.copyto(copy, gradient)
        gradient = copy
    return gradient.reshape(-1, *gradient.shape[-3:])


def _divide(gradient: NDArray[Any]) -> list[tuple[int, int]]:
    """Parts of the rows of all batches: of some whole batches, or of one."""
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


def _sum_parts(
    table: RelativeTable,
    gradient: NDArray[Any],
    rows: list[tuple[int, int]],
    num_threads: int | None,
    adders: Sequence[Callable[[NDArray[np.float64], int, int], None]],
) -> NDArray[np.float64]:
    """Let each part's ``add(sums, begin, end)`` add its rows up; join the sums in order."""
    sums = np.zeros((len(rows), table.num_core_ranges, gradient.shape[-3]))

    def work(begin: int, end: int) -> None:
        for part in range(begin, end):
            adders[part](sums[part], *rows[part])

    run(work, len(rows), gradient.nbytes, num_threads)
    with np.errstate(invalid="ignore"):  # infinities of both signs
        return table.join_ranges(sums.sum(axis=0))
