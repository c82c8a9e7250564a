# _documents.py - attend within each segment by itself, where rounding is allowed.
# SPDX-License-Identifier: BSD-3-Clause
"""Documents that are packed into one row see only themselves: most of the scores are masked.

Attention to the keys of one document sums in another order than attention to all keys.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from t5bucket.torch._blocks import Piece, attend_by_blocks, cut_inputs, cut_source
from t5bucket.torch._kernels import (
    LEAST_QUERIES,
    Inputs,
    attend_by_matrix,
    attend_by_strips,
    new_result,
)
from t5bucket.torch._strips import Source, take

PIECE_COST = 1 << 14  # pairs of tokens that take as long as the call for a piece


class Example(NamedTuple):
    """The queries of an example, or of all that share their segments, and what they see."""

    whole: Piece
    documents: list[Piece]  # empty if it goes in strips


def attend_by_documents(inputs: Inputs, source: Source) -> torch.Tensor | None:
    """Attend to the keys of each run of queries alone.

    None unless positions are consecutive, there is no mask besides segments, and it is faster.
    An example goes in strips if a query sees no key, or the keys of a segment are not adjacent.
    """
    if source.segment_ids is None or not _shows_all(source.mask):
        return None
    examples = _list_examples(inputs, source)
    if not any(documents for _, documents in examples):
        return None
    result = None
    for whole, documents in examples:
        for piece in documents or [whole]:
            own, own_source = cut_inputs(inputs, piece), cut_source(source, piece)
            attended = _attend(own, own_source, is_alone=bool(documents))
            if result is None:
                result = new_result(attended, *inputs.query.shape[:3])
            result[piece.batch, :, piece.rows] = attended
    return result


def _attend(inputs: Inputs, source: Source, is_alone: bool) -> torch.Tensor:
    if not is_alone:
        return attend_by_strips(inputs, source)
    source = source._replace(segment_ids=None, key_segment_ids=None, mask=None)
    attend = attend_by_blocks if inputs.query.shape[2] >= LEAST_QUERIES else attend_by_matrix
    return attend(inputs, source)


def _shows_all(mask: torch.Tensor | None) -> bool:
    return mask is None or (mask.dtype == torch.bool and bool(mask.all()))


def _count_pairs(*pieces: Piece) -> int:
    return sum(
        (batch.stop - batch.start) * (rows.stop - rows.start) * (keys.stop - keys.start)
        for batch, rows, keys in pieces
    )


def _list_examples(inputs: Inputs, source: Source) -> list[Example]:
    assert source.segment_ids is not None
    assert source.key_segment_ids is not None
    batch_size, _, q, _ = inputs.query.shape
    count = max(len(source.segment_ids), len(source.key_segment_ids))
    examples = []
    for example in range(count):
        only = slice(example, example + 1)
        batch = only if count > 1 else slice(0, batch_size)
        whole = Piece(batch, slice(0, q), slice(0, inputs.key.shape[2]))
        key_runs = _find_runs(take(source.key_segment_ids, only)[0])
        keys = dict(key_runs)
        runs = _find_runs(take(source.segment_ids, only)[0])
        documents = [Piece(batch, rows, keys[segment]) for segment, rows in runs if segment in keys]
        is_complete = len(keys) == len(key_runs) and len(documents) == len(runs)
        is_faster = _count_pairs(*documents) + PIECE_COST * len(documents) < _count_pairs(whole)
        is_possible = is_complete and all(_sees_keys(piece, source) for piece in documents)
        examples.append(Example(whole, documents if is_possible and is_faster else []))
    return examples


def _find_runs(ids: torch.Tensor) -> list[tuple[int, slice]]:
    """List the runs of equal numbers, and the place of each."""
    segments, lengths = torch.unique_consecutive(ids, return_counts=True)
    stops = lengths.cumsum(0).tolist()
    places = map(slice, [0, *stops], stops)
    return list(zip(segments.tolist(), places, strict=False))


def _sees_keys(piece: Piece, source: Source) -> bool:
    """Whether the first query of a piece sees the first key; then every query sees it."""
    first_query = source.query_offset + piece.rows.start
    return not source.causal or source.key_offset + piece.keys.start <= first_query
