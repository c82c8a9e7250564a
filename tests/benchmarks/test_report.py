# test_report.py - python -m benchmarks: its rows, and its notes about rows that are left out.
# SPDX-License-Identifier: BSD-3-Clause
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import t5bucket as tb

ROOT = Path(__file__).parents[2]
SMALL_ROWS = [
    ("matrix float32 12 x 512 x 512", "memset"),
    ("peak memory of matrix 12 x 4096 x 4096", "the output"),
]
FRAMEWORKS = ["torch", "transformers", "jax", "ml_dtypes"]


def run(setup: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Print the report after a script that changes its environment."""
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
    return read(run(setup, "--json", out), out)


def measure_briefly(out: Path, *options: str) -> tuple[str, dict[str, Any]]:
    """Measure the rows that options choose, in one round."""
    setup = "from benchmarks import _methods; _methods.MIN_ROUNDS, _methods.ROW_SECONDS = 1, 0"
    return read(run(setup, "--json", out, *options), out)


def read(result: subprocess.CompletedProcess[str], out: Path) -> tuple[str, dict[str, Any]]:
    """Return what was printed and what was written."""
    assert result.returncode == 0, result.stderr
    return result.stdout, json.loads(out.read_text(encoding="utf-8"))


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
    assert "next to transformers, the limit: torch is not installed\n" in result.stdout
    assert result.stdout.endswith("pip install torch 'transformers>=5'\n")


def test_the_report_of_attention_measures_the_tasks_that_only_chooses(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    printed, results = measure_briefly(
        tmp_path / "report.json", "--attention", "--only", "1 x 8 x 1024"
    )
    rows = results["rows"]
    assert [(row["task"], row["peer"], row["at_most"]) for row in rows] == [
        ("attention 1 x 8 x 1024, no mask", "no bias", 1.1),
        ("attention 1 x 8 x 1024, causal", "ready matrix", 1.1),
        ("attention 1 x 8 x 1024, padding", "ready matrix", 1.1),
    ]
    assert "allowance" in printed


@pytest.mark.slow
def test_growth_of_memory_is_measured_for_one_call_in_a_new_process(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    options = ("--attention", "--only", "growth of attention 4096, no mask")
    _, results = measure_briefly(tmp_path / "report.json", *options)
    (row,) = results["rows"]
    output = 8 * 4096 * 64 * 4  # bytes
    assert row["unit"] == "bytes"
    assert row["t5bucket"] > output
    assert 1.1 * output < row["peer_value"] - 16e6 < 4 * output


@pytest.mark.slow
def test_the_report_of_models_measures_each_with_two_allocators(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    options = ("--models", "--markdown", "--only", "t5-small, 1 x 1024 padded")
    printed, results = measure_briefly(tmp_path / "report.json", *options)
    tasks = [row["task"] for row in results["rows"]]
    assert tasks == ["t5-small, 1 x 1024 padded", "t5-small, 1 x 1024 padded, kept"]
    assert len([line for line in printed.splitlines() if line.startswith("| t5-small")]) == 2


@pytest.mark.parametrize(("at_most", "ends"), [(0.5, "0.750 † | 0.500 |"), (1, "0.750 | 1.000 |")])
def test_the_markdown_table_marks_ratios_above_the_aim(at_most: float, ends: str) -> None:
    row = {"task": "a", "t5bucket": 3, "peer": "b", "peer_value": 4, "ratio": 0.75}
    row |= {"at_most": at_most, "unit": "seconds"}
    show = f"from benchmarks import _report\nprint(_report.make_markdown({row}))\nsys.exit()"
    assert run(show).stdout.strip().endswith(ends)


def test_only_refuses_a_text_that_no_task_has() -> None:
    result = run("", "--only", "nothing")
    assert result.returncode == 2
    assert "no task has 'nothing' in its name" in result.stderr


@pytest.mark.slow
def test_a_long_document_is_encoded_and_its_memory_reported() -> None:
    pytest.importorskip("transformers")
    script = ROOT / "benchmarks" / "long_document.py"
    command = [sys.executable, str(script), "--length", "256"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("t5-small, 1 x 256 float32: ")
    assert "the peak of memory grew by " in result.stdout


def test_a_function_in_a_process_sees_the_environment_that_it_was_given() -> None:
    script = f"""import os, sys
sys.path.append({str(ROOT)!r})
from benchmarks import _methods
print(_methods.run_in_process(os.getenv, "MALLOC_MMAP_MAX_", environment=_methods.KEEPING))
print(os.getenv("MALLOC_MMAP_MAX_"))
"""
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["0", "None"], result.stderr


def test_the_checkout_runs_its_benchmarks_with_the_installed_package() -> None:
    command = [sys.executable, "-m", "benchmarks", "--help"]
    options: dict[str, Any] = {"env": {**os.environ, "PYTHONSAFEPATH": ""}, "cwd": ROOT}
    result = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert result.returncode == 0, result.stderr
    assert "usage: python -m benchmarks" in result.stdout
