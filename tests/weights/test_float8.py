# test_float8.py - float8 tables are widened exactly, and multiplied by their scale.
# SPDX-License-Identifier: BSD-3-Clause
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import T5, save_pytorch, save_safetensors

import t5bucket as tb

pytest.importorskip("ml_dtypes")
torch: Any = pytest.importorskip("torch")
load = tb.RelativeAttentionBias.load
DTYPES = [torch.float8_e4m3fn, torch.float8_e5m2]
STEM = f"text_encoders.t5xxl.transformer.{T5.removesuffix('.weight')}"


def every_float8(dtype: Any) -> Any:
    """Make a table of all 256 bit patterns."""
    return torch.arange(256, dtype=torch.uint8).view(dtype).reshape(32, 8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "save"), [("x.safetensors", save_safetensors), ("x.bin", save_pytorch)]
)
def test_every_float8_becomes_the_float32_of_the_same_value(
    name: str, save: Any, dtype: Any, tmp_path: Path
) -> None:
    save(tmp_path / name, {f"{STEM}.weight": every_float8(dtype)})
    bias = load(tmp_path / name)
    assert bias.dtype == np.float32
    # Via float16, which has all values of both types; NumPy converts that.
    expected = every_float8(dtype).to(torch.float16).numpy().astype(np.float32)
    assert np.array_equal(bias.weight, expected, equal_nan=True)
    assert np.array_equal(np.signbit(bias.weight), np.signbit(expected))
    assert np.isnan(expected).sum() == (2 if dtype == torch.float8_e4m3fn else 6)


SCALES = [
    torch.tensor(0.3),
    torch.tensor([0.3], dtype=torch.bfloat16),
    torch.rand(32),
    torch.rand(32, 1),
    torch.rand(1, 1, dtype=torch.float64),
]


@pytest.mark.parametrize("key", ["scale_weight", "weight_scale", "weight_scale_inv"])
@pytest.mark.parametrize("scale", SCALES, ids=lambda scale: f"{scale.dtype}{[*scale.shape]}")
def test_the_scale_next_to_a_table_multiplies_it(key: str, scale: Any, tmp_path: Path) -> None:
    table = torch.randn(32, 8).to(torch.float8_e4m3fn)
    state = {f"{STEM}.weight": table, f"{STEM}.{key}": scale, "scaled_fp8": torch.zeros(2)}
    save_safetensors(tmp_path / "x.safetensors", state)
    expected = table.to(torch.float32) * scale.to(torch.float32).reshape(-1, 1)
    assert np.array_equal(load(tmp_path / "x.safetensors").weight, expected.numpy())


def test_a_scale_of_another_shape_is_refused(tmp_path: Path) -> None:
    state = {f"{STEM}.weight": every_float8(DTYPES[0]), f"{STEM}.weight_scale": torch.rand(4, 2)}
    save_safetensors(tmp_path / "x.safetensors", state)
    with pytest.raises(
        ValueError, match=r"weight_scale' must be one number, .* got shape \(4, 2\) in .*x\."
    ):
        load(tmp_path / "x.safetensors")


def test_a_scale_that_the_index_does_not_list_is_found_in_the_tables_shard(tmp_path: Path) -> None:
    state = {f"{STEM}.weight": every_float8(DTYPES[1]), f"{STEM}.weight_scale": torch.tensor(3.0)}
    save_safetensors(tmp_path / "a.safetensors", state)
    index = {"weight_map": {f"{STEM}.weight": "a.safetensors"}}
    (tmp_path / "x.index.json").write_text(json.dumps(index), encoding="utf-8")
    expected = load(tmp_path / "a.safetensors").weight
    assert np.array_equal(load(tmp_path / "x.index.json").weight, expected, equal_nan=True)


def test_a_scale_in_another_shard_is_found_by_the_index(tmp_path: Path) -> None:
    save_safetensors(
        tmp_path / "a.safetensors", {f"{STEM}.weight": torch.ones(32, 8).to(DTYPES[0])}
    )
    save_safetensors(tmp_path / "b.safetensors", {f"{STEM}.weight_scale": torch.tensor(3.0)})
    files = {f"{STEM}.weight": "a.safetensors", f"{STEM}.weight_scale": "b.safetensors"}
    (tmp_path / "x.index.json").write_text(json.dumps({"weight_map": files}), encoding="utf-8")
    assert load(tmp_path / "x.index.json").weight.min() == 3


def test_two_scales_and_scales_of_integers_are_refused(tmp_path: Path) -> None:
    state = {f"{STEM}.weight": every_float8(DTYPES[0]), f"{STEM}.weight_scale": torch.tensor(3)}
    save_safetensors(tmp_path / "x.safetensors", state)
    with pytest.raises(TypeError, match=r"weight_scale' must be floating-point, .*int64 in .*x\."):
        load(tmp_path / "x.safetensors")
    state[f"{STEM}.scale_weight"] = torch.tensor(3.0)
    save_safetensors(tmp_path / "x.safetensors", state)
    with pytest.raises(ValueError, match=r"must have one scale, got \[.*\] in .*x\.safetensors"):
        load(tmp_path / "x.safetensors")


def test_a_table_that_is_not_float8_has_no_scale(tmp_path: Path) -> None:
    state = {f"{STEM}.weight": torch.ones(32, 8), f"{STEM}.scale_weight": torch.tensor(3.0)}
    save_safetensors(tmp_path / "x.safetensors", state)
    assert load(tmp_path / "x.safetensors").weight.max() == 1


def test_without_ml_dtypes_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_safetensors(tmp_path / "x.safetensors", {T5: every_float8(DTYPES[0])})
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r"float8_e4m3fn needs .*'t5bucket\[bfloat16\]'"):
        load(tmp_path / "x.safetensors")
