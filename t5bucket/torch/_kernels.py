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
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from t5bucket.torch._strips import Source, to_array, write_strips
from t5bucket.torch._tensors import fill_bias

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
    return 1 / math.sqrt(inputs.query.shape[3])


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
    q = inputs.query.shape[2]
    num_last = _count_last_rows(q)
    split = q - num_last
    bias = _view_reversed(source, split, num_last, inputs.key.shape[2])
    if padded is None:
        query = inputs.query[:, :, :split].flip(2)
        attended = kernel(query, inputs.key, inputs.value, attn_mask=bias, scale=inputs.scale)
        del query
    else:
        wide = _add_features(inputs, split, padded, num_features)
        attended = kernel(*wide, attn_mask=bias, scale=find_scale(inputs))[
            ..., : inputs.value.shape[3]
        ]
        del wide
    result = new_result(attended, len(attended), q)
    _reverse(result[:, :, :split], attended)
    if num_last:
        _attend_last(inputs, source, kernel, split, result)
    return result


def _reverse(out: torch.Tensor, rows: torch.Tensor) -> None:
    """Copy rows in reverse order."""
    np.copyto(to_array(out), to_array(rows)[:, :, ::-1])


def _count_last_rows(q: int) -> int:
    """Count the rows that keep their order: those beyond the last multiple of a half tile."""
    tile = 256 if q >= 768 else 64 if q >= 192 else 32  # of the flash kernel
    rest = q % tile
    if rest < TILE:
        return rest
    return rest % 16 and 16 + rest % 16


def _view_reversed(source: Source, split: int, num_last: int, k: int) -> torch.Tensor:
    """View the bias of the first rows in reverse order, (1, num_heads, split, k)."""
    diagonals = fill_bias(
        source.weight,
        None,
        source.buckets,
        1,
        split + num_last + k - 1,
        source.query_offset + split + num_last - 1,
        source.key_offset,
        source.causal,
    )
    _, num_heads, _, length = diagonals.shape
    return diagonals.as_strided((1, num_heads, split, k), (0, length, 1, 1), num_last)


def _add_features(
    inputs: Inputs, split: int, padded: torch.Tensor, num_features: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Copy query, in reverse order, key and value with the features that mask padded keys."""
    size = inputs.query.shape[3]
    given = (inputs.query[:, :, :split], inputs.key, inputs.value)
    query, key, value = (
        tensor.new_empty((*tensor.shape[:3], size + num_features)) for tensor in given
    )
    for tensor in (query, key, value):
        tensor[..., size:] = 0
    _reverse(query[..., :size], given[0])
    key[..., :size] = inputs.key
    value[..., :size] = inputs.value
    query[..., size] = 1
    key[..., size].masked_fill_(padded[:, None], -large_number(key.dtype))
    return query, key, value


def large_number(dtype: torch.dtype) -> float:
    """Return the number whose negative is a padded key's feature."""
    return 6e4 if dtype == torch.float16 else 1e30


def _attend_last(
    inputs: Inputs, source: Source, kernel: Kernel, split: int, result: torch.Tensor
) -> None:
    """Attend for the rows that keep their order, and for a whole tile before them."""
    q, k = result.shape[2], inputs.key.shape[2]
    rows = slice(split - TILE, q)
    for (batch, heads, _), strip in write_strips(source, len(result), k, rows):
        query, key, value = inputs.query[batch, heads, rows], inputs.key, inputs.value
        attended = kernel(
            query, key[batch, heads], value[batch, heads], attn_mask=strip, scale=inputs.scale
        )
        result[batch, heads, split:] = attended[:, :, TILE:]


# ---- the bias by strips ----


def attend_by_strips(
    inputs: Inputs, source: Source, kernel: Kernel = scaled_dot_product_attention
) -> torch.Tensor:
    """Attend with any bias, for some heads and some rows at a time."""
    query, key, value, scale = inputs
    q, k = query.shape[2], key.shape[2]
    keeps_last = q >= LEAST_QUERIES and kernel is not math_kernel
    split = q - _count_last_rows(q) if keeps_last else q
    result = query[:0]
    for part, strip in write_strips(source, len(query), k, slice(0, split)):
        batch, heads, _ = part
        attended = kernel(
            query[part], key[batch, heads], value[batch, heads], attn_mask=strip, scale=scale
        )
        if not len(result):
            result = new_result(attended, len(query), q, query.shape[1])
        result[part] = attended
    if split < q:
        _attend_last(inputs, source, kernel, split, result)
    return result


def attend_by_matrix(
    inputs: Inputs, source: Source, kernel: Kernel = scaled_dot_product_attention
) -> torch.Tensor:
    """Attend with the whole matrix."""
    matrix = source.matrix(inputs.query.shape[2], inputs.key.shape[2])
    attended = kernel(*inputs[:3], attn_mask=matrix, scale=inputs.scale)
    return attended.transpose(1, 2).contiguous().transpose(1, 2)


def new_result(
    attended: torch.Tensor, batch_size: int, q: int, num_heads: int | None = None
) -> torch.Tensor:
    """Allocate a result in the flash kernel's order: heads after rows."""
    heads = num_heads or attended.shape[1]
    return attended.new_empty(batch_size, q, heads, attended.shape[3]).transpose(1, 2)
