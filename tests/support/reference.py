# reference.py - buckets by the oracle; biases, masks and gradients by simple, slow NumPy.
# SPDX-License-Identifier: BSD-3-Clause
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import oracle
import pytest
from numpy.typing import NDArray

try:
    import ml_dtypes
except ImportError:  # optional: tests that need it are left out or skipped
    BFLOAT16: Any = None
else:
    BFLOAT16 = ml_dtypes.bfloat16
needs_bfloat16 = pytest.mark.skipif(BFLOAT16 is None, reason="needs ml_dtypes")
MINIMUM = {  # the finite minimum of each type
    "float16": -65504.0,
    "bfloat16": -3.3895313892515355e38,
    "float32": float(np.finfo(np.float32).min),
    "float64": float(np.finfo(np.float64).min),
}


class Scheme(NamedTuple):
    """A rule for one relative position at a time; constant beyond a distance."""

    num_buckets: int
    max_distance: int
    bucket: Callable[[int], int]

    def __call__(self, relative: NDArray[Any]) -> NDArray[np.int64]:
        """Find the bucket of each relative position."""
        distinct, index = np.unique(relative, return_inverse=True)
        far = self.max_distance
        near = [max(-far, min(distance, far)) for distance in distinct.tolist()]
        found = np.array([self.bucket(distance) for distance in near], np.int64)
        return found[index.ravel()].reshape(relative.shape)


@cache
def t5(num_buckets: int = 32, max_distance: int = 128, bidirectional: bool = True) -> Scheme:
    """T5's scheme by the oracle, called once for each distance."""
    bucket = cache(
        partial(
            oracle.bucket,
            num_buckets=num_buckets,
            max_distance=max_distance,
            bidirectional=bidirectional,
        )
    )
    return Scheme(num_buckets, max_distance, bucket)


def bits(array: NDArray[Any]) -> NDArray[Any]:
    """Return items as unsigned integers, so that NaNs compare by their bits."""
    native = array.astype(array.dtype.newbyteorder("="))
    return np.ascontiguousarray(native).view(f"u{array.itemsize}")


def random_weight(num_buckets: int, num_heads: int, dtype: Any, seed: int = 0) -> NDArray[Any]:
    """Make weights of random bits, which include NaNs with payloads, -0.0 and denormals."""
    nbytes = num_buckets * num_heads * np.dtype(dtype).itemsize
    random = np.random.default_rng(seed).integers(0, 256, nbytes, dtype=np.uint8)
    weight: NDArray[Any] = random.view(dtype).reshape(num_buckets, num_heads)
    return weight


def normal_weight(num_buckets: int, num_heads: int, dtype: Any, seed: int = 0) -> NDArray[Any]:
    """Make finite weights, for sums."""
    return np.random.default_rng(seed).standard_normal((num_buckets, num_heads)).astype(dtype)


def gather(weight: NDArray[Any], grid: NDArray[Any]) -> NDArray[Any]:
    """Look up the weights of a grid of buckets: (..., num_heads, q, k)."""
    return np.moveaxis(weight[grid], -1, -3)


def add(left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """Add in the type of both; 16-bit types in float32."""
    dtype = left.dtype
    with np.errstate(all="ignore"):
        if dtype.itemsize == 2:
            total: NDArray[Any] = left.astype(np.float32) + right.astype(np.float32)
            return total.astype(dtype)
        return np.asarray(np.add(left, right))


def visible(
    relative: NDArray[Any],
    causal: bool = False,
    mask: Any = None,
    segment_ids: Any = None,
    key_segment_ids: Any = None,
) -> Any:
    """Find which pairs are not masked; the result broadcasts to (..., heads, q, k)."""
    pairs: Any = np.ones((1, *relative.shape[-2:]), bool)
    if causal:
        pairs = pairs & (relative <= 0)[..., None, :, :]
    if segment_ids is not None:
        query = np.asarray(segment_ids)
        key = query if key_segment_ids is None else np.asarray(key_segment_ids)
        pairs = pairs & (query[..., :, None] == key[..., None, :])[..., None, :, :]
    if mask is not None and np.asarray(mask).dtype == bool:
        pairs = pairs & mask
    return pairs


def matrix(
    weight: NDArray[Any],
    scheme: Scheme,
    relative: NDArray[Any],
    *,
    mask: Any = None,
    masked_value: float | None = None,
    scale: float | None = None,
    held: NDArray[Any] | None = None,
    **masks: Any,
) -> NDArray[Any]:
    """Bias of relative positions ``(..., q, k)``, added to the output's previous items."""
    dtype = weight.dtype
    if scale is not None:
        wide: Any = np.float64 if dtype == np.float64 else np.float32
        weight = (weight.astype(wide) * wide(scale)).astype(dtype)
    value = gather(weight, scheme(relative))
    if held is not None:
        value = add(held, value)
    if mask is not None and np.asarray(mask).dtype != bool:
        with np.errstate(over="ignore"):
            value = add(value, np.asarray(mask).astype(dtype))
    minimum = MINIMUM[dtype.name] if masked_value is None else masked_value
    shown = visible(relative, mask=mask, **masks)
    shape = np.broadcast_shapes(value.shape, shown.shape)
    masked = np.full(shape, np.array([minimum]).astype(dtype)[0])
    return np.asarray(
        np.where(np.broadcast_to(shown, shape), np.broadcast_to(value, shape), masked)
    )


def weight_gradient(
    gradient: NDArray[Any], scheme: Scheme, relative: NDArray[Any], **masks: Any
) -> NDArray[np.float64]:
    """Gradient of the weight in float64, (num_buckets, num_heads): one sum for each bucket."""
    wide = np.where(visible(relative, **masks), gradient.astype(np.float64), 0)
    grid = np.broadcast_to(scheme(relative)[..., None, :, :], wide.shape)
    num_heads = gradient.shape[-3]
    sums = np.zeros((scheme.num_buckets, num_heads))
    for head in range(num_heads):
        np.add.at(sums[:, head], grid[..., head, :, :], wide[..., head, :, :])
    return sums


def consecutive(q: int, k: int, query_offset: int = 0, key_offset: int = 0) -> NDArray[Any]:
    """Relative positions of consecutive queries and keys, saturated to int64."""
    relative = np.arange(k)[None, :] - np.arange(q)[:, None]
    exact = relative.astype(object) + (key_offset - query_offset)
    return pairs_of(exact)


def differences(query: NDArray[Any], key: NDArray[Any]) -> NDArray[Any]:
    """Relative positions of given positions, saturated to int64: (..., q, k)."""
    exact = key.astype(object)[..., None, :] - query.astype(object)[..., :, None]
    return pairs_of(exact)


def pairs_of(exact: NDArray[Any]) -> NDArray[Any]:
    """Convert Python integers to int64, saturated."""
    saturated: NDArray[Any] = np.clip(exact, -(2**63), 2**63 - 1).astype(np.int64)
    return saturated


# ---- gradients that are compared ----


def rounded(sums: NDArray[Any], scale: float | None, dtype: Any) -> NDArray[Any]:
    """Scale float64 sums and round them to a dtype."""
    if scale is not None:
        sums = sums * (np.float64 if dtype == np.float64 else np.float32)(scale)
    result: NDArray[Any] = sums.astype(dtype)
    return result


def assert_close(gradient: NDArray[Any], expected: NDArray[Any]) -> None:
    """Compare float64 sums that were added in any order, up to the last rounding."""
    tolerance = {"float16": 1e-3, "bfloat16": 1e-2, "float32": 2e-7, "float64": 1e-12}
    name = gradient.dtype.name
    found, wanted = gradient.astype(np.float64), expected.astype(np.float64)
    error = np.abs(np.subtract(found, wanted, where=found != wanted, out=np.zeros_like(found)))
    assert (error <= tolerance[name] * (1 + np.abs(wanted))).all()
