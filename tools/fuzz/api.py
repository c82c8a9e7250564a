# api.py - an atheris target: public functions, in property tests and with hostile arguments.
# SPDX-License-Identifier: BSD-3-Clause
"""Run the property tests of tests/, and calls with some hostile arguments.

    python tools/fuzz/run.py 60 api       for a minute
    python tools/fuzz/run.py 14400 api    four hours; the corpus stays in build/fuzz/api

The first byte of an input chooses a test, and four bytes seed a generator. Hypothesis draws from
the rest, and then from the generator, so that no input is too short. A call with hostile
arguments must give the result of tests/support/reference.py, or write nothing and raise an error
that says what the argument must be.
"""

from __future__ import annotations

import importlib
import inspect
import operator
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import target
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.extend(
    str(Path(__file__).parents[2] / "tests" / room)
    for room in ("support", "buckets", "bias", "gradients", "masks")
)

with target.instrumented():
    import t5bucket as tb

import reference
import strategies
import test_attending

MODULES = [
    "test_positions",
    "test_scheme",
    "test_bias",
    "test_gradients",
    "test_masks",
    "test_attending",
]
ERRORS = (TypeError, ValueError, MemoryError)
MESSAGE = re.compile(r".+ must .+, got .*", re.DOTALL)
MAX_COMPARED = 5000  # items
MAX_DRAWN_NBYTES = 4096

SCHEMES = [(8, 20, True), (9, 30, False), (32, 128, True)]
BUCKETS = [tb.Buckets(*scheme) for scheme in SCHEMES]
BIASES = [
    tb.RelativeAttentionBias(reference.normal_weight(8, 2, dtype), BUCKETS[0])
    for dtype in strategies.FLOAT_DTYPES
]


class Refusing:
    """Raises an error at every use."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("no array")


# Lengths and arrays are small, or far too large for any memory; nothing in between.
HOSTILE_NUMBERS: list[Any] = [
    *(-1, 0, 1, 2, 7, 2**31, 2**40, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**70)),
    *(True, False, 1.0, 2.5, float("nan"), float("inf"), 1e300, 3j, 10**400),
    *(np.int8(3), np.uint64(2**64 - 1), np.float32(2), np.bool_(True), np.float16("inf")),
]
HOSTILE_OBJECTS: list[Any] = [
    *(
        None,
        "x",
        "",
        "int32",
        b"x",
        [],
        [[]],
        [[1], [1, 2]],
        (),
        {},
        {1},
        object(),
        int,
        Refusing(),
    ),
    *([1, 2], [[1, 2], [3, 4]], [2**63], [-1, 2**63], [2**70], [1.5], [True], ["a"], [None]),
    *(range(3), slice(1), Ellipsis, np.int64, np.dtype("u1"), np.dtype(">i4"), "O", float),
]
HOSTILE_ARRAYS: list[Any] = [
    np.array(3),
    np.array(2.5),
    np.array("x"),
    np.array(None),
    np.zeros(0, np.int64),
    np.zeros((0, 3), np.int8),
    np.zeros((3, 0), np.float32),
    np.arange(3),
    np.arange(6).reshape(2, 3),
    np.arange(6, dtype=np.uint64).reshape(2, 3) + 2**63,
    np.array([2**70, -1], object),
    np.zeros(3, complex),
    np.zeros(3, "M8[s]"),
    np.zeros(3, "m8[s]"),
    np.zeros(3, "U2"),
    np.zeros(3, [("a", "i4")]),
    np.zeros((2, 3, 4), np.longdouble),
    np.ones((2, 3, 4), bool),
    np.matrix([[1, 2], [3, 4]]),
    np.ma.masked_array([1, 2, 3], mask=[False, True, False]),
    np.broadcast_to(np.int8(1), (2**40,)),
    np.broadcast_to(np.float32(1), (2, 2**30, 2**20)),
    np.broadcast_to(np.float32(0), (2, 3, 4)),
    np.zeros((1,) * 32, np.float32),
    np.zeros((1,) * 32, np.int64),
    np.full((2, 3, 4), np.nan, np.float32),
]
hostile = st.sampled_from([*HOSTILE_NUMBERS, *HOSTILE_OBJECTS, *HOSTILE_ARRAYS])

small = st.integers(0, 6)
near = st.integers(-40, 40)
NUMBERS_OF_THREADS = st.sampled_from([None, 1, 2])
MASKS = ("causal", "mask", "segment_ids", "key_segment_ids")


# ---- valid arguments, and the results that they must give ----


class Call:
    """A function, its arguments, and the result that they must give."""

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: dict[str, Any],
        expected: Callable[[dict[str, Any]], Any],
    ) -> None:
        self.function = function
        self.arguments = arguments
        self.expected = expected


def grid_of(arguments: dict[str, Any]) -> Any:
    """Relative positions of consecutive positions."""
    names = ("query_length", "key_length", "query_offset", "key_offset")
    return reference.consecutive(*(operator.index(arguments.get(name, 0)) for name in names))


def pairs_of(arguments: dict[str, Any]) -> Any:
    """Relative positions of explicit positions."""
    query, key = arguments["query_positions"], arguments["key_positions"]
    query = np.asarray(query)
    return reference.differences(query, query if key is None else np.asarray(key))


def buckets_of(relative: Any, scheme: tuple[int, int, bool]) -> Any:
    """Buckets by the oracle."""
    return reference.t5(*scheme)(np.asarray(relative))


def matrix_of(
    bias: tb.RelativeAttentionBias, arguments: dict[str, Any], relative: Any, held: Any
) -> Any:
    """Bias by the reference."""
    options = {name: arguments[name] for name in MASKS if arguments.get(name) is not None}
    for name in ("masked_value", "scale"):
        if arguments.get(name) is not None:
            options[name] = float(arguments[name])
    if arguments.get("mask") is not None:
        options["mask"] = np.asarray(arguments["mask"])
    held = held if arguments.get("accumulate") else None
    return reference.matrix(bias.weight, reference.t5(*SCHEMES[0]), relative, held=held, **options)


def draw_out(data: st.DataObject, shape: tuple[int, ...], dtype: Any) -> Any:
    """Draw no output, or an output of any layout with items in it."""
    if data.draw(st.booleans()):
        return None
    layout = data.draw(strategies.out_layouts)
    held = np.random.default_rng(3).integers(0, 5, shape).astype(dtype)
    return strategies.relayout(held, "contiguous" if layout == "byte-swapped" else layout)


def draw_threads(data: st.DataObject) -> dict[str, Any]:
    """Draw the last argument of most functions."""
    return {"num_threads": data.draw(NUMBERS_OF_THREADS)}


def draw_grid(data: st.DataObject) -> dict[str, Any]:
    """Draw consecutive positions."""
    names = ("query_length", "key_length", "query_offset", "key_offset")
    return dict(zip(names, data.draw(st.tuples(small, small, near, near)), strict=True))


def draw_pairs(data: st.DataObject) -> dict[str, Any]:
    """Draw explicit positions."""
    rows = st.lists(near, min_size=1, max_size=5)
    query, key = data.draw(st.tuples(rows, rows))
    return {"query_positions": query, "key_positions": key}


def lengths_of(arguments: dict[str, Any]) -> tuple[int, int]:
    """Lengths of the drawn positions."""
    if "query_length" in arguments:
        return arguments["query_length"], arguments["key_length"]
    return len(arguments["query_positions"]), len(arguments["key_positions"])


def scheme_call(data: st.DataObject) -> Call:
    """`Buckets` itself."""
    names = ("num_buckets", "max_distance", "bidirectional")
    arguments = dict(zip(names, data.draw(strategies.settings_of_schemes()), strict=True))

    def make(**settings_: Any) -> Any:
        return tb.Buckets(**settings_)(np.arange(-50, 51))

    def expected(taken: dict[str, Any]) -> Any:
        num_buckets, max_distance = (operator.index(taken[name]) for name in names[:2])
        scheme = (num_buckets, max_distance, bool(taken["bidirectional"]))
        return buckets_of(np.arange(-50, 51), scheme)

    return Call(make, arguments, expected)


def element_call(data: st.DataObject) -> Call:
    """`Buckets.__call__` and `relative_position_bucket`."""
    index = data.draw(st.integers(0, len(SCHEMES) - 1))
    positions = data.draw(strategies.integer_dtypes.flatmap(strategies.positions))
    dtype = data.draw(strategies.integer_dtypes)
    out = draw_out(data, positions.shape, dtype)
    arguments = {"relative_position": positions, "dtype": dtype, "out": out}
    function: Callable[..., Any] = BUCKETS[index]
    if data.draw(st.booleans()):
        arguments |= draw_threads(data)
    else:
        num_buckets, max_distance, bidirectional = SCHEMES[index]
        scheme = {"num_buckets": num_buckets, "max_distance": max_distance}
        function = tb.relative_position_bucket
        arguments |= {**scheme, "bidirectional": bidirectional}

    def expected(taken: dict[str, Any]) -> Any:
        scheme = [taken.get(name) for name in ("num_buckets", "max_distance", "bidirectional")]
        known: Any = SCHEMES[index] if scheme[0] is None else scheme
        numbers = (operator.index(known[0]), operator.index(known[1]), bool(known[2]))
        return buckets_of(taken["relative_position"], numbers)

    return Call(function, arguments, expected)


def grid_call(data: st.DataObject) -> Call:
    """`Buckets.grid` and `grid_at`."""
    index = data.draw(st.integers(0, len(SCHEMES) - 1))
    is_at = data.draw(st.booleans())
    arguments = draw_pairs(data) if is_at else draw_grid(data)
    dtype = data.draw(strategies.integer_dtypes)
    out = draw_out(data, lengths_of(arguments), dtype)
    arguments |= {"dtype": dtype, "out": out} | draw_threads(data)
    relative = pairs_of if is_at else grid_of
    return Call(
        BUCKETS[index].grid_at if is_at else BUCKETS[index].grid,
        arguments,
        lambda taken: buckets_of(relative(taken), SCHEMES[index]),
    )


def matrix_call(data: st.DataObject) -> Call:
    """`matrix` and `matrix_at`."""
    bias = data.draw(st.sampled_from(BIASES))
    is_at = data.draw(st.booleans())
    arguments = draw_pairs(data) if is_at else draw_grid(data)
    shape = (2, *lengths_of(arguments))
    arguments |= data.draw(strategies.draw_masks(shape)) | draw_threads(data)
    batches: list[Any] = [np.asarray(arguments.get("mask")).shape[:-3]]
    batches += [np.shape(arguments[n])[:-1] for n in MASKS[2:] if arguments.get(n) is not None]
    out = draw_out(data, (*np.broadcast_shapes(*batches), *shape), bias.dtype)
    held = None if out is None else out.copy()
    arguments |= {"out": out, "accumulate": out is not None and data.draw(st.booleans())}
    relative = pairs_of if is_at else grid_of
    return Call(
        bias.matrix_at if is_at else bias.matrix,
        arguments,
        lambda taken: matrix_of(bias, taken, relative(taken), held),
    )


def view_call(data: st.DataObject) -> Call:
    """`view` and `compute_bias`."""
    bias = data.draw(st.sampled_from(BIASES))
    arguments = draw_grid(data)
    if data.draw(st.booleans()):
        return Call(bias.view, arguments, lambda a: matrix_of(bias, {}, grid_of(a), None))
    del arguments["key_offset"]
    out = draw_out(data, (2, *lengths_of(arguments)), bias.dtype)
    arguments |= {"weight": bias.weight, "bidirectional": True, "max_distance": 20, "out": out}

    def expected(taken: dict[str, Any]) -> Any:
        weight, relative = np.asarray(taken["weight"]), grid_of(taken)
        scheme = (len(weight), operator.index(taken["max_distance"]), bool(taken["bidirectional"]))
        return reference.gather(weight, buckets_of(relative, scheme))

    return Call(tb.compute_bias, arguments, expected)


def scores_call(data: st.DataObject) -> Call:
    """`add_to`."""
    bias = data.draw(st.sampled_from(BIASES))
    batch = data.draw(st.sampled_from([(), (2,), (2, 3)]))
    shape = (*batch, 2, data.draw(small), data.draw(small))
    layout = data.draw(strategies.layouts)
    held = np.random.default_rng(3).standard_normal(shape).astype(bias.dtype)
    scores = strategies.relayout(held, "contiguous" if layout == "byte-swapped" else layout)
    offsets = {"query_offset": data.draw(near), "key_offset": data.draw(near)}
    before = scores.copy()

    def expected(taken: dict[str, Any]) -> Any:
        lengths = dict(zip(("query_length", "key_length"), shape[-2:], strict=True))
        return matrix_of(bias, {"accumulate": True}, grid_of(lengths | taken), before)

    return Call(bias.add_to, {"scores": scores, **offsets, **draw_threads(data)}, expected)


def gradient_call(data: st.DataObject) -> Call:
    """`weight_gradient` and `weight_gradient_at`."""
    bias = data.draw(st.sampled_from(BIASES))
    is_at = data.draw(st.booleans())
    arguments = draw_pairs(data) if is_at else draw_grid(data)
    shape = (2, *lengths_of(arguments))
    masks = data.draw(strategies.draw_masks(shape))
    masks.pop("masked_value", None)
    batch = bias.matrix(*shape[1:], **masks).shape[:-3]
    gradient = np.random.default_rng(4).standard_normal((*batch, *shape)).astype(bias.dtype)
    arguments |= {"gradient": gradient, **masks, **draw_threads(data)}
    lengths = {name: arguments.pop(name) for name in ("query_length", "key_length") if not is_at}

    def expected(taken: dict[str, Any]) -> Any:
        relative = pairs_of(taken) if is_at else grid_of(lengths | taken)
        options = {name: taken[name] for name in MASKS if taken.get(name) is not None}
        sums = reference.weight_gradient(
            np.asarray(taken["gradient"]), reference.t5(*SCHEMES[0]), relative, **options
        )
        scale = taken.get("scale")
        return reference.rounded(sums, None if scale is None else float(scale), bias.dtype)

    return Call(bias.weight_gradient_at if is_at else bias.weight_gradient, arguments, expected)


def attention_call(data: st.DataObject) -> Call:
    """`attend` and `attend_at`."""
    bias = data.draw(st.sampled_from(BIASES))
    is_at = data.draw(st.booleans())
    arguments = draw_pairs(data) if is_at else draw_grid(data)
    shape = (2, *lengths_of(arguments))
    masks = data.draw(strategies.draw_masks(shape))
    masks.pop("masked_value", None)
    vectors = test_attending.draw_inputs(bias.dtype, *shape[1:], size=4)
    names = ("query", "key", "value")
    arguments |= dict(zip(names, (array[:2] for array in vectors), strict=True))
    arguments |= masks | draw_threads(data)
    for name in ("query_length", "key_length"):
        arguments.pop(name, None)

    def expected(taken: dict[str, Any]) -> Any:
        query, key, value = (np.asarray(taken[name]) for name in names)
        lengths = {"query_length": query.shape[-2], "key_length": key.shape[-2]}
        relative = pairs_of(taken) if is_at else grid_of(lengths | taken)
        matrix = matrix_of(bias, taken | {"scale": None}, relative, None)
        return test_attending.attend(query, key, value, matrix, float(taken.get("scale", 1)))

    return Call(bias.attend_at if is_at else bias.attend, arguments, expected)


CALLS = [
    scheme_call,
    element_call,
    grid_call,
    matrix_call,
    view_call,
    scores_call,
    gradient_call,
    attention_call,
]


# ---- the test ----


def check(condition: bool, claim: str) -> None:
    """Fail with a claim."""
    if not condition:
        raise AssertionError(claim)


def items_of(value: Any) -> bytes:
    """Bytes of an array that a call could write; empty for a large array, or anything else."""
    if not isinstance(value, np.ndarray) or value.size > MAX_COMPARED:
        return b""
    return value.tobytes()


def compare(call: Call, found: Any) -> None:
    """Compare a result, unless it is large."""
    if np.size(found) > MAX_COMPARED:
        return
    expected = np.asarray(call.expected(call.arguments))
    array = np.asarray(found)
    assert array.shape == expected.shape, (array.shape, expected.shape)
    name = getattr(call.function, "__name__", "")
    if name.startswith(("weight_gradient", "attend")):
        if np.isfinite(expected.astype(np.float64)).all():
            is_gradient = name.startswith("weight_gradient")
            (reference.assert_close if is_gradient else test_attending.assert_near)(array, expected)
    else:
        with np.errstate(all="ignore"):
            same = (array == expected) | ((array != array) & (expected != expected))
        assert same.all()


def check_refusal(error: Exception) -> None:
    """Check that an error has a documented type and says what is required."""
    check(type(error) in ERRORS, repr(type(error)))
    check(MESSAGE.fullmatch(str(error)) is not None, str(error))


@given(st.data())
def refuses_or_is_right(data: st.DataObject) -> None:
    """Hostile arguments are refused before anything is written, or give the right result."""
    call = data.draw(st.sampled_from(CALLS))(data)
    for _ in range(data.draw(st.integers(0, 2))):
        name = data.draw(st.sampled_from(sorted(call.arguments)))
        if name == "num_buckets":  # time and memory grow with this argument, as documented
            value = data.draw(hostile.filter(lambda v: not isinstance(v, int) or v in range(99)))
        else:
            value = data.draw(hostile)
        call.arguments[name] = value
    written = [call.arguments.get(name) for name in ("out", "scores")]
    before = [items_of(value) for value in written]
    try:
        found = call.function(**call.arguments)
    except ERRORS as error:
        check_refusal(error)
        check([items_of(value) for value in written] == before, "written before an error")
        return
    compare(call, found)


def property_tests() -> list[Any]:
    """Property tests of the package whose only arguments are drawn by Hypothesis."""
    tests = []
    for name in MODULES:
        for test in vars(importlib.import_module(name)).values():
            is_property = getattr(test, "is_hypothesis_test", False)
            if is_property and not inspect.signature(test).parameters:
                tests.append(test)
    return tests


FREELY = settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
TESTS = [FREELY(test).hypothesis.fuzz_one_input for test in property_tests()]
HOSTILE: Any = FREELY(refuses_or_is_right)


def run(data: bytes) -> None:
    """Run one test on an input; half of the inputs go to hostile arguments."""
    if not data:
        return
    test, is_hostile = divmod(data[0], 2)
    one = HOSTILE.hypothesis.fuzz_one_input if is_hostile else TESTS[test % len(TESTS)]
    one(data[5:] + random.Random(data[1:5]).randbytes(MAX_DRAWN_NBYTES))


if __name__ == "__main__":
    seeds = [
        bytes([number, seed, 0, 0, 0]) for number in range(2 * len(TESTS)) for seed in range(8)
    ]
    target.main(run, seeds, __doc__)
