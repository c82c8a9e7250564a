# training.py - gradients of the weight, and scores in place.
# SPDX-License-Identifier: BSD-3-Clause
from benchmarks import _tasks


class WeightGradient:
    """12 heads of float32, one thread; *numpy sum* adds everything up, without buckets."""

    param_names = ("implementation", "length")
    params = (["t5bucket", "numpy sum", "torch"], [128, 512, 2048])

    def setup(self, implementation: str, length: int) -> None:
        self.call = _tasks.weight_gradient(implementation, length)
        self.call()

    def time_weight_gradient(self, implementation: str, length: int) -> None:
        self.call()


class AddTo:
    """12 x 1024 x 1024, one thread; *numpy add* adds a number, *torch* a matrix made in advance."""

    param_names = ("implementation", "dtype")
    params = (["t5bucket", "numpy add", "torch"], ["float16", "bfloat16", "float32", "float64"])

    def setup(self, implementation: str, dtype: str) -> None:
        self.call = _tasks.add_to(implementation, dtype, 1024)
        self.call()

    def time_add_to(self, implementation: str, dtype: str) -> None:
        self.call()


class AddToLength:
    """12 heads of float32; from the cost of a call to the speed of the memory."""

    param_names = ("implementation", "length")
    params = (["t5bucket", "numpy add"], [128, 512, 2048])

    def setup(self, implementation: str, length: int) -> None:
        self.call = _tasks.add_to(implementation, length=length)
        self.call()

    def time_add_to(self, implementation: str, length: int) -> None:
        self.call()
