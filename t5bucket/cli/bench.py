# bench.py - t5bucket bench: ratios to peers and to the machine's limits, measured side by side.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from t5bucket.cli import _peers
from t5bucket.cli._files import whole_file
from t5bucket.cli.info import describe_system

SAMPLE_SECONDS = 0.002  # a sample repeats a call until it takes this long
WORK_SECONDS = 1.0  # samples of one work are taken for this long,
MIN_ROUNDS = 5  # but at least so many rounds


class Row(NamedTuple):
    """A work, whom to compare with, and how much of its time t5bucket may take."""

    work: str
    peer: str
    at_most: float
    prepare: Callable[..., _peers.Call]
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed
    ours: str = "t5bucket"


class Result(NamedTuple):
    """Seconds of both (bytes for memory), and their ratio."""

    ours: float
    theirs: float

    @property
    def ratio(self) -> float:
        """Ours over theirs."""
        return self.ours / self.theirs


MATRIX = "matrix float32 12 x 2048 x 2048"
ROWS = (
    Row(MATRIX, "memset", 1.10, _peers.matrix),
    Row(MATRIX, "numpy window", 0.60, _peers.matrix),
    Row(MATRIX, "transformers", 1 / 50, _peers.matrix),
    Row("matrix bfloat16 12 x 2048 x 2048", "memset", 1.15, _peers.matrix, ("bfloat16",)),
    Row(f"{MATRIX}, padded rows", "memset", 1.15, _peers.matrix, (), {"padded": True}),
    Row(f"{MATRIX}, two threads", "memset", 1.20, _peers.matrix, (), {"num_threads": 2}),
    Row(f"{MATRIX}, fresh", "numpy full", 0.75, _peers.fresh_matrix),
    Row("matrix float32 12 x 512 x 512", "memset", 2.0, _peers.matrix, ("float32", 512)),
    Row("grid uint8 8192 x 8192", "memset", 1.15, _peers.grid),
    Row(
        "16 K buckets, int32",
        "numpy take",
        0.25,
        _peers.elementwise,
        ("int32", "int32", 16_384),
    ),
    Row("4 M buckets, int32", "jax", 1.0, _peers.elementwise, ("int32", "int32", 1 << 22)),
    Row(
        "16 M buckets, int64",
        "numpy copyto",
        1.15,
        _peers.elementwise,
        ("int64", "int64", 1 << 24),
    ),
    Row(
        "16 M buckets, int32",
        "numpy copyto",
        1.15,
        _peers.elementwise,
        ("int32", "int32", 1 << 24),
    ),
    Row(
        "16 M buckets, int32 to uint8",
        "numpy copyto",
        1.0,
        _peers.elementwise,
        ("int32", "uint8", 1 << 24),
    ),
    Row("decoding step, 12 x 1 x 128", "transformers", 1 / 40, _peers.decode_step),
    Row(
        "decoding step, 12 x 1 x 128, into out",
        "transformers",
        1 / 40,
        _peers.decode_step,
        ours="t5bucket into out",
    ),
    Row("one scalar", "numpy abs", 3.0, _peers.scalar),
    Row("view 12 x 4096 x 4096", "numpy window", 0.25, _peers.view),
)


def best_seconds(calls: dict[str, _peers.Call], min_rounds: int = MIN_ROUNDS) -> dict[str, float]:
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


def count_repeats(call: _peers.Call) -> int:
    """How often a sample calls; the first call is not counted."""
    call()
    seconds = max(sample(call, 1), 1e-7)
    return max(1, int(SAMPLE_SECONDS / seconds))


def sample(call: _peers.Call, repeats: int) -> float:
    """Seconds of one call, as the mean of several."""
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats


def measure(row: Row) -> Result:
    """Measure one row.

    Raises
    ------
    NotImplementedError
        If the peer is not installed.
    """
    theirs = row.prepare(row.peer, *row.arguments, **row.options)
    ours = row.prepare(row.ours, *row.arguments, **row.options)
    best = best_seconds({"ours": ours, "theirs": theirs})
    return Result(best["ours"], best["theirs"])


def measure_memory() -> Result:
    """Peak of traced bytes of a matrix, and the bytes of that matrix."""
    bias = _peers.make_bias()
    bias.matrix(8, 8)
    tracemalloc.start()
    nbytes = bias.matrix(4096, 4096).nbytes
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return Result(peak, nbytes)


def measure_import() -> Result:
    """Seconds of a process that imports t5bucket, and of one that imports numpy."""
    calls: dict[str, _peers.Call] = {}
    for module in ("t5bucket", "numpy"):
        command = [sys.executable, "-P", "-c", f"import {module}"]
        calls[module] = lambda command=command: subprocess.run(command, check=True)  # type: ignore[misc]
    best = best_seconds(calls, min_rounds=20)
    return Result(best["t5bucket"], best["numpy"])


SPECIAL_ROWS = (
    ("peak memory of matrix 12 x 4096 x 4096", "the output", 1.02, measure_memory, "bytes"),
    ("import t5bucket", "import numpy", 1.25, measure_import, "seconds"),
)


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bench",
        help="measure this machine: ratios to peers and limits",
        description="Measure t5bucket, its peers and this machine's limits side by side. Peers "
        "that are not installed (torch and transformers, jax) are left out.",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table here as well")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the table, row by row as it is measured."""
    rows: list[dict[str, Any]] = []
    print(f"{'work':44} {'t5bucket':>10}  {'peer':>10} {'':14} {'ratio':>6} {'at most':>8}")
    for row in ROWS:
        try:
            result = measure(row)
        except NotImplementedError as error:
            print(f"{row.work:44} {'':10}  {'':10} {row.peer:14} {error}")
            continue
        rows.append(report(row.work, row.peer, row.at_most, result, "seconds"))
    for work, peer, at_most, measure_special, unit in SPECIAL_ROWS:
        rows.append(report(work, peer, at_most, measure_special(), unit))
    if options.json is not None:
        text = json.dumps({"system": describe_system(), "rows": rows}, indent=2, default=str)
        with whole_file(options.json) as partial_path:
            partial_path.write_text(text + "\n")


def report(work: str, peer: str, at_most: float, result: Result, unit: str) -> dict[str, Any]:
    """Print a row and return it for JSON."""
    show = show_seconds if unit == "seconds" else show_bytes
    mark = "" if result.ratio <= at_most else "  above"
    print(
        f"{work:44} {show(result.ours):>10}  {show(result.theirs):>10} {peer:14} "
        f"{result.ratio:6.3f} {at_most:8.3f}{mark}",
        flush=True,
    )
    return {
        "work": work,
        "peer": peer,
        "unit": unit,
        "t5bucket": result.ours,
        "peer_value": result.theirs,
        "ratio": result.ratio,
        "at_most": at_most,
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
