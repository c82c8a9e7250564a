# _peers.py - whom to compare with: NumPy's tricks, transformers, JAX, the machine's limits.
# SPDX-License-Identifier: BSD-3-Clause
"""A package that is not installed raises NotImplementedError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from t5bucket import _threads
from t5bucket._arrays import bfloat16

Call = Callable[[], Any]
NUM_BUCKETS, MAX_DISTANCE, NUM_HEADS = 32, 128, 12


def make_weight(dtype: str = "float32") -> NDArray[Any]:
    """Make a table of the usual size."""
    try:
        resolved = bfloat16() if dtype == "bfloat16" else np.dtype(dtype)
    except ImportError as error:
        raise NotImplementedError(str(error)) from error
    shape = (NUM_BUCKETS, NUM_HEADS)
    return np.random.default_rng(0).standard_normal(shape).astype(resolved)


def memset(out: NDArray[Any], num_threads: int = 1) -> None:
    """Write the same byte everywhere: the limit of anything that fills memory.

    The byte is not 0: some processors do not send lines of zeros to memory, and
    write them at almost three times the speed of any other data.
    """
    flat = out.reshape(-1).view(np.uint8)
    if num_threads == 1:
        flat.fill(1)
    else:
        _threads.run(
            lambda begin, end: flat[begin:end].fill(1), flat.size, flat.nbytes, num_threads
        )


def diagonal_buckets(query_length: int, key_length: int) -> NDArray[Any]:
    """T5's formula in float32, once for each diagonal: what a careful NumPy user writes."""
    d = np.arange(1 - query_length, key_length)
    half, exact = NUM_BUCKETS // 2, NUM_BUCKETS // 4
    distance = np.abs(d)
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / exact)
    large = exact + (ratio / np.float32(np.log(MAX_DISTANCE / exact)) * exact).astype(int)
    buckets: NDArray[Any] = (d > 0) * half + np.where(
        distance < exact, distance, np.minimum(large, half - 1)
    )
    return buckets


def windows(diagonals: NDArray[Any], query_length: int, key_length: int) -> NDArray[Any]:
    """Rows as windows of the diagonals: (..., query_length, key_length)."""
    rows = sliding_window_view(diagonals, key_length, axis=-1)
    return rows[..., ::-1, :][..., :query_length, :]


def bias_windows(weight: NDArray[Any], length: int) -> NDArray[Any]:
    """Bias matrix as a view of its diagonals: (num_heads, length, length)."""
    diagonals = np.ascontiguousarray(weight[diagonal_buckets(length, length)].T)
    return windows(diagonals, length, length)


def import_torch() -> Any:
    """Import PyTorch, on one thread."""
    try:
        import torch
    except ImportError as error:
        raise NotImplementedError(str(error)) from error
    torch.set_num_threads(1)
    return torch


def as_tensor(array: NDArray[Any]) -> Any:
    """Make a tensor of the same memory."""
    torch = import_torch()
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def t5_attention(weight: NDArray[Any]) -> Any:
    """Make transformers' T5 attention with this table."""
    torch = import_torch()
    try:
        import transformers
        from transformers import T5Config
        from transformers.models.t5.modeling_t5 import T5Attention
    except ImportError as error:
        raise NotImplementedError(str(error)) from error
    if int(transformers.__version__.partition(".")[0]) < 5:
        raise NotImplementedError(f"transformers 5 is the peer, not {transformers.__version__}")
    config = T5Config(num_heads=NUM_HEADS, d_model=NUM_HEADS, d_kv=1)
    attention = T5Attention(config, has_relative_attention_bias=True)
    table = torch.nn.Parameter(as_tensor(weight), requires_grad=False)
    attention.relative_attention_bias.weight = table
    return attention


def layoutlmv3_encoder(weight: NDArray[Any]) -> tuple[Any, Any]:
    """Make transformers' LayoutLMv3 encoder with this table; return torch with it."""
    torch = import_torch()
    try:
        from transformers import LayoutLMv3Config
        from transformers.models.layoutlmv3.modeling_layoutlmv3 import LayoutLMv3Encoder
    except ImportError as error:
        raise NotImplementedError(str(error)) from error
    encoder: Any = LayoutLMv3Encoder(LayoutLMv3Config(num_hidden_layers=1))
    by_head = torch.from_numpy(np.ascontiguousarray(weight.T))
    encoder.rel_pos_bias.weight = torch.nn.Parameter(by_head, requires_grad=False)
    return encoder, torch


def t5_bucket_function() -> tuple[Any, Any]:
    """Find transformers' function of relative positions; return torch with it."""
    return t5_attention(make_weight())._relative_position_bucket, import_torch()


def jax_buckets(source: NDArray[Any]) -> Call:
    """Compile T5X's function of relative positions for these positions."""
    try:
        import jax
        import jax.numpy as jnp
    except ImportError as error:
        raise NotImplementedError(str(error)) from error
    half, exact = NUM_BUCKETS // 2, NUM_BUCKETS // 4
    scale = exact / np.log(MAX_DISTANCE / exact)

    def compute(d: Any) -> Any:
        distance = jnp.abs(d)
        large = exact + (jnp.log(distance.astype(jnp.float32) / exact) * scale).astype(jnp.int32)
        buckets = jnp.where(distance < exact, distance, jnp.minimum(large, half - 1))
        return buckets + (d > 0) * half

    compiled = jax.jit(compute)
    positions = jnp.asarray(source)
    return lambda: compiled(positions).block_until_ready()
