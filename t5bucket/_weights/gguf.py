# gguf.py - .gguf: llama.cpp's format, metadata and a list of tensors before their items.
# SPDX-License-Identifier: BSD-3-Clause
"""The list is read here: the package gguf makes an array of each token, which takes seconds.

That package dequantizes what is quantized.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t5bucket._arrays import extension_dtype
from t5bucket._checks import show
from t5bucket._json import unique
from t5bucket._weights.checkpoint import Checkpoint

# Of values of the metadata, by type.
SCALAR_NBYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
UINT32, STRING, ARRAY = 4, 8, 9
MAX_NAME_NBYTES = (1 << 16) - 1  # of the format
MAX_AXES = 4
MAX_TENSORS = 1 << 18
# Types whose items NumPy has; no table is of integers, but the error is that of every format.
NUMPY_TYPES = {0: "f4", 1: "f2", 28: "f8", 24: "i1", 25: "i2", 26: "i4", 27: "i8"}
BFLOAT16 = 30


class Entry(NamedTuple):
    """What the list says of a tensor, nothing of which is checked."""

    dims: tuple[int, ...]  # the last axis first
    type: int
    offset: int


class GgufFile(Checkpoint):
    """The metadata that matter here, and the list of tensors."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with path.open("rb") as file:
            reader = Reader(file)
            self._order = reader.order
            self._nbytes = reader.nbytes
            num_tensors, num_fields = reader.unpack("QQ")
            alignment = self._read_metadata(reader, num_fields)
            self._entries = _read_entries(reader, num_tensors)
            self._data_begin = -(-file.tell() // alignment) * alignment

    def _read_metadata(self, reader: Reader, num_fields: int) -> int:
        """Find what is known of the model; return the alignment of items."""
        alignment = 32
        names: set[str] = set()
        for _ in range(num_fields):
            name = reader.string()
            if name in names:
                raise ValueError(f"it has {show(name)} twice")
            names.add(name)
            (kind,) = reader.unpack("I")
            if kind == STRING and name == "general.architecture":
                self.architecture = reader.string()
            elif kind == UINT32 and name.endswith(".attention.relative_buckets_count"):
                (self.num_buckets,) = reader.unpack("I")
            elif kind == UINT32 and name == "general.alignment":
                (alignment,) = reader.unpack("I")
            else:
                reader.skip_value(kind)
        if alignment == 0 or alignment & (alignment - 1):
            raise ValueError(f"its alignment is {alignment}")
        return alignment

    @property
    def names(self) -> Collection[str]:
        """Names in the list."""
        return self._entries.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape that the list says."""
        return self._entries[name].dims[::-1]

    def _read(self, name: str) -> NDArray[Any]:
        entry = self._entries[name]
        shape = entry.dims[::-1]
        if entry.type == BFLOAT16:
            items = self._read_items(entry, np.dtype(f"{self._order}u2"), 1, 1)
            return items.astype(np.uint16).view(extension_dtype("bfloat16")).reshape(shape)
        if entry.type in NUMPY_TYPES:
            dtype = np.dtype(f"{self._order}{NUMPY_TYPES[entry.type]}")
            return self._read_items(entry, dtype, 1, 1).reshape(shape)
        return self._dequantize(name, entry).reshape(shape)

    def _dequantize(self, name: str, entry: Entry) -> NDArray[Any]:
        try:
            import gguf
        except ImportError:
            raise ImportError(
                f"{name} of {self.path} is quantized: pip install 't5bucket[gguf]'"
            ) from None
        if self._order != "<":
            raise ValueError(f"{name} is quantized, in big-endian order")
        kind = gguf.GGMLQuantizationType(entry.type)
        block_length, block_nbytes = gguf.GGML_QUANT_SIZES[kind]
        if not entry.dims or entry.dims[0] % block_length:
            raise ValueError(f"{name} has rows that are no blocks of {kind.name}")
        items = self._read_items(entry, np.dtype(np.uint8), block_length, block_nbytes)
        rows = items.reshape(-1, entry.dims[0] // block_length * block_nbytes)
        try:
            return np.asarray(gguf.dequantize(rows, kind))
        except NotImplementedError:
            raise ValueError(f"{name} has type {kind.name}, which gguf does not read") from None

    def _read_items(
        self, entry: Entry, dtype: np.dtype[Any], block_length: int, block_items: int
    ) -> NDArray[Any]:
        """Read the items of a tensor that lies in the file."""
        available = self._nbytes - self._data_begin
        nbytes = math.prod(entry.dims) // block_length * block_items * dtype.itemsize
        if entry.offset + nbytes > available:
            raise ValueError(f"a tensor of {nbytes} bytes lies at {entry.offset} of {available}")
        with self.path.open("rb") as file:
            file.seek(self._data_begin + entry.offset)
            return np.frombuffer(file.read(nbytes), dtype)


def _read_entries(reader: Reader, count: int) -> dict[str, Entry]:
    if count > MAX_TENSORS:
        raise ValueError(f"it says that it has {count} tensors")
    return unique(_read_entry(reader) for _ in range(count))


def _read_entry(reader: Reader) -> tuple[str, Entry]:
    name = reader.string()
    (num_axes,) = reader.unpack("I")
    if num_axes > MAX_AXES:
        raise ValueError(f"{name} has {num_axes} axes")
    *dims, kind, offset = reader.unpack(f"{num_axes}QIQ")
    return name, Entry(tuple(dims), kind, offset)


class Reader:
    """Numbers and strings of a file, which may end anywhere."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.nbytes = os.fstat(file.fileno()).st_size
        self.order = "<"
        if file.read(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        (version,) = self.unpack("I")
        if version & 0xFFFF == 0:
            self.order = ">"
            version = int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in (2, 3):
            raise ValueError(f"its format has version {version}")

    def unpack(self, form: str) -> tuple[Any, ...]:
        """Read numbers."""
        form = self.order + form
        try:
            return struct.unpack(form, self._file.read(struct.calcsize(form)))
        except struct.error:
            raise ValueError("it ends within its list of tensors") from None

    def string(self) -> str:
        """Read a name."""
        (nbytes,) = self.unpack("Q")
        if nbytes > MAX_NAME_NBYTES:
            raise ValueError(f"a name has {nbytes} bytes")
        return self._file.read(nbytes).decode()

    def skip(self, nbytes: int) -> None:
        """Go on behind so many bytes."""
        if nbytes <= MAX_NAME_NBYTES:  # to read them is faster than to ask where the file ends
            is_there = len(self._file.read(nbytes)) == nbytes
        else:
            is_there = nbytes <= self.nbytes - self._file.tell()
            self._file.seek(nbytes if is_there else 0, os.SEEK_CUR)
        if not is_there:
            raise ValueError(f"{nbytes} bytes are said to be in it")

    def skip_value(self, kind: int) -> None:
        """Go on behind a value; arrays of arrays, which nobody writes, are refused."""
        if kind != ARRAY:
            self._skip_values(kind, 1)
            return
        kind, count = self.unpack("IQ")
        self._skip_values(kind, count)

    def _skip_values(self, kind: int, count: int) -> None:
        if kind in SCALAR_NBYTES:
            self.skip(count * SCALAR_NBYTES[kind])
        elif kind == STRING:
            for _ in range(count):  # which ends with the file
                self.skip(*self.unpack("Q"))
        else:
            raise ValueError(f"its metadata have a value of type {kind}")
