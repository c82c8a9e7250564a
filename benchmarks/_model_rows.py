# _model_rows.py - rows of the report about whole models: time and growth of memory.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from benchmarks import _methods, _models
from benchmarks._models import Decoding, Encoding, Task, TrainingStep
from t5bucket.cli._measure import Result, Row

# Bounds of t5bucket's time divided by transformers' time: what accelerated models must reach,
# or the median on an idle machine plus a tenth for noise.
SAME = 1.1  # no gain is possible: not slower
TASKS: dict[Task, float] = {
    Encoding("t5-small", 1, 128): SAME,
    Encoding("t5-small", 1, 512): SAME,
    Encoding("t5-small", 1, 1024): 0.85,
    Encoding("t5-small", 1, 2048): 1 / 1.7,
    Encoding("t5-small", 1, 4096): 1 / 2.2,
    Encoding("t5-small", 4, 512, padded=True): 1 / 1.35,
    Encoding("t5-small", 1, 1024, padded=True): 0.75,
    Encoding("t5-small", 1, 2048, padded=True): 1 / 1.7,
    Encoding("umt5-small", 1, 1024): 0.75,
    Encoding("umt5-small", 1, 2048): 1 / 1.8,
    Encoding("layoutlmv3-base", 1, 510): SAME,
    Encoding("layoutlmv3-base", 1, 510, padded=True): SAME,
    Encoding("mpnet-base", 1, 128): SAME,
    Encoding("mpnet-base", 8, 128, padded=True): SAME,
    Encoding("mpnet-base", 1, 500): SAME,
    Encoding("mpnet-base", 8, 384, exact=False): 1 / 1.15,
    Encoding("mpnet-base", 8, 384, padded=True, exact=False): 1 / 1.2,
    Encoding("wavlm-base encoder", 1, 1500, exact=False): 1 / 1.15,
    Decoding("t5-small decoder"): 1.02,
    Decoding("umt5-small decoder"): 1.02,
    TrainingStep("t5-small no dropout", 2048): 1,
}
LONGEST = Encoding("t5-small", 1, 4096)
GROWTHS: dict[Encoding | TrainingStep, float] = {  # the same for memory
    Encoding("t5-small", 1, 1024): 0.46,
    Encoding("t5-small", 1, 2048): 0.33,
    LONGEST: 0.18,
    Encoding("wavlm-base encoder", 1, 1500, exact=False): 1 / 2,
    TrainingStep("t5-small no dropout", 2048): 1 / 3,
}
LEGEND = f"""\
rows of models:
  kept     with an allocator that keeps memory, instead of giving it back to the system:
           {" ".join(f"{name}={value}" for name, value in _methods.KEEPING.items())}.
           The other rows use the system's allocator with its defaults.
  growth   how much one call increases the peak memory of a new process
Each row has a process of its own. Times are medians of {_methods.MIN_ROUNDS} or more calls of each,
in turn. Outputs have the same bits; with exact=False they are equal up to rounding."""


def make_time_row(task: Task, at_most: float, allocator: str = "") -> Row:
    """Make a row of a model's time, with the default allocator or one that keeps memory."""

    def measure() -> Result:
        _models.import_frameworks()
        environment = _methods.KEEPING if allocator else {}
        arguments = (_models.compare, task, _methods.MIN_ROUNDS)
        return Result(*_methods.run_in_process(*arguments, environment=environment))

    return Row(f"{task}{allocator}", "transformers", at_most, measure)


def make_growth_row(task: Encoding | TrainingStep, at_most: float) -> Row:
    """Make a row of how much a model's memory grows."""

    def measure() -> Result:
        ways = ("t5bucket", "transformers")
        return Result(*(_models.measure_growth(way, task) for way in ways))

    return Row(f"growth of {task}", "transformers", at_most, measure, "bytes")


ROWS = (
    *(make_time_row(task, at_most) for task, at_most in TASKS.items()),
    *(make_time_row(task, max(at_most, SAME), ", kept") for task, at_most in TASKS.items()),
    *(make_growth_row(task, at_most) for task, at_most in GROWTHS.items()),
    Row(
        f"growth of {LONGEST}",
        "the limit",
        1,
        lambda: Result(_models.measure_growth("t5bucket", LONGEST), 200e6),
        "bytes",
    ),
)
