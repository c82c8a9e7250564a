# npy.py - NumPy's formats: one array (.npy), or an archive of them (.npz).
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t5bucket._arrays import bfloat16
from t5bucket._json import unique
from t5bucket._weights.checkpoint import Checkpoint

HEADER_READERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
NUM_READS = 10  # of a header, by NumPy, with Python's own parser
MAX_HEADER_NBYTES = 1 << 16  # NumPy itself refuses more than 10,000
DEFLATE_MAX_RATIO = 1032  # of the format: 258 bytes from 2 bits


class Header(NamedTuple):
    """What a file says of its array."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]


class NpyFile(Checkpoint):
    """One array, whose name is that of the file."""

    @property
    def names(self) -> Collection[str]:
        """The file's name, without its suffix."""
        return {self.path.stem}

    def shape(self, name: str) -> tuple[int, ...]:
        """Read the header alone."""
        with self.path.open("rb") as file:
            return _read_header(file)[0].shape

    def _read(self, name: str) -> NDArray[Any]:
        with self.path.open("rb") as file:
            return _read_array(file, os.fstat(file.fileno()).st_size)


class NpzFile(Checkpoint):
    """Arrays by name."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._archive = zipfile.ZipFile(path)  # closes its file when it goes
        members = [name for name in self._archive.namelist() if name.endswith(".npy")]
        self._members = unique((name.removesuffix(".npy"), name) for name in members)

    @property
    def names(self) -> Collection[str]:
        """Names of the members."""
        return self._members.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Read a member's header alone."""
        with self._archive.open(self._members[name]) as member:
            return _read_header(member)[0].shape

    def _read(self, name: str) -> NDArray[Any]:
        # What the archive says of a member's size may be wrong.
        compressed = self._archive.getinfo(self._members[name]).compress_size
        # Of a path, os.stat turns a MemoryError into a TypeError.
        nbytes = min(compressed, os.stat(str(self.path)).st_size)  # noqa: PTH116
        with self._archive.open(self._members[name]) as member:
            return _read_array(member, nbytes * DEFLATE_MAX_RATIO)


def _read_array(file: IO[bytes], max_nbytes: int) -> NDArray[Any]:
    header, data = _read_header(file)
    if header.dtype.hasobject:
        raise ValueError("it holds Python objects")
    nbytes = math.prod(header.shape) * header.dtype.itemsize
    if not 0 <= nbytes <= max_nbytes:
        raise ValueError(f"its header says {nbytes} bytes")
    data = data[:nbytes]
    data += file.read(nbytes - len(data))
    array: NDArray[Any] = np.frombuffer(data, header.dtype)
    array = array.reshape(header.shape, order="F" if header.fortran_order else "C")
    return _restore_bfloat16(array)


def _read_header(file: IO[bytes]) -> tuple[Header, bytes]:
    """Read a header, and what of the array was read with it."""
    head = file.read(MAX_HEADER_NBYTES)  # not as much as the header says that it has
    stream = io.BytesIO(head)
    version = np.lib.format.read_magic(stream)
    if version not in HEADER_READERS:
        raise ValueError(f"its format has version {version[0]}.{version[1]}")
    try:
        header = _parse_header(version, stream)
    except MemoryError:  # the parser's own, of a nested header
        raise ValueError("its header is nested too deeply") from None
    return header, head[stream.tell() :]


def _parse_header(version: tuple[int, int], stream: io.BytesIO) -> Header:
    begin = stream.tell()
    for _ in range(NUM_READS):
        with suppress(SystemError):  # python/cpython#106905: another thread parsed meanwhile
            stream.seek(begin)
            return Header(*HEADER_READERS[version](stream))
    raise ValueError("its header cannot be read while other threads parse")


def _restore_bfloat16(array: NDArray[Any]) -> NDArray[Any]:
    """NumPy's formats write bfloat16 as two bytes without a meaning."""
    return array.view(bfloat16()) if array.dtype == np.dtype("V2") else array
