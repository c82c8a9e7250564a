# matrix.py - bias matrices of consecutive positions.
# SPDX-License-Identifier: BSD-3-Clause
from typing import Any

import ml_dtypes  # noqa: F401 - registers the name bfloat16 with NumPy
import numpy as np

import t5bucket as tb
from benchmarks import peers

IMPLEMENTATIONS = [
    "t5bucket",
    "numpy sliding window",
    "numpy take",
    "memset (limit)",
    "transformers",
]
NUM_HEADS = 12


def make_weight(dtype: str) -> Any:
    """Table of the usual size."""
    shape = (peers.NUM_BUCKETS, NUM_HEADS)
    return np.random.default_rng(0).standard_normal(shape).astype(np.dtype(dtype))


def prepare(implementation: str, dtype: str, length: int) -> peers.Call:
    """One way to compute the matrix into memory that was touched before."""
    weight = make_weight(dtype)
    if implementation == "transformers":
        if dtype != "float32":
            raise NotImplementedError("torch reads NumPy's own types")
        attention = peers.t5_attention(weight)
        return lambda: attention.compute_bias(length, length).contiguous()
    out = np.zeros((NUM_HEADS, length, length), weight.dtype)
    if implementation == "t5bucket":
        bias = tb.RelativeAttentionBias(weight, tb.Buckets(peers.NUM_BUCKETS, peers.MAX_DISTANCE))
        return lambda: bias.matrix(length, length, out=out, num_threads=1)
    if implementation == "memset (limit)":
        return lambda: peers.memset(out)
    if implementation == "numpy take":
        grid = peers.windows(peers.diagonal_buckets(length, length), length, length)
        by_head = np.ascontiguousarray(weight.T)
        return lambda: np.take(by_head, grid, axis=1, out=out, mode="clip")
    return lambda: np.copyto(out, peers.bias_windows(weight, length))


class Matrix:
    """12 heads, one thread, into memory that was touched before."""

    param_names = ("implementation", "dtype", "length")
    params = (IMPLEMENTATIONS, ["float32", "bfloat16"], [128, 512, 2048])

    def setup(self, implementation: str, dtype: str, length: int) -> None:
        self.call = prepare(implementation, dtype, length)
        self.call()

    def time_matrix(self, implementation: str, dtype: str, length: int) -> None:
        self.call()


class DecodeStep:
    """One query after 127 past tokens, 12 heads: the cost of a call."""

    param_names = ("implementation",)
    params = (["t5bucket", "t5bucket into out", "transformers"],)

    def setup(self, implementation: str) -> None:
        weight = make_weight("float32")
        if implementation == "transformers":
            attention = peers.t5_attention(weight)
            self.call: peers.Call = lambda: attention.compute_bias(1, 128, past_seen_tokens=127)
            return
        bias = tb.RelativeAttentionBias(weight, tb.Buckets(bidirectional=False))
        out = np.empty((NUM_HEADS, 1, 128), np.float32) if implementation.endswith("out") else None
        self.call = lambda: bias.matrix(1, 128, query_offset=127, out=out)

    def time_decode_step(self, implementation: str) -> None:
        self.call()


class Memory:
    """Peak memory of a process that makes one fresh matrix (201 MB)."""

    param_names = ("implementation",)
    params = (["t5bucket", "numpy full (limit)", "transformers"],)

    def setup(self, implementation: str) -> None:
        weight = make_weight("float32")
        bias = tb.RelativeAttentionBias(weight, tb.Buckets())
        if implementation == "transformers":
            attention = peers.t5_attention(weight)
            self.call: peers.Call = lambda: attention.compute_bias(2048, 2048).contiguous()
        elif implementation == "t5bucket":
            self.call = lambda: bias.matrix(2048, 2048)
        else:
            self.call = lambda: np.full((NUM_HEADS, 2048, 2048), 1, np.float32)

    def peakmem_matrix(self, implementation: str) -> None:
        self.call()
