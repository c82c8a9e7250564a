# _json.py - JSON files that may be hostile: what they may take, and no key twice.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from t5bucket._checks import show

Value = TypeVar("Value")

MAX_NBYTES = 100_000_000  # of a file; the index of the largest models has a tenth
MAX_VALUES = 1 << 21  # which take at most 400 MB; a header of safetensors has eight for each tensor


def as_path(name: str, value: Any) -> Path:
    """Check a path."""
    try:
        path = Path(value) if isinstance(value, str | os.PathLike) else None
    except TypeError:  # of bytes
        path = None
    if path is None:
        raise TypeError(f"{name} must be a path, got {show(value)}")
    if "\0" in str(path):
        raise ValueError(f"{name} must be a path without NUL, got {show(value)}")
    return path


def check_regular(name: str, path: Path) -> None:
    """Refuse a pipe, which waits for ever, and a device, which has no end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{name} must be a regular file, got {path}")


def unique(pairs: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    """Make a dict; a key that stands twice would hide a value."""
    found: dict[str, Value] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"it has {show(key)} twice")
        found[key] = value
    return found


def parse_json(content: bytes) -> Any:
    """Parse JSON that has not too many values, and no key of an object twice."""
    num_values = sum(map(content.count, (b",", b"[", b"{")))  # at most, but for one
    if num_values > MAX_VALUES:
        raise ValueError(f"it has up to {num_values} values, more than {MAX_VALUES}")
    return json.loads(content.decode(), object_pairs_hook=unique)


def read_json(path: Path, name: str = "config") -> dict[str, Any]:
    """Read a JSON object; that of a folder is its ``config.json``."""
    if path.is_dir():
        path = path / "config.json"
    check_regular(name, path)
    if path.stat().st_size > MAX_NBYTES:
        raise ValueError(f"{name} must have at most {MAX_NBYTES} bytes, got {path}")
    try:
        content = parse_json(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} must be a JSON file, got {path} ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{name} must be a JSON object, got {path}")
    return content
