# checkpoint.py - what every format gives: named tensors, none of which is read before it is needed.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from t5bucket._checks import printable

POINTER = b"version https://git-lfs.github.com/"
POINTER_REASON = "it is a pointer of Git LFS: fetch the file itself with git lfs pull"


class Checkpoint:
    """An open weight file, or several; `num_buckets` and `architecture` are what it says itself."""

    num_buckets: int | None = None
    architecture: str | None = None

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def names(self) -> Collection[str]:
        """Names of all tensors."""
        raise NotImplementedError

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor, or None where that is not known without reading more."""
        raise NotImplementedError

    def file_of(self, name: str) -> Checkpoint:
        """Find the one file that holds a tensor."""
        return self

    def read(self, name: str) -> NDArray[Any]:
        """Read a tensor."""
        with refusing_damage(self.path):
            return self._read(name)

    def _read(self, name: str) -> NDArray[Any]:
        raise NotImplementedError


@contextmanager
def refusing_damage(path: Path) -> Iterator[None]:
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
        reason = POINTER_REASON if _is_pointer(path) else printable(str(error))
        raise ValueError(
            f"path must be a sound {path.suffix} file, got {path} ({reason})"
        ) from None


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(POINTER)) == POINTER
