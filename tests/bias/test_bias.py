# test_bias.py - bias matrices have each bucket's weight, bit for bit, in all dtypes and layouts.
# SPDX-License-Identifier: BSD-3-Clause
import copy
import pickle
import sys
import tracemalloc
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import (
    BFLOAT16,
    add,
    bits,
    consecutive,
    differences,
    gather,
    needs_bfloat16,
    normal_weight,
    random_weight,
    t5,
)
from strategies import (
    FLOAT_DTYPES,
    float_dtypes,
    lengths,
    offsets,
    out_layouts,
    relayout,
    schemes,
    settings_of_schemes,
)

import t5bucket as tb
from t5bucket import _table


@given(settings_of_schemes(), st.integers(1, 5), float_dtypes, lengths, lengths, offsets, offsets)
def test_matrix_is_the_weight_of_each_bucket_bit_for_bit(
    settings: tuple[int, int, bool],
    heads: int,
    dtype: Any,
    q: int,
    k: int,
    query_offset: int,
    key_offset: int,
) -> None:
    weight = random_weight(settings[0], heads, dtype)
    bias = tb.RelativeAttentionBias(weight, tb.Buckets(*settings))
    matrix = bias.matrix(q, k, query_offset=query_offset, key_offset=key_offset)
    grid = t5(*settings)(consecutive(q, k, query_offset, key_offset))
    assert matrix.dtype == dtype
    assert matrix.shape == (heads, q, k)
    assert np.array_equal(bits(matrix), bits(gather(weight, grid)))


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_matrix_agrees_with_the_oracle(dtype: Any) -> None:
    weight = random_weight(32, 3, dtype)
    matrix = tb.RelativeAttentionBias(weight, tb.Buckets(32, 128)).matrix(150, 140)
    for i, j in [(0, 0), (0, 139), (149, 0), (149, 139), (70, 7), (3, 94)]:
        expected = weight[oracle.bucket(j - i, 32, 128, True)]
        assert np.array_equal(bits(matrix[:, i, j]), bits(expected))


@given(schemes, float_dtypes, lengths, lengths, out_layouts)
def test_matrix_writes_into_out_of_any_layout(
    buckets: tb.Buckets, dtype: Any, q: int, k: int, layout: str
) -> None:
    bias = tb.RelativeAttentionBias(random_weight(buckets.num_buckets, 3, dtype), buckets)
    if layout == "byte-swapped":
        layout = "contiguous"  # the result has the weight's dtype, which is native
    out = relayout(np.zeros((3, q, k), dtype), layout)
    assert bias.matrix(q, k, out=out) is out
    assert np.array_equal(bits(out), bits(bias.matrix(q, k)))


def test_matrix_writes_padded_rows_and_leaves_the_padding_alone() -> None:
    bias = tb.RelativeAttentionBias(random_weight(32, 4, np.float32), tb.Buckets())
    memory = np.full((4, 101, 112), 7, np.float32)
    bias.matrix(100, 99, out=memory[:, :100, 5:104])
    assert np.array_equal(bits(memory[:, :100, 5:104]), bits(bias.matrix(100, 99)))
    memory[:, :100, 5:104] = 7
    assert (memory == 7).all()


@given(schemes, float_dtypes, lengths, lengths, offsets, offsets)
def test_view_equals_matrix(
    buckets: tb.Buckets, dtype: Any, q: int, k: int, query_offset: int, key_offset: int
) -> None:
    bias = tb.RelativeAttentionBias(random_weight(buckets.num_buckets, 2, dtype), buckets)
    at: Any = {"query_offset": query_offset, "key_offset": key_offset}
    view = bias.view(q, k, **at)
    assert view.dtype == dtype
    assert view.shape == (2, q, k)
    assert np.array_equal(bits(view), bits(bias.matrix(q, k, **at)))


def test_view_is_read_only_and_small() -> None:
    bias = tb.RelativeAttentionBias(np.ones((32, 12), np.float32), tb.Buckets())
    view = bias.view(4096, 4096)
    assert not view.flags.writeable
    assert view.base is not None
    assert view.base.nbytes == 12 * 8191 * 4
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0, 0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        view.flags.writeable = True


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_a_large_matrix_is_the_same_on_any_number_of_threads(dtype: Any) -> None:
    bias = tb.RelativeAttentionBias(random_weight(32, 12, dtype), tb.Buckets())
    one = bias.matrix(1001, 1024, num_threads=1)
    for num_threads in (None, 2, 3, 8):
        assert np.array_equal(bits(bias.matrix(1001, 1024, num_threads=num_threads)), bits(one))


@pytest.mark.parametrize("num_threads", [1, 2])
def test_peak_memory_is_the_output_and_little_more(num_threads: int) -> None:
    bias = tb.RelativeAttentionBias(np.ones((32, 12), np.float32), tb.Buckets())
    bias.matrix(8, 8)
    tracemalloc.start()
    matrix = bias.matrix(1024, 1024, num_threads=num_threads)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.02 * matrix.nbytes


def test_heads_first_weights_are_transposed_and_keep_their_shape() -> None:
    weight = random_weight(32, 12, np.float32)
    heads_first = tb.RelativeAttentionBias(weight.T, tb.Buckets(), heads_first=True)
    bias = tb.RelativeAttentionBias(weight, tb.Buckets())
    assert heads_first.weight.shape == (12, 32)
    assert heads_first.num_heads == bias.num_heads == 12
    assert np.array_equal(bits(heads_first.matrix(9, 9)), bits(bias.matrix(9, 9)))


@pytest.mark.parametrize(
    "layout", ["contiguous", "fortran", "byte-swapped", "read-only", "strided"]
)
def test_weights_of_any_layout_are_copied_and_never_changed(layout: str) -> None:
    weight = relayout(np.arange(96, dtype=np.float32).reshape(32, 3), layout)
    bias = tb.RelativeAttentionBias(weight, tb.Buckets())
    expected = bias.matrix(5, 5)
    if weight.flags.writeable:
        weight[...] = 0
    assert np.array_equal(bias.matrix(5, 5), expected)
    assert np.array_equal(bias.weight, np.arange(96).reshape(32, 3))
    assert bias.dtype == np.float32
    assert bias.dtype.isnative
    with pytest.raises(ValueError, match="read-only"):
        bias.weight[0, 0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        bias.weight.flags.writeable = True


def test_an_empty_view_of_any_length_costs_nothing() -> None:
    bias = tb.RelativeAttentionBias(np.ones((32, 2)), tb.Buckets())
    length = sys.maxsize // 2**6
    assert bias.view(0, length).shape == (2, 0, length)
    assert bias.view(length, 0).shape == (2, length, 0)


def test_a_view_must_fit_in_addresses_though_it_takes_no_memory() -> None:
    bias = tb.RelativeAttentionBias(np.ones((32, 2), np.float32), tb.Buckets())
    assert bias.view(2**13, 2**13).shape == (2, 2**13, 2**13)
    if sys.maxsize > 2**32:
        assert bias.view(2**15, 2**15).shape == (2, 2**15, 2**15)
        return
    for q, k in [(2**15, 2**15), (0, sys.maxsize), (2**31, 0)]:
        with pytest.raises(MemoryError, match="must fit in memory"):
            bias.view(q, k)


def test_attributes_are_read_only() -> None:
    bias = tb.RelativeAttentionBias(np.ones((32, 12)), tb.Buckets())
    for name in ("weight", "buckets", "num_heads", "dtype", "heads_first"):
        with pytest.raises(AttributeError):
            setattr(bias, name, None)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_pickle_and_copy_keep_weight_and_scheme(dtype: Any) -> None:
    weight = random_weight(33, 2, dtype)
    bias = tb.RelativeAttentionBias(weight.T, tb.Buckets(33, 64, False), heads_first=True)
    for other in (pickle.loads(pickle.dumps(bias)), copy.copy(bias), copy.deepcopy(bias)):
        assert other.buckets == bias.buckets
        assert other.heads_first
        assert np.array_equal(bits(other.matrix(40, 40)), bits(bias.matrix(40, 40)))


@needs_bfloat16
def test_repr_names_heads_dtype_and_scheme() -> None:
    bias = tb.RelativeAttentionBias(np.ones((32, 12), BFLOAT16), tb.Buckets())
    assert repr(bias) == f"<RelativeAttentionBias: 12 heads of bfloat16, {tb.Buckets()!r}>"


def test_compute_bias_is_the_object_in_one_call() -> None:
    weight = random_weight(20, 2, np.float16)
    expected = tb.RelativeAttentionBias(weight, tb.Buckets(20, 160, False)).matrix(
        7, 30, query_offset=23
    )
    out = np.zeros((2, 7, 30), np.float16)
    options: dict[str, Any] = {"bidirectional": False, "max_distance": 160, "query_offset": 23}
    assert tb.compute_bias(weight, 7, 30, out=out, **options) is out
    assert np.array_equal(bits(out), bits(expected))
    assert np.array_equal(bits(tb.compute_bias(weight, 7, 30, **options)), bits(expected))


def test_decoding_steps_are_rows_of_the_whole_matrix() -> None:
    bias = tb.RelativeAttentionBias(
        random_weight(32, 12, np.float32), tb.Buckets(bidirectional=False)
    )
    whole = bias.matrix(200, 200)
    for step in range(200):
        row = bias.matrix(1, step + 1, query_offset=step)
        assert np.array_equal(bits(row), bits(whole[:, step : step + 1, : step + 1]))


# ---- tiles ----


@given(
    schemes,
    float_dtypes,
    lengths,
    lengths,
    st.tuples(st.integers(1, 45), st.integers(1, 45)),
    offsets,
)
def test_tiles_are_slices_of_the_whole(
    buckets: tb.Buckets, dtype: Any, q: int, k: int, tile: tuple[int, int], query_offset: int
) -> None:
    bias = tb.RelativeAttentionBias(random_weight(buckets.num_buckets, 2, dtype), buckets)
    whole = bias.matrix(q, k, query_offset=query_offset, key_offset=3)
    seen = np.zeros((q, k), int)
    tiles = list(bias.tiles(q, k, tile=tile, query_offset=query_offset, key_offset=3))
    for (rows, columns), block in tiles:
        assert block.shape == whole[:, rows, columns].shape
        assert block.shape[1] <= tile[0]
        assert block.shape[2] <= tile[1]
        assert np.array_equal(bits(block), bits(whole[:, rows, columns]))
        seen[rows, columns] += 1
    assert (seen == 1).all()


def test_tiles_go_row_by_row_and_one_number_is_a_square() -> None:
    bias = tb.RelativeAttentionBias(np.ones((32, 1)), tb.Buckets())
    corners = [(rows.start, columns.start) for (rows, columns), _ in bias.tiles(5, 7, tile=4)]
    assert corners == [(0, 0), (0, 4), (4, 0), (4, 4)]


@pytest.mark.parametrize("at", [2**63 - 1, -(2**63)])
def test_tiles_may_exceed_the_limits_of_offsets(at: int) -> None:
    bias = tb.RelativeAttentionBias(random_weight(32, 1, np.float32), tb.Buckets())
    names = ("query_offset", "key_offset")
    for offsets_given in ((at, 0), (0, at), (at, at)):
        options: dict[str, Any] = dict(zip(names, offsets_given, strict=True))
        whole = bias.matrix(20, 30, **options)
        for (rows, columns), block in bias.tiles(20, 30, tile=(7, 8), **options):
            assert np.array_equal(bits(block), bits(whole[:, rows, columns]))


def test_tiles_of_a_grid_larger_than_memory_take_the_memory_of_one_tile() -> None:
    bias = tb.RelativeAttentionBias(np.ones((32, 2), np.float32), tb.Buckets())
    tiles = bias.tiles(10**7, 10**7, tile=512)
    next(tiles)
    tracemalloc.start()
    for _ in range(20):
        _, block = next(tiles)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.2 * block.nbytes  # a tile is freed only after the next one is made


# ---- scores ----


@given(
    schemes,
    float_dtypes,
    lengths,
    lengths,
    offsets,
    out_layouts,
    st.sampled_from([(), (2,), (2, 3)]),
)
def test_add_to_adds_in_place(
    buckets: tb.Buckets,
    dtype: Any,
    q: int,
    k: int,
    query_offset: int,
    layout: str,
    batch: tuple[int, ...],
) -> None:
    layout = "contiguous" if layout == "byte-swapped" else layout
    bias = tb.RelativeAttentionBias(normal_weight(buckets.num_buckets, 3, dtype), buckets)
    held = np.random.default_rng(2).standard_normal((*batch, 3, q, k)).astype(dtype)
    scores = relayout(held.copy(), layout)
    assert bias.add_to(scores, query_offset=query_offset, key_offset=5, num_threads=2) is scores
    matrix = bias.matrix(q, k, query_offset=query_offset, key_offset=5)
    assert np.array_equal(bits(scores), bits(add(held, np.broadcast_to(matrix, held.shape))))


@pytest.mark.parametrize("dtype", [np.float16, pytest.param(BFLOAT16, marks=needs_bfloat16)])
def test_sums_of_16_bits_are_rounded_as_in_float32(dtype: Any) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    special = [
        0x0000,
        0x8000,
        0x0001,
        0x03FF,
        0x0400,
        0x3C00,
        0x7BFF,
        0xFBFF,
        0x7C00,
        0x7F80,
        0x7FC1,
    ]
    for value in special:
        weight = np.array([value], np.uint16).view(dtype)
        bias = tb.RelativeAttentionBias(np.full((32, 1), weight[0]), tb.Buckets())
        scores = every.copy()
        bias.add_to(scores.reshape(1, 256, 256))
        expected = add(every, np.full_like(every, weight[0]))
        is_nan = np.isnan(expected.astype(np.float32))
        assert np.array_equal(np.isnan(scores.astype(np.float32)), is_nan)
        assert np.array_equal(bits(scores)[~is_nan], bits(expected)[~is_nan])


def test_add_to_does_not_write_around_the_scores() -> None:
    bias = tb.RelativeAttentionBias(normal_weight(32, 4, np.float32), tb.Buckets())
    memory = np.full((2, 4, 101, 1112), 7, np.float32)
    part = memory[:, :, :100, 5:1104]
    bias.add_to(part, num_threads=3)
    assert np.array_equal(part, np.broadcast_to(7 + bias.matrix(100, 1099), part.shape))
    part[...] = 7
    assert (memory == 7).all()


def test_scores_whose_batch_axes_are_one_are_not_copied() -> None:
    bias = tb.RelativeAttentionBias(np.ones((32, 2), np.float32), tb.Buckets())
    scores = np.zeros((3, 2, 2, 300, 308), np.float32)[..., :300]
    bias.add_to(scores)
    tracemalloc.start()
    bias.add_to(scores)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (scores == 2).all()
    assert peak < scores.nbytes / 10


# ---- explicit positions ----


@pytest.mark.parametrize("num_heads", [1, 2, 3, 4, 8, 12, 17])
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("settings", [(32, 128, True), (2, 3, False), (64, 2**40, True)])
def test_matrix_at_is_the_weight_of_each_pairs_bucket(
    num_heads: int, dtype: Any, settings: tuple[int, int, bool]
) -> None:
    random = np.random.default_rng(6)
    query = random.integers(-1000, 1000, (2, 1, 33))
    key = random.integers(-(2**61), 2**61, (5, 47)) >> random.integers(40, 60, (5, 47))
    buckets = tb.Buckets(*settings)
    bias = tb.RelativeAttentionBias(random_weight(buckets.num_buckets, num_heads, dtype), buckets)
    matrix = bias.matrix_at(query, key)
    assert matrix.shape == (2, 5, num_heads, 33, 47)
    grid = t5(*settings)(differences(query, key))
    assert np.array_equal(bits(matrix), bits(gather(bias.weight, grid)))


def test_three_axes_accumulate_without_a_temporary() -> None:
    random = np.random.default_rng(7)
    biases = [
        tb.RelativeAttentionBias(
            random.standard_normal((12, n)).astype("f4"), buckets, heads_first=True
        )
        for n, buckets in ((32, tb.Buckets()), (64, tb.Buckets(64, 256)), (64, tb.Buckets(64, 256)))
    ]
    axes = random.integers(0, 1000, (3, 2, 70))
    out = np.zeros((2, 12, 70, 70), np.float32)
    expected = np.zeros_like(out)
    tracemalloc.start()
    for bias, positions in zip(biases, axes, strict=True):
        bias.matrix_at(positions, out=out, accumulate=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < out.nbytes / 3
    for bias, positions in zip(biases, axes, strict=True):
        expected += bias.matrix_at(positions)
    assert np.array_equal(out, expected)


def test_rules_that_change_near_the_ends_of_int32_do_not_overflow() -> None:
    random = np.random.default_rng(7)
    for start in (2**31 - 3, -(2**31) + 2, 2**30, -(2**30), 2**29 + 1, 1 - 2**29, 2**32):
        buckets = tb.Buckets.from_ranges(
            [(0, None, start - 1), (1, start, start + 9), (2, start + 10, None)],
            max_distance=2**33,
            num_buckets=3,
        )
        bias = tb.RelativeAttentionBias(np.arange(6, dtype=np.float32).reshape(3, 2), buckets)
        ends = [-(2**31), -(2**30), 0, 2**29, 2**30 - 1, 2**31 - 1]
        key = np.array([*ends, *(start + random.integers(-20, 20, 10))])
        query = np.array([0, 1, 2**29])
        expected = gather(bias.weight, buckets(key - query[:, None]))
        assert np.array_equal(bias.matrix_at(query, key), expected)
        for dtype in (np.int64, np.int32):
            clipped = np.clip(key, -(2**31), 2**31 - 1).astype(dtype)
            assert buckets(clipped).tolist() == [buckets(int(d)) for d in clipped]


def test_weights_beyond_the_kernels_offsets_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_table, "MAX_PAIRS_NBYTES", 32 * 128)
    bias = tb.RelativeAttentionBias(np.ones((32, 12), np.float32), tb.Buckets())
    with pytest.raises(MemoryError, match="weight must take at most 4096 bytes for positions"):
        bias.matrix_at([1, 2])


def test_matrix_at_of_consecutive_positions_is_matrix() -> None:
    bias = tb.RelativeAttentionBias(random_weight(32, 3, np.float32), tb.Buckets())
    for start in (0, 2**63 - 2000, -(2**63), 2**31 - 700):
        query, key = (start + np.arange(n, dtype=np.int64) for n in (300, 1400))
        assert np.array_equal(bits(bias.matrix_at(query, key)), bits(bias.matrix(300, 1400)))


def test_positions_may_be_the_output_themselves() -> None:
    memory = np.arange(64 * 64, dtype=np.int64).reshape(1, 64, 64)
    bias = tb.RelativeAttentionBias(random_weight(32, 1, np.float64), tb.Buckets())
    positions = memory[0, 3]
    expected = bias.matrix_at(positions.copy())
    out = memory.view(np.float64)
    assert np.array_equal(bits(bias.matrix_at(positions, out=out)), bits(expected))
