# bench.py - t5bucket bench: ratios to peers and to the machine's limits, measured side by side.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from textwrap import indent
from typing import Any, NamedTuple

from t5bucket.cli import _models, _works
from t5bucket.cli._files import whole_file
from t5bucket.cli._peers import Call
from t5bucket.cli.info import describe_system

SAMPLE_SECONDS = 0.002  # a sample repeats a call until it takes this long
WORK_SECONDS = 1.0  # samples of one work are taken for this long,
MIN_ROUNDS = 5  # but at least so many rounds
MODEL_ROUNDS = 12  # of two models in turn
# What pip installs for a package that a row needs.
REQUIREMENTS = {
    "torch": "torch",
    "transformers": "'transformers>=5'",
    "jax": "jax",
    "ml_dtypes": "ml_dtypes",
}
LEGEND = """\
ratio    time (or bytes) of t5bucket, divided by that of the peer: below 1 t5bucket takes less
at most  the largest ratio that the project accepts
above    this ratio is larger than that; other work on the machine can be the reason"""
PEERS = """\
peers:
  memset, numpy copyto, numpy sum, numpy add   the same bytes without a bias: the memory's limit
  numpy window   a copy out of NumPy's sliding_window_view
  numpy take     a lookup in a table that was made before
  numpy full     new memory filled with one number
  numpy abs      NumPy's own small call
  torch, transformers, jax   what these packages compute"""


class Result(NamedTuple):
    """Seconds of both (bytes for memory), and their ratio."""

    ours: float
    theirs: float

    @property
    def ratio(self) -> float:
        """Ours over theirs."""
        return self.ours / self.theirs


class Row(NamedTuple):
    """A work, whom to compare with, and how much of theirs t5bucket may take."""

    work: str
    peer: str
    at_most: float
    # NotImplementedError if the peer is not installed, ImportError if ml_dtypes is not
    measure: Callable[[], Result]
    unit: str = "seconds"


def best_seconds(calls: dict[str, Call], min_rounds: int = MIN_ROUNDS) -> dict[str, float]:
    """Time calls in turn, so that what else the machine does meets all of them; the best counts."""
    repeats = {name: count_repeats(call) for name, call in calls.items()}
    best = dict.fromkeys(calls, float("inf"))
    begin = time.perf_counter()
    rounds = 0
    while rounds < min_rounds or time.perf_counter() - begin < WORK_SECONDS:
        for name, call in calls.items():
            best[name] = min(best[name], sample(call, repeats[name]))
        rounds += 1
    return best


def count_repeats(call: Call) -> int:
    """How often a sample calls; the first call is not counted."""
    call()
    seconds = max(sample(call, 1), 1e-7)
    return max(1, int(SAMPLE_SECONDS / seconds))


def sample(call: Call, repeats: int) -> float:
    """Seconds of one call, as the mean of several."""
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats


def measure_times(ours: Callable[[], Call], theirs: Callable[[], Call]) -> Result:
    """Prepare both ways and time them in turn."""
    calls = {"theirs": theirs(), "ours": ours()}
    best = best_seconds(calls)
    return Result(best["ours"], best["theirs"])


def timed(
    work: str,
    peer: str,
    at_most: float,
    prepare: Callable[..., Call],
    arguments: tuple[Any, ...] = (),
    options: dict[str, Any] | None = None,
    ours: str = "t5bucket",
) -> Row:
    """Make a row of a work that `prepare` prepares by implementation."""
    ways = (partial(prepare, way, *arguments, **(options or {})) for way in (ours, peer))
    return Row(work, peer, at_most, partial(measure_times, *ways))


def measure_memory() -> Result:
    """Peak of traced bytes of a matrix, and the bytes of that matrix."""
    bias = _works.make_bias()
    bias.matrix(8, 8)
    tracemalloc.start()
    nbytes = bias.matrix(4096, 4096).nbytes
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return Result(peak, nbytes)


def measure_import() -> Result:
    """Seconds of a process that imports t5bucket, and of one that imports numpy."""
    calls: dict[str, Call] = {}
    for module in ("t5bucket", "numpy"):
        command = [sys.executable, "-P", "-c", f"import {module}"]
        calls[module] = lambda command=command: subprocess.run(command, check=True)  # type: ignore[misc]
    best = best_seconds(calls, min_rounds=20)
    return Result(best["t5bucket"], best["numpy"])


MATRIX = "matrix float32 12 x 2048 x 2048"
AT = "matrix_at float32 12 x 709 x 709"
ROWS = (
    timed(MATRIX, "memset", 1.10, _works.matrix),
    timed(MATRIX, "numpy window", 0.60, _works.matrix),
    timed(MATRIX, "transformers", 1 / 50, _works.matrix),
    timed("matrix bfloat16 12 x 2048 x 2048", "memset", 1.15, _works.matrix, ("bfloat16",)),
    timed(f"{MATRIX}, padded rows", "memset", 1.15, _works.matrix, (), {"padded": True}),
    timed(f"{MATRIX}, two threads", "memset", 1.20, _works.matrix, (), {"num_threads": 2}),
    timed(f"{MATRIX}, fresh", "numpy full", 0.75, _works.fresh_matrix),
    timed("matrix float32 12 x 512 x 512", "memset", 2.0, _works.matrix, ("float32", 512)),
    timed("grid uint8 8192 x 8192", "memset", 1.15, _works.grid),
    timed(
        "16 K buckets, int32",
        "numpy take",
        0.25,
        _works.elementwise,
        ("int32", "int32", 16_384),
    ),
    timed("4 M buckets, int32", "jax", 1.0, _works.elementwise, ("int32", "int32", 1 << 22)),
    timed(
        "16 M buckets, int64",
        "numpy copyto",
        1.15,
        _works.elementwise,
        ("int64", "int64", 1 << 24),
    ),
    timed(
        "16 M buckets, int32",
        "numpy copyto",
        1.15,
        _works.elementwise,
        ("int32", "int32", 1 << 24),
    ),
    timed(
        "16 M buckets, int32 to uint8",
        "numpy copyto",
        1.0,
        _works.elementwise,
        ("int32", "uint8", 1 << 24),
    ),
    timed("decoding step, 12 x 1 x 128", "transformers", 1 / 40, _works.decode_step),
    timed(
        "decoding step, 12 x 1 x 128, into out",
        "transformers",
        1 / 40,
        _works.decode_step,
        ours="t5bucket into out",
    ),
    timed("one scalar", "numpy abs", 3.0, _works.scalar),
    timed("view 12 x 4096 x 4096", "numpy window", 0.25, _works.view),
    timed(AT, "memset", 2.5, _works.matrix_at),
    timed(AT, "torch", 1 / 20, _works.matrix_at),
    timed(AT, "transformers", 1 / 20, _works.matrix_at),
    timed("padding mask 4 x 12 x 512 x 512", "memset", 1.5, _works.masked_matrix),
    timed("padding mask 4 x 12 x 512 x 512", "torch", 0.6, _works.masked_matrix),
    timed("weight_gradient 12 x 2048 x 2048", "numpy sum", 1.3, _works.weight_gradient),
    timed("weight_gradient 12 x 2048 x 2048", "torch", 1.0, _works.weight_gradient),
    timed("weight_gradient_at 12 x 709 x 709", "torch", 1.0, _works.weight_gradient_at),
    timed("add_to 12 x 2048 x 2048", "numpy add", 1.2, _works.add_to),
    timed("add_to bfloat16 12 x 2048 x 2048", "torch", 1.2, _works.add_to, ("bfloat16",)),
    Row("peak memory of matrix 12 x 4096 x 4096", "the output", 1.02, measure_memory, "bytes"),
    Row("import t5bucket", "import numpy", 1.25, measure_import),
)


def of_model(work: str, speedup: float, prepare: Callable[..., Call], *arguments: Any) -> Row:
    """Make a row of a model, which has to compute the same bits.

    Not the best of some calls counts but their median: a model allocates, and the time
    that the system takes for it is part of what a user waits for.
    """

    def measure() -> Result:
        calls = [prepare(way, *arguments) for way in ("t5bucket", "transformers")]
        found, expected = (call() for call in calls)
        if not found.equal(expected):
            raise AssertionError(f"the outputs of {work} differ")
        rounds = [[sample(call, 1) for call in calls] for _ in range(MODEL_ROUNDS)]
        return Result(*map(median, zip(*rounds, strict=True)))

    return Row(work, "transformers", 1 / speedup, measure)


def measure_peaks() -> Result:
    """Largest memory of two processes that encode, in bytes."""
    return Result(_models.peak_memory("t5bucket"), _models.peak_memory("transformers"))


MODEL_ROWS = (
    *(
        of_model(
            f"{name}, {batch} x {length}{' padded' if padded else ''}",
            speedup,
            _models.forward,
            name,
            batch,
            length,
            padded,
        )
        for (name, batch, length, padded), speedup in _models.ENCODINGS.items()
    ),
    *(
        of_model(f"{name}, {_models.NEW_TOKENS} tokens", speedup, _models.decode, name)
        for name, speedup in _models.DECODINGS.items()
    ),
    Row("peak memory of t5-small, 1 x 4096", "transformers", 1.0, measure_peaks, "bytes"),
)


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bench",
        help="measure this machine: ratios to peers and limits",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure t5bucket, its peers and this machine's limits side by side.\n"
        "Rows are left out if their packages (torch, transformers, jax, ml_dtypes) are not\n"
        "installed; a note at the end says which.",
        epilog=f"columns and marks:\n{indent(LEGEND, '  ')}\n\n{PEERS}",
    )
    parser.add_argument(
        "--models",
        action="store_true",
        help="measure whole models of transformers, with and without t5bucket, for some minutes",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table here as well")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the table, row by row as it is measured."""
    rows: list[dict[str, Any]] = []
    left_out: list[dict[str, str]] = []
    print(f"{'work':44} {'t5bucket':>10}  {'peer':>10} {'':14} {'ratio':>6} {'at most':>8}")
    for row in MODEL_ROWS if options.models else ROWS:
        try:
            rows.append(report(row, row.measure()))
        except (NotImplementedError, ImportError) as error:
            left_out.append({"work": row.work, "peer": row.peer, "reason": explain(error)})
    print(f"\n{LEGEND}")
    report_left_out(left_out)
    if options.json is not None:
        table = {"system": describe_system(), "rows": rows, "left_out": left_out}
        text = json.dumps(table, indent=2, default=str)
        with whole_file(options.json) as partial_path:
            partial_path.write_text(text + "\n")


def explain(error: Exception) -> str:
    """Say why a row cannot be measured."""
    cause = error.__cause__ or error
    if isinstance(cause, ModuleNotFoundError):
        return f"{cause.name} is not installed"
    return str(error)


def report_left_out(left_out: list[dict[str, str]]) -> None:
    """Print which rows were left out, why, and what to install."""
    if not left_out:
        return
    print("\nLeft out:")
    for reason in dict.fromkeys(row["reason"] for row in left_out):
        peers = [row["peer"] for row in left_out if row["reason"] == reason]
        rows = f"{len(peers)} row{'s' if len(peers) > 1 else ''}"
        print(f"  {rows} next to {', '.join(dict.fromkeys(peers))}: {reason}")
    named = " ".join(f"{row['peer']} {row['reason']}" for row in left_out)
    packages = [pip for name, pip in REQUIREMENTS.items() if re.search(rf"\b{name}\b", named)]
    if packages:
        print(f"To measure them: python -m pip install {' '.join(packages)}")


def report(row: Row, result: Result) -> dict[str, Any]:
    """Print a row and return it for JSON."""
    show = show_seconds if row.unit == "seconds" else show_bytes
    mark = "" if result.ratio <= row.at_most else "  above"
    print(
        f"{row.work:44} {show(result.ours):>10}  {show(result.theirs):>10} {row.peer:14} "
        f"{result.ratio:6.3f} {row.at_most:8.3f}{mark}",
        flush=True,
    )
    return {
        "work": row.work,
        "peer": row.peer,
        "unit": row.unit,
        "t5bucket": result.ours,
        "peer_value": result.theirs,
        "ratio": result.ratio,
        "at_most": row.at_most,
    }


def show_seconds(seconds: float) -> str:
    """Show seconds in a unit that suits them."""
    for unit, scale in (("s", 1), ("ms", 1e3)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def show_bytes(nbytes: float) -> str:
    """Show bytes in megabytes."""
    return f"{nbytes / 1e6:.1f} MB"
