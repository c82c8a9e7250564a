# __init__.py - read one weight from files that may be hostile.
# SPDX-License-Identifier: BSD-3-Clause
"""No code is run, and no size in a header is trusted before memory is allocated.

One module for each format lists the tensors and reads one of them; `folder` and `hub` find the
files, `names` chooses the tensor, and `scales` widens float8.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from t5bucket import _checks
from t5bucket._checks import naming, show
from t5bucket._config import check_settings, find_settings_of
from t5bucket._json import as_path, check_regular, read_json
from t5bucket._weights.checkpoint import Checkpoint, refusing_damage
from t5bucket._weights.folder import (
    CONFIG_NAME,
    FORMATS,
    Folder,
    is_index,
    is_weights,
)
from t5bucket._weights.hub import CachedModel, parse_name
from t5bucket._weights.names import choose, families_of, is_of_decoder, kind_of
from t5bucket._weights.scales import widen
from t5bucket._weights.sharded import ShardedCheckpoint

HINT = "buckets= or --max-distance overrides it"


class LoadedWeight(NamedTuple):
    """A weight, where it is from, and what its name tells about it."""

    weight: NDArray[Any]
    heads_first: bool
    name: str
    folder: Folder
    checkpoint: Checkpoint

    @property
    def place(self) -> str:
        """Name and file of the tensor, for messages."""
        return f"{show(self.name)} of {self.checkpoint.file_of(self.name).path}"

    def find_settings(
        self, unidirectional: bool = False, max_distance: int | None = None
    ) -> tuple[int, Any, bool]:
        """Find ``(num_buckets, max_distance, bidirectional)``, also in the model's configuration.

        If the distance is given, a missing configuration is not downloaded.
        """
        find = self.folder.find if max_distance is None else self.folder.find_here
        config_path = find(CONFIG_NAME)
        configured = self._find_configured(config_path) if config_path else None
        bidirectional = not (unidirectional or is_of_decoder(self.name))
        bidirectional = bidirectional and (configured is None or configured[2])
        with naming(self.place):
            num_buckets = _checks.num_rows(self.weight, self.heads_first, bidirectional)
            self._check_num_buckets(num_buckets, self.checkpoint.num_buckets, self.checkpoint.path)
            if configured:
                self._check_num_buckets(num_buckets, configured[0], config_path)
        if max_distance is not None:
            distance = max_distance
        else:
            distance = configured[1] if configured else kind_of(self.name).max_distance
        settings = (num_buckets, distance, bidirectional)
        if max_distance is None:
            with naming(f"{config_path if configured else self.place}; {HINT}"):
                check_settings(settings)
        return settings

    def _find_configured(self, config_path: Path) -> tuple[int, Any, bool] | None:
        """Find the settings in a configuration; the distance is not checked yet."""
        config = read_json(config_path)
        with naming(f"{config_path}; {HINT}"):
            settings = find_settings_of(self.name, config, families_of(self.name))
            if settings is not None:
                _checks.integer("num_buckets", settings[0])
            return settings

    @staticmethod
    def _check_num_buckets(num_rows: int, expected: Any, path: Path | None) -> None:
        if expected not in (None, num_rows):
            raise ValueError(
                f"weight must have as many buckets as the model of {path}, {show(expected)}, "
                f"got {num_rows}"
            )


def load_weight(
    path: str | os.PathLike[str],
    tensor: str | None,
    heads_first: bool | None,
    prefers_encoder: bool = False,
) -> LoadedWeight:
    """Load a weight from a file or folder.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it is not a weight file, or the tensor is missing or ambiguous.
    TypeError
        If the tensor does not have a floating-point dtype.
    """
    path = as_path("path", path)
    if path.is_dir():
        folder = Folder(path)
        return _load(folder.find_weights(), folder, tensor, heads_first, prefers_encoder)
    path.stat()  # raises FileNotFoundError if it is missing, whatever its suffix
    if not is_weights(path):
        suffixes = ", ".join([*FORMATS, ".index.json"])
        raise ValueError(f"path must be a folder, or end in one of {suffixes}, got {path}")
    return _load(path, Folder(path.parent), tensor, heads_first, prefers_encoder)


def load_pretrained(
    name_or_path: str | os.PathLike[str], tensor: str | None, heads_first: bool | None = None
) -> LoadedWeight:
    """Load a weight from a file or folder, or of a model in Hugging Face's cache or hub."""
    path = as_path("name_or_path", name_or_path)
    name = parse_name(name_or_path) if isinstance(name_or_path, str) else None
    if path.exists() or name is None:
        return load_weight(path, tensor, heads_first, prefers_encoder=True)
    model = CachedModel(name.repository, name.part)
    found = model.find_weights() if name.file is None else model.find(name.file)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, f"{name.repository} must have it", name.file)
    return _load(found, model, tensor, heads_first, prefers_encoder=True)


def _load(
    path: Path,
    folder: Folder,
    tensor: str | None,
    heads_first: bool | None,
    prefers_encoder: bool,
) -> LoadedWeight:
    if tensor is not None and not isinstance(tensor, str):
        raise TypeError(f"tensor must be a name, got {show(tensor)}")
    if heads_first is not None:
        heads_first = _checks.flag("heads_first", heads_first)
    check_regular("path", path)
    with refusing_damage(path):
        checkpoint: Checkpoint = (
            ShardedCheckpoint(path, folder) if is_index(path) else FORMATS[path.suffix](path)
        )
    name = choose(checkpoint, tensor, prefers_encoder)
    weight = widen(checkpoint, name, checkpoint.read(name))
    if heads_first is None:
        heads_first = kind_of(name).heads_first
    loaded = LoadedWeight(weight, heads_first, name, folder, checkpoint)
    with naming(loaded.place):
        _checks.weight(weight)
    return loaded
