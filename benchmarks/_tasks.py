# _tasks.py - all tasks of the benchmarks, for t5bucket, its peers and the machine's limit.
# SPDX-License-Identifier: BSD-3-Clause
"""Each function prepares a task for one implementation, and returns a call to be timed.

`t5bucket bench` defines the tasks that need only NumPy. This module adds the peers that need
another package, and more tasks. NumPy and PyTorch run on one thread, unless a number says
otherwise; JAX chooses its threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import t5bucket as tb
from benchmarks._peers import (
    as_tensor,
    import_torch,
    jax_buckets,
    layoutlmv3_encoder,
    t5_attention,
    t5_bucket_function,
)
from t5bucket._arrays import bfloat16
from t5bucket.cli import bench
from t5bucket.cli._measure import Call
from t5bucket.cli.bench import NUM_BUCKETS, NUM_HEADS, random_positions, touched


def make_weight(dtype: str = "float32") -> NDArray[Any]:
    """Make a weight of the usual size; bfloat16 needs ml_dtypes."""
    try:
        return bench.make_weight(bfloat16() if dtype == "bfloat16" else dtype)
    except ImportError as error:
        raise NotImplementedError(str(error)) from error


def make_bias(dtype: str = "float32") -> tb.RelativeAttentionBias:
    """Make the bias of such a weight."""
    return bench.make_bias(make_weight(dtype).dtype)


# ---- consecutive positions ----


def matrix(
    implementation: str,
    dtype: str = "float32",
    length: int = 2048,
    padding: int = 0,
    num_threads: int = 1,
) -> Call:
    """Compute the bias matrix of 12 heads."""
    weight = make_weight(dtype)
    if implementation == "transformers":
        attention = t5_attention(weight)
        return lambda: attention.compute_bias(length, length).contiguous()
    if implementation == "numpy take":
        out = touched((NUM_HEADS, length, length), weight.dtype)
        grid = bench.windows(bench.diagonal_buckets(length, length), length, length)
        by_head = np.ascontiguousarray(weight.T)
        return lambda: np.take(by_head, grid, axis=1, out=out, mode="clip")
    return bench.matrix(weight.dtype, length, padding, num_threads)[implementation]


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
    return bench.decode_step()[implementation]


def view(implementation: str, length: int = 4096) -> Call:
    """Make the bias matrix without a copy."""
    return bench.view(length)[implementation]


def tiles(implementation: str, length: int = 2048, tile: int = 512) -> Call:
    """Copy a matrix tile by tile."""
    bias = make_bias()
    out = touched((NUM_HEADS, length, length), bias.dtype)
    if implementation == "memset":
        return lambda: bench.memset(out)

    def copy_tiles() -> None:
        for (rows, columns), block in bias.tiles(length, length, tile=tile):
            out[:, rows, columns] = block

    return copy_tiles


def grid(implementation: str, dtype: str = "uint8", length: int = 8192) -> Call:
    """Compute the buckets of all pairs of consecutive positions."""
    if implementation == "transformers":
        function, torch = t5_bucket_function()
        positions = torch.arange(length)
        return lambda: function(positions[None, :] - positions[:, None])
    return bench.grid(dtype, length)[implementation]


# ---- explicit positions ----


def elementwise(implementation: str, source_dtype: str, dtype: str, count: int) -> Call:
    """Compute the buckets of random relative positions."""
    if implementation in ("transformers", "jax"):
        source = bench.random_relative_positions(source_dtype, count)
        if implementation == "jax":
            return jax_buckets(source)
        function, torch = t5_bucket_function()
        tensor = torch.from_numpy(source)
        return lambda: function(tensor)
    return bench.elementwise(source_dtype, dtype, count)[implementation]


def scalar(implementation: str) -> Call:
    """Compute one bucket."""
    return bench.scalar()[implementation]


def grid_at(implementation: str, length: int = 1024) -> Call:
    """Compute the buckets of all pairs in a packed row of two sequences."""
    positions = np.concatenate([np.arange(length // 2)] * 2)
    if implementation == "transformers":
        function, torch = t5_bucket_function()
        tensor = torch.from_numpy(positions)
        return lambda: function(tensor[None, :] - tensor[:, None])
    buckets = tb.Buckets(NUM_BUCKETS, bench.MAX_DISTANCE)
    if implementation == "numpy take":
        first = -bench.MAX_DISTANCE
        known = buckets(np.arange(first, -first + 1))
        return lambda: np.take(known, positions[None, :] - positions[:, None] - first, mode="clip")
    return lambda: buckets.grid_at(positions, num_threads=1)


def matrix_at(implementation: str, length: int = 709) -> Call:
    """Compute the bias of explicit positions: LayoutLMv3's 512 tokens and 197 patches."""
    positions, weight = random_positions(length), make_weight()
    if implementation == "transformers":
        encoder, torch = layoutlmv3_encoder(weight)
        tensor = torch.from_numpy(positions)
        return lambda: encoder._cal_1d_pos_emb(tensor)
    if implementation == "torch":  # a bucket for each pair, as in transformers until 5.23
        function, torch = t5_bucket_function()
        tensor, parameter = torch.from_numpy(positions), torch.from_numpy(weight)

        def compute() -> Any:
            relative_position = tensor[:, None, :] - tensor[:, :, None]
            return parameter[function(relative_position)].permute(0, 3, 1, 2).contiguous()

        return compute
    return bench.matrix_at(length)[implementation]


# ---- masks, sums and gradients ----


def masked_matrix(implementation: str, mask: str = "padding", length: int = 512) -> Call:
    """Compute the masked bias of a batch of four."""
    padding, keys = bench.padding_mask(length), np.arange(length)
    if implementation == "torch":
        torch = import_torch()
        whole = torch.from_numpy(make_bias().matrix(length, length))
        minimum = torch.tensor(torch.finfo(torch.float32).min)
        shown = torch.from_numpy(padding)
        return lambda: torch.where(shown, whole, minimum)
    masks: dict[str, dict[str, Any]] = {
        "padding": {"mask": padding},
        "causal": {"mask": padding, "causal": True},
        "additive": {"mask": np.where(padding, 0, -1e9).astype(np.float32)},
        "segments": {"segment_ids": np.broadcast_to(keys // 100, (len(padding), length))},
        "by query": {"mask": padding & (keys <= keys[:, None])},
    }
    return bench.masked_matrix(length, **masks[mask])[implementation]


def add_to(implementation: str, dtype: str = "float32", length: int = 2048) -> Call:
    """Add the bias to scores of 12 heads, in place."""
    bias = make_bias(dtype)
    if implementation == "torch":
        scores = touched((NUM_HEADS, length, length), bias.dtype)
        tensor, whole = as_tensor(scores), as_tensor(bias.matrix(length, length))
        return lambda: tensor.add_(whole)
    return bench.add_to(bias.dtype, length)[implementation]


def numpy_attention(implementation: str, case: str = "no mask", length: int = 1024) -> Call:
    """Attend with 8 heads of 64 features, by NumPy; its BLAS chooses its threads.

    *ready matrix* is the formula with a matrix that was masked before.
    """
    inputs = np.random.default_rng(1).standard_normal((3, 8, length, 64), np.float32)
    keys = np.arange(length)
    masks: dict[str, dict[str, Any]] = {
        "no mask": {},
        "causal": {"causal": True},
        "padding": {"mask": keys < length * 3 // 4},
        "documents": {"segment_ids": keys * 4 // length},
    }
    return _attend(implementation, inputs, masks[case])


def numpy_decoder_step(implementation: str, length: int = 64, batch: int = 32) -> Call:
    """Attend from one token of each text, by NumPy, to a cache whose beginning is padding."""
    rng = np.random.default_rng(1)
    query = rng.standard_normal((batch, 8, 1, 64), np.float32)
    key, value = rng.standard_normal((2, batch, 8, length, 64), np.float32)
    mask = np.arange(length) >= rng.integers(0, length, (batch, 1, 1, 1))
    masks: dict[str, Any] = {"mask": mask, "query_offset": length - 1}
    return _attend(implementation, (query, key, value), masks)


def _attend(implementation: str, inputs: Any, masks: dict[str, Any]) -> Call:
    """Attend by `RelativeAttentionBias.attend`, or by the formula with a ready matrix."""
    query, key, value = inputs
    weight = np.random.default_rng(0).standard_normal((NUM_BUCKETS, 8), np.float32)
    bias = tb.RelativeAttentionBias(weight, tb.Buckets(NUM_BUCKETS))
    if implementation == "t5bucket":
        return lambda: bias.attend(query, key, value, **masks)
    matrix = bias.matrix(query.shape[-2], key.shape[-2], **masks)

    def attend() -> Any:
        scores = query @ key.swapaxes(-1, -2)
        scores += matrix
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        return scores @ value

    return attend


def weight_gradient(implementation: str, length: int = 2048) -> Call:
    """Sum a gradient of 12 heads by bucket, for consecutive positions."""
    if implementation == "torch":
        return index_add(make_bias().buckets.grid(length, length))
    return bench.weight_gradient(length)[implementation]


def weight_gradient_at(implementation: str, length: int = 709) -> Call:
    """Sum a gradient of 12 heads by bucket, for explicit positions."""
    bias, positions = make_bias(), random_positions(length)
    if implementation == "torch":
        return index_add(bias.buckets.grid_at(positions)[0])
    gradient = touched((1, NUM_HEADS, length, length), bias.dtype)
    if implementation == "numpy sum":
        return lambda: np.sum(gradient)
    return lambda: bias.weight_gradient_at(gradient, positions, num_threads=1)


def index_add(grid: Any) -> Call:
    """Sum a gradient by buckets that were computed before, with PyTorch."""
    torch = import_torch()
    gradient = touched((NUM_HEADS, *grid.shape), np.dtype(np.float32))
    tensor, buckets = torch.from_numpy(gradient).flatten(1), torch.from_numpy(grid).flatten()
    sums = torch.zeros(NUM_HEADS, NUM_BUCKETS)
    return lambda: sums.zero_().index_add_(1, buckets, tensor)
