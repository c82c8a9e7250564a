# test_gradients.py - gradients of the weight: sums, adjoints, finite differences and autograd.
# SPDX-License-Identifier: BSD-3-Clause
import tracemalloc
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from reference import assert_close, rounded
from strategies import (
    FLOAT_DTYPES,
    draw_masks,
    float_dtypes,
    layouts,
    offsets,
    relayout,
    settings_of_schemes,
)

import t5bucket as tb
from t5bucket import _gradient, _threads

LENGTHS = st.integers(0, 12)
NAMES = ("causal", "mask", "segment_ids", "key_segment_ids")


def normal(shape: Any, dtype: Any, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@given(settings_of_schemes(), float_dtypes, LENGTHS, LENGTHS, offsets, layouts, st.data())
def test_weight_gradient_is_the_sum_over_the_pairs_of_each_bucket(
    settings: tuple[int, int, bool],
    dtype: Any,
    q: int,
    k: int,
    query_offset: int,
    layout: str,
    data: st.DataObject,
) -> None:
    buckets = tb.Buckets(*settings)
    bias = tb.RelativeAttentionBias(normal((buckets.num_buckets, 3), dtype), buckets)
    masks = data.draw(draw_masks((3, q, k)))
    masks.pop("masked_value", None)
    shape = bias.matrix(q, k, **masks).shape
    gradient = normal(shape, dtype, seed=1)
    scale = masks.pop("scale", None)
    relative = reference.consecutive(q, k, query_offset, 4)
    expected = reference.weight_gradient(gradient, reference.t5(*settings), relative, **masks)
    found = bias.weight_gradient(
        relayout(gradient, layout), query_offset=query_offset, key_offset=4, scale=scale, **masks
    )
    assert found.dtype == dtype
    assert found.shape == bias.weight.shape
    assert_close(found, rounded(expected, scale, dtype))


@given(settings_of_schemes(), float_dtypes, LENGTHS, LENGTHS, layouts, st.data())
def test_weight_gradient_at_is_the_sum_over_the_pairs_of_each_bucket(
    settings: tuple[int, int, bool],
    dtype: Any,
    q: int,
    k: int,
    layout: str,
    data: st.DataObject,
) -> None:
    buckets = tb.Buckets(*settings)
    num_heads = data.draw(st.sampled_from([1, 3, 4, 6]))
    batch = data.draw(st.sampled_from([(), (2,), (2, 2)]))
    bias = tb.RelativeAttentionBias(normal((buckets.num_buckets, num_heads), dtype), buckets)
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    query, key = random.integers(-300, 300, (*batch, q)), random.integers(-300, 300, k)
    if data.draw(st.booleans()) and q and k:
        query[..., 0], key[-1] = -(2**63), 2**63 - 1
    masks = data.draw(draw_masks((num_heads, q, k), batch))
    masks.pop("masked_value", None)
    gradient = normal(bias.matrix_at(query, key, **masks).shape, dtype, seed=1)
    scale = masks.pop("scale", None)
    relative = reference.differences(query, key)
    expected = reference.weight_gradient(gradient, reference.t5(*settings), relative, **masks)
    found = bias.weight_gradient_at(relayout(gradient, layout), query, key, scale=scale, **masks)
    assert_close(found, rounded(expected, scale, dtype))


MASKS: list[dict[str, Any]] = [
    {},
    {"causal": True},
    {"mask": np.arange(17) % 3 > 0},
    {"mask": np.linspace(-1, 1, 17)},
    {"segment_ids": np.arange(15) // 4, "key_segment_ids": np.arange(17) // 5},
    {"mask": np.arange(2 * 17).reshape(2, 1, 1, 17) % 4 > 0, "causal": True, "scale": 0.3},
]


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("buckets", [tb.Buckets(8, 9), tb.Buckets(33, 64, False)])
def test_weight_gradient_is_the_adjoint_of_matrix(masks: Any, buckets: tb.Buckets) -> None:
    """<matrix(weight), gradient> = <weight, weight_gradient(gradient)>, masked pairs being 0."""
    weight = normal((buckets.num_buckets, 5), np.float64)
    bias = tb.RelativeAttentionBias(weight, buckets)
    query, key = np.arange(15) * 2, np.arange(17)[::-1]
    additive = "mask" in masks and masks["mask"].dtype != bool
    ways: list[tuple[Any, Any]] = [
        (lambda b: b.matrix(15, 17, **masks, masked_value=0), bias.weight_gradient),
        (
            lambda b: b.matrix_at(query, key, **masks, masked_value=0),
            lambda g, **m: bias.weight_gradient_at(g, query, key, **m),
        ),
    ]
    for matrix, gradient_of in ways:
        value = matrix(bias)
        if additive:  # only the part that is linear in the weight
            zero = tb.RelativeAttentionBias(np.zeros_like(weight), buckets)
            value = value - matrix(zero)
        gradient = normal(value.shape, np.float64, seed=3)
        left = (value * gradient).sum()
        right = (weight * gradient_of(gradient, **masks)).sum()
        assert left == pytest.approx(right, rel=1e-12)


def test_weight_gradient_agrees_with_finite_differences() -> None:
    buckets = tb.Buckets(8, 9)
    weight = normal((8, 2), np.float64)
    target = normal((2, 2, 11, 13), np.float64, seed=2)
    masks: Any = {"mask": np.arange(26).reshape(2, 1, 1, 13) % 5 > 0, "causal": True}

    def loss(weight: Any) -> Any:
        matrix = tb.RelativeAttentionBias(weight, buckets).matrix(11, 13, masked_value=0, **masks)
        return ((matrix - target) ** 2).sum()

    bias = tb.RelativeAttentionBias(weight, buckets)
    residual = bias.matrix(11, 13, masked_value=0, **masks) - target
    gradient = bias.weight_gradient(2 * residual, **masks)
    for bucket, head in np.ndindex(weight.shape):
        step = np.zeros_like(weight)
        step[bucket, head] = 1e-4
        difference = (loss(weight + step) - loss(weight - step)) / 2e-4
        assert gradient[bucket, head] == pytest.approx(difference, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("heads_first", [False, True])
@pytest.mark.parametrize("masks", MASKS)
def test_gradients_are_those_of_torchs_autograd(masks: dict[str, Any], heads_first: bool) -> None:
    torch = pytest.importorskip("torch")
    buckets = tb.Buckets(32, 128)
    weight = normal((12, 32) if heads_first else (32, 12), np.float64)
    bias = tb.RelativeAttentionBias(weight, buckets, heads_first=heads_first)
    query, key = np.arange(15) * 9, np.arange(17)[::-1] * 11
    ways: list[tuple[Any, Any, Any]] = [
        (reference.consecutive(15, 17), lambda: bias.matrix(15, 17, **masks), bias.weight_gradient),
        (
            reference.differences(query, key),
            lambda: bias.matrix_at(query, key, **masks),
            lambda g, **m: bias.weight_gradient_at(g, query, key, **m),
        ),
    ]
    for relative, forward, backward in ways:
        leaf = torch.from_numpy(weight.copy()).requires_grad_()
        by_bucket = leaf.t() if heads_first else leaf
        value = by_bucket[torch.from_numpy(reference.t5()(relative))].permute(2, 0, 1)
        value = value * masks.get("scale", 1)
        names = {name: masks[name] for name in NAMES if name in masks}
        if "mask" in names and names["mask"].dtype != bool:
            value = value + torch.from_numpy(names["mask"])
        shown = torch.from_numpy(np.asarray(reference.visible(relative, **names)))
        expected = torch.where(
            shown, value, torch.tensor(reference.MINIMUM["float64"], dtype=torch.float64)
        )
        assert np.array_equal(forward(), expected.detach().numpy())
        gradient = normal(expected.shape, np.float64, seed=4)
        expected.backward(torch.from_numpy(gradient))
        np.testing.assert_allclose(
            backward(gradient, **masks), leaf.grad.numpy(), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_large_sums_stay_exact(dtype: Any) -> None:
    """With 4 million numbers a head, a float32 sum would be off by 1e-3 or more."""
    buckets = tb.Buckets()
    bias = tb.RelativeAttentionBias(np.zeros((32, 2), dtype), buckets)
    gradient = (0.1 + np.abs(normal((2, 2048, 2048), np.float32))).astype(dtype)
    found = bias.weight_gradient(gradient)
    wide = np.zeros((32, 2))
    grid = reference.t5()(reference.consecutive(2048, 2048)).ravel().astype(np.intp)
    for head in range(2):
        wide[:, head] = np.bincount(grid, gradient[head].ravel().astype(np.float64), 32)
    with np.errstate(over="ignore"):  # float16 ends at 65504
        expected = wide.astype(dtype)
    assert_close(found, expected)
    assert_close(bias.weight_gradient_at(gradient, np.arange(2048)), expected)


@pytest.mark.parametrize("num_heads", [1, 5])
@pytest.mark.parametrize("shape", [(2, 900, 500), (40, 30, 70), (1, 3, 9000), (3, 9000, 1)])
def test_equal_calls_give_equal_bits_on_any_number_of_threads(
    shape: tuple[int, int, int], num_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gradient, "SUM_NBYTES", 1 << 14)
    monkeypatch.setattr(_threads, "PART_NBYTES", 1 << 15)
    monkeypatch.setattr(_threads, "MIN_PART_NBYTES", 1 << 10)
    monkeypatch.setattr(_threads, "THREAD_NBYTES", 1 << 13)
    batch, q, k = shape
    bias = tb.RelativeAttentionBias(np.zeros((32, num_heads), np.float32), tb.Buckets())
    gradient = normal((batch, num_heads, q, k), np.float32)
    mask = np.random.default_rng(0).random((batch, 1, 1, k)) > 0.2
    positions = np.random.default_rng(1).integers(0, 1000, (batch, q + k))
    query, key = positions[:, :q], positions[:, q:]
    expected = reference.weight_gradient(
        gradient, reference.t5(), reference.consecutive(q, k), mask=mask
    )
    one = bias.weight_gradient(gradient, mask=mask, num_threads=1)
    one_at = bias.weight_gradient_at(gradient, query, key, mask=mask, num_threads=1)
    assert_close(one, expected.astype(np.float32))
    for num_threads in (None, 2, 3, 8):
        again = bias.weight_gradient(gradient, mask=mask, num_threads=num_threads)
        assert np.array_equal(again, one)
        at = bias.weight_gradient_at(gradient, query, key, mask=mask, num_threads=num_threads)
        assert np.array_equal(at, one_at)


def test_rows_are_summed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_threads, "MAX_ROW_LENGTH", 300)
    bias = tb.RelativeAttentionBias(np.zeros((32, 3)), tb.Buckets())
    gradient = normal((3, 4, 1000), np.float64)
    key = np.random.default_rng(0).integers(-200, 200, 1000)
    mask = np.arange(1000) % 7 > 0
    relative = reference.differences(np.arange(4), key)
    expected = reference.weight_gradient(gradient, reference.t5(), relative, mask=mask, causal=True)
    found = bias.weight_gradient_at(gradient, np.arange(4), key, mask=mask, causal=True)
    assert_close(found, expected)


def test_schemes_too_wide_for_an_index_have_gradients_too() -> None:
    buckets, scheme = tb.Buckets(64, 2**40), reference.t5(64, 2**40)
    bias = tb.RelativeAttentionBias(np.zeros((64, 5), np.float32), buckets)
    key = np.random.default_rng(0).integers(-(2**41), 2**41, 200)
    gradient = normal((5, 3, 200), np.float32)
    expected = reference.weight_gradient(gradient, scheme, reference.differences(np.arange(3), key))
    assert_close(bias.weight_gradient_at(gradient, np.arange(3), key), expected.astype("f4"))
    expected = reference.weight_gradient(gradient, scheme, reference.consecutive(3, 200, 900))
    assert_close(bias.weight_gradient(gradient, query_offset=900), expected.astype("f4"))


def test_positions_that_int64_cannot_hold_together_have_gradients_too() -> None:
    query, key = np.array([-5, 5]), np.array([2**64 - 1, 0, 3], np.uint64)
    bias = tb.RelativeAttentionBias(np.zeros((32, 1)), tb.Buckets())
    gradient = normal((1, 2, 3), np.float64)
    ids: Any = {"segment_ids": [1, 1], "key_segment_ids": [1, 2, 1]}
    expected = reference.weight_gradient(
        gradient, reference.t5(), reference.differences(query, key), causal=True, **ids
    )
    assert_close(bias.weight_gradient_at(gradient, query, key, causal=True, **ids), expected)


def test_buckets_of_several_ranges_get_all_of_them() -> None:
    buckets = tb.Buckets.from_function(lambda d: abs(d) % 3, max_distance=10, num_buckets=4)
    bias = tb.RelativeAttentionBias(np.zeros((4, 2)), buckets)
    gradient = normal((2, 9, 9), np.float64)
    scheme = reference.Scheme(4, 10, lambda d: abs(d) % 3)
    expected = reference.weight_gradient(gradient, scheme, reference.consecutive(9, 9))
    assert_close(bias.weight_gradient(gradient), expected)
    assert (bias.weight_gradient(gradient)[3] == 0).all()
    constant = tb.Buckets.from_function(lambda d: d * 0, max_distance=3, num_buckets=1)
    one = tb.RelativeAttentionBias(np.zeros((1, 2)), constant)
    assert_close(one.weight_gradient(gradient)[0], gradient.sum((1, 2)))
    assert_close(one.weight_gradient_at(gradient, np.arange(9))[0], gradient.sum((1, 2)))


def test_masked_gradients_do_not_count_even_if_they_are_nan() -> None:
    bias = tb.RelativeAttentionBias(np.zeros((32, 2)), tb.Buckets())
    gradient = np.ones((2, 6, 6))
    gradient[:, np.triu_indices(6, 1)[0], np.triu_indices(6, 1)[1]] = np.nan
    assert bias.weight_gradient(gradient, causal=True).sum() == 2 * 21
    assert bias.weight_gradient_at(gradient, np.arange(6), causal=True).sum() == 2 * 21


def test_gradients_beyond_the_type_are_infinite() -> None:
    bias = tb.RelativeAttentionBias(np.zeros((32, 1), np.float16), tb.Buckets())
    assert bias.weight_gradient(np.full((1, 300, 300), 60000, np.float16))[15] == np.inf


@pytest.mark.parametrize(
    ("shape", "masks"),
    [
        ((0, 2, 4, 5), {"mask": np.ones((0, 1, 1, 5), bool)}),
        ((2, 3, 2, 0, 5), {"segment_ids": np.zeros((2, 3, 0), int), "key_segment_ids": [0] * 5}),
        ((2, 0, 2, 4, 5), {"segment_ids": np.zeros((2, 0, 4), int), "key_segment_ids": [0] * 5}),
        ((2, 4, 0), {"causal": True}),
    ],
)
def test_gradients_without_pairs_are_zero(shape: tuple[int, ...], masks: dict[str, Any]) -> None:
    bias = tb.RelativeAttentionBias(np.ones((32, 2)), tb.Buckets())
    gradient = np.zeros(shape)
    query, key = np.arange(shape[-2]), np.arange(shape[-1])
    for found in (
        bias.weight_gradient(gradient, **masks),
        bias.weight_gradient_at(gradient, query, key, **masks),
    ):
        assert np.array_equal(found, np.zeros((32, 2)))


@reference.needs_bfloat16
def test_sums_are_rounded_once_to_bfloat16() -> None:
    bias = tb.RelativeAttentionBias(np.zeros((32, 1), reference.BFLOAT16), tb.Buckets())
    for numbers, expected in (
        ([1, 2**-8, 2**-40], 1 + 2**-7),  # above the middle by a bit that float32 cannot hold
        ([1, 2**-8, 0], 1),  # exactly the middle: to even
        ([-1, -(2**-8), -(2**-40)], -1 - 2**-7),
        ([1, 2**-8, -(2**-40)], 1),
        ([3.3895313892515355e38] * 3, np.inf),
    ):
        gradient = np.diag(numbers).astype(reference.BFLOAT16)[None]
        assert float(bias.weight_gradient(gradient)[0, 0]) == expected


def test_no_number_is_worth_a_warning() -> None:
    for weight, factor in ((np.inf, 0), (1e38, 1e5), (1e-38, 1e-30)):
        bias = tb.RelativeAttentionBias(np.full((32, 1), weight, np.float32), tb.Buckets())
        bias.matrix(2, 2, scale=factor)
    bias = tb.RelativeAttentionBias(np.ones((32, 1)), tb.Buckets())
    bias.weight_gradient(np.full((1, 3, 3), np.inf), scale=0)
    bias.weight_gradient(np.full((1, 3, 3), 1e308), scale=10)
    both = np.full((2, 1, 1, 1 << 21), np.inf)
    both[1] = -np.inf
    assert np.isnan(bias.weight_gradient(both)[31, 0])
    tiny, mask = np.full((32, 1), 1e-7, np.float16), np.full(2, 1e-10, np.float32)
    gradient = np.full((1, 2, 2), 1e-7, np.float16)
    with np.errstate(all="raise"):
        half = tb.RelativeAttentionBias(tiny, tb.Buckets())
        half.matrix(2, 2, scale=1e-3, mask=mask, masked_value=1e-10)
        half.weight_gradient(gradient, scale=1e-3)


def test_a_few_long_rows_need_no_memory_of_their_own() -> None:
    bias = tb.RelativeAttentionBias(np.zeros((32, 1), np.float16), tb.Buckets())
    gradient = np.ones((8, 1, 1, 1 << 20), np.float16)
    bias.weight_gradient(gradient)
    tracemalloc.start()
    bias.weight_gradient(gradient)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < gradient.nbytes / 4
