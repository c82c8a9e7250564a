# target.py - shared by the Python fuzz targets: run atheris, or replay a corpus without it.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

IS_REPLAY = "--replay" in sys.argv


def instrumented() -> contextlib.AbstractContextManager[Any]:
    """Import the package inside this context, so that its branches count as coverage."""
    if IS_REPLAY:
        return contextlib.nullcontext()
    atheris: Any = importlib.import_module("atheris")  # has no types
    imports: contextlib.AbstractContextManager[Any] = atheris.instrument_imports(["t5bucket"])
    return imports


def main(run: Callable[[bytes], object], seeds: Iterable[bytes], description: str) -> None:
    """Fuzz with libFuzzer's arguments, or replay the folder after ``--replay``."""
    if "--help" in sys.argv:
        print(description)
        return
    folders = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    if IS_REPLAY:
        for path in sorted(path for folder in folders for path in folder.iterdir()):
            run(path.read_bytes())
        return
    atheris: Any = importlib.import_module("atheris")  # has no types
    for folder in folders[:1]:
        if folder.is_dir():
            for number, seed in enumerate(seeds):
                folder.joinpath(f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, run)
    atheris.Fuzz()
