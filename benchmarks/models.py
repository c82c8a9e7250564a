# models.py - whole models of transformers, with and without t5bucket.
# SPDX-License-Identifier: BSD-3-Clause
from benchmarks import _model_rows, _models

IMPLEMENTATIONS = ["t5bucket", "transformers"]
TASKS = {str(task): task for task in _model_rows.TASKS}
GROWTHS = {str(task): task for task in _model_rows.GROWTHS}


class Models:
    """Models in their real sizes on all processors: encoding, decoding, a training step."""

    timeout = 300
    param_names = ("implementation", "task")
    params = (IMPLEMENTATIONS, list(TASKS))

    def setup(self, implementation: str, task: str) -> None:
        self.call = TASKS[task].prepare(implementation)
        self.call()

    def time_model(self, implementation: str, task: str) -> None:
        self.call()


class Memory:
    """By how many bytes a call increases the peak memory of a process."""

    timeout = 300
    param_names = ("implementation", "task")
    params = (IMPLEMENTATIONS, list(GROWTHS))
    unit = "bytes"

    def track_growth(self, implementation: str, task: str) -> float:
        return _models.measure_growth(implementation, GROWTHS[task])
