# test_errors.py - bad input: the right error, a message that names the parameter, nothing written.
# SPDX-License-Identifier: BSD-3-Clause
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import t5bucket
from t5bucket import plot

tb: Any = t5bucket  # wrong types are the point here
plot_grid: Any = plot.plot_grid
plot_bias: Any = plot.plot_bias
BUCKETS = tb.Buckets(32, 128)
WIDE = tb.Buckets(320, 800)
BIAS = tb.RelativeAttentionBias(np.ones((32, 2), np.float32), BUCKETS)
WEIGHT = np.ones((32, 2), np.float32)


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


def float8() -> Any:
    return pytest.importorskip("ml_dtypes").float8_e5m2


def tabulate(function: Any, max_distance: Any = 2, num_buckets: Any = 5) -> Any:
    return tb.Buckets.from_function(function, max_distance=max_distance, num_buckets=num_buckets)


def from_ranges(ranges: Any, max_distance: Any = 4, num_buckets: Any = 4) -> Any:
    return tb.Buckets.from_ranges(ranges, max_distance=max_distance, num_buckets=num_buckets)


Case = tuple[Callable[[], Any], type[Exception], str]

SCHEMES: list[Case] = [
    (lambda: tb.Buckets(0), ValueError, "num_buckets must be at least 4, got 0"),
    (lambda: tb.Buckets(-32), ValueError, "num_buckets must be at least 4, got -32"),
    (lambda: tb.Buckets(3), ValueError, "num_buckets must be at least 4, got 3"),
    (lambda: tb.Buckets(1, 128, False), ValueError, "num_buckets must be at least 2, got 1"),
    (lambda: tb.Buckets(32.0), TypeError, "num_buckets must be an integer, got 32.0"),
    (lambda: tb.Buckets("32"), TypeError, "num_buckets must be an integer, got '32'"),
    (lambda: tb.Buckets(None), TypeError, "num_buckets must be an integer, got None"),
    (lambda: tb.Buckets(True), TypeError, "num_buckets must be an integer, got True"),
    (lambda: tb.Buckets(np.True_), TypeError, "num_buckets must be an integer"),
    (lambda: tb.Buckets(np.ones(2)), TypeError, "num_buckets must be an integer"),
    (
        lambda: tb.Buckets(32, 0),
        ValueError,
        "max_distance must be greater than max_exact = 8, got 0",
    ),
    (lambda: tb.Buckets(32, -1), ValueError, "max_distance must be greater than max_exact = 8"),
    (
        lambda: tb.Buckets(32, 8),
        ValueError,
        "max_distance must be greater than max_exact = 8, got 8",
    ),
    (lambda: tb.Buckets(32, 16, False), ValueError, "must be greater than max_exact = 16, got 16"),
    (lambda: tb.Buckets(32, 2**62 + 1), ValueError, f"max_distance must be at most {2**62}"),
    (lambda: tb.Buckets(32, 128.5), TypeError, "max_distance must be an integer, got 128.5"),
    (lambda: tb.Buckets(32, False), TypeError, "max_distance must be an integer, got False"),
    (lambda: tb.Buckets(32, 128, 1), TypeError, "bidirectional must be True or False, got 1"),
    (lambda: tb.Buckets(32, 128, None), TypeError, "bidirectional must be True or False, got None"),
    (lambda: tb.Buckets.from_textbook(0, 8), ValueError, "n_b must be at least 1, got 0"),
    (lambda: tb.Buckets.from_textbook(-1, 8), ValueError, "n_b must be at least 1, got -1"),
    (lambda: tb.Buckets.from_textbook(32.5, 8), TypeError, "n_b must be an integer, got 32.5"),
    (lambda: tb.Buckets.from_textbook(32, 16), ValueError, "dist_max must be at least 17, got 16"),
    (lambda: tb.Buckets.from_textbook(32, "9"), TypeError, "dist_max must be an integer, got '9'"),
    (lambda: tabulate(3), TypeError, "function must be callable, got 3"),
    (lambda: tabulate(lambda d: 1), ValueError, "result of function must have shape (5,), got ()"),
    (lambda: tabulate(lambda d: d[1:]), ValueError, "result of function must have shape (5,)"),
    (lambda: tabulate(lambda d: d / 2), TypeError, "result of function must be integers"),
    (lambda: tabulate(lambda d: d > 0), TypeError, "result of function must be integers"),
    (lambda: tabulate(lambda d: d), ValueError, "must hold buckets in [0, 5), got -2 to 2"),
    (lambda: tabulate(lambda d: d + 3), ValueError, "must hold buckets in [0, 5), got 1 to 5"),
    (lambda: tabulate(abs, 0), ValueError, "max_distance must be at least 1, got 0"),
    (lambda: tabulate(abs, 2.0), TypeError, "max_distance must be an integer, got 2.0"),
    (lambda: tabulate(abs, 2, 0), ValueError, "num_buckets must be at least 1, got 0"),
    (lambda: tabulate(abs, 2**62), MemoryError, "must fit in memory"),
    (lambda: from_ranges([]), ValueError, "ranges must hold every relative position once"),
    (lambda: from_ranges([(0, 0, None)]), ValueError, "ranges must hold every relative position"),
    (lambda: from_ranges([(0, None, 0)]), ValueError, "ranges must hold every relative position"),
    (lambda: from_ranges([(0, None, 0), (1, 2, None)]), ValueError, "got gaps or overlaps"),
    (lambda: from_ranges([(0, None, 1), (1, 1, None)]), ValueError, "got gaps or overlaps"),
    (lambda: from_ranges([(0, None, None), (1, None, None)]), ValueError, "got gaps or overlaps"),
    (lambda: from_ranges([(0, None, 3), (1, 4, 2), (2, 3, None)]), ValueError, "gaps or overlaps"),
    (lambda: from_ranges([(4, None, None)]), ValueError, "must hold buckets in [0, 4), got 4 to 4"),
    (lambda: from_ranges([(-1, None, None)]), ValueError, "must hold buckets in [0, 4)"),
    (lambda: from_ranges([(0, None, 4), (1, 5, None)]), ValueError, "beyond max_distance = 4"),
    (lambda: from_ranges([(0, None, -5), (1, -4, None)]), ValueError, "beyond max_distance = 4"),
    (lambda: from_ranges([(0, None, 2), (1, 3, 2), (2, 3, None)]), ValueError, "gaps or overlaps"),
    (
        lambda: tabulate(lambda d: np.full(d.shape, 2**64 - 1, np.uint64)),
        ValueError,
        f"must hold buckets in [0, 5), got {2**64 - 1} to {2**64 - 1}",
    ),
    (lambda: from_ranges([(0, None)]), TypeError, "ranges must hold (bucket, first, last)"),
    (lambda: from_ranges([3]), TypeError, "ranges must hold (bucket, first, last), got 3"),
    (lambda: from_ranges(3), TypeError, "ranges must be iterable, got 3"),
    (lambda: from_ranges([(0.0, None, None)]), TypeError, "bucket of ranges must be an integer"),
    (lambda: from_ranges([(0, 1.5, None)]), TypeError, "first of ranges must be an integer"),
]

POSITIONS: list[Case] = [
    (lambda: BUCKETS(1.5), TypeError, "relative_position must be integers, got dtype float64"),
    (lambda: BUCKETS([1.0, 2.0]), TypeError, "relative_position must be integers, got dtype float"),
    (lambda: BUCKETS(np.float32(3)), TypeError, "relative_position must be integers"),
    (lambda: BUCKETS(np.empty(0, float)), TypeError, "relative_position must be integers"),
    (lambda: BUCKETS(True), TypeError, "relative_position must be integers, got dtype bool"),
    (
        lambda: BUCKETS([True, False]),
        TypeError,
        "relative_position must be integers, got dtype bool",
    ),
    (lambda: BUCKETS("3"), TypeError, "relative_position must be integers, got dtype <U1"),
    (lambda: BUCKETS(b"3"), TypeError, "relative_position must be integers"),
    (lambda: BUCKETS(None), TypeError, "relative_position must be integers, got dtype object"),
    (lambda: BUCKETS([None, 1]), TypeError, "relative_position must be integers, got dtype object"),
    (lambda: BUCKETS(1j), TypeError, "relative_position must be integers, got dtype complex128"),
    (lambda: BUCKETS(np.datetime64(3, "s")), TypeError, "relative_position must be integers"),
    (
        lambda: BUCKETS([[1], [2, 3]]),
        ValueError,
        "relative_position must be an array, got [[1], [2",
    ),
    (lambda: BUCKETS(2**64), ValueError, f"relative_position must fit in int64, got {2**64}"),
    (lambda: BUCKETS(-(2**63) - 1), ValueError, f"must fit in int64, got {-(2**63) - 1}"),
    (lambda: BUCKETS([0, 2**70]), ValueError, f"relative_position must fit in int64, got {2**70}"),
    (lambda: BUCKETS(np.array([], object)), TypeError, "must be integers, got dtype object"),
    (lambda: BUCKETS(np.array([1], object)), TypeError, "must be integers, got dtype object"),
    (lambda: BUCKETS([-1, 2**63]), ValueError, f"must fit in int64, got {2**63}"),
    (
        lambda: BUCKETS(np.broadcast_to(np.int8(0), (2, sys.maxsize // 8))),
        MemoryError,
        "must fit in memory",
    ),
    (
        lambda: BUCKETS(np.broadcast_to(np.int8(0), (2, min(2**42, sys.maxsize // 8)))),
        MemoryError,
        "must fit in memory",
    ),
    (lambda: tb.relative_position_bucket(0.5), TypeError, "relative_position must be integers"),
    (lambda: BUCKETS.grid_at(3), ValueError, "query_positions must have at least one axis"),
    (lambda: BUCKETS.grid_at([1], 3), ValueError, "key_positions must have at least one axis"),
    (lambda: BUCKETS.grid_at([1.5]), TypeError, "query_positions must be integers"),
    (lambda: BUCKETS.grid_at([1], [1.5]), TypeError, "key_positions must be integers"),
    (
        lambda: BUCKETS.grid_at(np.ones((2, 3), int), np.ones((4, 3), int)),
        ValueError,
        "key_positions must broadcast with query_positions of shape (2, 3)",
    ),
]

DTYPES_AND_THREADS: list[Case] = [
    (lambda: BUCKETS([1], dtype=float), TypeError, "dtype must be an integer type, got float64"),
    (lambda: BUCKETS([1], dtype=bool), TypeError, "dtype must be an integer type, got bool"),
    (lambda: BUCKETS([1], dtype="O"), TypeError, "dtype must be an integer type, got object"),
    (lambda: BUCKETS([1], dtype=[("a", "i4")] * 2), TypeError, "dtype must be an integer type"),
    (lambda: BUCKETS([1], dtype="no"), TypeError, "dtype must be an integer type, got 'no'"),
    (lambda: WIDE([1], dtype="u1"), ValueError, "dtype must hold bucket 319, got uint8"),
    (lambda: WIDE(1, dtype="i1"), ValueError, "dtype must hold bucket 319, got int8"),
    (lambda: WIDE.grid(2, 2, dtype="u1"), ValueError, "dtype must hold bucket 319, got uint8"),
    (lambda: WIDE.grid_at([1], dtype="u1"), ValueError, "dtype must hold bucket 319, got uint8"),
    (lambda: BUCKETS([1], num_threads=0), ValueError, "num_threads must be at least 1, got 0"),
    (lambda: BUCKETS([1], num_threads=1.5), TypeError, "num_threads must be an integer, got 1.5"),
    (lambda: BUCKETS.grid(2, 2, num_threads=-1), ValueError, "num_threads must be at least 1"),
    (lambda: BUCKETS.grid_at([1], num_threads=0), ValueError, "num_threads must be at least 1"),
    (lambda: BIAS.matrix(2, 2, num_threads=0), ValueError, "num_threads must be at least 1"),
]


def lengths_and_offsets(call: Callable[..., Any]) -> list[Case]:
    """Cases that hold for every function of consecutive positions."""
    return [
        (lambda: call(-1, 2), ValueError, "query_length must be at least 0, got -1"),
        (lambda: call(2, -1), ValueError, "key_length must be at least 0, got -1"),
        (lambda: call(2.0, 2), TypeError, "query_length must be an integer, got 2.0"),
        (lambda: call(2, True), TypeError, "key_length must be an integer, got True"),
        (lambda: call(2, None), TypeError, "key_length must be an integer, got None"),
        (lambda: call(2**70, 2), ValueError, "query_length must be at most"),
        (
            lambda: call(2, 2, query_offset=0.5),
            TypeError,
            "query_offset must be an integer, got 0.5",
        ),
        (lambda: call(2, 2, query_offset=2**63), ValueError, "query_offset must be at most"),
    ]


PLOTS: list[Case] = [
    (lambda: plot_grid(5, 2, 2), TypeError, "buckets must be a Buckets, got int"),
    (lambda: plot_bias(BUCKETS), TypeError, "bias must be a RelativeAttentionBias, got Buckets"),
    (lambda: plot_bias(BIAS, heads=5), TypeError, "heads must be iterable, got 5"),
    (lambda: plot_bias(BIAS, distance=10**7), ValueError, "distance must be at most 1000000"),
    (lambda: plot_grid(BUCKETS, 0, 2), ValueError, "query_length must be at least 1, got 0"),
    (lambda: plot_grid(BUCKETS, 2, 1.5), TypeError, "key_length must be an integer, got 1.5"),
    (lambda: plot_bias(BIAS, distance=0), ValueError, "distance must be at least 1, got 0"),
    (lambda: plot_bias(BIAS, heads=[2]), ValueError, "head must be at most 1, got 2"),
    (lambda: plot_bias(BIAS, heads=[-1]), ValueError, "head must be at least 0, got -1"),
    (lambda: plot_bias(BIAS, heads=["a"]), TypeError, "head must be an integer, got 'a'"),
]

GRIDS: list[Case] = [
    *lengths_and_offsets(BUCKETS.grid),
    *lengths_and_offsets(BIAS.matrix),
    *lengths_and_offsets(BIAS.view),
    *lengths_and_offsets(lambda *args, **options: tb.compute_bias(WEIGHT, *args, **options)),
    (lambda: BUCKETS.grid(1, 1, key_offset="0"), TypeError, "key_offset must be an integer"),
    (lambda: BUCKETS.grid(2**31, 2**31), MemoryError, "must fit in memory"),
    (lambda: BUCKETS.grid(2**62, 2**62), MemoryError, "must fit in memory"),
    (lambda: BUCKETS.grid(2**63 - 1, 1), MemoryError, "must fit in memory"),
    (lambda: BUCKETS.grid_at(np.zeros(2**20, "i1"), dtype="i8"), MemoryError, "must fit in memory"),
    (lambda: BIAS.matrix(2**24, 2**24), MemoryError, "must fit in memory"),
    (lambda: BIAS.matrix(2**62, 2**62), MemoryError, "must fit in memory"),
    (lambda: BIAS.view(2**62, 2**62), MemoryError, "must fit in memory"),
    (lambda: BIAS.view(2**40, 1), MemoryError, "must fit in memory"),
]

VECTORS = np.ones((2, 3, 4), np.float32)  # query, key and value: 2 heads, 3 tokens of 4 features


def attention(attend: Callable[..., Any]) -> list[Case]:
    """Cases that hold for attention at consecutive and at explicit positions."""

    def call(query: Any = VECTORS, key: Any = VECTORS, value: Any = VECTORS, **options: Any) -> Any:
        return attend(query, key, value, **options)

    def zeros(*shape: int) -> Any:
        return np.broadcast_to(np.float32(0), shape)

    return [
        (
            lambda: call(VECTORS[:1]),
            ValueError,
            "query must have shape (..., 2, length, size), got",
        ),
        (
            lambda: call(key=VECTORS[0]),
            ValueError,
            "key must have shape (..., 2, length, size), got",
        ),
        (lambda: call(value=3.0), TypeError, "value must have dtype float32, got float64"),
        (lambda: call(None), TypeError, "query must have dtype float32, got object"),
        (
            lambda: call(VECTORS.astype("f2")),
            TypeError,
            "query must have dtype float32, got float16",
        ),
        (
            lambda: call(key=VECTORS[..., :2]),
            ValueError,
            "key must have query's size, 4, got shape",
        ),
        (
            lambda: call(value=zeros(2, 5, 4)),
            ValueError,
            "value must have key's length, 3, got shape",
        ),
        (
            lambda: call(zeros(5, 2, 3, 4), zeros(6, 2, 3, 4)),
            ValueError,
            "query, key and value must broadcast on their batch axes, got (5,), (6,), ()",
        ),
        (lambda: call(causal=1), TypeError, "causal must be True or False, got 1"),
        (
            lambda: call(mask=np.ones(4, bool)),
            ValueError,
            "mask must broadcast to (..., 2, 3, 3), got",
        ),
        (
            lambda: call(zeros(5, 2, 3, 4), mask=np.ones((6, 1, 1, 3), bool)),
            ValueError,
            "mask must broadcast with a batch of shape (5,), got a batch of shape (6,)",
        ),
        (lambda: call(segment_ids=[1]), ValueError, "segment_ids must have 3 ids on the last axis"),
        (
            lambda: call(key_segment_ids=[1]),
            ValueError,
            "segment_ids must come with key_segment_ids",
        ),
        (lambda: call(scale=None), TypeError, "scale must be a real number, got None"),
        (lambda: call(scale=np.inf), ValueError, "scale must be finite in float32, got inf"),
        (lambda: call(num_threads=0), ValueError, "num_threads must be at least 1, got 0"),
        (
            lambda: call(zeros(2**20, 2, 3, 4), value=zeros(2, 3, sys.maxsize // 64)),
            MemoryError,
            "the result must fit in memory, got",
        ),
    ]


def attend_at(*inputs: Any, positions: Any = ([1, 2, 3],), **options: Any) -> Any:
    return BIAS.attend_at(*inputs, *positions, **options)


ATTENTION: list[Case] = [
    *attention(BIAS.attend),
    *attention(attend_at),
    (
        lambda: BIAS.attend(VECTORS, VECTORS, VECTORS, query_offset=0.5),
        TypeError,
        "query_offset must be an integer, got 0.5",
    ),
    (
        lambda: attend_at(VECTORS, VECTORS, VECTORS, positions=([1, 2],)),
        ValueError,
        "query_positions must have shape (..., 3), got (2,)",
    ),
    (
        lambda: attend_at(VECTORS, VECTORS, VECTORS, positions=([1, 2, 3], [1, 2])),
        ValueError,
        "key_positions must have shape (..., 3), got (2,)",
    ),
    (
        lambda: attend_at(np.stack([VECTORS] * 2), VECTORS, VECTORS, positions=([[1, 2, 3]] * 3,)),
        ValueError,
        "query_positions and key_positions must broadcast with a batch of shape (2,), got a batch",
    ),
]

WEIGHTS: list[Case] = [
    (lambda: tb.RelativeAttentionBias(np.ones(32), BUCKETS), ValueError, "must have two axes"),
    (lambda: tb.RelativeAttentionBias(1.5, BUCKETS), ValueError, "must have two axes"),
    (lambda: tb.RelativeAttentionBias(np.ones((1, 32, 2)), BUCKETS), ValueError, "(1, 32, 2)"),
    (lambda: tb.RelativeAttentionBias(np.ones((32, 0)), BUCKETS), ValueError, "must not be empty"),
    (lambda: tb.RelativeAttentionBias(np.ones((32, 2), "i8"), BUCKETS), TypeError, "got int64"),
    (lambda: tb.RelativeAttentionBias(np.ones((32, 2), bool), BUCKETS), TypeError, "got bool"),
    (lambda: tb.RelativeAttentionBias(np.ones((32, 2), complex), BUCKETS), TypeError, "complex128"),
    (
        lambda: tb.RelativeAttentionBias(np.ones((32, 2), float8()), BUCKETS),
        TypeError,
        "weight must be float16, bfloat16, float32 or float64, got float8_e5m2",
    ),
    (lambda: tb.RelativeAttentionBias([["a"]], BUCKETS), TypeError, "weight must be float16"),
    (
        lambda: tb.RelativeAttentionBias([[1.0], []], BUCKETS),
        ValueError,
        "weight must have two axes",
    ),
    (lambda: tb.RelativeAttentionBias(None, BUCKETS), TypeError, "weight must be float16"),
    (lambda: tb.RelativeAttentionBias(WEIGHT, 32), TypeError, "buckets must be a Buckets, got int"),
    (lambda: tb.RelativeAttentionBias(WEIGHT[:9], BUCKETS), ValueError, "32 buckets, got 9 rows"),
    (
        lambda: tb.RelativeAttentionBias(WEIGHT, BUCKETS, heads_first=True),
        ValueError,
        "weight must have one column for each of the 32 buckets, got 2 columns",
    ),
    (
        lambda: tb.RelativeAttentionBias(WEIGHT, BUCKETS, heads_first=1),
        TypeError,
        "heads_first must be True or False, got 1",
    ),
    (
        lambda: tb.RelativeAttentionBias(WEIGHT, tb.Buckets.from_textbook(32, 128)),
        ValueError,
        "33 buckets, got 32 rows: buckets 0 to n_b = 32 make n_b + 1 = 33 parameters, not n_b",
    ),
    (lambda: tb.compute_bias(np.ones(3), 2, 2), ValueError, "weight must have two axes"),
    (
        lambda: tb.compute_bias(WEIGHT[:3], 2, 2),
        ValueError,
        "weight must have at least 4 rows, one a bucket, got 3",
    ),
    (
        lambda: tb.compute_bias(WEIGHT, 2, 2, max_distance=8),
        ValueError,
        "max_distance must be greater than max_exact = 8, got 8",
    ),
]
if np.dtype("g").itemsize > 8:  # elsewhere it is float64
    LONG = np.ones((32, 2), "g")
    WEIGHTS.append((lambda: tb.RelativeAttentionBias(LONG, BUCKETS), TypeError, "weight must be"))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    SCHEMES + POSITIONS + DTYPES_AND_THREADS + GRIDS + ATTENTION + WEIGHTS + PLOTS,
)
def test_bad_input_is_refused_with_a_message_that_names_it(
    call: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)) as caught:
        call()
    assert caught.type is error
    assert " must " in str(caught.value)


WRITERS: list[tuple[Callable[[Any], Any], tuple[int, ...], Any]] = [
    (lambda out: BUCKETS(np.zeros((2, 3), int), dtype=np.int64, out=out), (2, 3), np.int64),
    (lambda out: BUCKETS.grid(2, 3, dtype=np.int64, out=out), (2, 3), np.int64),
    (lambda out: BUCKETS.grid_at([1, 2], [1, 2, 3], dtype=np.int64, out=out), (2, 3), np.int64),
    (
        lambda out: tb.relative_position_bucket(np.zeros((2, 3), int), dtype=np.int64, out=out),
        (2, 3),
        np.int64,
    ),
    (lambda out: BIAS.matrix(2, 3, out=out), (2, 2, 3), np.float32),
    (lambda out: tb.compute_bias(WEIGHT, 2, 3, out=out), (2, 2, 3), np.float32),
    (lambda out: BIAS.attend(VECTORS, VECTORS, VECTORS, out=out), (2, 3, 4), np.float32),
    (lambda out: attend_at(VECTORS, VECTORS, VECTORS, out=out), (2, 3, 4), np.float32),
]


@pytest.mark.parametrize(("call", "shape", "dtype"), WRITERS)
def test_a_bad_out_is_refused_and_stays_as_it_was(
    call: Callable[[Any], Any], shape: tuple[int, ...], dtype: Any
) -> None:
    name = np.dtype(dtype).name
    cases: list[tuple[Any, type[Exception], str]] = [
        (np.full(shape, 9, np.float16), TypeError, f"out must have dtype {name}, got float16"),
        (np.full(shape, 9, np.int32), TypeError, f"out must have dtype {name}, got int32"),
        (np.full(shape[1:], 9, dtype), ValueError, f"out must have shape {shape}, got {shape[1:]}"),
        (np.full((1, *shape), 9, dtype), ValueError, "out must have shape"),
        (np.full(shape[::-1], 9, dtype), ValueError, "out must have shape"),
        (read_only(np.full(shape, 9, dtype)), ValueError, "out must be writeable"),
        (np.full(shape, 9, dtype).tolist(), TypeError, "out must be a NumPy array, got list"),
        ("out", TypeError, "out must be a NumPy array, got str"),
    ]
    for out, error, message in cases:
        with pytest.raises(error, match=re.escape(message)):
            call(out)
        assert not isinstance(out, np.ndarray) or (out == 9).all()
    good = np.full(shape, 9, dtype)
    assert call(good) is good
    assert not (good == 9).any()


def test_options_are_keyword_only() -> None:
    calls: list[Callable[[], Any]] = [
        lambda: BUCKETS([1], np.int64),
        lambda: BUCKETS.grid(2, 2, 0),
        lambda: BUCKETS.grid_at([1], [1], np.int64),
        lambda: BIAS.matrix(2, 2, 0),
        lambda: BIAS.view(2, 2, 0),
        lambda: BIAS.attend(VECTORS, VECTORS, VECTORS, True),
        lambda: BIAS.attend_at(VECTORS, VECTORS, VECTORS, [1, 2, 3], None, True),
        lambda: tb.compute_bias(WEIGHT, 2, 2, True),
        lambda: tb.RelativeAttentionBias(WEIGHT, BUCKETS, True),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="positional"):
            call()


def test_an_unknown_attribute_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        tb.nothing  # noqa: B018
