# instructions.py - count the instructions of some calls: a check without noise.
# SPDX-License-Identifier: BSD-3-Clause
"""Run calls under valgrind's callgrind and compare with recorded figures.

    python benchmarks/instructions.py            fails if a call takes 10 % more
    python benchmarks/instructions.py --record   records what it counts

Valgrind counts alike whatever else the machine does. The figures hold for the
Python, NumPy and processor features that they were recorded with. With others
a call may take up to 50 % more.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from t5bucket import _core

RECORD = Path(__file__).with_suffix(".json")
TOLERANCE = 0.10
TOLERANCE_OF_OTHERS = 0.50  # of versions that were not recorded

SETUP = """
import numpy as np, t5bucket as tb
weight = np.ones((32, 12), np.float32)
decoder = tb.RelativeAttentionBias(weight, tb.Buckets(bidirectional=False))
encoder = tb.RelativeAttentionBias(weight, tb.Buckets())
positions = (np.arange(16384, dtype=np.int32) * 7919) % 601 - 300
found = np.zeros(16384, np.int32)
matrix = np.zeros((12, 512, 512), np.float32)
batch = np.ones((2, 12, 256, 256), np.float32)
padding = (np.arange(256) < np.array([256, 99])[:, None])[:, None, None]
boxes = positions[:256] + 300
one = {"num_threads": 1}
calls = {
    "decode step 12 x 1 x 128": lambda: decoder.matrix(1, 128, query_offset=127),
    "16384 buckets int32": lambda: encoder.buckets(positions, dtype=np.int32, out=found),
    "matrix float32 12 x 512 x 512": lambda: encoder.matrix(512, 512, out=matrix, **one),
    "padding mask 2 x 12 x 256 x 256": lambda: encoder.matrix(
        256, 256, mask=padding, out=batch, **one
    ),
    "matrix_at 12 x 256 x 256": lambda: encoder.matrix_at(boxes, out=batch[0], **one),
    "add_to 2 x 12 x 256 x 256": lambda: encoder.add_to(batch, **one),
    "weight_gradient 2 x 12 x 256 x 256": lambda: encoder.weight_gradient(batch, **one),
}
for call in calls.values():
    call()
"""
# Equal processes have equal counts, so the difference of two is due to the repeated calls.
REPEATS = {
    "decode step 12 x 1 x 128": 5_000,
    "16384 buckets int32": 2_000,
    "matrix float32 12 x 512 x 512": 100,
    "padding mask 2 x 12 x 256 x 256": 50,
    "matrix_at 12 x 256 x 256": 50,
    "add_to 2 x 12 x 256 x 256": 50,
    "weight_gradient 2 x 12 x 256 x 256": 50,
}


def count_process(script: str) -> int:
    """Instructions of a whole Python process."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable]
    result = subprocess.run(
        [*command, "-P", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ
        | {
            "PYTHONHASHSEED": "0",
            "OPENBLAS_NUM_THREADS": "1",  # waiting threads of NumPy would count
            "T5BUCKET_DISABLE_CPU": "",
        },
    )
    collected = re.search(r"Collected : (\d+)", result.stderr)
    assert collected is not None, result.stderr
    return int(collected[1])


def count_calls() -> dict[str, int]:
    """Count the instructions of one call: the difference between processes, divided by repeats."""
    base = count_process(SETUP)
    counts = {}
    for name, repeats in REPEATS.items():
        script = f"{SETUP}\nfor _ in range({repeats}):\n    calls[{name!r}]()"
        counts[name] = (count_process(script) - base) // repeats
    return counts


def main() -> int:
    """Compare, or record; return the exit code."""
    parser = argparse.ArgumentParser(description="Count the instructions of some calls.")
    parser.add_argument("--record", action="store_true", help="write the counts to the record")
    options = parser.parse_args()
    counts = count_calls()
    versions = {
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        # valgrind's processor has no AVX-512
        "implementation": _core.get_implementation().replace("avx512", "avx2"),
    }
    if options.record:
        RECORD.write_text(
            json.dumps({"versions": versions, "counts": counts}, indent=4) + "\n", encoding="utf-8"
        )
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    print(f"recorded with {record['versions']}, counted with {versions}")
    tolerance = TOLERANCE if versions == record["versions"] else TOLERANCE_OF_OTHERS
    failed = False
    for name, count in counts.items():
        ratio = count / record["counts"][name]
        failed |= ratio > 1 + tolerance
        print(f"{name:32} {count:>12,} instructions, {ratio:.3f} of the record")
    if failed:
        print("a call takes more instructions than recorded", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
