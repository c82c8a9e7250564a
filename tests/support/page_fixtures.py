# page_fixtures.py - a plugin: run the programs of pages, and transformers' own code.
# SPDX-License-Identifier: BSD-3-Clause
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from markdown import find_program
from numpy.typing import NDArray

RunProgram = Callable[..., SimpleNamespace]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunProgram:
    """Run the program of a section in a folder of its own, and return the names it defines."""

    def run(page: str, title: str = "Buckets and bias") -> SimpleNamespace:
        monkeypatch.chdir(tmp_path)
        namespace: dict[str, Any] = {"__name__": "program"}
        exec(compile(find_program(title, page), page, "exec"), namespace)
        del namespace["__builtins__"]
        return SimpleNamespace(**namespace)

    return run


@pytest.fixture
def torch(one_thread: None) -> Any:
    return pytest.importorskip("torch")


@pytest.fixture
def transformers(torch: Any) -> Any:
    return pytest.importorskip("transformers")


@pytest.fixture
def embedding(torch: Any) -> Callable[[NDArray[Any]], Any]:
    """Make the module in which transformers keeps a table."""
    return lambda weight: torch.nn.Embedding.from_pretrained(torch.from_numpy(weight.copy()))
