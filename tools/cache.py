# cache.py - a folder that keeps what takes long to fetch, such as other systems' Pythons.
# SPDX-License-Identifier: BSD-3-Clause
import os
import shutil
from collections.abc import Callable
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "t5bucket"


def make_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Make a folder the first time; one that is not complete never has its name."""
    if not folder.exists():
        unfinished = folder.with_name("unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        make(unfinished)
        unfinished.rename(folder)
    return folder
