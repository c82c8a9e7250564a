# test_weight_files.py - RelativeAttentionBias.load: tensors it finds, and files it refuses.
# SPDX-License-Identifier: BSD-3-Clause
import contextlib
import io
import itertools
import json
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import BFLOAT16

import t5bucket as tb
from t5bucket._weights import npy

load = tb.RelativeAttentionBias.load
DATA = files("t5bucket") / "data" / "all-mpnet-base-v2.relative_attention_bias.safetensors"
T5 = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
T5_DECODER = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
DTYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64} | (
    {"BF16": BFLOAT16} if BFLOAT16 else {}
)


def safetensors(tensors: dict[str, Any]) -> bytes:
    """Serialize arrays as a safetensors file."""
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()} | {np.dtype(np.int8): "I8"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in tensors.items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {
            "dtype": names[array.dtype],
            "shape": array.shape,
            "data_offsets": offsets,
        }
        data += array.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def make_weight(num_buckets: int = 32, num_heads: int = 2, dtype: Any = np.float32) -> Any:
    """Make a weight of different numbers."""
    return np.arange(num_buckets * num_heads).reshape(num_buckets, num_heads).astype(dtype)


def write(path: Path, tensors: dict[str, Any]) -> Path:
    """Write tensors in the format of the path's suffix."""
    if path.suffix == ".safetensors":
        path.write_bytes(safetensors(tensors))
    elif path.suffix == ".npz":
        np.savez(path, **tensors)
    else:
        (array,) = tensors.values()
        np.save(path, array)
    return path


SUFFIXES = [".safetensors", ".npz", ".npy"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", DTYPES.values())
def test_each_format_keeps_every_bit(tmp_path: Path, suffix: str, dtype: Any) -> None:
    bias = load(write(tmp_path / f"x{suffix}", {T5: make_weight(dtype=dtype)}))
    assert bias.dtype == dtype
    assert np.array_equal(bias.weight, make_weight(dtype=dtype))
    assert bias.buckets == tb.Buckets(32, 128)


def test_the_embedded_weight_is_the_real_one() -> None:
    bias = load(str(DATA))
    assert bias.num_heads == 12
    assert bias.dtype == np.float32
    assert bias.buckets == tb.Buckets(32, 128)
    assert 1 < np.abs(bias.weight).max() < 100
    assert len(np.unique(bias.weight)) > 300


@pytest.mark.parametrize("compress", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_may_be_compressed_or_in_fortran_order(
    tmp_path: Path, compress: Any, order: Any
) -> None:
    compress(tmp_path / "x.npz", table=np.asarray(make_weight(), order=order))
    assert np.array_equal(load(tmp_path / "x.npz").weight, make_weight())


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize(
    ("name", "max_distance", "heads_first", "bidirectional"),
    [
        (T5, 128, False, True),
        (T5_DECODER, 128, False, False),
        ("relative_attention_bias.weight", 128, False, True),
        ("encoder.layers.0.attention.rel_attn_embed.weight", 800, False, True),
        ("layoutlmv3.encoder.rel_pos_bias.weight", 128, True, True),
        (f"text_encoders.t5xxl.transformer.{T5}", 128, False, True),  # diffusion models in one file
        (f"module._orig_mod.{T5_DECODER}", 128, False, False),
        (f"decoder.text_encoder.{T5}", 128, False, True),
        ("blocks.0.pos_embedding.embedding.weight", 128, False, True),  # UMT5 in files of Wan
        ("dec.blk.0.attn_rel_b.weight", 128, False, False),
    ],
)
def test_the_tensor_is_found_by_its_name(
    tmp_path: Path,
    suffix: str,
    name: str,
    max_distance: int,
    heads_first: bool,
    bidirectional: bool,
) -> None:
    weight = make_weight(64).T.copy() if heads_first else make_weight(64)
    others = {"shared.weight": np.ones((7, 3)), "my_rel_pos_bias.weights": np.ones((4, 4))}
    bias = load(write(tmp_path / f"x{suffix}", {**others, name: weight}))
    assert bias.buckets == tb.Buckets(64, max_distance, bidirectional)
    assert bias.heads_first == heads_first
    assert bias.num_heads == 2
    assert np.array_equal(bias.weight, weight)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_single_tensor_of_any_name_is_taken(tmp_path: Path, suffix: str) -> None:
    assert load(write(tmp_path / f"x{suffix}", {"table": make_weight()})).num_heads == 2


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_several_candidates_are_listed_and_one_can_be_named(tmp_path: Path, suffix: str) -> None:
    path = write(
        tmp_path / f"x{suffix}",
        {T5: make_weight(), T5_DECODER: make_weight() + 1, "z": make_weight()},
    )
    with pytest.raises(ValueError, match="tensor must name one of") as caught:
        load(path)
    assert T5 in str(caught.value)
    assert T5_DECODER in str(caught.value)
    assert "'z'" not in str(caught.value)
    assert load(path, tensor=T5_DECODER).weight[0, 0] == 1
    assert not load(path, tensor=T5_DECODER).buckets.bidirectional
    assert load(path, tensor="z").buckets == tb.Buckets()


def test_layoutlm_axes_can_be_named(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.safetensors",
        {
            "encoder.rel_pos_bias.weight": make_weight().T.copy(),
            "encoder.rel_pos_x_bias.weight": make_weight(64).T.copy(),
        },
    )
    assert load(path).buckets == tb.Buckets(32, 128)
    assert load(path, tensor="encoder.rel_pos_x_bias.weight").buckets == tb.Buckets(64, 256)


def test_a_file_without_a_table_lists_its_tensors(tmp_path: Path) -> None:
    tensors = {f"layer.{i}": np.ones((2, 2)) for i in range(30)}
    with pytest.raises(ValueError, match=r"must hold a tensor .* 'layer\.0'.* and 10 more"):
        load(write(tmp_path / "x.npz", tensors))


def test_a_wrong_tensor_name_lists_the_tensors(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npz", {"table": make_weight()})
    with pytest.raises(
        ValueError, match=r"tensor must be one of 'table' \(32, 2\) in .*, got 'tabel'"
    ):
        load(path, tensor="tabel")


def test_given_buckets_and_orientation_win(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npy", {"": make_weight(33).T.copy()})
    bias = load(path, buckets=tb.Buckets.from_textbook(32, 1024), heads_first=True)
    assert bias.buckets == tb.Buckets(33, 1024, False)
    with pytest.raises(ValueError, match="one column for each of the 32 buckets, got 33"):
        load(path, buckets=tb.Buckets(32, 128), heads_first=True)


def test_a_config_next_to_the_file_describes_the_scheme(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", {T5: make_weight(), T5_DECODER: make_weight()})
    config = {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 300}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load(path, tensor=T5).buckets == tb.Buckets(32, 300)
    assert load(path, tensor=T5_DECODER).buckets == tb.Buckets(32, 300, False)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}), encoding="utf-8")
    assert load(path, tensor=T5).buckets == tb.Buckets(32, 128)
    config["relative_attention_num_buckets"] = 10**9
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=r"as many buckets as the model of .*, 1000000000, got 32"):
        load(path, tensor=T5)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="config must be a JSON file"):
        load(path, tensor=T5)
    assert load(path, tensor=T5, buckets=tb.Buckets(32, 99)).buckets.max_distance == 99


def test_layoutlm_axes_have_settings_of_their_own(tmp_path: Path) -> None:
    name = "layoutlmv3.encoder.rel_pos_x_bias.weight"
    path = write(tmp_path / "model.safetensors", {name: make_weight(64).T.copy()})
    config = {"rel_pos_bins": 32, "max_rel_pos": 128, "rel_2d_pos_bins": 64, "max_rel_2d_pos": 99}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load(path, tensor=name).buckets == tb.Buckets(64, 99)


def test_udops_axes_have_settings_of_their_own(tmp_path: Path) -> None:
    names = [
        f"{stack}.relative_bias.biases.{axis}.relative_attention_bias.weight"
        for stack in ("encoder", "decoder")
        for axis in range(3)
    ]
    path = write(tmp_path / "model.safetensors", {name: make_weight() for name in names})
    config = {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 77}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    found = [load(path, tensor=name).buckets for name in names]
    assert found == [tb.Buckets(32, distance) for distance in (128, 100, 100)] * 2


def test_one_of_many_tensors_is_found(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [32, 2], "data_offsets": [0, 256]}
    names = [f"encoder.block.{number}.layer.0.SelfAttention.q.weight" for number in range(50_000)]
    text = json.dumps(dict.fromkeys([*names, T5], entry)).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(256))
    begin = time.process_time()
    assert load(path).num_heads == 2
    assert time.process_time() - begin < 2


# ---- bad files ----


def test_missing_files_are_os_errors(tmp_path: Path) -> None:
    for name in ("x.npy", "x.npz", "x.safetensors"):
        with pytest.raises(FileNotFoundError):
            load(tmp_path / name)


def test_unknown_suffixes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "flax_model.msgpack"
    path.touch()
    with pytest.raises(ValueError, match=r"must .* end in one of \.safetensors, \.npy, .*, got"):
        load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 200, b"{}", b"PK\3\4" * 9])
def test_garbage_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="path must be a sound"):
        load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_truncation_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"x{suffix}", {T5: make_weight(4, 2)})
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="must"):
            load(path)


def hostile_header(**changes: Any) -> bytes:
    entry = {"dtype": "F32", "shape": [32, 2], "data_offsets": [0, 256]} | changes
    text = json.dumps({"x": entry}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(256)


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**64 - 1) + b"{}",
        struct.pack("<Q", 2**40) + b"{}" + bytes(100),
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b'"ab"',
        struct.pack("<Q", 8) + b'{"x": 3}',
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        hostile_header(shape=[2**62, 2**62]),
        hostile_header(shape=[-32, -2]),
        hostile_header(shape=[32.0, 2]),
        hostile_header(shape=[True, 64]),
        hostile_header(shape="ab"),
        hostile_header(shape=None),
        hostile_header(data_offsets=[0, 2**62]),
        hostile_header(data_offsets=[256, 0]),
        hostile_header(data_offsets=[-256, 0]),
        hostile_header(data_offsets=[128, 384]),
        hostile_header(data_offsets=[0]),
        hostile_header(data_offsets=None),
        hostile_header(dtype="I8"),
        hostile_header(dtype=["F32"]),
        hostile_header(dtype=None),
    ],
)
def test_hostile_safetensors_headers_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="path must be a sound"):
        load(path)


def npy_header(shape: Any, descr: Any = "<f4") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(2**40, 2), (2**62, 2**62), (-1, -64), (32, 3)])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_npy_headers_that_promise_too_much_are_refused(
    tmp_path: Path, shape: Any, suffix: str
) -> None:
    path = tmp_path / f"x{suffix}"
    content = npy_header(shape) + bytes(256)
    if suffix == ".npy":
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", content)
    with pytest.raises(ValueError, match="path must be a sound"):
        load(path)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([b"9" * 4000] * 1000, "x has 1000 axes"),
        ([b"1"] * 100_000, "x has 100000 axes"),
        ([b"9" * 4000] * 2, "x lies at 0 to 512 of 512 with shape"),
    ],
)
def test_shapes_that_take_too_long_to_multiply_are_refused(
    shape: list[bytes], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    entry = b'{"dtype":"F32","shape":[' + b",".join(shape) + b'],"data_offsets":[0,512]}'
    header = b'{"x":' + entry + b"}"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(512))
    with pytest.raises(ValueError, match="path must be a sound") as caught:
        load(path)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_that_lies_about_its_members_gets_no_memory(method: int, tmp_path: Path) -> None:
    with io.BytesIO() as memory:
        header = {"descr": "<f4", "fortran_order": False, "shape": (32, 1 << 22)}
        np.lib.format.write_array_header_1_0(memory, header)
        content = memory.getvalue() + bytes(70_000)  # more than is read with the header
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x.npy", content)
    whole = bytearray(path.read_bytes())
    directory = whole.index(b"PK\x01\x02")
    whole[directory + 20 : directory + 28] = struct.pack("<II", 1 << 30, len(content) + (1 << 29))
    path.write_bytes(whole)
    tracemalloc.start()
    with pytest.raises(ValueError, match="path must be a sound"):
        load(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 22


@pytest.mark.skipif(os.devnull == "nul", reason="needs devices that stand in folders")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_path_that_is_no_regular_file_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.symlink_to(os.devnull)  # a device that ends, so that a failing test ends, too
    with pytest.raises(ValueError, match="path must be a regular file, got"):
        load(path)


@pytest.mark.parametrize("path", [None, 3, b"x.npy"])
def test_a_value_that_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(TypeError, match="path must be a path, got "):
        load(path)


def test_a_configuration_cannot_cause_seconds_of_work(tmp_path: Path) -> None:
    settings = {"relative_attention_num_buckets": 5000, "relative_attention_max_distance": 2**62}
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    path = write(tmp_path / "x.safetensors", {T5: np.zeros((5000, 1), np.float32)})
    with pytest.raises(ValueError, match=r"num_buckets must be at most 4096, got 5000 in .*json"):
        load(path)
    assert load(path, buckets=tb.Buckets(5000, 10_000)).num_heads == 1


@pytest.mark.parametrize(("failures", "is_read"), [(3, True), (100, False)])
def test_a_header_is_read_again_if_another_thread_disturbed_the_parser(
    failures: int, is_read: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "x.npy", {T5: make_weight()})
    read = npy.HEADER_READERS[1, 0]
    calls = itertools.count()

    def disturbed(header: Any) -> Any:
        if next(calls) < failures:
            header.read(5)
            raise SystemError("AST constructor recursion depth mismatch (before=39, after=35)")
        return read(header)

    monkeypatch.setitem(npy.HEADER_READERS, (1, 0), disturbed)
    if is_read:
        assert np.array_equal(load(path).weight, make_weight())
    else:
        with pytest.raises(ValueError, match="while other threads parse"):
            load(path)


def test_a_header_that_is_a_bomb_is_refused_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    content = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**30) + b" " * 2**27
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    tracemalloc.start()
    with pytest.raises(ValueError, match="path must be a sound"):
        load(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22
    nested = b"-" * 9000 + b"1"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(nested)) + nested)
    with pytest.raises(ValueError, match="path must be a sound"):
        load(tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tensor": ["a"]}, TypeError, "tensor must be a name, got"),
        ({"heads_first": "x"}, TypeError, "heads_first must be True or False, got 'x'"),
        ({"heads_first": True}, ValueError, "weight must have at least 4 columns"),
    ],
)
def test_bad_options_are_refused(
    tmp_path: Path, options: Any, error: type[Exception], message: str
) -> None:
    path = write(tmp_path / "x.npy", {"": make_weight()})
    with pytest.raises(error, match=message):
        load(path, **options)


class Bomb:
    """Unpickling an instance fails the test."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_objects_are_never_unpickled(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    hostile = np.array([[Bomb()]], dtype=object)
    if suffix == ".npy":
        np.save(path, hostile, allow_pickle=True)
    else:
        np.savez(path, x=hostile)
    with pytest.raises(ValueError, match="path must be a sound"):
        load(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="path must be a sound"):
        load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("weight", "error"),
    [
        (np.ones(32, np.float32), "two axes"),
        (np.ones((2, 32, 2), np.float32), "two axes"),
        (np.ones((32, 0), np.float32), "(empty|sound)"),
        (np.ones((2, 2), np.int8), "(float16, bfloat16|dtype I8)"),
    ],
)
def test_a_tensor_that_is_no_weight_is_refused(
    tmp_path: Path, suffix: str, weight: Any, error: str
) -> None:
    path = write(tmp_path / f"x{suffix}", {"x": weight})
    with pytest.raises((ValueError, TypeError), match=error):
        load(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_changed_bytes_load_or_are_refused(
    tmp_path: Path, suffix: str, data: st.DataObject
) -> None:
    path = write(tmp_path / f"x{suffix}", {T5: make_weight(4, 2)})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(ValueError, TypeError):
        assert load(path).weight.shape == (4, 2)
