# _known.py - whether PyTorch's kernels give the same bits without the matrix, tried on small cases.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch

from t5bucket._buckets import Buckets
from t5bucket.torch._blocks import BLOCK, attend_by_blocks
from t5bucket.torch._kernels import (
    Inputs,
    Kernel,
    attend_by_diagonals,
    attend_by_matrix,
    attend_by_strips,
    math_kernel,
)
from t5bucket.torch._strips import Source

logger = logging.getLogger(__package__)

LENGTHS = ((97, 514), (801, 70))  # of queries and keys: last tiles and blocks of few rows and keys


@cache
def are_strips_known(dtype: torch.dtype, size: int, kernel: Kernel) -> bool:
    """Whether strips give the bits of the matrix, for heads of this size."""
    kernels = (kernel,) if kernel is math_kernel else (_flash_output, _flash_logsumexp)
    return _report(
        all(_is_equal(dtype, size, kernel, attend_by_strips) for kernel in kernels),
        f"strips, {dtype}, heads of size {size}",
    )


@cache
def are_diagonals_known(dtype: torch.dtype, size: int) -> bool:
    """Whether the view of the diagonals gives the bits of the matrix, for heads of this size."""
    kernels = (_flash_output, _flash_logsumexp)
    return _report(
        _has_no_packing(dtype)
        and all(_is_equal(dtype, size, kernel, attend_by_diagonals) for kernel in kernels),
        f"diagonals, {dtype}, heads of size {size}",
    )


@cache
def are_blocks_known(dtype: torch.dtype, size: int) -> bool:
    """Whether blocks of hidden keys change no bit, for heads of this size."""
    lengths = ((97, 2 * BLOCK + 2),)
    return are_diagonals_known(dtype, size) and all(
        _is_equal(dtype, size, kernel, attend_by_blocks, lengths=lengths)
        for kernel in (_flash_output, _flash_logsumexp)
    )


@cache
def count_features(dtype: torch.dtype, size: int) -> int:
    """Count the features with which padded keys are masked and the bits are equal; 0 if none."""

    def attend(inputs: Inputs, source: Source, kernel: Kernel) -> torch.Tensor:
        assert source.mask is not None
        padded = ~source.mask[:, 0, 0]
        return attend_by_diagonals(inputs, source, kernel, padded, num_features)

    if not are_diagonals_known(dtype, size):
        return 0
    for num_features in (8, 2):
        kernels = (_flash_output, _flash_logsumexp)
        if all(_is_equal(dtype, size, kernel, attend, padded=True) for kernel in kernels):
            return num_features
    _report(False, f"padding by features, {dtype}, heads of size {size}")
    return 0


def _report(is_known: bool, what: str) -> bool:
    if not is_known:
        logger.debug("attention takes the matrix: PyTorch %s, %s", torch.__version__, what)
    return is_known


def _has_no_packing(dtype: torch.dtype) -> bool:
    """Whether the flash kernel computes all lengths in one way; with AMX, float16 has two."""
    has_amx: Any = getattr(torch.cpu, "_is_amx_fp16_supported", lambda: False)
    return dtype != torch.float16 or not has_amx()


def _is_equal(
    dtype: torch.dtype,
    size: int,
    kernel: Kernel,
    attend: Any,
    padded: bool = False,
    lengths: tuple[tuple[int, int], ...] = LENGTHS,
) -> bool:
    """Whether a way to attend has the bits of the matrix, for lengths with odd ends."""
    try:
        with torch.no_grad():
            return all(
                torch.equal(attend(*case, kernel=kernel), attend_by_matrix(*case, kernel=kernel))
                for case in (_make_case(dtype, size, q, k, padded) for q, k in lengths)
            )
    except (AttributeError, RuntimeError) as error:  # another version of PyTorch
        logger.debug("PyTorch %s: %s", torch.__version__, error)
        return False


def _make_case(
    dtype: torch.dtype, size: int, q: int, k: int, padded: bool
) -> tuple[Inputs, Source]:
    generator = torch.Generator().manual_seed(0)
    buckets = Buckets()

    def make(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    query, key, value = (make(2, n, 2, size).transpose(1, 2) for n in (q, k, k))
    mask = torch.rand(2, 1, 1, k, generator=generator) < 0.7 if padded else None
    source = Source(
        make(buckets.num_buckets, 2), mask, None, None, None, None, buckets, 3, 0, not padded
    )
    return Inputs(query, key, value, size**-0.5), source


def _flash_output(query: Any, key: Any, value: Any, attn_mask: Any, scale: Any) -> torch.Tensor:
    return _flash(query, key, value, attn_mask, scale)[0]


def _flash_logsumexp(query: Any, key: Any, value: Any, attn_mask: Any, scale: Any) -> torch.Tensor:
    """Return what the scores are divided by, where a rounded output would hide a bit."""
    return _flash(query, key, value, attn_mask, scale)[1][..., None]


def _flash(
    query: Any, key: Any, value: Any, mask: Any, scale: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    kernel: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    attended: tuple[torch.Tensor, torch.Tensor] = kernel(
        query, key, value, 0.0, False, attn_mask=mask, scale=scale
    )
    return attended
