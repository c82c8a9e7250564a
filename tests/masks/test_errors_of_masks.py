# test_errors_of_masks.py - bad masks, scores, gradients and tiles raise errors; nothing is written.
# SPDX-License-Identifier: BSD-3-Clause
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import t5bucket as tb

BUCKETS = tb.Buckets()
BIAS: Any = tb.RelativeAttentionBias(np.ones((32, 2), np.float32), BUCKETS)
HALF = tb.RelativeAttentionBias(np.ones((32, 2), np.float16), BUCKETS)
GRADIENT = np.ones((2, 4, 5), np.float32)


class Refusing:
    """Refuses the conversion to an array, like a tensor that requires a gradient."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("no array")


Case = tuple[Callable[[], Any], type[Exception], str]


def masks(call: Callable[..., Any]) -> list[Case]:
    """Cases that hold for every function with masks, of 2 heads, 4 queries and 5 keys."""
    return [
        (lambda: call(mask=np.ones(4, bool)), ValueError, "mask must broadcast to (..., 2, 4, 5)"),
        (lambda: call(mask=np.ones((3, 4, 5))), ValueError, "got shape (3, 4, 5)"),
        (lambda: call(mask=np.ones((7, 1, 1, 4))), ValueError, "mask must broadcast to"),
        (lambda: call(mask=np.ones((2, 1, 4, 1, 5))[0]), ValueError, "mask must broadcast to"),
        (lambda: call(mask=np.ones((0, 5), bool)), ValueError, "mask must broadcast to"),
        (
            lambda: call(mask=np.ones(5, np.int64)),
            TypeError,
            "mask must be boolean (true = attend) or additive floats, got dtype int64",
        ),
        (lambda: call(mask=np.ones(5, complex)), TypeError, "mask must be boolean"),
        (lambda: call(mask="no"), TypeError, "mask must be boolean"),
        (lambda: call(mask=[[True], [True, False]]), ValueError, "mask must be an array"),
        (lambda: call(causal=1), TypeError, "causal must be True or False, got 1"),
        (lambda: call(causal=None), TypeError, "causal must be True or False, got None"),
        (
            lambda: call(segment_ids=[1, 2, 3], key_segment_ids=[1] * 5),
            ValueError,
            "segment_ids must have 4 ids on the last axis, got segment_ids of shape (3,)",
        ),
        (
            lambda: call(segment_ids=[1] * 4),
            ValueError,
            "key_segment_ids must have 5 ids on the last axis, got segment_ids of shape (4,)",
        ),
        (
            lambda: call(segment_ids=[1] * 4, key_segment_ids=[1] * 6),
            ValueError,
            "key_segment_ids must have 5 ids on the last axis, got key_segment_ids of shape (6,)",
        ),
        (
            lambda: call(segment_ids=1, key_segment_ids=[1] * 5),
            ValueError,
            "segment_ids must have at least one axis, got shape ()",
        ),
        (
            lambda: call(segment_ids=np.ones(4), key_segment_ids=[1] * 5),
            TypeError,
            "segment_ids must be integers, got dtype float64",
        ),
        (
            lambda: call(segment_ids=[1] * 4, key_segment_ids=np.ones(5)),
            TypeError,
            "key_segment_ids must be integers, got dtype float64",
        ),
        (
            lambda: call(segment_ids=np.ones((2, 4), int), key_segment_ids=np.ones((3, 5), int)),
            ValueError,
            "key_segment_ids must broadcast with segment_ids of shape (2, 4)",
        ),
        (
            lambda: call(key_segment_ids=[1] * 5),
            ValueError,
            "segment_ids must come with key_segment_ids, got None",
        ),
        (
            lambda: call(
                mask=np.ones((3, 1, 1, 5), bool),
                segment_ids=np.ones((2, 4), int),
                key_segment_ids=np.ones(5, int),
            ),
            ValueError,
            "mask must broadcast with a batch of shape (2,), got a batch of shape (3,)",
        ),
        (lambda: call(scale="1"), TypeError, "scale must be a real number, got '1'"),
        (lambda: call(scale=True), TypeError, "scale must be a real number, got True"),
        (lambda: call(scale=1j), TypeError, "scale must be a real number, got 1j"),
        (lambda: call(scale=np.ones(1)), TypeError, "scale must be a real number"),
        (lambda: call(scale=float("nan")), ValueError, "scale must be finite in float32, got nan"),
        (lambda: call(scale=1e300), ValueError, "scale must be finite in float32, got 1e+300"),
        (lambda: call(scale=10**400), ValueError, "scale must fit in float64"),
        (lambda: call(num_threads=0), ValueError, "num_threads must be at least 1, got 0"),
    ]


def bfloat16() -> Any:
    return pytest.importorskip("ml_dtypes").bfloat16


def matrix(**options: Any) -> Any:
    return BIAS.matrix(4, 5, **options)


def matrix_at(**options: Any) -> Any:
    return BIAS.matrix_at(np.arange(4), np.arange(5), **options)


def positions(call: Callable[..., Any]) -> list[Case]:
    """Cases that hold for every function of explicit positions."""
    return [
        (lambda: call(3), ValueError, "query_positions must have at least one axis, got shape ()"),
        (lambda: call([1], 3), ValueError, "key_positions must have at least one axis"),
        (lambda: call([1.0]), TypeError, "query_positions must be integers, got dtype float64"),
        (lambda: call([1], np.ones(3)), TypeError, "key_positions must be integers"),
        (lambda: call([True]), TypeError, "query_positions must be integers, got dtype bool"),
        (
            lambda: call(np.ones((2, 3), int), np.ones((4, 3), int)),
            ValueError,
            "key_positions must broadcast with query_positions of shape (2, 3)",
        ),
    ]


MASKED: list[Case] = [
    *masks(matrix),
    *masks(matrix_at),
    *masks(lambda **options: BIAS.weight_gradient(GRADIENT, **options)),
    *masks(
        lambda **options: BIAS.weight_gradient_at(GRADIENT, np.arange(4), np.arange(5), **options)
    ),
    *positions(BIAS.matrix_at),
    *positions(lambda *args: BIAS.weight_gradient_at(np.ones((2, 1, 1), np.float32), *args)),
    *[
        case
        for call in (matrix, matrix_at)
        for case in (
            (
                lambda call=call: call(masked_value="-inf"),
                TypeError,
                "masked_value must be a real number, got '-inf'",
            ),
            (
                lambda call=call: call(masked_value=float("nan")),
                ValueError,
                "masked_value must fit in float32, got nan",
            ),
            (
                lambda call=call: call(masked_value=-1e39),
                ValueError,
                "masked_value must fit in float32, got -1e+39",
            ),
        )
    ],
    (lambda: BIAS.matrix(2**40, 2**40, mask=[True]), MemoryError, "must fit in memory"),
    (
        lambda: BIAS.weight_gradient_at(GRADIENT, [0] * 4, [0] * 4, mask=np.ones(4, bool)),
        ValueError,
        "gradient must have shape (..., 2, 4, 4), got (2, 4, 5)",
    ),
    (
        lambda: BIAS.matrix(1, 2, mask=Refusing()),
        TypeError,
        "mask must be an array, got Refusing (no array)",
    ),
    (
        lambda: BIAS.matrix(1, 2, scale=Refusing()),
        TypeError,
        "scale must be a real number, got <",
    ),
    (
        lambda: BIAS.matrix(2, 2, masked_value=np.array("3")),
        TypeError,
        "masked_value must be a real number, got array('3'",
    ),
    (
        lambda: BIAS.matrix(2, 2, masked_value=np.array(True)),
        TypeError,
        "masked_value must be a real number, got array(True)",
    ),
    (
        lambda: HALF.matrix(2, 2, causal=True, masked_value=-1e9),
        ValueError,
        "masked_value must fit in float16, got -1000000000.0",
    ),
    *[
        case
        for call in (matrix, matrix_at)
        for case in (
            (
                lambda call=call: call(accumulate=1),
                TypeError,
                "accumulate must be True or False, got 1",
            ),
            (
                lambda call=call: call(accumulate=True),
                ValueError,
                "out must be given to accumulate, got None",
            ),
            (
                lambda call=call: call(accumulate=True, out=[1.0]),
                TypeError,
                "out must be a NumPy array, got list",
            ),
        )
    ],
    (
        lambda: BIAS.matrix_at(np.ones((2, 4), int), mask=np.ones((3, 1, 1, 4), bool)),
        ValueError,
        "mask must broadcast with a batch of shape (2,), got a batch of shape (3,)",
    ),
    (
        lambda: BIAS.matrix_at(np.zeros(2**20, "i1"), mask=np.ones((99, 1, 1, 1), bool)),
        MemoryError,
        "must fit in memory",
    ),
]

SCORES: list[Case] = [
    (lambda: BIAS.add_to(GRADIENT.tolist()), TypeError, "scores must be a NumPy array, got list"),
    (
        lambda: BIAS.add_to(GRADIENT[0]),
        ValueError,
        "scores must have shape (..., 2, query_length, key_length), got (4, 5)",
    ),
    (lambda: BIAS.add_to(np.ones((3, 4, 5), "f4")), ValueError, "scores must have shape (..., 2,"),
    (
        lambda: BIAS.add_to(GRADIENT.astype(np.float64)),
        TypeError,
        "scores must have dtype float32, got float64",
    ),
    (lambda: BIAS.add_to(GRADIENT.astype(int)), TypeError, "scores must have dtype float32"),
    (lambda: BIAS.add_to(GRADIENT, query_offset=0.5), TypeError, "query_offset must be an integer"),
    (lambda: BIAS.add_to(GRADIENT, key_offset=2**63), ValueError, "key_offset must be at most"),
    (lambda: BIAS.add_to(GRADIENT, num_threads=0), ValueError, "num_threads must be at least 1"),
]

GRADIENTS: list[Case] = [
    *[
        case
        for call in (
            BIAS.weight_gradient,
            lambda gradient: BIAS.weight_gradient_at(gradient, [0] * 4, [0] * 5),
        )
        for case in (
            (
                lambda call=call: call(np.ones((4, 5), np.float32)),
                ValueError,
                "gradient must have shape (..., 2, ",
            ),
            (
                lambda call=call: call(np.ones((3, 4, 5), np.float32)),
                ValueError,
                "gradient must have shape (..., 2, ",
            ),
            (
                lambda call=call: call(np.ones((2, 4, 5))),
                TypeError,
                "gradient must have dtype float32, got float64",
            ),
            (
                lambda call=call: call(np.ones((2, 4, 5), np.int64)),
                TypeError,
                "gradient must have dtype float32, got int64",
            ),
            (
                lambda call=call: call(np.ones((2, 4, 5), bfloat16())),
                TypeError,
                "gradient must have dtype float32, got bfloat16",
            ),
            (lambda call=call: call(None), TypeError, "gradient must have dtype float32"),
            (lambda call=call: call([[1.0], []]), ValueError, "gradient must be an array"),
        )
    ],
    (
        lambda: BIAS.weight_gradient_at(GRADIENT, [0] * 4, [0] * 4),
        ValueError,
        "gradient must have shape (..., 2, 4, 4), got (2, 4, 5)",
    ),
    (
        lambda: BIAS.weight_gradient_at(GRADIENT, np.zeros((3, 4), int), [0] * 5),
        ValueError,
        "gradient must have the batch axes of masks and positions, (3,), got ()",
    ),
    (
        lambda: BIAS.weight_gradient(GRADIENT, mask=np.ones((3, 1, 1, 5), bool)),
        ValueError,
        "gradient must have the batch axes of masks and positions, (3,), got ()",
    ),
    (
        lambda: BIAS.weight_gradient(np.stack([GRADIENT] * 2), mask=np.ones((3, 1, 1, 5), bool)),
        ValueError,
        "gradient must broadcast with a batch of shape (3,), got a batch of shape (2,)",
    ),
]

TILES: list[Case] = [
    (lambda: BIAS.tiles(4, 4, tile=0), ValueError, "tile must be at least 1, got 0"),
    (lambda: BIAS.tiles(4, 4, tile=(2, 0)), ValueError, "tile must be at least 1, got 0"),
    (lambda: BIAS.tiles(4, 4, tile=(2, -1)), ValueError, "tile must be at least 1, got -1"),
    (lambda: BIAS.tiles(4, 4, tile=2.5), TypeError, "tile must be an integer, got 2.5"),
    (lambda: BIAS.tiles(4, 4, tile=(2, 2, 2)), ValueError, "tile must be an integer or (rows,"),
    (lambda: BIAS.tiles(4, 4, tile=None), TypeError, "tile must be an integer, got None"),
    (lambda: BIAS.tiles(-1, 4, tile=2), ValueError, "query_length must be at least 0, got -1"),
    (lambda: BIAS.tiles(4, 4.0, tile=2), TypeError, "key_length must be an integer, got 4.0"),
    (
        lambda: next(BIAS.tiles(2**40, 2**40, tile=2**40)),
        MemoryError,
        "must fit in memory",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), MASKED + SCORES + GRADIENTS + TILES)
def test_bad_input_is_refused_with_a_message_that_names_it(
    call: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)) as caught:
        call()
    assert caught.type is error
    assert " must " in str(caught.value)


@pytest.mark.parametrize("call", [matrix, matrix_at])
def test_nothing_is_written_before_an_error(call: Callable[..., Any]) -> None:
    out = np.full((2, 4, 5), 9, np.float32)
    wrong: list[dict[str, Any]] = [
        {"mask": np.ones(4, bool)},
        {"mask": np.ones((3, 1, 1, 5), bool)},  # the result has a batch, out has none
        {"segment_ids": [1] * 4},
        {"scale": "a"},
        {"masked_value": float("nan")},
        {"num_threads": 0},
        {"causal": 1},
    ]
    for options in wrong:
        with pytest.raises((TypeError, ValueError), match=" must "):
            call(out=out, **options)
        assert (out == 9).all()
    read_only = np.full((2, 4, 5), 9, np.float32)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writeable"):
        call(out=read_only, causal=True)
    with pytest.raises(ValueError, match="scores must be writeable"):
        BIAS.add_to(read_only)
    assert (read_only == 9).all()


@pytest.mark.skipif(sys.maxsize < 2**32, reason="such a mask needs addresses of 64 bits")
@pytest.mark.parametrize(
    "function", [BIAS.matrix, lambda q, k, **o: BIAS.matrix_at([1] * q, [1] * k, **o)]
)
def test_a_mask_that_is_too_large_to_convert_raises_a_memory_error(function: Any) -> None:
    mask = np.broadcast_to(np.zeros(1, np.float64), (1 << 40, 2, 4, 5))
    with pytest.raises(MemoryError, match="mask must fit in memory as float32, got shape"):
        function(4, 5, mask=mask)


def test_options_are_keyword_only() -> None:
    calls: list[Callable[[], Any]] = [
        lambda: BIAS.matrix_at([1], [1], True),
        lambda: BIAS.tiles(2, 2, 1),
        lambda: BIAS.add_to(GRADIENT, 0),
        lambda: BIAS.weight_gradient(GRADIENT, 0),
        lambda: BIAS.weight_gradient_at(GRADIENT, [0] * 4, [0] * 5, True),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"positional|keyword-only"):
            call()
