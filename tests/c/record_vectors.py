# record_vectors.py - write vectors.h: the results of every kernel, on every platform.
# SPDX-License-Identifier: BSD-3-Clause
"""Run ``python tests/c/record_vectors.py`` after a change here.

Buckets come from the integers of oracle.py, sums from NumPy and ml_dtypes; nothing is imported
from the package. vectors_test.c declares the types and compares.
"""

import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import oracle

HEADER = Path(__file__).with_name("vectors.h")
INT64_MIN, INT64_MAX, UINT64_MAX = -(2**63), 2**63 - 1, 2**64 - 1

SCHEMES = [  # (num_buckets, max_distance, bidirectional)
    (32, 128, True),
    (32, 128, False),
    (32, 20, True),
    (32, 20, False),  # equal boundaries: some buckets never occur
    (2, 2, False),
    (3, 2, False),
    (4, 2, True),
    (7, 9, True),
    (64, 256, True),
    (64, 256, False),
    (320, 800, True),  # WavLM
    (128, 1000, False),  # too many boundaries to be counted
    (64, 2**15, True),  # the largest that fit in int16 lanes
    (16, 2**20, False),  # none fits in them
]
FAR_POSITIONS = [2**63, 2**63 + 1, UINT64_MAX]  # only uint64 can hold them

# Query i has position query_offset + query_step * i, key j has key_offset + key_step * j.
GRIDS = [  # (query_length, key_length, query_offset, key_offset, query_step, key_step)
    (1, 1, 0, 0, 1, 1),
    (13, 301, 0, 0, 1, 1),
    (41, 67, 1000, 977, 1, 1),
    (9, 2100, 5, 0, 1, 1),
    (7, 1100, 4000, 2**29, 1, 1),
    (5, 70, -(2**61), -(2**61) + 3, 1, 1),
    (40, 150, 300, 0, 7, 3),
    (6, 90, 0, -120, -5, 11),
    (5, 33, INT64_MIN, INT64_MAX - 32, 1, 1),  # differences beyond int64
    (4, 35, INT64_MAX, INT64_MIN, -(2**61), 2**58),
]
NUM_HEADS = 3

FLOAT_FORMATS = {  # name: (type, bits of the fraction)
    "FLOAT16": (np.dtype(np.float16), 10),
    "BFLOAT16": (np.dtype(ml_dtypes.bfloat16), 7),
    "FLOAT32": (np.dtype(np.float32), 23),
    "FLOAT64": (np.dtype(np.float64), 52),
}
NUM_MIXED = 65536  # covers every number of a 16-bit type


class Steps(NamedTuple):
    """A scheme as a step function."""

    starts: list[int]
    buckets: list[int]


def find_starts(scheme: tuple[int, int, bool], first: int, last: int) -> Iterator[int]:
    """Find where the bucket changes in (first, last], where it only increases or only decreases."""
    if oracle.bucket(first, *scheme) == oracle.bucket(last, *scheme):
        return
    if last - first == 1:
        yield last
        return
    middle = (first + last) // 2
    yield from find_starts(scheme, first, middle)
    yield from find_starts(scheme, middle, last)


@cache
def find_steps(scheme: tuple[int, int, bool]) -> Steps:
    farthest = 2 * scheme[1]
    starts = [*find_starts(scheme, -farthest, 0), *find_starts(scheme, 0, 1)]
    starts += find_starts(scheme, 1, farthest)
    return Steps(starts, [oracle.bucket(d, *scheme) for d in [-farthest, *starts]])


def find_boundaries(scheme: tuple[int, int, bool]) -> list[int]:
    """Find the first distance at which each logarithmic bucket, or a later one, begins."""
    count = scheme[0] // 2 if scheme[2] else scheme[0]
    distances = sorted(1 - start for start in find_steps(scheme).starts if start <= 0)
    reached = [oracle.bucket(-distance, *scheme) for distance in distances]
    return [
        next(n for n, bucket in zip(distances, reached, strict=True) if bucket >= wanted)
        for wanted in range(count // 2 + 1, count)
    ]


def choose_positions(scheme: tuple[int, int, bool]) -> list[int]:
    near = [0, *find_steps(scheme).starts]
    ends = [2**power for power in (7, 8, 15, 16, 31, 32, 53, 62, 63)]
    ends += [-end for end in ends]
    chosen = {value + step for value in near + ends for step in (-1, 0, 1)}
    return sorted(d for d in chosen if INT64_MIN <= d <= INT64_MAX)


def mix(index: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Make 64 bits that look random, as vectors_test.c does."""
    mixed = (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return mixed ^ (mixed >> np.uint64(29))


def checksum(values: NDArray[Any]) -> int:
    """Sum ``(2 i + 1) value[i]`` modulo 2**64: any single wrong value changes it."""
    flat = values.astype(np.uint64).ravel()
    weights = np.arange(1, 2 * flat.size, 2, dtype=np.uint64)
    return int((flat * weights).sum(dtype=np.uint64))


def make_items(buckets: NDArray[Any], head: int, itemsize: int) -> NDArray[np.uint64]:
    mixed = mix(buckets.astype(np.uint64) + np.uint64(1000 * head))
    return mixed & np.uint64(256**itemsize - 1)


class Grid(NamedTuple):
    """The parts of a matrix over a grid, each (query, key)."""

    ranges: NDArray[np.int64]
    buckets: NDArray[np.int64]
    visible: NDArray[np.bool_]


def make_grid(steps: Steps, grid: tuple[int, ...]) -> Grid:
    query_length, key_length, query_offset, key_offset, query_step, key_step = grid
    queries = [query_offset + query_step * i for i in range(query_length)]
    keys = [key_offset + key_step * j for j in range(key_length)]
    relative = np.array(
        [[min(max(key - query, INT64_MIN), INT64_MAX) for key in keys] for query in queries]
    )
    ranges = np.searchsorted(np.array(steps.starts), relative, side="right")
    i, j = np.ogrid[:query_length, :key_length]
    visible = (i // 3 % 2 == j // 4 % 2) & ((i + j) % 3 != 0)  # segments, a mask
    visible &= (i + 5 >= j) | (j % 8 == 0)  # causal order has its own positions
    return Grid(ranges, np.array(steps.buckets)[ranges], visible)


def sum_gradient(steps: Steps, grid: Grid, shown: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Sum a gradient of small integers by range and head."""
    sums = np.zeros((len(steps.buckets), NUM_HEADS), np.int64)
    gradient = np.arange(NUM_HEADS * grid.ranges.size).reshape(NUM_HEADS, *shown.shape) % 11 - 5
    for head in range(NUM_HEADS):
        np.add.at(sums[:, head], grid.ranges, np.where(shown, gradient[head], 0))
    return sums


def record_grid(steps: Steps, settings: tuple[int, ...]) -> list[int]:
    """Make checksums of matrices by item size and of a gradient's sums, without and with masks."""
    grid = make_grid(steps, settings)
    checksums = []
    for shown in (np.ones_like(grid.visible), grid.visible):
        for itemsize in (1, 2, 4, 8):
            heads = [make_items(grid.buckets, head, itemsize) for head in range(NUM_HEADS)]
            masked = np.uint64(0xA5A5A5A5A5A5A5A5 & (256**itemsize - 1))
            checksums.append(checksum(np.where(shown, np.array(heads), masked)))
        checksums.append(checksum(sum_gradient(steps, grid, shown)))
    return checksums


def choose_terms(fraction: int, nbits: int) -> list[int]:
    """List zeros, denormals, infinities, a NaN; neighbours of 1 and of the normal range's ends.

    Also halves of the last bit of 1 and of the largest number, and their neighbours: they make
    sums that are ties or next to a tie.
    """
    one = (2 ** (nbits - fraction - 2) - 1) << fraction
    infinity = (2 ** (nbits - fraction - 1) - 1) << fraction
    half, largest, normal = one - ((fraction + 1) << fraction), infinity - 1, 1 << fraction
    half_of_largest = largest - ((fraction + 1) << fraction) & ~(normal - 1)
    positive = [0, 1, 3, normal - 1, normal, normal + 1, one, one + 1, one + 2, half, half + 1]
    positive += [one - 1, one + normal, half_of_largest, half_of_largest - 1, largest, infinity]
    return [*positive, *(term | 1 << nbits - 1 for term in positive), infinity | normal >> 1]


def add(dtype: np.dtype[Any], left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.uint64]:
    """Return the bits of sums; NaN is all ones."""
    nbits = 8 * dtype.itemsize
    terms = [bits.astype(f"u{dtype.itemsize}").view(dtype) for bits in (left, right)]
    with np.errstate(all="ignore"):
        if nbits == 16:
            total = (terms[0].astype(np.float32) + terms[1].astype(np.float32)).astype(dtype)
        else:
            total = terms[0] + terms[1]
    bits = total.view(f"u{dtype.itemsize}").astype(np.uint64)
    return np.where(np.isnan(total), np.uint64(2**nbits - 1), bits)


def record_sums(name: str) -> tuple[list[int], list[int], int]:
    """Return terms, the sums of all pairs of terms, and a checksum of sums of mixed bits."""
    dtype, fraction = FLOAT_FORMATS[name]
    nbits = 8 * dtype.itemsize
    terms = choose_terms(fraction, nbits)
    column = np.array(terms, np.uint64)
    left, right = np.repeat(column, len(terms)), np.tile(column, len(terms))
    index = np.arange(NUM_MIXED, dtype=np.uint64)
    first, second = (mix(index + np.uint64(start)) for start in (0, NUM_MIXED))
    lowest = np.uint64(2**nbits - 1)
    first = index if nbits == 16 else first & lowest
    return (
        terms,
        add(dtype, left, right).tolist(),
        checksum(add(dtype, first, second & lowest)),
    )


def literal(value: int) -> str:
    if value == INT64_MIN:
        return "INT64_MIN"
    return f"{value}u" if value > INT64_MAX else str(value)


def array(kind: str, name: str, values: Iterable[int], form: Any = literal) -> str:
    text = ",".join(form(value) for value in values) or "0"  # C has no empty arrays
    lines = "\n".join(wrap(text.replace(",", ", "), 100)).replace(", ", ",")
    return f"static const {kind} {name}[] = {{\n{lines}}};\n"


def write_scheme(index: int, scheme: tuple[int, int, bool]) -> tuple[str, str]:
    """Write the arrays of a scheme, and the record that names them."""
    steps, boundaries = find_steps(scheme), find_boundaries(scheme)
    positions = choose_positions(scheme)
    arrays: list[tuple[str, str, list[int]]] = [
        ("int64_t", "boundaries", boundaries),
        ("int64_t", "starts", steps.starts),
        ("uint16_t", "buckets", steps.buckets),
        ("int64_t", "positions", positions),
        ("uint16_t", "expected", [oracle.bucket(d, *scheme) for d in positions]),
        ("uint16_t", "far_expected", [oracle.bucket(d, *scheme) for d in FAR_POSITIONS]),
    ]
    text = "".join(array(kind, f"{name}_{index}", values) for kind, name, values in arrays)
    checksums = ",\n".join(
        "{" + ",".join(f"{value:#x}" for value in record_grid(steps, grid)) + "}" for grid in GRIDS
    )
    text += f"static const uint64_t checksums_{index}[][10] = {{\n{checksums}}};\n"
    num_buckets, _, bidirectional = scheme
    count = num_buckets // 2 if bidirectional else num_buckets
    ends = [*boundaries, count // 2, count * bidirectional]
    can_count = len(boundaries) <= 32 and max(ends) < 2**15
    numbers = [can_count, count // 2, count * bidirectional, bidirectional, len(boundaries)]
    numbers += [len(steps.buckets), len(positions)]
    fields = [str(int(number)) for number in numbers]
    fields += [f"{name}_{index}" for _, name, _ in arrays]
    fields.append(f"checksums_{index}")
    return text, f"    {{{', '.join(fields)}}}, /* {', '.join(map(str, scheme))} */\n"


def write_sums(name: str) -> tuple[str, str]:
    """Write the arrays of a type's sums, and the record that names them."""
    terms, sums, mixed = record_sums(name)
    text = array("uint64_t", f"{name}_terms", terms, hex)
    text += array("uint64_t", f"{name}_sums", sums, hex)
    return text, f"    {{T5B_{name}, {len(terms)}, {name}_terms, {name}_sums, {mixed:#x}}},\n"


def write_header() -> str:
    parts = [write_scheme(index, scheme) for index, scheme in enumerate(SCHEMES)]
    sums = [write_sums(name) for name in FLOAT_FORMATS]
    grids = "".join(f"    {{{', '.join(map(literal, grid))}}},\n" for grid in GRIDS)
    return "".join(
        [
            "/* vectors.h - what every kernel gives on every platform; by record_vectors.py.\n",
            " *\n * SPDX-License-Identifier: BSD-3-Clause\n */\n/* clang-format off */\n",
            f"enum {{ NUM_HEADS = {NUM_HEADS}, NUM_MIXED = {NUM_MIXED} }};\n",
            array("uint64_t", "far_positions", FAR_POSITIONS),
            f"static const grid_vector grids[] = {{\n{grids}}};\n",
            *(text for text, _ in parts),
            f"static const scheme_vector schemes[] = {{\n{''.join(line for _, line in parts)}}};\n",
            *(text for text, _ in sums),
            f"static const sum_vector sums[] = {{\n{''.join(line for _, line in sums)}}};\n",
        ]
    )


if __name__ == "__main__":
    HEADER.write_text(write_header(), encoding="utf-8")
