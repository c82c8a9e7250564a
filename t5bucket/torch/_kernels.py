# _kernels.py - attention by PyTorch's own kernels, with a bias that is never a whole matrix.
# SPDX-License-Identifier: BSD-3-Clause
"""Consecutive positions need no matrix, and other biases need strips of it.

With the queries in reverse order, row ``i`` of the bias is the window of the diagonals that
begins at ``i``: a Hankel matrix, which PyTorch can view with positive strides. Its flash
kernel reads the mask as it is, so that a view costs nothing.

The kernel computes the rows of a tile together. Their bits depend on their order in three
cases: a last tile of few rows, one tile alone, and odd head sizes. So the last rows keep
their order and follow a whole tile, and odd sizes go by strips. The results then have the
same bits as with the matrix; ``_known.py`` checks it on small cases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from t5bucket.torch._strips import MAX_NBYTES, Part, Source, write_strips
from t5bucket.torch._tensors import broadcast_batch, fill_bias

TILE = 32  # rows of the flash kernel's smallest tile; the larger ones are multiples
LEAST_QUERIES = 2 * TILE  # of which some are reversed


class Inputs(NamedTuple):
    """Query, key and value, (batch, num_heads, length, head size), and the scores' factor."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    scale: float | None


# A function of PyTorch with its names; rows are axis 2 of its result.
Kernel = Callable[..., torch.Tensor]


def math_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor,
    scale: float | None,
) -> torch.Tensor:
    """Call the kernel that PyTorch takes where no other can be used."""
    attend: Any = torch.ops.aten._scaled_dot_product_attention_math
    attended: torch.Tensor = attend(query, key, value, attn_mask, scale=scale)[0]
    return attended


def find_scale(inputs: Inputs) -> float:
    """Return the factor of the scores, by default that of PyTorch's function."""
    if inputs.scale is not None:
        return inputs.scale
    return 1 / math.sqrt(max(1, inputs.query.shape[-1]))


# ---- the bias as a view of its diagonals ----


def attend_by_diagonals(
    inputs: Inputs,
    source: Source,
    kernel: Kernel = scaled_dot_product_attention,
    padded: torch.Tensor | None = None,
    num_features: int = 0,
) -> torch.Tensor:
    """Attend to consecutive positions; the keys that are `padded`, (batch or 1, k), are masked.

    A padded key is masked by one more feature of the head (of `num_features`, for alignment):
    1 in each query and a large negative number in each padded key. The others are 0, which
    changes no bit of the scores.
    """
    q, size = inputs.query.shape[2:]
    split = q - count_last_rows(q)
    bias = view_reversed_bias(source, split, q, inputs.key.shape[2])
    query, key, value = inputs.query[:, :, :split], inputs.key, inputs.value
    if padded is None:
        query = reverse(query)
    else:
        query, key, value = _add_features([query.flip(2), key, value], num_features)
        query[..., size] = 1
        key[..., size].masked_fill_(padded[:, None], -large_number(key.dtype))
    attended = kernel(query, key, value, attn_mask=bias, scale=find_scale(inputs))
    del query, key, value
    attended = reverse(attended[..., :size])
    if split == q:
        return attended
    result = new_result(attended, len(attended), attended.shape[1], q)
    result[:, :, :split] = attended
    _attend_last(inputs, source, kernel, split, result)
    return result


def _add_features(tensors: list[torch.Tensor], num_features: int) -> list[torch.Tensor]:
    """Copy tensors, and give them some more features, which are 0.

    The copies share one array: the system's allocator keeps it from call to call, where it
    would return several to the system, whose pages take as long as the copies.
    """
    shapes = [(*tensor.shape[:3], tensor.shape[3] + num_features) for tensor in tensors]
    sizes = [math.prod(shape) for shape in shapes]
    memory = tensors[0].new_empty(sum(sizes))
    copies = []
    for tensor, shape, part in zip(tensors, shapes, memory.split(sizes), strict=True):
        copy = part.view(shape)
        copy[..., : tensor.shape[3]] = tensor
        copy[..., tensor.shape[3] :] = 0
        copies.append(copy)
    return copies


def reverse(rows: torch.Tensor) -> torch.Tensor:
    """Copy rows in reverse order; in memory heads come after rows."""
    return rows.transpose(1, 2).flip(1).contiguous().transpose(1, 2)


def count_last_rows(q: int) -> int:
    """Count the rows that keep their order, so that the others are reversed in whole tiles.

    The rest of the last tile keeps its order if it has less than 32 rows. A longer one loses
    what is beyond a multiple of 16, and 16 rows more.
    """
    tile = 256 if q >= 768 else 64 if q >= 192 else 32  # of the flash kernel
    rest = q % tile
    if rest < TILE:
        return rest
    return rest % 16 and 16 + rest % 16


def view_reversed_bias(source: Source, split: int, q: int, k: int) -> torch.Tensor:
    """View the bias of the first rows in reverse order, (1, num_heads, split, k)."""
    length = q + k - 1
    first = source.query_offset + q - 1  # the diagonals are the last query's row, and longer
    diagonals = fill_bias(
        source.weight,
        None,
        source.buckets,
        1,
        length,
        first,
        source.key_offset,
        source.causal,
    )
    return diagonals.as_strided((1, diagonals.shape[1], split, k), (0, length, 1, 1), q - split)


def large_number(dtype: torch.dtype) -> float:
    """Return the number whose negative is a padded key's feature."""
    return 6e4 if dtype == torch.float16 else 1e30


def _attend_last(
    inputs: Inputs, source: Source, kernel: Kernel, split: int, result: torch.Tensor
) -> None:
    """Attend for the rows that keep their order, and for a whole tile before them."""
    rows = slice(split - TILE, result.shape[2])
    for part, strip in write_strips(source, len(result), inputs.key.shape[2], rows):
        attended = _attend_part(inputs, part, strip, kernel)
        result[part.batch, part.heads, split:] = attended[:, :, TILE:]


def _attend_part(inputs: Inputs, part: Part, strip: torch.Tensor, kernel: Kernel) -> torch.Tensor:
    key, value = (tensor[part.batch, part.heads] for tensor in inputs[1:3])
    return kernel(inputs.query[part], key, value, attn_mask=strip, scale=inputs.scale)


# ---- the bias by strips ----


def attend_by_strips(
    inputs: Inputs, source: Source, kernel: Kernel = scaled_dot_product_attention
) -> torch.Tensor:
    """Attend with any bias, for some heads and some rows at a time."""
    batch_size, num_heads, q, _ = inputs.query.shape
    keeps_last = q >= LEAST_QUERIES and kernel is not math_kernel
    split = q - count_last_rows(q) if keeps_last else q
    result = inputs.query[:0]
    for strip_part, strip in write_strips(source, batch_size, inputs.key.shape[2], slice(0, split)):
        for part in _divide_batch(strip_part, strip, kernel):
            attended = _attend_part(inputs, part, strip, kernel)
            if not len(result):
                result = new_result(attended, batch_size, num_heads, q)
            result[part] = attended
    if split < q:
        _attend_last(inputs, source, kernel, split, result)
    return result


def _divide_batch(part: Part, strip: torch.Tensor, kernel: Kernel) -> Iterator[Part]:
    """Divide the examples that share a strip: the math kernel makes arrays of each one's size."""
    batch = part.batch
    count = batch.stop - batch.start
    if kernel is math_kernel:
        count = max(1, MAX_NBYTES // strip.nbytes)
    for start in range(batch.start, batch.stop, count):
        yield part._replace(batch=slice(start, min(start + count, batch.stop)))


def new_result(like: torch.Tensor, *shape: Any) -> torch.Tensor:
    """Allocate a result, (..., num_heads, q), in the flash kernel's order: heads after rows."""
    *batch, num_heads, q = shape
    return like.new_empty(*batch, q, num_heads, like.shape[-1]).transpose(-2, -3)


def attend_by_matrix(
    inputs: Inputs, source: Source, kernel: Kernel = scaled_dot_product_attention
) -> torch.Tensor:
    """Attend with the whole matrix; the inputs may have any batch axes."""
    matrix = source.matrix(inputs.query.shape[-2], inputs.key.shape[-2])
    if len(matrix) > 1:
        batch = broadcast_batch(*inputs[:3])
        matrix = matrix.reshape(*batch, *matrix.shape[1:])
    query, key, value, scale = inputs
    query = expand_query(query, key, matrix)
    attended = kernel(query, key, value, attn_mask=matrix, scale=scale)
    return attended.transpose(-2, -3).contiguous().transpose(-2, -3)


def expand_query(query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Give the query the batch axes of the bias, which PyTorch adds in the scores' memory."""
    scores = broadcast_batch(query, key)
    batch = torch.broadcast_shapes(scores, bias.shape[:-3])
    return query if batch == scores else query.expand(*batch, *query.shape[-3:])
