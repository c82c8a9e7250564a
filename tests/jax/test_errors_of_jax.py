# test_errors_of_jax.py - bad input to t5bucket.jax, before and while JAX traces.
# SPDX-License-Identifier: BSD-3-Clause
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import t5bucket as tb

jax: Any = pytest.importorskip("jax")
jnp: Any = pytest.importorskip("jax.numpy")
from t5bucket import jax as tb_jax  # noqa: E402

bucket: Any = tb_jax.bucket
compute_bias: Any = tb_jax.compute_bias

BUCKETS = tb.Buckets(32, 128)
ZEROS = np.zeros((32, 4), np.float32)
MANY = tb.Buckets.from_ranges([(0, None, None)], max_distance=1, num_buckets=2**31 + 1)


def call(**changed: Any) -> Any:
    arguments = {"weight": ZEROS, "query_length": 3, "key_length": 3, "buckets": BUCKETS}
    arguments.update(changed)
    return compute_bias(**arguments)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"weight": np.zeros((32, 4), np.int32)}, TypeError, "weight must be float16, bfloat16, "),
    ({"weight": jnp.zeros((32, 4), bool)}, TypeError, "weight must be float16, bfloat16, "),
    ({"weight": jax.random.key(0)}, TypeError, "weight must be float16, bfloat16, "),
    ({"weight": jax.ShapeDtypeStruct((32, 4), "float32")}, TypeError, "weight must be "),
    ({"weight": None}, TypeError, "weight must be "),
    ({"weight": [[0.0], [0.0, 1.0]]}, ValueError, "weight must have two axes, got [["),
    ({"weight": jnp.zeros(32)}, ValueError, "weight must have two axes, buckets and heads, got "),
    ({"weight": jnp.zeros((32, 0))}, ValueError, "weight must not be empty, got shape (32, 0)"),
    (
        {"weight": jnp.zeros((4, 32))},
        ValueError,
        "weight must have one row for each of the 32 buckets, got 4 rows",
    ),
    (
        {"weight": jnp.zeros((32, 4)), "heads_first": True},
        ValueError,
        "weight must have one column for each of the 32 buckets, got 4 columns",
    ),
    ({"heads_first": 1}, TypeError, "heads_first must be True or False, got 1"),
    ({"buckets": 32}, TypeError, "buckets must be a Buckets, got int"),
    ({"buckets": MANY}, ValueError, "buckets must have at most 2147483648 buckets, got 2147483649"),
    ({"query_length": -1}, ValueError, "query_length must be at least 0, got -1"),
    ({"key_length": 2.0}, TypeError, "key_length must be an integer, got 2.0"),
    ({"key_length": True}, TypeError, "key_length must be an integer, got True"),
    ({"query_offset": 0.5}, TypeError, "query_offset must be an integer, got 0.5"),
    (
        {"query_offset": jnp.zeros(())},
        TypeError,
        "query_offset must be integers, got dtype float32",
    ),
    ({"key_offset": jnp.zeros(2, int)}, ValueError, "key_offset must be a scalar, got shape (2,)"),
    ({"key_offset": 2**63}, ValueError, "key_offset must be at most 9223372036854775807, got "),
    (
        {"key_offset": 2**40, "query_offset": jnp.int32(0)},
        ValueError,
        "key_offset must be at most 2147483647, got 1099511627776",
    ),
    (
        {"query_offset": jnp.uint32(0)},
        TypeError,
        "query_offset must have a dtype that int32 can hold, got uint32",
    ),
]


@pytest.mark.parametrize(("changed", "error", "message"), BAD)
def test_an_error_names_the_argument(
    changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call(**changed)
    with pytest.raises(error, match=re.escape(message)):
        jax.jit(lambda: call(**changed))()


TRACED: list[tuple[str, Any, type[Exception], str]] = [
    ("query_length", 3, TypeError, "query_length must be static, got "),
    ("key_length", 3, TypeError, "key_length must be static, got "),
    ("query_offset", 0.5, TypeError, "query_offset must be integers, got dtype float32"),
    ("query_offset", True, TypeError, "query_offset must be integers, got dtype bool"),
    ("key_offset", np.zeros(3, int), ValueError, "key_offset must be a scalar, got shape (3,)"),
    ("weight", np.zeros((31, 4)), ValueError, "each of the 32 buckets, got 31 rows: buckets 0 to "),
    ("weight", np.zeros((32, 4), int), TypeError, "weight must be float16, bfloat16, "),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), TRACED)
def test_an_error_of_a_traced_argument_comes_before_jaxs(
    name: str, value: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        jax.jit(lambda value: call(**{name: value}))(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.5, "relative_position must be integers, got dtype float64"),
        (True, "relative_position must be integers, got dtype bool"),
        (jnp.ones(3), "relative_position must be integers, got dtype float32"),
        (jnp.ones(3, bool), "relative_position must be integers, got dtype bool"),
        ("text", "relative_position must be integers, got dtype"),
    ],
)
def test_positions_must_be_integers(value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        bucket(value, buckets=BUCKETS)


def test_schemes_are_checked_for_positions_too() -> None:
    with pytest.raises(TypeError, match="buckets must be a Buckets, got NoneType"):
        bucket(jnp.arange(3), buckets=None)
    with pytest.raises(ValueError, match="buckets must have at most 2147483648 buckets, got"):
        bucket(jnp.arange(3), buckets=MANY)


def test_objects_that_jax_accepts_as_arrays_are_accepted() -> None:
    class Parameter(SimpleNamespace):
        def __jax_array__(self) -> Any:
            return self.value

    weight = Parameter(value=jnp.ones((32, 4)))
    past = Parameter(value=jnp.int32(2))
    assert call(weight=weight, query_offset=past).shape == (4, 3, 3)
    assert bucket(past, buckets=BUCKETS) == BUCKETS(2)


def test_arrays_of_64_bits_need_the_setting_that_made_them() -> None:
    with jax.enable_x64(True):
        weight, position = jnp.ones((32, 4), jnp.float64), jnp.arange(3)
    with pytest.raises(TypeError, match="weight must have dtype float32 unless jax_enable_x64 is"):
        call(weight=weight)
    with pytest.raises(TypeError, match="relative_position must have dtype int32 unless"):
        bucket(position, buckets=BUCKETS)
    with pytest.raises(TypeError, match="query_offset must have dtype int32 unless"):
        call(query_offset=position[0])
