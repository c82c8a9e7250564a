# pytorch.py - .bin, .pt, .pth: what torch.save writes, read by PyTorch, with no code run.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t5bucket._arrays import extension_dtype, view_tensor
from t5bucket._json import unique
from t5bucket._weights.checkpoint import Checkpoint
from t5bucket._weights.pickles import check_pickle

MAX_PICKLE_NBYTES = 4 << 20  # of all but items: 30,000 tensors, which take PyTorch four seconds
MAX_DEPTH = 4  # of dicts: {"model": {"state_dict": {...}}}


class PyTorchFile(Checkpoint):
    """Tensors of a state dict, which may lie in other dicts, in memory that maps the file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            import torch
        except ImportError:
            raise ImportError(f"{path} needs PyTorch: pip install 't5bucket[torch]'") from None
        self._uint8 = torch.uint8
        self._nbytes = _check_archive(path)
        content = torch.load(os.fspath(path), map_location="cpu", weights_only=True, mmap=True)
        self._tensors = unique(_list_tensors(content, torch.Tensor))

    @property
    def names(self) -> Collection[str]:
        """Keys of the state dict, after those of the dicts that hold it."""
        return self._tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, whose items are not read."""
        return tuple(self._tensors[name].shape)

    def _read(self, name: str) -> NDArray[Any]:
        tensor = self._tensors[name]
        nbytes = tensor.numel() * tensor.element_size()
        if nbytes > self._nbytes:  # strides of 0 repeat one item for ever
            raise ValueError(f"{name} has {nbytes} bytes, more than the file")
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype.startswith("float8"):
            bits = np.array(view_tensor(tensor.view(self._uint8), name))
            return bits.view(extension_dtype(dtype))
        return np.array(view_tensor(tensor, name))


def _check_archive(path: Path) -> int:
    """Refuse what is no archive of tensors alone, before PyTorch reads it; return its size."""
    nbytes = path.stat().st_size
    if not zipfile.is_zipfile(path):
        raise ValueError("it is of PyTorch before 1.6, or none of its files: save it again")
    with zipfile.ZipFile(path) as archive:
        # PyTorch tells no case.
        names = [*unique((name.lower(), None) for name in archive.namelist())]
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if any(name.endswith("/constants.pkl") for name in names):
            raise ValueError("it is a program of TorchScript: save its state_dict()")
        if len(pickles) != 1:
            raise ValueError("it is no archive of torch.save")
        member = archive.infolist()[names.index(pickles[0])]
        limit = min(nbytes, MAX_PICKLE_NBYTES)
        nbytes_stored, is_stored = member.compress_size, member.compress_type == zipfile.ZIP_STORED
        if not is_stored or nbytes_stored != member.file_size or nbytes_stored > limit:
            raise ValueError(
                f"its data.pkl has {member.file_size} bytes, stored in {nbytes_stored}"
            )
        check_pickle(archive.read(member))
    return nbytes


def _list_tensors(content: Any, tensor_type: type) -> Iterator[tuple[str, Any]]:
    """Yield tensors by name; a dict that several hold, or that holds itself, is listed once."""
    seen = set()
    waiting = [("", content, 0)]
    while waiting:
        prefix, value, depth = waiting.pop()
        if isinstance(value, tensor_type):
            yield prefix, value
        elif isinstance(value, Mapping) and depth < MAX_DEPTH and id(value) not in seen:
            seen.add(id(value))
            waiting += [
                (f"{prefix}.{key}" if prefix else key, item, depth + 1)
                for key, item in value.items()
                if isinstance(key, str)
            ]
