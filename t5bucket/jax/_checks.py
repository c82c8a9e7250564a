# _checks.py - check arguments that may be JAX arrays, known or traced.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5bucket import _checks
from t5bucket._buckets import Buckets

MAX_BUCKETS = 1 << 31  # bucket numbers are int32


def scheme(buckets: Any) -> None:
    """Check a scheme, whose bucket numbers must fit in int32."""
    if not isinstance(buckets, Buckets):
        raise TypeError(f"buckets must be a Buckets, got {type(buckets).__name__}")
    if buckets.num_buckets > MAX_BUCKETS:
        raise ValueError(
            f"buckets must have at most {MAX_BUCKETS} buckets, got {buckets.num_buckets}"
        )


def positions(value: Any) -> Any:
    """Check relative positions; unless they are a JAX array, they may always have 64 bits."""
    value = _unwrap(value)
    if not isinstance(value, jax.Array):
        return _checks.integers("relative_position", value)
    _integer_dtype("relative_position", value)
    return value


def weight(value: Any, heads_first: Any, num_buckets: int) -> tuple[jax.Array, bool]:
    """Check weights and their layout."""
    heads_first = _checks.flag("heads_first", heads_first)
    value = _unwrap(value)
    if isinstance(value, jax.Array):
        _checks.weight_form(value)
        _enabled("weight", value)
    else:
        array = _checks.weight(value)
        value = jnp.array(array.astype(array.dtype.newbyteorder("=")))
    _checks.weight_length(value.shape, heads_first, num_buckets)
    return value, heads_first


def length(name: str, value: Any) -> int:
    """Check a length, which must be known when JAX traces."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(f"{name} must be static, got {value}")
    return _checks.integer(name, value, 0)


def offsets(query_offset: Any, key_offset: Any) -> tuple[Any, Any]:
    """Check offsets; return two Python integers, or two arrays if one of them is an array."""
    named = {"query_offset": _unwrap(query_offset), "key_offset": _unwrap(key_offset)}
    if not any(isinstance(value, jax.Array) for value in named.values()):
        query, key = (_checks.integer(name, value) for name, value in named.items())
    else:
        query, key = (_offset_array(name, value) for name, value in named.items())
    return query, key


def _offset_array(name: str, value: Any) -> jax.Array:
    """Check an offset if it or the other offset is an array."""
    dtype = np.dtype(jax.dtypes.canonicalize_dtype(np.int64))  # int32, unless x64 is enabled
    limits = np.iinfo(dtype)
    if not isinstance(value, jax.Array):
        return jnp.asarray(_checks.integer(name, value, limits.min, limits.max), dtype)
    _integer_dtype(name, value)
    if value.shape != ():
        raise ValueError(f"{name} must be a scalar, got shape {value.shape}")
    if not np.can_cast(value.dtype, dtype):
        raise TypeError(f"{name} must have a dtype that {dtype} can hold, got {value.dtype}")
    return value.astype(dtype)


def _integer_dtype(name: str, array: jax.Array) -> None:
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got dtype {array.dtype}")
    _enabled(name, array)


def _enabled(name: str, array: jax.Array) -> None:
    """Check that JAX can compute in an array's dtype: x64 may have been on when it was made."""
    enabled = jax.dtypes.canonicalize_dtype(array.dtype)
    if array.dtype != enabled:
        raise TypeError(
            f"{name} must have dtype {enabled} unless jax_enable_x64 is set, got {array.dtype}"
        )


def _unwrap(value: Any) -> Any:
    """Return the array in an object that JAX's functions accept, such as a Flax parameter."""
    convert = getattr(value, "__jax_array__", None)
    return value if convert is None else convert()
