# numpy_attention.py - attention with a bias by NumPy alone.
# SPDX-License-Identifier: BSD-3-Clause
from benchmarks import _tasks


class NumpyAttention:
    """8 heads of 64 features, float32; BLAS chooses its threads.

    *ready matrix* is the formula in NumPy with a matrix that was masked before.
    """

    param_names = ("implementation", "case", "length")
    params = (
        ["t5bucket", "ready matrix"],
        ["no mask", "causal", "padding", "documents"],
        [1024, 4096],
    )

    def setup(self, implementation: str, case: str, length: int) -> None:
        self.call = _tasks.numpy_attention(implementation, case, length)
        self.call()

    def time_attention(self, implementation: str, case: str, length: int) -> None:
        self.call()


class NumpyDecoderStep:
    """One token of each of 32 texts, and a cache of `length` keys, padded at its beginning."""

    param_names = ("implementation", "length")
    params = (["t5bucket", "ready matrix"], [64, 512])

    def setup(self, implementation: str, length: int) -> None:
        self.call = _tasks.numpy_decoder_step(implementation, length)
        self.call()

    def time_step(self, implementation: str, length: int) -> None:
        self.call()
