# tiers.py - run many sessions, two at a time, with a log and the time of each.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import nox

from .figures import FOLDER


class Outcome(NamedTuple):
    """The seconds that a session took, and whether it failed."""

    name: str
    seconds: float
    cpu_seconds: float
    has_failed: bool


def run_session(name: str, *arguments: str) -> Outcome:
    """Run a session; its output goes to a log."""
    begin = time.monotonic()
    with (FOLDER / f"{name}.log").open("w") as log:
        command = [sys.executable, "-m", "nox", "-s", name, "--", *arguments]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)  # the usage of this session only
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return Outcome(name, time.monotonic() - begin, cpu_seconds, process.returncode != 0)


def read_log(name: str, pattern: str = "") -> str:
    """Read the lines that a session printed, or those with a pattern."""
    text = (FOLDER / f"{name}.log").read_text(errors="replace", encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if re.search(pattern, line))


def run_tier(session: nox.Session, names: Sequence[str], brief: Collection[str] = ()) -> None:
    """Run sessions in this order, two at a time, some briefly; print times and failed logs."""
    shutil.rmtree(FOLDER, ignore_errors=True)  # the report must come from one run
    FOLDER.mkdir(parents=True)
    begin = time.monotonic()

    def run(name: str) -> Outcome:
        outcome = run_session(name, *(["brief"] if name in brief else []))
        verdict = f"FAILED\n{read_log(name)}" if outcome.has_failed else "passed"
        session.log(f"{name}, {outcome.seconds:.0f} s: {verdict}")
        return outcome

    with ThreadPoolExecutor(2) as pool:
        outcomes = [*pool.map(run, names)]
    print_times(outcomes, time.monotonic() - begin)
    if failed := [outcome.name for outcome in outcomes if outcome.has_failed]:
        session.error(f"failed: {', '.join(failed)}")


def print_times(outcomes: Sequence[Outcome], seconds: float) -> None:
    """Print the time of each session, and the total."""
    print(f"\n{'session':16}{'seconds':>9}{'CPU':>7}")
    for outcome in outcomes:
        mark = "  FAILED" if outcome.has_failed else ""
        print(f"{outcome.name:16}{outcome.seconds:9.0f}{outcome.cpu_seconds:7.0f}{mark}")
    cpu_seconds = sum(outcome.cpu_seconds for outcome in outcomes)
    print(f"{'all':16}{seconds:9.0f}{cpu_seconds:7.0f}", flush=True)
