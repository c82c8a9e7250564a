# stable_abi.py - what one wheel for all Pythons costs: small calls of two builds, in turn.
# SPDX-License-Identifier: BSD-3-Clause
"""Build the package with and without the stable ABI, and compare how long their calls take.

    python benchmarks/stable_abi.py [ROUNDS]

In each round two new processes, one of each build, make the same calls in turn. Printed is the
median of the rounds' ratios: 1.02 means that the stable ABI costs 2 %. Two processes differ by
more than that, by where their memory lies, so that it takes many rounds.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
SWITCH = "STABLE_ABI = "
LEFTOVERS = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "*.so", "_core.c")
NUM_TURNS = 10

CALLS = ("decoding step 12 x 1 x 128", "16 buckets of int64", "grid 8 x 8 into uint8")
PROCESS = """
import sys, time
sys.path.insert(0, sys.argv[1])
import numpy as np, t5bucket as tb
bias = tb.RelativeAttentionBias(np.ones((32, 12), np.float32), tb.Buckets(bidirectional=False))
buckets, positions, grid = tb.Buckets(), np.arange(16), np.zeros((8, 8), np.uint8)
calls = [
    lambda: bias.matrix(1, 128, query_offset=127),
    lambda: buckets(positions),
    lambda: buckets.grid(8, 8, dtype=np.uint8, out=grid),
]
for call in calls * 1000:
    call()
for line in sys.stdin:
    call = calls[int(line)]
    begin = time.perf_counter_ns()
    for _ in range(500):
        call()
    print(time.perf_counter_ns() - begin, flush=True)
"""


def build(folder: Path, stable_abi: bool) -> Path:
    """Build the package in a copy of its source; return where it is importable."""
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=LEFTOVERS)
    setup = source / "setup.py"
    head, tail = setup.read_text().split(SWITCH, 1)
    setup.write_text(f"{head}{SWITCH}{stable_abi} and {tail}")
    target = folder / "installed"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*install, "--no-cache-dir", "--target", target, source], check=True)
    return target


def start(target: Path) -> subprocess.Popen[str]:
    """Start a process with a build."""
    command = [sys.executable, "-P", "-c", PROCESS, str(target)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def measure(process: subprocess.Popen[str], number: int) -> int:
    """Let a process make calls; return how long they took in nanoseconds."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{number}\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def compare(targets: Sequence[Path], number: int) -> float:
    """Compare the quickest turns of two processes; each is the first in every other turn."""
    processes = [start(target) for target in targets]
    times: dict[subprocess.Popen[str], list[int]] = {process: [] for process in processes}
    for turn in range(NUM_TURNS):
        for process in processes if turn % 2 else reversed(processes):
            times[process].append(measure(process, number))
    for process in processes:
        process.communicate()
    plain, stable = map(min, times.values())
    return stable / plain


def main() -> None:
    """Build both, and compare each call."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as name:
        folders = {stable_abi: Path(name, str(stable_abi)) for stable_abi in (False, True)}
        targets = [build(folder, stable_abi) for stable_abi, folder in folders.items()]
        for number, call in enumerate(CALLS):
            ratios = sorted(compare(targets, number) for _ in range(rounds))
            low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
            median = statistics.median(ratios)
            print(f"{call}: {median:.3f} (half of the rounds: {low:.3f} to {high:.3f})", flush=True)


if __name__ == "__main__":
    main()
