# _padding.py - masks of padded keys, which need no matrix either.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import torch

from t5bucket.torch._kernels import Inputs, find_scale, large_number
from t5bucket.torch._strips import Source

UNDERFLOW = 800.0  # exp(-UNDERFLOW) is 0 in every dtype


def find_padded_keys(inputs: Inputs, source: Source) -> torch.Tensor | None:
    """Find the keys that a mask hides from all queries, (batch or 1, k).

    None unless the mask does just that: every key has all its weight or none, whatever the
    other items are, and no query is left without a key.
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
    """Whether query 0 sees a key; if it does, so does every later one."""
    if source.causal:
        padded = padded[:, : max(0, source.query_offset - source.key_offset + 1)]
    return not bool(padded.all(dim=1).any())


def _hides(keys: torch.Tensor, padded: torch.Tensor, inputs: Inputs, source: Source) -> bool:
    """Whether the scores of padded keys are so small that their weights are exactly 0.

    False if an input is not finite.
    """
    scale = find_scale(inputs)
    size = inputs.query.shape[3]
    largest = size * _largest(inputs.query) * _largest(inputs.key) * scale
    largest += _largest(source.weight)
    least = large_number(inputs.key.dtype) * scale
    if keys.dtype == torch.bool:
        least = min(least, torch.finfo(inputs.query.dtype).max)
    elif padded.any():
        least = min(least, -float(keys[padded].max()))
    return scale > 0 and least > 2 * largest + UNDERFLOW


def _largest(tensor: torch.Tensor) -> float:
    """Return the largest absolute value of a tensor; NaN if it has one."""
    least, largest = torch.aminmax(tensor.detach())
    return max(-float(least), float(largest))
