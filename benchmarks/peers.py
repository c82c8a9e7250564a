# peers.py - the implementations that t5bucket is measured against, and the machine's limits.
# SPDX-License-Identifier: BSD-3-Clause
"""Every function returns a call without arguments, ready to be timed.

A package that is not installed raises NotImplementedError, which asv takes as
"not applicable".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Call = Callable[[], Any]
NUM_BUCKETS, MAX_DISTANCE = 32, 128


def memset(out: Any) -> None:
    """Write the same byte everywhere: the limit of anything that fills memory.

    The byte is not 0: some processors do not send lines of zeros to memory, and
    write them at almost three times the speed of any other data.
    """
    out.view(np.uint8).fill(1)


def t5_attention(weight: Any) -> Any:
    """Make transformers' T5 attention with this table."""
    try:
        import torch
        from transformers import T5Config
        from transformers.models.t5.modeling_t5 import T5Attention
    except ImportError as error:
        raise NotImplementedError(str(error)) from error
    torch.set_num_threads(1)
    num_buckets, num_heads = weight.shape
    config = T5Config(num_heads=num_heads, d_model=num_heads, d_kv=1)
    assert num_buckets == config.relative_attention_num_buckets == NUM_BUCKETS
    attention = T5Attention(config, has_relative_attention_bias=True)
    parameter = torch.nn.Parameter(torch.from_numpy(weight), requires_grad=False)
    attention.relative_attention_bias.weight = parameter
    return attention


def t5_bucket_function() -> Any:
    """Find transformers' function of relative positions."""
    return t5_attention(np.zeros((NUM_BUCKETS, 1), np.float32))._relative_position_bucket


def diagonal_buckets(query_length: int, key_length: int) -> Any:
    """T5's formula in float32, once for each diagonal: what a careful NumPy user writes."""
    d = np.arange(1 - query_length, key_length)
    half, exact = NUM_BUCKETS // 2, NUM_BUCKETS // 4
    distance = np.abs(d)
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / exact)
    large = exact + (ratio / np.float32(np.log(MAX_DISTANCE / exact)) * exact).astype(int)
    return (d > 0) * half + np.where(distance < exact, distance, np.minimum(large, half - 1))


def windows(diagonals: Any, query_length: int, key_length: int) -> Any:
    """Rows as windows of the diagonals: (..., query_length, key_length)."""
    return sliding_window_view(diagonals, key_length, axis=-1)[..., ::-1, :][..., :query_length, :]


def bias_windows(weight: Any, length: int) -> Any:
    """Bias matrix as a view of its diagonals: (num_heads, length, length)."""
    diagonals = np.ascontiguousarray(weight[diagonal_buckets(length, length)].T)
    return windows(diagonals, length, length)
