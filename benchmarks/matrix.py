# matrix.py - bias matrices of consecutive positions.
# SPDX-License-Identifier: BSD-3-Clause
from benchmarks import _tasks
from t5bucket.cli._measure import best_seconds
from t5bucket.cli.bench import NUM_HEADS


class Matrix:
    """12 heads, one thread, into memory that was touched before."""

    param_names = ("implementation", "dtype", "length")
    params = (
        ["t5bucket", "numpy window", "numpy take", "memset", "transformers"],
        ["float32", "bfloat16"],
        [128, 512, 2048],
    )

    def setup(self, implementation: str, dtype: str, length: int) -> None:
        self.call = _tasks.matrix(implementation, dtype, length)
        self.call()

    def time_matrix(self, implementation: str, dtype: str, length: int) -> None:
        self.call()


class Padded:
    """Rows that are padded for alignment; 12 x 2048 x 2048 float32."""

    param_names = ("implementation",)
    params = (["t5bucket", "numpy window", "memset"],)

    def setup(self, implementation: str) -> None:
        self.call = _tasks.matrix(implementation, padding=16)
        self.call()

    def time_matrix(self, implementation: str) -> None:
        self.call()


class Threads:
    """12 x 2048 x 2048 float32 on one thread and on two."""

    param_names = ("implementation", "num_threads")
    params = (["t5bucket", "memset"], [1, 2])

    def setup(self, implementation: str, num_threads: int) -> None:
        self.call = _tasks.matrix(implementation, num_threads=num_threads)
        self.call()

    def time_matrix(self, implementation: str, num_threads: int) -> None:
        self.call()


class Fresh:
    """12 x 2048 x 2048 float32 into new memory, on the default number of threads."""

    param_names = ("implementation",)
    params = (["t5bucket", "numpy full", "transformers"],)

    def setup(self, implementation: str) -> None:
        self.call = _tasks.fresh_matrix(implementation)

    def time_matrix(self, implementation: str) -> None:
        self.call()

    def peakmem_matrix(self, implementation: str) -> None:
        self.call()


class Scaling:
    """Nanoseconds for each kilobyte, from 1 MB to 3 GB: a flat line."""

    param_names = ("megabytes",)
    params = ([1, 3, 10, 30, 100, 300, 1000, 3000],)
    unit = "ns/kB"

    def setup(self, megabytes: int) -> None:
        self.length = int((megabytes * 1e6 / (4 * NUM_HEADS)) ** 0.5)
        self.call = _tasks.matrix("t5bucket", length=self.length)
        self.call()

    def track_time_for_each_kilobyte(self, megabytes: int) -> float:
        kilobytes = NUM_HEADS * self.length**2 * 4 / 1000
        return best_seconds({"": self.call})[""] / kilobytes * 1e9

    track_time_for_each_kilobyte.unit = unit  # type: ignore[attr-defined]


class DecodeStep:
    """One query after 127 past tokens, 12 heads: the cost of a call."""

    param_names = ("implementation",)
    params = (["t5bucket", "t5bucket into out", "transformers"],)

    def setup(self, implementation: str) -> None:
        self.call = _tasks.decode_step(implementation)

    def time_decode_step(self, implementation: str) -> None:
        self.call()


class View:
    """No copy: only the diagonals take memory."""

    param_names = ("implementation", "length")
    params = (["t5bucket", "numpy window"], [128, 4096])

    def setup(self, implementation: str, length: int) -> None:
        self.call = _tasks.view(implementation, length)

    def time_view(self, implementation: str, length: int) -> None:
        self.call()

    def track_bytes_held(self, implementation: str, length: int) -> int:
        array = self.call()
        while array.base is not None:
            array = array.base
        return int(array.nbytes)

    track_bytes_held.unit = "bytes"  # type: ignore[attr-defined]


class Tiles:
    """12 x 2048 x 2048 float32, copied tile by tile."""

    param_names = ("implementation", "tile")
    params = (["t5bucket", "memset"], [128, 512])

    def setup(self, implementation: str, tile: int) -> None:
        self.call = _tasks.tiles(implementation, tile=tile)
        self.call()

    def time_tiles(self, implementation: str, tile: int) -> None:
        self.call()


class TilesMemory:
    """Peak memory for a grid of 3 GB, tile by tile."""

    def peakmem_tiles(self) -> None:
        for _ in _tasks.make_bias().tiles(8192, 8192, tile=512):
            pass
