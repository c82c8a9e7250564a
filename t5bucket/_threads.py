# _threads.py - divide the work of a call among threads.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator

from t5bucket._machine import available_cpus

# A part is small enough that Ctrl-C takes effect soon, between two parts, and large
# enough that the interpreter's overhead does not matter.
PART_NBYTES = 8 << 20
# Longer rows are computed in pieces, so that Ctrl-C takes effect soon.
MAX_ROW_LENGTH = 1 << 22
# Less work than this is not worth a thread, even if the caller allows many.
MIN_PART_NBYTES = 64 << 10
MAX_THREADS = 256
MAX_PARTS = 1 << 16  # limits the list of parts
# For a smaller share of the output a thread costs more time than it saves: 12 MiB take
# 0.2 ms on one thread and 0.3 on two.
THREAD_NBYTES = 16 << 20


def run(
    work: Callable[[int, int], object], count: int, nbytes: int, num_threads: int | None
) -> None:
    """Call ``work(begin, end)`` on parts that together make up ``range(count)``.

    The threads are started and joined within this call. A permanent pool would hang
    or warn after a fork, and preprocessing often runs in forked workers.

    Parameters
    ----------
    work : callable
        Releases the GIL. Its parts are independent.
    count : int
        Rows or elements to divide.
    nbytes : int
        Bytes that the whole work writes.
    num_threads : int or None
        At most this many threads; None chooses by `nbytes`.
    """
    if nbytes <= PART_NBYTES and (num_threads is None or num_threads == 1):
        work(0, count)
        return
    if num_threads is None:
        num_threads = choose_num_threads(nbytes)
    num_threads = min(num_threads, MAX_THREADS, max(1, nbytes // MIN_PART_NBYTES))
    num_parts = min(max(num_threads, -(-nbytes // PART_NBYTES)), MAX_PARTS)
    parts = Parts(work, count, max(1, -(-count // num_parts)))
    helpers: list[threading.Thread] = []
    try:
        starting: threading.Thread | None = None
        try:
            for _ in range(min(num_threads, parts.count) - 1):
                starting = None
                starting = threading.Thread(target=parts.help, name="t5bucket", daemon=True)
                helpers.append(starting)
                starting.start()
        except (RuntimeError, MemoryError) as error:
            # If the system has no more threads or memory, the calling thread does the work.
            # An error that a signal handler raised must propagate.
            if type(error) not in (RuntimeError, MemoryError) or _has_started(starting):
                raise
        parts.take_all()
    finally:
        _finish(parts, helpers)
    parts.raise_error()


def _has_started(thread: threading.Thread | None) -> bool:
    return thread is not None and thread.ident is not None


class Parts:
    """Hands out the parts of ``range(total)`` to the next thread that is free."""

    def __init__(self, work: Callable[[int, int], object], total: int, length: int) -> None:
        self._work = work
        self._total = total
        self._length = length
        # A deque is thread-safe without a lock. A lock could stay locked: after Ctrl-C outside
        # of a `with`, or if there is no memory to leave the `with`.
        self._begins = deque(range(0, total, length))
        self._error: BaseException | None = None
        self.count = len(self._begins)

    def take_all(self) -> None:
        """Compute parts until none is left."""
        while True:
            try:
                begin = self._begins.popleft()
            except IndexError:
                return
            self._work(begin, min(begin + self._length, self._total))

    def stop(self) -> None:
        """Hand out no more parts."""
        self._begins.clear()

    def release(self) -> None:
        """Forget the work and its arrays: Python may keep a thread whose start was interrupted."""
        del self._work

    def help(self) -> None:
        """Compute parts in a helper thread; keep its error for the calling thread to raise."""
        try:
            self.take_all()
        except BaseException as error:
            self._error = error

    def raise_error(self) -> None:
        """Raise a helper's error, without a reference cycle that would keep arrays alive."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error


def _finish(parts: Parts, helpers: list[threading.Thread]) -> None:
    """Wait for all helpers, even if a signal handler raises: a part takes milliseconds.

    A helper whose start was interrupted may begin later. It finds no part and ends.
    """
    interrupt: BaseException | None = None
    waiting = True
    while waiting:
        try:
            parts.stop()
            for helper in helpers:
                if helper.is_alive():
                    helper.join()
            waiting = False
        except BaseException as error:  # Ctrl-C, or another error of a signal handler
            interrupt = interrupt or error
    parts.release()
    try:
        if interrupt is not None:
            raise interrupt
    finally:
        del interrupt  # its traceback refers to this frame: a cycle


def divide_row(length: int) -> Iterator[tuple[int, int]]:
    """Divide a row into pieces ``begin, end``."""
    for begin in range(0, length, MAX_ROW_LENGTH):
        yield begin, min(begin + MAX_ROW_LENGTH, length)


def choose_num_threads(nbytes: int) -> int:
    """Choose the number of threads for a call that writes `nbytes`."""
    worthwhile = nbytes // THREAD_NBYTES
    if worthwhile > 1:
        return min(default_num_threads(), worthwhile)
    _read_setting()  # raises if the setting is wrong; the system's limits take longer to read
    return 1


def default_num_threads() -> int:
    """Return how many threads a large call uses.

    ``T5BUCKET_NUM_THREADS`` if set, one in a worker process of
    `multiprocessing`, and otherwise the processors that this process may use.
    """
    setting = _read_setting()
    if setting is not None:
        return setting
    if _is_worker_process():
        return 1
    return available_cpus()


def _read_setting() -> int | None:
    setting = os.environ.get("T5BUCKET_NUM_THREADS")
    if setting is not None:
        # Python refuses to parse more than a few thousand digits.
        is_number = setting.isascii() and setting.isdigit() and len(setting) < 100
        if not (is_number and int(setting) >= 1):
            raise ValueError(
                f"T5BUCKET_NUM_THREADS must be an integer of at least 1, got {setting[:100]!r}"
            )
        return int(setting)
    return None


def _is_worker_process() -> bool:
    process = sys.modules.get("multiprocessing.process")  # every worker process has imported it
    return process is not None and process.parent_process() is not None
