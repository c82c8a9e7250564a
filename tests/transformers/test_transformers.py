# test_transformers.py - biases are equal to transformers' bit for bit, family by family.
# SPDX-License-Identifier: BSD-3-Clause
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import t5bucket as tb

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

MODELS = transformers.models
POSITIONS = torch.arange(-5000, 5001)
COMMON = [(32, 128), (64, 128), (32, 256), (64, 256), (32, 1024), (320, 800), (512, 2048)]


def t5(num_buckets: int, max_distance: int, bidirectional: bool) -> Any:
    function = MODELS.t5.modeling_t5.T5Attention._relative_position_bucket
    return function(POSITIONS, bidirectional, num_buckets, max_distance)


def mpnet(num_buckets: int, max_distance: int, bidirectional: bool) -> Any:
    assert bidirectional
    function = MODELS.mpnet.modeling_mpnet.MPNetEncoder.relative_position_bucket
    return function(POSITIONS, num_buckets, max_distance)


def layoutlmv2(num_buckets: int, max_distance: int, bidirectional: bool) -> Any:
    function = MODELS.layoutlmv2.modeling_layoutlmv2.relative_position_bucket
    return function(POSITIONS, bidirectional, num_buckets, max_distance)


def wavlm(num_buckets: int, max_distance: int, bidirectional: bool) -> Any:
    assert bidirectional
    attention = SimpleNamespace(num_buckets=num_buckets, max_distance=max_distance)
    function = MODELS.wavlm.modeling_wavlm.WavLMAttention._relative_positions_bucket
    return function(attention, POSITIONS)


def prophetnet(num_buckets: int, max_distance: int, bidirectional: bool) -> Any:
    function = MODELS.prophetnet.modeling_prophetnet.compute_relative_buckets
    return function(num_buckets, max_distance, POSITIONS, bidirectional)


def cpmant(num_buckets: int, max_distance: int, bidirectional: bool) -> Any:
    assert bidirectional
    function = MODELS.cpmant.modeling_cpmant.CpmAntSegmentPositionEmbedding._position_bucket
    return function(None, POSITIONS, num_buckets, max_distance)


@pytest.mark.parametrize("family", [t5, mpnet, layoutlmv2, wavlm, prophetnet, cpmant])
@pytest.mark.parametrize(("num_buckets", "max_distance"), COMMON)
@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_equal_those_of_the_family(
    family: Any, num_buckets: int, max_distance: int, bidirectional: bool
) -> None:
    if not bidirectional and family in (mpnet, wavlm, cpmant):
        bidirectional = True  # all they have
    expected = family(num_buckets, max_distance, bidirectional).numpy()
    buckets = tb.Buckets(num_buckets, max_distance, bidirectional)
    assert np.array_equal(buckets(POSITIONS.numpy()), expected)


def test_from_function_takes_transformers_own_function() -> None:
    function = MODELS.t5.modeling_t5.T5Attention._relative_position_bucket
    buckets = tb.Buckets.from_function(
        lambda d: function(torch.from_numpy(d)).numpy(), max_distance=128, num_buckets=32
    )
    assert buckets == tb.Buckets(32, 128)


@pytest.mark.parametrize(
    ("config_class", "expected"),
    [
        ("T5Config", tb.Buckets(32, 128)),
        ("MT5Config", tb.Buckets(32, 128)),
        ("UMT5Config", tb.Buckets(32, 128)),
        ("LongT5Config", tb.Buckets(32, 128)),
        ("SwitchTransformersConfig", tb.Buckets(32, 128)),
        ("Pop2PianoConfig", tb.Buckets(32, 128)),
        ("UdopConfig", tb.Buckets(32, 128)),
        ("Pix2StructConfig", tb.Buckets(32, 128, False)),
        ("Pix2StructTextConfig", tb.Buckets(32, 128, False)),
        ("MPNetConfig", tb.Buckets(32, 128)),
        ("LayoutLMv2Config", tb.Buckets(32, 128)),
        ("LayoutLMv3Config", tb.Buckets(32, 128)),
        ("WavLMConfig", tb.Buckets(320, 800)),
        ("ProphetNetConfig", tb.Buckets(32, 128, False)),
        ("CpmAntConfig", tb.Buckets(512, 2048)),
    ],
)
def test_from_config_reads_every_family(
    config_class: str, expected: tb.Buckets, tmp_path: Path
) -> None:
    config = getattr(transformers, config_class)()
    config.save_pretrained(tmp_path)
    for form in (config, config.to_dict(), tmp_path / "config.json", tmp_path):
        assert tb.Buckets.from_config(form) == expected


def t5_attention(weight: Any, **settings: Any) -> Any:
    num_buckets, num_heads = weight.shape
    config = transformers.T5Config(
        num_heads=num_heads,
        d_model=num_heads,
        d_kv=1,
        relative_attention_num_buckets=num_buckets,
        **settings,
    )
    attention = MODELS.t5.modeling_t5.T5Attention(config, has_relative_attention_bias=True)
    attention.relative_attention_bias.weight = torch.nn.Parameter(
        torch.from_numpy(weight.copy()), requires_grad=False
    )
    return attention


@pytest.mark.parametrize("is_decoder", [False, True])
@pytest.mark.parametrize(("q", "k", "past"), [(64, 64, 0), (1, 300, 299), (5, 400, 200)])
def test_matrix_equals_compute_bias_of_t5(is_decoder: bool, q: int, k: int, past: int) -> None:
    weight = np.random.default_rng(0).standard_normal((32, 8), np.float32)
    attention = t5_attention(weight, is_decoder=is_decoder)
    expected = attention.compute_bias(q, k, past_seen_tokens=past)[0].numpy()
    buckets = tb.Buckets(32, 128, bidirectional=not is_decoder)
    bias = tb.RelativeAttentionBias(weight, buckets)
    assert np.array_equal(bias.matrix(q, k, query_offset=past), expected)
    result = tb.compute_bias(weight, q, k, bidirectional=not is_decoder, query_offset=past)
    assert np.array_equal(result, expected)


def test_the_command_lines_file_equals_compute_bias_on_the_real_weight(tmp_path: Path) -> None:
    out = tmp_path / "bias.npy"
    command = [sys.executable, "-m", "t5bucket", "bias", "--out", str(out)]
    command += ["--query-length", "2048", "--key-length", "2048"]
    subprocess.run(command, check=True, capture_output=True)
    (data,) = [
        entry
        for entry in (files("t5bucket") / "data").iterdir()
        if entry.name.endswith("safetensors")
    ]
    weight = tb.RelativeAttentionBias.load(str(data)).weight
    expected = t5_attention(weight).compute_bias(512, 512)[0].numpy()
    written = np.load(out, mmap_mode="r")
    assert written.shape == (12, 2048, 2048)
    assert np.array_equal(written[:, :512, :512], expected)
    assert np.array_equal(written[:, 1024:1536, 1024:1536], expected)


def test_load_reads_a_saved_models_weights(tmp_path: Path) -> None:
    config = transformers.T5Config(
        vocab_size=16, d_model=16, d_kv=4, d_ff=8, num_layers=1, num_heads=4
    )
    config.relative_attention_max_distance = 200
    model = transformers.T5ForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match="tensor must name one of"):
        tb.RelativeAttentionBias.load(path)
    name = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    for stack in ("encoder", "decoder"):
        bias = tb.RelativeAttentionBias.load(path, tensor=f"{stack}.{name}")
        attention = getattr(model, stack).block[0].layer[0].SelfAttention
        expected = attention.compute_bias(70, 300)[0].detach().numpy()
        assert bias.buckets == tb.Buckets(32, 200, bidirectional=stack == "encoder")
        assert np.array_equal(bias.matrix(70, 300), expected)
