# test_explicit_sharding.py - arrays of JAX whose sharding is a part of their type.
# SPDX-License-Identifier: BSD-3-Clause
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import reference

import t5bucket as tb

jax: Any = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

from t5bucket import jax as tb_jax  # noqa: E402

bucket: Any = tb_jax.bucket
compute_bias: Any = tb_jax.compute_bias
spec_of: Any = jax.sharding.PartitionSpec

BUCKETS = tb.Buckets(32, 128)
SCHEMES = [
    BUCKETS,
    tb.Buckets(8, 2**30),  # too far for a table
    tb.Buckets.from_ranges([(1, None, None)], max_distance=5, num_buckets=2),
]

pytestmark = pytest.mark.skipif(not hasattr(jax, "set_mesh"), reason="this JAX has none")


@pytest.fixture
def mesh() -> Iterator[Any]:
    """Let arrays of JAX have a sharding as a part of their type."""
    mesh = jax.make_mesh((1, 1), ("a", "b"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        yield mesh


@pytest.mark.parametrize("buckets", SCHEMES, ids=repr)
def test_buckets_have_the_explicit_sharding_of_the_positions(buckets: Any, mesh: Any) -> None:
    sharding = jax.sharding.NamedSharding(mesh, spec_of("b", "a"))
    positions = jax.device_put(np.arange(-32, 32, dtype=np.int32).reshape(8, 8), sharding)
    for number in (bucket, jax.jit(bucket, static_argnames="buckets")):
        found = number(positions, buckets=buckets)
        assert jax.typeof(found).sharding.spec == sharding.spec
        assert np.array_equal(found, buckets(np.asarray(positions)))


@pytest.mark.parametrize("heads_first", [False, True])
@pytest.mark.parametrize("spec", [("a", None), (None, "b"), ("a", "b")])
def test_the_bias_has_the_explicit_sharding_of_the_heads(
    spec: Any, heads_first: bool, mesh: Any
) -> None:
    weight = reference.normal_weight(32, 4, np.float32)
    weight = weight.T if heads_first else weight
    options, heads = {"heads_first": heads_first}, spec[0 if heads_first else 1]
    bias = tb.RelativeAttentionBias(weight, BUCKETS, **options)
    sharding = jax.sharding.NamedSharding(mesh, spec_of(*spec))
    sharded = jax.device_put(weight, sharding)
    for past in (0, jnp.int32(3)):
        found = compute_bias(sharded, 20, 30, query_offset=past, buckets=BUCKETS, **options)
        expected = bias.matrix(20, 30, query_offset=int(past))
        assert jax.typeof(found).sharding.spec == spec_of(heads, None, None)
        assert np.array_equal(found, expected)
    total = jax.jit(jax.grad(lambda w: compute_bias(w, 20, 30, buckets=BUCKETS, **options).sum()))
    assert jax.typeof(total(sharded)).sharding.spec == sharding.spec
    assert np.array_equal(total(sharded), total(weight))
