# weights.py - an atheris target: weight files that may be damaged or hostile.
# SPDX-License-Identifier: BSD-3-Clause
"""Load mutated weight files, with a mutated config.json beside them.

    python tools/fuzz/run.py 60 weights       for a minute
    python tools/fuzz/run.py 14400 weights    four hours; the corpus stays in build/fuzz/weights

Loading may give what an independent reader reads, or raise a ValueError or TypeError that says
why. It may unpickle nothing, take no more memory than the file can stand for, and no more than
two seconds. An input is a byte that says which form the rest has, two bytes with the length of
the configuration, the configuration, and the file.
"""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import target
from numpy.typing import NDArray

with target.instrumented():
    import t5bucket as tb
    from t5bucket import _config, _weight_files  # noqa: F401

MAX_SECONDS = 2
MAX_NBYTES = 64 << 20
MAX_RATIO = 1100  # to the file's size: what deflate can stand for, and a little more
T5 = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
CONFIG = b'{"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}'


def refuse_pickles(event: str, _: Any) -> None:
    """End the process where something is unpickled."""
    if event == "pickle.find_class":
        os.write(2, b"WRONG: a file was unpickled\n")
        os.abort()


# ---- forms: the rest of an input -> the contents of a file ----


def archive_of(method: int) -> Callable[[bytes], bytes]:
    """Put a .npy file into an archive, whose checksums are right."""

    def write(content: bytes) -> bytes:
        memory = io.BytesIO()
        with zipfile.ZipFile(memory, "w", method) as archive:
            archive.writestr(f"{T5}.npy", content)
        return memory.getvalue()

    return write


def with_header_length(content: bytes) -> bytes:
    """Put the length of a safetensors header, which ends with a 0, before it."""
    header, _, data = content.partition(b"\0")
    return struct.pack("<Q", len(header)) + header + data


def unchanged(content: bytes) -> bytes:
    """Leave a file as it is."""
    return content


FORMS: list[tuple[str, Callable[[bytes], bytes]]] = [
    (".npy", unchanged),
    (".npz", unchanged),
    (".safetensors", unchanged),
    (".npz", archive_of(zipfile.ZIP_STORED)),
    (".npz", archive_of(zipfile.ZIP_DEFLATED)),
    (".safetensors", with_header_length),
]


def make_input(form: int, content: bytes, config: bytes = b"") -> bytes:
    """Join what `run` takes apart."""
    return struct.pack("<BH", form, len(config)) + config + content


def npy(array: NDArray[Any]) -> bytes:
    """Write an array in NumPy's format."""
    memory = io.BytesIO()
    np.save(memory, array, allow_pickle=True)
    return memory.getvalue()


def make_seeds() -> Iterator[bytes]:
    """Make small valid files, and some that are not."""
    table = np.arange(16, dtype=np.float32).reshape(8, 2)
    arrays = [table.astype(dtype) for dtype in ("<f2", "<f4", ">f8", ml_dtypes.bfloat16)]
    for array in [*arrays, np.asfortranarray(table), table.astype(object), table[0]]:
        for form in (0, 3, 4):
            yield make_input(form, npy(array))
            yield make_input(form, npy(array), CONFIG)
        yield make_input(1, archive_of(zipfile.ZIP_DEFLATED)(npy(array)), CONFIG)
    for name, dtype, itemsize in (("F16", 8, 2), ("BF16", 8, 2), ("F32", 8, 4), ("F64", 8, 8)):
        entry = {"dtype": name, "shape": [dtype, 2], "data_offsets": [0, 16 * itemsize]}
        header = json.dumps({"__metadata__": {"format": "pt"}, T5: entry}).encode()
        yield make_input(5, header + b"\0" + bytes(range(16 * itemsize)), CONFIG)
        yield make_input(2, with_header_length(header + b"\0" + bytes(16 * itemsize)))


# ---- what an independent reader reads ----


def read_npy(path: Path) -> list[NDArray[Any]]:
    """Read by NumPy."""
    return [np.load(path, allow_pickle=False)]


def read_npz(path: Path) -> list[NDArray[Any]]:
    """Read by NumPy, each array that it can."""
    with np.load(path, allow_pickle=False) as archive:
        return list(archive.values())


def read_safetensors(path: Path) -> list[NDArray[Any]]:
    """Read by the package safetensors."""
    dtypes = {"F16": "<f2", "BF16": ml_dtypes.bfloat16, "F32": "<f4", "F64": "<f8"}
    deserialize: Any = safetensors.deserialize  # has no types
    entries = deserialize(path.read_bytes())
    return [
        np.frombuffer(entry["data"], dtypes[entry["dtype"]]).reshape(entry["shape"])
        for _, entry in entries
        if entry["dtype"] in dtypes
    ]


READERS = {".npy": read_npy, ".npz": read_npz, ".safetensors": read_safetensors}


def native_bytes(array: NDArray[Any]) -> bytes:
    """Items in C order and native byte order."""
    return array.astype(array.dtype.newbyteorder("=")).tobytes()


def check_contents(weight: NDArray[Any], path: Path) -> None:
    """Compare with what the independent reader reads, if it does: it may be stricter."""
    try:
        arrays = READERS[path.suffix](path)
    except (ValueError, TypeError, EOFError, OSError, safetensors.SafetensorError):
        return
    known = [(array.shape, native_bytes(array)) for array in arrays]
    assert (weight.shape, weight.tobytes()) in known, "another table than the reader's"


def check_refusal(error: Exception) -> None:
    """Check that an error is of a documented type and says what must be."""
    assert type(error) in (ValueError, TypeError), type(error)
    assert " must " in str(error), str(error)


def check_load(path: Path, config_nbytes: int) -> None:
    """Load a file, within its limits."""
    nbytes = path.stat().st_size + config_nbytes
    tracemalloc.start()
    begin = time.process_time()
    try:
        weight = tb.RelativeAttentionBias.load(path).weight
    except (ValueError, TypeError) as error:
        check_refusal(error)
        weight = None
    seconds = time.process_time() - begin
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < MAX_SECONDS, f"{seconds:.1f} seconds"
    assert peak <= max(MAX_NBYTES, MAX_RATIO * nbytes), f"{peak} bytes for a file of {nbytes}"
    if weight is not None:
        check_contents(weight, path)


FOLDER = Path(tempfile.mkdtemp(prefix="t5bucket-fuzz-"))


def run(data: bytes) -> None:
    """Write one input's files, and load them."""
    if len(data) < 3:
        return
    suffix, write = FORMS[data[0] % len(FORMS)]
    config_nbytes = int.from_bytes(data[1:3], "little")
    config, content = data[3 : 3 + config_nbytes], data[3 + config_nbytes :]
    path, config_path = FOLDER / f"x{suffix}", FOLDER / "config.json"
    path.write_bytes(write(content))
    config_path.unlink(missing_ok=True)
    if config:
        config_path.write_bytes(config)
    check_load(path, len(config))


if __name__ == "__main__":
    sys.addaudithook(refuse_pickles)
    target.main(run, make_seeds(), __doc__)
