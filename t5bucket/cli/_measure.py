# _measure.py - time calls side by side, and report the ratio of two as a row.
# SPDX-License-Identifier: BSD-3-Clause
"""Shared by ``t5bucket bench`` and by the project's own benchmarks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from t5bucket.cli._files import whole_file
from t5bucket.cli.info import describe_system

Call = Callable[[], Any]
SAMPLE_SECONDS = 0.002  # a sample repeats a call until it takes this long
ROW_SECONDS = 0.5  # samples for one row are taken for this long
MIN_ROUNDS = 5  # but in at least this many rounds
HEADER = f"{'task':44} {'t5bucket':>10}  {'peer':>10} {'':14} {'ratio':>6} {'at most':>8}"
# A bound is the largest ratio on an idle machine (Zen 4, 32 MiB of cache), plus a third. The
# third allows for noise and other processors; a kernel that lost its speed exceeds it.
LEGEND = """\
ratio    time (or bytes) of t5bucket, divided by that of the peer: below 1 t5bucket takes less
at most  the ratio on an idle machine of the developers, with a margin for noise
above    this ratio is larger: the machine is busy, or differs, or t5bucket is slow here"""


class Result(NamedTuple):
    """Seconds of both (bytes for memory), and their ratio."""

    ours: float
    peer: float

    @property
    def ratio(self) -> float:
        """Ours over the peer's."""
        return self.ours / self.peer


class Row(NamedTuple):
    """A task, whom to compare with, and the bound of the ratio."""

    task: str
    peer: str
    at_most: float
    measure: Callable[[], Result]
    unit: str = "seconds"


def compare(ours: Call, peer: Call) -> Result:
    """Time both in turn."""
    best = best_seconds({"peer": peer, "ours": ours})
    return Result(best["ours"], best["peer"])


def best_seconds(calls: dict[str, Call], min_rounds: int = MIN_ROUNDS) -> dict[str, float]:
    """Time calls in turn, so that what else the machine does meets all of them; the best counts."""
    repeats = {name: count_repeats(call) for name, call in calls.items()}
    best = dict.fromkeys(calls, float("inf"))
    begin = time.perf_counter()
    rounds = 0
    while rounds < min_rounds or time.perf_counter() - begin < ROW_SECONDS:
        for name, call in calls.items():
            best[name] = min(best[name], sample(call, repeats[name]))
        rounds += 1
    return best


def count_repeats(call: Call) -> int:
    """How often a sample calls; the first call is not counted."""
    call()
    seconds = max(sample(call, 1), 1e-7)
    return max(1, int(SAMPLE_SECONDS / seconds))


def sample(call: Call, repeats: int) -> float:
    """Seconds of one call, as the mean of several."""
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats


def report(row: Row) -> dict[str, Any]:
    """Measure a row, print it and return it for JSON."""
    measured = measure(row)
    print(make_line(measured), flush=True)
    return measured


def measure(row: Row) -> dict[str, Any]:
    """Measure a row."""
    result = row.measure()
    return {
        "task": row.task,
        "peer": row.peer,
        "unit": row.unit,
        "t5bucket": result.ours,
        "peer_value": result.peer,
        "ratio": result.ratio,
        "at_most": row.at_most,
    }


def make_line(measured: dict[str, Any]) -> str:
    """Show what was measured in columns."""
    show = show_seconds if measured["unit"] == "seconds" else show_bytes
    mark = "" if measured["ratio"] <= measured["at_most"] else "  above"
    return (
        f"{measured['task']:44} {show(measured['t5bucket']):>10}  "
        f"{show(measured['peer_value']):>10} {measured['peer']:14} "
        f"{measured['ratio']:6.3f} {measured['at_most']:8.3f}{mark}"
    )


def show_seconds(seconds: float) -> str:
    """Show seconds in a unit that suits them."""
    for unit, scale in (("s", 1), ("ms", 1e3)):
        if seconds * scale >= 0.9995:  # otherwise it would be shown as 1e+03 of the next unit
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def show_bytes(nbytes: float) -> str:
    """Show bytes in megabytes."""
    return f"{nbytes / 1e6:.1f} MB"


def write_json(path: Path | None, **results: list[dict[str, Any]]) -> None:
    """Write what was measured, and on what, if there is a path."""
    if path is not None:
        with whole_file(path) as partial_path:
            partial_path.write_text(make_json(**results) + "\n", encoding="utf-8")


def make_json(**results: list[dict[str, Any]]) -> str:
    """Put what was measured, and on what, into an object that machines read."""
    return json.dumps({"system": describe_system(), **results}, indent=2, default=str)
