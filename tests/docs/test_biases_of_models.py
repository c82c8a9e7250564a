# test_biases_of_models.py - programs of the how-to pages give what transformers' own code gives.
# SPDX-License-Identifier: BSD-3-Clause
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import t5bucket as tb

pytest_plugins = ["page_fixtures"]
RunProgram = Callable[..., SimpleNamespace]


def random_attention_mask(batch: int, length: int) -> NDArray[np.int64]:
    """Draw 1 for tokens and 0 for padding: full, padded at the end, at the start, at random."""
    rng = np.random.default_rng(1)
    mask = np.ones((batch, length), np.int64)
    mask[1, length - length // 3 :] = 0
    mask[2, : length // 3] = 0
    mask[3:] = rng.random((batch - 3, length)) < 0.9
    return mask


# ---- T5 ----


def t5_attention(transformers: Any, table: Any, is_decoder: bool) -> Any:
    config = transformers.T5Config(num_heads=8, d_model=8, d_kv=1, is_decoder=is_decoder)
    attention_class = transformers.models.t5.modeling_t5.T5Attention
    attention = attention_class(config, has_relative_attention_bias=True)
    attention.relative_attention_bias = table
    return attention


def eager_config(transformers: Any) -> Any:
    config = transformers.T5Config(num_heads=8, d_model=8, d_kv=1)
    config._attn_implementation = "eager"  # masks are added, not boolean
    return config


def test_t5s_biases_equal_compute_bias_and_the_causal_mask_of_transformers(
    run: RunProgram, torch: Any, transformers: Any, embedding: Any
) -> None:
    names = run("t5.md")
    encoder = t5_attention(transformers, embedding(names.encoder.weight), is_decoder=False)
    assert np.array_equal(names.encoder_bias, encoder.compute_bias(300, 300)[0])
    decoder = t5_attention(transformers, embedding(names.decoder.weight), is_decoder=True)
    step = decoder.compute_bias(1, names.past + 1, past_seen_tokens=names.past)
    assert np.array_equal(names.step_bias, step[0])
    mask = transformers.masking_utils.create_causal_mask(
        eager_config(transformers), torch.zeros(1, 200, 8), attention_mask=None, cache=None
    )
    # The finite minimum plus a bias is rounded to the finite minimum.
    assert np.array_equal(names.decoder_bias, (decoder.compute_bias(200, 200) + mask)[0])


def test_t5s_padding_mask_equals_that_of_transformers(
    run: RunProgram, torch: Any, transformers: Any, embedding: Any
) -> None:
    names = run("masks.md", "Padding masks, and scores in place")
    attention = t5_attention(transformers, embedding(names.bias.weight), is_decoder=False)
    mask = transformers.masking_utils.create_bidirectional_mask(
        eager_config(transformers),
        torch.zeros(2, 7, 8),
        attention_mask=torch.from_numpy(names.mask[:, 0, 0].astype(np.int64)),
    )
    assert np.array_equal(names.masked, attention.compute_bias(7, 7) + mask)


# ---- LongT5 ----


def longt5_config(transformers: Any, block_length: int, global_block_size: int = 16) -> Any:
    return transformers.LongT5Config(
        num_heads=8,
        d_model=8,
        d_kv=1,
        local_radius=block_length - 1,
        global_block_size=global_block_size,
    )


@pytest.mark.parametrize("n", [1, 5, 128])
def test_longt5s_local_blocks_equal_those_of_transformers(
    n: int, run: RunProgram, torch: Any, transformers: Any, embedding: Any
) -> None:
    names = run("longt5.md", "Buckets and bias: local attention")
    module = transformers.models.longt5.modeling_longt5
    config = longt5_config(transformers, n)
    attention = module.LongT5LocalAttention(config, has_relative_attention_bias=True)
    attention.relative_attention_bias = embedding(names.bias.weight)
    expected = attention.compute_bias(n)[0, 0]
    assert np.array_equal(names.bias.matrix(n, 3 * n, key_offset=-n), expected)
    if n == names.n:
        assert np.array_equal(names.block_bias, expected)

    attention_mask = random_attention_mask(6, 300)
    tensor = torch.from_numpy(attention_mask)
    mask = module._get_local_attention_mask(tensor, n, tensor.device)
    with torch.no_grad():
        _, position_bias = attention(torch.zeros(6, 300, 8), mask)
    result = names.masked_block_bias(names.bias, n, attention_mask)
    # -1e10 plus a bias is rounded to -1e10.
    assert np.array_equal(result, position_bias)


@pytest.mark.parametrize(("size", "length"), [(16, 300), (16, 16), (16, 320), (5, 97), (7, 6)])
def test_longt5s_side_bias_equals_that_of_transformers(
    size: int, length: int, run: RunProgram, torch: Any, transformers: Any, embedding: Any
) -> None:
    names = run("longt5.md", "Buckets and bias: transient global attention")
    module = transformers.models.longt5.modeling_longt5
    config = longt5_config(transformers, 128, size)
    attention = module.LongT5TransientGlobalAttention(config, has_relative_attention_bias=True)
    attention.global_relative_attention_bias = embedding(names.bias.weight)
    attention_mask = random_attention_mask(6, length)
    tensor = torch.from_numpy(attention_mask)
    _, segment_ids = module._make_global_fixed_block_ids(tensor, size)
    expected = attention.compute_side_bias(tensor, segment_ids)
    result = names.side_bias(names.bias, attention_mask, size)
    assert np.array_equal(result, expected)


# ---- ProphetNet ----

POSITION_IDS = [
    np.arange(1, 301)[None],
    np.tile(np.arange(1, 51), (3, 1)),
    np.random.default_rng(1).integers(0, 400, (2, 200)),
]


@pytest.mark.parametrize("position_ids", POSITION_IDS)
def test_prophetnets_buckets_equal_those_of_transformers(
    position_ids: NDArray[np.int64], run: RunProgram, torch: Any, transformers: Any
) -> None:
    names = run("prophetnet.md")
    function = (
        transformers.models.prophetnet.modeling_prophetnet.compute_all_stream_relative_buckets
    )
    expected = function(32, 128, torch.from_numpy(position_ids))
    for ours, theirs in zip(names.stream_buckets(position_ids), expected, strict=True):
        assert np.array_equal(ours, theirs)


def test_prophetnets_decoder_cuts_its_buckets_one_column_later(
    run: RunProgram, torch: Any, transformers: Any
) -> None:
    buckets = run("prophetnet.md").buckets
    decoder_class = transformers.models.prophetnet.modeling_prophetnet.ProphetNetDecoder
    decoder = SimpleNamespace(num_buckets=32, relative_max_distance=128, max_target_positions=512)
    main, predicting = decoder_class.compute_buffered_relative_buckets(
        decoder, torch.zeros((2, 60), dtype=torch.long)
    )
    grids = [buckets.grid(60, 60, key_offset=offset) for offset in (-1, 0, 1)]
    for row in range(2):
        assert np.array_equal(main[row], grids[1])
        assert np.array_equal(predicting[row], np.concatenate([grids[0], grids[2]], axis=-1))


def test_prophetnets_main_bias_equals_that_of_transformers(
    run: RunProgram, torch: Any, transformers: Any
) -> None:
    names = run("prophetnet.md")
    projected = np.random.default_rng(1).standard_normal((2, 50, 32 * 4), np.float32)
    main, _ = names.stream_buckets(np.tile(np.arange(1, 51), (2, 1)))
    module = transformers.models.prophetnet.modeling_prophetnet
    attention = SimpleNamespace(
        num_buckets=32,
        num_attn_heads=4,
        relative_pos_embeddings=lambda _: torch.from_numpy(projected),
    )
    expected = module.ProphetNetNgramSelfAttention.get_main_relative_pos_embeddings(
        attention, None, torch.zeros(2, 4, 50, 50), None, torch.from_numpy(main)
    )
    assert np.array_equal(names.main_bias(projected, main), expected)


# ---- WavLM ----


def test_wavlms_gate_equals_that_of_transformers_up_to_rounding(
    run: RunProgram, torch: Any, transformers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = run("wavlm.md")
    attention = transformers.models.wavlm.modeling_wavlm.WavLMAttention(768, 12).eval()
    const = np.linspace(0.5, 2, 12, dtype=np.float32).reshape(1, 12, 1, 1)
    attention.gru_rel_pos_const.data = torch.from_numpy(const)
    attention.gru_rel_pos_linear.weight.data = torch.from_numpy(names.linear_weight)
    linear_bias = attention.gru_rel_pos_linear.bias.detach().numpy()
    monkeypatch.setattr(
        attention, "torch_multi_head_self_attention", lambda *given: (given[2], None)
    )
    with torch.no_grad():
        matrix = torch.from_numpy(names.matrix)
        gated, *_ = attention(torch.from_numpy(names.hidden_states), position_bias=matrix)
    gate = names.compute_gate(names.hidden_states, names.linear_weight, linear_bias, const)
    assert np.ptp(gate) > 1
    np.testing.assert_allclose(gate[0] * names.matrix, gated, rtol=1e-5, atol=1e-5)


# ---- CPM-Ant ----


def test_cpmants_bias_equals_that_of_transformers(
    run: RunProgram, torch: Any, transformers: Any
) -> None:
    names = run("cpmant.md")
    config = transformers.CpmAntConfig(num_attention_heads=8)
    module = transformers.models.cpmant.modeling_cpmant.CpmAntSegmentPositionEmbedding(config)
    module.relative_attention_bias.data = torch.from_numpy(names.weight)
    segments = np.random.default_rng(1).integers(0, 3, (2, 300)).astype(np.int32)
    positions = torch.arange(300).repeat(2, 1)
    for given in (names.segments, segments):
        tensor, length = torch.from_numpy(given), given.shape[1]
        places = positions[: len(given), :length]
        expected = module(places, places, tensor, tensor).detach()
        assert np.array_equal(names.segment_bias(given), expected)


# ---- DeBERTa ----


def test_debertas_rows_equal_those_of_transformers(
    run: RunProgram, torch: Any, transformers: Any
) -> None:
    names = run("other_rules.md", "Logarithmic buckets: DeBERTa")
    module = transformers.models.deberta_v2.modeling_deberta_v2
    states = torch.zeros(1000, 1)
    bucket = module.build_relative_position(states, states, names.size, names.max_distance)[0]
    expected = torch.clamp(bucket + names.size, 0, 2 * names.size - 1)
    assert np.array_equal(names.rows, expected)


# ---- training ----


def test_the_weights_gradient_equals_that_of_torchs_autograd(run: RunProgram, torch: Any) -> None:
    names = run("training.md", "Training a weight")
    bias = tb.RelativeAttentionBias(
        np.random.default_rng(1).standard_normal((32, 4)), names.buckets
    )
    weight = torch.from_numpy(bias.weight.copy()).requires_grad_()
    grid = torch.from_numpy(names.buckets.grid(40, 40))
    keep = torch.from_numpy(names.masks["mask"]) & torch.ones(40, 40, dtype=torch.bool).tril()
    scores = weight[grid].permute(2, 0, 1).masked_fill(~keep, -torch.inf)
    target = torch.from_numpy(names.target)
    loss = torch.nn.functional.cross_entropy(
        scores.flatten(0, -2), target.flatten(0, -2), reduction="sum"
    )
    loss.backward()
    gradient = names.attend(bias.weight)[1] - names.target
    result = bias.weight_gradient(gradient, **names.masks)
    # Sums of thousands of terms in other orders; what cancels out leaves no digits.
    np.testing.assert_allclose(result, weight.grad, rtol=0, atol=1e-12)
