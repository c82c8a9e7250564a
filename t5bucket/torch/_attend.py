# _attend.py - choose how to compute attention: by diagonals, by strips or with the matrix.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from t5bucket.torch._blocks import attend_by_blocks, find_range
from t5bucket.torch._documents import attend_by_documents
from t5bucket.torch._kernels import (
    LEAST_QUERIES,
    TILE,
    Inputs,
    Kernel,
    attend_by_diagonals,
    attend_by_matrix,
    attend_by_strips,
    math_kernel,
    new_result,
    reverse,
    view_reversed_bias,
)
from t5bucket.torch._known import (
    are_blocks_known,
    are_diagonals_known,
    are_strips_known,
    choose_lengths,
    count_features,
)
from t5bucket.torch._padding import find_padded_keys, shrink
from t5bucket.torch._strips import Source
from t5bucket.torch._tensors import broadcast_batch

SMALL_NBYTES = 1 << 20  # a matrix of at most this size is a strip itself
LEAST_SIZE = 8  # of heads: the math kernel computes smaller heads in another way
FLASH = 1  # the number of the kernel in PyTorch
FARTHEST = 2**62 + 2**48  # all keys so far away are in the same bucket


def attend(inputs: Inputs, source: Source, exact: bool, is_trained: bool) -> torch.Tensor:
    """Attend with a bias, without its matrix if it is large.

    If the weight `is_trained`, PyTorch would use its math kernel with the matrix.
    """
    uses_flash = not is_trained and _chooses_flash(inputs)
    kernel: Kernel = scaled_dot_product_attention if uses_flash else math_kernel
    flat, flat_source, batch = flatten(inputs, source)
    if 0 in batch:
        return allocate_result(inputs)
    attended = _attend(flat, flat_source, kernel, exact)
    if attended is None:
        # Not flattened: the math kernel computes broadcast inputs in another way.
        attended = attend_by_matrix(inputs if batch else flat, flat_source, kernel)
    if attended.ndim - 3 == len(batch):
        return attended
    return attended.reshape(*batch, *attended.shape[1:])


def allocate_result(inputs: Inputs) -> torch.Tensor:
    """Allocate the result for these inputs."""
    query, key, value, _ = inputs
    return new_result(value, *broadcast_batch(query, key, value), *query.shape[-3:-1])


def flatten(inputs: Inputs, source: Source) -> tuple[Inputs, Source, tuple[int, ...]]:
    """Give all tensors one batch axis; return the batch axes that they had."""
    batch = broadcast_batch(*inputs[:3])
    query, key, value = (_flatten(tensor, batch, 3) for tensor in inputs[:3])
    given: dict[str, Any] = source._asdict()
    for name, num_axes in NUM_AXES.items():
        tensor = given[name]
        if tensor is not None:
            tensor = tensor.reshape((1,) * (num_axes - tensor.ndim) + tensor.shape)
            has_batch = tensor.shape[:-num_axes].numel() != 1
            given[name] = _flatten(tensor, batch if has_batch else (), num_axes)
    # Only the distance counts. So no position of a part leaves int64.
    distance = source.query_offset - source.key_offset
    given["query_offset"] = max(-FARTHEST, min(distance, FARTHEST))
    given["key_offset"] = 0
    return Inputs(query, key, value, inputs.scale), Source(**given), batch


NUM_AXES = {  # without batch axes
    "mask": 3,
    "query_positions": 1,
    "key_positions": 1,
    "segment_ids": 1,
    "key_segment_ids": 1,
}


def _flatten(tensor: torch.Tensor, batch: tuple[int, ...], num_axes: int) -> torch.Tensor:
    """Give a tensor one batch axis before its own axes."""
    own = tensor.shape[-num_axes:]
    if len(batch) == 1 and tensor.shape[:-num_axes] == batch:
        return tensor
    if not batch:
        return tensor.reshape(1, *own)
    return tensor.expand(*batch, *own).reshape(math.prod(batch), *own)


def _chooses_flash(inputs: Inputs) -> bool:
    """Whether PyTorch uses its flash kernel for these tensors with a bias."""
    query, key, value, scale = inputs
    if query.ndim == 3:  # PyTorch refuses it with a bias of four axes
        query, key, value = query[None], key[None], value[None]
    choose: Any = torch._fused_sdp_choice
    mask = query.new_zeros(()).expand(1, query.shape[-3], query.shape[-2], key.shape[-2])
    return bool(choose(query, key, value, attn_mask=mask, scale=scale) == FLASH)


def _attend(inputs: Inputs, source: Source, kernel: Kernel, exact: bool) -> torch.Tensor | None:
    """Attend by diagonals or by strips; None if the matrix is faster or gives other bits."""
    batch_size, num_heads, q, size = inputs.query.shape
    k = inputs.key.shape[2]
    count = num_heads * q * k * (1 if source.is_shared else batch_size)
    if q < TILE or count * inputs.query.element_size() <= SMALL_NBYTES or not size:
        return None
    if kernel is not math_kernel and q >= LEAST_QUERIES:
        attended = _attend_by_diagonals(inputs, source, exact)
        if attended is None and not exact:
            attended = attend_by_documents(inputs, source)
        if attended is not None:
            return attended
    if exact and not _are_strips_equal(inputs, source, kernel):
        return None
    return attend_by_strips(inputs, source, kernel)


def _are_strips_equal(inputs: Inputs, source: Source, kernel: Kernel) -> bool:
    """Whether strips give the same bits as the matrix, for these inputs."""
    num_heads, _, size = inputs.query.shape[1:]
    dtype = inputs.query.dtype
    if kernel is math_kernel and (dtype == torch.float64 or num_heads < 2 or size < LEAST_SIZE):
        return False
    return are_strips_known(dtype, size, kernel, source.is_shared)


def _attend_by_diagonals(inputs: Inputs, source: Source, exact: bool) -> torch.Tensor | None:
    """Attend to consecutive positions; None if the mask does not allow it."""
    dtype, size = inputs.query.dtype, inputs.query.shape[3]
    lengths = choose_lengths(dtype, inputs.query.shape[2])
    if not source.is_consecutive or (exact and not are_diagonals_known(dtype, size, lengths)):
        return None
    attend = attend_by_blocks if are_blocks_known(dtype, size, lengths) else attend_by_diagonals
    if source.mask is None:
        return attend(inputs, source)
    source = source._replace(mask=shrink(source.mask))
    padded = find_padded_keys(inputs, source)
    if padded is None:
        return None
    if not exact:
        attended = _attend_trimmed(inputs, source, padded)
        if attended is not None:
            return attended
    num_features = count_features(dtype, size, lengths)
    if not num_features:
        return None
    return attend(inputs, source, padded=padded, num_features=num_features)


def _attend_trimmed(inputs: Inputs, source: Source, padded: torch.Tensor) -> torch.Tensor | None:
    """Attend to the keys between the padded ones; None if padded keys lie between others."""
    ranges = []
    for row in padded.tolist():
        keys = find_range(row)
        if any(row[keys]):
            return None
        ranges.append(keys)
    q, k = inputs.query.shape[2], inputs.key.shape[2]
    bias = view_reversed_bias(source, q, q, k)
    query = reverse(inputs.query)
    step = len(query) if len(ranges) == 1 else 1
    for example, keys in enumerate(ranges):
        batch = slice(example, example + step)
        attended = scaled_dot_product_attention(
            query[batch],
            inputs.key[batch, :, keys],
            inputs.value[batch, :, keys],
            attn_mask=bias[..., keys],
            scale=inputs.scale,
        )
        query[batch] = reverse(attended)  # these rows of the query are not needed any more
    return query
