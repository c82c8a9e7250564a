# test_bench.py - t5bucket bench: its rows, its marks, its file; it needs only NumPy.
# SPDX-License-Identifier: BSD-3-Clause
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import t5bucket as tb

FIRST_ROWS = [("matrix float32 12 x 512 x 512", "memset"), ("one scalar", "numpy abs")]
FRAMEWORKS = ["torch", "transformers", "jax", "ml_dtypes"]


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``t5bucket bench`` after a script that changes its environment."""
    script = f"import sys\n{script}\nfrom t5bucket.cli import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def measure(setup: str, rows: str, out: Path) -> tuple[str, dict[str, Any]]:
    """Measure chosen rows quickly; return the printed text and the written file."""
    script = f"""{setup}
from t5bucket.cli import _measure, bench
_measure.ROW_SECONDS, _measure.MIN_ROUNDS = 0.01, 1
bench.ROWS = [row for row in bench.ROWS if {rows}]
"""
    result = run(script, "--json", out)
    assert result.returncode == 0, result.stderr
    return result.stdout, json.loads(out.read_text(encoding="utf-8"))


def test_bench_measures_rows_and_writes_the_results(tmp_path: Path) -> None:
    rows = f"(row.task, row.peer) in {FIRST_ROWS}"
    printed, results = measure("", rows, tmp_path / "bench.json")
    assert results["system"]["t5bucket"] == tb.__version__
    assert [(row["task"], row["peer"]) for row in results["rows"]] == FIRST_ROWS
    assert printed.startswith("task ")
    for row in results["rows"]:
        assert row["task"] in printed
        assert row["ratio"] == row["t5bucket"] / row["peer_value"]


def test_bench_explains_its_marks(tmp_path: Path) -> None:
    setup = "from t5bucket.cli._measure import Result; Result.ratio = property(lambda result: 99.0)"
    printed, _ = measure(setup, f"row.task == {FIRST_ROWS[0][0]!r}", tmp_path / "bench.json")
    assert printed.splitlines()[1].endswith(" 99.000    2.200  above")
    for name in ("ratio", "at most", "above"):
        (explained,) = re.findall(rf"^{name}  +(\S.*)$", printed, re.MULTILINE)
        assert explained in run("", "--help").stdout


def test_bench_explains_its_peers() -> None:
    script = "from t5bucket.cli.bench import ROWS; print(*{row.peer for row in ROWS}, sep='\\n')"
    peers = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    explained = run("", "--help").stdout
    assert "numpy window" in peers.stdout.splitlines()
    for peer in peers.stdout.splitlines():
        assert peer in explained


def test_every_row_is_measured_with_numpy_alone(tmp_path: Path) -> None:
    setup = f"sys.modules.update(dict.fromkeys({FRAMEWORKS}))"
    _, results = measure(setup, "True", tmp_path / "bench.json")
    assert len(results["rows"]) >= 10
    assert all(row["ratio"] > 0 for row in results["rows"])


def test_the_command_line_imports_no_framework() -> None:
    script = f"import sys, t5bucket.cli; print({{*{FRAMEWORKS}}} & {{*sys.modules}})"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout == "set()\n"


def test_whole_models_are_measured_in_a_checkout() -> None:
    result = run("", "--models")
    assert result.returncode == 2
    assert "unrecognized arguments: --models" in result.stderr
    assert "`python -m benchmarks --models` measures whole models" in run("", "--help").stdout
