# _padding.py - find padded keys in a mask, so that no matrix is needed for them.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import torch

from t5bucket.torch._kernels import Inputs, find_scale, large_number
from t5bucket.torch._strips import Source
from t5bucket.torch._tensors import wide_dtype

UNDERFLOW = 800.0  # exp(-UNDERFLOW) is 0 in every dtype


def shrink(mask: torch.Tensor | None) -> torch.Tensor | None:
    """Reduce a mask of four axes to one row for each example, if it is the same for all queries."""
    if mask is None or mask.ndim != 4 or mask.shape[2] < 2:
        return mask
    row = mask[:, :, :1]
    is_same = torch.equal(mask[:, :, -1:], row) and torch.equal(mask, row.expand_as(mask))
    return row.clone() if is_same else mask


def find_padded_keys(inputs: Inputs, source: Source) -> torch.Tensor | None:
    """Find the keys that a mask hides from all queries, (batch or 1, k).

    None unless that is all the mask does: each key is fully visible or has a weight of exactly
    0, whatever the scores are, and every query sees at least one key.
    """
    mask = source.mask
    if mask is None or mask.shape[1] > 1 or mask.shape[2] > 1 or not source.is_consecutive:
        return None
    keys = mask[:, 0, 0].expand(-1, inputs.key.shape[2])
    padded = ~keys if keys.dtype == torch.bool else keys != 0
    if not _leaves_a_key(padded, source) or not _hides(keys, padded, inputs, source):
        return None
    return padded


def _leaves_a_key(padded: torch.Tensor, source: Source) -> bool:
    """Whether query 0 sees a key; then every later query does, too."""
    if source.causal:
        padded = padded[:, : max(0, source.query_offset - source.key_offset + 1)]
    return not bool(padded.all(dim=1).any())


def _hides(keys: torch.Tensor, padded: torch.Tensor, inputs: Inputs, source: Source) -> bool:
    """Whether the mask hides padded keys, and the feature that replaces it does, too."""
    least = large_number(inputs.key.dtype) * find_scale(inputs)
    if keys.dtype == torch.bool:
        least = min(least, torch.finfo(inputs.query.dtype).max)
    elif padded.any():
        least = min(least, -float(keys[padded].max()))
    return are_hidden(least, inputs, source)


def are_hidden(least: float, inputs: Inputs, source: Source) -> bool:
    """Whether subtracting `least` from the scores of keys makes their weights exactly 0.

    False if an input is not finite.
    """
    scale = find_scale(inputs)
    largest_bias = _norm(source.weight, None)
    bounds = (_norm(inputs.query, axis) * _norm(inputs.key, axis) for axis in (None, -1))
    return any(
        scale > 0 and least > 2 * (scale * bound + largest_bias) + UNDERFLOW for bound in bounds
    )


def _norm(tensor: torch.Tensor, axis: int | None) -> float:
    """Return the norm of all items, or the largest norm of a vector, rounded up a little.

    The product of two norms bounds the dot product of any two vectors. The norm of all items
    is faster.
    """
    norms = torch.linalg.vector_norm(tensor.detach(), dim=axis, dtype=wide_dtype(tensor.dtype))
    return 1.01 * float(norms.max())
