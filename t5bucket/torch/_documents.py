# _documents.py - attend within each segment by itself, where rounding is allowed.
# SPDX-License-Identifier: BSD-3-Clause
"""Documents that are packed into one row see only themselves: most of the scores are masked.

Attention to the keys of one document sums in another order than attention to all keys.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from t5bucket.torch._blocks import Piece, cut_inputs, cut_source
from t5bucket.torch._kernels import (
    LEAST_QUERIES,
    Inputs,
    attend_by_diagonals,
    attend_by_matrix,
    new_result,
)
from t5bucket.torch._strips import Source, take


def attend_by_documents(inputs: Inputs, source: Source) -> torch.Tensor | None:
    """Attend to the keys of each run of queries alone.

    None unless positions are consecutive, there is no mask besides segments, the keys of each
    segment are adjacent, and each query sees a key.
    """
    if source.segment_ids is None or source.mask is not None:
        return None
    pieces = list(_find_pieces(inputs, source))
    if not all(_sees_keys(piece, source) for piece in pieces):
        return None
    alone = source._replace(segment_ids=None, key_segment_ids=None)
    result = inputs.query[:0]
    for piece in pieces:
        own, own_source = cut_inputs(inputs, piece), cut_source(alone, piece)
        if own.query.shape[2] >= LEAST_QUERIES:
            attended = attend_by_diagonals(own, own_source)
        else:
            attended = attend_by_matrix(own, own_source)
        if len(pieces) == 1:
            return attended
        if not len(result):
            result = new_result(attended, *inputs.query.shape[:3])
        result[piece.batch, :, piece.rows] = attended
    return result


def _find_pieces(inputs: Inputs, source: Source) -> Iterator[Piece]:
    """Find the runs of queries with one segment, and its keys: none if they are not adjacent."""
    assert source.segment_ids is not None
    assert source.key_segment_ids is not None
    batch_size = inputs.query.shape[0]
    num_examples = max(len(source.segment_ids), len(source.key_segment_ids))
    for example in range(num_examples):
        only = slice(example, example + 1)
        batch = only if num_examples > 1 else slice(0, batch_size)
        keys = _find_runs(take(source.key_segment_ids, only)[0])
        found = dict(keys)
        is_split = len(found) < len(keys)
        for segment, rows in _find_runs(take(source.segment_ids, only)[0]):
            none = slice(0, 0)
            yield Piece(batch, rows, none if is_split else found.get(segment, none))


def _find_runs(ids: torch.Tensor) -> list[tuple[int, slice]]:
    """List the runs of equal numbers, and the place of each."""
    segments, lengths = torch.unique_consecutive(ids, return_counts=True)
    stops = lengths.cumsum(0).tolist()
    places = map(slice, [0, *stops], stops)
    return list(zip(segments.tolist(), places, strict=True))


def _sees_keys(piece: Piece, source: Source) -> bool:
    """Whether each query of a piece sees a key."""
    first_query = source.query_offset + piece.rows.start
    first_key = source.key_offset + piece.keys.start
    is_empty = piece.keys.start == piece.keys.stop
    return not is_empty and (not source.causal or first_key <= first_query)
