# sharded.py - a checkpoint in several files, and the index that says which tensor is in which.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import errno
from collections.abc import Collection
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from t5bucket._checks import show
from t5bucket._weights.checkpoint import Checkpoint, refusing_damage
from t5bucket._weights.folder import FORMATS, Folder, is_shard


class ShardedCheckpoint(Checkpoint):
    """The index; a shard is opened when a tensor in it is needed."""

    def __init__(self, path: Path, folder: Folder) -> None:
        super().__init__(path)
        self._folder = folder
        self._files = folder.read_weight_map(path)
        self._shards: dict[Path, Checkpoint] = {}

    @property
    def names(self) -> Collection[str]:
        """Keys of the index."""
        return self._files.keys()

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Ask a shard that is there."""
        path = self._folder.find_here(self._check(name))
        return None if path is None else self._open(path).shape(name)

    def file_of(self, name: str) -> Checkpoint:
        """Open the shard of a tensor."""
        file = self._check(name)
        path = self._folder.find(file)
        if path is None:
            missing = str(self.path.with_name(file))
            reason = f"the shard with {show(name)} must be there"
            raise FileNotFoundError(errno.ENOENT, reason, missing)
        shard = self._open(path)
        if name not in shard.names:
            raise ValueError(f"{path} must have {show(name)}, as {self.path} says")
        return shard

    def read(self, name: str) -> NDArray[Any]:
        """Read a tensor out of its shard."""
        return self.file_of(name).read(name)

    def _check(self, name: str) -> str:
        """Check the name of a shard's file, which must lie next to the index."""
        file: Any = self._files[name]
        if not is_shard(file):
            raise ValueError(
                f"{show(name)} must be in a file next to {self.path}, got {show(file)}"
            )
        return str(file)

    def _open(self, path: Path) -> Checkpoint:
        if path not in self._shards:
            with refusing_damage(path):
                self._shards[path] = FORMATS[path.suffix](path)
        return self._shards[path]
