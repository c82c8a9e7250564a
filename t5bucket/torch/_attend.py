# _attend.py - which way an attention goes: by diagonals, by strips or with the matrix.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from t5bucket.torch._kernels import (
    LEAST_QUERIES,
    Inputs,
    Kernel,
    attend_by_diagonals,
    attend_by_matrix,
    attend_by_strips,
    math_kernel,
    new_result,
)
from t5bucket.torch._known import are_diagonals_known, are_strips_known, count_features
from t5bucket.torch._padding import find_padded_keys
from t5bucket.torch._strips import Source

SMALL_NBYTES = 1 << 20  # a matrix of this size is a strip itself
FLASH = 1  # the number of the kernel in PyTorch


def attend(inputs: Inputs, source: Source, exact: bool, is_trained: bool) -> torch.Tensor:
    """Attend with a bias, without its matrix if it is large.

    If the weight `is_trained`, PyTorch would take its math kernel for the matrix.
    """
    uses_flash = not is_trained and _chooses_flash(inputs)
    kernel: Kernel = scaled_dot_product_attention if uses_flash else math_kernel
    flat, flat_source, batch = flatten(inputs, source)
    attended = _attend(flat, flat_source, kernel, exact)
    if attended.ndim - 3 == len(batch):
        return attended
    return attended.reshape(*batch, *attended.shape[1:])


def flatten(inputs: Inputs, source: Source) -> tuple[Inputs, Source, tuple[int, ...]]:
    """Give all tensors one batch axis; return the batch axes that they had."""
    tensors = inputs[:3]
    batch = tuple(torch.broadcast_shapes(*(tensor.shape[:-3] for tensor in tensors)))
    query, key, value = (
        tensor.expand(*batch, *tensor.shape[-3:]).reshape(-1, *tensor.shape[-3:])
        for tensor in tensors
    )
    num_axes = {"mask": 3}
    flat: dict[str, Any] = {
        name: _flatten(getattr(source, name), batch, num_axes.get(name, 1))
        for name in Source._fields[1:6]
    }
    return Inputs(query, key, value, inputs.scale), source._replace(**flat), batch


def _flatten(
    tensor: torch.Tensor | None, batch: tuple[int, ...], num_axes: int
) -> torch.Tensor | None:
    """Give a tensor one batch axis before its own axes; of size 1, if it has the same for all."""
    if tensor is None:
        return None
    tensor = tensor.reshape((1,) * (num_axes - tensor.ndim) + tensor.shape)
    own = tensor.shape[-num_axes:]
    if tensor.numel() == own.numel():
        return tensor.reshape(1, *own)
    return tensor.expand(*batch, *own).reshape(-1, *own)


def _chooses_flash(inputs: Inputs) -> bool:
    """Whether PyTorch takes its flash kernel for these tensors with a bias."""
    query, key, value, scale = inputs
    if query.ndim == 3:  # which PyTorch does not take with a bias of four axes
        query, key, value = query[None], key[None], value[None]
    choose: Any = torch._fused_sdp_choice
    mask = query.new_zeros(()).expand(1, query.shape[-3], query.shape[-2], key.shape[-2])
    return bool(choose(query, key, value, attn_mask=mask, scale=scale) == FLASH)


def _attend(inputs: Inputs, source: Source, kernel: Kernel, exact: bool) -> torch.Tensor:
    batch_size, num_heads, q, size = inputs.query.shape
    dtype, k = inputs.query.dtype, inputs.key.shape[2]
    count = num_heads * q * k * (1 if source.is_shared else batch_size)
    if q == 1 or count * inputs.query.element_size() <= SMALL_NBYTES or not size:
        return attend_by_matrix(inputs, source, kernel)
    if kernel is not math_kernel and q >= LEAST_QUERIES:
        attended = _attend_by_diagonals(inputs, source, exact)
        if attended is not None:
            return attended
    if exact and not are_strips_known(dtype, size, kernel):
        return attend_by_matrix(inputs, source, kernel)
    return attend_by_strips(inputs, source, kernel)


def _attend_by_diagonals(inputs: Inputs, source: Source, exact: bool) -> torch.Tensor | None:
    """Attend to consecutive positions; None if the mask does not allow it."""
    dtype, size = inputs.query.dtype, inputs.query.shape[3]
    if not source.is_consecutive or (exact and not are_diagonals_known(dtype, size)):
        return None
    if source.mask is None:
        return attend_by_diagonals(inputs, source)
    padded = find_padded_keys(inputs, source)
    if padded is None:
        return None
    if not exact:
        return _attend_trimmed(inputs, source, padded)
    num_features = count_features(dtype, size)
    if not num_features:
        return None
    return attend_by_diagonals(inputs, source, padded=padded, num_features=num_features)


def _attend_trimmed(inputs: Inputs, source: Source, padded: torch.Tensor) -> torch.Tensor:
    """Attend to the keys between the padded ones, example by example if they differ."""
    examples = len(padded)
    step = len(inputs.query) if examples == 1 else 1
    result = new_result(inputs.value, len(inputs.query), inputs.query.shape[2])
    for example in range(examples):
        batch = slice(example, example + step)
        keys = (~padded[example]).nonzero()
        first, last = int(keys[0]), int(keys[-1]) + 1
        query, key, value = (tensor[batch] for tensor in inputs[:3])
        if last - first == len(keys):
            part = Inputs(query, key[:, :, first:last], value[:, :, first:last], inputs.scale)
            of_part = source._replace(mask=None, key_offset=source.key_offset + first)
            result[batch] = attend_by_diagonals(part, of_part)
        else:  # padded keys lie between others
            assert source.mask is not None
            mask = source.mask if len(source.mask) == 1 else source.mask[batch]
            part = Inputs(query, key, value, inputs.scale)
            result[batch] = attend_by_strips(part, source._replace(mask=mask))
    return result
