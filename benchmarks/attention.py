# attention.py - attention with a bias: its time, and the growth of peak memory.
# SPDX-License-Identifier: BSD-3-Clause
from benchmarks import _attention

IMPLEMENTATIONS = list(_attention.IMPLEMENTATIONS)
LENGTHS = [1024, 2048, 4096]


class Attention:
    """8 heads of 64 features, float32, on two threads; *training* includes a backward pass.

    *ready matrix* is PyTorch's attention with a matrix that was merged with the mask in
    advance (in training each call makes its own). *no bias* is attention with only the mask.
    """

    timeout = 300
    param_names = ("implementation", "case", "length")
    params = (IMPLEMENTATIONS, _attention.CASES, LENGTHS)

    def setup(self, implementation: str, case: str, length: int) -> None:
        self.call = _attention.attention(implementation, case, length)
        self.call()

    def time_attention(self, implementation: str, case: str, length: int) -> None:
        self.call()


class Batch:
    """4 x 8 x 512 x 64, a quarter of which is padding."""

    timeout = 300
    param_names = ("implementation", "case")
    params = (IMPLEMENTATIONS, ["padding", "padding, exact=False"])

    def setup(self, implementation: str, case: str) -> None:
        self.call = _attention.attention(implementation, case, 512, 4)
        self.call()

    def time_attention(self, implementation: str, case: str) -> None:
        self.call()


class Memory:
    """By how many bytes a call increases the peak memory of a process."""

    timeout = 300
    param_names = ("implementation", "case", "length")
    params = (IMPLEMENTATIONS, _attention.CASES, LENGTHS)
    unit = "bytes"

    def setup(self, implementation: str, case: str, length: int) -> None:
        _attention.attention(implementation, case, 16)  # asv skips if this raises

    def track_growth(self, implementation: str, case: str, length: int) -> float:
        return _attention.measure_growth(implementation, case, length)
