# _methods.py - how rows are measured: medians of calls in turn, new processes, memory growth.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os
import site
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from t5bucket._machine import read
from t5bucket.cli._measure import Call, Result, sample

MIN_ROUNDS = 9  # a round is two calls in turn
ROW_SECONDS = 3  # rounds continue for at least this long
# Settings with which glibc's allocator keeps the memory that it got from the system.
KEEPING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
SMALL_LENGTH = 256  # tokens of the first call, which loads what every call needs
ROOT = Path(__file__).parents[1]
OWN_STATUS, OWN_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def compare_medians(ours: Call, peer: Call, min_rounds: int) -> Result:
    """Time both calls in turn, and return the medians. Both were called before.

    Both allocate memory, and a user waits for the system to provide it. The minimum
    would hide this time.
    """
    rounds: list[list[float]] = []
    begin = time.perf_counter()
    while len(rounds) < min_rounds or time.perf_counter() - begin < ROW_SECONDS:
        rounds.append([sample(call, 1) for call in (ours, peer)])
    return Result(*map(median, zip(*rounds, strict=True)))


def run_in_process(
    function: Callable[..., Any], *arguments: Any, environment: Mapping[str, str] | None = None
) -> Any:
    """Call a function of a module in a new process, with these environment variables."""
    with (
        patch.dict(os.environ, environment or {}),
        # The checkout comes last: the installed package is measured.
        ProcessPoolExecutor(1, get_context("spawn"), site.addsitedir, (str(ROOT),)) as pool,
    ):
        return pool.submit(function, *arguments).result()


def measure_growth(
    prepare: Callable[..., Call], arguments: tuple[Any, ...], small: tuple[Any, ...]
) -> float:
    """Measure by how many bytes a call increases the peak memory of a new process.

    A call with `small` arguments comes first: it loads what every call needs.
    """
    if sys.platform == "win32":
        raise NotImplementedError("Windows does not tell the peak memory in this way")
    return float(run_in_process(_grow, prepare, arguments, small))


def _grow(prepare: Callable[..., Call], arguments: tuple[Any, ...], small: tuple[Any, ...]) -> int:
    prepare(*small)()
    call = prepare(*arguments)
    before = peak_nbytes(reset=True)
    call()
    return peak_nbytes() - before


def peak_nbytes(reset: bool = False) -> int:
    """Return the peak memory of this process, in bytes; if `reset`, measure it anew from now on."""
    if sys.platform == "linux":  # getrusage would include the parent's memory
        if reset:
            with suppress(OSError):  # a container may forbid it; then the old peak counts
                OWN_PEAK.write_text("5", encoding="utf-8")
        status = dict(line.split(":", 1) for line in read(str(OWN_STATUS)).splitlines())
        return int(status["VmHWM"].split()[0]) << 10
    import resource  # exists only on POSIX

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes
