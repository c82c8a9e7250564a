# test_documentation.py - every example runs, and the files say what they should.
# SPDX-License-Identifier: BSD-3-Clause
import doctest
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from package import FRAMEWORKS, MODULES

import t5bucket as tb

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["t5bucket", *MODULES])
def test_examples_in_docstrings(name: str) -> None:
    if package := {**FRAMEWORKS, "t5bucket.plot": "matplotlib"}.get(name):
        pytest.importorskip(package)
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_readmes_example_runs_and_shows_its_true_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    exec(block, namespace)
    shown = re.findall(r"^(\S+\(.*\)) +# (array\(.*?\)|\([\d, ]+\))", block, re.MULTILINE)
    assert len(shown) == 2
    for expression, result in shown:
        value = eval(expression, namespace)
        assert repr(value if result.startswith("array") else value.shape) == result
    assert namespace["bias"].view(100_000, 100_000).base.nbytes // 10**6 == 9


def public_functions() -> list[Any]:
    names = [getattr(tb, name) for name in tb.__all__ if name != "__version__"]
    methods = [
        method
        for cls in (tb.Buckets, tb.RelativeAttentionBias)
        for name, method in inspect.getmembers(cls)
        if (inspect.isfunction(method) or inspect.ismethod(method))
        and (not name.startswith("_") or name == "__call__")
    ]
    return [*names, *methods]


@pytest.mark.parametrize("function", public_functions(), ids=lambda f: f.__qualname__)
def test_every_public_function_has_an_example_and_names_its_parameters(function: Any) -> None:
    check_docstring(function)


@pytest.mark.parametrize("name", [name for name in FRAMEWORKS if "._" not in name])
def test_so_has_every_function_for_a_framework(name: str) -> None:
    pytest.importorskip(FRAMEWORKS[name])
    module = importlib.import_module(name)
    for public in module.__all__:
        check_docstring(getattr(module, public))


def check_docstring(function: Any) -> None:
    text = inspect.getdoc(function) or ""
    assert ">>> " in text
    parameters = inspect.signature(function).parameters
    for name in set(parameters) - {"self", "cls"}:
        assert re.search(rf"^[\w, ]*\b{name}\b[\w, ]* : ", text, re.MULTILINE), name


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
