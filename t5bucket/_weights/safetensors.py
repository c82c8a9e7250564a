# safetensors.py - .safetensors: a header in JSON, then the items of all tensors.
# SPDX-License-Identifier: BSD-3-Clause
"""Read here: loading needs no other package, and copies one small table out of any checkpoint."""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t5bucket._arrays import extension_dtype
from t5bucket._checks import show
from t5bucket._json import parse_json
from t5bucket._weights.checkpoint import Checkpoint

DTYPES = {  # of NumPy; no table is of integers, but the error is that of every format
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
EXTENSION_DTYPES = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
MAX_HEADER_NBYTES = 100_000_000  # of the format
KEYS = {"dtype", "shape", "data_offsets"}  # of a tensor
MAX_AXES = 64  # of NumPy's arrays


class SafetensorsFile(Checkpoint):
    """The header of a file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with path.open("rb") as file:
            nbytes = os.fstat(file.fileno()).st_size
            header_nbytes = int.from_bytes(file.read(8), "little")
            if nbytes < 8 or header_nbytes > min(nbytes - 8, MAX_HEADER_NBYTES):
                raise ValueError(f"the header says that it has {header_nbytes} bytes")
            self._entries = parse_json(file.read(header_nbytes))
        if not isinstance(self._entries, dict):
            raise ValueError("its header is no JSON object")
        self._entries.pop("__metadata__", None)
        self._data_begin = 8 + header_nbytes
        self._data_nbytes = nbytes - self._data_begin

    @property
    def names(self) -> Collection[str]:
        """Keys of the header."""
        names: Collection[str] = self._entries.keys()
        return names

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape that the header says, checked as for reading."""
        return self._find(name)[1]

    def _read(self, name: str) -> NDArray[Any]:
        dtype, shape, begin, nbytes = self._find(name)
        with self.path.open("rb") as file:
            file.seek(self._data_begin + begin)
            return np.frombuffer(file.read(nbytes), dtype).reshape(shape)

    def _find(self, name: str) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
        """Find a tensor's dtype, shape, begin and bytes, none of which may leave the file."""
        entry, available = self._entries[name], self._data_nbytes
        if not isinstance(entry, dict) or not entry.keys() >= KEYS:
            raise ValueError(f"{show(name)} must have {', '.join(sorted(KEYS))}, got {show(entry)}")
        dtype = _find_dtype(name, entry["dtype"])
        shape, (begin, end) = entry["shape"], entry["data_offsets"]
        if len(shape) > MAX_AXES:  # so many numbers multiply for ever
            raise ValueError(f"{name} has {len(shape)} axes")
        if not all(type(n) is int and 0 <= n <= available for n in [*shape, begin, end]):
            raise ValueError(f"{name} lies at {begin} to {end} of {available} with shape {shape}")
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} has shape {shape}, but {end - begin} of {available} bytes")
        return dtype, tuple(shape), begin, end - begin


def _find_dtype(name: str, word: str) -> np.dtype[Any]:
    if word in DTYPES:
        return np.dtype(DTYPES[word])
    if word in EXTENSION_DTYPES:
        return extension_dtype(EXTENSION_DTYPES[word])
    raise ValueError(f"{show(name)} has dtype {show(word)}")
