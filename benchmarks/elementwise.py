# elementwise.py - buckets of explicit relative positions.
# SPDX-License-Identifier: BSD-3-Clause
import numpy as np

import t5bucket as tb
from benchmarks import _tasks


class Elementwise:
    """One thread, into memory that was touched before; numpy copyto copies the positions."""

    param_names = ("implementation", "dtypes", "elements")
    params = (
        ["t5bucket", "numpy take", "numpy copyto", "transformers", "jax"],
        ["int32 -> int32", "int64 -> int64", "int32 -> uint8"],
        [16_384, 4_194_304, 16_777_216],
    )

    def setup(self, implementation: str, dtypes: str, elements: int) -> None:
        if elements > 4_194_304 and implementation in ("numpy take", "transformers", "jax"):
            raise NotImplementedError("nothing new at this size")
        source_dtype, dtype = dtypes.split(" -> ")
        self.call = _tasks.elementwise(implementation, source_dtype, dtype, elements)
        self.call()

    def time_buckets(self, implementation: str, dtypes: str, elements: int) -> None:
        self.call()


class Schemes:
    """The number of boundaries decides between counting and a lookup."""

    param_names = ("num_buckets", "max_distance")
    params = ([32, 64, 128, 320], [128, 800])

    def setup(self, num_buckets: int, max_distance: int) -> None:
        self.buckets = tb.Buckets(num_buckets, max_distance)
        self.positions = np.random.default_rng(0).integers(-900, 900, 65_536, dtype=np.int32)
        self.out = np.zeros(65_536, np.int32)

    def time_65536_elements(self, num_buckets: int, max_distance: int) -> None:
        self.buckets(self.positions, dtype=np.int32, out=self.out)


class Small:
    """The cost of a call."""

    def setup(self) -> None:
        self.buckets = tb.Buckets()
        self.positions = np.arange(-50, 50)
        self.out = np.empty(100, np.int64)
        self.numpy_abs = _tasks.scalar("numpy abs")

    def time_scalar(self) -> None:
        self.buckets(-5)

    def time_numpy_abs_of_128_elements(self) -> None:
        self.numpy_abs()

    def time_100_elements(self) -> None:
        self.buckets(self.positions)

    def time_100_elements_into_out(self) -> None:
        self.buckets(self.positions, out=self.out)
