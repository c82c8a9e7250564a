# test_frameworks.py - modules that need a framework: how they are imported, and their names.
# SPDX-License-Identifier: BSD-3-Clause
import os
import subprocess
import sys

import pytest
from markdown import find_program


def test_what_a_map_function_holds_is_pickled_to_the_same_bytes_everywhere() -> None:
    program = find_program("A function for Dataset.map")
    printed = {run_script(program, PYTHONHASHSEED=str(seed)) for seed in range(3)}
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


def run_script(script: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    return result.stdout
