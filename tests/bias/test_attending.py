# test_attending.py - attention by NumPy, compared with its formula in float64.
# SPDX-License-Identifier: BSD-3-Clause
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference import BFLOAT16, needs_bfloat16
from strategies import (
    FLOAT_DTYPES,
    draw_masks,
    float_dtypes,
    lengths,
    offsets,
    relayout,
    settings_of_schemes,
)

import t5bucket as tb
from t5bucket import _attention

HEADS = 3
TOLERANCE = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 4e-6, "float64": 1e-13}


def draw_inputs(dtype: Any, q: int, k: int, batch: tuple[int, ...] = (), size: int = 5) -> Any:
    """Draw query, key and value; values have two features more."""
    random = np.random.default_rng(q + 100 * k)
    shapes = [(q, size), (k, size), (k, size + 2)]
    return [random.standard_normal((*batch, HEADS, *shape)).astype(dtype) for shape in shapes]


def attend(query: Any, key: Any, value: Any, matrix: Any, scale: float = 1) -> NDArray[Any]:
    """Attend by the formula in float64, given the bias with its masks."""
    minimum = reference.MINIMUM[matrix.dtype.name]
    wide = np.asarray(matrix.astype(np.float64))
    products = scale * query.astype(np.float64) @ key.astype(np.float64).swapaxes(-1, -2)
    scores = np.where(wide == minimum, np.finfo(np.float64).min, products + wide)
    most = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    with np.errstate(over="ignore"):  # from a masked pair to a large score
        powers = np.exp(scores - np.where(most == -np.inf, 0, most))
    sums = powers.sum(axis=-1, keepdims=True)
    return np.asarray(powers / np.where(sums == 0, 1, sums) @ value.astype(np.float64))


def assert_near(found: NDArray[Any], expected: NDArray[Any]) -> None:
    assert found.shape == expected.shape
    error = np.abs(found.astype(np.float64) - expected)
    assert (error <= TOLERANCE[found.dtype.name] * (1 + np.abs(expected))).all()


STRIPS = {
    "whole": {},
    "groups of examples": {"STRIP_NBYTES": 4096},
    "parts of examples": {
        "STRIP_NBYTES": 200, "SMALL_COUNT": 0, "QUERIES": 4, "LEAST_QUERIES": 2
    },
}  # fmt: skip


@pytest.fixture(autouse=True, params=STRIPS)
def strips(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute these small cases both in one strip, and in many."""
    for name, number in STRIPS[request.param].items():
        monkeypatch.setattr(_attention, name, number)


@given(settings_of_schemes(), float_dtypes, lengths, lengths, offsets, offsets, st.data())
def test_attention_agrees_with_its_formula(
    settings: tuple[int, int, bool],
    dtype: Any,
    q: int,
    k: int,
    query_offset: int,
    key_offset: int,
    data: st.DataObject,
) -> None:
    bias = tb.RelativeAttentionBias(
        reference.normal_weight(settings[0], HEADS, dtype), tb.Buckets(*settings)
    )
    masks = data.draw(draw_masks((HEADS, q, k)))
    masks.pop("masked_value", None)
    masks.pop("scale", None)
    scale = data.draw(st.sampled_from([1.0, 0.25, -2.0]))
    at: Any = {"query_offset": query_offset, "key_offset": key_offset}
    query, key, value = draw_inputs(dtype, q, k)
    matrix = bias.matrix(q, k, **at, **masks)
    found = bias.attend(query, key, value, **at, **masks, scale=scale)
    assert found.dtype == dtype
    assert_near(found, attend(query, key, value, matrix, scale))


@given(settings_of_schemes(), float_dtypes, st.integers(1, 12), st.integers(1, 12), st.data())
def test_attention_at_positions_agrees_with_its_formula(
    settings: tuple[int, int, bool], dtype: Any, q: int, k: int, data: st.DataObject
) -> None:
    bias = tb.RelativeAttentionBias(
        reference.normal_weight(settings[0], HEADS, dtype), tb.Buckets(*settings)
    )
    near = st.integers(-300, 300) | st.sampled_from([-(2**63), 2**63 - 1])
    batch = data.draw(st.sampled_from([(), (2,), (2, 1)]))
    count = int(np.prod(batch, dtype=int)) * q
    drawn = data.draw(st.lists(near, min_size=count, max_size=count))
    query_positions = np.array(drawn, np.int64).reshape(*batch, q)
    key_positions = np.array(data.draw(st.lists(near, min_size=k, max_size=k)), np.int64)
    masks = data.draw(draw_masks((HEADS, q, k), batch))
    masks.pop("masked_value", None)
    masks.pop("scale", None)
    query, key, value = draw_inputs(dtype, q, k, (3,) if len(batch) == 2 else ())
    matrix = bias.matrix_at(query_positions, key_positions, **masks)
    found = bias.attend_at(query, key, value, query_positions, key_positions, **masks)
    assert_near(found, attend(query, key, value, matrix))


PADDING = np.arange(60) >= np.array([0, 7, 60, 59])[:, None]
DOCUMENTS = np.repeat([5, 1, 5, 9], [20, 10, 10, 20])
FAR = 2**63 - 1
MASKS: dict[str, Any] = {
    "none": {},
    "causal, far after the keys": {"causal": True, "query_offset": FAR, "key_offset": -FAR},
    "causal, far before the keys": {"causal": True, "query_offset": -FAR, "key_offset": FAR},
    "causal": {"causal": True},
    "causal, before the keys": {"causal": True, "query_offset": -5},
    "causal, after a cache": {"causal": True, "query_offset": 30},
    "padding at the start": {"mask": PADDING[:, None, None]},
    "padding at the end": {"mask": PADDING[:, None, None, ::-1]},
    "causal, padding at the start": {"causal": True, "mask": PADDING[:, None, None]},
    "causal, padding at the end": {"causal": True, "mask": PADDING[:, None, None, ::-1]},
    "documents": {"segment_ids": DOCUMENTS},
    "causal, documents": {"segment_ids": DOCUMENTS, "causal": True},
    "documents, padding": {"segment_ids": DOCUMENTS, "mask": PADDING[:, None, None]},
    "documents without keys": {"segment_ids": DOCUMENTS, "key_segment_ids": DOCUMENTS - 4},
    "documents of an example": {"segment_ids": np.sort(np.arange(240).reshape(4, 60) * 7 % 5)},
    "huge documents": {
        "segment_ids": np.repeat(np.array([2**64 - 1, 2**64 - 2], np.uint64), 30),
        "key_segment_ids": np.repeat(np.array([2**64 - 2, 2**64 - 1], np.uint64), 30),
    },
    "huge documents, and negative keys": {
        "segment_ids": np.repeat(np.array([2**64 - 1, 0], np.uint64), 30),
        "key_segment_ids": np.repeat([-1, 0], 30),
    },
}


@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
def test_keys_that_no_query_sees_are_skipped_and_change_nothing(masks: Any) -> None:
    bias = tb.RelativeAttentionBias(
        reference.normal_weight(32, HEADS, np.float32), tb.Buckets(32, 40)
    )
    query, key, value = draw_inputs(np.float32, 60, 60, (4,))
    matrix = bias.matrix(60, 60, **masks)
    expected = attend(query, key, value, matrix)
    assert_near(bias.attend(query, key, value, **masks), expected)
    offsets = [masks.get(name, 0) for name in ("query_offset", "key_offset")]
    if FAR not in offsets:
        positions = (np.arange(60) + offset for offset in offsets)
        hidden = {name: array for name, array in masks.items() if "offset" not in name}
        assert_near(bias.attend_at(query, key, value, *positions, **hidden), expected)


@pytest.mark.parametrize("positions", [[], [np.arange(60)]], ids=["attend", "attend_at"])
def test_hidden_keys_are_not_read(positions: list[Any]) -> None:
    bias = tb.RelativeAttentionBias(np.ones((32, HEADS), np.float32), tb.Buckets())
    query, key, value = draw_inputs(np.float32, 60, 60)
    attend: Any = bias.attend_at if positions else bias.attend
    expected = attend(query, key, value, *positions, mask=PADDING[1])
    key[:, :7], value[:, :7] = np.nan, np.inf
    assert np.array_equal(attend(query, key, value, *positions, mask=PADDING[1]), expected)


def test_batch_axes_broadcast() -> None:
    bias = tb.RelativeAttentionBias(
        reference.normal_weight(32, HEADS, np.float32), tb.Buckets(32, 40)
    )
    query, _, _ = draw_inputs(np.float32, 11, 11, (2, 1))
    _, key, value = draw_inputs(np.float32, 11, 13, (3,))
    expected = attend(query, key, value, bias.matrix(11, 13))
    assert expected.shape == (2, 3, HEADS, 11, 7)
    assert_near(bias.attend(query, key, value), expected)
    assert_near(bias.attend(query[:, 0], key[0], value[:1]), expected[:, 0])


def test_a_query_without_a_key_gets_the_mean_of_all_values_or_zeros() -> None:
    bias = tb.RelativeAttentionBias(np.ones((32, HEADS), np.float32), tb.Buckets())
    query, key, value = draw_inputs(np.float32, 9, 9)
    mean = bias.attend(query, key, value, mask=np.zeros(9, bool))
    assert np.allclose(mean, value.mean(axis=-2, keepdims=True))
    assert (bias.attend(query, key, value, mask=np.full(9, -np.inf)) == 0).all()
    assert (bias.attend(query, key[:, :0], value[:, :0]) == 0).all()


def test_nans_stay_in_their_rows() -> None:
    bias = tb.RelativeAttentionBias(np.ones((32, HEADS), np.float32), tb.Buckets())
    query, key, value = draw_inputs(np.float32, 9, 9)
    expected = bias.attend(query, key, value)
    query[1, 4, 0] = np.nan
    found = bias.attend(query, key, value)
    assert np.isnan(found[1, 4]).all()
    found[1, 4] = expected[1, 4]
    assert np.allclose(found, expected)


LAYOUTS = [
    (dtype, layout)
    for dtype in FLOAT_DTYPES
    for layout in ("fortran", "byte-swapped", "strided", "unaligned")
    if (dtype.name, layout) != ("bfloat16", "byte-swapped")  # ml_dtypes has none
]


@pytest.mark.parametrize(("dtype", "layout"), LAYOUTS)
def test_inputs_and_results_have_any_layout(dtype: Any, layout: str) -> None:
    bias = tb.RelativeAttentionBias(reference.normal_weight(32, HEADS, dtype), tb.Buckets())
    query, key, value = draw_inputs(dtype, 33, 21, (2,))
    expected = bias.attend(query, key, value, scale=0.5).astype(np.float64)
    given = [relayout(array, layout) for array in (query, key, value)]
    assert_near(bias.attend(*given, scale=0.5), expected)
    if layout != "byte-swapped":  # the result has the weight's dtype, which is native
        out = relayout(np.zeros(expected.shape, dtype), layout)
        assert bias.attend(*given, scale=0.5, out=out) is out
        assert_near(out, expected)


Overlap = Callable[[NDArray[Any], NDArray[Any]], Any]
OVERLAPS: dict[str, Overlap] = {
    "query": lambda out, x: {"query": out[:, ::-1]},
    "value": lambda out, x: {"value": out},
    "mask": lambda out, x: {"mask": out[:, :, :1]},
}


@pytest.mark.parametrize("overlap", OVERLAPS.values(), ids=OVERLAPS)
def test_the_result_may_overlap_what_it_is_computed_from(overlap: Overlap) -> None:
    bias = tb.RelativeAttentionBias(reference.normal_weight(32, HEADS, np.float32), tb.Buckets())
    memory = np.random.default_rng(2).standard_normal((HEADS, 20, 5)).astype(np.float32)
    own: dict[str, Any] = dict.fromkeys(("query", "key", "value"), memory[:, ::-1].copy())
    own |= overlap(memory, memory)
    expected = bias.attend(**{name: array.copy() for name, array in own.items()})
    assert bias.attend(**own, out=memory) is memory
    assert np.array_equal(memory, expected)


class Hostile(np.ndarray):
    """An array whose own methods and functions of NumPy must not be called."""

    shape: Any = property(lambda self: (1,))

    def __array_function__(self, *_: Any) -> Any:
        raise AssertionError("a function of the subclass was called")

    def __setitem__(self, *_: Any) -> None:
        raise AssertionError("a method of the subclass was called")


@pytest.mark.parametrize("is_shared", [False, True])
def test_the_result_may_be_a_subclass_that_overrides_everything(is_shared: bool) -> None:
    bias = tb.RelativeAttentionBias(reference.normal_weight(32, HEADS, np.float32), tb.Buckets())
    query, key, _ = draw_inputs(np.float32, 9, 9)
    expected = bias.attend(query, key, key)
    memory = key if is_shared else np.empty_like(query)
    out = memory.view(Hostile)
    assert bias.attend(query, key, key, out=out) is out
    assert np.array_equal(memory, expected)


@needs_bfloat16
def test_a_tensor_and_its_bfloat16_are_read() -> None:
    torch = pytest.importorskip("torch")
    given = [torch.randn(2, HEADS, 7, 4, requires_grad=True) for _ in range(3)]
    for tensors, dtype in ((given, np.float32), ([x.bfloat16() for x in given], BFLOAT16)):
        bias = tb.RelativeAttentionBias(np.ones((32, HEADS), dtype), tb.Buckets())
        arrays = [x.detach().float().numpy().astype(dtype) for x in tensors]
        assert np.array_equal(bias.attend(*tensors), bias.attend(*arrays))


@pytest.mark.parametrize("num_threads", [1, 3])
def test_threads_change_nothing(num_threads: int) -> None:
    bias = tb.RelativeAttentionBias(reference.normal_weight(32, HEADS, np.float32), tb.Buckets())
    query, key, value = draw_inputs(np.float32, 300, 400)
    expected = bias.attend(query, key, value)
    assert np.array_equal(bias.attend(query, key, value, num_threads=num_threads), expected)


@pytest.mark.parametrize("function", ["attend", "attend_at"])
def test_memory_grows_linearly(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_attention, "STRIP_NBYTES", 1 << 16)
    monkeypatch.setattr(_attention, "QUERIES", 64)
    bias = tb.RelativeAttentionBias(np.ones((32, HEADS), np.float16), tb.Buckets())

    def measure_peak(length: int) -> int:
        inputs = [np.ones((HEADS, length, 4), np.float16)] * 3
        positions = [np.arange(length)] if function == "attend_at" else []
        tracemalloc.start()
        try:
            getattr(bias, function)(*inputs, *positions, causal=True)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    measure_peak(16)
    assert measure_peak(2048) < 2.2 * measure_peak(1024) < 0.1 * HEADS * 2048**2
