# test_report.py - python -m benchmarks: its rows, and what it says of those that are left out.
# SPDX-License-Identifier: BSD-3-Clause
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import t5bucket as tb

ROOT = Path(__file__).parents[2]
SMALL_ROWS = [
    ("matrix float32 12 x 512 x 512", "memset"),
    ("peak memory of matrix 12 x 4096 x 4096", "the output"),
]
FRAMEWORKS = ["torch", "transformers", "jax", "ml_dtypes"]


def run(setup: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Print the report after a script that changes what it finds."""
    script = f"""import sys
sys.path.append({str(ROOT)!r})
{setup}
from benchmarks import _report
_report.main()
"""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def measure(rows: list[tuple[str, str]], setup: str, out: Path) -> tuple[str, dict[str, Any]]:
    """Measure rows of tasks and peers; return what is printed and what is written."""
    setup = f"""{setup}
from benchmarks import _report
from t5bucket.cli import _measure
_measure.ROW_SECONDS = 0.01
_report.ROWS = [row for row in _report.ROWS if (row.task, row.peer) in {rows}]
assert len(_report.ROWS) == {len(rows)}
"""
    result = run(setup, "--json", out)
    assert result.returncode == 0, result.stderr
    return result.stdout, json.loads(out.read_text())


def test_the_report_measures_a_row_and_writes_the_results(tmp_path: Path) -> None:
    printed, results = measure(SMALL_ROWS, "", tmp_path / "report.json")
    assert results["system"]["t5bucket"] == tb.__version__
    assert [(row["task"], row["peer"]) for row in results["rows"]] == SMALL_ROWS
    for row in results["rows"]:
        assert row["task"] in printed
        assert row["ratio"] == row["t5bucket"] / row["peer_value"]
    assert 1 <= results["rows"][1]["ratio"] < 1.02
    assert results["left_out"] == []
    assert "Left out" not in printed
    assert "pip install" not in printed


def test_the_report_leaves_out_rows_without_their_packages_and_says_so_once(tmp_path: Path) -> None:
    left_out = [
        ("matrix float32 12 x 2048 x 2048", "transformers"),
        ("matrix bfloat16 12 x 2048 x 2048", "memset"),
        ("4 M buckets, int32", "jax"),
        ("padding mask 4 x 12 x 512 x 512", "torch"),
    ]
    setup = f"sys.modules.update(dict.fromkeys({FRAMEWORKS}))"
    printed, results = measure([*SMALL_ROWS, *left_out], setup, tmp_path / "report.json")
    assert [(row["task"], row["peer"]) for row in results["rows"]] == SMALL_ROWS
    assert {(row["task"], row["peer"]) for row in results["left_out"]} == {*left_out}
    assert "No module named" not in printed
    assert not [task for task, _ in left_out if task in printed]
    head, told = printed.split("\nLeft out:\n")
    assert head.splitlines()[0].startswith("task ")
    assert sorted(told.splitlines()) == [
        "  1 row next to jax: jax is not installed",
        "  1 row next to memset: bfloat16 needs ml_dtypes: pip install 't5bucket[bfloat16]'",
        "  2 rows next to transformers, torch: torch is not installed",
        "To measure them: python -m pip install torch 'transformers>=5' jax ml_dtypes",
    ]


def test_the_report_of_models_without_their_packages_says_what_to_install() -> None:
    result = run("sys.modules.update(dict.fromkeys(['torch']))", "--models")
    assert result.returncode == 0, result.stderr
    assert "next to transformers: torch is not installed\n" in result.stdout
    assert result.stdout.endswith("pip install torch 'transformers>=5'\n")


def test_the_checkout_runs_its_benchmarks_with_the_installed_package() -> None:
    command = [sys.executable, "-m", "benchmarks", "--help"]
    options: dict[str, Any] = {"env": {"PYTHONSAFEPATH": ""}, "cwd": ROOT}
    result = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert result.returncode == 0, result.stderr
    assert "usage: python -m benchmarks" in result.stdout
