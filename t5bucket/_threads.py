# _threads.py - divide a call's work: how many threads, which part each one takes.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator

from t5bucket._machine import available_cpus

# A part is small enough that Ctrl-C is answered between two of them, and large
# enough that the interpreter's share in it does not show.
PART_NBYTES = 8 << 20
# Below this share of the output a thread costs more than it brings.
THREAD_NBYTES = 4 << 20


def run(
    work: Callable[[int, int], object], count: int, nbytes: int, num_threads: int | None
) -> None:
    """Call ``work(begin, end)`` on parts that together make up ``range(count)``.

    The threads are made for this call and joined in it: a pool that outlives it
    would hang or warn after a fork, and preprocessing runs in forked workers.

    Parameters
    ----------
    work : callable
        Releases the GIL and cannot fail. Its parts are independent.
    count : int
        Rows or elements to divide.
    nbytes : int
        Bytes that the whole work writes.
    num_threads : int or None
        None chooses by `nbytes`.
    """
    if nbytes <= PART_NBYTES and (num_threads is None or num_threads == 1):
        work(0, count)
        return
    if num_threads is None:
        num_threads = choose_num_threads(nbytes)
    num_parts = max(num_threads, -(-nbytes // PART_NBYTES))
    parts = _Parts(count, max(1, -(-count // num_parts)))

    def take_parts() -> None:
        for begin, end in parts:
            work(begin, end)

    helpers = _start_helpers(take_parts, min(num_threads, len(parts)) - 1)
    try:
        take_parts()
    finally:
        parts.stop()
        for helper in helpers:
            helper.join()


class _Parts:
    """Hands out the parts of ``range(count)`` to whichever thread asks next."""

    def __init__(self, count: int, length: int) -> None:
        self._begins = range(0, count, length)
        self._length = length
        self._count = count
        self._next = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._begins)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        while True:
            with self._lock:
                index = self._next
                self._next += 1
            if index >= len(self._begins):
                return
            begin = self._begins[index]
            yield begin, min(begin + self._length, self._count)

    def stop(self) -> None:
        with self._lock:
            self._next = len(self._begins)


def _start_helpers(target: Callable[[], None], count: int) -> list[threading.Thread]:
    """Start as many threads as the system gives; the caller takes all parts that are left."""
    helpers = []
    for _ in range(count):
        helper = threading.Thread(target=target, name="t5bucket", daemon=True)
        try:
            helper.start()
        except RuntimeError:
            break
        helpers.append(helper)
    return helpers


def choose_num_threads(nbytes: int) -> int:
    """Threads for a call that writes `nbytes`, where the caller left the choice to us."""
    return max(1, min(default_num_threads(), nbytes // THREAD_NBYTES))


def default_num_threads() -> int:
    """Threads that a large call uses.

    ``T5BUCKET_NUM_THREADS`` if set, one in a worker process of
    `multiprocessing`, and otherwise the processors that this process may use.
    """
    setting = os.environ.get("T5BUCKET_NUM_THREADS")
    if setting is not None:
        if not (setting.isascii() and setting.isdigit() and int(setting) >= 1):
            raise ValueError(
                f"T5BUCKET_NUM_THREADS must be an integer of at least 1, got {setting!r}"
            )
        return int(setting)
    if _is_worker_process():
        return 1
    return available_cpus()


def _is_worker_process() -> bool:
    process = sys.modules.get("multiprocessing.process")  # every worker has it imported
    return process is not None and process.parent_process() is not None
