# test_recipes.py - recipes of the how-to pages give what transformers' own code gives.
# SPDX-License-Identifier: BSD-3-Clause
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from markdown import find_program
from numpy.typing import NDArray

import t5bucket as tb

Recipe = Callable[[str], SimpleNamespace]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Run the program of a section in a folder of its own, and return the names it defines."""

    def run(title: str) -> SimpleNamespace:
        monkeypatch.chdir(tmp_path)
        namespace: dict[str, Any] = {"__name__": "recipe"}
        exec(compile(find_program(title), title, "exec"), namespace)
        del namespace["__builtins__"]
        return SimpleNamespace(**namespace)

    return run


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.fixture
def transformers(torch: Any) -> Any:
    return pytest.importorskip("transformers")


@pytest.fixture
def embedding(torch: Any) -> Callable[[NDArray[Any]], Any]:
    """Make the module in which transformers keeps a table."""
    return lambda weight: torch.nn.Embedding.from_pretrained(torch.from_numpy(weight.copy()))


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
    recipe: Recipe, torch: Any, transformers: Any, embedding: Any
) -> None:
    names = recipe("T5: encoder, decoder and decoding")
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
    recipe: Recipe, torch: Any, transformers: Any, embedding: Any
) -> None:
    names = recipe("Padding masks, and scores in place")
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
    n: int, recipe: Recipe, torch: Any, transformers: Any, embedding: Any
) -> None:
    names = recipe("LongT5: local attention")
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
    size: int, length: int, recipe: Recipe, torch: Any, transformers: Any, embedding: Any
) -> None:
    names = recipe("LongT5: transient global attention")
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


# ---- LayoutLMv3 ----


def layoutlmv3_encoder(torch: Any, transformers: Any, names: SimpleNamespace, size: int) -> Any:
    config = transformers.LayoutLMv3Config(
        hidden_size=12 * size, num_attention_heads=12, num_hidden_layers=0
    )
    encoder = transformers.models.layoutlmv3.modeling_layoutlmv3.LayoutLMv3Encoder(config)
    tables = {"rel_pos_bias": names.sequence, "rel_pos_x_bias": names.left}
    for name, bias in (*tables.items(), ("rel_pos_y_bias", names.bottom)):
        weight = torch.from_numpy(bias.weight.copy())
        getattr(encoder, name).weight = torch.nn.Parameter(weight, requires_grad=False)
    return encoder


def pages_of_text_and_patches() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw positions, which begin anew with the patches, and boxes."""
    position_ids = np.tile(np.concatenate([np.arange(200), np.arange(50)]), (2, 1))
    return position_ids, np.random.default_rng(1).integers(0, 1001, (2, 250, 4))


def test_layoutlmv3s_biases_equal_those_of_transformers(
    recipe: Recipe, torch: Any, transformers: Any
) -> None:
    names = recipe("LayoutLMv3: text and boxes")
    encoder = layoutlmv3_encoder(torch, transformers, names, 64)
    position_ids, boxes = pages_of_text_and_patches()
    tensors = torch.from_numpy(position_ids), torch.from_numpy(boxes)

    by_position = encoder._cal_1d_pos_emb(tensors[0])
    assert np.array_equal(names.sequence.matrix_at(position_ids), by_position)
    by_box = names.left.matrix_at(boxes[..., 0])
    names.bottom.matrix_at(boxes[..., 3], out=by_box, accumulate=True)
    assert np.array_equal(by_box, encoder._cal_2d_pos_emb(tensors[1]))
    # Scaled terms are summed here and the sum is divided there; an eighth of either is exact.
    expected = encoder._compute_position_bias(*tensors)
    assert np.array_equal(names.page_bias(position_ids, boxes), expected)


def test_layoutlmv3s_bias_of_another_head_size_differs_in_the_last_bit_unless_divided_at_the_end(
    recipe: Recipe, torch: Any, transformers: Any
) -> None:
    names = recipe("LayoutLMv3: text and boxes")
    encoder = layoutlmv3_encoder(torch, transformers, names, 32)
    position_ids, boxes = pages_of_text_and_patches()
    expected = encoder._compute_position_bias(
        torch.from_numpy(position_ids), torch.from_numpy(boxes)
    ).numpy()
    scaled = names.page_bias(position_ids, boxes, scale=1 / math.sqrt(32))
    np.testing.assert_allclose(scaled, expected, rtol=0, atol=2e-7)
    unscaled = names.page_bias(position_ids, boxes, scale=None)
    assert np.array_equal(unscaled / np.float32(math.sqrt(32)), expected)


# ---- UDOP ----


@pytest.fixture
def udop(transformers: Any, embedding: Any) -> Callable[[str, NDArray[Any]], Any]:
    """Make one of UDOP's modules."""
    module = transformers.models.udop.modeling_udop

    def make(name: str, weight: NDArray[Any]) -> Any:
        bias = getattr(module, f"RelativePositionBias{name}")(num_heads=12)
        bias.relative_attention_bias = embedding(weight)
        return bias

    return make


def test_udops_bias_of_boxes_in_thousandths_equals_the_aggregated_one_of_transformers(
    recipe: Recipe, torch: Any, transformers: Any, udop: Any
) -> None:
    names = recipe("UDOP: text and boxes in thousandths")
    modules = [
        udop("1D", names.sequence.weight),
        udop("Horizontal", names.horizontal.weight),
        udop("Vertical", names.vertical.weight),
    ]
    aggregated = transformers.models.udop.modeling_udop.RelativePositionBiasAggregated(modules)
    boxes = np.random.default_rng(1).integers(0, 1001, (2, 200, 4))
    expected = aggregated(torch.ones(2, 200), torch.from_numpy(boxes / 1000))
    # Both add the vertical bias to the sum of the other two.
    assert np.array_equal(names.page_bias(boxes), expected)


@pytest.mark.parametrize("axes", [[0, 2], [1, 3]])
def test_udops_buckets_equal_those_of_transformers_for_every_pair_of_sums(
    axes: list[int], recipe: Recipe, torch: Any, udop: Any
) -> None:
    names = recipe("UDOP: text and boxes in thousandths")
    module = udop("Horizontal" if axes == [0, 2] else "Vertical", names.horizontal.weight)
    boxes = np.zeros((1, 2001, 4))
    boxes[..., axes[0]] = (np.arange(2001) // 2) / 1000
    boxes[..., axes[1]] = (np.arange(2001) - np.arange(2001) // 2) / 1000
    result = names.sums.grid_at(np.arange(2001))
    assert np.array_equal(result, module.get_bucket(bbox=torch.from_numpy(boxes))[0])
    in_float32 = module.get_bucket(bbox=torch.from_numpy(boxes.astype(np.float32)))[0].numpy()
    differing = result != in_float32
    assert 0 < differing.mean() < 0.01


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("resolution", [None, 1000])
def test_udops_bias_by_floats_equals_that_of_transformers(
    dtype: Any, resolution: int | None, recipe: Recipe, torch: Any, udop: Any
) -> None:
    names = recipe("UDOP: distances that are floats")
    rng = np.random.default_rng(1)
    boxes = rng.random((2, 300, 4)).astype(dtype)
    if resolution is not None:
        boxes = (rng.integers(0, resolution + 1, (2, 300, 4)) / resolution).astype(dtype)
    for name, axes in (("Horizontal", [0, 2]), ("Vertical", [1, 3])):
        expected = udop(name, names.weight)(bbox=torch.from_numpy(boxes))
        assert np.array_equal(names.axis_bias(boxes[..., axes].mean(axis=-1)), expected)


# ---- ProphetNet ----

POSITION_IDS = [
    np.arange(1, 301)[None],
    np.tile(np.arange(1, 51), (3, 1)),
    np.random.default_rng(1).integers(0, 400, (2, 200)),
]


@pytest.mark.parametrize("position_ids", POSITION_IDS)
def test_prophetnets_buckets_equal_those_of_transformers(
    position_ids: NDArray[np.int64], recipe: Recipe, torch: Any, transformers: Any
) -> None:
    names = recipe("ProphetNet: main and predicting streams")
    function = (
        transformers.models.prophetnet.modeling_prophetnet.compute_all_stream_relative_buckets
    )
    expected = function(32, 128, torch.from_numpy(position_ids))
    for ours, theirs in zip(names.stream_buckets(position_ids), expected, strict=True):
        assert np.array_equal(ours, theirs)


def test_prophetnets_decoder_cuts_its_buckets_one_column_later(
    recipe: Recipe, torch: Any, transformers: Any
) -> None:
    buckets = recipe("ProphetNet: main and predicting streams").buckets
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
    recipe: Recipe, torch: Any, transformers: Any
) -> None:
    names = recipe("ProphetNet: main and predicting streams")
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


# ---- training ----


def test_the_weights_gradient_equals_that_of_torchs_autograd(recipe: Recipe, torch: Any) -> None:
    names = recipe("Training a weight")
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
