# folder.py - the files of a model: by the names that Hugging Face gives them, or by their suffix.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from t5bucket._config import check_regular
from t5bucket._weights.checkpoint import Checkpoint
from t5bucket._weights.gguf import GgufFile
from t5bucket._weights.npy import NpyFile, NpzFile
from t5bucket._weights.pytorch import PyTorchFile
from t5bucket._weights.safetensors import SafetensorsFile

FORMATS: dict[str, Callable[[Path], Checkpoint]] = {
    ".safetensors": SafetensorsFile,
    ".npy": NpyFile,
    ".npz": NpzFile,
    ".bin": PyTorchFile,
    ".pt": PyTorchFile,
    ".pth": PyTorchFile,
    ".gguf": GgufFile,
}
INDEX = re.compile(r".+\.index(\.\w+)?\.json")  # diffusers puts a variant, fp16, between
# In the order in which transformers looks for them.
WEIGHT_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
CONFIG_NAME = "config.json"


class Folder:
    """A folder, out of which no link may lead, but for those of Hugging Face's cache."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def find(self, name: str) -> Path | None:
        """Find a file, or None if there is none."""
        return self.find_here(name)

    def find_here(self, name: str) -> Path | None:
        """Find a file without fetching it."""
        path = self.path / name
        if not path.exists():
            return None
        check_regular("path", path)
        real = path.resolve()
        if not any(real.is_relative_to(root) for root in _roots(self.path.resolve())):
            raise ValueError(f"{path} must not be a link out of its folder, got one to {real}")
        return path

    def find_weights(self) -> Path:
        """Find the one weight file, or the index."""
        for find in (self.find_here, self.find):  # what is here needs no connection
            for name in WEIGHT_NAMES:
                if path := find(name):
                    return path
        others = self._list_others()
        if len(others) == 1 and (path := self.find_here(others[0])):
            return path
        if others:
            raise ValueError(f"path must name one of {', '.join(others[:20])}, got {self}")
        parts = [part.name for part in self._list() if _holds_weights(part)][:20]
        hint = f"; its parts are {', '.join(parts)}" if parts else ""
        raise ValueError(
            f"path must be a folder with {', '.join(WEIGHT_NAMES)} or one other weight file, "
            f"got {self}{hint}"
        )

    def _list(self) -> list[Path]:
        return sorted(self.path.iterdir()) if self.path.is_dir() else []

    def _list_others(self) -> list[str]:
        """List weight files with other names; of a sharded checkpoint, its index alone."""
        paths = [path for path in self._list() if is_weights(path) and path.is_file()]
        indexes = [path.name for path in paths if is_index(path)]
        return indexes or [path.name for path in paths]


def _roots(folder: Path) -> list[Path]:
    """List where files of a folder may lie: in it, or if it is of a cache, among its blobs."""
    snapshots = [parent.parent for parent in (folder, *folder.parents)]
    return [folder, *(path.with_name("blobs") for path in snapshots if path.name == "snapshots")]


def _holds_weights(folder: Path) -> bool:
    return folder.is_dir() and any((folder / name).is_file() for name in WEIGHT_NAMES)


def is_weights(path: Path) -> bool:
    """Whether a name is that of weights."""
    return path.suffix in FORMATS or is_index(path)


def is_index(path: Path) -> bool:
    """Whether a name is that of the index of a sharded checkpoint."""
    return INDEX.fullmatch(path.name) is not None
