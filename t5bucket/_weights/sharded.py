# sharded.py - a checkpoint in several files, and the index that says which tensor is in which.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import errno
from collections.abc import Collection
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from t5bucket._config import read_json
from t5bucket._weights.checkpoint import Checkpoint, refusing_damage
from t5bucket._weights.folder import FORMATS, Folder

SHARD_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")  # an index is no shard: there are no loops


class ShardedCheckpoint(Checkpoint):
    """The index; a shard is opened when a tensor in it is needed."""

    def __init__(self, path: Path, folder: Folder) -> None:
        super().__init__(path)
        self._folder = folder
        files = read_json(path, "index").get("weight_map")
        if not isinstance(files, dict) or not files:
            raise ValueError("it has no weight_map")
        self._files: dict[str, Any] = files
        self._shards: dict[Path, Checkpoint] = {}

    @property
    def names(self) -> Collection[str]:
        """Keys of the index."""
        return self._files.keys()

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Ask a shard that is there."""
        path = self._folder.find_here(self._check(name))
        return None if path is None else self._open(path).shape(name)

    def read(self, name: str) -> NDArray[Any]:
        """Read a tensor out of its shard."""
        file = self._check(name)
        path = self._folder.find(file)
        if path is None:
            missing = str(self.path.with_name(file))
            raise FileNotFoundError(errno.ENOENT, f"the shard with {name} must be there", missing)
        shard = self._open(path)
        if name not in shard.names:
            raise ValueError(f"{path} must have {name}, as {self.path} says")
        return shard.read(name)

    def _check(self, name: str) -> str:
        """Check the name of a shard's file, which must lie next to the index."""
        file = self._files[name]
        if (
            not isinstance(file, str)
            or Path(file).name != file
            or Path(file).suffix not in SHARD_SUFFIXES
        ):
            raise ValueError(f"{name} must be in a file next to {self.path}, got {file!r:.300}")
        return file

    def _open(self, path: Path) -> Checkpoint:
        if path not in self._shards:
            with refusing_damage(path):
                self._shards[path] = FORMATS[path.suffix](path)
        return self._shards[path]
