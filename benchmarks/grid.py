# grid.py - bucket indices of all pairs.
# SPDX-License-Identifier: BSD-3-Clause
from typing import Any

import numpy as np

import t5bucket as tb
from benchmarks import peers

IMPLEMENTATIONS = ["t5bucket", "numpy sliding window", "memset (limit)", "transformers"]


def prepare(implementation: str, out: Any) -> peers.Call:
    """One way to fill `out` with the buckets of consecutive positions."""
    length = len(out)
    if implementation == "t5bucket":
        buckets = tb.Buckets(peers.NUM_BUCKETS, peers.MAX_DISTANCE)
        return lambda: buckets.grid(length, length, dtype=out.dtype, out=out, num_threads=1)
    if implementation == "numpy sliding window":
        return lambda: np.copyto(
            out,
            peers.windows(peers.diagonal_buckets(length, length).astype(out.dtype), length, length),
        )
    if implementation == "memset (limit)":
        return lambda: peers.memset(out)
    function = peers.t5_bucket_function()
    import torch

    positions = torch.arange(length)
    return lambda: function(positions[None, :] - positions[:, None])


class Grid:
    """One thread, into memory that was touched before; transformers gives int64 alone."""

    param_names = ("implementation", "dtype", "length")
    params = (IMPLEMENTATIONS, ["uint8", "int64"], [128, 1024, 4096])

    def setup(self, implementation: str, dtype: str, length: int) -> None:
        self.call = prepare(implementation, np.zeros((length, length), dtype))
        self.call()

    def time_grid(self, implementation: str, dtype: str, length: int) -> None:
        self.call()


class GridAt:
    """Positions that are data, as in a packed row of two sequences."""

    param_names = ("implementation", "length")
    params = (["t5bucket", "numpy take", "transformers"], [128, 1024])

    def setup(self, implementation: str, length: int) -> None:
        positions = np.concatenate([np.arange(length // 2)] * 2)
        buckets = tb.Buckets(peers.NUM_BUCKETS, peers.MAX_DISTANCE)
        if implementation == "t5bucket":
            self.call: peers.Call = lambda: buckets.grid_at(positions, num_threads=1)
        elif implementation == "numpy take":
            first = -peers.MAX_DISTANCE
            table = buckets(np.arange(first, -first + 1))
            self.call = lambda: np.take(
                table, positions[None, :] - positions[:, None] - first, mode="clip"
            )
        else:
            function = peers.t5_bucket_function()
            import torch

            tensor = torch.from_numpy(positions)
            self.call = lambda: function(tensor[None, :] - tensor[:, None])
        self.call()

    def time_grid_at(self, implementation: str, length: int) -> None:
        self.call()
