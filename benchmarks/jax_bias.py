# jax_bias.py - the bias in compiled functions of JAX, and its gradient.
# SPDX-License-Identifier: BSD-3-Clause
from benchmarks import _jax


class JaxBias:
    """12 heads of float32; *scores + bias* writes into the memory of the scores."""

    timeout = 300
    param_names = ("implementation", "task", "length")
    params = (_jax.IMPLEMENTATIONS, _jax.TASKS, [128, 512, 2048])

    def setup(self, implementation: str, task: str, length: int) -> None:
        self.call = _jax.prepare(implementation, task, length)
        self.call()

    def time_bias(self, implementation: str, task: str, length: int) -> None:
        self.call()
