# folder.py - the files of a model: by the names that Hugging Face gives them, or by their suffix.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from t5bucket._json import check_regular, read_json
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
SHARD_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")  # an index is no shard: there are no loops
MAX_NAME_LENGTH = 255  # of file systems
INDEX = re.compile(r".+\.index(\.\w+)?\.json")  # diffusers puts a variant, fp16, between
# In the order in which transformers looks for them.
WEIGHT_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# The same weights in another precision.
VARIANT = re.compile(
    r"(pytorch_)?model\.(?!index\.)[\w-]+\.(safetensors|bin)"
    r"|(model\.safetensors|pytorch_model\.bin)\.index\.\w+\.json"
)
CONFIG_NAME = "config.json"


class Folder:
    """A folder, out of which no link may lead, but for those of Hugging Face's cache."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._weight_maps: dict[Path, dict[str, Any]] = {}

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
        """Find the one weight file, or the index.

        What is complete comes first, then an index of which some shard is there, and last one of
        which none is: the error names it.
        """
        usual = [path for name in WEIGHT_NAMES if (path := self.find_here(name))]
        shares = [self._share_of_shards(path) for path in usual]
        if usual and max(shares) > 0:
            return usual[shares.index(1 if 1 in shares else max(shares))]
        others = self._list_others()
        variants = self._prefer_complete(path for path in others if VARIANT.fullmatch(path.name))
        for found in (variants, usual[:1], self._guesses(others)):
            if len(found) == 1 and (path := self.find_here(found[0].name)):
                return path
            if found:
                names = ", ".join(self._address(path) for path in found[:20])
                raise ValueError(f"path must name one of {names}, got {self}")
        return self._find_elsewhere()

    def _find_elsewhere(self) -> Path:
        parts = [part.name for part in self._list() if _holds_weights(part)][:20]
        hint = f"; its parts are {', '.join(parts)}" if parts else ""
        raise ValueError(
            f"path must be a folder with {', '.join(WEIGHT_NAMES)} or one other weight file, "
            f"got {self}{hint}"
        )

    def read_weight_map(self, index: Path) -> dict[str, Any]:
        """Read the files of tensors by their names, in the index of a sharded checkpoint."""
        if index not in self._weight_maps:
            weight_map = read_json(index, "index").get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise ValueError("it has no weight_map")
            self._weight_maps[index] = weight_map
        return self._weight_maps[index]

    def _share_of_shards(self, path: Path) -> float:
        """Find the share of a checkpoint's files that are here: 1 of a file that is no index."""
        if not is_index(path):
            return 1
        shards = self._list_shards(path)
        return sum((self.path / shard).is_file() for shard in shards) / max(1, len(shards))

    def _list_shards(self, index: Path) -> set[str]:
        """List the files that an index names; none if it is damaged."""
        try:
            files = self.read_weight_map(index).values()
        except ValueError:
            return set()
        return {*filter(is_shard, {file for file in files if isinstance(file, str)})}

    def _list(self) -> list[Path]:
        return sorted(self.path.iterdir()) if self.path.is_dir() else []

    def _list_others(self) -> list[Path]:
        """List weights with other names; of a sharded checkpoint, its index alone."""
        paths = [path for path in self._list() if is_weights(path) and path.is_file()]
        shards = {name for path in paths if is_index(path) for name in self._list_shards(path)}
        return [path for path in paths if path.name not in {*shards, *WEIGHT_NAMES}]

    def _guesses(self, others: list[Path]) -> list[Path]:
        """Choose among weights with other names: indexes say that they are those of a model."""
        indexes = [path for path in others if is_index(path) and self._list_shards(path)]
        complete = [path for path in indexes if self._share_of_shards(path) == 1]
        stems = tuple(f"{path.name.partition('.')[0]}." for path in indexes)
        files = [path for path in others if path.name.startswith(stems) and not is_index(path)]
        rest = [path for path in others if not is_index(path)] or others
        return complete or files or indexes or rest

    def _prefer_complete(self, paths: Iterable[Path]) -> list[Path]:
        found = [*paths]
        return [path for path in found if self._share_of_shards(path) == 1] or found

    def _address(self, path: Path) -> str:
        """Say how to name a file of this folder."""
        return path.name


def _roots(folder: Path) -> list[Path]:
    """List where files of a folder may lie: in it, or if it is of a cache, among its blobs."""
    snapshots = [parent.parent for parent in (folder, *folder.parents)]
    return [folder, *(path.with_name("blobs") for path in snapshots if path.name == "snapshots")]


def _holds_weights(folder: Path) -> bool:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return any(name in WEIGHT_NAMES or VARIANT.fullmatch(name) for name in names)


def is_weights(path: Path) -> bool:
    """Whether a name is that of weights."""
    return path.suffix in FORMATS or is_index(path)


def is_index(path: Path) -> bool:
    """Whether a name is that of the index of a sharded checkpoint."""
    return INDEX.fullmatch(path.name) is not None


def is_shard(file: Any) -> bool:
    """Whether an index may name a file: by its plain name alone, next to it."""
    return (
        isinstance(file, str)
        and Path(file).name == file
        and Path(file).suffix in SHARD_SUFFIXES
        and "\0" not in file
        and len(file) <= MAX_NAME_LENGTH
    )
