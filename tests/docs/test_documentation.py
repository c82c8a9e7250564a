# test_documentation.py - every example runs, and the files say what they should.
# SPDX-License-Identifier: BSD-3-Clause
import doctest
import importlib
import importlib.util
import inspect
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown import read_blocks
from package import FRAMEWORKS, MODULES

import t5bucket as tb

ROOT = Path(__file__).parents[2]

shows_int64 = pytest.mark.skipif(
    np.dtype(int) != np.int64, reason="NumPy 1 of Windows prints the name of int64"
)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # in the exporter of PyTorch
@shows_int64
@pytest.mark.parametrize("name", ["t5bucket", *MODULES])
def test_examples_in_docstrings(name: str) -> None:
    if package := {**FRAMEWORKS, "t5bucket.plot": "matplotlib"}.get(name):
        pytest.importorskip(package)
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@shows_int64
def test_the_readmes_example_runs_and_shows_its_true_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = read_blocks("README.md", "python")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    exec(block.source, namespace)
    result = r"^(\S+\(.*\)) +# (array\(.*?\)|\([\d, ]+\))"
    shown = re.findall(result, block.source, re.MULTILINE)
    assert len(shown) == 2
    for expression, result in shown:
        value = eval(expression, namespace)
        assert repr(value if result.startswith("array") else value.shape) == result
    assert namespace["bias"].view(100_000, 100_000).base.nbytes // 10**6 == 9


def public_functions() -> list[str]:
    """List the functions and methods that users call, by their names."""
    modules = ["t5bucket", *(name for name in FRAMEWORKS if "._" not in name)]
    names = [
        f"{module}.{name}"
        for module in modules
        if importlib.util.find_spec(FRAMEWORKS.get(module, "t5bucket"))
        for name in importlib.import_module(module).__all__
        if name != "__version__"
    ]
    methods = [
        f"t5bucket.{cls.__name__}.{name}"
        for cls in (tb.Buckets, tb.RelativeAttentionBias)
        for name, method in inspect.getmembers(cls)
        if (inspect.isfunction(method) or inspect.ismethod(method))
        and (not name.startswith("_") or name == "__call__")
    ]
    return [*names, *methods]


@pytest.mark.parametrize("name", public_functions())
def test_every_public_function_is_documented_as_numpydoc_wants_it(name: str) -> None:
    validate = pytest.importorskip("numpydoc.validate")
    hooks: Any = importlib.import_module("numpydoc.hooks.validate_docstrings")
    checks = validate.get_validation_checks(set(hooks.parse_config(str(ROOT))["checks"]))
    found = validate.validate(name)
    assert ">>> " in found["docstring"]
    assert [error for error in found["errors"] if error[0] in checks] == []


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## \[(\S+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == tb.__version__


@pytest.mark.parametrize(
    "pattern", ["t5bucket/**/*.py*", "src_c/*", "tests/**/*.[cp]*", "benchmarks/*.py"]
)
def test_every_file_says_what_it_is_for_in_its_first_lines(pattern: str) -> None:
    paths = [
        path
        for path in ROOT.glob(pattern)
        if path.suffix in (".py", ".pyx", ".pxd", ".pyi", ".c", ".h")
    ]
    assert paths
    for path in paths:
        if not path.name.startswith("_core.c"):  # generated
            assert f"{path.name} - " in path.read_text()[:200], path


def test_the_picture_of_attention_is_what_its_script_draws() -> None:
    script = runpy.run_path(str(ROOT / "tools" / "draw_attention.py"))
    drawn = script["draw"]()
    assert script["PICTURE"].read_text(encoding="utf-8") == drawn
    (picture,) = re.findall(
        r"!\[[^]]+\]\((.*?)\)", (ROOT / "docs" / "explanation" / "attention.md").read_text()
    )
    assert picture == script["PICTURE"].name
    assert "<title>" in drawn
    assert "<desc>" in drawn
