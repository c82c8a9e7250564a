# pairs.py - bias matrices of explicit positions, and their gradients.
# SPDX-License-Identifier: BSD-3-Clause
from benchmarks import _tasks


class MatrixAt:
    """12 heads of float32, one thread, into memory that was touched before."""

    param_names = ("implementation", "length")
    params = (
        ["t5bucket", "t5bucket accumulate", "numpy take", "memset", "torch", "transformers"],
        [128, 709],
    )

    def setup(self, implementation: str, length: int) -> None:
        self.call = _tasks.matrix_at(implementation, length)
        self.call()

    def time_matrix_at(self, implementation: str, length: int) -> None:
        self.call()


class WeightGradientAt:
    """12 heads of float32, one thread; *numpy sum* adds everything up, without buckets."""

    param_names = ("implementation", "length")
    params = (["t5bucket", "numpy sum", "torch"], [128, 709])

    def setup(self, implementation: str, length: int) -> None:
        self.call = _tasks.weight_gradient_at(implementation, length)
        self.call()

    def time_weight_gradient_at(self, implementation: str, length: int) -> None:
        self.call()
