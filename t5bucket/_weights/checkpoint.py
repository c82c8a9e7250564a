# checkpoint.py - what every format gives: named tensors, none of which is read before it is needed.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

MAX_REASON_LENGTH = 300  # of what is wrong with a file, in characters


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
        text = str(error)[:MAX_REASON_LENGTH]
        reason = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
        raise ValueError(
            f"path must be a sound {path.suffix} file, got {path} ({reason})"
        ) from None
