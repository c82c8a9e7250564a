# elementwise.py - buckets of relative positions that are data.
# SPDX-License-Identifier: BSD-3-Clause
from typing import Any

import numpy as np

import t5bucket as tb
from benchmarks import peers

IMPLEMENTATIONS = ["t5bucket", "numpy take", "numpy copyto (limit)", "transformers"]


def prepare(implementation: str, source: Any, target: Any) -> peers.Call:
    """One way to fill `target` with the buckets of `source`."""
    buckets = tb.Buckets(peers.NUM_BUCKETS, peers.MAX_DISTANCE)
    if implementation == "t5bucket":
        return lambda: buckets(source, dtype=target.dtype, out=target, num_threads=1)
    if implementation == "numpy take":
        first = -peers.MAX_DISTANCE
        table = buckets(np.arange(first, -first + 1)).astype(target.dtype)
        index = source - first  # given to NumPy for free
        return lambda: np.take(table, index, mode="clip", out=target)
    if implementation == "numpy copyto (limit)":
        return lambda: np.copyto(target, source, casting="unsafe")
    function = peers.t5_bucket_function()
    import torch

    tensor = torch.from_numpy(source)
    return lambda: function(tensor)


class Elementwise:
    """One thread, into memory that was touched before."""

    param_names = ("implementation", "dtypes", "elements")
    params = (
        IMPLEMENTATIONS,
        ["int32 -> int32", "int64 -> int64", "int32 -> uint8"],
        [16_384, 4_194_304],
    )

    def setup(self, implementation: str, dtypes: str, elements: int) -> None:
        source_dtype, target_dtype = dtypes.split(" -> ")
        source = np.random.default_rng(0).integers(-300, 300, elements).astype(source_dtype)
        self.call = prepare(implementation, source, np.zeros(elements, target_dtype))
        self.call()

    def time_buckets(self, implementation: str, dtypes: str, elements: int) -> None:
        self.call()


class Small:
    """The cost of a call."""

    def setup(self) -> None:
        self.buckets = tb.Buckets()
        self.positions = np.arange(-50, 50)
        self.out = np.empty(100, np.int64)

    def time_scalar(self) -> None:
        self.buckets(-5)

    def time_100_elements(self) -> None:
        self.buckets(self.positions)

    def time_100_elements_into_out(self) -> None:
        self.buckets(self.positions, out=self.out)
