# conftest.py - settings and fixtures for all tests.
# SPDX-License-Identifier: BSD-3-Clause
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

# Processes that tests start must import the installed package, not the source tree around them.
os.environ["PYTHONSAFEPATH"] = "1"

# Profiles of Hypothesis: for repeated runs with other builds, by default, and with --all.
settings.register_profile("brief", max_examples=5, deadline=None)
settings.register_profile("quick", max_examples=20, deadline=None)
settings.register_profile("all", deadline=None)


def divide_every_call(num_threads: str) -> None:
    """Divide the work of each call among this many threads, however small it is."""
    from t5bucket import _threads, _writing

    os.environ["T5BUCKET_NUM_THREADS"] = num_threads
    _threads.PART_NBYTES, _threads.THREAD_NBYTES, _threads.MIN_PART_NBYTES = 256, 1, 1
    _writing.SMALL_COUNT = 0


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread, which is faster for tiny inputs."""
    torch: Any = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    """Record which layers of a model are accelerated, and which calls fall back."""
    with caplog.at_level(logging.DEBUG, "t5bucket.transformers"):
        yield caplog


@pytest.fixture(autouse=True)
def no_matrix_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let accelerated models, which are tiny in tests, never use the matrix because it is small."""
    module = sys.modules.get("t5bucket.transformers._t5")
    if module is not None:
        monkeypatch.setattr(module, "MIN_NBYTES", 0)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run slow tests too, with 100 examples")


def pytest_configure(config: pytest.Config) -> None:
    if num_threads := os.environ.get("T5BUCKET_TEST_NUM_THREADS"):
        divide_every_call(num_threads)
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("all" if config.getoption("--all") else "quick")


def pytest_sessionstart() -> None:
    # Tests read what commands print: without colours. Pytest has chosen its own before.
    os.environ.pop("FORCE_COLOR", None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    items[:] = [item for item in items if item not in slow]
    config.hook.pytest_deselected(items=slow)
