# test_bias.py - bias matrices: bit for bit the table's weights, in every dtype and layout.
# SPDX-License-Identifier: BSD-3-Clause
import copy
import pickle
import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLOATS, float_dtypes, lengths, offsets, out_layouts, relayout, schemes

import t5bucket as tb


def random_weight(num_buckets: int, num_heads: int, dtype: Any, seed: int = 0) -> Any:
    """Weights of random bits, so that there are NaNs with payloads, -0.0 and denormals."""
    nbytes = num_buckets * num_heads * np.dtype(dtype).itemsize
    bits = np.random.default_rng(seed).integers(0, 256, nbytes, dtype=np.uint8)
    return bits.view(dtype).reshape(num_buckets, num_heads)


def bits(array: Any) -> Any:
    """Items as unsigned integers: NaNs compare by their bits."""
    native = array.astype(array.dtype.newbyteorder("="))
    return np.ascontiguousarray(native).view(f"u{array.itemsize}")


def gather(weight: Any, grid: Any) -> Any:
    """Plain NumPy formulation of the bias: (num_heads, q, k)."""
    return np.moveaxis(weight[grid], -1, -3)


@given(schemes, st.integers(1, 5), float_dtypes, lengths, lengths, offsets, offsets)
def test_matrix_is_the_weight_of_each_bucket_bit_for_bit(
    buckets: tb.Buckets, heads: int, dtype: Any, q: int, k: int, query_offset: int, key_offset: int
) -> None:
    weight = random_weight(buckets.num_buckets, heads, dtype)
    at: Any = {"query_offset": query_offset, "key_offset": key_offset}
    matrix = tb.RelativeAttentionBias(weight, buckets).matrix(q, k, **at)
    assert matrix.dtype == dtype
    assert matrix.shape == (heads, q, k)
    assert np.array_equal(bits(matrix), bits(gather(weight, buckets.grid(q, k, **at))))


@pytest.mark.parametrize("dtype", FLOATS)
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
        layout = "plain"  # the result has the weight's dtype, which is native
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


@pytest.mark.parametrize("dtype", FLOATS)
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


def test_heads_first_tables_are_transposed_and_keep_their_shape() -> None:
    weight = random_weight(32, 12, np.float32)
    heads_first = tb.RelativeAttentionBias(weight.T, tb.Buckets(), heads_first=True)
    bias = tb.RelativeAttentionBias(weight, tb.Buckets())
    assert heads_first.weight.shape == (12, 32)
    assert heads_first.num_heads == bias.num_heads == 12
    assert np.array_equal(bits(heads_first.matrix(9, 9)), bits(bias.matrix(9, 9)))


@pytest.mark.parametrize("layout", ["plain", "fortran", "byte-swapped", "read-only", "strided"])
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
    assert bias.view(0, 2**40).shape == (2, 0, 2**40)
    assert bias.view(2**40, 0).shape == (2, 2**40, 0)


def test_attributes_are_read_only() -> None:
    bias = tb.RelativeAttentionBias(np.ones((32, 12)), tb.Buckets())
    for name in ("weight", "buckets", "num_heads", "dtype", "heads_first"):
        with pytest.raises(AttributeError):
            setattr(bias, name, None)


@pytest.mark.parametrize("dtype", FLOATS)
def test_pickle_and_copy_keep_table_and_scheme(dtype: Any) -> None:
    weight = random_weight(33, 2, dtype)
    bias = tb.RelativeAttentionBias(weight.T, tb.Buckets(33, 64, False), heads_first=True)
    for other in (pickle.loads(pickle.dumps(bias)), copy.copy(bias), copy.deepcopy(bias)):
        assert other.buckets == bias.buckets
        assert other.heads_first
        assert np.array_equal(bits(other.matrix(40, 40)), bits(bias.matrix(40, 40)))


def test_repr_names_heads_dtype_and_scheme() -> None:
    bias = tb.RelativeAttentionBias(np.ones((32, 12), ml_dtypes.bfloat16), tb.Buckets())
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


def test_longt5_local_block_is_a_matrix_with_a_key_offset() -> None:
    bias = tb.RelativeAttentionBias(random_weight(32, 2, np.float32), tb.Buckets())
    n = 5
    block = bias.matrix(n, 3 * n, key_offset=-n)
    relative = np.arange(3 * n) - n - np.arange(n)[:, None]
    assert np.array_equal(bits(block), bits(gather(bias.weight, bias.buckets(relative))))
