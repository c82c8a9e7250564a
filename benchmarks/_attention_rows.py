# _attention_rows.py - rows of the report about attention: time, and growth of peak memory.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from benchmarks import _attention, _methods
from t5bucket.cli._measure import Result, Row

LENGTHS = (1024, 2048, 4096)
LONGEST = max(LENGTHS)
PEERS = """\
peers of attention, on two threads:
  no bias         PyTorch's attention without bias and mask
  ready matrix    PyTorch's attention with a matrix that was merged with the mask in advance;
                  in training each call makes its own
  transformers    the bias computed and merged with the mask as transformers does
  flex attention  PyTorch's FlexAttention, compiled; needs a C++ compiler
  allowance       1.1 x the growth of `no bias`, plus 16 MB, or 32 MB with a mask
Times are medians of 9 or more calls of each, in turn. Growth is how much one call increases the
peak memory of a new process. `at most` is the aim."""


def make_time_row(case: str, length: int, peer: str, at_most: float, batch: int = 1) -> Row:
    """Make a row of the time of a call."""

    def measure() -> Result:
        ours, theirs = (
            _attention.attention(way, case, length, batch) for way in ("t5bucket", peer)
        )
        ours()
        theirs()
        return _methods.compare_medians(ours, theirs, _methods.MIN_ROUNDS)

    sizes = f"{batch} x {_attention.NUM_HEADS} x {length}"
    return Row(f"attention {sizes}, {case}", peer, at_most, measure)


def make_allowance_row(case: str, megabytes: float) -> Row:
    """Make a row of growth, which may be little more than without a bias."""

    def measure() -> Result:
        without_bias = _attention.measure_growth("no bias", "no mask", LONGEST)
        ours = _attention.measure_growth("t5bucket", case, LONGEST)
        return Result(ours, 1.1 * without_bias + megabytes * 1e6)

    return Row(f"growth of attention {LONGEST}, {case}", "allowance", 1, measure, "bytes")


def measure_training_growth() -> Result:
    """Growth of a forward and backward pass, in bytes."""
    ways = ("t5bucket", "ready matrix")
    return Result(*(_attention.measure_growth(way, "training", LONGEST) for way in ways))


ROWS = (
    *(make_time_row("no mask", length, "no bias", 1.1) for length in LENGTHS),
    *(make_time_row("causal", length, "ready matrix", 1.1) for length in LENGTHS),
    *(make_time_row("padding", length, "ready matrix", 1.1) for length in LENGTHS),
    make_time_row("padding, exact=False", 512, "ready matrix", 0.9, batch=4),
    make_time_row("documents, exact=False", LONGEST, "ready matrix", 0.2),
    make_time_row("no mask", 2048, "transformers", 0.3),
    make_time_row("padding", 2048, "transformers", 0.3),
    make_time_row("no mask", 2048, "flex attention", 0.9),
    make_allowance_row("no mask", 16),
    *(make_allowance_row(case, 32) for case in ("causal", "padding", "full mask")),
    make_time_row("training", LONGEST, "ready matrix", 1),
    Row(
        f"growth of attention {LONGEST}, training",
        "ready matrix",
        1 / 8,
        measure_training_growth,
        "bytes",
    ),
)
