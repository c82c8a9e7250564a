# test_biases_of_documents.py - the same for models of pages with boxes: LayoutLM and UDOP.
# SPDX-License-Identifier: BSD-3-Clause
import importlib
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest_plugins = ["page_fixtures"]
RunProgram = Callable[..., SimpleNamespace]


# ---- LayoutLMv3 ----


def make_encoder(
    torch: Any, transformers: Any, version: str, names: SimpleNamespace, size: int
) -> Any:
    """Make the encoder of LayoutLMv2 or v3 with the tables of a program."""
    config = getattr(transformers, f"LayoutLM{version}Config")(
        hidden_size=12 * size, num_attention_heads=12, num_hidden_layers=0
    )
    name = f"transformers.models.layoutlm{version}.modeling_layoutlm{version}"
    encoder = getattr(importlib.import_module(name), f"LayoutLM{version}Encoder")(config)
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
    run: RunProgram, torch: Any, transformers: Any
) -> None:
    names = run("layoutlm.md")
    encoder = make_encoder(torch, transformers, "v3", names, 64)
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
    run: RunProgram, torch: Any, transformers: Any
) -> None:
    names = run("layoutlm.md")
    encoder = make_encoder(torch, transformers, "v3", names, 32)
    position_ids, boxes = pages_of_text_and_patches()
    expected = encoder._compute_position_bias(
        torch.from_numpy(position_ids), torch.from_numpy(boxes)
    ).numpy()
    scaled = names.page_bias(position_ids, boxes, scale=1 / math.sqrt(32))
    np.testing.assert_allclose(scaled, expected, rtol=0, atol=2e-7)
    unscaled = names.page_bias(position_ids, boxes, scale=None)
    assert np.array_equal(unscaled / np.float32(math.sqrt(32)), expected)


# ---- LayoutLMv2 ----


def test_layoutlmv2s_biases_equal_those_of_transformers(
    run: RunProgram, torch: Any, transformers: Any
) -> None:
    names = run("layoutlm.md")
    encoder = make_encoder(torch, transformers, "v2", names, 64)
    position_ids, boxes = pages_of_text_and_patches()
    by_position = encoder._calculate_1d_position_embeddings(torch.from_numpy(position_ids))
    by_box = encoder._calculate_2d_position_embeddings(torch.from_numpy(boxes))
    assert np.array_equal(names.sequence.matrix_at(position_ids), by_position)
    assert np.array_equal(names.page_bias(position_ids, boxes, scale=None), by_box + by_position)


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
    run: RunProgram, torch: Any, transformers: Any, udop: Any
) -> None:
    names = run("udop.md", "Buckets and bias: boxes in thousandths")
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
    axes: list[int], run: RunProgram, torch: Any, udop: Any
) -> None:
    names = run("udop.md", "Buckets and bias: boxes in thousandths")
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
    dtype: Any, resolution: int | None, run: RunProgram, torch: Any, udop: Any
) -> None:
    names = run("udop.md", "Buckets and bias: boxes that are floats")
    rng = np.random.default_rng(1)
    boxes = rng.random((2, 300, 4)).astype(dtype)
    if resolution is not None:
        boxes = (rng.integers(0, resolution + 1, (2, 300, 4)) / resolution).astype(dtype)
    for name, axes in (("Horizontal", [0, 2]), ("Vertical", [1, 3])):
        expected = udop(name, names.weight)(bbox=torch.from_numpy(boxes))
        assert np.array_equal(names.axis_bias(boxes[..., axes].mean(axis=-1)), expected)
