# bias.py - t5bucket bias: compute a bias matrix, and write it to a file.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import argparse
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t5bucket import RelativeAttentionBias
from t5bucket._arrays import FLOAT_NAMES, allocate, bfloat16
from t5bucket._machine import available_memory_nbytes
from t5bucket.cli._files import new_npy
from t5bucket.cli._options import (
    EMBEDDED_MODEL,
    UsageError,
    add_json_option,
    add_weights_options,
    integer,
    load_bias,
    print_fields,
    print_json,
    show_size,
)
from t5bucket.cli._terminal import progress

TILE_NBYTES = 8 << 20
EPILOG = """\
The matrix is computed in tiles of about 8 MiB. Two times are printed:
  computing   the bias, into the memory of a tile, which is used again for the next one
  writing     the tiles, into the file or into the new memory of the whole matrix
Reading the weight and the checksum (sha256, of the matrix's bytes) are not timed.
A progress bar needs a terminal and tqdm (pip install 't5bucket[cli]').

examples:
  t5bucket bias --query-length 2048 --out bias.npy      of all-mpnet-base-v2
  t5bucket bias google-t5/t5-small --query-length 1 --key-length 512 --query-offset 511
  t5bucket bias --query-length 100000 --dry-run         how much memory will this take?"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bias",
        help="compute a bias matrix",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compute the bias matrix of a weight; print its shape, size, times, checksum.",
        epilog=EPILOG,
    )
    add_weights_options(parser)
    add = parser.add_argument
    add("--query-length", type=integer(0), default=512, metavar="N", help="queries (default: 512)")
    add("--key-length", type=integer(0), metavar="N", help="keys (default: as many as queries)")
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
    add("--num-threads", type=integer(1), metavar="N", help="at most so many (default: by size)")
    add(
        "--out",
        type=Path,
        metavar="FILE.npy",
        help="write the matrix here, in tiles, so that it may be larger than memory",
    )
    add(
        "--dry-run",
        action="store_true",
        help="print the size, and whether it fits; compute nothing",
    )
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Compute, write and describe a matrix."""
    if options.out is not None and options.out.suffix != ".npy":
        raise UsageError(f"--out must end in .npy, got {options.out}")
    loaded, tensor = load_bias(options)
    bias = convert(loaded, options.dtype)
    if options.key_length is None:
        options.key_length = options.query_length
    found = describe(bias, tensor, options)
    if options.dry_run:
        found |= look_ahead(found, options)
    else:
        check_room(found, options)
        found |= compute(bias, options)
    if options.json:
        print_json(found)
    else:
        print_fields(show(found))


def describe(
    bias: RelativeAttentionBias, tensor: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Describe a matrix before it is computed."""
    return {
        "weights": options.weights or EMBEDDED_MODEL,
        "tensor": tensor,
        "buckets": bias.buckets,
        "shape": (bias.num_heads, options.query_length, options.key_length),
        "dtype": bias.dtype.name,
        "nbytes": bias.matrix_nbytes(options.query_length, options.key_length),
        "out": options.out,
    }


def look_ahead(found: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Say whether a matrix fits where it would be written."""
    if options.out is None:
        available = available_memory_nbytes()
    else:
        available = shutil.disk_usage(options.out.parent).free
    fits = None if available is None else found["nbytes"] <= available
    return {"available_nbytes": available, "fits": fits}


def check_room(found: dict[str, Any], options: argparse.Namespace) -> None:
    """Refuse a matrix that does not fit in memory; the file system checks the disk itself."""
    if options.out is not None:
        return
    room = look_ahead(found, options)
    if room["fits"] is False:
        size, free = show_size(found["nbytes"]), show_room(found | room).removeprefix("no, ")
        raise MemoryError(f"the matrix must fit in memory, got {size}: {free}")


def compute(bias: RelativeAttentionBias, options: argparse.Namespace) -> dict[str, Any]:
    """Compute and write a matrix; return seconds, and the checksum."""
    shape = (bias.num_heads, options.query_length, options.key_length)
    nbytes = bias.matrix_nbytes(*shape[1:])
    destination: Any = (
        nullcontext(allocate(shape, bias.dtype))
        if options.out is None
        else new_npy(options.out, shape, bias.dtype)
    )
    seconds = dict.fromkeys(("computing", "writing"), 0.0)
    with progress(nbytes, "bias", "B") as report:
        with destination as matrix:
            checksum = fill(matrix, bias, options, report, seconds)
            begin = time.perf_counter()
        seconds["writing"] += time.perf_counter() - begin  # not yet written by the system
    return {**{f"{name}_seconds": value for name, value in seconds.items()}, "sha256": checksum}


def show(found: dict[str, Any]) -> dict[str, object]:
    """Put what was found into words."""
    nbytes, out = found["nbytes"], found["out"]
    fields = {name: found[name] for name in ("weights", "tensor", "buckets", "shape", "dtype")}
    fields["size"] = show_size(nbytes) + (f" ({nbytes} bytes)" if nbytes >= 1000 else "")
    if "fits" in found:
        fields["fits"] = show_room(found)
    else:
        where = "into new memory" if out is None else "into the file"
        for name, place in (("computing", "into memory, in tiles"), ("writing", where)):
            fields[name] = f"{show_speed(nbytes, found[f'{name}_seconds'])} ({place})"
        fields["sha256"] = found["sha256"]
    return fields if out is None else {**fields, "out": out}


def show_room(found: dict[str, Any]) -> str:
    """Say whether a matrix fits, and what to do if it does not."""
    if found["available_nbytes"] is None:
        return "unknown: this system does not tell its memory"
    place = "memory" if found["out"] is None else "the disk"
    room = f"{show_size(found['available_nbytes'])} of {place} are free"
    if found["fits"]:
        return f"yes, {room}"
    hint = "; --out FILE.npy writes it in tiles" if found["out"] is None else ""
    return f"no, {room}{hint}"


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
    tile.view(np.uint8).fill(0)  # otherwise the time of new memory would be measured
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
