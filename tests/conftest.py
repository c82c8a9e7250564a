# conftest.py - settings of every test.
# SPDX-License-Identifier: BSD-3-Clause
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

# Processes that tests start import the installed package, not the source tree they stand in.
os.environ["PYTHONSAFEPATH"] = "1"

# Where all takes ten times as long, as under emulation, or runs many times.
settings.register_profile("brief", max_examples=5, deadline=None)

# Names by which a test uses what all threads have in common. pytest-run-parallel, where it is
# installed, runs such tests in one thread, and those with the fixture `monkeypatch` by itself.
SHARED_BY_THREADS = {
    "tracemalloc": "measures the memory of all threads",
    "raise_signal": "interrupts the main thread",
    "active_count": "counts all threads",
    "monotonic": "waits until other threads have ended",
    "perf_counter": "measures time, of which other threads take their share",
}


def divide_every_call(num_threads: str) -> None:
    """Let so many threads share each call's work, however small it is."""
    from t5bucket import _threads, _writing

    os.environ["T5BUCKET_NUM_THREADS"] = num_threads
    _threads.PART_NBYTES, _threads.THREAD_NBYTES, _threads.MIN_PART_NBYTES = 256, 1, 1
    _writing.SMALL_COUNT = 0


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread, in which tiny works take less time."""
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


def pytest_configure(config: pytest.Config) -> None:
    if num_threads := os.environ.get("T5BUCKET_TEST_NUM_THREADS"):
        divide_every_call(num_threads)
    config.addinivalue_line("markers", "thread_unsafe(reason): not for several threads at once")


def pytest_itemcollected(item: pytest.Item) -> None:
    if isinstance(item, pytest.Function):
        for name in SHARED_BY_THREADS.keys() & {*item.function.__code__.co_names}:
            item.add_marker(pytest.mark.thread_unsafe(reason=SHARED_BY_THREADS[name]))
