# test_positions.py - buckets of arrays are right for every dtype, shape and layout.
# SPDX-License-Identifier: BSD-3-Clause
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from strategies import (
    FLOAT_DTYPES,
    INTEGERS,
    LAYOUTS,
    integer_dtypes,
    layouts,
    lengths,
    offsets,
    out_layouts,
    positions,
    relayout,
    schemes,
    settings_of_schemes,
    wide_dtypes,
)

import t5bucket as tb
from t5bucket import _threads, _writing

# ---- element by element ----


@given(settings_of_schemes(), integer_dtypes.flatmap(positions), wide_dtypes, layouts)
def test_every_integer_dtype_shape_and_layout_agrees_with_the_oracle(
    settings: tuple[int, int, bool], values: Any, dtype: Any, layout: str
) -> None:
    given_positions = relayout(values, layout)
    before = given_positions.copy()
    result = tb.Buckets(*settings)(given_positions, dtype=dtype)
    expected = [oracle.bucket(int(d), *settings) for d in values.flat]
    assert result.dtype == dtype
    assert result.shape == values.shape
    assert result.ravel().tolist() == expected
    assert np.array_equal(given_positions, before)


@given(schemes, integer_dtypes.flatmap(positions), wide_dtypes, layouts, out_layouts)
def test_out_of_any_layout_is_filled_and_returned(
    buckets: tb.Buckets, values: Any, dtype: Any, layout: str, out_layout: str
) -> None:
    out = relayout(np.zeros(values.shape, dtype), out_layout)
    assert buckets(relayout(values, layout), dtype=out.dtype, out=out) is out
    assert np.array_equal(out, buckets(values))


@pytest.mark.parametrize("count", [0, 1, 511, 512, 513, 5000])
@pytest.mark.parametrize("num_threads", [None, 1, 2, 3, 8])
def test_blocks_and_threads_do_not_show(count: int, num_threads: int | None) -> None:
    buckets = tb.Buckets(32, 128)
    values = np.random.default_rng(count).integers(-300, 300, count)
    expected = [oracle.bucket(int(d), 32, 128, True) for d in values]
    assert buckets(values, num_threads=num_threads).tolist() == expected


def test_a_large_array_is_the_same_on_any_number_of_threads() -> None:
    buckets = tb.Buckets(32, 128)
    values = np.random.default_rng(1).integers(-300, 300, 3_000_000, dtype=np.int32)
    one = buckets(values, num_threads=1)
    assert np.array_equal(one[:1000], [oracle.bucket(int(d), 32, 128, True) for d in values[:1000]])
    for num_threads in (None, 2, 3, 8):
        assert np.array_equal(buckets(values, num_threads=num_threads), one)


@given(schemes)
def test_buckets_grow_with_the_distance_and_saturate(buckets: tb.Buckets) -> None:
    distance = np.arange(buckets.max_distance + 2)
    for sign in (-1, 1):
        result = buckets(sign * distance)
        assert ((result >= 0) & (result < buckets.num_buckets)).all()
        assert (np.diff(result[1:]) >= 0).all()
    extremes = np.array([-(2**63), -buckets.max_distance, buckets.max_distance, 2**63 - 1])
    first, second, third, fourth = buckets(extremes)
    assert first == second
    assert third == fourth


def test_future_keys_share_bucket_zero_when_unidirectional() -> None:
    buckets = tb.Buckets(32, 128, bidirectional=False)
    assert buckets([0, 1, 5, 1000, 2**63 - 1]).tolist() == [0] * 5


@pytest.mark.parametrize("scalar", [-5, np.int8(-5), np.array(-5), np.int64(-5)])
def test_a_scalar_gives_a_scalar_of_the_dtype(scalar: Any) -> None:
    result = tb.Buckets(32, 128)(scalar, dtype=np.uint8)
    assert type(result) is np.uint8
    assert result == 5


@pytest.mark.parametrize("value", [0, 1, -1, 112, 113, -(2**63), 2**63 - 1, 2**63, 2**64 - 1])
def test_a_python_integer_and_an_array_agree(value: int) -> None:
    for buckets in (tb.Buckets(), tb.Buckets(32, 128, False)):
        assert buckets(value) == buckets([value])[0]


@pytest.mark.parametrize("layout", ["byte-swapped", "unaligned"])
def test_a_0d_array_of_any_layout_gives_a_scalar(layout: str) -> None:
    for value in (5, -1, 900):
        scalar = relayout(np.array([value]), layout)[0:1].reshape(())
        assert tb.Buckets()(scalar) == tb.Buckets()(value)


class Liar(np.ndarray):
    """An array that claims larger items than it has."""

    dtype = property(lambda self: np.dtype(np.float32))
    view: Any = None


def test_a_subclass_that_overrides_attributes_is_read_as_its_base() -> None:
    bias = tb.RelativeAttentionBias(np.ones((32, 2), np.float32), tb.Buckets())
    memory = np.zeros((3, 2, 4, 4), np.uint8)
    liar = np.ndarray.view(memory[1], Liar)
    calls: list[Callable[[], Any]] = [
        lambda: bias.matrix(4, 4, out=liar),
        lambda: bias.matrix(4, 4, out=liar, accumulate=True),
        lambda: bias.matrix_at(np.arange(4), out=liar),
        lambda: bias.add_to(liar),
        lambda: bias.attend(*np.ones((3, 2, 4, 4), np.float32), out=liar),
        lambda: bias.weight_gradient(liar),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="must have dtype float32, got uint8"):
            call()
    with pytest.raises(TypeError, match="out must have dtype int64, got uint8"):
        tb.Buckets().grid(4, 4, dtype=np.int64, out=liar[0])
    assert not memory.any()


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_out_may_be_a_subclass_with_axes_of_its_own() -> None:
    out = np.asmatrix(np.zeros((3, 1), int))
    assert tb.Buckets().grid_at(np.arange(3), [0], out=out) is out
    assert out.tolist() == [[0], [1], [2]]


@pytest.mark.parametrize("empty", [[], [[]], (), np.empty((0, 3), int), [[], []]])
def test_empty_input_gives_empty_output(empty: Any) -> None:
    result = tb.Buckets()(empty)
    assert result.shape == np.shape(empty)
    assert result.dtype == np.int64


def test_lists_and_tuples_are_arrays() -> None:
    assert tb.Buckets()([[-1, 0], [1, 2]]).tolist() == [[1, 0], [17, 18]]
    assert tb.Buckets()((3, -3)).tolist() == [19, 3]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_out_may_be_the_input(dtype: Any) -> None:
    values = np.arange(-60, 60, dtype=np.int64).astype(dtype)
    expected = tb.Buckets(32, 40)(values, dtype=dtype)
    assert tb.Buckets(32, 40)(values, dtype=dtype, out=values) is values
    assert np.array_equal(values, expected)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (slice(0, 2000), slice(1, 2001)),
        (slice(1, 2001), slice(0, 2000)),
        (slice(0, 4000, 2), slice(0, 2000)),
        (slice(0, 2000), slice(1999, None, -1)),
    ],
)
def test_out_may_overlap_the_input(source: slice, target: slice) -> None:
    memory = np.random.default_rng(3).integers(-200, 200, 4100)
    expected = tb.Buckets()(memory[source].copy())
    tb.Buckets()(memory[source], out=memory[target])
    assert np.array_equal(memory[target], expected)


def test_out_may_overlap_the_input_with_another_item_size() -> None:
    for shift in (0, 1, 7):
        memory = np.random.default_rng(3).integers(-200, 200, 1000)
        expected = tb.Buckets()(memory)
        out = memory.view(np.uint8)[shift : shift + 1000]
        tb.Buckets()(memory, dtype=np.uint8, out=out)
        assert np.array_equal(out, expected)


@pytest.mark.parametrize("axes", [*itertools.permutations(range(3))])
@pytest.mark.parametrize("step", [1, -1, 2])
def test_the_result_keeps_the_memory_order_of_any_axes(axes: tuple[int, ...], step: int) -> None:
    values = np.arange(6 * 7 * 8).reshape(6, 7, 8)[::step, ::-step, ::step].transpose(axes)
    found = tb.Buckets()(values, dtype=np.int16)
    assert found.strides == np.empty_like(values, np.int16).strides
    assert np.array_equal(found, tb.Buckets()(np.ascontiguousarray(values)))


def test_the_result_keeps_the_memory_order_of_the_input() -> None:
    values = np.asfortranarray(np.arange(-6, 6).reshape(3, 4))
    assert tb.Buckets()(values).flags.f_contiguous


@pytest.mark.parametrize("settings", [(1024, 500_000, False), (64, 2**61, True)])
def test_schemes_too_wide_for_an_index_are_searched(settings: tuple[int, int, bool]) -> None:
    buckets = tb.Buckets(*settings)
    edges = [edge for _, first, last in buckets.ranges() for edge in (first, last)]
    values = [edge + step for edge in edges if edge is not None for step in (-1, 0, 1)]
    values += [-(2**63), 2**63 - 1]
    assert buckets(values).tolist() == [buckets(value) for value in values]
    for value in values[:: len(values) // 20]:
        assert buckets(value) == oracle.bucket(value, *settings)


def test_relative_position_bucket_is_the_known_signature() -> None:
    values = np.arange(-150, 151)
    expected = [oracle.bucket(int(d), 64, 256, False) for d in values]
    result = tb.relative_position_bucket(values, False, 64, 256, dtype=np.uint8)
    assert result.dtype == np.uint8
    assert result.tolist() == expected
    out = np.zeros(values.shape, np.int64)
    assert tb.relative_position_bucket(values, out=out) is out
    assert np.array_equal(out, tb.Buckets()(values))


# ---- grids of consecutive positions ----


@given(settings_of_schemes(), lengths, lengths, offsets, offsets, wide_dtypes)
def test_grid_agrees_with_the_oracle(
    settings: tuple[int, int, bool], q: int, k: int, query_offset: int, key_offset: int, dtype: Any
) -> None:
    grid = tb.Buckets(*settings).grid(
        q, k, query_offset=query_offset, key_offset=key_offset, dtype=dtype
    )
    assert grid.shape == (q, k)
    assert grid.dtype == dtype
    for i in {0, q // 2, q - 1} & set(range(q)):
        relative = [(key_offset + j) - (query_offset + i) for j in range(k)]
        assert grid[i].tolist() == [oracle.bucket(d, *settings) for d in relative]


@given(schemes, lengths, lengths, st.integers(0, 50), st.integers(0, 50))
def test_a_grid_with_offsets_is_a_slice_of_the_larger_grid(
    buckets: tb.Buckets, q: int, k: int, query_offset: int, key_offset: int
) -> None:
    whole = buckets.grid(query_offset + q, key_offset + k)
    part = buckets.grid(q, k, query_offset=query_offset, key_offset=key_offset)
    assert np.array_equal(part, whole[query_offset:, key_offset:])


@given(schemes, st.integers(1, 40), st.integers(1, 40))
def test_a_grid_is_toeplitz(buckets: tb.Buckets, q: int, k: int) -> None:
    grid = buckets.grid(q, k)
    assert np.array_equal(grid[1:, 1:], grid[:-1, :-1])


@given(schemes, lengths, lengths, wide_dtypes, out_layouts)
def test_grid_writes_into_out_of_any_layout(
    buckets: tb.Buckets, q: int, k: int, dtype: Any, layout: str
) -> None:
    out = relayout(np.zeros((q, k), dtype), layout)
    assert buckets.grid(q, k, dtype=out.dtype, out=out) is out
    assert np.array_equal(out, buckets.grid(q, k))


@pytest.mark.parametrize("settings", [(2, 2, False), (4, 2, True), (5, 3, True)])
def test_the_smallest_schemes_work(settings: tuple[int, int, bool]) -> None:
    grid = tb.Buckets(*settings).grid(9, 9)
    for i in range(9):
        assert grid[i].tolist() == [oracle.bucket(j - i, *settings) for j in range(9)]


@pytest.mark.parametrize("query_offset", [-(2**63), 2**63 - 1])
@pytest.mark.parametrize("key_offset", [-(2**63), 2**63 - 1])
def test_offsets_at_the_ends_of_int64_saturate(query_offset: int, key_offset: int) -> None:
    buckets = tb.Buckets(32, 128)
    grid = buckets.grid(3, 4, query_offset=query_offset, key_offset=key_offset)
    expected = [[buckets.grid_at([query_offset], [key_offset])[0, 0]]]
    if query_offset == key_offset:
        expected = buckets.grid(3, 4).tolist()
    assert np.array_equal(grid, np.broadcast_to(expected, (3, 4)))


def test_a_rule_that_changes_at_the_limits_has_no_overflow() -> None:
    limit = 2**62
    buckets = tb.Buckets.from_ranges(
        [(0, None, -limit), (1, 1 - limit, limit - 1), (2, limit, None)],
        max_distance=limit,
        num_buckets=3,
    )
    for offset in (-limit - 5, -limit, limit - 5, limit):
        relative = [offset + j for j in range(10)]
        expected = [buckets(d) for d in relative]
        assert buckets.grid(1, 10, key_offset=offset)[0].tolist() == expected
        assert buckets.grid(2, 10, key_offset=offset)[0].tolist() == expected
        assert buckets(relative).tolist() == expected


def test_a_large_grid_is_the_same_on_any_number_of_threads() -> None:
    buckets = tb.Buckets(32, 128)
    one = buckets.grid(3000, 4001, num_threads=1)
    for num_threads in (None, 2, 3, 8):
        assert np.array_equal(buckets.grid(3000, 4001, num_threads=num_threads), one)
    assert np.array_equal(one, reference.t5()(reference.consecutive(3000, 4001)))


# ---- grids of explicit positions ----


def rows(dtype: Any, batch: tuple[int, ...]) -> st.SearchStrategy[NDArray[Any]]:
    limits = np.iinfo(dtype)
    near = st.integers(max(-300, limits.min), min(300, limits.max))
    length = st.integers(0, 4)
    return length.flatmap(
        lambda n: hnp.arrays(dtype, (*batch, n), elements=near | hnp.from_dtype(dtype))
    )


@given(settings_of_schemes(), st.data())
def test_grid_at_agrees_with_subtraction_in_python(
    settings: tuple[int, int, bool], data: st.DataObject
) -> None:
    batch = data.draw(st.sampled_from([(), (1,), (2,), (3,)]))
    query = data.draw(integer_dtypes.flatmap(lambda dtype: rows(dtype, batch)))
    key = data.draw(integer_dtypes.flatmap(lambda dtype: rows(dtype, batch)))
    layout = data.draw(st.tuples(layouts, layouts))
    buckets = tb.Buckets(*settings)
    grid = buckets.grid_at(relayout(query, layout[0]), relayout(key, layout[1]))
    assert grid.shape == (*batch, query.shape[-1], key.shape[-1])
    for *index, i, j in np.ndindex(grid.shape):
        d = int(key[(*index, j)]) - int(query[(*index, i)])
        assert grid[(*index, i, j)] == oracle.bucket(d, *settings)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_grid_at_of_positions_above_int64_in_any_layout(layout: str) -> None:
    key = np.array([[1, 5, 9], [100, 200, 3]], np.uint64) + np.uint64(2**63)
    query = np.array([[2**63, 2**64 - 1]], np.uint64)
    expected = tb.Buckets()([[[1, 5, 9], [-(2**62)] * 3], [[100, 200, 3], [-(2**62)] * 3]])
    assert np.array_equal(tb.Buckets().grid_at(query, relayout(key, layout)), expected)
    swapped = tb.Buckets().grid_at(relayout(key, layout), query)
    mirrored = np.where(expected >= 16, expected - 16, expected + 16)
    assert np.array_equal(swapped, mirrored.transpose(0, 2, 1))


@pytest.mark.parametrize(
    ("query_shape", "key_shape"),
    [
        ((4,), (5,)),
        ((2, 4), (5,)),
        ((4,), (2, 5)),
        ((3, 1, 4), (2, 5)),
        ((3, 2, 1), (3, 2, 1)),
        ((0, 4), (5,)),
        ((2, 0), (2, 5)),
        ((1, 4), (1, 5)),
        ((2, 1, 3, 4), (5, 1, 6)),
    ],
)
@pytest.mark.parametrize("layout", [None, *LAYOUTS])
def test_grid_at_broadcasts_batches(query_shape: Any, key_shape: Any, layout: str | None) -> None:
    if layout == "read-only":
        layout = None
    random = np.random.default_rng(4)
    query = random.integers(-500, 500, query_shape)
    key = random.integers(-500, 500, key_shape)
    buckets = tb.Buckets()
    expected = reference.t5()(key[..., None, :] - query[..., :, None])
    out = None if layout is None else relayout(np.zeros(expected.shape, np.int16), layout)
    dtype = np.int16 if out is None else out.dtype
    for num_threads in (1, 3):
        grid = buckets.grid_at(query, key, dtype=dtype, out=out, num_threads=num_threads)
        assert out is None or grid is out
        assert np.array_equal(grid, expected)


def test_grid_at_uses_the_queries_as_keys_by_default() -> None:
    positions = np.array([[0, 1, 2, 0, 1], [5, 9, 2, 2, 7]])
    buckets = tb.Buckets()
    assert np.array_equal(buckets.grid_at(positions), buckets.grid_at(positions, positions))


def test_grid_at_of_consecutive_positions_is_grid() -> None:
    buckets = tb.Buckets(32, 128, False)
    grid = buckets.grid_at(np.arange(700), np.arange(1, 802))
    assert np.array_equal(grid, buckets.grid(700, 801, key_offset=1))


def test_differences_beyond_int64_saturate() -> None:
    buckets = tb.Buckets()
    low, high = -(2**63), 2**63 - 1
    assert buckets.grid_at([low, high], [low, high]).tolist() == [[0, 31], [15, 0]]
    top = np.array([2**64 - 1, 2**64 - 4, 0], np.uint64)
    assert buckets.grid_at(top).tolist() == [[0, 3, 15], [19, 0, 15], [31, 31, 0]]
    assert buckets.grid_at([-1, 2], top).tolist() == [[31, 31, 17], [31, 31, 2]]
    assert buckets.grid_at([[-1, 2]] * 2, [top] * 2).tolist() == [[[31, 31, 17], [31, 31, 2]]] * 2


def test_grid_at_out_may_share_memory_with_the_positions() -> None:
    memory = np.arange(16).reshape(4, 4)
    expected = tb.Buckets().grid_at(memory[0].copy(), memory[1].copy())
    tb.Buckets().grid_at(memory[0], memory[1], out=memory)
    assert np.array_equal(memory, expected)
    memory[0, :3] = [-1, -5, 3]
    query = np.array([2**63 + 5, 1, 2, 3], np.uint64)
    expected = tb.Buckets().grid_at(query, memory[0].copy())
    tb.Buckets().grid_at(query, memory[0], out=memory)
    assert np.array_equal(memory, expected)


def test_no_float_dtype_is_a_position() -> None:
    for dtype in FLOAT_DTYPES:
        with pytest.raises(TypeError, match="must be integers"):
            tb.Buckets()(np.zeros(2, dtype))


# ---- large outputs, made small ----


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stream, divide and split small outputs as if they were large."""
    monkeypatch.setattr(_writing, "STREAM_NBYTES", -1)
    monkeypatch.setattr(_writing, "SMALL_COUNT", 0)
    monkeypatch.setattr(_threads, "MAX_ROW_LENGTH", 300)
    monkeypatch.setattr(_threads, "PART_NBYTES", 1 << 12)
    monkeypatch.setattr(_threads, "MIN_PART_NBYTES", 1 << 10)
    monkeypatch.setattr(_threads, "THREAD_NBYTES", 1 << 11)


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("settings", [(32, 128, True), (64, 1024, False), (320, 800, True)])
@pytest.mark.parametrize("num_threads", [None, 1, 2, 3, 8])
@pytest.mark.parametrize("dtype", ["int16", "int32", "int64", "uint64"])
def test_streaming_parts_and_pieces_do_not_show(
    settings: tuple[int, int, bool], num_threads: int | None, dtype: str
) -> None:
    buckets = tb.Buckets(*settings)
    expected = [oracle.bucket(d, *settings) for d in range(-1500, 1501)]
    relative = np.random.default_rng(2).integers(-1500, 1501, 5003)
    options: Any = {"dtype": dtype, "num_threads": num_threads}
    for shift in (0, 1, 7):  # relative to lines of memory
        memory = np.full(5003 + 16, 99, dtype)
        out = memory[shift : shift + 5003]
        buckets(relative, out=out, **options)
        assert out.tolist() == [expected[d + 1500] for d in relative.tolist()]
        assert (memory[:shift] == 99).all()
        assert (memory[shift + 5003 :] == 99).all()
        grid = np.full((31, 1003 + 16), 99, dtype)
        buckets.grid(31, 1003, key_offset=-490, out=grid[:, shift : shift + 1003], **options)
        keys, queries = np.arange(1003) - 490, np.arange(31)
        assert grid[:, shift : shift + 1003].tolist() == [
            [expected[k - q + 1500] for k in keys] for q in queries
        ]
        at = np.full_like(grid, 99)
        buckets.grid_at(queries, keys, out=at[:, shift : shift + 1003], **options)
        assert np.array_equal(at, grid)
        row = np.full((1, 1003 + 16), 99, dtype)
        buckets.grid(1, 1003, key_offset=-490, out=row[:, shift : shift + 1003], **options)
        assert np.array_equal(row, grid[:1])
    in_place = relative.astype(np.int64)
    buckets(in_place, out=in_place, num_threads=num_threads)
    assert in_place.tolist() == [expected[d + 1500] for d in relative.tolist()]


def test_fortran_order_is_as_good_as_c_order() -> None:
    values = np.asfortranarray(np.random.default_rng(3).integers(-300, 300, (50, 40)))
    out = np.zeros((50, 40), np.int64, order="F")
    assert tb.Buckets()(values, out=out, num_threads=2) is out
    assert np.array_equal(out, tb.Buckets()(np.ascontiguousarray(values)))
