# _report.py - the report, which compares tasks with their peers, and its command line.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from textwrap import indent
from typing import Any

from benchmarks import _attention_rows, _engines, _jax, _model_rows, _tasks
from t5bucket.cli import bench
from t5bucket.cli._measure import (
    HEADER,
    LEGEND,
    Call,
    Result,
    Row,
    best_seconds,
    compare,
    report,
    show_bytes,
    show_seconds,
    write_json,
)

# Requirements for pip, by the package that a row needs.
REQUIREMENTS = {
    "torch": "torch",
    "transformers": "'transformers>=5'",
    "jax": "jax",
    "ml_dtypes": "ml_dtypes",
    "openvino": "openvino",
}
PEERS = """\
further peers:
  numpy full     new memory filled with one number
  torch          PyTorch on one thread: a formula for each pair, or a lookup in a table
                 that was computed before
  transformers   its own functions and models
  jax            T5X's function, on all processors: with more than two it gains on t5bucket"""


def row(
    task: str,
    peer: str,
    at_most: float,
    prepare: Callable[..., Call],
    *arguments: Any,
    ours: str = "t5bucket",
) -> Row:
    """Make a row of a task; `prepare` returns its call for an implementation."""

    def measure() -> Result:
        return compare(prepare(ours, *arguments), prepare(peer, *arguments))

    return Row(task, peer, at_most, measure)


def measure_memory() -> Result:
    """Peak of traced bytes while a matrix is made, and the bytes of that matrix."""
    bias = _tasks.make_bias()
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


# Names of tasks in several rows
MATRIX, STEP = bench.MATRIX, "decoding step, 12 x 1 x 128"
AT, GRADIENT = "matrix_at float32 12 x 709 x 709", "weight_gradient 12 x 2048 x 2048"
PADDING = "padding mask 4 x 12 x 512 x 512"
INT32, INT64 = ("int32", "int32"), ("int64", "int64")
ROWS = (
    *bench.ROWS,
    row(MATRIX, "transformers", 0.025, _tasks.matrix),
    row("matrix bfloat16 12 x 2048 x 2048", "memset", 1.4, _tasks.matrix, "bfloat16"),
    row(f"{MATRIX}, padded rows", "memset", 1.4, _tasks.matrix, "float32", 2048, 16),
    row(f"{MATRIX}, two threads", "memset", 1.4, _tasks.matrix, "float32", 2048, 0, 2),
    # With two free processors this takes two thirds of the time.
    row(f"{MATRIX}, fresh", "numpy full", 1.3, _tasks.fresh_matrix),
    row("256 K buckets, int64", "numpy copyto", 1.6, _tasks.elementwise, *INT64, 1 << 18),
    row("4 M buckets, int32", "jax", 0.85, _tasks.elementwise, *INT32, 1 << 22),
    row("16 M buckets, int32", "numpy copyto", 1.1, _tasks.elementwise, *INT32, 1 << 24),
    row(STEP, "transformers", 0.03, _tasks.decode_step),
    row(f"{STEP}, into out", "transformers", 0.03, _tasks.decode_step, ours="t5bucket into out"),
    row(AT, "torch", 0.17, _tasks.matrix_at),
    row(AT, "transformers", 0.9, _tasks.matrix_at),
    row(PADDING, "torch", 0.13, _tasks.masked_matrix),
    row(GRADIENT, "torch", 0.08, _tasks.weight_gradient),
    row("weight_gradient_at 12 x 709 x 709", "torch", 0.8, _tasks.weight_gradient_at),
    row("add_to bfloat16 12 x 2048 x 2048", "torch", 1.1, _tasks.add_to, "bfloat16"),
    # Bytes have no noise.
    Row("peak memory of matrix 12 x 4096 x 4096", "the output", 1.01, measure_memory, "bytes"),
    Row("import t5bucket", "import numpy", 1.45, measure_import),
)


def main() -> None:
    """Print the report, row by row as it is measured."""
    parser = make_parser()
    options = parser.parse_args()
    rows, legend = choose_rows(options)
    if not rows:
        parser.error(f"no task has {options.only!r} in its name")
    measured, left_out = measure_rows(rows)
    print(f"\n{legend}")
    report_left_out(left_out)
    if options.markdown:
        print("\n| task | t5bucket | peer | takes | ratio | aim |\n|---|---|---|---|---|---|")
        print("\n".join(map(make_markdown, measured)))
    write_json(options.json, rows=measured, left_out=left_out)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure the installed t5bucket, its peers and this machine's limits.\n"
        "Rows are left out if their packages are not installed; a note at the end says which.",
        epilog="\n\n".join(
            (
                f"columns and marks:\n{indent(LEGEND, '  ')}",
                bench.PEERS,
                PEERS,
                _attention_rows.PEERS,
                _model_rows.LEGEND,
                _jax.LEGEND,
                _engines.LEGEND,
            )
        ),
    )
    parser.add_argument(
        "--attention",
        action="store_true",
        help="measure attention with a bias instead, next to PyTorch's: five minutes",
    )
    parser.add_argument(
        "--models",
        action="store_true",
        help="measure whole models of transformers instead, with and without t5bucket: an hour;\n"
        "with --attention, both",
    )
    parser.add_argument(
        "--jax",
        action="store_true",
        help="measure the bias of JAX instead, next to T5X's formula: half a minute",
    )
    parser.add_argument(
        "--engines",
        action="store_true",
        help="measure compiled encoders instead, next to OpenVINO: ten minutes",
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only the tasks with this text in their names"
    )
    parser.add_argument("--markdown", action="store_true", help="print a table for Markdown, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here, too")
    return parser


def choose_rows(options: argparse.Namespace) -> tuple[list[Row], str]:
    """Choose the rows that the command line selects, and their legend."""
    groups = []
    if options.attention:
        groups.append((_attention_rows.ROWS, _attention_rows.PEERS))
    if options.models:
        groups.append((_model_rows.ROWS, _model_rows.LEGEND))
    if options.jax:
        groups.append((_jax.ROWS, _jax.LEGEND))
    if options.engines:
        groups.append((_engines.ROWS, _engines.LEGEND))
    rows = [row for group, _ in groups or [(ROWS, "")] for row in group]
    legends = [legend for _, legend in groups]
    return [row for row in rows if options.only in row.task], "\n\n".join([LEGEND, *legends])


def measure_rows(rows: Iterable[Row]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Print rows; return those that were measured, and those that could not be measured."""
    measured, left_out = [], []
    print(HEADER)
    for row in rows:
        try:
            measured.append(report(row))
        except NotImplementedError as error:
            left_out.append({"task": row.task, "peer": row.peer, "reason": explain(error)})
    return measured, left_out


def make_markdown(measured: dict[str, Any]) -> str:
    """Make a row of a Markdown table; a mark shows that the ratio is above the aim."""
    show = show_seconds if measured["unit"] == "seconds" else show_bytes
    cells = (
        measured["task"],
        show(measured["t5bucket"]),
        measured["peer"],
        show(measured["peer_value"]),
        f"{measured['ratio']:.3f}{' †' * (measured['ratio'] > measured['at_most'])}",
        f"{measured['at_most']:.3f}",
    )
    return f"| {' | '.join(cells)} |"


def explain(error: Exception) -> str:
    """Say why a row cannot be measured."""
    cause = error.__cause__ or error
    if isinstance(cause, ModuleNotFoundError):
        return f"{cause.name} is not installed"
    return str(error)


def report_left_out(left_out: list[dict[str, Any]]) -> None:
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
