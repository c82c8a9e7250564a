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
