# bench.py - t5bucket bench: check this machine: ratios to NumPy and to the memory's limit.
# SPDX-License-Identifier: BSD-3-Clause
"""A task is a function that returns a call for each implementation: ours, NumPy's, the limit.

Where there is an ``out``, it was written before; all calls use one thread, except where a
number says otherwise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import DTypeLike, NDArray

import t5bucket as tb
from t5bucket import _threads
from t5bucket.cli import _bars
from t5bucket.cli._measure import (
    HEADER,
    LEGEND,
    Call,
    Result,
    Row,
    compare,
    make_json,
    make_line,
    measure,
    write_json,
)
from t5bucket.cli._terminal import is_terminal, print_above, progress

Calls = dict[str, Call]
STANDARD_OUTPUT = Path("-")
NUM_BUCKETS, MAX_DISTANCE, NUM_HEADS = 32, 128, 12
PEERS = """\
peers:
  memset, numpy copyto, numpy sum, numpy add   the same bytes without a bias: the memory's limit
  numpy window   a copy out of NumPy's sliding_window_view
  numpy take     a lookup of buckets or biases that were computed before
  numpy formula  T5's formula in float32, and a lookup
  numpy abs      NumPy's own small call

In a checkout, `python -m benchmarks` compares with PyTorch, transformers and JAX as well, and
`python -m benchmarks --models` measures whole models."""


# ---- what tasks share ----


def make_weight(dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Make a weight of the usual size."""
    return np.random.default_rng(0).standard_normal((NUM_BUCKETS, NUM_HEADS)).astype(dtype)


def make_bias(
    dtype: DTypeLike = np.float32, bidirectional: bool = True
) -> tb.RelativeAttentionBias:
    """Make a weight with its scheme."""
    buckets = tb.Buckets(NUM_BUCKETS, MAX_DISTANCE, bidirectional)
    return tb.RelativeAttentionBias(make_weight(dtype), buckets)


@lru_cache(maxsize=1)
def touched(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Memory that was written before; a task and its peer share it, and so the cache."""
    return np.ones(shape, dtype)


def memset(out: NDArray[Any], num_threads: int = 1) -> None:
    """Write the same byte everywhere: the limit of anything that fills memory.

    The byte is not 0: some processors do not send lines of zeros to memory, and
    write them at almost three times the speed of any other data.
    """
    flat = out.reshape(-1).view(np.uint8)
    if num_threads == 1:
        flat.fill(1)
    else:
        _threads.run(
            lambda begin, end: flat[begin:end].fill(1), flat.size, flat.nbytes, num_threads
        )


def diagonal_buckets(query_length: int, key_length: int) -> NDArray[Any]:
    """T5's formula in float32, once for each diagonal: what a careful NumPy user writes."""
    d = np.arange(1 - query_length, key_length)
    half, exact = NUM_BUCKETS // 2, NUM_BUCKETS // 4
    distance = np.abs(d)
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / exact)
    large = exact + (ratio / np.float32(np.log(MAX_DISTANCE / exact)) * exact).astype(int)
    buckets: NDArray[Any] = (d > 0) * half + np.where(
        distance < exact, distance, np.minimum(large, half - 1)
    )
    return buckets


def windows(diagonals: NDArray[Any], query_length: int, key_length: int) -> NDArray[Any]:
    """Rows as windows of the diagonals: (..., query_length, key_length)."""
    rows = sliding_window_view(diagonals, key_length, axis=-1)
    return rows[..., ::-1, :][..., :query_length, :]


def bias_windows(weight: NDArray[Any], query_length: int, key_length: int) -> NDArray[Any]:
    """Bias matrix as a view of its diagonals: (num_heads, query_length, key_length)."""
    diagonals = np.ascontiguousarray(weight[diagonal_buckets(query_length, key_length)].T)
    return windows(diagonals, query_length, key_length)


def padding_mask(length: int) -> NDArray[np.bool_]:
    """Make the mask of a batch of four sequences, from full length to a quarter."""
    lengths = np.array([length, length * 3 // 4, length // 2, length // 4])
    return (np.arange(length) < lengths[:, None])[:, None, None]


# ---- tasks ----


def matrix(
    dtype: DTypeLike = np.float32, length: int = 2048, padding: int = 0, num_threads: int = 1
) -> Calls:
    """Compute the bias matrix of 12 heads; `padding` items follow each row."""
    bias = make_bias(dtype)
    memory = touched((NUM_HEADS, length, length + padding), bias.dtype)
    out = memory[:, :, :length]
    return {
        "t5bucket": lambda: bias.matrix(length, length, out=out, num_threads=num_threads),
        "numpy window": lambda: np.copyto(out, bias_windows(bias.weight, length, length)),
        "memset": lambda: memset(memory, num_threads),
    }


def matrix_at(length: int = 709) -> Calls:
    """Compute the bias of explicit positions: LayoutLMv3's 512 tokens and 197 patches."""
    bias = make_bias()
    positions = random_positions(length)
    out = touched((1, NUM_HEADS, length, length), bias.dtype)
    by_head, grid = np.ascontiguousarray(bias.weight.T), bias.buckets.grid_at(positions)[0]
    options: dict[str, Any] = {"out": out, "num_threads": 1}
    return {
        "t5bucket": lambda: bias.matrix_at(positions, **options),
        "t5bucket accumulate": lambda: bias.matrix_at(positions, accumulate=True, **options),
        "numpy take": lambda: np.take(by_head, grid, axis=1, out=out[0], mode="clip"),
        "memset": lambda: memset(out),
    }


def random_positions(length: int) -> NDArray[Any]:
    """Make positions as those of boxes on a page, in a batch of one."""
    return np.random.default_rng(0).integers(0, 1000, (1, length))


def masked_matrix(length: int = 512, **masks: Any) -> Calls:
    """Compute the masked bias of a batch of four; the default is their padding."""
    bias = make_bias()
    out = touched((4, NUM_HEADS, length, length), bias.dtype)
    masks = masks or {"mask": padding_mask(length)}
    return {
        "t5bucket": lambda: bias.matrix(length, length, out=out, num_threads=1, **masks),
        "memset": lambda: memset(out),
    }


def decode_step() -> Calls:
    """Compute the bias of one query after 127 past tokens."""
    bias = make_bias(bidirectional=False)
    out = np.zeros((NUM_HEADS, 1, 128), bias.dtype)
    return {
        "t5bucket": lambda: bias.matrix(1, 128, query_offset=127),
        "t5bucket into out": lambda: bias.matrix(1, 128, query_offset=127, out=out),
        "numpy formula": lambda: bias_windows(bias.weight, 1, 128),
    }


def view(length: int = 4096) -> Calls:
    """Make the bias matrix without a copy."""
    bias = make_bias()
    return {
        "t5bucket": lambda: bias.view(length, length),
        "numpy window": lambda: bias_windows(bias.weight, length, length),
    }


def grid(dtype: DTypeLike = np.uint8, length: int = 8192) -> Calls:
    """Compute the buckets of all pairs of consecutive positions."""
    buckets = tb.Buckets(NUM_BUCKETS, MAX_DISTANCE)
    out = touched((length, length), np.dtype(dtype))

    def copy_windows() -> None:
        np.copyto(out, windows(diagonal_buckets(length, length).astype(dtype), length, length))

    return {
        "t5bucket": lambda: buckets.grid(length, length, out=out, num_threads=1),
        "numpy window": copy_windows,
        "memset": lambda: memset(out),
    }


def elementwise(source_dtype: DTypeLike, dtype: DTypeLike, count: int) -> Calls:
    """Compute the buckets of random relative positions; the limit copies the positions."""
    buckets = tb.Buckets(NUM_BUCKETS, MAX_DISTANCE)
    source = random_relative_positions(source_dtype, count)
    copy, out = np.zeros(count, source_dtype), np.zeros(count, dtype)
    known = buckets(np.arange(-MAX_DISTANCE, MAX_DISTANCE + 1)).astype(dtype)
    return {
        "t5bucket": lambda: buckets(source, out=out, num_threads=1),
        # The shift and the upper clip of positions are given to NumPy.
        "numpy take": lambda: np.take(known, source, out=out, mode="clip"),
        "numpy copyto": lambda: np.copyto(copy, source),
    }


def random_relative_positions(dtype: DTypeLike, count: int) -> NDArray[Any]:
    """Make relative positions within and beyond the largest distance."""
    return np.random.default_rng(0).integers(-300, 300, count).astype(dtype)


def scalar() -> Calls:
    """Compute one bucket; the yardstick is NumPy's own small call."""
    buckets, array = tb.Buckets(NUM_BUCKETS, MAX_DISTANCE), np.zeros(128)
    return {"t5bucket": lambda: buckets(-5), "numpy abs": lambda: np.abs(array, out=array)}


def weight_gradient(length: int = 2048) -> Calls:
    """Sum a gradient of 12 heads by bucket; the limit sums it without buckets."""
    bias = make_bias()
    gradient = touched((NUM_HEADS, length, length), bias.dtype)
    return {
        "t5bucket": lambda: bias.weight_gradient(gradient, num_threads=1),
        "numpy sum": lambda: np.sum(gradient),
    }


def add_to(dtype: DTypeLike = np.float32, length: int = 2048) -> Calls:
    """Add the bias to scores of 12 heads, in place; the limit adds a number."""
    bias = make_bias(dtype)
    scores = touched((NUM_HEADS, length, length), bias.dtype)
    one = scores.dtype.type(1)
    return {
        "t5bucket": lambda: bias.add_to(scores, num_threads=1),
        "numpy add": lambda: np.add(scores, one, out=scores),
    }


# ---- the report ----


def row(
    task: str, peer: str, at_most: float, prepare: Callable[..., Calls], *arguments: Any
) -> Row:
    """Make a row of a task and one of its peers."""

    def measure() -> Result:
        calls = prepare(*arguments)
        return compare(calls["t5bucket"], calls[peer])

    return Row(task, peer, at_most, measure)


MATRIX = "matrix float32 12 x 2048 x 2048"
ROWS = (
    row(MATRIX, "memset", 1.4, matrix),
    row(MATRIX, "numpy window", 0.75, matrix),
    row("matrix float32 12 x 512 x 512", "memset", 2.2, matrix, "float32", 512),
    row("grid uint8 8192 x 8192", "memset", 1.5, grid),
    row("16 K buckets, int32", "numpy take", 0.35, elementwise, "int32", "int32", 1 << 14),
    row("16 M buckets, int64", "numpy copyto", 1.3, elementwise, "int64", "int64", 1 << 24),
    row("16 M buckets, int32 to uint8", "numpy copyto", 0.95,
        elementwise, "int32", "uint8", 1 << 24),
    row("decoding step, 12 x 1 x 128", "numpy formula", 0.08, decode_step),
    row("one scalar", "numpy abs", 2.8, scalar),
    row("view 12 x 4096 x 4096", "numpy window", 0.1, view),
    row("matrix_at float32 12 x 709 x 709", "memset", 3.5, matrix_at),
    row("matrix_at float32 12 x 709 x 709", "numpy take", 0.6, matrix_at),
    row("padding mask 4 x 12 x 512 x 512", "memset", 1.8, masked_matrix),
    row("weight_gradient 12 x 2048 x 2048", "numpy sum", 1.55, weight_gradient),
    row("add_to 12 x 2048 x 2048", "numpy add", 1.5, add_to),
)  # fmt: skip


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bench",
        help="check this machine: ratios to NumPy and to the memory's limit",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure t5bucket, NumPy and this machine's memory side by side, for some\n"
        "ten seconds. On a terminal, ratios are bars.",
        epilog=f"columns and marks:\n{indent(LEGEND, '  ')}\n\non a terminal:\n"
        f"{indent(_bars.LEGEND, '  ')}\n\n{PEERS}",
    )
    parser.add_argument(
        "--json",
        nargs="?",
        type=Path,
        const=STANDARD_OUTPUT,
        metavar="FILE",
        help="write the results here as well; without FILE, print them instead",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the report, row by row as it is measured: with bars on a terminal."""
    prints_json = options.json == STANDARD_OUTPUT
    has_bars = is_terminal(sys.stdout)
    if not prints_json:
        print(_bars.make_header() if has_bars else HEADER)
    rows = []
    with progress(len(ROWS), "measuring", "row") as report:
        for row in ROWS:
            rows.append(measured := measure(row))
            if not prints_json:
                print_above((_bars.make_line if has_bars else make_line)(measured))
            report(1)
    if prints_json:
        print(make_json(rows=rows))
        return
    print(f"\n{_bars.LEGEND if has_bars else LEGEND}")
    write_json(options.json, rows=rows)
