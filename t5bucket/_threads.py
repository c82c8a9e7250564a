# _threads.py - divide a call's work: how many threads, which part each one takes.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator

from t5bucket._machine import available_cpus

# A part is small enough that Ctrl-C is answered between two of them, and large
# enough that the interpreter's share in it does not show.
PART_NBYTES = 8 << 20
# Longer rows are computed in pieces, for the same reason.
MAX_ROW_LENGTH = 1 << 22
# Less than this is not worth a thread, even where the caller asks for many.
MIN_PART_NBYTES = 64 << 10
MAX_THREADS = 256
MAX_PARTS = 1 << 16  # which are listed
# Below this share of the output a thread costs more than it brings: 12 MiB take
# 0.2 ms on one thread and 0.3 on two.
THREAD_NBYTES = 16 << 20


def run(
    work: Callable[[int, int], object], count: int, nbytes: int, num_threads: int | None
) -> None:
    """Call ``work(begin, end)`` on parts that together make up ``range(count)``.

    The threads are made for this call and joined in it: a pool that outlives it
    would hang or warn after a fork, and preprocessing runs in forked workers.

    Parameters
    ----------
    work : callable
        Releases the GIL. Its parts are independent.
    count : int
        Rows or elements to divide.
    nbytes : int
        Bytes that the whole work writes.
    num_threads : int or None
        At most so many; None chooses by `nbytes`.
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
            # The system has no more threads, or no memory for one: the caller does the parts.
            # But an error of a signal's handler must propagate.
            if type(error) not in (RuntimeError, MemoryError) or _has_started(starting):
                raise
        parts.take_all()
    finally:
        _finish(parts, helpers)
    parts.raise_error()


def _has_started(thread: threading.Thread | None) -> bool:
    return thread is not None and thread.ident is not None


class Parts:
    """Hands out the parts of ``range(total)`` to whichever thread asks next."""

    def __init__(self, work: Callable[[int, int], object], total: int, length: int) -> None:
        self._work = work
        self._total = total
        self._length = length
        # Safe in threads by itself. A lock could stay locked: after Ctrl-C, if it is not used by
        # `with`, or where memory is missing to leave the `with`.
        self._begins = deque(range(0, total, length))
        self._error: BaseException | None = None
        self.count = len(self._begins)

    def take_all(self) -> None:
        """Do parts until none is left."""
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
        """Do parts as a helper; the calling thread raises what this one could not."""
        try:
            self.take_all()
        except BaseException as error:
            self._error = error

    def raise_error(self) -> None:
        """Raise a helper's error, without a cycle of references that would keep its arrays."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error


def _finish(parts: Parts, helpers: list[threading.Thread]) -> None:
    """Wait for all helpers, whatever signal handlers raise meanwhile: a part takes milliseconds.

    A helper whose start was interrupted may not be alive yet; it will find no
    part and end.
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
        except BaseException as error:  # Ctrl-C, or a handler's own
            interrupt = interrupt or error
    parts.release()
    try:
        if interrupt is not None:
            raise interrupt
    finally:
        del interrupt  # whose traceback refers to it


def divide_row(length: int) -> Iterator[tuple[int, int]]:
    """Divide a row into pieces ``begin, end``."""
    for begin in range(0, length, MAX_ROW_LENGTH):
        yield begin, min(begin + MAX_ROW_LENGTH, length)


def choose_num_threads(nbytes: int) -> int:
    """Threads for a call that writes `nbytes`, where the caller left the choice to us."""
    worthwhile = nbytes // THREAD_NBYTES
    if worthwhile > 1:
        return min(default_num_threads(), worthwhile)
    _read_setting()  # which may be wrong; what the system offers takes longer to read
    return 1


def default_num_threads() -> int:
    """Threads that a large call uses.

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
        # Python itself refuses to read more than some thousands of digits.
        is_number = setting.isascii() and setting.isdigit() and len(setting) < 100
        if not (is_number and int(setting) >= 1):
            raise ValueError(
                f"T5BUCKET_NUM_THREADS must be an integer of at least 1, got {setting[:100]!r}"
            )
        return int(setting)
    return None


def _is_worker_process() -> bool:
    process = sys.modules.get("multiprocessing.process")  # every worker has it imported
    return process is not None and process.parent_process() is not None
