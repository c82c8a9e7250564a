# test_folders.py - folders of models, sharded checkpoints, and links out of folders.
# SPDX-License-Identifier: BSD-3-Clause
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import (
    T5,
    T5_DECODER,
    make_weight,
    save_pytorch,
    save_safetensors,
    save_shards,
    tensors,
    write_config,
)

import t5bucket as tb

load = tb.RelativeAttentionBias.load


KEY = "relative_attention_num_buckets"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    save_shards(folder, tensors())
    write_config(folder)
    return folder


def write_index(folder: Path, weight_map: Any) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    return path


# ---- found files ----


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("model.safetensors", save_safetensors),
        ("pytorch_model.bin", save_pytorch),
        ("umt5-xxl-enc.safetensors", save_safetensors),
        ("models_t5.pth", save_pytorch),
    ],
)
def test_a_folder_is_the_weights_and_the_configuration_in_it(
    name: str, save: Any, tmp_path: Path
) -> None:
    save(tmp_path / name, tensors())
    write_config(tmp_path)
    (tmp_path / "generation_config.json").write_text("{", encoding="utf-8")
    bias = load(tmp_path, tensor="encoder")
    assert np.array_equal(bias.weight, make_weight())
    assert bias.buckets == tb.Buckets(32, 77)
    assert load(str(tmp_path), tensor="decoder").buckets == tb.Buckets(32, 77, False)


@pytest.mark.parametrize("safe", [True, False])
def test_a_sharded_checkpoint_is_read_by_its_index(safe: bool, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    save_shards(tmp_path, tensors(), safe=safe)
    assert len([*tmp_path.glob("*-of-*")]) == 3
    (index,) = tmp_path.glob("*.index.json")
    for path in (tmp_path, index):
        bias = load(path, tensor=T5_DECODER)
        assert np.array_equal(bias.weight, make_weight() + 1)
        assert not bias.buckets.bidirectional


def test_an_index_of_a_variant_is_found(tmp_path: Path) -> None:
    save_shards(tmp_path, tensors())
    index = tmp_path / "model.safetensors.index.json"
    index.rename(tmp_path / "model.safetensors.index.fp16.json")
    assert load(tmp_path, tensor="encoder").num_heads == 2


def test_only_the_shard_with_the_table_is_opened(sharded: Path) -> None:
    files = json.loads((sharded / "model.safetensors.index.json").read_text(encoding="utf-8"))[
        "weight_map"
    ]
    for name, file in files.items():
        if name != T5:
            (sharded / file).write_bytes(b"damaged")
    assert np.array_equal(load(sharded, tensor=T5).weight, make_weight())


def test_safetensors_win_over_a_pickle_next_to_them(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "model.safetensors", {T5: tensors()[T5]})
    (tmp_path / "pytorch_model.bin").write_bytes(b"damaged")
    assert load(tmp_path).num_heads == 2


def test_a_complete_file_wins_over_an_index_without_its_shards(tmp_path: Path) -> None:
    index = write_index(tmp_path, {T5: "model-00001-of-00002.safetensors", "x": "y.safetensors"})
    with pytest.raises(FileNotFoundError, match=r"the shard with .*model-00001-of-00002\.safe"):
        load(tmp_path)
    save_safetensors(tmp_path / "model.fp16.safetensors", {T5: tensors()[T5] + 3})
    save_safetensors(tmp_path / "y.safetensors", {"x": tensors()[T5]})
    with pytest.raises(FileNotFoundError):  # a part of the set is there
        load(tmp_path)
    (tmp_path / "y.safetensors").unlink()
    assert load(tmp_path).weight[0, 0] == 3
    save_pytorch(tmp_path / "pytorch_model.bin", {T5: tensors()[T5] + 5})
    assert load(tmp_path).weight[0, 0] == 5
    index.write_text("{", encoding="utf-8")
    assert load(tmp_path).weight[0, 0] == 5


def test_a_complete_file_wins_under_other_names_too(tmp_path: Path) -> None:
    index = write_index(tmp_path, {T5: "t5-00001-of-00002.safetensors"})
    index.rename(tmp_path / "t5.safetensors.index.json")
    (tmp_path / "training_args.bin").write_bytes(b"code")
    with pytest.raises(FileNotFoundError, match="the shard with"):
        load(tmp_path)
    save_safetensors(tmp_path / "t5.safetensors", {T5: tensors()[T5] + 4})
    assert load(tmp_path).weight[0, 0] == 4


def test_other_files_named_index_are_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "vocabulary.index.json").write_text('{"a": 3}', encoding="utf-8")
    save_safetensors(tmp_path / "t5.safetensors", {T5: tensors()[T5]})
    assert load(tmp_path).num_heads == 2


def test_a_variant_is_taken_if_it_is_the_only_one(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "model.fp16.safetensors", {T5: tensors()[T5]})
    (tmp_path / "training_args.bin").write_bytes(b"code")
    assert load(tmp_path).num_heads == 2
    save_safetensors(tmp_path / "model.bf16.safetensors", {T5: tensors()[T5]})
    names = r"model\.bf16\.safetensors, model\.fp16\.safetensors"
    with pytest.raises(ValueError, match=f"path must name one of {names}, got"):
        load(tmp_path)


def test_part_of_a_composite_model_has_its_own_settings(tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", **{f"text_encoder.{T5}": make_weight()})
    t5 = {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 55}
    other = t5 | {"relative_attention_max_distance": 66}
    (tmp_path / "config.json").write_text(
        json.dumps({"text_encoder": t5, "audio": other}), encoding="utf-8"
    )
    assert load(tmp_path).buckets == tb.Buckets(32, 55)
    np.savez(tmp_path / "model.npz", **{T5: make_weight()})
    with pytest.raises(ValueError, match=r"config must have one part with .*text_encoder"):
        load(tmp_path)
    assert load(tmp_path, buckets=tb.Buckets(32, 99)).buckets.max_distance == 99


# ---- refused folders ----


def test_several_tables_are_listed_with_their_shapes(sharded: Path) -> None:
    with pytest.raises(ValueError, match="tensor must name one of") as caught:
        load(sharded)
    assert f"'{T5}' (32, 2)" in str(caught.value)
    assert f"'{T5_DECODER}' (32, 2)" in str(caught.value)
    assert "shared.weight" not in str(caught.value)


def test_a_part_of_a_name_that_two_tables_have_is_refused(tmp_path: Path) -> None:
    names = [T5.replace("block.0", f"block.{layer}") for layer in range(12)]
    np.savez(tmp_path / "umt5.npz", **{name: make_weight() + i for i, name in enumerate(names)})
    assert load(tmp_path, tensor="block.1").weight[0, 0] == 1
    assert load(tmp_path, tensor="encoder.block.11").weight[0, 0] == 11
    with pytest.raises(ValueError, match=r"tensor must name one of .*got 'encoder'"):
        load(tmp_path, tensor="encoder")
    with pytest.raises(ValueError, match=r"tensor must be one of .*got 'block\.12'"):
        load(tmp_path, tensor="block.12")


def test_the_unused_table_of_old_checkpoints_is_no_candidate(tmp_path: Path) -> None:
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    np.savez(tmp_path / "x.npz", **{unused: make_weight(), T5_DECODER: make_weight() + 1})
    assert load(tmp_path).weight[0, 0] == 1
    assert load(tmp_path, tensor=unused).weight[0, 0] == 0


def test_a_folder_without_weights_lists_the_expected_names(tmp_path: Path) -> None:
    (tmp_path / "flax_model.msgpack").touch()
    with pytest.raises(ValueError, match=r"must be a folder with model\.safetensors, .* got .*"):
        load(tmp_path)
    np.save(tmp_path / "a.npy", make_weight())
    np.save(tmp_path / "b.npy", make_weight())
    with pytest.raises(ValueError, match=r"path must name one of a\.npy, b\.npy, got"):
        load(tmp_path)


def test_a_pipelines_folder_names_its_parts(tmp_path: Path) -> None:
    for part in ("text_encoder", "text_encoder_2", "vae"):
        (tmp_path / part).mkdir()
    (tmp_path / "text_encoder" / "model.safetensors").touch()
    (tmp_path / "text_encoder_2" / "model.fp16.safetensors").touch()
    with pytest.raises(ValueError, match=r"its parts are text_encoder, text_encoder_2$"):
        load(tmp_path)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    files = json.loads((sharded / "model.safetensors.index.json").read_text(encoding="utf-8"))[
        "weight_map"
    ]
    (sharded / files[T5]).unlink()
    with pytest.raises(FileNotFoundError, match=files[T5]) as caught:
        load(sharded, tensor="encoder")
    assert caught.value.filename == str(sharded / files[T5])
    with pytest.raises(ValueError, match="tensor must name one of"):  # its shape is not known
        load(sharded)


def test_a_damaged_shard_is_named(sharded: Path) -> None:
    files = json.loads((sharded / "model.safetensors.index.json").read_text(encoding="utf-8"))[
        "weight_map"
    ]
    (sharded / files[T5]).write_bytes(b"damaged")
    with pytest.raises(
        ValueError, match=f"^path must be a sound .safetensors file, got .*{files[T5]}"
    ):
        load(sharded, tensor="encoder")


def test_a_shard_that_lacks_its_tensor_is_named(sharded: Path) -> None:
    files = json.loads((sharded / "model.safetensors.index.json").read_text(encoding="utf-8"))[
        "weight_map"
    ]
    write_index(sharded, {T5: files["shared.weight"]})
    with pytest.raises(ValueError, match=f"{files['shared.weight']} must have '{T5}'"):
        load(sharded)


@pytest.mark.parametrize(
    "file",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "sub/model.safetensors",
        "..",
        ".",
        "",
        "model.safetensors.index.json",  # an index that leads to itself
        "other.index.json",
        "other.index.fp16.json",
        "x.gguf",
        3,
        None,
        ["x.safetensors"],
        {"a": "x.safetensors"},
    ],
)
def test_an_index_leads_to_files_next_to_it_alone(file: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for path in (tmp_path / "secret.safetensors", folder / "sub" / "model.safetensors"):
        save_safetensors(path, {T5: tensors()[T5]})
    write_index(folder, {T5: file})
    (folder / "other.index.json").write_text("{}", encoding="utf-8")
    index = folder / "model.safetensors.index.json"
    with pytest.raises(
        ValueError, match=f"must be in a file next to {re.escape(str(index))}, got "
    ):
        load(index)


def test_texts_of_files_are_shortened_in_messages(tmp_path: Path) -> None:
    long = "x" * 1_000_000
    names = [f"{long}{number}.relative_attention_bias.weight" for number in range(30)]
    index = write_index(tmp_path, dict.fromkeys(names, "shard.safetensors"))
    messages = []
    with pytest.raises(ValueError, match="tensor must name one of") as caught:
        load(index)
    messages.append(str(caught.value))
    write_index(tmp_path, {"x": long})
    with pytest.raises(ValueError, match="must be in a file next to") as caught:
        load(index)
    messages.append(str(caught.value))
    np.save(tmp_path / "x.npy", make_weight())
    for config in ({KEY: long}, {"a": {KEY: long}, "b": {KEY: 3}}):
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        with pytest.raises((TypeError, ValueError), match=r"must (have|be)") as refused:
            load(tmp_path / "x.npy")
        messages.append(str(refused.value))
    assert max(map(len, messages)) < 10_000


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"weight_map": []}', b"[" * 99_999])
def test_a_damaged_index_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"path must be a sound \.json file, got "):
        load(tmp_path)


# ---- links ----


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_link_out_of_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_safetensors(folder / "model.safetensors", {T5: tensors()[T5]})
    write_config(folder)
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(Path("..", name))
    with pytest.raises(ValueError, match="must not be a link out of its folder, got one to"):
        load(folder)
    save_safetensors(tmp_path / "model.safetensors", {T5: tensors()[T5]})
    (folder / "config.json").unlink()
    assert load(folder / "model.safetensors").num_heads == 2  # a file that the caller names


def test_a_shard_that_is_a_link_out_of_the_folder_is_refused(sharded: Path) -> None:
    files = json.loads((sharded / "model.safetensors.index.json").read_text(encoding="utf-8"))[
        "weight_map"
    ]
    (sharded / files[T5]).rename(sharded.parent / "elsewhere")
    (sharded / files[T5]).symlink_to(Path("..", "elsewhere"))
    path = re.escape(str(sharded / files[T5]))
    with pytest.raises(ValueError, match=f"^{path} must not be a link out of its"):
        load(sharded, tensor="encoder")


def test_links_within_the_folder_and_to_the_folder_are_followed(sharded: Path) -> None:
    files = json.loads((sharded / "model.safetensors.index.json").read_text(encoding="utf-8"))[
        "weight_map"
    ]
    (sharded / files[T5]).rename(sharded / "blob")
    (sharded / files[T5]).symlink_to("blob")
    (sharded.parent / "link").symlink_to(sharded)
    assert load(sharded.parent / "link", tensor="encoder").num_heads == 2


def test_a_cache_of_hugging_face_is_links_to_its_blobs_and_no_others(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123" / "text_encoder"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    save_safetensors(blobs / "beef", {T5: tensors()[T5]})
    (snapshot / "model.safetensors").symlink_to(Path("..", "..", "..", "blobs", "beef"))
    assert load(snapshot).num_heads == 2
    shutil.move(blobs / "beef", tmp_path / "beef")
    (blobs / "beef").symlink_to(tmp_path / "beef")
    with pytest.raises(ValueError, match="must not be a link out of its folder"):
        load(snapshot)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes that stand in folders")
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "x.index.json"])
def test_pipes_and_devices_in_a_folder_are_refused_at_once(name: str, tmp_path: Path) -> None:
    if name == "config.json":
        save_safetensors(tmp_path / "model.safetensors", {T5: tensors()[T5]})
    os.mkfifo(tmp_path / name)
    target = tmp_path if name != "x.index.json" else tmp_path / name
    with pytest.raises(ValueError, match="path must be a regular file, got"):
        load(target)


def test_links_that_lead_in_a_circle_are_no_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to("model.safetensors")
    with pytest.raises((ValueError, OSError)):
        load(tmp_path)
