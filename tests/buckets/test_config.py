# test_config.py - Buckets.from_config: every family's configuration, as object, dict and file.
# SPDX-License-Identifier: BSD-3-Clause
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import t5bucket as tb

T5 = {"relative_attention_num_buckets": 64, "relative_attention_max_distance": 256}
CASES: list[tuple[dict[str, Any], tuple[int, int, bool]]] = [
    (T5, (64, 256, True)),
    (T5 | {"is_decoder": True}, (64, 256, False)),
    (T5 | {"is_decoder": False}, (64, 256, True)),
    ({"relative_attention_num_buckets": 32}, (32, 128, True)),
    ({"model_type": "mpnet", "relative_attention_num_buckets": 32}, (32, 128, True)),
    ({"rel_pos_bins": 32, "max_rel_pos": 128, "rel_2d_pos_bins": 64}, (32, 128, True)),
    ({"num_buckets": 320, "max_bucket_distance": 800}, (320, 800, True)),
    ({"num_buckets": 32, "relative_max_distance": 128}, (32, 128, False)),
    ({"position_bias_num_buckets": 512, "position_bias_max_distance": 2048}, (512, 2048, True)),
    ({"model_type": "pix2struct_text_model", **T5, "is_decoder": False}, (64, 256, False)),
    ({"text_config": {"model_type": "pix2struct_text_model", **T5}}, (64, 256, False)),
]


@pytest.mark.parametrize(("config", "settings"), CASES)
def test_dict_object_and_file_agree(
    config: dict[str, Any], settings: tuple[int, int, bool], tmp_path: Path
) -> None:
    expected = tb.Buckets(*settings)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    for form in (config, SimpleNamespace(**config), path, str(path), tmp_path):
        assert tb.Buckets.from_config(form) == expected


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "bert"},
        {"num_buckets": 32},
        {"text_config": {}},
        SimpleNamespace(hidden_size=3),
        None,
        3,
    ],
)
def test_a_configuration_without_buckets_is_refused(config: Any) -> None:
    with pytest.raises(ValueError, match="config must have relative position buckets"):
        tb.Buckets.from_config(config)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"config must be a JSON (file|object), got .*config\.json"
    ):
        tb.Buckets.from_config(path)


def test_a_configuration_that_holds_itself_is_refused() -> None:
    config: dict[str, Any] = {}
    config["text_config"] = config
    with pytest.raises(ValueError, match="config must have"):
        tb.Buckets.from_config(config)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tb.Buckets.from_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("value", "error"), [(3, ValueError), ("32", TypeError), (32.0, TypeError)]
)
def test_bad_settings_in_a_configuration_are_refused(value: Any, error: Any) -> None:
    with pytest.raises(error, match="num_buckets must be"):
        tb.Buckets.from_config({"relative_attention_num_buckets": value})


# ---- composite models ----

OTHER = {"model_type": "encodec", "hidden_size": 3, "ratios": [8, 5], "id2label": {"0": "a"}}


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "musicgen", "text_encoder": T5, "audio_encoder": OTHER, "decoder": {}},
        {"model_type": "x", "thinker": {"text_config": {"encoder": T5}}},
        {"encoder": T5, "decoder": T5},
    ],
)
def test_the_part_that_has_buckets_is_found(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    as_objects = json.loads(json.dumps(config), object_hook=lambda part: SimpleNamespace(**part))
    for form in (config, as_objects, tmp_path):
        assert tb.Buckets.from_config(form) == tb.Buckets(64, 256)


def test_parts_that_differ_are_named() -> None:
    config = {"encoder": T5, "decoder": T5 | {"is_decoder": True}}
    with pytest.raises(ValueError, match=r"encoder \(64, 256, True\), decoder .*False\), got"):
        tb.Buckets.from_config(config)
    assert tb.Buckets.from_config(config["decoder"]) == tb.Buckets(64, 256, False)


@pytest.mark.parametrize("name", ["MusicgenConfig", "Pix2StructConfig", "EncoderDecoderConfig"])
def test_composite_configurations_of_transformers_are_read(name: str) -> None:
    transformers: Any = pytest.importorskip("transformers")
    t5 = transformers.T5Config(**T5).to_dict()
    parts = {
        "MusicgenConfig": {"text_encoder": t5, "audio_encoder": {"model_type": "encodec"}},
        "Pix2StructConfig": {"text_config": T5},
        "EncoderDecoderConfig": {"encoder": t5, "decoder": {"model_type": "bert"}},
    }
    if name == "MusicgenConfig":
        parts[name]["decoder"] = {"model_type": "musicgen_decoder"}
    config = getattr(transformers, name)(**parts[name])
    expected = tb.Buckets(64, 256, bidirectional=name != "Pix2StructConfig")
    assert tb.Buckets.from_config(config) == expected
    assert tb.Buckets.from_config(config.to_dict()) == expected


def test_parts_are_looked_for_in_time_and_not_deeper_than_models_have_them() -> None:
    config: dict[str, Any] = T5
    for _ in range(4):
        config = {"part": config}
    with pytest.raises(ValueError, match="config must have relative position buckets"):
        tb.Buckets.from_config(config)
    shared: dict[str, Any] = {}
    wide: dict[str, Any] = {str(i): {"part": shared} for i in range(20_000)}
    with pytest.raises(ValueError, match="config must have relative position buckets"):
        tb.Buckets.from_config(wide)
    wide = {str(i): T5 | {"relative_attention_num_buckets": 8 + i} for i in range(1000)}
    with pytest.raises(ValueError, match="and 980 more, got a mapping") as caught:
        tb.Buckets.from_config(wide)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("value", [[], {}, [[]]])
def test_settings_that_are_no_numbers_are_refused_in_parts_too(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="must be"):
        tb.Buckets.from_config({"part": {"relative_attention_num_buckets": value}})
