# strategies.py - Hypothesis strategies: schemes, positions, unusual arrays.
# SPDX-License-Identifier: BSD-3-Clause
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from reference import BFLOAT16

import t5bucket as tb

INTEGERS = [np.dtype(code) for code in "bBhHiIqQ"]
FLOAT_DTYPES = [
    np.dtype(t) for t in (np.float16, BFLOAT16, np.float32, np.float64) if t is not None
]

integer_dtypes = st.sampled_from(INTEGERS)
wide_dtypes = st.sampled_from([dtype for dtype in INTEGERS if dtype.itemsize > 1])
float_dtypes = st.sampled_from(FLOAT_DTYPES)
lengths = st.integers(0, 40)
offsets = st.integers(-300, 300) | st.integers(-(2**63), 2**63 - 1)


@st.composite
def settings_of_schemes(draw: st.DrawFn) -> tuple[int, int, bool]:
    """Draw valid ``(num_buckets, max_distance, bidirectional)``."""
    bidirectional = draw(st.booleans())
    num_buckets = draw(st.integers(4 if bidirectional else 2, 80))
    max_exact = num_buckets // 4 if bidirectional else num_buckets // 2
    max_distance = draw(
        st.integers(max_exact + 1, 2000) | st.integers(max_exact + 1, max_exact + 5)
    )
    return num_buckets, max_distance, bidirectional


schemes = settings_of_schemes().map(lambda settings: tb.Buckets(*settings))


def positions(dtype: np.dtype[Any], max_dims: int = 3) -> st.SearchStrategy[NDArray[Any]]:
    """Draw integer arrays of any shape, values near zero and at the ends of the type."""
    limits = np.iinfo(dtype)
    near = st.integers(max(-3000, limits.min), min(3000, limits.max))
    shapes = hnp.array_shapes(min_dims=0, max_dims=max_dims, min_side=0, max_side=6)
    return hnp.arrays(dtype, shapes, elements=near | hnp.from_dtype(dtype))


def relayout(array: NDArray[Any], layout: str) -> NDArray[Any]:
    """Copy an array into another memory layout, with the same values."""
    if array.ndim == 0:
        return array.copy()
    if layout == "fortran":
        return np.asfortranarray(array)
    if layout == "byte-swapped":
        return array.astype(array.dtype.newbyteorder())
    if layout == "read-only":
        copy = array.copy()
        copy.flags.writeable = False
        return copy
    if layout == "strided":
        spread = np.zeros((*array.shape, 3), array.dtype)
        spread[..., 1] = array
        return spread[..., 1]
    if layout == "reversed":
        return np.flip(np.flip(array).copy())
    if layout == "unaligned":
        memory = np.zeros(array.nbytes + 1, np.uint8)
        shifted = memory[1:].view(array.dtype).reshape(array.shape)
        shifted[...] = array
        return shifted
    assert layout == "contiguous"
    return array


LAYOUTS = ["contiguous", "fortran", "byte-swapped", "read-only", "strided", "reversed", "unaligned"]
layouts = st.sampled_from(LAYOUTS)
out_layouts = st.sampled_from([layout for layout in LAYOUTS if layout != "read-only"])


@st.composite
def draw_masks(
    draw: st.DrawFn, shape: tuple[int, int, int], batch: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Draw masks of a matrix and their options; `batch` is the batch shape of its positions."""
    _, q, k = shape
    masks: dict[str, Any] = {"causal": draw(st.booleans())}
    batch = batch or draw(st.sampled_from([(), (1,), (2,), (3, 2)]))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    if draw(st.booleans()):
        own_shape = tuple(draw(st.sampled_from([1, length])) for length in shape)
        own_shape = own_shape[draw(st.integers(0, 3)) :]
        if len(own_shape) == 3:
            own_shape = (*draw(st.sampled_from([batch, (1,) * len(batch), ()])), *own_shape)
        additive = random.standard_normal(own_shape)
        kind = draw(st.sampled_from([bool, np.float16, np.float32, np.float64]))
        mask = additive > 0 if kind is bool else np.asarray(additive).astype(kind)
        masks["mask"] = relayout(np.asarray(mask), draw(layouts))
    if draw(st.booleans()):
        dtype = draw(integer_dtypes)
        own_batch = draw(st.sampled_from([batch, batch[1:], ()]))
        masks["segment_ids"] = random.integers(0, 3, (*own_batch, q)).astype(dtype)
        if q != k or draw(st.booleans()):
            masks["key_segment_ids"] = random.integers(0, 3, k)
    if draw(st.booleans()):
        masks["masked_value"] = draw(st.sampled_from([-np.inf, -1.0, 0]))
    if draw(st.booleans()):
        masks["scale"] = draw(st.sampled_from([0.5, -3, 1 / 3]))
    return masks
