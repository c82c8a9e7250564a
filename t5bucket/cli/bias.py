# bias.py - t5bucket bias: compute a bias matrix, and write it to a file.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t5bucket import RelativeAttentionBias
from t5bucket._arrays import FLOAT_NAMES, allocate, bfloat16
from t5bucket.cli._files import new_npy
from t5bucket.cli._options import UsageError, add_weights_options, integer, load_bias, print_fields

TILE_NBYTES = 8 << 20
EPILOG = """\
The matrix is computed in tiles of about 8 MiB. Two times are printed:
  computing   the bias, into the memory of a tile, which is used again for the next one
  writing     the tiles, into the file or into the new memory of the whole matrix
Reading the weight and the checksum (sha256, of the matrix's bytes) are not timed.
A progress bar needs a terminal and tqdm (pip install 't5bucket[cli]')."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bias",
        help="compute a bias matrix",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compute the bias matrix of a weight; print its shape, speed and checksum.",
        epilog=EPILOG,
    )
    add_weights_options(parser)
    add = parser.add_argument
    add("--query-length", type=integer(0), default=512, metavar="N", help="(default: 512)")
    add("--key-length", type=integer(0), metavar="N", help="(default: that of the query)")
    add(
        "--query-offset",
        type=integer(),
        default=0,
        metavar="N",
        help="position of query 0 (default: 0)",
    )
    add(
        "--key-offset",
        type=integer(),
        default=0,
        metavar="N",
        help="position of key 0 (default: 0)",
    )
    add("--dtype", choices=FLOAT_NAMES, help="convert the weight first (default: keep its type)")
    add("--num-threads", type=integer(1), metavar="N", help="(default: by size)")
    add(
        "--out",
        type=Path,
        metavar="FILE.npy",
        help="write the matrix here, in tiles, so that it may be larger than memory",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Compute, write and describe a matrix."""
    if options.out is not None and options.out.suffix != ".npy":
        raise UsageError(f"--out must end in .npy, got {options.out}")
    bias = convert(load_bias(options), options.dtype)
    key_length = options.query_length if options.key_length is None else options.key_length
    shape = (bias.num_heads, options.query_length, key_length)
    destination: Any = (
        nullcontext(allocate(shape, bias.dtype))
        if options.out is None
        else new_npy(options.out, shape, bias.dtype)
    )
    seconds = dict.fromkeys(("computing", "writing"), 0.0)
    with destination as matrix, progress(matrix.nbytes) as report:
        checksum = fill(matrix, bias, options, report, seconds)
        begin = time.perf_counter()
    seconds["writing"] += time.perf_counter() - begin  # what the system had not written yet
    where = "into new memory" if options.out is None else "into the file"
    fields: dict[str, object] = {
        "weights": options.weights or "all-mpnet-base-v2 (embedded)",
        "buckets": bias.buckets,
        "shape": shape,
        "dtype": bias.dtype,
        "computing": f"{show_speed(matrix.nbytes, seconds['computing'])} (into memory, in tiles)",
        "writing": f"{show_speed(matrix.nbytes, seconds['writing'])} ({where})",
        "sha256": checksum,
    }
    print_fields(fields if options.out is None else {**fields, "out": options.out})


def show_speed(nbytes: int, seconds: float) -> str:
    """Show a time and the speed that it means."""
    return f"{seconds:.4g} s, {nbytes / 1e9 / seconds if seconds else 0:.3g} GB/s"


def convert(bias: RelativeAttentionBias, dtype: str | None) -> RelativeAttentionBias:
    """Convert the weight to another type."""
    if dtype is None or dtype == bias.dtype.name:
        return bias
    converted = bias.weight.astype(bfloat16() if dtype == "bfloat16" else dtype)
    return RelativeAttentionBias(converted, bias.buckets, heads_first=bias.heads_first)


def fill(
    matrix: NDArray[Any],
    bias: RelativeAttentionBias,
    options: argparse.Namespace,
    report: Callable[[int], object],
    seconds: dict[str, float],
) -> str:
    """Fill a matrix tile by tile, and count the seconds; return a SHA-256 of it all."""
    checksum = hashlib.sha256()
    begin = time.perf_counter()
    for rows, block in tiles(matrix, bias, options):
        computed = time.perf_counter()
        np.copyto(rows, block)
        seconds["computing"] += computed - begin
        seconds["writing"] += time.perf_counter() - computed
        checksum.update(block.reshape(-1).view(np.uint8).data)
        report(block.nbytes)
        begin = time.perf_counter()
    return checksum.hexdigest()


def tiles(
    matrix: NDArray[Any], bias: RelativeAttentionBias, options: argparse.Namespace
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield rows of a head and their bias, in the order of memory; each bias in the same tile."""
    _, query_length, key_length = matrix.shape
    if matrix.size == 0:
        return
    num_rows = min(query_length, max(1, TILE_NBYTES // (key_length * matrix.itemsize)))
    tile = allocate((1, num_rows, key_length), matrix.dtype)
    tile.view(np.uint8).fill(0)  # new memory is slow to write, and would be what is timed
    for head in range(bias.num_heads):
        by_head = bias.weight if bias.heads_first else bias.weight.T
        one_head = RelativeAttentionBias(by_head[head : head + 1], bias.buckets, heads_first=True)
        for begin in range(0, query_length, num_rows):
            rows = slice(begin, min(begin + num_rows, query_length))
            difference = options.key_offset - options.query_offset - begin
            block = one_head.matrix(
                rows.stop - rows.start,
                key_length,
                key_offset=max(-(2**63), min(difference, 2**63 - 1)),  # the same bucket
                out=tile[:, : rows.stop - rows.start],
                num_threads=options.num_threads,
            )
            yield matrix[head, rows], block[0]


@contextmanager
def progress(nbytes: int) -> Iterator[Callable[[int], object]]:
    """Show a progress bar on a terminal, if tqdm is there (the extra ``cli``)."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda nbytes_done: None
        return
    with tqdm(total=nbytes, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        yield bar.update
