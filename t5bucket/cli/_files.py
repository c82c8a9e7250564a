# _files.py - write a file whole or not at all; a .npy file through a memory map.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import errno
import math
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from t5bucket._arrays import allocate


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a new file to write to; it gets its name when the block ends without an error.

    Raises
    ------
    OSError
        If there can be no such file.
    """
    path = path.resolve()  # a link stays a link
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "out must be a file", str(path))
    partial_path = path.with_name(f".t5bucket.{os.getpid()}.partial")
    try:  # includes its creation: a signal may come right after it
        try:
            partial_path.unlink(missing_ok=True)  # of a process that was killed, with our number
            partial_path.touch(exist_ok=False)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        if path.exists():
            partial_path.chmod(path.stat().st_mode)
        yield partial_path
        partial_path.replace(path)
    finally:
        with suppress(OSError):  # if it could not be created, this fails, too
            partial_path.unlink(missing_ok=True)


@contextmanager
def new_npy(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """Map a new file to be filled, as `whole_file`; the array ends with the block.

    Raises
    ------
    OSError
        If the file cannot be made, or the disk has no room for all of it.
    """
    with whole_file(path) as partial_path, partial_path.open("rb+") as file:
        np.lib.format.write_array_header_1_0(file, _header(shape, dtype))
        begin = file.tell()
        _reserve(file, path, begin, math.prod(shape) * dtype.itemsize)
        if 0 in shape:  # an empty file cannot be mapped, and needs no items
            yield allocate(shape, dtype)
        else:
            with mmap.mmap(file.fileno(), 0) as memory:  # closed: Windows renames no open file
                yield np.ndarray(shape, dtype, memory, begin)
                memory.flush()


def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> dict[str, Any]:
    # bfloat16 is not one of NumPy's own types: the format stores it as two opaque bytes.
    descr = "<V2" if dtype.name == "bfloat16" else np.lib.format.dtype_to_descr(dtype)
    return {"descr": descr, "fortran_order": False, "shape": shape}


def _reserve(file: IO[bytes], path: Path, begin: int, nbytes: int) -> None:
    """Take the room on disk now: a map into a full disk would kill the process later."""
    file.flush()
    if nbytes == 0:
        return
    if nbytes > 2**63 - 1 - begin:
        raise OSError(f"out must fit on a disk, got {nbytes:.3g} bytes")
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), begin, nbytes)
        else:  # macOS and Windows
            zeros = bytes(1 << 20)
            for written in range(0, nbytes, len(zeros)):
                file.write(zeros[: nbytes - written])
            file.flush()
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} for {nbytes} bytes", str(path)) from None
