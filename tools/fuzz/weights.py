# weights.py - an atheris target: load weight files that are damaged or hostile.
# SPDX-License-Identifier: BSD-3-Clause
"""Load mutated weight files, with a mutated config.json next to them.

    python tools/fuzz/run.py 60 weights       for a minute
    python tools/fuzz/run.py 14400 weights    four hours; the corpus stays in build/fuzz/weights

Loading must give the same as an independent reader, or raise a ValueError, TypeError or
FileNotFoundError (for a shard) that says why. It must not call anything that a pickle names, use
more memory than the file can expand to, or take more than two seconds. An input is a byte for the
form of the file, two bytes for the length of the configuration, the configuration, and the file.
Without PyTorch, its files are left out; without the package gguf, quantized files are refused.
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

try:
    import torch
except ImportError:
    torch = None

try:
    import gguf
except ImportError:
    gguf = None

with target.instrumented():
    import t5bucket as tb
    import t5bucket._weights
    from t5bucket._weights.names import AmbiguousTableError, NoTableError

MAX_SECONDS = 2
MAX_NBYTES = 64 << 20
MAX_RATIO = 1100  # to the file's size: deflate's largest ratio, and a little more
T5 = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
ENCODER = b"enc.blk.0.attn_rel_b.weight"
SHARD = "x.safetensors"
CONFIG = b'{"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}'


def refuse_pickles(event: str, arguments: Any) -> None:
    """End the process if anything is unpickled, or starts a program or a connection."""
    if event in ("pickle.find_class", "os.system", "subprocess.Popen", "socket.connect"):
        os.write(2, f"WRONG: {event} {arguments}\n".encode())
        os.abort()


# ---- forms: the rest of an input -> the contents of a file ----


def archive_of(method: int) -> Callable[[bytes], bytes]:
    """Put a .npy file into an archive with correct checksums."""

    def write(content: bytes) -> bytes:
        memory = io.BytesIO()
        with zipfile.ZipFile(memory, "w", method) as archive:
            archive.writestr(f"{T5}.npy", content)
        return memory.getvalue()

    return write


def with_header_length(content: bytes) -> bytes:
    """Prefix a safetensors header, which ends with a 0, with its length."""
    header, _, data = content.partition(b"\0")
    return struct.pack("<Q", len(header)) + header + data


def pytorch_archive(content: bytes) -> bytes:
    """Put a pickle, up to its length in two bytes, and the items of a storage into an archive."""
    length = int.from_bytes(content[:2], "little")
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr("x/data.pkl", content[2 : 2 + length])
        archive.writestr("x/byteorder", b"little")
        archive.writestr("x/data/0", content[2 + length :])
        archive.writestr("x/version", b"3\n")
    return memory.getvalue()


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
    (".gguf", unchanged),
    (".index.json", unchanged),  # the index, a zero, and what `with_header_length` takes
    (".bin", unchanged),
    (".bin", pytorch_archive),
]


def make_input(form: int, content: bytes, config: bytes = b"") -> bytes:
    """Make an input, which `run` takes apart."""
    return struct.pack("<BH", form, len(config)) + config + content


def npy(array: NDArray[Any]) -> bytes:
    """Write an array in NumPy's format."""
    memory = io.BytesIO()
    np.save(memory, array, allow_pickle=True)
    return memory.getvalue()


def make_seeds() -> Iterator[bytes]:
    """Make small valid files, and some invalid ones."""
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

    yield from make_seeds_of_float8()
    yield from make_seeds_of_gguf()
    if torch is not None:
        yield from make_seeds_of_pytorch()


def make_seeds_of_float8() -> Iterator[bytes]:
    """Make float8 tables with scales, also in a shard."""
    for dtype, scale in (("F8_E4M3", "scale_weight"), ("F8_E5M2", "weight_scale")):
        entries = {
            T5: {"dtype": dtype, "shape": [8, 2], "data_offsets": [0, 16]},
            T5.replace("weight", scale): {"dtype": "F32", "shape": [], "data_offsets": [16, 20]},
        }
        content = json.dumps(entries).encode() + b"\0" + bytes(range(16)) + b"\0\0\0\x3f"
        yield make_input(5, content, CONFIG)
        index = json.dumps({"weight_map": dict.fromkeys(entries, SHARD)}).encode()
        yield make_input(7, index + b"\0" + content, CONFIG)
    yield make_input(7, b'{"weight_map": {"a": "../x.safetensors", "b": "x.index.json"}}\0')


def make_seeds_of_gguf() -> Iterator[bytes]:
    """Make files of llama.cpp's format, one of them in the other byte order."""
    fields = {
        b"general.architecture": struct.pack("<IQ", 8, 2) + b"t5",
        b"t5.attention.relative_buckets_count": struct.pack("<II", 4, 8),
        b"tokenizer.ggml.tokens": struct.pack("<IIQQ", 9, 8, 1, 1) + b"a",
        b"general.alignment": struct.pack("<II", 4, 32),
        b"scores": struct.pack("<IIQ", 9, 6, 2) + bytes(8),
    }
    metadata = b"".join(struct.pack("<Q", len(name)) + name + fields[name] for name in fields)
    for kind, dims in ((0, (2, 8)), (1, (2, 8)), (30, (2, 8)), (8, (32, 8)), (2, (32, 8))):
        listed = (
            struct.pack("<Q", len(ENCODER)) + ENCODER + struct.pack("<IQQIQ", 2, *dims, kind, 0)
        )
        head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(fields)) + metadata + listed
        yield make_input(6, head + bytes(-len(head) % 32) + bytes(range(64)) * 5, CONFIG)
    listed = struct.pack(">Q", len(ENCODER)) + ENCODER + struct.pack(">IQQIQ", 2, 2, 8, 0, 0)
    head = b"GGUF" + struct.pack(">IQQ", 3, 1, 0) + listed
    yield make_input(6, head + bytes(-len(head) % 32) + bytes(range(64)))


def make_seeds_of_pytorch() -> Iterator[bytes]:
    """Make state dicts, whole and as a pickle with one storage, and one that holds code."""
    table = torch.arange(16.0).reshape(8, 2)
    wrapped = {"model": {T5: table.bfloat16()}, "args": {"lr": 0.1}}
    for state in ({T5: table}, {T5: table.to(torch.float8_e5m2)}, wrapped, {T5: os.system}):
        memory = io.BytesIO()
        torch.save(state, memory)
        yield make_input(8, memory.getvalue(), CONFIG)
        with zipfile.ZipFile(memory) as archive:
            content = archive.read("archive/data.pkl")
        yield make_input(9, struct.pack("<H", len(content)) + content + bytes(range(64)), CONFIG)


# ---- independent readers ----


def read_npy(path: Path) -> list[NDArray[Any]]:
    """Read by NumPy."""
    return [np.load(path, allow_pickle=False)]


def read_npz(path: Path) -> list[NDArray[Any]]:
    """Read by NumPy, every array that it can read."""
    with np.load(path, allow_pickle=False) as archive:
        return list(archive.values())


def read_safetensors(path: Path) -> list[NDArray[Any]]:
    """Read by the package safetensors; float8 as float32, times each number in the file."""
    dtypes = {
        "F16": "<f2",
        "BF16": ml_dtypes.bfloat16,
        "F32": "<f4",
        "F64": "<f8",
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
    }
    deserialize: Any = safetensors.deserialize  # has no types
    entries = deserialize(path.read_bytes())
    arrays = [
        np.frombuffer(entry["data"], dtypes[entry["dtype"]]).reshape(entry["shape"])
        for _, entry in entries
        if entry["dtype"] in dtypes
    ]
    return arrays + list(widen(arrays))


def widen(arrays: list[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Yield float8 arrays as float32, times each scale that may belong to them."""
    for array in arrays:
        if array.dtype.itemsize == 1:
            yield array.astype(np.float32)
            for scale in arrays:
                if scale.size in (1, len(array)):
                    factor = scale.astype(np.float32).reshape(-1, 1)
                    with np.errstate(all="ignore"):
                        yield array.astype(np.float32) * factor


def read_index(path: Path) -> list[NDArray[Any]]:
    """Read the only shard."""
    return read_safetensors(path.with_name(SHARD))


def read_gguf(path: Path) -> list[NDArray[Any]]:
    """Read by the package gguf, if it is installed."""
    arrays = []
    for tensor in gguf.GGUFReader(path).tensors:
        array = tensor.data
        if tensor.tensor_type.name == "BF16":
            array = array.view(np.uint16).view(ml_dtypes.bfloat16)
        elif tensor.tensor_type.name not in ("F16", "F32", "F64"):
            array = gguf.dequantize(array, tensor.tensor_type)
        arrays.append(array)
    return arrays


def read_pytorch(path: Path) -> list[NDArray[Any]]:
    """Read by PyTorch."""
    waiting = [torch.load(path, weights_only=True)]
    arrays = []
    for value in waiting:
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, torch.Tensor):
            name = str(value.dtype).removeprefix("torch.")
            bits = value.detach().contiguous().view(torch.uint8).numpy()
            arrays.append(bits.view(getattr(ml_dtypes, name, name)).reshape(value.shape))
    return arrays + list(widen(arrays))


READERS = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".safetensors": read_safetensors,
    ".gguf": read_gguf,
    ".json": read_index,
    ".bin": read_pytorch,
}


def native_bytes(array: NDArray[Any]) -> bytes:
    """Items in C order and native byte order."""
    return array.astype(array.dtype.newbyteorder("=")).tobytes()


def check_contents(weight: NDArray[Any], path: Path) -> None:
    """Compare with an independent reader, unless it refuses the file: it may be stricter."""
    if path.suffix == ".gguf" and gguf is None:
        return
    try:
        arrays = READERS[path.suffix](path)
    except Exception:  # the reader may raise anything
        return
    known = [(array.shape, native_bytes(array)) for array in arrays]
    assert (weight.shape, weight.tobytes()) in known, "another table than the reader's"


def check_refusal(error: Exception) -> None:
    """Check that an error has a documented type and says what is required."""
    of_tables = (NoTableError, AmbiguousTableError)  # ValueErrors with details
    documented = (ValueError, *of_tables, TypeError, FileNotFoundError, ImportError)
    assert type(error) in documented, type(error)
    assert " must " in str(error) or "pip install 't5bucket[gguf]'" in str(error), str(error)


def check_load(path: Path, config_nbytes: int) -> None:
    """Load a file, within its limits."""
    nbytes = path.stat().st_size + config_nbytes
    tracemalloc.start()
    begin = time.process_time()
    try:
        weight = tb.RelativeAttentionBias.load(path).weight
    except (ValueError, TypeError, FileNotFoundError, ImportError) as error:
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
    if suffix == ".bin" and torch is None:
        return
    config_nbytes = int.from_bytes(data[1:3], "little")
    config, content = data[3 : 3 + config_nbytes], data[3 + config_nbytes :]
    for path in FOLDER.iterdir():
        path.unlink()
    path = FOLDER / f"x{suffix}"
    if suffix == ".index.json":
        content, _, shard = content.partition(b"\0")
        (FOLDER / SHARD).write_bytes(with_header_length(shard))
        config_nbytes += len(shard)
    path.write_bytes(write(content))
    if config:
        (FOLDER / "config.json").write_bytes(config)
    check_load(path, config_nbytes)


if __name__ == "__main__":
    sys.addaudithook(refuse_pickles)
    target.main(run, make_seeds(), __doc__)
