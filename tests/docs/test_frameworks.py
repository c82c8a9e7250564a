# test_frameworks.py - what frameworks need: the programs of three documents, and the imports.
# SPDX-License-Identifier: BSD-3-Clause
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from markdown import Block, read_blocks

PROGRAMS = [
    program
    for name in (
        "docs/how_to/frameworks.md",
        "docs/explanation/attention.md",
        "docs/how_to/weight_files.md",
    )
    for program in read_blocks(name, "python")
]


def run(program: Block, folder: Path, **environment: str) -> str:
    path = folder / "program.py"
    path.write_text(program.source)
    for package in (
        *("torch", "transformers", "dask", "jax", "onnxruntime"),
        *("sentence_transformers", "diffusers"),
    ):
        if re.search(rf"^(import|from|from t5bucket\.) ?{package}", program.source, re.MULTILINE):
            pytest.importorskip(package)
    result = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.section)
def test_the_program_runs(program: Block, tmp_path: Path) -> None:
    run(program, tmp_path)


def test_what_a_map_function_holds_is_pickled_to_the_same_bytes_everywhere(tmp_path: Path) -> None:
    (program,) = (program for program in PROGRAMS if "map" in program.section)
    printed = {run(program, tmp_path, PYTHONHASHSEED=str(seed)) for seed in range(3)}
    assert len(printed) == 1
    assert len(printed.pop()) > 50


@pytest.mark.parametrize("name", ["torch", "transformers", "dask", "jax"])
def test_without_its_framework_a_module_names_the_extra(name: str) -> None:
    script = f"""
import sys
sys.modules["{name}"] = None
import t5bucket
try:
    import t5bucket.{name}
except ImportError as error:
    print(error)
"""
    assert f"pip install 't5bucket[{name}]'" in run_script(script)


@pytest.mark.parametrize("name", ["torch", "transformers", "dask", "jax", "matplotlib"])
def test_importing_the_package_does_not_import_a_framework(name: str) -> None:
    printed = run_script(f"import sys, t5bucket; print({name!r} in sys.modules)")
    assert printed.strip() == "False"


def run_script(script: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return result.stdout
