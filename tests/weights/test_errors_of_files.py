# test_errors_of_files.py - errors name the file and the value; repeated keys; limits of memory.
# SPDX-License-Identifier: BSD-3-Clause
import json
import re
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import T5, T5_DECODER, make_weight

import t5bucket as tb

load = tb.RelativeAttentionBias.load
from_config = tb.Buckets.from_config
ENTRY = {"dtype": "F32", "shape": [32, 2], "data_offsets": [0, 256]}


def write_safetensors(path: Path, header: str, data: bytes = bytes(256)) -> Path:
    content = header.encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content + data)
    return path


def gguf_file(*entries: tuple[str, int]) -> bytes:
    """Write a file of tensors by name and type, of two axes."""
    listed = b"".join(
        struct.pack("<Q", len(name)) + name.encode() + struct.pack("<IQQIQ", 2, 2, 32, kind, 0)
        for name, kind in entries
    )
    head = b"GGUF" + struct.pack("<IQQ", 3, len(entries), 0) + listed
    return head + bytes(-len(head) % 32) + bytes(512)


# ---- values of a configuration ----

VALUES = [
    ("NaN", "max_distance must be an integer, got nan in"),
    ('"128"', "max_distance must be an integer, got '128' in"),
    ("1" * 4000, r"max_distance must be at most \d+, got an integer of 13285 bits in"),
    ("true", "max_distance must be an integer, got True in"),
    ("[" + "1," * 5000 + "1]", r"max_distance must be an integer, got \[1, 1, .*\.\.\. in"),
    ("1e2", "max_distance must be an integer, got 100.0 in"),
    ("8", "max_distance must be greater than max_exact = 8, got 8 in"),
]


@pytest.mark.parametrize(("value", "message"), VALUES)
def test_a_wrong_value_of_a_configuration_is_named_with_its_file(
    value: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    distance = f'"relative_attention_max_distance": {value}'
    path.write_text(f'{{"relative_attention_num_buckets": 32, {distance}}}', encoding="utf-8")
    np.save(tmp_path / "x.npy", make_weight())
    loading: list[Any] = [lambda: load(tmp_path / "x.npy"), lambda: load(tmp_path)]
    reading: list[Any] = [lambda: from_config(path), lambda: from_config(tmp_path)]
    for call in loading + reading:
        with pytest.raises(
            (TypeError, ValueError), match=f"^{message} {re.escape(str(path))}"
        ) as caught:
            call()
        assert len(str(caught.value)) < 700
    assert load(tmp_path, buckets=tb.Buckets()).num_heads == 2


@pytest.mark.parametrize("value", ["32.0", '"32"', "[]"])
def test_a_number_of_buckets_that_is_no_integer_is_refused(value: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(f'{{"relative_attention_num_buckets": {value}}}', encoding="utf-8")
    np.save(tmp_path / "x.npy", make_weight())
    calls: list[Any] = [lambda: load(tmp_path), lambda: from_config(path)]
    for call in calls:
        with pytest.raises(
            TypeError, match=rf"num_buckets must be an integer, got .* in {re.escape(str(path))}"
        ):
            call()


@pytest.mark.parametrize("value", ["1e400", "4097", "1" + "0" * 3000])
def test_a_number_of_buckets_that_no_model_has_is_refused_at_once(
    value: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(f'{{"relative_attention_num_buckets": {value}}}', encoding="utf-8")
    with pytest.raises(
        (TypeError, ValueError), match=rf"^num_buckets must be .* in {re.escape(str(path))}$"
    ):
        from_config(path)


def test_a_flag_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="is_decoder must be True or False, got 'no'"):
        from_config({"relative_attention_num_buckets": 32, "is_decoder": "no"})


# ---- tensors ----


def test_a_table_of_the_wrong_shape_or_dtype_is_named_with_its_file(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "two axes, buckets and heads, got shape (32,)": np.ones(32, np.float32),
        "float16, bfloat16, float32 or float64, got int8": np.ones((32, 2), np.int8),
    }
    for name, array in arrays.items():
        np.savez(tmp_path / "x.npz", t=array)
        np.save(tmp_path / "t.npy", array)
        for path in (tmp_path / "x.npz", tmp_path / "t.npy"):
            message = re.escape(f"{name} in 't' of {path}")
            with pytest.raises((TypeError, ValueError), match=message):
                load(path)
    np.save(tmp_path / "t.npy", make_weight(3))
    with pytest.raises(ValueError, match=r"at least 4 rows, .*got 3 in 't' of .*t\.npy"):
        load(tmp_path / "t.npy")
    np.save(tmp_path / "t.npy", make_weight(1000))
    with pytest.raises(
        ValueError, match=r"max_exact = 250, got 128 in 't' of .*; buckets= or --max-"
    ):
        load(tmp_path / "t.npy")
    with pytest.raises(ValueError, match=r"32 buckets, got 1000 rows in 't' of .*t\.npy"):
        load(tmp_path / "t.npy", buckets=tb.Buckets())


def test_integers_are_refused_alike_in_every_format(tmp_path: Path) -> None:
    entry = ENTRY | {"dtype": "I32"}
    paths = [write_safetensors(tmp_path / "x.safetensors", json.dumps({T5: entry}))]
    for kind, dtype in ((24, "int8"), (25, "int16"), (26, "int32"), (27, "int64")):
        paths += [tmp_path / f"{dtype}.gguf"]
        paths[-1].write_bytes(gguf_file((T5, kind)))
    for path in paths:
        message = rf"weight must be float16, .*, got int\d+ in '{T5}' of {re.escape(str(path))}"
        with pytest.raises(TypeError, match=message):
            load(path)


@pytest.mark.parametrize("path", ["a\0b.npy", "a\0", "org/na\0me", b"x.npy"])
def test_a_path_with_nul_or_of_bytes_is_refused(path: Any) -> None:
    for function in (load, tb.RelativeAttentionBias.from_pretrained):
        with pytest.raises((TypeError, ValueError), match=r"path must be a path.*, got b?'"):
            function(path)
    if isinstance(path, str):
        with pytest.raises(ValueError, match=r"config must be a path without NUL, got '"):
            from_config(path)


def test_letters_that_cannot_be_printed_are_escaped(tmp_path: Path) -> None:
    entry = ENTRY | {"shape": [33, 2]}
    name = "\x1b[31m\0\n.relative_attention_bias.weight"
    path = write_safetensors(tmp_path / "x.safetensors", json.dumps({name: entry}))
    with pytest.raises(ValueError, match="path must be a sound") as caught:
        load(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("suffix", ["safetensors", "npy", "npz", "bin", "gguf"])
def test_a_pointer_of_git_lfs_is_no_damaged_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345678\n",
        encoding="utf-8",
    )
    if suffix == "bin":
        pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r"it is a pointer of Git LFS: .* git lfs pull"):
        load(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("[]", "its header is no JSON object"),
        ('{"a": 3}', "'a' must have data_offsets, dtype, shape, got 3"),
        ('{"a": {"dtype": "F32"}}', "'a' must have data_offsets, dtype, shape, got {'dtype'"),
        ('{"a": {"dtype": "F4", "shape": [], "data_offsets": [0, 0]}}', "'a' has dtype 'F4'"),
    ],
)
def test_missing_keys_of_a_header_are_named(header: str, message: str, tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", header)
    with pytest.raises(ValueError, match=re.escape(message)):
        load(path)


# ---- repeated keys ----


def test_a_repeated_key_is_named_with_its_file(tmp_path: Path) -> None:
    entry = json.dumps(ENTRY)
    paths = [write_safetensors(tmp_path / "x.safetensors", f'{{"{T5}": {entry}, "{T5}": {entry}}}')]
    paths.append(tmp_path / "x.npz")
    np.savez(paths[-1], **{T5: make_weight()})
    with zipfile.ZipFile(paths[-1], "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(f"{T5}.npy", archive.read(f"{T5}.npy"))
    paths.append(tmp_path / "x.gguf")
    paths[-1].write_bytes(gguf_file((T5, 0), (T5, 0)))
    paths.append(tmp_path / "x.index.json")
    paths[-1].write_text(
        f'{{"weight_map": {{"{T5}": "a.bin", "{T5}": "b.bin"}}}}', encoding="utf-8"
    )
    for path in paths:
        with pytest.raises(ValueError, match=rf"got {re.escape(str(path))} .*it has '{T5}' twice"):
            load(path)
    config = tmp_path / "config.json"
    config.write_text(
        '{"relative_attention_num_buckets": 8, "relative_attention_num_buckets": 9}',
        encoding="utf-8",
    )
    message = (
        rf"config must be a JSON file, got {re.escape(str(config))} \(it has 'relative_\w+' twice\)"
    )
    with pytest.raises(ValueError, match=message):
        from_config(config)


def test_names_that_nested_dicts_share_are_refused(tmp_path: Path) -> None:
    torch: Any = pytest.importorskip("torch")
    nested = {"a.b.relative_attention_bias.weight": torch.ones(32, 2), "a": {}}
    nested["a"]["b.relative_attention_bias.weight"] = torch.zeros(32, 2)
    torch.save(nested, tmp_path / "x.bin")
    with pytest.raises(ValueError, match=r"x\.bin \(it has 'a\.b\.rel\S+' twice"):
        load(tmp_path / "x.bin")


# ---- memory ----


@pytest.mark.parametrize("filling", ["[],", "{},", "0,", '"",'])
def test_a_header_of_millions_of_values_takes_no_memory(filling: str, tmp_path: Path) -> None:
    many = filling * (1 << 22)
    path = write_safetensors(tmp_path / "x.safetensors", f'{{"x": [{many} 0]}}')
    (tmp_path / "config.json").write_text(f'{{"x": [{many} 0]}}', encoding="utf-8")
    tracemalloc.start()
    for call in (lambda: load(path), lambda: from_config(tmp_path)):
        with pytest.raises(ValueError, match=r"it has up to \d+ values, more than 2097152"):
            call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * path.stat().st_size + (1 << 16)  # what Python itself takes varies


def test_the_tables_of_both_stacks_are_still_found_among_many(tmp_path: Path) -> None:
    header = {f"layers.{i}.weight": ENTRY for i in range(20_000)} | {T5: ENTRY, T5_DECODER: ENTRY}
    path = write_safetensors(tmp_path / "x.safetensors", json.dumps(header))
    assert not load(path, tensor="decoder").buckets.bidirectional
