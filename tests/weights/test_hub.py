# test_hub.py - RelativeAttentionBias.from_pretrained, with a local hub and its cache.
# SPDX-License-Identifier: BSD-3-Clause
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import (
    T5,
    make_weight,
    save_pytorch,
    save_safetensors,
    save_shards,
    tensors,
    write_config,
)

import t5bucket as tb

hub: Any = pytest.importorskip("huggingface_hub")
pytest.importorskip("torch")
from_pretrained = tb.RelativeAttentionBias.from_pretrained
ENCODER = "Buckets(num_buckets=32, max_distance=77, bidirectional=True), first weight 0"
DECODER = "Buckets(num_buckets=32, max_distance=77, bidirectional=False), first weight 1"
DEFAULT = "Buckets(num_buckets=32, max_distance=128, bidirectional=True), first weight 0"
SHARD = r"model-0000\d-of-00003\.safetensors"


def make_hub(root: Path) -> None:
    for name in ("sharded", "pickled", "pipeline/text_encoder_2", "files", "empty"):
        (root / "org" / name).mkdir(parents=True)
        if name not in ("files", "empty"):
            write_config(root / "org" / name)
    save_shards(root / "org/sharded", tensors())
    save_pytorch(root / "org/pickled/pytorch_model.bin", tensors())
    save_safetensors(root / "org/pipeline/text_encoder_2/model.safetensors", tensors())
    save_safetensors(root / "org/files/t5xxl.safetensors", {T5: tensors()[T5]})


def load_online(root: Path, cache: Path, calls: list[dict[str, Any]]) -> list[Any]:
    """Load models with the real library, in a process whose hub is a folder."""
    unset = {name for name in os.environ if name.startswith("HF_")}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"}
    program = Path(__file__).parents[1] / "support" / "hub.py"
    command = [sys.executable, str(program), str(root), json.dumps(calls)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert finished.returncode == 0, finished.stderr
    answers: list[Any] = json.loads(finished.stdout)
    return answers


CALLS: dict[str, dict[str, Any]] = {
    "encoder": {"name_or_path": "org/sharded", "tensor": "encoder"},
    "encoder again": {"name_or_path": "org/sharded"},
    "decoder": {"name_or_path": "org/sharded", "tensor": "decoder"},
    "pickled": {"name_or_path": "org/pickled", "tensor": "decoder"},
    "part": {"name_or_path": "org/pipeline/text_encoder_2", "tensor": "encoder"},
    "whole pipeline": {"name_or_path": "org/pipeline"},
    "file": {"name_or_path": "org/files/t5xxl.safetensors"},
    "file again": {"name_or_path": "org/files/t5xxl.safetensors"},
    "no file": {"name_or_path": "org/files/none.gguf"},
    "no model": {"name_or_path": "org/none"},
    "empty": {"name_or_path": "org/empty"},
}


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Answers by the names of CALLS, and the cache that they left."""
    folder = tmp_path_factory.mktemp("hub")
    make_hub(folder / "root")
    answers = load_online(folder / "root", folder / "cache", [*CALLS.values()])
    return dict(zip(CALLS, answers, strict=True)), folder / "cache"


@pytest.fixture
def cache(online: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the cache, links and all; nothing can be fetched."""
    path = tmp_path / "cache"
    shutil.copytree(online[1], path, symlinks=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(path))
    monkeypatch.setattr(hub, "hf_hub_download", lambda *_, **__: pytest.fail("fetched"))
    monkeypatch.setattr(hub, "get_hf_file_metadata", lambda *_, **__: None)  # it answers
    return path


def fetched(answer: Any) -> list[str]:
    return [line.removeprefix("GET ") for line in answer["requests"] if line.startswith("GET ")]


# ---- with a connection ----


def test_only_the_configuration_and_the_shard_in_question_are_fetched(online: Any) -> None:
    answer = online[0]["encoder"]
    assert answer["result"] == ENCODER
    index, shard, config = fetched(answer)
    assert (index, config) == ("model.safetensors.index.json", "config.json")
    assert re.fullmatch(SHARD, shard)


def test_files_in_the_cache_need_no_request(online: Any) -> None:
    for name in ("encoder again", "file again"):
        assert online[0][name] == {"result": ENCODER if "enc" in name else DEFAULT, "requests": []}


def test_another_tensor_fetches_its_shard_alone(online: Any) -> None:
    answer = online[0]["decoder"]
    assert answer["result"] == DECODER
    (shard,) = fetched(answer)
    assert re.fullmatch(SHARD, shard)
    assert shard not in fetched(online[0]["encoder"])


def test_a_model_of_pickles_a_part_of_a_pipeline_and_a_file_are_found(online: Any) -> None:
    assert online[0]["pickled"]["result"] == DECODER
    assert fetched(online[0]["pickled"]) == ["pytorch_model.bin", "config.json"]
    assert online[0]["part"]["result"] == ENCODER
    assert online[0]["file"]["result"] == DEFAULT
    assert fetched(online[0]["file"]) == ["t5xxl.safetensors"]  # there is no configuration


def test_models_that_the_hub_does_not_have_are_named(online: Any) -> None:
    answers = online[0]
    assert re.match(
        r"OSError: name_or_path must be .* got org/none, ", answers["no model"]["result"]
    )
    assert re.match(r"FileNotFoundError: .*org/files.*none\.gguf", answers["no file"]["result"])
    for name in ("whole pipeline", "empty"):
        assert "must be a folder with model.safetensors" in answers[name]["result"]
        assert f"got {CALLS[name]['name_or_path']}" in answers[name]["result"]


# ---- without one ----


@pytest.mark.parametrize("has_package", [True, False])
def test_the_cache_is_read_without_a_connection_and_without_the_package(
    has_package: bool, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_package:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    bias = from_pretrained("org/sharded", tensor="encoder")
    assert np.array_equal(bias.weight, make_weight())
    assert bias.buckets == tb.Buckets(32, 77)
    assert not from_pretrained("org/pickled", tensor="decoder").buckets.bidirectional
    assert from_pretrained("org/pipeline/text_encoder_2", tensor="encoder").num_heads == 2
    assert from_pretrained("org/files/t5xxl.safetensors").buckets == tb.Buckets(32, 128)


@pytest.mark.parametrize(
    "variables",
    [
        {"HF_HOME": "{0}"},
        {"HUGGINGFACE_HUB_CACHE": "{0}/hub"},
        {"XDG_CACHE_HOME": "{0}/xdg"},
        {"HOME": "{0}/home"},
        {"HF_HOME": "$WHERE", "WHERE": "{0}"},
    ],
)
def test_the_cache_lies_where_the_environment_says(
    variables: dict[str, str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cache.parent
    for path in ("hub", "xdg/huggingface/hub", "home/.cache/huggingface/hub"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to(cache)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(folder))
    assert from_pretrained("org/sharded", tensor="encoder").num_heads == 2


def test_a_model_that_is_not_in_the_cache_names_the_extra(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"google-t5/t5-small.*'t5bucket\[hub\]'") as caught:
        from_pretrained("google-t5/t5-small")
    assert str(cache) in str(caught.value)


def test_missing_files_of_a_cached_model_are_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disconnected(*_: Any, **options: Any) -> None:
        assert options["revision"] is not None  # of the commit that the rest is of
        raise hub.utils.LocalEntryNotFoundError("no connection\nand more")

    monkeypatch.setattr(hub, "hf_hub_download", disconnected)
    snapshot = next((cache / "models--org--sharded" / "snapshots").iterdir())
    (snapshot / "config.json").unlink()
    with pytest.raises(OSError, match=r"config\.json is .*\(no connection\); buckets= or"):
        from_pretrained("org/sharded", tensor="encoder")
    assert from_pretrained("org/sharded", tensor="encoder", buckets=tb.Buckets()).num_heads == 2
    for shard in snapshot.glob("*-of-*"):
        shard.unlink()
    with pytest.raises(OSError, match=rf"org/sharded, whose {SHARD} is not in"):
        from_pretrained("org/sharded", tensor="encoder")


def test_a_hub_that_does_not_answer_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def disconnected(url: str) -> None:
        asked.append(url)
        raise OSError("Name or service not known")

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "get_hf_file_metadata", disconnected)
    monkeypatch.setattr(hub, "hf_hub_download", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(OSError, match=r"\(no answer from the hub: Name or service not known\)"):
        from_pretrained("nosuch")
    assert len(asked) == 1


def test_a_folder_or_a_file_wins_over_a_name(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("org/sharded").mkdir(parents=True)
    np.save("org/sharded/x.npy", make_weight() + 5)
    assert from_pretrained("org/sharded").weight[0, 0] == 5
    assert from_pretrained(Path("org/sharded/x.npy")).weight[0, 0] == 5
    with pytest.raises(FileNotFoundError, match=r"org/shraded"):
        from_pretrained("org/shraded")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "../x",
        "a/../../b",
        "/a/b",
        "a//b",
        "missing.npy",
        "./a",
        "a\\b",
        "-a/b",
        "a/b/../c",
    ],
)
def test_a_string_that_cannot_be_a_name_is_a_path(
    name: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises((FileNotFoundError, ValueError), match=r"must|No such"):
        from_pretrained(name)


@pytest.mark.parametrize("name", [None, 3, b"a/b", ["a/b"]])
def test_a_value_that_is_neither_name_nor_path_is_refused(name: Any) -> None:
    with pytest.raises(TypeError, match="name_or_path must be a path, got"):
        from_pretrained(name)


@pytest.mark.parametrize("commit", ["../../elsewhere", "", "a/b", "..", "\0", "x" * 5000])
def test_a_cache_whose_ref_leads_elsewhere_is_no_cache(commit: str, cache: Path) -> None:
    ref = cache / "models--org--sharded" / "refs" / "main"
    ref.write_text(commit, encoding="utf-8")
    (cache / "elsewhere").mkdir()
    save_safetensors(cache / "elsewhere" / "model.safetensors", tensors())
    with pytest.raises(pytest.fail.Exception, match="fetched"):
        from_pretrained("org/sharded")


# ---- caches that lack something ----


@pytest.fixture
def snapshot(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty the snapshot of a cached model, except its configuration; there is no connection."""
    folder = next((cache / "models--org--sharded" / "snapshots").iterdir())
    for path in folder.iterdir():
        if path.name != "config.json":
            path.unlink()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    return folder


def test_a_cached_variant_is_taken_if_it_is_the_only_one(snapshot: Path) -> None:
    save_safetensors(snapshot / "model.fp16.safetensors", tensors())
    assert from_pretrained("org/sharded").buckets == tb.Buckets(32, 77)
    save_safetensors(snapshot / "model.fp8.safetensors", {T5: tensors()[T5] + 8})
    names = r"org/sharded/model\.fp16\.safetensors, org/sharded/model\.fp8\.safetensors"
    with pytest.raises(ValueError, match=rf"path must name one of {names}, got org/sharded"):
        from_pretrained("org/sharded")
    assert from_pretrained("org/sharded/model.fp8.safetensors").weight[0, 0] == 8


def test_a_cached_file_wins_over_an_index_without_its_shards(snapshot: Path) -> None:
    weight_map = {T5: "model-00001-of-00003.safetensors"}
    (snapshot / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": weight_map}), encoding="utf-8"
    )
    with pytest.raises(ImportError, match=r"whose model-00001-of-00003\.safetensors is not in"):
        from_pretrained("org/sharded")
    save_pytorch(snapshot / "pytorch_model.bin", {T5: tensors()[T5] + 6})
    assert from_pretrained("org/sharded").weight[0, 0] == 6


def test_files_in_the_cache_are_listed(snapshot: Path) -> None:
    save_safetensors(snapshot / "t5xxl.safetensors", tensors())
    (snapshot / "text_encoder").mkdir()
    save_safetensors(snapshot / "text_encoder" / "model.safetensors", tensors())
    listed = "; the cache has org/sharded/t5xxl.safetensors, org/sharded/text_encoder"
    with pytest.raises(ImportError, match=re.escape(listed)):
        from_pretrained("org/sharded")
    write_config(snapshot / "text_encoder")
    assert from_pretrained("org/sharded/text_encoder").num_heads == 2


def test_a_cache_without_the_main_revision_names_its_folders(cache: Path, snapshot: Path) -> None:
    save_safetensors(snapshot / "model.safetensors", tensors())
    ref = cache / "models--org--sharded" / "refs" / "main"
    for change in (lambda: ref.write_text("fedcba", encoding="utf-8"), ref.unlink):
        change()
        with pytest.raises(
            ImportError, match=f"no snapshot of refs/main, .* folders {re.escape(str(snapshot))}$"
        ):
            from_pretrained("org/sharded")
    assert from_pretrained(snapshot).num_heads == 2
