# grid.py - bucket indices of all pairs.
# SPDX-License-Identifier: BSD-3-Clause
import numpy as np

import t5bucket as tb
from t5bucket.cli import _peers, _works


class Grid:
    """One thread, into memory that was touched before; transformers gives int64 alone."""

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
            raise NotImplementedError("int64 alone, and seconds at 8192")
        self.call = _works.grid(implementation, dtype, length)
        self.call()

    def time_grid(self, implementation: str, dtype: str, length: int) -> None:
        self.call()


class GridAt:
    """Positions that are data, as in a packed row of two sequences."""

    param_names = ("implementation", "length")
    params = (["t5bucket", "numpy take", "transformers"], [128, 1024])

    def setup(self, implementation: str, length: int) -> None:
        positions = np.concatenate([np.arange(length // 2)] * 2)
        buckets = tb.Buckets()
        if implementation == "t5bucket":
            self.call: _peers.Call = lambda: buckets.grid_at(positions, num_threads=1)
        elif implementation == "numpy take":
            first = -_peers.MAX_DISTANCE
            table = buckets(np.arange(first, -first + 1))
            self.call = lambda: np.take(
                table, positions[None, :] - positions[:, None] - first, mode="clip"
            )
        else:
            function, torch = _peers.t5_bucket_function()
            tensor = torch.from_numpy(positions)
            self.call = lambda: function(tensor[None, :] - tensor[:, None])
        self.call()

    def time_grid_at(self, implementation: str, length: int) -> None:
        self.call()
