# leaks.py - call each public function many times, and check that memory does not grow.
# SPDX-License-Identifier: BSD-3-Clause
"""Print how much memory grew for each function; the exit code is 1 if it grew for any.

    python tools/leaks.py [--calls N]

Each function is called N times in its usual form. Slow variants are called less often. Calls
that start threads, and PyTorch's operators if it is installed, are called N / 100 times.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.util
import itertools
import json
import os
import pickle
import struct
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import t5bucket as tb

# A leak grows in every run, with the number of calls; caches and the heap stop growing.
NUM_RUNS = 4
TRACED_CALLS_GROW = 4  # times as many in each further run
# A leak of the smallest object takes 16 bytes a call; a leak of a reference counts 1 a call.
MAX_TRACED_NBYTES_A_CALL = 1
MAX_TRACED_NBYTES = 16 << 10
MAX_REFERENCES_A_CALL = 0.1
TRACED_CALLS = 1000
WARM_UP_CALLS = 300  # enough to fill the package's caches
# Allows for fragments of the C heap; a leak of 16 bytes takes 1.6 MB in 100,000 calls.
MAX_RESIDENT_NBYTES = 1 << 20

WEIGHT = np.ones((32, 4), np.float32)
BUCKETS = tb.Buckets()
BIAS = tb.RelativeAttentionBias(WEIGHT, BUCKETS)
POSITIONS = np.arange(-8, 8)
OUT = np.zeros((4, 8, 8), np.float32)
GRID = np.zeros((8, 8), np.int64)
GRADIENT = np.ones((4, 8, 8), np.float32)
KEPT = np.ones((2, 1, 1, 8), bool)
ADDED = np.zeros((8, 8), np.float32)
SEGMENTS = np.array([0, 0, 0, 1, 1, 2, 2, 2])
LARGE = np.zeros((4, 128, 128), np.float32)  # enough for two threads
LARGE_GRADIENT = np.broadcast_to(np.ones((4, 128, 128), np.float32), (130, 4, 128, 128))
VECTOR = np.ones((4, 8, 8), np.float32)
VECTORS = VECTOR, VECTOR, VECTOR  # query, key and value
LARGE_VECTORS = (np.ones((4, 128, 8), np.float32),) * 3
SHARED = (
    VECTOR,
    *LARGE_VECTORS,
    WEIGHT,
    POSITIONS,
    OUT,
    GRID,
    GRADIENT,
    KEPT,
    ADDED,
    SEGMENTS,
    LARGE,
    BUCKETS,
    BIAS,
)
# Without float64: NumPy's zeros keeps a reference to it.
DTYPES = tuple(map(np.dtype, ("bool", "uint8", "float32", "int32", "int64")))

Call = Callable[[], object]


class Case(NamedTuple):
    """A call, how many times less often it is called than the fastest, and how often at least."""

    name: str
    call: Call
    divisor: int = 1
    least: int = 20


def refused(call: Call) -> Call:
    """Turn a call that must fail into a call that succeeds."""

    def check() -> None:
        try:
            call()
        except (TypeError, ValueError, MemoryError, AttributeError, OSError):
            return
        raise AssertionError("a bad argument was accepted")

    return check


def calls_of_buckets() -> Iterator[Case]:
    """List calls of `Buckets` and its function."""
    counter = itertools.count()
    bytes_out = np.zeros(16, np.uint8)
    columns = np.arange(16).reshape(4, 4)[:, ::2]
    many = np.zeros(1 << 15, np.int64)
    ranges = BUCKETS.ranges()
    tabulated = tb.Buckets.from_ranges([(0, None, 0), (1, 1, None)], max_distance=1, num_buckets=2)
    yield Case("Buckets()", lambda: tb.Buckets(32, 128))
    yield Case(
        "Buckets, always another", lambda: tb.Buckets(8, 100 + next(counter) % 1000), 10, 300
    )
    yield Case(
        "Buckets and its table",
        lambda: tb.Buckets(8, 100 + next(counter) % 1000)(POSITIONS),
        10,
        300,
    )
    yield Case("from_textbook", lambda: tb.Buckets.from_textbook(32, 128))
    yield Case("from_function", lambda: tb.Buckets.from_function(BUCKETS, **SETTINGS))
    yield Case("from_ranges", lambda: tb.Buckets.from_ranges(ranges, **SETTINGS))
    yield Case("from_config", lambda: tb.Buckets.from_config({"rel_pos_bins": 32}))
    yield Case("ranges", lambda: BUCKETS.ranges())
    yield Case(
        "==, hash, repr", lambda: (tabulated == BUCKETS, hash(tabulated), repr(tabulated)), 10
    )
    yield Case("pickle, copy", lambda: copy.deepcopy(pickle.loads(pickle.dumps(tabulated))), 10)
    yield Case("call of an int", lambda: BUCKETS(-3))
    yield Case("call of a list", lambda: BUCKETS([1, -2, 3]))
    yield Case("call", lambda: BUCKETS(POSITIONS))
    yield Case("call, out", lambda: BUCKETS(POSITIONS, dtype=np.uint8, out=bytes_out))
    yield Case("call, columns", lambda: BUCKETS(columns))
    yield Case("call, two threads", lambda: BUCKETS(many, num_threads=2), 100)
    yield Case("grid", lambda: BUCKETS.grid(8, 8))
    yield Case("grid, out", lambda: BUCKETS.grid(8, 8, out=GRID))
    yield Case("grid, two threads", lambda: BUCKETS.grid(128, 128, num_threads=2), 100)
    yield Case("grid_at", lambda: BUCKETS.grid_at(POSITIONS[:8]))
    yield Case("grid_at, out", lambda: BUCKETS.grid_at(POSITIONS[:8], out=GRID), 3)
    yield Case("get_include, get_sources", lambda: (tb.get_include(), tb.get_sources()), 10)
    yield Case("relative_position_bucket", lambda: tb.relative_position_bucket(POSITIONS))


SETTINGS: dict[str, int] = {"max_distance": 128, "num_buckets": 32}


def calls_of_bias() -> Iterator[Case]:
    """List calls of `RelativeAttentionBias` and its function."""
    eight = POSITIONS[:8]
    two: dict[str, Any] = {"num_threads": 2}
    yield Case("RelativeAttentionBias()", lambda: tb.RelativeAttentionBias(WEIGHT, BUCKETS), 10)
    yield Case("attributes", lambda: (BIAS.weight, BIAS.buckets, BIAS.num_heads, BIAS.dtype))
    yield Case("repr", lambda: repr(BIAS), 3)
    yield Case("pickle, copy", lambda: copy.copy(pickle.loads(pickle.dumps(BIAS))), 10)
    yield Case("matrix", lambda: BIAS.matrix(8, 8))
    yield Case("matrix of one query", lambda: BIAS.matrix(1, 8, query_offset=7))
    yield Case("matrix, out", lambda: BIAS.matrix(8, 8, out=OUT))
    yield Case("matrix, causal", lambda: BIAS.matrix(8, 8, causal=True, out=OUT), 3)
    yield Case("matrix, mask", lambda: BIAS.matrix(8, 8, mask=KEPT), 3)
    yield Case("matrix, mask added", lambda: BIAS.matrix(8, 8, mask=ADDED, causal=True), 3)
    yield Case("matrix, segments", lambda: BIAS.matrix(8, 8, segment_ids=SEGMENTS), 3)
    yield Case("matrix, scale", lambda: BIAS.matrix(8, 8, scale=2, masked_value=-1), 3)
    yield Case("matrix, accumulate", lambda: BIAS.matrix(8, 8, out=OUT, accumulate=True), 3)
    yield Case("matrix, two threads", lambda: BIAS.matrix(128, 128, out=LARGE, **two), 100)
    yield Case("matrix, mask, threads", lambda: BIAS.matrix(128, 128, causal=True, **two), 100)
    yield Case("matrix_at", lambda: BIAS.matrix_at(eight))
    yield Case("matrix_at, out", lambda: BIAS.matrix_at(eight, out=OUT, accumulate=True), 3)
    yield Case("matrix_at, masks", lambda: BIAS.matrix_at(eight, mask=KEPT, causal=True), 3)
    yield Case("matrix_at, far", lambda: BIAS.matrix_at([-5, 2**62], [2**63 - 1, -(2**63)]), 3)
    yield Case("view", lambda: BIAS.view(8, 8))
    yield Case("tiles", lambda: list(BIAS.tiles(8, 8, tile=4)))
    yield Case("tiles, the first", lambda: next(BIAS.tiles(8, 8, tile=4)), 3)
    yield Case("add_to", lambda: BIAS.add_to(OUT))
    yield Case("add_to, columns", lambda: BIAS.add_to(OUT.transpose(0, 2, 1)), 3)
    yield Case("add_to, two threads", lambda: BIAS.add_to(LARGE, **two), 100)
    yield Case("attend", lambda: BIAS.attend(*VECTORS, mask=KEPT, causal=True), 10)
    yield Case("attend, out", lambda: BIAS.attend(*VECTORS, out=VECTOR, segment_ids=SEGMENTS), 10)
    yield Case("attend, two threads", lambda: BIAS.attend(*LARGE_VECTORS, **two), 300)
    yield Case("attend_at", lambda: BIAS.attend_at(*VECTORS, eight, scale=2), 10)
    yield Case("weight_gradient", lambda: BIAS.weight_gradient(GRADIENT, causal=True))
    yield Case(
        "weight_gradient, threads", lambda: BIAS.weight_gradient(LARGE_GRADIENT, **two), 1000
    )
    yield Case("weight_gradient_at", lambda: BIAS.weight_gradient_at(GRADIENT, eight))
    yield Case("compute_bias", lambda: tb.compute_bias(WEIGHT, 8, 8))
    yield Case("compute_bias, out", lambda: tb.compute_bias(WEIGHT, 8, 8, out=OUT), 10)
    yield Case("__version__", lambda: tb.__version__, 100)


def calls_of_files(folder: Path) -> Iterator[Case]:
    """List calls that read files."""
    (folder / "config.json").write_text(json.dumps({"rel_pos_bins": 32}), encoding="utf-8")
    np.save(folder / "table.npy", WEIGHT)
    np.savez_compressed(folder / "table.npz", table=WEIGHT)
    entry = {"dtype": "F32", "shape": [32, 4], "data_offsets": [0, WEIGHT.nbytes]}
    header = json.dumps({"table": entry}).encode()
    content = len(header).to_bytes(8, "little") + header + WEIGHT.tobytes()
    (folder / "table.safetensors").write_bytes(content)
    index = {"weight_map": {"table": "table.safetensors"}}
    (folder / "table.index.json").write_text(json.dumps(index), encoding="utf-8")
    listed = struct.pack("<Q5sI2QIQ", 5, b"table", 2, 4, 32, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + listed
    (folder / "table.gguf").write_bytes(head + bytes(-len(head) % 32) + WEIGHT.tobytes())
    formats = ["safetensors", "npy", "npz", "index.json", "gguf"]
    if importlib.util.find_spec("torch"):
        import torch

        torch.save({"table": torch.from_numpy(WEIGHT)}, folder / "table.bin")
        formats.append("bin")
    for format_ in formats:
        whole = (folder / f"table.{format_}").read_bytes()
        (folder / f"damaged.{format_}").write_bytes(whole[: len(whole) // 2])
    load = tb.RelativeAttentionBias.load
    for format_ in formats:
        path, damaged = folder / f"table.{format_}", folder / f"damaged.{format_}"
        divisor = 1 if format_ == "safetensors" else 20
        yield Case(f"load {format_}", lambda path=path: load(path), divisor)  # type: ignore[misc]
        yield Case(f"load damaged {format_}", refused(lambda path=damaged: load(path)), 20)  # type: ignore[misc]
    yield Case("from_config, a file", lambda: tb.Buckets.from_config(folder), 20)


def calls_refused() -> Iterator[Case]:
    """List calls with bad arguments."""
    read_only = np.zeros((4, 8, 8), np.float32)
    read_only.flags.writeable = False
    bad: Any = object()
    calls: dict[str, Call] = {
        "Buckets": lambda: tb.Buckets(3, 128),
        "Buckets, a setting": lambda: setattr(BUCKETS, "num_buckets", 1),
        "from_function": lambda: tb.Buckets.from_function(bad, **SETTINGS),
        "from_ranges": lambda: tb.Buckets.from_ranges([(0, None, 0)], **SETTINGS),
        "from_config": lambda: tb.Buckets.from_config({}),
        "call, positions": lambda: BUCKETS([0.5]),
        "call, dtype": lambda: BUCKETS(POSITIONS, dtype=bad),
        "call, out": lambda: BUCKETS(POSITIONS, out=GRID),
        "grid": lambda: BUCKETS.grid(-1, 8),
        "grid, too large": lambda: BUCKETS.grid(2**40, 2**40),
        "grid_at": lambda: BUCKETS.grid_at(3),
        "RelativeAttentionBias": lambda: tb.RelativeAttentionBias(WEIGHT[:5], BUCKETS),
        "matrix, out": lambda: BIAS.matrix(8, 8, out=read_only),
        "matrix, mask": lambda: BIAS.matrix(8, 8, mask=np.ones(7, bool)),
        "matrix, too large": lambda: BIAS.matrix(2**40, 2**40),
        "matrix_at": lambda: BIAS.matrix_at(POSITIONS, out=OUT),
        "view": lambda: BIAS.view(8, bad),
        "tiles": lambda: BIAS.tiles(8, 8, tile=0),
        "add_to": lambda: BIAS.add_to(bad),
        "attend": lambda: BIAS.attend(*VECTORS, out=read_only),
        "attend_at": lambda: BIAS.attend_at(*VECTORS, POSITIONS),
        "weight_gradient": lambda: BIAS.weight_gradient(GRID),
        "weight_gradient_at": lambda: BIAS.weight_gradient_at(GRADIENT, [0.5]),
        "load": lambda: tb.RelativeAttentionBias.load("missing.txt"),
    }
    for name, call in calls.items():
        yield Case(f"refused: {name}", refused(call), 3)


def calls_of_torch() -> Iterator[Case]:
    """List calls of the operators of PyTorch."""
    import torch

    from t5bucket import torch as operators

    weight = torch.ones(32, 4, requires_grad=True)
    positions = torch.arange(8)

    def differentiate() -> None:
        operators.compute_bias(weight, 8, 8, buckets=BUCKETS).sum().backward()
        weight.grad = None

    yield Case(
        "torch.compute_bias",
        lambda: operators.compute_bias(weight, 8, 8, buckets=BUCKETS),
        100,
        300,
    )
    yield Case("torch, backward", differentiate, 100, 300)
    yield Case(
        "torch.compute_bias_at",
        lambda: operators.compute_bias_at(weight, positions, buckets=BUCKETS),
        100,
        300,
    )


class Growth(NamedTuple):
    """How much this process grew: bytes, and counts."""

    traced: int
    resident: int
    files: int
    threads: int
    references: int


def count_entries(folder: str) -> int:
    """Count what is in a folder of Linux; 0 elsewhere."""
    return len([*Path(folder).iterdir()]) if sys.platform == "linux" else 0


def count_threads(at_most: int = 0) -> int:
    """Count threads; a joined thread is still listed for a moment."""
    for _ in range(100):
        count = count_entries("/proc/self/task")
        if count <= at_most or not at_most:
            break
        time.sleep(0.01)
    return count


def resident_nbytes() -> int:
    """Bytes of memory that this process uses; 0 where the system is not Linux."""
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf(
        "SC_PAGESIZE"
    )


def count_references() -> int:
    """Count references to objects that calls share, None among them, unless it is immortal.

    Code for the stable ABI of Python 3.11 counts references to immortal objects, too.
    """
    none = () if sys.version_info >= (3, 12) else (None,)
    return sum(map(sys.getrefcount, (*none, *SHARED, *DTYPES)))


def repeat(call: Call, count: int) -> None:
    """Call many times, and collect garbage."""
    for number in range(count):
        call()
        if number % 500 == 0:
            gc.collect()
    gc.collect()


def measure(case: Case, calls: int, traced_calls: int) -> Growth:
    """Measure many calls, and trace some others."""
    before = resident_nbytes(), count_entries("/proc/self/fd"), count_threads()
    references = count_references()
    repeat(case.call, calls)
    references = count_references() - references
    after = resident_nbytes(), count_entries("/proc/self/fd"), count_threads(at_most=before[2])
    resident, files, threads = (second - first for first, second in zip(before, after, strict=True))
    tracemalloc.start()
    try:
        # First let traced objects replace older ones in free lists and caches.
        repeat(case.call, max(traced_calls, min(calls, WARM_UP_CALLS)))
        traced = tracemalloc.get_traced_memory()[0]
        repeat(case.call, traced_calls)
        traced = tracemalloc.get_traced_memory()[0] - traced
    finally:
        tracemalloc.stop()
    return Growth(traced, resident, files, threads, references)


def is_leak(growth: Growth, calls: int, traced_calls: int) -> bool:
    """Decide whether a growth is more than noise."""
    return (
        growth.traced > MAX_TRACED_NBYTES + MAX_TRACED_NBYTES_A_CALL * traced_calls
        or growth.resident > MAX_RESIDENT_NBYTES
        or growth.files > 0
        or growth.threads > 0
        or growth.references > MAX_REFERENCES_A_CALL * calls + 10
    )


def check(case: Case, max_calls: int) -> bool:
    """Measure a case, again if it grew, and print it; return whether it grew every time."""
    calls = max(max_calls // case.divisor, min(max_calls, case.least))
    repeat(case.call, min(calls, WARM_UP_CALLS))
    traced_calls = min(calls, TRACED_CALLS)
    for _ in range(NUM_RUNS):
        growth = measure(case, calls, traced_calls)
        leaks = is_leak(growth, calls, traced_calls)
        if not leaks:
            break
        traced_calls *= TRACED_CALLS_GROW
    numbers = f"{calls:8,} {growth.traced:9,} {growth.resident >> 10:8,} {growth.references:6,}"
    counts = f"{growth.files:5} {growth.threads:7}"
    print(f"{case.name:32} {numbers} {counts}{'  GROWS' if leaks else ''}", flush=True)
    return leaks


def main() -> int:
    """Measure all calls."""
    parser = argparse.ArgumentParser(description="Check that no call keeps memory.")
    parser.add_argument("--calls", type=int, default=100_000, help="of the quickest functions")
    calls = parser.parse_args().calls
    print(f"{'function':32} {'calls':>8} {'traced B':>9} {'RSS KiB':>8} {'refs':>6} files threads")
    with tempfile.TemporaryDirectory() as folder:
        cases = [calls_of_buckets(), calls_of_bias(), calls_of_files(Path(folder)), calls_refused()]
        try:
            cases.append(iter([*calls_of_torch()]))
        except ImportError:
            print("without PyTorch, which is not installed")
        gc.freeze()  # the modules' own objects
        gc.disable()  # until all calls are done, memory in reference cycles counts
        leaks = [check(case, calls) for case in itertools.chain(*cases)]
    print(f"{sum(leaks)} of {len(leaks)} grow")
    return 1 if any(leaks) else 0


if __name__ == "__main__":
    sys.exit(main())
