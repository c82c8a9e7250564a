# _strips.py - compute a bias in strips: a few rows of a few heads, which fit in the cache.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray

from t5bucket._arrays import view_tensor
from t5bucket._bias import RelativeAttentionBias
from t5bucket._buckets import Buckets
from t5bucket.torch._tensors import allocate_both, bias_of, count_threads

MAX_NBYTES = 8 << 20  # of a strip: with keys and values it fits in most last-level caches
ROWS = 256  # of a strip, unless this many rows of one head are too large
LEAST_ROWS = 64
LEAST_HEADS = 2  # the math kernel computes a single head in another way


class Part(NamedTuple):
    """A strip's place in the matrix (batch, num_heads, q, k)."""

    batch: slice
    heads: slice
    rows: slice


class Source(NamedTuple):
    """What a bias is computed from. Tensors have one batch axis, of attention's batch size or 1.

    The mask has four axes; positions and segments have two.
    """

    weight: torch.Tensor
    mask: torch.Tensor | None
    query_positions: torch.Tensor | None
    key_positions: torch.Tensor | None
    segment_ids: torch.Tensor | None
    key_segment_ids: torch.Tensor | None
    buckets: Buckets
    query_offset: int
    key_offset: int
    causal: bool

    def take(self, example: int) -> Source:
        """Take the source of one example's bias."""
        only = slice(example, example + 1)
        taken: dict[str, Any] = self._asdict()
        for name in self._fields[1:6]:
            if taken[name] is not None:
                taken[name] = take(taken[name], only)
        return self._replace(**taken)

    @property
    def is_shared(self) -> bool:
        """Whether all examples have the same bias."""
        tensors = self[1:6]
        return all(tensor is None or tensor.shape[0] == 1 for tensor in tensors)

    @property
    def is_consecutive(self) -> bool:
        """Whether positions are consecutive, in one sequence."""
        return self.query_positions is self.segment_ids is None

    def write(self, part: Part, out: NDArray[Any]) -> None:
        """Write a strip, (batch, num_heads, rows, k)."""
        bias, options = self._prepare(part, out.nbytes)
        if self.query_positions is not None:
            bias.matrix_at(out=out, **options)
        else:
            is_single = self.mask is self.segment_ids is None
            bias.matrix(*out.shape[-2:], out=out[0] if is_single else out, **options)

    def matrix(self, q: int, k: int) -> torch.Tensor:
        """Compute the whole matrix, (batch or 1, num_heads, q, k)."""
        batch_size = max([1, *(len(tensor) for tensor in self[1:6] if tensor is not None)])
        num_heads = self.weight.shape[1]
        matrix, out = allocate_both((batch_size, num_heads, q, k), self.weight.dtype)
        self.write(Part(slice(0, batch_size), slice(0, num_heads), slice(0, q)), out)
        return matrix

    def sum_gradient(self, part: Part, gradient: NDArray[Any]) -> NDArray[Any]:
        """Compute the gradient of the strip's heads of the weight, given the strip's gradient."""
        bias, options = self._prepare(part, gradient.nbytes)
        if self.mask is not None and self.mask.dtype != torch.bool:
            options["mask"] = None  # an added mask does not change the weight's gradient
        if self.query_positions is None:
            return bias.weight_gradient(gradient, **options)
        return bias.weight_gradient_at(gradient, **options)

    def _prepare(self, part: Part, nbytes: int) -> tuple[RelativeAttentionBias, dict[str, Any]]:
        """Return the bias of a strip's heads, and the arguments of its methods for the strip."""
        batch, heads, rows = part
        options: dict[str, Any] = {
            "causal": self.causal,
            "mask": None if self.mask is None else view_tensor(_cut(self.mask, part), "mask"),
            "num_threads": count_threads(nbytes),
        }
        if self.segment_ids is not None and self.key_segment_ids is not None:
            options["segment_ids"] = view_tensor(take(self.segment_ids, batch)[:, rows])
            options["key_segment_ids"] = view_tensor(take(self.key_segment_ids, batch))
        if self.query_positions is not None and self.key_positions is not None:
            options["query_positions"] = view_tensor(take(self.query_positions, batch)[:, rows])
            options["key_positions"] = view_tensor(take(self.key_positions, batch))
        else:
            options["query_offset"] = self.query_offset + rows.start
            options["key_offset"] = self.key_offset
        return bias_of(self.weight[:, heads].contiguous(), self.buckets), options


def take(tensor: torch.Tensor, batch: slice) -> torch.Tensor:
    """Take some examples of a tensor; all examples share a tensor without a batch."""
    return tensor if tensor.shape[0] == 1 else tensor[batch]


def _cut(mask: torch.Tensor, part: Part) -> torch.Tensor:
    mask = take(mask, part.batch)
    mask = mask if mask.shape[1] == 1 else mask[:, part.heads]
    return mask if mask.shape[2] == 1 else mask[:, :, part.rows]


def write_strips(
    source: Source, batch_size: int, key_length: int, rows: slice, max_nbytes: int | None = None
) -> Iterator[tuple[Part, torch.Tensor]]:
    """Write the strips of some rows one after the other into the same memory.

    A strip belongs to one example, or to all examples if they share the bias.
    """
    memory, array = allocate_both((0,), source.weight.dtype)
    parts = _divide(source, batch_size, key_length, rows, max_nbytes or MAX_NBYTES)
    for part in parts:
        shape = (1, *(axis.stop - axis.start for axis in part[1:]), key_length)
        size = math.prod(shape)
        if size > len(array):
            memory, array = allocate_both((size,), source.weight.dtype)
        source.write(part, array[:size].reshape(shape))
        yield part, memory[:size].view(shape)


def _divide(
    source: Source, batch_size: int, key_length: int, rows: slice, max_nbytes: int
) -> Iterator[Part]:
    num_heads = source.weight.shape[1]
    count, heads = _measure(key_length * source.weight.element_size(), rows, max_nbytes)
    examples = batch_size if source.is_shared else 1
    for example in range(0, batch_size, examples):
        batch = slice(example, example + examples)
        for strip_heads in _cut_axis(slice(0, num_heads), heads, LEAST_HEADS):
            for strip_rows in _cut_axis(rows, count, LEAST_ROWS):
                yield Part(batch, strip_heads, strip_rows)


def _measure(row_nbytes: int, rows: slice, max_nbytes: int) -> tuple[int, int]:
    """Choose the number of rows and heads of a strip."""
    count = min(ROWS, rows.stop - rows.start)
    while count > LEAST_ROWS and count * row_nbytes > max_nbytes:
        count //= 2
    return count, max(LEAST_HEADS, max_nbytes // max(1, count * row_nbytes))


def _cut_axis(axis: slice, count: int, least: int) -> Iterator[slice]:
    """Cut an axis into slices; a remainder of fewer than `least` joins the last slice."""
    start = axis.start
    while axis.stop - start >= count + least:
        yield slice(start, start + count)
        start += count
    if start < axis.stop:
        yield slice(start, axis.stop)
