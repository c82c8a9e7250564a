# _blocks.py - skip blocks of keys that no query sees: they change no bit of attention.
# SPDX-License-Identifier: BSD-3-Clause
"""The flash kernel processes the keys block by block, and adds up the blocks' results.

In a block of masked keys all weights are exactly 0. The block adds zeros, so the result has
the same bits without it. Padding often fills whole blocks at the end of a sequence, and
causal order hides blocks in the future from the first queries.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from t5bucket.torch._kernels import Inputs, Kernel, attend_by_diagonals, new_result
from t5bucket.torch._padding import are_hidden
from t5bucket.torch._strips import Source, take

BLOCK = 512  # keys in a block of the flash kernel
ROWS = 1024  # in a piece in causal order: enough for the kernel's largest tiles


class Piece(NamedTuple):
    """Some examples and queries, and the blocks of keys that they see."""

    batch: slice
    rows: slice
    keys: slice


def attend_by_blocks(
    inputs: Inputs,
    source: Source,
    kernel: Kernel = scaled_dot_product_attention,
    padded: torch.Tensor | None = None,
    num_features: int = 0,
) -> torch.Tensor:
    """Attend to consecutive positions, without the blocks of keys that no query sees."""
    pieces = _find_pieces(inputs, source, padded)
    result = inputs.query[:0]
    for piece in pieces:
        own = None if padded is None else take(padded, piece.batch)[:, piece.keys]
        attended = attend_by_diagonals(
            cut_inputs(inputs, piece),
            cut_source(source, piece),
            kernel,
            own if own is not None and own.any() else None,
            num_features,
        )
        if len(pieces) == 1:
            return attended
        if not len(result):
            result = new_result(attended, *inputs.query.shape[:3])
        result[piece.batch, :, piece.rows] = attended
    return result


def _find_pieces(inputs: Inputs, source: Source, padded: torch.Tensor | None) -> list[Piece]:
    batch_size, _, q, _ = inputs.query.shape
    k = inputs.key.shape[2]
    whole = Piece(slice(0, batch_size), slice(0, q), slice(0, k))
    if k <= BLOCK or (padded is None and not source.causal):
        return [whole]
    examples = [(whole.batch, whole.keys)]
    if padded is not None:
        ranges = [find_range(row) for row in padded.tolist()]
        step = batch_size if len(set(map(str, ranges))) == 1 else 1
        examples = [(slice(i, i + step), keys) for i, keys in enumerate(ranges[::step])]
    ends = [*range(ROWS, q - ROWS + 1, ROWS), q] if source.causal else [q]
    pieces = [
        Piece(batch, slice(start, stop), _find_blocks(keys, source, stop, k))
        for batch, keys in examples
        for start, stop in zip([0, *ends], ends, strict=False)
    ]
    is_cut = any(piece.keys != whole.keys for piece in pieces)
    return pieces if is_cut and _can_cut(inputs, source) else [whole]


def _can_cut(inputs: Inputs, source: Source) -> bool:
    """Whether hidden keys have weights of exactly 0, and 0 times their values is 0."""
    if source.causal:
        least = torch.finfo(inputs.query.dtype).max
        if source.query_offset < source.key_offset or not are_hidden(least, inputs, source):
            return False
    return bool(inputs.value.sum(dtype=torch.float64).isfinite())


def find_range(padded: list[bool]) -> slice:
    """Find the range of keys between padding at the start and at the end."""
    return slice(padded.index(False), len(padded) - padded[::-1].index(False))


def _find_blocks(keys: slice, source: Source, stop: int, k: int) -> slice:
    """Find the blocks with all keys that queries before `stop` can see."""
    last = keys.stop
    if source.causal:
        last = min(last, stop + source.query_offset - source.key_offset)
    first = keys.start // BLOCK * BLOCK
    return slice(first, min(k, first - (first - last) // BLOCK * BLOCK))


def cut_inputs(inputs: Inputs, piece: Piece) -> Inputs:
    """Cut query, key and value of a piece."""
    batch, rows, keys = piece
    query, key, value, scale = inputs
    return Inputs(query[batch, :, rows], key[batch, :, keys], value[batch, :, keys], scale)


def cut_source(source: Source, piece: Piece) -> Source:
    """Cut a source of consecutive positions; its mask has one row for all queries."""
    mask, segments = source.mask, (source.segment_ids, source.key_segment_ids)
    if mask is not None:
        mask = take(mask, piece.batch)
        mask = mask if mask.shape[-1] == 1 else mask[..., piece.keys]
    segment_ids, key_segment_ids = (
        None if ids is None else take(ids, piece.batch)[:, place]
        for ids, place in zip(segments, piece[1:], strict=True)
    )
    return source._replace(
        mask=mask,
        segment_ids=segment_ids,
        key_segment_ids=key_segment_ids,
        query_offset=source.query_offset + piece.rows.start,
        key_offset=source.key_offset + piece.keys.start,
    )
