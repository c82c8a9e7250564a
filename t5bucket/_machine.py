# _machine.py - what this machine offers: processors, the last-level cache, memory.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os

CPU_QUOTA = "/sys/fs/cgroup/cpu.max"
CPU_QUOTA_V1 = "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"
CPU_PERIOD_V1 = "/sys/fs/cgroup/cpu/cpu.cfs_period_us"
CPU_NAMES = "/proc/cpuinfo"
MEMORY = "/proc/meminfo"
MEMORY_LIMIT = "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"
MEMORY_LIMIT_V1 = (
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    "/sys/fs/cgroup/memory/memory.usage_in_bytes",
)
CPU_CACHES = "/sys/devices/system/cpu/cpu0/cache"
# Where the system does not tell (macOS, Windows): most last-level caches are not smaller.
DEFAULT_CACHE_NBYTES = 8 << 20


def available_cpus() -> int:
    """Processors that this process may use, by its affinity and its control group's quota."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS or Windows
        cpus = os.cpu_count() or 1
    quota, period = _read_quota()
    return min(cpus, max(1, quota // period)) if quota > 0 and period > 0 else cpus


def _read_quota() -> tuple[int, int]:
    """Read processor time per period, and the period (microseconds); not positive: no limit."""
    try:
        quota, period = read(CPU_QUOTA).split()
        return (0 if quota == "max" else int(quota)), int(period)
    except (OSError, ValueError):
        pass
    try:
        return int(read(CPU_QUOTA_V1)), int(read(CPU_PERIOD_V1))
    except (OSError, ValueError):
        return 0, 0


def read_cache_nbytes(folder: str = CPU_CACHES) -> int:
    """Bytes of the last-level cache that processor 0 shares.

    C's `sysconf` is no alternative: on processors with several such caches it returns
    their sum, and one core can use only a part of it.
    """
    try:
        by_level = {
            int(read(f"{folder}/{name}/level")): read(f"{folder}/{name}/size")
            for name in os.listdir(folder)
            if name.startswith("index")
        }
        size = by_level[max(by_level)]
        return int(size[:-1]) << {"K": 10, "M": 20, "G": 30}[size[-1]]
    except (OSError, ValueError, KeyError):
        return DEFAULT_CACHE_NBYTES


def available_memory_nbytes() -> int | None:
    """Bytes that this process can still take without swapping; None if unknown."""
    found = [_read_free_memory(), *map(_read_limit, (MEMORY_LIMIT, MEMORY_LIMIT_V1))]
    return min((nbytes for nbytes in found if nbytes is not None), default=None)


def _read_free_memory() -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in read(MEMORY).splitlines())
        return int(lines["MemAvailable"].split()[0]) << 10
    except (OSError, ValueError, KeyError):
        pass
    try:  # other systems than Linux: all of the memory
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _read_limit(paths: tuple[str, str]) -> int | None:
    """Read how many bytes a control group still allows; None means no limit."""
    try:
        limit, used = (int(read(path)) for path in paths)
    except (OSError, ValueError):  # "max"
        return None
    return max(0, limit - used)


def read_processor_name() -> str:
    """Name of processor 0; empty if unknown."""
    try:
        lines = (line.partition(":") for line in read(CPU_NAMES).splitlines())
        return next(value.strip() for name, _, value in lines if name.strip() == "model name")
    except (OSError, StopIteration, UnicodeDecodeError):
        return ""


def read(path: str) -> str:
    """Read a line that the system writes."""
    with open(path, encoding="ascii") as file:
        return file.read().strip()


CACHE_NBYTES = read_cache_nbytes()
