# _works.py - the works that are measured: by t5bucket, by its peers, and the limits of the machine.
# SPDX-License-Identifier: BSD-3-Clause
"""Every function prepares one way to do a work, and returns a call to be timed.

Where there is an ``out``, it was touched before; t5bucket, NumPy and torch run on
one thread, except where a number says otherwise, and JAX on its own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

import t5bucket as tb
from t5bucket.cli._peers import (
    MAX_DISTANCE,
    NUM_BUCKETS,
    NUM_HEADS,
    Call,
    as_tensor,
    bias_windows,
    diagonal_buckets,
    import_torch,
    jax_buckets,
    layoutlmv3_encoder,
    make_weight,
    memset,
    t5_attention,
    t5_bucket_function,
    windows,
)

PADDING = 16  # items after each row of a padded output


def make_bias(dtype: str = "float32", bidirectional: bool = True) -> tb.RelativeAttentionBias:
    """Make a table with its scheme."""
    buckets = tb.Buckets(NUM_BUCKETS, MAX_DISTANCE, bidirectional)
    return tb.RelativeAttentionBias(make_weight(dtype), buckets)


@lru_cache(maxsize=1)
def touched(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Memory that was written before; a work and its peer share it, and so the cache."""
    return np.ones(shape, dtype)


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


def random_positions(length: int) -> NDArray[Any]:
    """Make positions as those of boxes on a page, in a batch of one."""
    return np.random.default_rng(0).integers(0, 1000, (1, length))


def matrix_at(implementation: str, length: int = 709) -> Call:
    """Compute the bias of positions that are data: LayoutLMv3's 512 tokens and 197 patches."""
    positions = random_positions(length)
    if implementation == "transformers":
        encoder, torch = layoutlmv3_encoder(make_weight())
        tensor = torch.from_numpy(positions)
        return lambda: encoder._cal_1d_pos_emb(tensor)
    if implementation == "torch":  # each pair's bucket, as transformers did it until 5.23
        function, torch = t5_bucket_function()
        tensor, weight = torch.from_numpy(positions), torch.from_numpy(make_weight())
        relative = (..., None, slice(None)), (..., slice(None), None)
        return lambda: (
            weight[function(tensor[relative[0]] - tensor[relative[1]])]
            .permute(0, 3, 1, 2)
            .contiguous()
        )
    out = touched((1, NUM_HEADS, length, length), np.dtype(np.float32))
    if implementation == "memset":
        return lambda: memset(out)
    bias = make_bias()
    if implementation == "numpy take":
        by_head = np.ascontiguousarray(make_weight().T)
        grid = bias.buckets.grid_at(positions)
        return lambda: np.take(by_head, grid[0], axis=1, out=out[0], mode="clip")
    accumulate = implementation == "t5bucket accumulate"
    return lambda: bias.matrix_at(positions, out=out, accumulate=accumulate, num_threads=1)


def masked_matrix(implementation: str, mask: str = "padding", length: int = 512) -> Call:
    """Compute the masked bias of a batch of four."""
    batch, bias = 4, make_bias()
    out = touched((batch, NUM_HEADS, length, length), bias.dtype)
    if implementation == "memset":
        return lambda: memset(out)
    lengths = np.array([length, length * 3 // 4, length // 2, length // 4])
    keys, ids = np.arange(length), np.arange(length) // 100
    padding = (keys < lengths[:, None])[:, None, None]
    masks: dict[str, dict[str, Any]] = {
        "padding": {"mask": padding},
        "causal": {"mask": padding, "causal": True},
        "additive": {"mask": np.where(padding, 0, -1e9).astype(np.float32)},
        "segments": {"segment_ids": np.broadcast_to(ids, (batch, length))},
        "by query": {"mask": padding & (keys <= keys[:, None])},
    }
    options = masks[mask]
    if implementation == "torch":
        torch = import_torch()
        whole = torch.from_numpy(bias.matrix(length, length))
        minimum = torch.tensor(torch.finfo(torch.float32).min)
        shown = torch.from_numpy(padding)
        return lambda: torch.where(shown, whole, minimum)
    return lambda: bias.matrix(length, length, out=out, num_threads=1, **options)


def weight_gradient(implementation: str, length: int = 2048, num_threads: int = 1) -> Call:
    """Sum a gradient of 12 heads, consecutive positions."""
    gradient = touched((NUM_HEADS, length, length), np.dtype(np.float32))
    if implementation == "numpy sum":
        return lambda: np.sum(gradient)
    if implementation == "torch":
        torch = import_torch()
        grid = torch.from_numpy(make_bias().buckets.grid(length, length)).flatten()
        tensor = torch.from_numpy(gradient).flatten(1)
        sums = torch.zeros(NUM_HEADS, NUM_BUCKETS)
        return lambda: sums.zero_().index_add_(1, grid, tensor)
    bias = make_bias()
    return lambda: bias.weight_gradient(gradient, num_threads=num_threads)


def weight_gradient_at(implementation: str, length: int = 709) -> Call:
    """Sum a gradient of 12 heads, positions that are data."""
    positions = random_positions(length)
    gradient = touched((1, NUM_HEADS, length, length), np.dtype(np.float32))
    if implementation == "numpy sum":
        return lambda: np.sum(gradient)
    bias = make_bias()
    if implementation == "torch":
        torch = import_torch()
        grid = torch.from_numpy(bias.buckets.grid_at(positions)).flatten()
        tensor = torch.from_numpy(gradient[0]).flatten(1)
        sums = torch.zeros(NUM_HEADS, NUM_BUCKETS)
        return lambda: sums.zero_().index_add_(1, grid, tensor)
    return lambda: bias.weight_gradient_at(gradient, positions, num_threads=1)


def add_to(implementation: str, dtype: str = "float32", length: int = 2048) -> Call:
    """Add the bias to scores of 12 heads, in place."""
    bias = make_bias(dtype)
    scores = touched((NUM_HEADS, length, length), bias.dtype)
    if implementation == "numpy add":
        one = scores.dtype.type(1)
        return lambda: np.add(scores, one, out=scores)
    if implementation == "torch":
        tensor, whole = as_tensor(scores), as_tensor(bias.matrix(length, length))
        return lambda: tensor.add_(whole)
    return lambda: bias.add_to(scores, num_threads=1)


def tiles(implementation: str, length: int = 2048, tile: int = 512) -> Call:
    """Copy a matrix tile by tile."""
    bias = make_bias()
    out = touched((NUM_HEADS, length, length), bias.dtype)
    if implementation == "memset":
        return lambda: memset(out)

    def copy_tiles() -> None:
        for (rows, columns), block in bias.tiles(length, length, tile=tile):
            out[:, rows, columns] = block

    return copy_tiles
