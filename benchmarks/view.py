# view.py - bias matrices without a copy.
# SPDX-License-Identifier: BSD-3-Clause
import t5bucket as tb
from benchmarks import peers
from benchmarks.matrix import make_weight


class View:
    """12 heads of float32; the memory is that of the diagonals alone."""

    param_names = ("implementation", "length")
    params = (["t5bucket", "numpy sliding window"], [128, 4096])

    def setup(self, implementation: str, length: int) -> None:
        weight = make_weight("float32")
        if implementation == "t5bucket":
            bias = tb.RelativeAttentionBias(weight, tb.Buckets())
            self.call: peers.Call = lambda: bias.view(length, length)
        else:
            self.call = lambda: peers.bias_windows(weight, length)

    def time_view(self, implementation: str, length: int) -> None:
        self.call()

    def track_bytes_held(self, implementation: str, length: int) -> int:
        array = self.call()
        while array.base is not None:
            array = array.base
        return int(array.nbytes)

    track_bytes_held.unit = "bytes"  # type: ignore[attr-defined]
