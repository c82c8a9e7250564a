# test_config.py - Buckets.from_config: every family's configuration, as object, dict and file.
# SPDX-License-Identifier: BSD-3-Clause
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
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
    path.write_text(json.dumps(config), encoding="utf-8")
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
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
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


WAVLM = {"num_buckets": 64, "max_bucket_distance": 700}
ENCODERS = {"encoder": T5, "lm": T5 | {"relative_attention_max_distance": 99}}
NAME = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"


@pytest.mark.parametrize(
    ("tensor", "config", "max_distance"),
    [
        (f"lm.encoder.{NAME}", ENCODERS, 99),
        (f"module.model.lm.encoder.{NAME}", ENCODERS, 99),
        (f"encoder.encoder.{NAME}", ENCODERS, 256),
        (f"x.encoder.{NAME}", ENCODERS, None),  # its name tells neither
        (f"text_model.encoder.{NAME}", {"text_config": T5, "lm_config": ENCODERS["lm"]}, 256),
        (f"encoder.{NAME}", T5 | {"text_config": ENCODERS["lm"]}, 256),
        (f"text_model.{NAME}", T5 | {"text_config": ENCODERS["lm"]}, 99),
        (f"text_model.{NAME}", T5 | {"text_config": {"model_type": "bert"}}, 256),
        (f"a.b.{NAME}", {"a": {"c": T5}, "d": ENCODERS["lm"]}, 256),
        (f"other.{NAME}", ENCODERS | {"other": {"model_type": "bert"}}, None),
        (f"lm.{NAME}", {"text_config": T5, "lm_config": ENCODERS["lm"]}, 99),
        (f"encoder.{NAME}", {"a": {"num_buckets": 64, "max_bucket_distance": 7}, "b": T5}, 256),
        ("a.rel_attn_embed.weight", {"a": {"b": WAVLM}, "encoder": T5}, 700),
        (f"encoder.{NAME}", {"model_type": "wavlm", **WAVLM}, 128),  # of another family
        ("rel_pos_x_bias.weight", {"rel_pos_bins": 64, "rel_2d_pos_bins": 64}, 256),
    ],
)
def test_the_part_of_a_tensor_is_told_by_its_name_and_kind(
    tensor: str, config: Any, max_distance: int | None, tmp_path: Path
) -> None:
    shape = (2, 64) if tensor.startswith("rel_pos") else (64, 2)
    tables: Any = {tensor: np.ones(shape, np.float32)}
    np.savez(tmp_path / "model.npz", **tables)
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    load = tb.RelativeAttentionBias.load
    if max_distance is None:
        match = r"one part with the buckets of .*, got encoder \(64, 256, True\), lm .*config\.json"
        with pytest.raises(ValueError, match=match):
            load(tmp_path, tensor=tensor)
    else:
        assert load(tmp_path, tensor=tensor).buckets == tb.Buckets(64, max_distance)


def test_an_encoder_is_bidirectional_whatever_its_models_configuration_says(
    tmp_path: Path,
) -> None:
    tables: Any = {
        f"{stack}.{NAME}": np.ones((64, 2), np.float32) for stack in ("encoder", "decoder")
    }
    np.savez(tmp_path / "model.npz", **tables)
    (tmp_path / "config.json").write_text(json.dumps(T5 | {"is_decoder": True}), encoding="utf-8")
    load = tb.RelativeAttentionBias.load
    assert load(tmp_path, tensor="encoder").buckets.bidirectional
    assert not load(tmp_path, tensor="decoder").buckets.bidirectional


def test_a_decoders_configuration_says_how_many_rows_are_enough(tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", np.ones((2, 1)))
    config = {"relative_attention_num_buckets": 2, "is_decoder": True}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert tb.RelativeAttentionBias.load(tmp_path).buckets == tb.Buckets(2, 128, False)


# ---- values that a family's code fixes, whatever its configuration says ----


@pytest.mark.parametrize(
    ("text", "scheme"),
    [
        ({}, (32, 128, True)),
        ({"max_distance": 55, "bidirectional": False}, (32, 55, False)),
        ({"relative_attention_num_buckets": 16}, (16, 128, True)),
    ],
)
def test_udops_encoder_does_not_read_the_settings_of_its_decoder(
    text: Any, scheme: tuple[int, int, bool], tmp_path: Path
) -> None:
    transformers: Any = pytest.importorskip("transformers")
    sizes = {"vocab_size": 9, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    config = transformers.UdopConfig(
        **sizes,
        relative_attention_num_buckets=scheme[0],
        relative_attention_max_distance=99,
        relative_bias_args=[{"type": "1d", **text}, {"type": "vertical", "max_distance": 33}],
    )
    model = transformers.UdopForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    for form in (config, config.to_dict(), tmp_path, model.encoder.config):
        assert tb.Buckets.from_config(form) == tb.Buckets(*scheme)
    assert tb.Buckets.from_config(model.decoder.config) == tb.Buckets(scheme[0], 99, False)

    mask = model.shared.weight.new_ones(1, 200)
    bias = tb.RelativeAttentionBias.load(tmp_path, tensor="encoder.block")
    assert bias.buckets == tb.Buckets(*scheme)
    expected = model.encoder.relative_bias.biases[0](mask)[0].detach().numpy()
    assert np.array_equal(bias.matrix(200, 200), expected)

    bias = tb.RelativeAttentionBias.load(tmp_path, tensor="decoder.block")
    expected = model.decoder.block[0].layer[0].SelfAttention.compute_bias(200, 200)[0]
    assert np.array_equal(bias.matrix(200, 200), expected.detach().numpy())

    name = "encoder.relative_bias.biases.1.relative_attention_bias.weight"
    bias = tb.RelativeAttentionBias.load(tmp_path, tensor=name)
    assert bias.buckets == tb.Buckets(32, 33)


@pytest.mark.parametrize(
    ("biases", "message"),
    [
        ([{"type": "vertical"}], "relative_bias_args must have an entry of type '1d', got"),
        ({"type": "1d"}, "relative_bias_args must be a list of mappings, got"),
        ([3], "relative_bias_args must be a list of mappings, got"),
        ([{"type": "1d", "bidirectional": "x"}], "bidirectional must be True or False, got 'x'"),
        ([{"type": "1d", "max_distance": 1.5}], "max_distance must be an integer, got 1.5"),
    ],
)
def test_udops_biases_that_no_model_has_are_refused(biases: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        tb.Buckets.from_config({"model_type": "udop", "relative_bias_args": biases})


def test_mpnets_scheme_is_fixed_in_its_code(tmp_path: Path) -> None:
    config = {"model_type": "mpnet", **T5, "is_decoder": True}
    assert tb.Buckets.from_config(config) == tb.Buckets(32, 128)
    np.save(tmp_path / "table.npy", np.ones((64, 2)))
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=r"as the model of .*config\.json, 32, got 64 in 'table'"):
        tb.RelativeAttentionBias.load(tmp_path)


@pytest.mark.parametrize("value", [[], {}, [[]]])
def test_settings_that_are_no_numbers_are_refused_in_parts_too(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="must be"):
        tb.Buckets.from_config({"part": {"relative_attention_num_buckets": value}})
