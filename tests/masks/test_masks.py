# test_masks.py - masked matrices, compared with masks in NumPy.
# SPDX-License-Identifier: BSD-3-Clause
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from reference import bits
from strategies import (
    FLOAT_DTYPES,
    draw_masks,
    float_dtypes,
    integer_dtypes,
    offsets,
    out_layouts,
    relayout,
    settings_of_schemes,
)

import t5bucket as tb
from t5bucket import _threads, _writing

LENGTHS = st.integers(0, 12)


@given(settings_of_schemes(), float_dtypes, LENGTHS, LENGTHS, offsets, offsets, st.data())
def test_masked_matrices_agree_with_numpy(
    settings: tuple[int, int, bool],
    dtype: Any,
    q: int,
    k: int,
    query_offset: int,
    key_offset: int,
    data: st.DataObject,
) -> None:
    weight = reference.normal_weight(settings[0], 3, dtype)
    bias = tb.RelativeAttentionBias(weight, tb.Buckets(*settings))
    masks = data.draw(draw_masks((3, q, k)))
    relative = reference.consecutive(q, k, query_offset, key_offset)
    expected = reference.matrix(weight, reference.t5(*settings), relative, **masks)
    at: Any = {"query_offset": query_offset, "key_offset": key_offset}
    matrix = bias.matrix(q, k, **at, **masks)
    assert matrix.dtype == dtype
    assert matrix.shape == expected.shape
    assert np.array_equal(bits(matrix), bits(expected))
    layout = data.draw(out_layouts)
    if layout != "byte-swapped":
        out = relayout(np.zeros(expected.shape, dtype), layout)
        assert bias.matrix(q, k, **at, **masks, out=out, num_threads=2) is out
        assert np.array_equal(bits(out), bits(expected))
        held = np.random.default_rng(1).standard_normal(expected.shape).astype(dtype)
        out = relayout(held.copy(), layout)
        summed = reference.matrix(weight, reference.t5(*settings), relative, **masks, held=held)
        assert bias.matrix(q, k, **at, **masks, out=out, accumulate=True) is out
        assert np.array_equal(bits(out), bits(summed))


@given(settings_of_schemes(), float_dtypes, st.data())
def test_masked_matrices_of_explicit_positions_agree_with_numpy(
    settings: tuple[int, int, bool], dtype: Any, data: st.DataObject
) -> None:
    batch = data.draw(st.sampled_from([(), (1,), (2,), (2, 2)]))
    q, k = data.draw(st.tuples(LENGTHS, LENGTHS))
    positions = []
    for length in (q, k):
        own_dtype = data.draw(integer_dtypes)
        limits = np.iinfo(own_dtype)
        near = st.integers(max(-300, limits.min), min(300, limits.max))
        far = st.sampled_from([limits.min, limits.max])
        own_batch = data.draw(st.sampled_from([batch, batch[1:], ()]))
        count = int(np.prod((*own_batch, length)))
        values = data.draw(st.lists(near | far, min_size=count, max_size=count))
        positions.append(np.array(values, own_dtype).reshape(*own_batch, length))
    query, key = positions
    weight = reference.normal_weight(settings[0], 3, dtype)
    bias = tb.RelativeAttentionBias(weight, tb.Buckets(*settings))
    relative = reference.differences(query, key)
    masks = data.draw(draw_masks((3, q, k), batch))
    expected = reference.matrix(weight, reference.t5(*settings), relative, **masks)
    matrix = bias.matrix_at(query, key, **masks)
    assert matrix.shape == expected.shape
    assert np.array_equal(bits(matrix), bits(expected))
    layout = data.draw(out_layouts)
    if layout != "byte-swapped":
        held = np.random.default_rng(1).standard_normal(expected.shape).astype(dtype)
        out = relayout(held.copy(), layout)
        summed = reference.matrix(weight, reference.t5(*settings), relative, **masks, held=held)
        assert bias.matrix_at(query, key, **masks, out=out, accumulate=True) is out
        assert np.array_equal(bits(out), bits(summed))


MASK_SHAPES = [
    ((), (3, 40, 50)),
    ((50,), (3, 40, 50)),
    ((40, 1), (3, 40, 50)),
    ((40, 50), (3, 40, 50)),
    ((3, 1, 1), (3, 40, 50)),
    ((3, 40, 50), (3, 40, 50)),
    ((2, 1, 1, 50), (2, 3, 40, 50)),
    ((2, 1, 40, 50), (2, 3, 40, 50)),
    ((1, 1, 1, 50), (1, 3, 40, 50)),
    ((2, 3, 1, 50), (2, 3, 40, 50)),
    ((5, 2, 1, 1, 50), (5, 2, 3, 40, 50)),
    ((5, 1, 1, 1, 1), (5, 1, 3, 40, 50)),
]


@pytest.mark.parametrize(("mask_shape", "shape"), MASK_SHAPES)
@pytest.mark.parametrize("kind", [bool, np.float32, np.float64, np.float16])
@pytest.mark.parametrize(
    "layout", ["contiguous", "fortran", "strided", "byte-swapped", "unaligned"]
)
def test_masks_of_any_shape_dtype_and_layout_broadcast(
    mask_shape: Any, shape: Any, kind: Any, layout: str
) -> None:
    random = np.random.default_rng(5)
    plain = random.standard_normal(mask_shape)
    mask = np.asarray(plain > 0 if kind is bool else np.asarray(plain).astype(kind))
    weight = reference.normal_weight(32, 3, np.float32)
    bias = tb.RelativeAttentionBias(weight, tb.Buckets())
    expected = reference.matrix(
        weight, reference.t5(), reference.consecutive(40, 50), mask=mask, causal=True
    )
    matrix = bias.matrix(40, 50, mask=relayout(mask, layout), causal=True)
    assert matrix.shape == shape
    assert np.array_equal(matrix, expected)
    at = bias.matrix_at(np.arange(40), np.arange(50), mask=relayout(mask, layout), causal=True)
    assert np.array_equal(at, expected)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_masked_pairs_get_the_finite_minimum_or_a_given_value(dtype: Any) -> None:
    bias = tb.RelativeAttentionBias(reference.random_weight(32, 2, dtype), tb.Buckets())
    masked = bias.matrix(4, 4, causal=True)[:, 0, 1:]
    assert set(masked.astype(np.float64).ravel()) == {reference.MINIMUM[np.dtype(dtype).name]}
    values: list[Any] = [-np.inf, -1, 0.0, np.float32(3), np.float64(0.5)]
    for value in values:
        matrix = bias.matrix(4, 4, mask=np.zeros(4, bool), masked_value=value)
        assert (matrix == np.array([value]).astype(dtype)).all()


def test_visible_items_stay_bit_for_bit() -> None:
    for dtype in FLOAT_DTYPES:
        weight = reference.random_weight(32, 2, dtype)
        bias = tb.RelativeAttentionBias(weight, tb.Buckets())
        mask = np.random.default_rng(0).random((30, 30)) > 0.5
        matrix, plain = bias.matrix(30, 30, mask=mask), bias.matrix(30, 30)
        assert np.array_equal(bits(matrix)[:, mask], bits(plain)[:, mask])


def test_packed_sequences_are_the_sequences_by_themselves() -> None:
    lengths = [5, 1, 7]
    segment_ids = np.repeat([7, -3, 2**62], lengths)
    positions = np.concatenate([np.arange(length) for length in lengths])
    bias = tb.RelativeAttentionBias(reference.normal_weight(32, 2, np.float32), tb.Buckets())
    packed = bias.matrix_at(positions, segment_ids=segment_ids, causal=True, masked_value=-np.inf)
    begin = 0
    for length in lengths:
        part = slice(begin, begin + length)
        alone = bias.matrix(length, length, causal=True, masked_value=-np.inf)
        assert np.array_equal(packed[:, part, part], alone)
        packed[:, part, part] = -np.inf
        begin += length
    assert (packed == -np.inf).all()


@pytest.mark.parametrize("dtype", ["uint64", "int64", "int8", "uint8", "mixed"])
def test_segment_ids_of_any_integer_type_are_compared_exactly(dtype: str) -> None:
    bias = tb.RelativeAttentionBias(np.ones((32, 1)), tb.Buckets())
    if dtype == "mixed":  # -1 and 2^64 - 1 have the same bits
        query, key = np.array([-1, 5]), np.array([2**64 - 1, 5, 2**63], np.uint64)
        expected = [[False, False, False], [False, True, False]]
    else:
        ends = np.iinfo(dtype)
        query = key = np.array([ends.min, ends.max, 0], dtype)
        expected = (query[:, None] == key).tolist()
    shown = bias.matrix(len(query), len(key), segment_ids=query, key_segment_ids=key)
    assert (shown[0] == 1).tolist() == expected


def test_causal_is_by_position_not_by_index() -> None:
    bias = tb.RelativeAttentionBias(np.zeros((32, 1)), tb.Buckets())
    step = bias.matrix(1, 6, query_offset=3, causal=True, masked_value=-1)
    assert step[0, 0].tolist() == [0, 0, 0, 0, -1, -1]
    far = bias.matrix(2, 2, query_offset=2**63 - 1, key_offset=-(2**63), causal=True)
    assert (far == 0).all()
    far = bias.matrix(2, 2, query_offset=-(2**63), key_offset=2**63 - 1, causal=True)
    assert (far == np.finfo(np.float64).min).all()
    shuffled = bias.matrix_at([4, 0, 2], causal=True, masked_value=-1)
    assert shuffled[0].tolist() == [[0, 0, 0], [-1, 0, -1], [-1, 0, 0]]
    top = np.array([2**64 - 1, 0], np.uint64)
    mixed = bias.matrix_at(np.array([-5, 5]), top, causal=True, masked_value=-1)
    assert mixed[0].tolist() == [[-1, -1], [-1, 0]]


def test_masked_pairs_stay_masked_whatever_is_added() -> None:
    bias = tb.RelativeAttentionBias(np.ones((32, 1), np.float32), tb.Buckets())
    lowest = np.finfo(np.float32).min
    additive = np.full((3, 3), lowest)
    matrix = bias.matrix(3, 3, mask=additive, causal=True)
    assert np.isfinite(matrix).all()
    out = np.full((1, 3, 3), lowest)
    bias.matrix_at(np.arange(3), out=out, causal=True, accumulate=True)
    assert (out[0][np.triu_indices(3, 1)] == lowest).all()


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("scale", [0.125, 1 / 3, -2, np.float64(1e-3), 0, 1])
def test_scale_multiplies_the_weights(dtype: Any, scale: float) -> None:
    weight = reference.normal_weight(32, 3, dtype)
    bias = tb.RelativeAttentionBias(weight, tb.Buckets())
    expected = reference.matrix(weight, reference.t5(), reference.consecutive(9, 9), scale=scale)
    assert np.array_equal(bits(bias.matrix(9, 9, scale=scale)), bits(expected))
    at = bias.matrix_at(np.arange(9), scale=scale)
    assert np.array_equal(bits(at), bits(expected))


def test_an_accumulated_output_may_have_more_batch_axes() -> None:
    weight = reference.normal_weight(32, 3, np.float32)
    bias = tb.RelativeAttentionBias(weight, tb.Buckets())
    held = np.random.default_rng(1).standard_normal((2, 4, 3, 5, 6)).astype(np.float32)
    mask = np.arange(24).reshape(4, 1, 1, 6) % 5 > 0
    expected = np.where(mask, held + bias.matrix(5, 6), np.finfo(np.float32).min)
    out = held.copy()
    assert bias.matrix(5, 6, mask=mask, out=out, accumulate=True) is out
    assert np.array_equal(out, expected)
    out = held.copy()
    bias.matrix_at(np.arange(5), np.arange(6), mask=mask, out=out, accumulate=True)
    assert np.array_equal(out, expected)
    with pytest.raises(ValueError, match=r"out must have the batch axes .* \(4,\), got \(\)"):
        bias.matrix(5, 6, mask=mask, out=held[0, 0].copy(), accumulate=True)


def test_a_mask_may_be_the_output_itself() -> None:
    bias = tb.RelativeAttentionBias(reference.normal_weight(32, 2, np.float32), tb.Buckets())
    memory = np.random.default_rng(3).standard_normal((2, 30, 31)).astype(np.float32)
    for mask in (memory, memory[:, ::-1], memory[:1], memory[..., ::-1]):
        expected = bias.matrix(30, 31, mask=mask.copy())
        kept = memory.copy()
        assert np.array_equal(bias.matrix(30, 31, mask=mask, out=memory), expected)
        memory[...] = kept
        at = bias.matrix_at(np.arange(30), np.arange(31), mask=mask, out=memory)
        assert np.array_equal(at, expected)
        memory[...] = kept
    shown = memory[:, 0].view(np.uint8)[:, :31]  # a boolean mask in the output's memory
    shown[...] = np.random.default_rng(4).integers(0, 2, shown.shape)
    mask = shown.view(bool)[:, None]
    expected = bias.matrix(30, 31, mask=mask.copy())
    assert np.array_equal(bias.matrix(30, 31, mask=mask, out=memory), expected)


def test_bytes_other_than_one_are_true_as_in_numpy() -> None:
    mask = np.array([0, 1, 2, 255], np.uint8).view(bool)
    bias = tb.RelativeAttentionBias(np.ones((32, 1)), tb.Buckets())
    assert (bias.matrix(1, 4, mask=mask)[0, 0] == 1).tolist() == [False, True, True, True]


def test_masks_are_not_changed() -> None:
    bias = tb.RelativeAttentionBias(np.ones((32, 1)), tb.Buckets())
    for mask in (np.array([0, 1, 2, 255], np.uint8).view(bool), np.arange(4.0)):
        kept = mask.tobytes()
        out = np.zeros((1, 3, 4))
        bias.matrix(3, 4, mask=mask, out=out)
        bias.matrix_at(np.arange(3), np.arange(4), mask=mask, out=out, accumulate=True)
        bias.weight_gradient(out, mask=mask)
        assert mask.tobytes() == kept


@reference.needs_bfloat16
@pytest.mark.parametrize("order", ["<", ">"])
def test_masks_are_rounded_once_in_either_byte_order(order: str) -> None:
    bias = tb.RelativeAttentionBias(np.zeros((32, 1), reference.BFLOAT16), tb.Buckets())
    mask = np.array([1 + 2**-8 + 2**-40, 1 + 2**-8, -1 - 2**-8 - 2**-40], f"{order}f8")
    found = bias.matrix(1, 3, mask=mask)[0, 0].astype(np.float64)
    assert found.tolist() == [1 + 2**-7, 1, -1 - 2**-7]


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stream, divide and split small outputs as if they were large."""
    monkeypatch.setattr(_writing, "STREAM_NBYTES", -1)
    monkeypatch.setattr(_threads, "MAX_ROW_LENGTH", 1300)
    monkeypatch.setattr(_threads, "PART_NBYTES", 1 << 12)
    monkeypatch.setattr(_threads, "MIN_PART_NBYTES", 1 << 10)
    monkeypatch.setattr(_threads, "THREAD_NBYTES", 1 << 11)


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("num_heads", [1, 3, 12])
@pytest.mark.parametrize("kind", [None, "boolean", "additive", "by head", "by query"])
def test_streaming_parts_and_blocks_do_not_show(dtype: Any, num_heads: int, kind: str) -> None:
    random = np.random.default_rng(8)
    batch, q, k = 2, 9, 2909
    mask: Any = {
        None: None,
        "boolean": random.random((batch, 1, 1, k)) > 0.3,
        "additive": random.standard_normal((batch, 1, 1, k)).astype(dtype),
        "by head": random.random((num_heads, q, k)) > 0.3,
        "by query": random.random((batch, 1, q, k)) > 0.3,
    }[kind]
    masks: dict[str, Any] = {"mask": mask, "causal": True}
    masks["segment_ids"] = random.integers(0, 2, (batch, q))
    masks["key_segment_ids"] = random.integers(0, 2, (batch, k))
    weight = reference.normal_weight(32, num_heads, dtype)
    bias = tb.RelativeAttentionBias(weight, tb.Buckets())
    relative = reference.consecutive(q, k, 2000)
    expected = reference.matrix(weight, reference.t5(), relative, **masks)
    query, key = np.arange(2000, 2000 + q), np.arange(k)
    for shift in (0, 1, 7):  # relative to lines of memory
        memory = np.full((batch, num_heads, q, k + 16), 99, dtype)
        out = memory[..., shift : shift + k]
        for num_threads in (1, 3):
            bias.matrix(q, k, query_offset=2000, out=out, num_threads=num_threads, **masks)
            assert np.array_equal(bits(out), bits(expected))
            out[...] = 99
            bias.matrix_at(query, key, out=out, num_threads=num_threads, **masks)
            assert np.array_equal(bits(out), bits(expected))
            out[...] = 1
            bias.matrix_at(query, key, out=out, num_threads=num_threads, accumulate=True, **masks)
            summed = reference.matrix(
                weight, reference.t5(), relative, held=np.ones_like(expected), **masks
            )
            assert np.array_equal(bits(out), bits(summed))
            out[...] = 99
            assert (memory == 99).all()
