# test_array_likes.py - array arguments: tensors and other array-likes are read, or raise an error.
# SPDX-License-Identifier: BSD-3-Clause
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference

import t5bucket as tb

BUCKETS = tb.Buckets(8, 9)
NUM_HEADS, Q, K = 2, 3, 4
WEIGHT = reference.normal_weight(8, NUM_HEADS, np.float32)
BIAS = tb.RelativeAttentionBias(WEIGHT, BUCKETS)
VALUES: dict[str, np.ndarray[Any, Any]] = {
    "weight": WEIGHT,
    "relative_position": np.arange(-6, 6, dtype=np.int32),
    "query_positions": np.array([4, -9, 2]),
    "key_positions": np.arange(K),
    "mask": np.linspace(-1, 1, K, dtype=np.float32),
    "segment_ids": np.array([1, 1, 2]),
    "key_segment_ids": np.array([1, 2, 2, 1]),
    "gradient": np.linspace(0, 1, NUM_HEADS * Q * K, dtype=np.float32).reshape(NUM_HEADS, Q, K),
}
RANDOM = np.random.default_rng(0)
for name, length in (("query", Q), ("key", K), ("value", K)):
    VALUES[name] = RANDOM.standard_normal((NUM_HEADS, length, 5), np.float32)
QUERY, SEGMENTS = VALUES["query_positions"], VALUES["segment_ids"]


def attend(**given: Any) -> Any:
    """Attend with the values, and those that are given."""
    own = {name: VALUES[name] for name in ("query", "key", "value")}
    return BIAS.attend(**(own | given))


def attend_at(**given: Any) -> Any:
    own = {name: VALUES[name] for name in ("query", "key", "value")}
    at = {name: VALUES[name] for name in ("query_positions", "key_positions")}
    return BIAS.attend_at(**(own | at | given))


# For each public function, each of its array arguments.
FUNCTIONS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "weight": {
        "RelativeAttentionBias": lambda x: tb.RelativeAttentionBias(x, BUCKETS).matrix(Q, K),
        "compute_bias": lambda x: tb.compute_bias(x, Q, K, max_distance=9),
    },
    "relative_position": {
        "call": BUCKETS,
        "relative_position_bucket": tb.relative_position_bucket,
    },
    "query_positions": {
        "grid_at": BUCKETS.grid_at,
        "matrix_at": BIAS.matrix_at,
        "attend_at": lambda x: attend_at(query_positions=x),
        "weight_gradient_at": lambda x: BIAS.weight_gradient_at(VALUES["gradient"][..., :Q], x),
    },
    "key_positions": {
        "grid_at": lambda x: BUCKETS.grid_at(QUERY, x),
        "matrix_at": lambda x: BIAS.matrix_at(QUERY, x),
        "attend_at": lambda x: attend_at(key_positions=x),
        "weight_gradient_at": lambda x: BIAS.weight_gradient_at(VALUES["gradient"], QUERY, x),
    },
    "mask": {
        "matrix": lambda x: BIAS.matrix(Q, K, mask=x),
        "matrix_at": lambda x: BIAS.matrix_at(QUERY, range(K), mask=x),
        "attend": lambda x: attend(mask=x),
        "attend_at": lambda x: attend_at(mask=x),
        "weight_gradient": lambda x: BIAS.weight_gradient(VALUES["gradient"], mask=x),
        "weight_gradient_at": lambda x: BIAS.weight_gradient_at(
            VALUES["gradient"], QUERY, range(K), mask=x
        ),
    },
    "segment_ids": {
        "matrix": lambda x: BIAS.matrix(Q, Q, segment_ids=x),
        "matrix_at": lambda x: BIAS.matrix_at(QUERY, segment_ids=x),
        "attend": lambda x: attend(segment_ids=x, key_segment_ids=VALUES["key_segment_ids"]),
        "weight_gradient": lambda x: BIAS.weight_gradient(
            VALUES["gradient"][..., :Q], segment_ids=x
        ),
    },
    "key_segment_ids": {
        "matrix": lambda x: BIAS.matrix(Q, K, segment_ids=SEGMENTS, key_segment_ids=x),
        "attend": lambda x: attend(segment_ids=SEGMENTS, key_segment_ids=x),
        "weight_gradient": lambda x: BIAS.weight_gradient(
            VALUES["gradient"], segment_ids=SEGMENTS, key_segment_ids=x
        ),
    },
    "gradient": {
        "weight_gradient": BIAS.weight_gradient,
        "weight_gradient_at": lambda x: BIAS.weight_gradient_at(x, QUERY, range(K)),
    },
    "query": {"attend": lambda x: attend(query=x), "attend_at": lambda x: attend_at(query=x)},
    "key": {"attend": lambda x: attend(key=x)},
    "value": {"attend": lambda x: attend(value=x)},
}
CASES = [(name, function) for name, functions in FUNCTIONS.items() for function in functions]


class Converted:
    """An object that can only be converted to an array."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.array


def tensor(array: Any, **options: Any) -> Any:
    return pytest.importorskip("torch").tensor(array, **options)


def parameter(array: Any) -> Any:
    torch = pytest.importorskip("torch")
    made = torch.tensor(array)
    return torch.nn.Parameter(made, requires_grad=made.is_floating_point())


def computed(array: Any) -> Any:
    """Make a tensor that an operator computed, and that will get a gradient."""
    made = parameter(array)
    return made * 1


def series(array: Any, dtype: str | None = None) -> Any:
    pandas = pytest.importorskip("pandas")
    if array.ndim == 1:
        return pandas.Series(array, dtype=dtype)
    return pandas.DataFrame(array)


FORMS: dict[str, Callable[[Any], Any]] = {
    "list": lambda array: array.tolist(),
    "memoryview": lambda array: np.ascontiguousarray(array).data,
    "conversion": Converted,
    "tensor": tensor,
    "parameter": parameter,
    "computed tensor": computed,
    "tensor of another layout": lambda array: (
        tensor(array.T).T if array.ndim == 2 else tensor(array)
    ),
    "jax": lambda array: pytest.importorskip("jax.numpy").asarray(array),
    "pandas": series,
    "nullable pandas": lambda array: series(
        array, "Int64" if array.dtype.kind == "i" else "Float32"
    ),
}


def can_hold(form: str, name: str) -> bool:
    if form == "list":  # its floats are float64
        return VALUES[name].dtype.kind == "i" or name == "mask"
    return "pandas" not in form or VALUES[name].ndim < 3


READABLE = [(*case, form) for case in CASES for form in FORMS if can_hold(form, case[0])]


@pytest.mark.parametrize(("name", "function", "form"), READABLE)
def test_array_likes_are_read_like_arrays(name: str, function: str, form: str) -> None:
    call, array = FUNCTIONS[name][function], VALUES[name]
    expected = call(array)
    found = call(FORMS[form](array))
    assert found.dtype == expected.dtype
    assert np.array_equal(reference.bits(found), reference.bits(expected))


@pytest.mark.parametrize("source", ["torch", "jax"])
@pytest.mark.parametrize("name", ["weight", "gradient", "mask"])
def test_bfloat16_of_other_libraries_is_read(name: str, source: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = VALUES[name].astype(ml_dtypes.bfloat16)
    if source == "torch":
        torch = pytest.importorskip("torch")
        given = torch.tensor(VALUES[name]).bfloat16().requires_grad_()
    else:
        given = pytest.importorskip("jax.numpy").asarray(array)
    bias = tb.RelativeAttentionBias(WEIGHT.astype(ml_dtypes.bfloat16), BUCKETS)
    calls: dict[str, Callable[[Any], Any]] = {
        "weight": lambda x: tb.RelativeAttentionBias(x, BUCKETS).matrix(Q, K),
        "gradient": bias.weight_gradient,
        "mask": lambda x: bias.matrix(Q, K, mask=x),
    }
    assert np.array_equal(reference.bits(calls[name](given)), reference.bits(calls[name](array)))


def test_boolean_masks_of_other_libraries_are_read() -> None:
    keep = VALUES["mask"] > 0
    expected = BIAS.matrix(Q, K, mask=keep)
    for make in (tensor, FORMS["jax"], series):
        assert np.array_equal(BIAS.matrix(Q, K, mask=make(keep)), expected)


# ---- values that cannot be read ----


class Refusing:
    """Raises a given error when it is converted."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise self.error


def sparse(array: Any) -> Any:
    return pytest.importorskip("torch").eye(4).to_sparse()


def nested(array: Any) -> Any:
    torch = pytest.importorskip("torch")
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


def on_meta(array: Any) -> Any:
    return pytest.importorskip("torch").empty(array.shape, device="meta")


def float8(array: Any) -> Any:
    torch = pytest.importorskip("torch")
    return torch.zeros(array.shape).to(torch.float8_e4m3fn)


def fake(array: Any) -> Any:
    subclasses = pytest.importorskip("torch._subclasses.fake_tensor")
    with subclasses.FakeTensorMode():
        return tensor(array)


def deleted(array: Any) -> Any:
    made = pytest.importorskip("jax.numpy").asarray(array)
    made.delete()
    return made


UNREADABLE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "KeyError": (lambda array: Refusing(KeyError("lost")), "an array, got Refusing ('lost')"),
    "OSError": (lambda array: Refusing(OSError("gone")), "an array, got Refusing (gone)"),
    "ValueError": (lambda array: Refusing(ValueError("odd")), "an array, got <"),
    "no array": (lambda array: Converted(3), "an array, got <"),
    "ragged list": (lambda array: [[1], [1, 2]], ", got [[1], [1, 2]]"),
    "meta": (on_meta, "on the CPU, got device meta"),
    "sparse": (sparse, "a tensor whose items are in memory, got one of layout sparse_coo"),
    "nested": (nested, "a tensor whose items are in memory, got a nested one"),
    "fake": (fake, "a tensor whose items are in memory, got a FakeTensor"),
    "deleted": (deleted, "an array, got ArrayImpl (Array has been deleted"),
    "text": (lambda array: "text", ""),
    "None": (lambda array: object(), ""),
    "float8": (float8, ""),
}


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested:UserWarning")
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor:UserWarning")
@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize(("name", "function"), CASES)
def test_errors_name_the_argument(name: str, function: str, kind: str) -> None:
    make, message = UNREADABLE[kind]
    given = make(VALUES[name])
    with pytest.raises(
        (TypeError, ValueError), match=re.escape(f"{name} must ") + ".*" + re.escape(message)
    ):
        FUNCTIONS[name][function](given)


def test_running_out_of_memory_is_not_taken_for_a_wrong_type() -> None:
    with pytest.raises(MemoryError):
        BUCKETS(Refusing(MemoryError()))


def test_a_tensor_in_a_transform_is_refused_by_name() -> None:
    torch = pytest.importorskip("torch")
    for transform in (torch.vmap, torch.func.grad):
        with pytest.raises(TypeError, match="weight must be a tensor whose items are in memory"):
            transform(lambda w: tb.RelativeAttentionBias(w, BUCKETS))(torch.zeros(3, 8, 2))


def test_a_value_that_jax_traces_is_refused_by_name() -> None:
    jax = pytest.importorskip("jax")
    with pytest.raises(TypeError, match=r"weight must be an array, got \w*Tracer"):
        jax.jit(lambda w: tb.RelativeAttentionBias(w, BUCKETS))(WEIGHT)


def test_missing_values_of_pandas_are_refused() -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match="relative_position must be integers, got"):
        BUCKETS(pandas.Series([1, None], dtype="Int64"))


# ---- outputs ----

OUT: dict[str, Callable[[Any], Any]] = {
    "call": lambda out: BUCKETS([1, 2], out=out),
    "relative_position_bucket": lambda out: tb.relative_position_bucket([1, 2], out=out),
    "grid": lambda out: BUCKETS.grid(2, 2, out=out),
    "grid_at": lambda out: BUCKETS.grid_at([1, 2], out=out),
    "matrix": lambda out: BIAS.matrix(2, 2, out=out),
    "matrix_at": lambda out: BIAS.matrix_at([1, 2], out=out),
    "compute_bias": lambda out: tb.compute_bias(WEIGHT, 2, 2, max_distance=9, out=out),
    "attend": lambda out: attend(out=out),
    "attend_at": lambda out: attend_at(out=out),
    "add_to": BIAS.add_to,
}


@pytest.mark.parametrize("form", ["list", "memoryview", "tensor", "parameter", "jax", "pandas"])
@pytest.mark.parametrize("function", OUT)
def test_outputs_must_be_numpy_arrays(function: str, form: str) -> None:
    name = "scores" if function == "add_to" else "out"
    given = FORMS[form](np.zeros((2, 2), np.float32))
    message = f"{name} must be a NumPy array, got {type(given).__name__}"
    with pytest.raises(TypeError, match=re.escape(message)):
        OUT[function](given)


INTEGERS = [np.dtype(code) for code in "bBhHiIqQ"] + [np.dtype(">i2"), np.dtype(">u8")]
SHAPES = {"call": (2,), "relative_position_bucket": (2,), "grid": (2, 2), "grid_at": (2, 2)}


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("function", SHAPES)
def test_out_decides_the_dtype_where_it_is_not_given(function: str, dtype: Any) -> None:
    out = np.full(SHAPES[function], 99).astype(dtype)
    assert OUT[function](out) is out
    expected = OUT[function](None)
    assert expected.dtype == np.int64
    assert np.array_equal(out, expected)


def test_out_has_to_agree_with_a_dtype_that_is_given() -> None:
    out = np.zeros((2, 2), np.uint8)
    for call in (
        lambda: BUCKETS.grid(2, 2, dtype=np.int64, out=out),
        lambda: BUCKETS.grid_at([1, 2], dtype=np.int64, out=out),
        lambda: BUCKETS([1, 2], dtype=np.int64, out=out[0]),
        lambda: tb.relative_position_bucket([1, 2], dtype=np.int64, out=out[0]),
    ):
        with pytest.raises(TypeError, match="out must have dtype int64, got uint8"):
            call()


@pytest.mark.parametrize("function", SHAPES)
def test_out_of_no_integers_is_refused(function: str) -> None:
    with pytest.raises(TypeError, match="out must have an integer dtype, got float32"):
        OUT[function](np.zeros(SHAPES[function], np.float32))


def test_out_has_to_hold_all_buckets() -> None:
    many = tb.Buckets(400, 800)
    calls: list[Callable[[Any], Any]] = [
        lambda out: many.grid(2, 2, out=out),
        lambda out: many.grid_at([1, 2], out=out),
        lambda out: many([1, 2], out=out[0]),
        lambda out: tb.relative_position_bucket([1, 2], True, 400, 800, out=out[0]),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="out must have a dtype that holds 399, got uint8"):
            call(np.zeros((2, 2), np.uint8))


@pytest.mark.parametrize("name", ["scale", "masked_value"])
def test_scalars_of_other_libraries_are_read(name: str) -> None:
    def matrix(number: Any) -> Any:
        options: dict[str, Any] = {name: number}
        return BIAS.matrix(Q, K, causal=True, **options)

    for make in (tensor, parameter, FORMS["jax"]):
        assert np.array_equal(matrix(make(np.float32(0.5))), matrix(0.5))
