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
from t5bucket._arrays import allocate, bfloat16
from t5bucket._checks import FLOATS
from t5bucket.cli._files import new_npy
from t5bucket.cli._options import UsageError, add_weights_options, integer, load_bias, print_fields

TILE_NBYTES = 8 << 20  # small enough that the allocator reuses it


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bias",
        help="compute a bias matrix",
        description="Compute the bias matrix of a table; print its shape, speed and checksum.",
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
    add("--dtype", choices=FLOATS, help="convert the table first (default: keep its type)")
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
    with destination as matrix, progress(matrix.nbytes) as report:
        seconds, checksum = fill(matrix, bias, options, report)
    fields: dict[str, object] = {
        "weights": options.weights or "all-mpnet-base-v2 (embedded)",
        "buckets": bias.buckets,
        "shape": shape,
        "dtype": bias.dtype,
        "seconds": f"{seconds:.4g}",
        "GB/s": f"{matrix.nbytes / 1e9 / seconds:.3g}" if seconds else "0",
        "sha256": checksum,
    }
    print_fields(fields if options.out is None else {**fields, "out": options.out})


def convert(bias: RelativeAttentionBias, dtype: str | None) -> RelativeAttentionBias:
    """Convert the table to another type."""
    if dtype is None or dtype == bias.dtype.name:
        return bias
    converted = bias.weight.astype(bfloat16() if dtype == "bfloat16" else dtype)
    return RelativeAttentionBias(converted, bias.buckets, heads_first=bias.heads_first)


def fill(
    matrix: NDArray[Any],
    bias: RelativeAttentionBias,
    options: argparse.Namespace,
    report: Callable[[int], object],
) -> tuple[float, str]:
    """Fill a matrix tile by tile; return the seconds of that alone, and a SHA-256 of it all."""
    seconds = 0.0
    checksum = hashlib.sha256()
    begin = time.perf_counter()
    for rows, block in tiles(matrix, bias, options):
        np.copyto(rows, block)
        seconds += time.perf_counter() - begin
        checksum.update(block.reshape(-1).view(np.uint8).data)
        report(block.nbytes)
        begin = time.perf_counter()
    return seconds, checksum.hexdigest()


def tiles(
    matrix: NDArray[Any], bias: RelativeAttentionBias, options: argparse.Namespace
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield rows of a head and their bias, in the order of memory."""
    _, query_length, key_length = matrix.shape
    if matrix.size == 0:
        return
    num_rows = max(1, TILE_NBYTES // (key_length * matrix.itemsize))
    for head in range(bias.num_heads):
        by_head = bias.weight if bias.heads_first else bias.weight.T
        one_head = RelativeAttentionBias(by_head[head : head + 1], bias.buckets, heads_first=True)
        for (rows, _), block in one_head.tiles(
            query_length,
            key_length,
            tile=(num_rows, key_length),
            query_offset=options.query_offset,
            key_offset=options.key_offset,
            num_threads=options.num_threads,
        ):
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
