# grid.py - bucket indices of all pairs.
# SPDX-License-Identifier: BSD-3-Clause
from benchmarks import _tasks


class Grid:
    """One thread, into memory that was touched before; transformers gives only int64."""

    param_names = ("implementation", "dtype", "length")
    params = (
        ["t5bucket", "numpy window", "memset", "transformers"],
        ["uint8", "int64"],
        [128, 1024, 8192],
    )

    def setup(self, implementation: str, dtype: str, length: int) -> None:
        if implementation == "transformers" and (dtype, length) not in [
            ("int64", 128),
            ("int64", 1024),
        ]:
            raise NotImplementedError("only int64, and takes seconds at 8192")
        self.call = _tasks.grid(implementation, dtype, length)
        self.call()

    def time_grid(self, implementation: str, dtype: str, length: int) -> None:
        self.call()


class GridAt:
    """Explicit positions, as in a packed row of two sequences."""

    param_names = ("implementation", "length")
    params = (["t5bucket", "numpy take", "transformers"], [128, 1024])

    def setup(self, implementation: str, length: int) -> None:
        self.call = _tasks.grid_at(implementation, length)
        self.call()

    def time_grid_at(self, implementation: str, length: int) -> None:
        self.call()
