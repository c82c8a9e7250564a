# test_threads.py - threads: made for a call, joined in it, and chosen with care.
# SPDX-License-Identifier: BSD-3-Clause
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

import t5bucket as tb
from t5bucket import _threads

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


def test_no_thread_is_left_after_a_call() -> None:
    before = threading.active_count()
    BIAS.matrix(1024, 1024, num_threads=8)
    assert threading.active_count() == before


def test_the_asked_number_of_threads_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    start = threading.Thread.start

    def record(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", record)
    BIAS.matrix(1024, 1024, num_threads=5)
    assert len(started) == 4
    started.clear()
    BIAS.matrix(16, 16)
    assert started == []


def test_a_thread_that_cannot_start_leaves_its_part_to_the_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = BIAS.matrix(1024, 1024, num_threads=1)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert np.array_equal(BIAS.matrix(1024, 1024, num_threads=4), expected)


def test_small_outputs_use_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T5BUCKET_NUM_THREADS", "16")
    assert _threads.choose_num_threads(1 << 20) == 1
    assert _threads.choose_num_threads(12 << 20) == 3
    assert _threads.choose_num_threads(1 << 30) == 16


def test_the_default_is_what_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("T5BUCKET_NUM_THREADS", raising=False)
    assert _threads.default_num_threads() == _threads.available_cpus() >= 1


@pytest.mark.parametrize("setting", ["", "0", "-1", "two", "1.5"])
def test_a_bad_environment_setting_is_refused(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T5BUCKET_NUM_THREADS", setting)
    with pytest.raises(ValueError, match="T5BUCKET_NUM_THREADS must be an integer of at least 1"):
        BIAS.matrix(2048, 2048)
    assert BIAS.matrix(8, 8).shape == (12, 8, 8)


@pytest.mark.parametrize("method", ["fork", "spawn"])
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


@pytest.mark.skipif(os.name != "posix", reason="signals to a process are POSIX")
def test_ctrl_c_ends_a_long_call_within_a_second() -> None:
    script = """
import sys, numpy as np, t5bucket as tb
bias = tb.RelativeAttentionBias(np.ones((32, 12), np.float32), tb.Buckets())
out = np.empty((12, 1024, 1024), np.float32)
try:
    print("ready", flush=True)
    while True:
        bias.matrix(1024, 1024, out=out)
except KeyboardInterrupt:
    sys.exit(7)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as stdout:
        stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=5) == 7
