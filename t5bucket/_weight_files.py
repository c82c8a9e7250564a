# _weight_files.py - read one weight out of a file, which may be hostile.
# SPDX-License-Identifier: BSD-3-Clause
"""Nothing is unpickled, and nothing is allocated by a header's word alone.

The formats are read here, with NumPy, so that loading needs no other package
and copies only the one small array out of a checkpoint of any size.
"""

from __future__ import annotations

import io
import json
import math
import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t5bucket._arrays import bfloat16
from t5bucket._checks import flag
from t5bucket._checks import num_rows as check_num_rows
from t5bucket._checks import weight as check_weight
from t5bucket._config import AXIS_FAMILIES, FAMILIES, find_settings, read_json

Loaders = dict[str, Callable[[], NDArray[Any]]]


class Kind(NamedTuple):
    """What the name of a model's tensor says about it."""

    name: str
    heads_first: bool
    max_distance: int


KINDS = (
    Kind("relative_attention_bias.weight", False, 128),  # T5 and its relatives, MPNet
    Kind("rel_attn_embed.weight", False, 800),  # WavLM
    Kind("rel_pos_bias.weight", True, 128),  # LayoutLMv2, LayoutLMv3
)
AXIS_KINDS = (  # whose settings are not those of the sequence
    Kind("rel_pos_x_bias.weight", True, 256),
    Kind("rel_pos_y_bias.weight", True, 256),
    Kind("relative_bias.biases.1.relative_attention_bias.weight", False, 100),  # UDOP
    Kind("relative_bias.biases.2.relative_attention_bias.weight", False, 100),
)
UNKNOWN_KIND = Kind("", False, 128)

SAFETENSORS_DTYPES: dict[str, Callable[[], np.dtype[Any]]] = {
    "F16": lambda: np.dtype("<f2"),
    "BF16": bfloat16,
    "F32": lambda: np.dtype("<f4"),
    "F64": lambda: np.dtype("<f8"),
}
NPY_HEADER_READERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# A scheme of thousands of buckets up to 2^62 takes seconds to make, which a file may not ask for.
MAX_CONFIGURED_BUCKETS = 4096
MAX_AXES = 64  # of NumPy's arrays
MAX_REASON_LENGTH = 300  # of what is wrong with a file, in characters
NUM_READS = 10  # of a header, by NumPy, with Python's own parser
MAX_HEADER_NBYTES = 1 << 16  # of a .npy file; NumPy itself refuses more than 10,000
DEFLATE_MAX_RATIO = 1032  # of the format: 258 bytes from 2 bits


class LoadedWeight(NamedTuple):
    """A weight, where it is from, and what its name says about it."""

    weight: NDArray[Any]
    heads_first: bool
    path: Path
    name: str
    kind: Kind

    def find_settings(self, unidirectional: bool = False) -> tuple[int, Any, bool]:
        """Find ``(num_buckets, max_distance, bidirectional)``, by the model's configuration too."""
        parts = self.name.split(".")
        # UDOP's decoder has a copy of its encoder's.
        in_decoder = "decoder" in parts and "relative_bias" not in parts
        bidirectional = not unidirectional and not in_decoder
        num_buckets = check_num_rows(self.weight, self.heads_first, bidirectional)
        config_path = self.path.with_name("config.json")
        families = AXIS_FAMILIES if self.kind in AXIS_KINDS else FAMILIES
        settings = (
            find_settings(read_json(config_path), families) if config_path.is_file() else None
        )
        if settings is None:
            return num_buckets, self.kind.max_distance, bidirectional
        if num_buckets > MAX_CONFIGURED_BUCKETS:
            raise ValueError(
                f"weight must have at most {MAX_CONFIGURED_BUCKETS} buckets for the scheme to be "
                f"read from {config_path}, got {num_buckets}; name the scheme by buckets="
            )
        if settings[0] != num_buckets:
            raise ValueError(
                f"weight must have as many buckets as {config_path} says, {settings[0]}, "
                f"got {num_buckets}"
            )
        return num_buckets, settings[1], bidirectional and settings[2]


def load_weight(
    path: str | os.PathLike[str], tensor: str | None, heads_first: bool | None
) -> LoadedWeight:
    """Load a weight.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it is no weight file, or the tensor is missing or cannot be chosen.
    TypeError
        If the tensor has no floating-point dtype.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a path, got {path!r}")
    path = Path(path)
    if tensor is not None and not isinstance(tensor, str):
        raise TypeError(f"tensor must be a name, got {tensor!r}")
    if heads_first is not None:
        heads_first = flag("heads_first", heads_first)
    if path.suffix not in FORMATS:
        raise ValueError(f"path must end in one of {', '.join(FORMATS)}, got {path}")
    mode = path.stat().st_mode
    # A pipe waits for ever, and a device has no end; to open a folder is an error by itself.
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ValueError(f"path must be a regular file, got {path}")
    with _refusing_damage(path):
        loaders = FORMATS[path.suffix](path)
    name = _choose(loaders, tensor, path)
    with _refusing_damage(path):
        array = loaders[name]()
    weight = check_weight(array)
    kind = _kind(name)
    if heads_first is None:
        heads_first = kind.heads_first
    return LoadedWeight(weight, heads_first, path, name, kind)


@contextmanager
def _refusing_damage(path: Path) -> Iterator[None]:
    """Turn whatever the parsers make of a damaged file into a ValueError."""
    try:
        yield
    except ImportError:
        raise
    except MemoryError:
        raise MemoryError(f"the tensor must fit in memory, got {path}") from None
    except Exception as error:
        if isinstance(error, OSError) and error.filename:  # else a seek to a place that is not
            raise
        reason = str(error)[:MAX_REASON_LENGTH]
        raise ValueError(
            f"path must be a sound {path.suffix} file, got {path} ({reason})"
        ) from None


def _choose(loaders: Loaders, tensor: str | None, path: Path) -> str:
    if tensor is not None:
        if tensor in loaders:
            return tensor
        raise ValueError(f"tensor must be one of {_listing(loaders)} in {path}, got {tensor!r}")
    candidates = [name for name in loaders if _kind(name) in KINDS]
    if not candidates and len(loaders) == 1:
        candidates = list(loaders)
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise ValueError(f"tensor must name one of {_listing(candidates)} in {path}, got None")
    expected = ", ".join(kind.name for kind in KINDS)
    raise ValueError(
        f"path must hold a tensor named ...{expected}, got {path} with {_listing(loaders)}; "
        "name another one by tensor="
    )


def _listing(names: Any) -> str:
    shown = sorted(names)
    rest = f" and {len(shown) - 20} more" if len(shown) > 20 else ""
    return ", ".join(map(repr, shown[:20])) + rest if shown else "no tensor"


def _kind(name: str) -> Kind:
    for kind in AXIS_KINDS + KINDS:
        if f".{name}".endswith(f".{kind.name}"):
            return kind
    return UNKNOWN_KIND


# ---- formats: a file's path -> its tensors, each loaded when asked for ----


def _open_npy(path: Path) -> Loaders:
    def read() -> NDArray[Any]:
        with path.open("rb") as file:
            return _parse_npy(file, os.fstat(file.fileno()).st_size)

    return {path.stem: read}


def _open_npz(path: Path) -> Loaders:
    def read(name: str) -> NDArray[Any]:
        with (
            path.open("rb") as file,
            zipfile.ZipFile(file) as archive,
            archive.open(name) as member,
        ):
            # What the archive says of a member's size may be wrong.
            nbytes = min(archive.getinfo(name).compress_size, os.fstat(file.fileno()).st_size)
            return _parse_npy(member, nbytes * DEFLATE_MAX_RATIO)

    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(".npy")]
    return {name.removesuffix(".npy"): partial(read, name) for name in members}


def _parse_npy(file: IO[bytes], max_nbytes: int) -> NDArray[Any]:
    head = file.read(MAX_HEADER_NBYTES)  # not as much as the header says that it has
    header = io.BytesIO(head)
    version = np.lib.format.read_magic(header)
    if version not in NPY_HEADER_READERS:
        raise ValueError(f"its format has version {version[0]}.{version[1]}")
    try:
        shape, fortran_order, dtype = _read_npy_header(version, header)
    except MemoryError:  # the parser's own, of a nested header
        raise ValueError("its header is nested too deeply") from None
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    nbytes = math.prod(shape) * dtype.itemsize
    if not 0 <= nbytes <= max_nbytes:
        raise ValueError(f"its header says {nbytes} bytes")
    data = head[header.tell() :][:nbytes]
    data += file.read(nbytes - len(data))
    array: NDArray[Any] = np.frombuffer(data, dtype)
    array = array.reshape(shape, order="F" if fortran_order else "C")
    return _restore_bfloat16(array)


def _read_npy_header(version: tuple[int, int], header: io.BytesIO) -> tuple[Any, bool, Any]:
    begin = header.tell()
    for _ in range(NUM_READS):
        with suppress(SystemError):  # python/cpython#106905: another thread parsed meanwhile
            header.seek(begin)
            fields: tuple[Any, bool, Any] = NPY_HEADER_READERS[version](header)
            return fields
    raise ValueError("its header cannot be read while other threads parse")


def _restore_bfloat16(array: NDArray[Any]) -> NDArray[Any]:
    """NumPy's formats write bfloat16 as two bytes without a meaning."""
    return array.view(bfloat16()) if array.dtype == np.dtype("V2") else array


def _open_safetensors(path: Path) -> Loaders:
    with path.open("rb") as file:
        nbytes = os.fstat(file.fileno()).st_size
        header_nbytes = int.from_bytes(file.read(8), "little")
        if nbytes < 8 or header_nbytes > nbytes - 8:
            raise ValueError(f"the header says that it has {header_nbytes} bytes")
        header = json.loads(file.read(header_nbytes))
    data_begin = 8 + header_nbytes
    return {
        name: partial(_read_safetensors, path, data_begin, nbytes - data_begin, name, entry)
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _read_safetensors(
    path: Path, data_begin: int, data_nbytes: int, name: str, entry: Any
) -> NDArray[Any]:
    if entry["dtype"] not in SAFETENSORS_DTYPES:
        raise ValueError(f"{name} has dtype {entry['dtype']}, not one of F16, BF16, F32, F64")
    dtype = SAFETENSORS_DTYPES[entry["dtype"]]()
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    if len(shape) > MAX_AXES:  # so many numbers multiply for ever
        raise ValueError(f"{name} has {len(shape)} axes")
    if not all(type(n) is int and 0 <= n <= data_nbytes for n in [*shape, begin, end]):
        raise ValueError(f"{name} lies at {begin} to {end} of {data_nbytes} with shape {shape}")
    if end > data_nbytes or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has shape {shape}, but {end - begin} of {data_nbytes} bytes")
    with path.open("rb") as file:
        file.seek(data_begin + begin)
        return np.frombuffer(file.read(end - begin), dtype).reshape(shape)


FORMATS = {".safetensors": _open_safetensors, ".npy": _open_npy, ".npz": _open_npz}
