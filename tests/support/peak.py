# peak.py - measure the peak memory of the process while a function runs.
# SPDX-License-Identifier: BSD-3-Clause
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")  # of Linux
RESET = Path("/proc/self/clear_refs")


def _read(name: str) -> int:
    line = next(
        line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(name)
    )
    return int(line.split()[1]) << 10


def growth(function: Callable[[], Any]) -> int:
    """Return by how many bytes the resident memory grows while a function runs.

    Call the function once before, so that memory that the allocator keeps does not count.
    """
    gc.collect()
    RESET.write_text("5", encoding="utf-8")
    before = _read("VmRSS")
    function()
    return _read("VmHWM") - before
