# test_jax.py - buckets and the bias of JAX: values, offsets, transforms, exported programs.
# SPDX-License-Identifier: BSD-3-Clause
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given
from numpy.typing import NDArray
from strategies import FLOAT_DTYPES, INTEGERS, LAYOUTS, float_dtypes, offsets, relayout, schemes

import t5bucket as tb

jax: Any = pytest.importorskip("jax")
jnp: Any = pytest.importorskip("jax.numpy")
from t5bucket import jax as tb_jax  # noqa: E402

bucket: Any = tb_jax.bucket
compute_bias: Any = tb_jax.compute_bias

BUCKETS = tb.Buckets(32, 128)
FAR = tb.Buckets.from_ranges(
    [(0, None, 2**40), (2, 2**40 + 1, None)], max_distance=2**41, num_buckets=3
)
BEYOND = tb.Buckets.from_ranges(  # int32, which differences of int32 may exceed, too
    [
        (0, None, -(2**32) + 9),
        (1, -(2**32) + 10, -(2**31) - 3),
        (2, -(2**31) - 2, 2**31 - 9),
        (3, 2**31 - 8, 2**31 + 2),
        (4, 2**31 + 3, 2**32 - 20),
        (5, 2**32 - 19, None),
    ],
    max_distance=2**33,
    num_buckets=6,
)
NEVER = tb.Buckets.from_ranges([(1, None, None)], max_distance=5, num_buckets=2)
SCHEMES = [
    BUCKETS,
    tb.Buckets(33, 1024, False),
    tb.Buckets(8, 2**30),  # too far for a table
    tb.Buckets(8, 2**62),
    tb.Buckets.from_function(lambda d: abs(d) % 3, max_distance=10, num_buckets=4),
    FAR,
    BEYOND,
    NEVER,
]
# Blocks of gradients have 8 rows, and steps 32.
LENGTHS = [(1, 1), (1, 9), (9, 1), (31, 5), (32, 32), (33, 40), (100, 70), (0, 3), (3, 0)]


@pytest.fixture
def x64() -> Iterator[None]:
    """Let JAX have types of 64 bits."""
    with jax.enable_x64(True):
        yield


def edges(dtype: Any) -> NDArray[Any]:
    """List positions near zero, near far boundaries and at the ends of a dtype."""
    limits = np.iinfo(dtype)
    around = [0, 64, 2**30, 2**31, 2**40, limits.max, limits.min]
    wanted = {
        sign * edge + step for edge in around for sign in (1, -1) for step in range(-140, 140)
    }
    return np.array(sorted(d for d in wanted if limits.min <= d <= limits.max), dtype)


# ---- buckets ----


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("buckets", SCHEMES, ids=repr)
def test_buckets_are_those_of_numpy_for_the_integers_of_each_dtype(
    dtype: Any, buckets: Any, x64: None
) -> None:
    positions = edges(dtype)
    found = jax.jit(lambda d: bucket(d, buckets=buckets))(positions)
    assert found.dtype == np.int32
    assert np.array_equal(found, buckets(positions))


def test_buckets_are_those_of_numpy_for_every_integer_of_16_bits() -> None:
    positions = np.arange(-(2**15), 2**15).astype(np.int16)
    assert np.array_equal(bucket(jnp.asarray(positions), buckets=BUCKETS), BUCKETS(positions))


@pytest.mark.parametrize("shape", [(), (0,), (2, 3, 0), (2, 3, 4)])
def test_buckets_have_the_shape_of_the_positions(shape: tuple[int, ...]) -> None:
    positions = np.random.default_rng(0).integers(-200, 200, shape, dtype=np.int32)
    for given_positions in (positions, jnp.asarray(positions), positions.tolist()):
        found = bucket(given_positions, buckets=BUCKETS)
        assert isinstance(found, jax.Array)
        assert np.array_equal(found, BUCKETS(positions))


def test_buckets_of_numpys_64_bits_are_exact_though_jax_has_32() -> None:
    positions = edges(np.int64)
    for buckets in SCHEMES:
        assert np.array_equal(bucket(positions, buckets=buckets), buckets(positions))


def test_buckets_can_be_mapped() -> None:
    positions = np.arange(-150, 150, dtype=np.int32).reshape(3, 100)
    found = jax.vmap(lambda d: bucket(d, buckets=BUCKETS), in_axes=1)(positions)
    assert np.array_equal(found, BUCKETS(positions.T))


# ---- the bias ----


def numpy_matrix(weight: NDArray[Any], buckets: Any, *lengths: int, **options: Any) -> NDArray[Any]:
    offsets = {name: options.pop(name) for name in [*options] if name.endswith("offset")}
    return tb.RelativeAttentionBias(weight, buckets, **options).matrix(*lengths, **offsets)


CASES = [
    *((lengths, np.dtype(np.float32), False) for lengths in LENGTHS),
    *(((33, 40), dtype, heads_first) for dtype in FLOAT_DTYPES for heads_first in (False, True)),
]


@pytest.mark.parametrize(("lengths", "dtype", "heads_first"), CASES)
def test_bits_are_those_of_numpys_matrix(
    lengths: tuple[int, int], dtype: Any, heads_first: bool, x64: None
) -> None:
    weight = reference.random_weight(32, 3, dtype)
    weight = np.ascontiguousarray(weight.T) if heads_first else weight
    expected = numpy_matrix(weight, BUCKETS, *lengths, heads_first=heads_first)

    def call(weight: Any) -> Any:
        return compute_bias(weight, *lengths, buckets=BUCKETS, heads_first=heads_first)

    for found in (call(weight), call(jnp.asarray(weight)), jax.jit(call)(weight)):
        assert isinstance(found, jax.Array)
        assert found.dtype == dtype
        assert found.shape == expected.shape
        assert np.array_equal(reference.bits(np.asarray(found)), reference.bits(expected))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_of_numpy_may_have_any_layout(layout: str) -> None:
    weight = relayout(reference.random_weight(32, 3, np.float32), layout)
    found = np.asarray(compute_bias(weight, 5, 6, buckets=BUCKETS))
    assert np.array_equal(
        reference.bits(found), reference.bits(numpy_matrix(weight, BUCKETS, 5, 6))
    )


@given(schemes, float_dtypes, offsets, offsets)
def test_bits_are_those_of_numpys_matrix_for_any_scheme_and_static_offsets(
    buckets: Any, dtype: Any, query_offset: int, key_offset: int
) -> None:
    weight = reference.random_weight(buckets.num_buckets, 2, dtype)
    named = {"query_offset": query_offset, "key_offset": key_offset}
    expected = numpy_matrix(weight, buckets, 20, 30, **named)
    with jax.enable_x64(True):
        found = np.asarray(compute_bias(weight, 20, 30, buckets=buckets, **named))
    assert np.array_equal(reference.bits(found), reference.bits(expected))


ENDS = [0, 5, -5, 60, -60, 2**31 - 1, 2**31 - 20, -(2**31), -(2**31) + 20]


@pytest.mark.parametrize("buckets", SCHEMES, ids=repr)
def test_offsets_may_be_traced(buckets: Any) -> None:
    weight = np.arange(2.0 * buckets.num_buckets, dtype=np.float32).reshape(-1, 2)

    def both(query_offset: Any, key_offset: Any) -> Any:
        named = {"query_offset": query_offset, "key_offset": key_offset}
        return compute_bias(weight, 6, 7, buckets=buckets, **named)

    compiled = jax.jit(both)
    for query_offset in ENDS:
        for key_offset in ENDS:
            named = {"query_offset": query_offset, "key_offset": key_offset}
            expected = numpy_matrix(weight, buckets, 6, 7, **named)
            assert np.array_equal(compiled(query_offset, key_offset), expected), named


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32"])
def test_one_offset_may_be_traced_and_the_other_static(dtype: str) -> None:
    weight = reference.normal_weight(32, 2, np.float32)
    step = jax.jit(lambda past: compute_bias(weight, 1, 30, buckets=BUCKETS, query_offset=past))
    shifted = jax.jit(
        lambda first: compute_bias(
            weight, 4, 30, buckets=BUCKETS, query_offset=-9, key_offset=first
        )
    )
    for past in (0, 3, 100):
        expected = numpy_matrix(weight, BUCKETS, 1, 30, query_offset=past)
        assert np.array_equal(step(np.dtype(dtype).type(past)), expected)
        expected = numpy_matrix(weight, BUCKETS, 4, 30, query_offset=-9, key_offset=past)
        assert np.array_equal(shifted(np.dtype(dtype).type(past)), expected)


@pytest.mark.parametrize("heads_first", [False, True])
def test_a_weight_may_be_a_constant_of_the_program(heads_first: bool) -> None:
    """XLA folds what it can, and has lost the layout of transposed constants."""
    weight = reference.random_weight(32, 3, np.float32)
    weight = np.ascontiguousarray(weight.T) if heads_first else weight
    named = {"buckets": BUCKETS, "heads_first": heads_first}
    expected = numpy_matrix(weight, BUCKETS, 5, 30, heads_first=heads_first)
    for constant in (weight, jnp.asarray(weight)):
        call = jax.jit(lambda past, w=constant: compute_bias(w, 5, 30, query_offset=past, **named))
        assert np.array_equal(reference.bits(np.asarray(call(0))), reference.bits(expected))


def test_decoding_compiles_once_for_all_steps() -> None:
    weight = reference.normal_weight(32, 4, np.float32)
    causal = tb.Buckets(32, 128, bidirectional=False)
    traced = []

    def step(past: Any) -> Any:
        traced.append(past)
        return compute_bias(weight, 1, 200, buckets=causal, query_offset=past)

    compiled = jax.jit(step)
    whole = numpy_matrix(weight, causal, 200, 200)
    for past in range(0, 200, 13):
        assert np.array_equal(compiled(past), whole[:, past : past + 1])
    assert len(traced) == 1


def test_offsets_of_64_bits_are_exact_where_jax_has_them(x64: None) -> None:
    weight = np.arange(6, dtype=np.float32).reshape(3, 2)
    compiled = jax.jit(lambda past: compute_bias(weight, 3, 4, buckets=FAR, key_offset=past))
    for key_offset in (0, 2**40 - 2, 2**40, 2**40 + 3, 2**63 - 1, -(2**63)):
        expected = numpy_matrix(weight, FAR, 3, 4, key_offset=key_offset)
        assert np.array_equal(compiled(key_offset), expected)


# ---- derivatives ----


def gradient_of_numpy(gradient: NDArray[Any], buckets: Any, dtype: Any) -> NDArray[Any]:
    relative = reference.consecutive(*gradient.shape[-2:])
    scheme = reference.Scheme(buckets.num_buckets, buckets.max_distance, lambda d: int(buckets(d)))
    return reference.rounded(reference.weight_gradient(gradient, scheme, relative), None, dtype)


@pytest.mark.parametrize(("lengths", "dtype", "heads_first"), CASES)
def test_gradients_are_sums_by_bucket(
    lengths: tuple[int, int], dtype: Any, heads_first: bool, x64: None
) -> None:
    gradient = np.random.default_rng(0).integers(-8, 9, (3, *lengths)).astype(dtype)
    weight = jnp.zeros((3, 32) if heads_first else (32, 3), dtype)

    def pull_back(gradient: Any) -> Any:
        named = {"buckets": BUCKETS, "heads_first": heads_first}
        return jax.vjp(lambda w: compute_bias(w, *lengths, **named), weight)[1](gradient)[0]

    expected = gradient_of_numpy(gradient, BUCKETS, dtype)
    found = jax.jit(pull_back)(gradient)
    assert found.dtype == dtype
    # Sums of small integers are exact.
    assert np.array_equal(found.T if heads_first else found, expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gradients_of_16_bits_are_summed_in_float32(dtype: str) -> None:
    weight = jnp.zeros((32, 1), dtype)
    found = jax.grad(lambda w: compute_bias(w, 100, 100, buckets=BUCKETS).sum().astype("float32"))(
        weight
    )
    counts = np.bincount(BUCKETS.grid(100, 100).ravel(), minlength=32)
    assert np.array_equal(found[:, 0], counts.astype(weight.dtype))  # each rounded once


def test_gradients_of_random_numbers_are_those_of_numpy() -> None:
    gradient = np.random.default_rng(0).standard_normal((4, 150, 130), np.float32)
    weight = jnp.zeros((32, 4))
    pull_back = jax.vjp(lambda w: compute_bias(w, 150, 130, buckets=BUCKETS), weight)[1]
    expected = tb.RelativeAttentionBias(np.zeros((32, 4), np.float32), BUCKETS)
    np.testing.assert_allclose(
        pull_back(gradient)[0], expected.weight_gradient(gradient), rtol=1e-5, atol=1e-4
    )


def loss(weight: Any, scores: Any, query_offset: Any = 0) -> Any:
    """Return a number that is not linear in the weight."""
    bias = compute_bias(weight, 40, 37, buckets=BUCKETS, query_offset=query_offset)
    return (jax.nn.softmax(scores + bias) ** 2).sum()


def loss_by_gather(weight: Any, scores: Any, query_offset: Any = 0) -> Any:
    """Return the same number by a lookup for each pair."""
    relative = np.arange(37)[None, :] - np.arange(40)[:, None] - query_offset
    numbers = bucket(relative, buckets=BUCKETS)
    return (jax.nn.softmax(scores + jnp.moveaxis(weight[numbers], -1, 0)) ** 2).sum()


Transform = Callable[[Any], Any]
TRANSFORMS: dict[str, Transform] = {
    "grad": jax.grad,
    "jvp": lambda f: lambda w, s: jax.jvp(lambda w: f(w, s), (w,), (jnp.cos(w),))[1],
    "hessian": jax.hessian,
    "mapped over weights": lambda f: (
        lambda w, s: jax.vmap(jax.grad(f), (0, None))(jnp.stack([w, 2 * w]), s)
    ),
    "mapped over offsets": lambda f: (
        lambda w, s: jax.vmap(jax.grad(f), (None, None, 0))(w, s, jnp.arange(-60, 61, 40))
    ),
}
SLOW_TRANSFORMS: dict[str, Transform] = {
    "jacfwd": jax.jacfwd,
    "reverse over reverse": lambda f: jax.jacrev(jax.grad(f)),
    "forward over forward": lambda f: jax.jacfwd(jax.jacfwd(f)),
    "linearize": lambda f: lambda w, s: jax.linearize(lambda w: f(w, s), w)[1](jnp.cos(w)),
    "checkpoint": lambda f: jax.grad(jax.checkpoint(f)),
    "mapped over scores": lambda f: (
        lambda w, s: jax.vmap(jax.grad(f), (None, 0))(w, jnp.stack([s, 2 * s]))
    ),
    "gradient of a map": lambda f: jax.grad(
        lambda w, s: jax.vmap(f, (None, None, 0))(w, s, jnp.arange(3)).sum()
    ),
}


@pytest.mark.parametrize(
    "transform",
    [
        *(pytest.param(transform, id=name) for name, transform in TRANSFORMS.items()),
        *(
            pytest.param(transform, id=name, marks=pytest.mark.slow)
            for name, transform in SLOW_TRANSFORMS.items()
        ),
    ],
)
def test_transforms_are_those_of_a_lookup_for_each_pair(transform: Transform, x64: None) -> None:
    random = np.random.default_rng(0)
    weight, scores = random.standard_normal((32, 2)), random.standard_normal((2, 40, 37))
    found = jax.jit(transform(loss))(weight, scores)
    expected = jax.jit(transform(loss_by_gather))(weight, scores)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_weights_can_be_mapped_with_the_same_bits() -> None:
    weights = reference.random_weight(32, 15, np.float32).reshape(32, 5, 3)
    found = jax.vmap(lambda w: compute_bias(w, 9, 70, buckets=BUCKETS), in_axes=1)(weights)
    for index in range(5):
        expected = numpy_matrix(weights[:, index], BUCKETS, 9, 70)
        assert np.array_equal(reference.bits(np.asarray(found[index])), reference.bits(expected))


# ---- programs ----


def test_no_program_computes_something_for_each_pair_but_the_bias() -> None:
    """A logarithm, a one-hot matrix or a bucket for each pair would be seen here."""
    weight = jnp.zeros((32, 2))
    jaxpr = str(
        jax.make_jaxpr(jax.grad(lambda w: compute_bias(w, 64, 96, buckets=BUCKETS).sum()))(weight)
    )
    text = jax.jit(lambda w: compute_bias(w, 64, 96, buckets=BUCKETS)).lower(weight).as_text()
    for program in (jaxpr, text):
        assert "log" not in program.replace("logical", "")
        assert "32,64,96" not in program
        assert "32x64x96" not in program
        assert "i32[64,96]" not in program
        assert "64x96xi32" not in program


def test_a_program_is_exported_with_the_same_bits() -> None:
    weight = reference.random_weight(32, 3, np.float32)

    def call(weight: Any, past: Any) -> Any:
        return compute_bias(weight, 5, 30, buckets=BUCKETS, query_offset=past)

    export: Any = importlib.import_module("jax.export")
    exported = export.export(jax.jit(call), platforms=["cpu", "cuda", "tpu"])(weight, np.int32(0))
    assert "custom_call" not in exported.mlir_module()
    found = np.asarray(exported.call(weight, np.int32(20)))
    expected = numpy_matrix(weight, BUCKETS, 5, 30, query_offset=20)
    assert np.array_equal(reference.bits(found), reference.bits(expected))
    gradient = jax.grad(lambda w: exported.call(w, np.int32(20)).sum())(jnp.zeros((32, 3)))
    counts = np.bincount(BUCKETS.grid(5, 30, query_offset=20).ravel(), minlength=32)
    assert np.array_equal(gradient[:, 0], counts)
