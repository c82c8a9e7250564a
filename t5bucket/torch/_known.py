# _known.py - check on small cases that PyTorch's kernels give the same bits without the matrix.
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
    count_last_rows,
    math_kernel,
)
from t5bucket.torch._strips import Source

logger = logging.getLogger(__package__)

Lengths = tuple[tuple[int, int], ...]  # of queries and keys
LENGTHS: Lengths = ((97, 514), (801, 70))  # the last tile and block have few rows and keys
WHOLE_TILES: Lengths = ((128, 514), (768, 70))
LEAST_SIZE = 16  # of heads with added features: the bits of smaller heads sometimes differ


def choose_lengths(dtype: torch.dtype, q: int) -> Lengths | None:
    """Choose the small cases that represent this many queries; None if none does.

    With AMX the flash kernel multiplies in a second way if there are many queries. Then the
    last rows must not be computed apart from the others.
    """
    if not has_second_way(dtype):
        return LENGTHS
    return None if count_last_rows(q) else WHOLE_TILES


def has_second_way(dtype: torch.dtype) -> bool:
    """Whether the flash kernel multiplies in one of two ways, depending on the lengths."""
    names = {torch.bfloat16: "_is_amx_tile_supported", torch.float16: "_is_amx_fp16_supported"}
    is_supported: Any = getattr(torch.cpu, names.get(dtype, ""), lambda: False)
    return bool(is_supported())


@cache
def are_strips_known(dtype: torch.dtype, size: int, kernel: Kernel, is_shared: bool) -> bool:
    """Whether strips give the same bits as the matrix, for all examples or one at a time."""
    padded = not is_shared  # so that each example has a bias of its own
    is_flash = kernel is not math_kernel
    kernels = (_flash_output, _flash_logsumexp) if is_flash else (kernel,)
    return _report(
        not (is_flash and has_second_way(dtype))
        and all(_is_equal(dtype, size, kernel, attend_by_strips, padded) for kernel in kernels),
        f"strips of {dtype}, heads of size {size}",
        "the matrix",
    )


@cache
def are_diagonals_known(dtype: torch.dtype, size: int, lengths: Lengths | None) -> bool:
    """Whether the view of the diagonals gives the same bits as the matrix, for this head size."""
    return _report(
        lengths is not None
        and all(
            _is_equal(dtype, size, kernel, attend_by_diagonals, lengths=lengths)
            for kernel in (_flash_output, _flash_logsumexp)
        ),
        f"diagonals of {dtype}, heads of size {size}, lengths like {lengths}",
        "strips or the matrix",
    )


@cache
def are_blocks_known(dtype: torch.dtype, size: int, lengths: Lengths | None) -> bool:
    """Whether skipping blocks of hidden keys changes no bit, for this head size."""
    long = ((97, 2 * BLOCK + 2),)
    return lengths is LENGTHS and all(
        _is_equal(dtype, size, kernel, attend_by_blocks, lengths=long)
        for kernel in (_flash_output, _flash_logsumexp)
    )


@cache
def count_features(dtype: torch.dtype, size: int, lengths: Lengths | None) -> int:
    """Find how many added features mask padded keys with equal bits; 0 if no number does."""

    def attend(inputs: Inputs, source: Source, kernel: Kernel) -> torch.Tensor:
        assert source.mask is not None
        padded = ~source.mask[:, 0, 0]
        return attend_by_diagonals(inputs, source, kernel, padded, num_features)

    if size < LEAST_SIZE or lengths is None or not are_diagonals_known(dtype, size, lengths):
        return 0
    for num_features in (8, 2):
        kernels = (_flash_output, _flash_logsumexp)
        if all(_is_equal(dtype, size, kernel, attend, True, lengths) for kernel in kernels):
            return num_features
    _report(False, f"features for padding, {dtype}, heads of size {size}", "strips or the matrix")
    return 0


def _report(is_known: bool, way: str, instead: str) -> bool:
    if not is_known:
        logger.debug("attention takes %s, not %s: PyTorch %s", instead, way, torch.__version__)
    return is_known


def _is_equal(
    dtype: torch.dtype,
    size: int,
    kernel: Kernel,
    attend: Any,
    padded: bool = False,
    lengths: Lengths = LENGTHS,
) -> bool:
    """Whether a way to attend gives the same bits as the matrix, for these lengths."""
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
        return torch.randn(shape, generator=generator, device="cpu").to(dtype)

    query, key, value = (make(2, n, 2, size).transpose(1, 2) for n in (q, k, k))
    mask = torch.rand(2, 1, 1, k, generator=generator, device="cpu") < 0.7 if padded else None
    source = Source(
        make(buckets.num_buckets, 2), mask, None, None, None, None, buckets, 3, 0, not padded
    )
    return Inputs(query, key, value, size**-0.5), source


def _flash_output(query: Any, key: Any, value: Any, attn_mask: Any, scale: Any) -> torch.Tensor:
    return _flash(query, key, value, attn_mask, scale)[0]


def _flash_logsumexp(query: Any, key: Any, value: Any, attn_mask: Any, scale: Any) -> torch.Tensor:
    """Return the logarithm of softmax's denominator; rounded outputs can hide a different bit."""
    return _flash(query, key, value, attn_mask, scale)[1][..., None]


def _flash(
    query: Any, key: Any, value: Any, mask: Any, scale: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    kernel: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    attended: tuple[torch.Tensor, torch.Tensor] = kernel(
        query, key, value, 0.0, False, attn_mask=mask, scale=scale
    )
    return attended
