# test_threads.py - threads are started and joined within a call; how many are chosen.
# SPDX-License-Identifier: BSD-3-Clause
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import t5bucket as tb
from t5bucket import _machine, _threads

BIAS = tb.RelativeAttentionBias(
    np.random.default_rng(0).standard_normal((32, 12), np.float32), tb.Buckets()
)


def parts_of(count: int, nbytes: int, num_threads: int | None) -> list[tuple[int, int]]:
    parts: list[tuple[int, int]] = []
    _threads.run(lambda begin, end: parts.append((begin, end)), count, nbytes, num_threads)
    return sorted(parts)


@pytest.mark.parametrize("count", [1, 2, 7, 100])
@pytest.mark.parametrize("nbytes", [0, 1000, 50 << 20, 1 << 33])
@pytest.mark.parametrize("num_threads", [None, 1, 2, 3, 64])
def test_parts_make_up_the_whole(count: int, nbytes: int, num_threads: int | None) -> None:
    parts = parts_of(count, nbytes, num_threads)
    assert [begin for begin, _ in parts] == [0, *(end for _, end in parts[:-1])]
    assert parts[-1][1] == count
    assert all(begin < end for begin, end in parts)


def test_a_large_call_is_divided_so_that_an_interrupt_is_seen() -> None:
    parts = parts_of(10_000, 1 << 30, 1)
    assert 120 <= len(parts) <= 128


def count_alive() -> int:
    """Count threads, without those whose start was interrupted: `threading` keeps listing them."""
    return sum(thread.is_alive() for thread in threading.enumerate())


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Let SIGINT interrupt, which a job in the background ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("num_threads", [1, 2, 16])
def test_an_interrupt_leaves_no_thread_and_no_writer(num_threads: int) -> None:
    out = np.zeros((12, 2048, 2048), np.float32)
    before = count_alive()
    for delay in np.linspace(0.0, 0.008, 12):
        begun = threading.Event()  # Python itself does not survive an interrupt while it starts one

        def interrupt(begun: threading.Event = begun, delay: float = float(delay)) -> None:
            begun.wait()
            time.sleep(delay)
            signal.raise_signal(signal.SIGINT)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with contextlib.suppress(KeyboardInterrupt):
            begun.set()
            for _ in range(1000):
                BIAS.matrix(2048, 2048, out=out, num_threads=num_threads)
        interrupter.join()
        out[:] = 7
        assert (out == 7).all()
        deadline = time.monotonic() + 5
        while count_alive() != before:
            assert time.monotonic() < deadline


def test_no_thread_is_left_after_a_call() -> None:
    def count() -> tuple[int, int]:
        tasks = Path("/proc/self/task")  # those of the system, where it tells
        return threading.active_count(), len(list(tasks.iterdir())) if tasks.exists() else 0

    before = count()
    for num_threads in (2, 8, 64):
        BIAS.matrix(1024, 1024, num_threads=num_threads)
        deadline = time.monotonic() + 5  # the system's part of a joined thread ends a bit later
        while count() != before:
            assert time.monotonic() < deadline


def test_the_requested_number_of_threads_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    start = threading.Thread.start

    def record(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", record)
    BIAS.matrix(1024, 1024, num_threads=5)
    assert len(started) == 4
    started.clear()
    BIAS.matrix(64, 64, num_threads=10**6)
    assert len(started) < 4
    started.clear()
    BIAS.matrix(16, 16)
    assert started == []


@pytest.mark.parametrize("num_threads", [4, None])
@pytest.mark.parametrize(
    "call",
    [
        partial(BIAS.matrix, 2048, 1024),
        partial(BIAS.matrix_at, np.arange(2048), np.arange(1024), causal=True),
        partial(BIAS.weight_gradient, np.ones((12, 2048, 1024), np.float32)),
        partial(tb.Buckets(), np.arange(1 << 23)),
    ],
    ids=["matrix", "matrix_at", "weight_gradient", "buckets"],
)
def test_a_thread_that_cannot_start_leaves_its_part_to_the_caller(
    call: partial[Any], num_threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = call(num_threads=1)
    refused = []

    def refuse(thread: threading.Thread) -> None:
        refused.append(thread)
        raise RuntimeError("can't start new thread")  # as WebAssembly does for every thread

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.delenv("T5BUCKET_NUM_THREADS", raising=False)
    monkeypatch.setattr(_threads, "available_cpus", lambda: 3)
    assert np.array_equal(call(num_threads=num_threads), expected)
    assert refused


def test_small_outputs_use_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T5BUCKET_NUM_THREADS", "16")
    assert _threads.choose_num_threads(1 << 20) == 1
    assert _threads.choose_num_threads(48 << 20) == 3
    assert _threads.choose_num_threads(1 << 30) == 16


def test_the_default_is_what_affinity_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("T5BUCKET_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 6}, raising=False)
    monkeypatch.setattr(_machine, "CPU_QUOTA", "/nowhere")
    monkeypatch.setattr(_machine, "CPU_QUOTA_V1", "/nowhere")
    assert _threads.default_num_threads() == 3


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1), ("max 100000", 7), ("", 7)],
)
def test_the_default_is_what_the_control_group_allows(
    quota: str, cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(quota, encoding="utf-8")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(7)), raising=False)
    monkeypatch.setattr(_machine, "CPU_QUOTA", str(tmp_path / "cpu.max"))
    monkeypatch.setattr(_machine, "CPU_QUOTA_V1", "/nowhere")
    assert _machine.available_cpus() == cpus


@pytest.mark.parametrize(("quota", "cpus"), [("300000", 3), ("-1", 7)])
def test_the_first_version_of_control_groups_is_read_too(
    quota: str, cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quota").write_text(quota, encoding="utf-8")
    (tmp_path / "period").write_text("100000\n", encoding="utf-8")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(7)), raising=False)
    monkeypatch.setattr(_machine, "CPU_QUOTA", "/nowhere")
    monkeypatch.setattr(_machine, "CPU_QUOTA_V1", str(tmp_path / "quota"))
    monkeypatch.setattr(_machine, "CPU_PERIOD_V1", str(tmp_path / "period"))
    assert _machine.available_cpus() == cpus


def test_the_last_level_cache_belongs_to_one_processor(tmp_path: Path) -> None:
    for index, (level, size) in enumerate([(1, "32K"), (1, "48K"), (3, "16M"), (2, "512K")]):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        (folder / "level").write_text(f"{level}\n", encoding="utf-8")
        (folder / "size").write_text(f"{size}\n", encoding="utf-8")
    assert _machine.read_cache_nbytes(str(tmp_path)) == 16 << 20
    assert _machine.read_cache_nbytes(str(tmp_path / "missing")) == 8 << 20


@pytest.mark.parametrize("setting", ["", "0", "-1", "two", "1.5", "9" * 5000])
def test_a_bad_environment_setting_is_refused(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T5BUCKET_NUM_THREADS", setting)
    with pytest.raises(ValueError, match="T5BUCKET_NUM_THREADS must be an integer of at least 1"):
        BIAS.matrix(2048, 2048)
    with pytest.raises(ValueError, match="T5BUCKET_NUM_THREADS must be an integer of at least 1"):
        BIAS.matrix(500, 500)  # one thread takes it, in two parts
    assert BIAS.matrix(8, 8).shape == (12, 8, 8)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_worker_process_uses_one_thread_and_agrees(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("T5BUCKET_NUM_THREADS", raising=False)
    expected = BIAS.matrix(512, 700, num_threads=2)
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        assert pool.submit(_threads.default_num_threads).result() == 1
        matrices = [pool.submit(BIAS.matrix, 512, 700) for _ in range(4)]
        assert all(np.array_equal(matrix.result(), expected) for matrix in matrices)


FORKS = """
import os, threading, warnings
import numpy as np, t5bucket as tb
warnings.simplefilter("error")  # includes Python's own, of a fork while other threads run
weight = np.ones((32, 12), np.float32) * np.arange(12, dtype=np.float32)
bias = tb.RelativeAttentionBias(weight, tb.Buckets())
def compute():
    matrix = bias.matrix(700, 700, num_threads=3)
    buckets = tb.Buckets(48, 333).grid(300, 300, num_threads=3)
    return float(matrix.sum(dtype=np.float64)), int(buckets.sum())
def check_child(expected):
    child = os.fork()
    if child == 0:
        os._exit(0 if compute() == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
expected = compute()
for _ in range(5):
    check_child(expected)  # after threads
warnings.simplefilter("ignore", DeprecationWarning)  # now there are threads, the caller's own
stop = threading.Event()
def keep_busy():
    while not stop.is_set():
        compute()
callers = [threading.Thread(target=keep_busy) for _ in range(2)]
for caller in callers:
    caller.start()
try:
    for _ in range(10):
        check_child(expected)  # during calls of other threads
finally:
    stop.set()
for caller in callers:
    caller.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_children_of_a_fork_compute_after_threads_and_beside_them() -> None:
    command = [sys.executable, "-c", FORKS]
    # Threads of NumPy's OpenBLAS would be warned of.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=environment
    )
    assert result.returncode == 0, result.stderr


def test_many_python_threads_share_objects() -> None:
    buckets = tb.Buckets(48, 333)
    positions = np.arange(-500, 500)
    expected = buckets(positions)

    def work(seed: int) -> bool:
        own = tb.Buckets(48, 333)(positions, dtype=[np.uint8, np.int64, np.int16][seed % 3])
        shared = buckets.grid(64, 64, dtype=np.int32)
        matrix = BIAS.matrix(64, 65, num_threads=2)
        return bool(
            np.array_equal(own, expected)
            and np.array_equal(shared, buckets(np.arange(64) - np.arange(64)[:, None]))
            and np.array_equal(matrix, BIAS.view(64, 65))
        )

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(200)))


LONG_CALL = """
import signal, sys, threading, time, numpy as np, t5bucket as tb
from numpy.lib.stride_tricks import as_strided
bias = tb.RelativeAttentionBias(np.ones((32, 1), np.float32), tb.Buckets())
# Scores of 60,000 sequences, all the same 4 MB: several seconds.
out = as_strided(np.zeros((1024, 1024), np.float32), (60_000, 1, 1024, 1024), (0, 0, 4096, 4))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
print("ready", flush=True)
if sys.platform == "win32":  # no process sends another one a signal
    threading.Timer(0.5, signal.raise_signal, [signal.SIGINT]).start()
try:
    bias.add_to(out, num_threads=int(sys.argv[1]))
except KeyboardInterrupt:
    print(time.monotonic())
"""


@pytest.mark.parametrize("num_threads", [1, 2])
def test_ctrl_c_ends_a_long_call_within_a_second(num_threads: int) -> None:
    command = [sys.executable, "-c", LONG_CALL, str(num_threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        begin = time.monotonic()  # a clock that processes share
        if sys.platform != "win32":
            process.send_signal(signal.SIGINT)
        assert float(process.stdout.readline()) - begin < 1
