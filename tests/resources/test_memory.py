# test_memory.py - failing allocations raise MemoryError, and no memory leaks.
# SPDX-License-Identifier: BSD-3-Clause
import contextlib
import ctypes
import gc
import itertools
import json
import linecache
import os
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import threading
import time
import traceback
import weakref
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

import t5bucket as tb
from t5bucket import _arrays, _buckets, _rule, _threads

if sys.platform == "linux":
    import resource

ROOT = Path(__file__).parents[2]
MIB = 1 << 20

on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere a limit of the address space is not enforced"
)


def is_glibc() -> bool:
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (AttributeError, ValueError, OSError):
        return False


with_glibc = pytest.mark.skipif(
    not is_glibc() or not shutil.which("cc") or bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="needs a C compiler, glibc's names of its allocators, and a Python that calls them",
)

WEIGHT = np.random.default_rng(0).standard_normal((32, 12), np.float32)
BUCKETS = tb.Buckets()
BIAS = tb.RelativeAttentionBias(WEIGHT, BUCKETS)
POSITIONS = np.arange(-300, 300)
GRADIENT = np.ones((2, 12, 60, 60), np.float32)
LARGE_GRADIENT = np.broadcast_to(np.ones((12, 300, 300), np.float32), (8, 12, 300, 300))  # 3 parts
FAR_QUERIES, FAR_KEYS = np.array([-5, 1]), np.array([2**64 - 1, 3], np.uint64)


def run_job(*job: str, **environment: str) -> None:
    """Run a job, one of the functions below, in a process of its own; it must print nothing."""
    command = [sys.executable, "-X", "faulthandler", __file__, *job]
    result = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout + result.stderr == ""


# ---- results that do not fit ----


def write_tables(folder: Path, num_heads: int) -> None:
    """Write tables of zeros, as holes in files where the format allows it."""
    nbytes = 32 * num_heads * 4
    entry = {"dtype": "F32", "shape": [32, num_heads], "data_offsets": [0, nbytes]}
    header = json.dumps({"relative_attention_bias.weight": entry}).encode()
    with (folder / "table.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(file.tell() + nbytes)
    with (folder / "table.npy").open("wb") as file:
        described = {"descr": "<f4", "fortran_order": False, "shape": (32, num_heads)}
        np.lib.format.write_array_header_1_0(file, described)
        file.truncate(file.tell() + nbytes)
    with zipfile.ZipFile(folder / "table.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as npz:
        npz.write(folder / "table.npy", "table.npy")


def too_large_calls(
    folder: Path, rows: NDArray[Any], num_threads: int
) -> dict[str, Callable[[], Any]]:
    """Calls that take 128 MiB at least, with arguments that take next to nothing.

    ``rows`` are 2**22 numbers, which outputs have in the place of all of their rows.
    """
    n: dict[str, Any] = {"num_threads": num_threads}
    load = tb.RelativeAttentionBias.load
    many = np.broadcast_to(np.int8(1), 1 << 25)
    zeros = np.zeros(4096, np.int32)
    wide = as_strided(rows, (12, 4096, 4096), (0, 0, 0))
    long = as_strided(rows, (12, 4096, 1 << 22), (0, 0, 4))
    broad_weight = np.broadcast_to(WEIGHT[:, :1], (32, 1 << 20))
    distant = tb.RelativeAttentionBias(WEIGHT[:, :1], tb.Buckets(32, 1 << 27))
    long_gradient = np.broadcast_to(np.float32(0), (1, 1 << 24, 1))
    eight = np.ones((12, 8, 4), np.float32)
    million = np.broadcast_to(np.float32(1), (12, 1 << 22, 4))
    half_bias = tb.RelativeAttentionBias(WEIGHT.astype(np.float16), BUCKETS)
    halves = eight.astype(np.float16), *[np.broadcast_to(np.float16(1), million.shape)] * 2
    return {
        "call": lambda: BUCKETS(many, **n),
        "relative_position_bucket": lambda: tb.relative_position_bucket(many),
        "grid": lambda: BUCKETS.grid(1 << 13, 1 << 12, **n),
        "grid_at": lambda: BUCKETS.grid_at(zeros, np.zeros(1 << 13, int), **n),
        "matrix": lambda: BIAS.matrix(4096, 4096, **n),
        "matrix, masked": lambda: BIAS.matrix(4096, 4096, causal=True, scale=2, **n),
        "matrix, its diagonals": lambda: BIAS.matrix(4096, 1 << 22, out=long, **n),
        "matrix, a copy of out": lambda: BIAS.matrix(4096, 4096, causal=True, out=wide, **n),
        "matrix_at": lambda: BIAS.matrix_at(zeros, **n),
        "matrix_at, a copy": lambda: BIAS.matrix_at(zeros, out=wide, accumulate=True, **n),
        "view": lambda: BIAS.view(1 << 22, 1 << 22),
        "tiles": lambda: next(BIAS.tiles(4096, 4096, tile=4096, **n)),
        "add_to, its diagonals": lambda: BIAS.add_to(long, **n),
        "add_to, a copy of scores": lambda: BIAS.add_to(wide, **n),
        "attend": lambda: BIAS.attend(million, eight, eight, **n),
        "attend, its scores": lambda: BIAS.attend(eight, million, million, **n),
        "attend, copies": lambda: half_bias.attend(*halves, **n),
        "attend_at": lambda: BIAS.attend_at(
            eight, million, million, zeros[:8], many[: 1 << 22], **n
        ),
        "weight_gradient": lambda: BIAS.weight_gradient(wide, **n),
        "weight_gradient, its sums": lambda: distant.weight_gradient(long_gradient, **n),
        "weight_gradient_at": lambda: BIAS.weight_gradient_at(wide, zeros, **n),
        "compute_bias": lambda: tb.compute_bias(WEIGHT, 4096, 4096),
        "a table": lambda: tb.RelativeAttentionBias(broad_weight, BUCKETS),
        "load safetensors": lambda: load(folder / "table.safetensors"),
        "load npy": lambda: load(folder / "table.npy"),
        "load npz": lambda: load(folder / "table.npz"),
    }


def limit_address_space(nbytes: int) -> None:
    """Let this process grow by so much."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    limit = pages * resource.getpagesize() + nbytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def refuse_what_does_not_fit(folder: str, num_threads: str) -> None:
    rows = np.full(1 << 22, 7, np.float32)
    calls = too_large_calls(Path(folder), rows, int(num_threads))
    expected = BIAS.matrix(200, 200), BUCKETS.grid(200, 200)
    limit_address_space(64 * MIB)
    for name, call in calls.items():
        with pytest.raises(MemoryError, match="must fit in memory, got "):
            call()
        assert (rows == 7).all(), name
        assert threading.active_count() == 1, name
        assert np.array_equal(BIAS.matrix(200, 200, num_threads=int(num_threads)), expected[0])
        assert np.array_equal(BUCKETS.grid(200, 200, num_threads=int(num_threads)), expected[1])


@on_linux
@pytest.mark.parametrize("num_threads", [1, 4])
def test_results_that_do_not_fit_raise_a_memory_error_and_write_nothing(
    num_threads: int, tmp_path: Path
) -> None:
    write_tables(tmp_path, 1 << 20)
    run_job("refuse_what_does_not_fit", str(tmp_path), str(num_threads))


# ---- threads that do not start ----


def forbid_threads() -> None:
    """Let the system refuse threads; root, whom its limit does not bind, is refused by Python."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("can't start new thread")

    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    with contextlib.suppress(RuntimeError):
        threading.Thread(target=int).start()
        for name in ("_start_new_thread", "_start_joinable_thread"):  # until 3.12, from 3.13 on
            vars(threading)[name] = refuse


def compute_without_threads(limit: str) -> None:
    out = np.empty((12, 1024, 1024), np.float32)
    expected = BIAS.matrix(1024, 1024, num_threads=1)
    if limit == "processes":
        forbid_threads()
    else:
        threading.stack_size(256 * MIB)
        limit_address_space(64 * MIB)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        threading.Thread(target=int).start()
    for num_threads in (2, 4, 64):
        out[:] = 0
        BIAS.matrix(1024, 1024, out=out, num_threads=num_threads)
        assert np.array_equal(out, expected)


@on_linux
@pytest.mark.parametrize("limit", ["processes", "stacks"])
def test_one_thread_does_the_work_of_those_that_cannot_start(limit: str) -> None:
    run_job("compute_without_threads", limit)


@pytest.mark.parametrize("started", [0, 1, 2])
@pytest.mark.parametrize("place", ["__init__", "start"])
def test_a_thread_without_memory_leaves_its_part_to_the_others(
    place: str, started: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = BIAS.matrix(1024, 1024, num_threads=1)
    function = getattr(threading.Thread, place)
    calls = itertools.count()

    def fail(*arguments: Any, **options: Any) -> None:
        if next(calls) >= started:
            raise MemoryError
        function(*arguments, **options)

    monkeypatch.setattr(threading.Thread, place, fail)
    assert np.array_equal(BIAS.matrix(1024, 1024, num_threads=4), expected)


def test_an_error_in_a_helper_is_the_callers_and_keeps_nothing_alive() -> None:
    class Work:
        def __call__(self, begin: int, end: int) -> None:
            if threading.current_thread() is not threading.main_thread():
                failed.set()
                raise MemoryError("of a helper")
            assert failed.wait(timeout=30)

    before = threading.active_count()
    failed = threading.Event()
    work = Work()
    with pytest.raises(MemoryError, match="of a helper"):
        _threads.run(work, 100, 1 << 30, 2)
    gc.disable()
    try:
        reference = weakref.ref(work)
        del work
        assert reference() is None
    finally:
        gc.enable()
    assert threading.active_count() == before


# ---- each allocation of a call fails once ----


def calls_of_one_thread(folder: Path) -> dict[str, Callable[[], Any]]:
    """Calls of a thread, many of which make the tables that they need.

    Not attention: NumPy's arithmetic and its BLAS crash if a small allocation fails.
    """
    load = tb.RelativeAttentionBias.load
    half = np.full(60, 1 << 62)
    columns = np.arange(400)[::2].reshape(-1, 4).T

    def new_bias() -> tb.RelativeAttentionBias:
        return tb.RelativeAttentionBias(WEIGHT, tb.Buckets())

    def masked(dtype: str) -> Any:
        mask = np.ones((2, 1, 1, 40), dtype)
        return new_bias().matrix(
            30, 40, causal=True, mask=mask, segment_ids=[0] * 30, key_segment_ids=[0] * 40, scale=2
        )

    return {
        "call": lambda: tb.Buckets()(POSITIONS),
        "call of one": lambda: tb.Buckets(8, 16)(-5),
        "call of columns": lambda: BUCKETS(columns),
        "relative_position_bucket": lambda: tb.relative_position_bucket([[1, 2], [3, 4]]),
        "grid": lambda: tb.Buckets().grid(50, 60),
        "grid_at": lambda: tb.Buckets().grid_at(POSITIONS[:50]),
        "ranges": lambda: BUCKETS.ranges(),
        "from_textbook": lambda: tb.Buckets.from_textbook(32, 128).num_buckets,
        "from_ranges": lambda: tb.Buckets.from_ranges(
            [(0, None, 0), (1, 1, None)], max_distance=1, num_buckets=2
        ).ranges(),
        "from_function": lambda: (
            tb.Buckets.from_function(
                lambda d: np.clip(d, -2, 2) + 2, max_distance=5, num_buckets=5
            ).num_buckets
        ),
        "from_config": lambda: tb.Buckets.from_config({"rel_pos_bins": 32}).num_buckets,
        "matrix": lambda: new_bias().matrix(30, 40),
        "matrix, kept": lambda: masked("bool"),
        "matrix, added": lambda: masked("float32"),
        "matrix_at": lambda: new_bias().matrix_at(half, POSITIONS[:40], causal=True),
        "matrix_at, far": lambda: BIAS.matrix_at(FAR_QUERIES, FAR_KEYS),
        "view": lambda: new_bias().view(30, 40),
        "tiles": lambda: [block.sum() for _, block in BIAS.tiles(30, 40, tile=16)],
        "add_to": lambda: BIAS.add_to(np.zeros((2, 12, 20, 30), np.float32)),
        "weight_gradient": lambda: BIAS.weight_gradient(GRADIENT, causal=True, scale=2),
        "weight_gradient_at": lambda: BIAS.weight_gradient_at(GRADIENT, POSITIONS[:60]),
        "compute_bias": lambda: tb.compute_bias(WEIGHT, 20, 30),
        "load safetensors": lambda: load(folder / "table.safetensors").weight,
        "load npy": lambda: load(folder / "table.npy").weight,
        "load npz": lambda: load(folder / "table.npz").weight,
    }


def calls_of_threads() -> dict[str, Callable[[], Any]]:
    mask = np.ones((2, 1, 1, 200), np.float32)
    return {
        "call": lambda: BUCKETS(np.arange(-20_000, 20_000), num_threads=4),
        "grid": lambda: BUCKETS.grid(200, 200, num_threads=4),
        "grid_at": lambda: BUCKETS.grid_at(POSITIONS[:200], num_threads=4),
        "matrix": lambda: BIAS.matrix(200, 200, num_threads=4),
        "matrix, masked": lambda: BIAS.matrix(200, 200, mask=mask, num_threads=4),
        "matrix_at": lambda: BIAS.matrix_at(POSITIONS[:200], num_threads=4),
        "add_to": lambda: BIAS.add_to(np.zeros((12, 200, 200), np.float32), num_threads=4),
        "weight_gradient": lambda: BIAS.weight_gradient(LARGE_GRADIENT, num_threads=4),
        "weight_gradient_at": lambda: BIAS.weight_gradient_at(
            LARGE_GRADIENT, POSITIONS[:300], num_threads=4
        ),
    }


# Errors that Python and NumPy themselves raise after a failed allocation.
FOREIGN_ERRORS = re.compile(
    "SystemError: .*(error return without exception set|returned NULL without setting an exception)"
    "|RuntimeError: can't allocate (read )?lock"  # of files
    "|TypeError: (stat: path should be string|expected str), bytes.* not PosixPath"
    # The same, and two more, while a file is parsed.
    r"|ValueError: path must be a sound \S+ file, got \S+ \("
    "(.*error return without exception set|.*returned NULL without setting an exception"
    "|can't allocate (read )?lock|expected str, bytes or os.PathLike object, not PosixPath"
    "|its header is nested too deeply"  # which Python's parser says by MemoryError, too
    r"|Error -4 while decompressing data)\)"  # zlib's Z_MEM_ERROR
)
CALL_OF_CORE = re.compile(
    r"_core\.|(self|table)\.core\.|look_up\(|add\(|(epilogue|pairs)\.part\(|(self\._)?work\("
)


def is_of_core(error: BaseException) -> bool:
    """Whether an error was raised in the extension module, or by a call of its functions."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    expression = linecache.getline(last.filename, last.lineno or 0)[last.colno or 0 :]
    return last.filename.endswith(".pyx") or bool(CALL_OF_CORE.match(expression))


def is_foreign(error: BaseException) -> bool:
    """Whether an error is Python's or NumPy's, which should have been a MemoryError."""
    described = f"{type(error).__name__}: {error}"
    return bool(FOREIGN_ERRORS.fullmatch(described)) and not is_of_core(error)


class Shim:
    """The functions of fail_allocation.c, which has been preloaded into this process."""

    def __init__(self) -> None:
        library = ctypes.PyDLL(None)
        self.call_failing = library.call_failing
        self.call_failing.argtypes = [ctypes.py_object, ctypes.c_size_t, ctypes.c_size_t]
        self.call_failing.restype = ctypes.py_object
        self.call_unfailing = library.call_unfailing
        self.call_unfailing.argtypes = [ctypes.py_object]
        self.call_unfailing.restype = ctypes.py_object
        self.count_failures = library.count_failures
        self.count_failures.restype = ctypes.c_size_t


def forget_tables() -> None:
    for cached in (
        _rule.t5_rule,
        _buckets._share_tables,
        _arrays.float_code,
        _arrays.finite_minimum,
    ):
        cached.cache_clear()
    assert hasattr(type(BIAS._table), "pairs_core")
    vars(BIAS._table).pop("pairs_core", None)
    BUCKETS._tables.clear()


def check_after(name: str, call: Callable[[], Any], expected: Any) -> None:
    """Check that no thread is left, and that a call still gives the right result."""
    assert threading.active_count() == 1, name
    assert np.array_equal(call(), expected), name


def check_outcome(name: str, call: Callable[[], Any], expected: Any) -> str:
    """Check that a call gives the right result or a MemoryError; tell which, and whose."""
    try:
        result = call()
    except Exception as error:
        if not isinstance(error, MemoryError) and not is_foreign(error):
            raise AssertionError(f"{name}: no MemoryError") from error
        return "the core's error" if is_of_core(error) else "an error"
    assert np.array_equal(result, expected), f"{name}: a wrong result"
    return "the result"


def start_unfailing(shim: Shim) -> None:
    """Let threads start in any case, or not at all.

    Python's own start never returns if the new thread has no memory (python/cpython#140746).
    """
    start = threading.Thread.start

    def start_or_fail(self: threading.Thread) -> None:
        try:
            shim.call_unfailing(partial(start, self))
        except ctypes.ArgumentError:  # what ctypes makes of an allocation of its own that failed
            raise MemoryError from None

    threading.Thread.start = start_or_fail  # type: ignore[method-assign]


def fail_each_allocation(folder: str) -> None:
    """Let the first, the second, ... allocation of each call fail."""
    shim = Shim()
    ignored = record_ignored()
    start_unfailing(shim)
    calls = calls_of_one_thread(Path(folder))
    calls["threads"] = calls_of_threads()["matrix"]  # all others start theirs alike
    for name, call in calls.items():
        forget_tables()
        expected = call()
        outcomes: Counter[str] = Counter()
        number = 0
        failures = 1
        while failures:
            number += 1
            forget_tables()
            references = count_references()
            failing = partial(shim.call_failing, call, number, number + 1)
            outcome = check_outcome(f"{name}, {number}", failing, expected)
            failures = shim.count_failures()
            if outcome == "the core's error":
                assert count_references() == references, f"{name}, {number}"
            outcomes[outcome] += 1
            check_after(f"{name}, {number}", call, expected)
        assert outcomes["an error"] > 10, (name, outcomes)
    assert not ignored, ignored


def fail_each_allocation_of_helpers() -> None:
    """Let the first, the second, ... allocation fail that a helper makes in its parts."""
    shim = Shim()
    ignored = record_ignored()
    threading.excepthook = lambda arguments: ignored.append(repr(arguments))
    help_, take_all = _threads.Parts.help, _threads.Parts.take_all
    number = 0

    def help_failing(parts: _threads.Parts) -> None:
        with contextlib.suppress(MemoryError):  # before a part was taken
            shim.call_failing(partial(help_, parts), number, number + 1)

    def take_all_late(parts: _threads.Parts) -> None:
        if threading.current_thread() is threading.main_thread():
            time.sleep(0.001)
        take_all(parts)

    vars(_threads)["Parts"].help = help_failing
    vars(_threads)["Parts"].take_all = take_all_late
    for name, call in calls_of_threads().items():
        expected = call()
        references = count_references()
        outcomes: Counter[str] = Counter()
        for allocation in range(1, 16):
            number = allocation
            outcomes[check_outcome(f"{name}, {number}", call, expected)] += 1
            number = 0
            check_after(f"{name}, {allocation}", call, expected)
        gc.collect()
        assert outcomes["the core's error"] > 0, (name, outcomes)
        assert count_references() == references, name
    assert not ignored, ignored


def record_ignored() -> list[str]:
    """Record exceptions that Python can only print."""
    ignored: list[str] = []

    def record(unraisable: Any) -> None:
        # A generator that is closed, or an archive that was not opened, can only complain.
        name = getattr(unraisable.object, "__qualname__", "")
        if not name.endswith(("<genexpr>", "ZipFile.__del__")):
            ignored.append(f"{unraisable.object!r}: {unraisable.exc_value!r}")

    sys.unraisablehook = record
    return ignored


def count_references() -> list[int]:
    shared = (WEIGHT, BUCKETS, BIAS, POSITIONS, GRADIENT, LARGE_GRADIENT, FAR_QUERIES, FAR_KEYS)
    return [sys.getrefcount(value) for value in shared]


def preloaded(folder: Path) -> dict[str, str]:
    """Environment of a process with the shim, to which Python goes for each allocation."""
    library = folder / "fail_allocation.so"
    source = ROOT / "tests" / "c" / "fail_allocation.c"
    command = ["cc", "-std=c11", "-O2", "-shared", "-fPIC", source, "-o", library]
    subprocess.run([*map(str, command)], check=True)
    return {"LD_PRELOAD": str(library), "PYTHONMALLOC": "malloc"}


# 3.12 and 3.13 crash where a function has no memory, 3.14 returns from an import with an exception.
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="newer Pythons fail without memory")
@with_glibc
def test_any_allocation_that_fails_is_a_memory_error_and_leaves_no_trace(tmp_path: Path) -> None:
    write_tables(tmp_path, 12)
    run_job("fail_each_allocation", str(tmp_path), **preloaded(tmp_path))


@with_glibc
def test_any_allocation_that_fails_in_a_helper_is_the_callers_memory_error(tmp_path: Path) -> None:
    run_job("fail_each_allocation_of_helpers", **preloaded(tmp_path))


# ---- leaks ----


def test_no_call_keeps_memory() -> None:
    command = [sys.executable, str(ROOT / "tools" / "leaks.py"), "--calls", "300"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert result.returncode == 0, result.stdout + result.stderr


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
