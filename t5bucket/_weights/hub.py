# hub.py - find models by name, in Hugging Face's cache and on its hub.
# SPDX-License-Identifier: BSD-3-Clause
"""The cache is read without a connection. Only missing files are downloaded."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from t5bucket._checks import first_line
from t5bucket._weights.folder import CONFIG_NAME, WEIGHT_NAMES, Folder, is_weights

REPOSITORY = re.compile(r"(?:[\w][\w.-]*/)?[\w][\w.-]*")
COMMIT = re.compile(r"\w+")
MAX_REF_NBYTES = 200
MAX_LISTED = 20  # names in a message


class Name(NamedTuple):
    """The parts of `owner/name/part/file`; the last two are optional."""

    repository: str
    part: str
    file: str | None


def parse_name(name: str) -> Name | None:
    """Split a name into its parts; return None if it is the path of a missing file."""
    words = name.split("/")
    if any(word in ("", ".", "..") for word in words) or "\\" in name:
        return None
    repository, rest = "/".join(words[:2]), words[2:]
    if len(words) > 1 and Path(words[0]).exists() and not _folder_of(repository).exists():
        return None  # a path, wrong only after this folder
    if not REPOSITORY.fullmatch(repository) or (not rest and is_weights(Path(name))):
        return None
    file = rest.pop() if rest and is_weights(Path(rest[-1])) else None
    return Name(repository, "/".join(rest), file)


class CachedModel(Folder):
    """A snapshot of one commit in the cache; downloads add files to it."""

    def __init__(self, repository: str, part: str) -> None:
        self.repository = repository
        self._part = part
        self._cache = _cache_folder()
        self._folder = _folder_of(repository)
        self._is_reached = False
        self._commit = _read_ref(self._folder / "refs" / "main")
        super().__init__(self._snapshot())

    def __str__(self) -> str:
        return f"{self.repository}/{self._part}" if self._part else self.repository

    def _snapshot(self) -> Path:
        return self._folder / "snapshots" / (self._commit or "none") / self._part

    def find(self, name: str) -> Path | None:
        """Find a file, downloading it if necessary; None if the model has no file of this name."""
        return self.find_here(name) or (None if self._is_absent(name) else self._fetch(name))

    def _is_absent(self, name: str) -> bool:
        """Whether the cache knows that the hub has no such file."""
        if self._commit is None:
            return False
        return (self._folder / ".no_exist" / self._commit / self._part / name).exists()

    def _fetch(self, name: str) -> Path | None:
        file = f"{self._part}/{name}" if self._part else name
        try:
            from huggingface_hub import hf_hub_download
            from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError
        except ImportError:
            reason = "fetching needs huggingface_hub: pip install 't5bucket[hub]'"
            raise ImportError(self._explain(file, reason)) from None
        self._reach(file)
        try:
            path = hf_hub_download(
                self.repository, file, revision=self._commit, cache_dir=self._cache
            )
        except EntryNotFoundError as error:
            if not isinstance(error, LocalEntryNotFoundError):
                return None
            raise OSError(self._explain(file, first_line(error))) from error
        except Exception as error:  # a missing repository, one that needs a token, no connection
            raise OSError(self._explain(file, first_line(error))) from error
        if self._commit is None:
            self._commit = Path(path).relative_to(self._folder / "snapshots").parts[0]
            self.path = self._snapshot()
        return self.find_here(name)

    def _reach(self, file: str) -> None:
        """Ask the hub once: without a connection, the download would try for half a minute."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.utils import HfHubHTTPError

        if self._is_reached:
            return
        try:
            get_hf_file_metadata(hf_hub_url(self.repository, file, revision=self._commit))
        except HfHubHTTPError:
            pass  # an answer, which the download explains
        except Exception as error:  # of a library for connections, which depends on the version
            reason = f"no answer from the hub: {first_line(error)}"
            raise OSError(self._explain(file, reason)) from error
        self._is_reached = True

    def _find_elsewhere(self) -> Path:
        for name in WEIGHT_NAMES:
            if path := self.find(name):
                return path
        return super()._find_elsewhere()

    def _guesses(self, others: list[Path]) -> list[Path]:
        return []  # the cache may have only a part of the model

    def _address(self, path: Path) -> str:
        return f"{self}/{path.name}"

    def _describe_cache(self) -> str:
        """Say what the cache has, and how to name it."""
        root = self._folder / "snapshots" / (self._commit or "none")
        files = sorted(path for path in [*root.glob("*"), *root.glob("*/*")] if is_weights(path))
        if files:
            names = [f"{self.repository}/{path.relative_to(root)}" for path in files[:MAX_LISTED]]
            return f"; the cache has {', '.join(names)}"
        others = [path for path in root.parent.glob("*") if path != root]
        if others:
            listed = ", ".join(map(str, sorted(others)[:MAX_LISTED]))
            return f"; the cache has no snapshot of refs/main, but the folders {listed}"
        return ""

    def _explain(self, file: str, reason: str) -> str:
        if file.endswith(CONFIG_NAME):
            hint = "; buckets= or --max-distance makes it unnecessary"
        else:
            hint = self._describe_cache()
        return (
            "name_or_path must be a file, a folder, or a model in Hugging Face's cache or hub, "
            f"got {self.repository}, whose {file} is not in {self._cache} ({reason}){hint}"
        )


def _folder_of(repository: str) -> Path:
    """Find the folder of a model in the cache."""
    return _cache_folder() / f"models--{repository.replace('/', '--')}"


def _cache_folder() -> Path:
    """Find the cache, as huggingface_hub does."""
    get = os.environ.get
    home = get("HF_HOME") or f"{get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    cache = get("HF_HUB_CACHE") or get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(cache)).expanduser().absolute()


def _read_ref(path: Path) -> str | None:
    """Read which commit the cache has; None if it has none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        commit = file.read(MAX_REF_NBYTES).decode(errors="replace").strip()
    return commit if COMMIT.fullmatch(commit) else None
