# __init__.py - read one weight out of what people have on disk, which may be hostile.
# SPDX-License-Identifier: BSD-3-Clause
"""No code is run, and nothing is allocated by a header's word alone.

A module for each format says how to list tensors and read one of them; `folder` and `hub` find the
files, `names` chooses the tensor, `scales` widens float8.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from t5bucket._checks import flag
from t5bucket._checks import num_rows as check_num_rows
from t5bucket._checks import weight as check_weight
from t5bucket._config import (
    AXIS_FAMILIES,
    FAMILIES,
    check_regular,
    find_settings_of,
    read_json,
)
from t5bucket._weights.checkpoint import Checkpoint, refusing_damage
from t5bucket._weights.folder import (
    CONFIG_NAME,
    FORMATS,
    Folder,
    is_index,
    is_weights,
)
from t5bucket._weights.hub import CachedModel, parse_name
from t5bucket._weights.names import AXIS_KINDS, choose, is_of_decoder, kind_of
from t5bucket._weights.scales import widen
from t5bucket._weights.sharded import ShardedCheckpoint

# A scheme of thousands of buckets up to 2^62 takes seconds to make, which a file may not ask for.
MAX_CONFIGURED_BUCKETS = 4096


class LoadedWeight(NamedTuple):
    """A weight, where it is from, and what its name says about it."""

    weight: NDArray[Any]
    heads_first: bool
    name: str
    folder: Folder
    checkpoint: Checkpoint

    def find_settings(
        self, unidirectional: bool = False, max_distance: int | None = None
    ) -> tuple[int, Any, bool]:
        """Find ``(num_buckets, max_distance, bidirectional)``, by the model's configuration too.

        If the distance is given, a configuration that is not at hand is not fetched.
        """
        if max_distance is None:
            return self._find_settings(unidirectional, self.folder.find(CONFIG_NAME))
        found = self._find_settings(unidirectional, self.folder.find_here(CONFIG_NAME))
        return found[0], max_distance, found[2]

    def _find_settings(
        self, unidirectional: bool, config_path: Path | None
    ) -> tuple[int, Any, bool]:
        kind = kind_of(self.name)
        bidirectional = not unidirectional and not is_of_decoder(self.name)
        num_buckets = check_num_rows(self.weight, self.heads_first, bidirectional)
        self._check_own_num_buckets(num_buckets)
        families = AXIS_FAMILIES if kind in AXIS_KINDS else FAMILIES
        settings = (
            find_settings_of(self.name, read_json(config_path), families) if config_path else None
        )
        if settings is None:
            return num_buckets, kind.max_distance, bidirectional
        if num_buckets > MAX_CONFIGURED_BUCKETS:
            raise ValueError(
                f"weight must have at most {MAX_CONFIGURED_BUCKETS} buckets for the scheme to be "
                f"read from {config_path}, got {num_buckets}; name the scheme by buckets="
            )
        if settings[0] != num_buckets:
            raise ValueError(
                f"weight must have as many buckets as {config_path} says, {settings[0]!s:.100}, "
                f"got {num_buckets}"
            )
        return num_buckets, settings[1], bidirectional and settings[2]

    def _check_own_num_buckets(self, num_buckets: int) -> None:
        expected = self.checkpoint.num_buckets
        if expected not in (None, num_buckets):
            raise ValueError(
                f"weight must have as many buckets as {self.checkpoint.path} says, {expected}, "
                f"got {num_buckets}"
            )


def load_weight(
    path: str | os.PathLike[str],
    tensor: str | None,
    heads_first: bool | None,
    prefers_encoder: bool = False,
) -> LoadedWeight:
    """Load a weight of a file or folder.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it is no weight file, or the tensor is missing or cannot be chosen.
    TypeError
        If the tensor has no floating-point dtype.
    """
    path = _check_path("path", path)
    if path.is_dir():
        folder = Folder(path)
        return _load(folder.find_weights(), folder, tensor, heads_first, prefers_encoder)
    path.stat()  # what is missing is a FileNotFoundError, whatever its name
    if not is_weights(path):
        suffixes = ", ".join([*FORMATS, ".index.json"])
        raise ValueError(f"path must be a folder, or end in one of {suffixes}, got {path}")
    return _load(path, Folder(path.parent), tensor, heads_first, prefers_encoder)


def load_pretrained(
    name_or_path: str | os.PathLike[str], tensor: str | None, heads_first: bool | None = None
) -> LoadedWeight:
    """Load a weight of a file or folder, or of a model in Hugging Face's cache or hub."""
    path = _check_path("name_or_path", name_or_path)
    name = parse_name(name_or_path) if isinstance(name_or_path, str) else None
    if path.exists() or name is None:
        return load_weight(path, tensor, heads_first, prefers_encoder=path.is_dir())
    model = CachedModel(name.repository, name.part)
    found = model.find_weights() if name.file is None else model.find(name.file)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, f"{name.repository} must have it", name.file)
    return _load(found, model, tensor, heads_first, prefers_encoder=name.file is None)


def _load(
    path: Path,
    folder: Folder,
    tensor: str | None,
    heads_first: bool | None,
    prefers_encoder: bool,
) -> LoadedWeight:
    if tensor is not None and not isinstance(tensor, str):
        raise TypeError(f"tensor must be a name, got {tensor!r}")
    if heads_first is not None:
        heads_first = flag("heads_first", heads_first)
    check_regular("path", path)
    with refusing_damage(path):
        checkpoint: Checkpoint = (
            ShardedCheckpoint(path, folder) if is_index(path) else FORMATS[path.suffix](path)
        )
    name = choose(checkpoint, tensor, prefers_encoder)
    weight = check_weight(widen(checkpoint, name, checkpoint.read(name)))
    if heads_first is None:
        heads_first = kind_of(name).heads_first
    return LoadedWeight(weight, heads_first, name, folder, checkpoint)


def _check_path(name: str, path: Any) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{name} must be a path, got {path!r}")
    return Path(path)
