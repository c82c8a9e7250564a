# _peers.py - the works that are measured: by t5bucket, by its peers, and the machine's limits.
# SPDX-License-Identifier: BSD-3-Clause
"""Every function prepares one way to do a work, and returns a call to be timed.

Where there is an ``out``, it was touched before; t5bucket, NumPy and torch run on
one thread, except where a number says otherwise, and JAX on its own. A package
that is not installed raises NotImplementedError.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

import t5bucket as tb
from t5bucket import _checks, _threads

Call = Callable[[], Any]
NUM_BUCKETS, MAX_DISTANCE, NUM_HEADS = 32, 128, 12
PADDING = 16  # items after each row of a padded output


def make_weight(dtype: str = "float32") -> NDArray[Any]:
    """Make a table of the usual size."""
    try:
        resolved = _checks.bfloat16() if dtype == "bfloat16" else np.dtype(dtype)
    except ImportError as error:
        raise NotImplementedError(str(error)) from error
    shape = (NUM_BUCKETS, NUM_HEADS)
    return np.random.default_rng(0).standard_normal(shape).astype(resolved)


def make_bias(dtype: str = "float32", bidirectional: bool = True) -> tb.RelativeAttentionBias:
    """Make a table with its scheme."""
    buckets = tb.Buckets(NUM_BUCKETS, MAX_DISTANCE, bidirectional)
    return tb.RelativeAttentionBias(make_weight(dtype), buckets)


@lru_cache(maxsize=1)
def touched(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Memory that was written before; a work and its peer share it, and so the cache."""
    return np.ones(shape, dtype)


# ---- the works ----


def matrix(
    implementation: str,
    dtype: str = "float32",
    length: int = 2048,
    *,
    padded: bool = False,
    num_threads: int = 1,
) -> Call:
    """Compute the bias matrix of 12 heads."""
    if implementation == "transformers":
        attention = t5_attention(make_weight(dtype))
        return lambda: attention.compute_bias(length, length).contiguous()
    bias = make_bias(dtype)
    row_length = length + PADDING if padded else length
    memory = touched((NUM_HEADS, length, row_length), bias.dtype)
    out = memory[:, :, :length]
    if implementation == "memset":
        return lambda: memset(memory, num_threads)
    if implementation == "numpy window":
        weight = make_weight(dtype)
        return lambda: np.copyto(out, bias_windows(weight, length))
    if implementation == "numpy take":
        grid = windows(diagonal_buckets(length, length), length, length)
        by_head = np.ascontiguousarray(make_weight(dtype).T)
        return lambda: np.take(by_head, grid, axis=1, out=out, mode="clip")
    return lambda: bias.matrix(length, length, out=out, num_threads=num_threads)


def fresh_matrix(implementation: str, length: int = 2048) -> Call:
    """Compute the bias matrix into new memory, on the default number of threads."""
    if implementation == "numpy full":
        return lambda: np.full((NUM_HEADS, length, length), 1, np.float32)
    if implementation == "transformers":
        return matrix(implementation, length=length)
    bias = make_bias()
    return lambda: bias.matrix(length, length)


def decode_step(implementation: str) -> Call:
    """Compute the bias of one query after 127 past tokens."""
    if implementation == "transformers":
        attention = t5_attention(make_weight())
        return lambda: attention.compute_bias(1, 128, past_seen_tokens=127)
    bias = make_bias(bidirectional=False)
    out = np.zeros((NUM_HEADS, 1, 128), np.float32) if implementation.endswith("out") else None
    return lambda: bias.matrix(1, 128, query_offset=127, out=out)


def view(implementation: str, length: int = 4096) -> Call:
    """Make the bias matrix without a copy."""
    if implementation == "numpy window":
        weight = make_weight()
        return lambda: bias_windows(weight, length)
    bias = make_bias()
    return lambda: bias.view(length, length)


def grid(implementation: str, dtype: str = "uint8", length: int = 8192) -> Call:
    """Compute the buckets of all pairs of consecutive positions."""
    if implementation == "transformers":
        function, torch = t5_bucket_function()
        positions = torch.arange(length)
        return lambda: function(positions[None, :] - positions[:, None])
    out = touched((length, length), np.dtype(dtype))
    if implementation == "memset":
        return lambda: memset(out)
    if implementation == "numpy window":
        return lambda: np.copyto(
            out, windows(diagonal_buckets(length, length).astype(dtype), length, length)
        )
    buckets = tb.Buckets(NUM_BUCKETS, MAX_DISTANCE)
    return lambda: buckets.grid(length, length, dtype=out.dtype, out=out, num_threads=1)


def elementwise(implementation: str, source_dtype: str, dtype: str, count: int) -> Call:
    """Compute the buckets of random relative positions."""
    source = np.random.default_rng(0).integers(-300, 300, count).astype(source_dtype)
    if implementation == "transformers":
        function, torch = t5_bucket_function()
        tensor = torch.from_numpy(source)
        return lambda: function(tensor)
    if implementation == "jax":
        return jax_buckets(source)
    buckets = tb.Buckets(NUM_BUCKETS, MAX_DISTANCE)
    if implementation == "numpy copyto":  # of the positions themselves
        copy = np.zeros(count, source_dtype)
        return lambda: np.copyto(copy, source)
    out = np.zeros(count, dtype)
    if implementation == "numpy take":
        table = buckets(np.arange(-MAX_DISTANCE, MAX_DISTANCE + 1)).astype(dtype)
        return lambda: np.take(table, source, mode="clip")  # the shift is given to NumPy
    return lambda: buckets(source, dtype=out.dtype, out=out, num_threads=1)


def scalar(implementation: str) -> Call:
    """Compute one bucket; the yardstick is NumPy's own small call."""
    if implementation == "numpy abs":
        array = np.zeros(128)
        return lambda: np.abs(array, out=array)
    buckets = tb.Buckets(NUM_BUCKETS, MAX_DISTANCE)
    return lambda: buckets(-5)


# ---- what the peers need ----


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


def t5_attention(weight: NDArray[Any]) -> Any:
    """Make transformers' T5 attention with this table."""
    try:
        import torch
        import transformers
        from transformers import T5Config
        from transformers.models.t5.modeling_t5 import T5Attention
    except ImportError as error:
        raise NotImplementedError(str(error)) from error
    torch.set_num_threads(1)
    if weight.dtype.name == "bfloat16":
        tensor = torch.from_numpy(weight.view(np.int16)).view(torch.bfloat16)
    else:
        tensor = torch.from_numpy(weight)
    if int(transformers.__version__.partition(".")[0]) < 5:
        raise NotImplementedError(f"transformers 5 is the peer, not {transformers.__version__}")
    config = T5Config(num_heads=NUM_HEADS, d_model=NUM_HEADS, d_kv=1)
    attention = T5Attention(config, has_relative_attention_bias=True)
    attention.relative_attention_bias.weight = torch.nn.Parameter(tensor, requires_grad=False)
    return attention


def t5_bucket_function() -> tuple[Any, Any]:
    """Find transformers' function of relative positions; return torch with it."""
    function = t5_attention(make_weight())._relative_position_bucket
    import torch

    return function, torch


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
