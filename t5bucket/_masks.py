# _masks.py - check a caller's masks and convert them to the form that kernels read.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from t5bucket import _core
from t5bucket._arrays import (
    FLOAT_NAMES,
    Examples,
    broadcast,
    cut,
    finite_minimum,
    float_code,
    is_direct,
    round_floats,
)
from t5bucket._checks import as_array, flag, mask_shape, real
from t5bucket._positions import check_pair, number_ids, segment_pairs


class Masks:
    """All masks of a matrix of shape ``(..., num_heads, q, k)``.

    Parameters
    ----------
    shape : tuple
        ``(num_heads, q, k)``.
    dtype : dtype
        Of the matrix.
    batch_shape : tuple
        Batch shape of explicit positions; the masks' own shapes broadcast with it.
    causal, mask, segment_ids, key_segment_ids, masked_value
        As callers give them.

    Attributes
    ----------
    batch_shape : tuple
        Of the matrix.
    shape : tuple
        ``(num_heads, q, k)``.
    causal : bool
    masked_item : array, shape (1,)
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        batch_shape: tuple[int, ...] = (),
        *,
        causal: Any = False,
        mask: ArrayLike | None = None,
        segment_ids: ArrayLike | None = None,
        key_segment_ids: ArrayLike | None = None,
        masked_value: Any = None,
    ) -> None:
        self.causal = flag("causal", causal)
        self.masked_item = _check_masked_value(masked_value, dtype)
        self.shape = shape
        self.batch_shape = batch_shape
        self._dtype = dtype
        self._segments: tuple[NDArray[Any], NDArray[Any]] | None = None
        self._keep: NDArray[Any] | None = None
        self._addend: NDArray[Any] | None = None
        if segment_ids is not None:
            self._segments = self._check_segments(segment_ids, key_segment_ids)
        elif key_segment_ids is not None:
            raise ValueError("segment_ids must come with key_segment_ids, got None")
        if mask is not None:
            self._set_mask(_check_mask(mask, dtype))

    @property
    def is_adding(self) -> bool:
        """Whether the mask is added to the items."""
        return self._addend is not None

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The arrays that the masks are read from."""
        given = (self._keep, self._addend, *(self._segments or ()))
        return tuple(array for array in given if array is not None)

    def broadcast_to(self, batch_shape: tuple[int, ...], name: str) -> None:
        """Use the batch axes of `name`; all other batch axes must broadcast to them."""
        own = self.batch_shape
        self._join_batch(name, batch_shape)
        if self.batch_shape != batch_shape:
            raise ValueError(
                f"{name} must have the batch axes of masks and positions, {own}, got {batch_shape}"
            )

    def copy_if_shared(self, out: NDArray[Any]) -> None:
        """Copy the mask if it shares memory with the matrix."""
        if self._keep is not None and np.may_share_memory(self._keep, out):
            self._keep = self._keep.copy()
        if self._addend is not None and np.may_share_memory(self._addend, out):
            self._addend = self._addend.copy()

    def make_epilogue(self, causal: _core.Pairs | None, accumulate: bool = False) -> _core.Epilogue:
        """Convert to the form that kernels read; `causal` are the positions for causal order."""
        segments = None
        if self._segments is not None:
            segments = segment_pairs(*self._segments, self.batch_shape)
        return _core.Epilogue(
            float_code(self._dtype),
            accumulate,
            self._flatten_mask(self._addend),
            self._flatten_mask(self._keep),
            segments,
            causal,
            self.masked_item,
        )

    def cut(
        self, examples: Examples, heads: slice, rows: slice, keys: slice, dtype: np.dtype[Any]
    ) -> Masks:
        """Cut out a part, for a matrix of a dtype that is as wide or wider."""
        places = (*examples, heads, rows, keys)
        *batch_shape, num_heads, q, k = (place.stop - place.start for place in places)
        part = Masks((num_heads, q, k), dtype, tuple(batch_shape))
        part.causal = self.causal
        if self._keep is not None:
            part._keep = cut(self._keep, *places)
        if self._addend is not None:
            part._addend = cut(self._addend, *places).astype(dtype, copy=False)
        if self._segments is not None:
            query, key = self._numbered
            part._segments = cut(query, *examples, rows), cut(key, *examples, keys)
        return part

    def find_keys(self, example: Examples, rows: slice, offset: int) -> slice:
        """Find the keys from the first to the last that some queries of an example see.

        All keys, unless each of the queries sees one: if a query sees none, its attention
        is the mean of all values. `offset` is the relative position of query 0 and key 0.
        """
        length = self.shape[2]
        every = slice(0, length)
        if self._addend is not None or not (self._keep is None or _is_padding(self._keep)):
            return every
        keys = np.arange(length)
        if self._keep is not None:
            keep = cut(self._keep, *example, slice(0, 1), slice(0, 1), every)
            keys = keys[np.broadcast_to(keep.reshape(-1), length)]
        first: Any = keys[:1]  # that each query sees
        if self._segments is not None:
            query, key = self._numbered
            own, others = cut(query, *example, rows).ravel(), cut(key, *example, every).ravel()
            keys = keys[np.isin(others[keys], own)]
            ids, begins = np.unique(others[keys], return_index=True)
            if not np.isin(own, ids).all():
                return every
            first = keys[begins[np.searchsorted(ids, own)]]
        offset = max(-length, min(offset, rows.stop))  # further away, all or none are seen
        last_seen = np.arange(rows.start, rows.stop) - offset if self.causal else length
        if keys.size == 0 or np.any(first > last_seen):
            return every
        return slice(int(keys[0]), min(int(keys[-1]), int(np.max(last_seen))) + 1)

    @cached_property
    def _numbered(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The segments of queries and keys, in one dtype."""
        assert self._segments is not None
        return number_ids(*self._segments)

    def _flatten_mask(self, mask: NDArray[Any] | None) -> NDArray[Any] | None:
        """View a mask as ``(batch, num_heads, q, k)``, with contiguous keys."""
        if mask is None:
            return None
        num_batches = math.prod(self.batch_shape)
        *batch_shape, num_heads, q, k = (1,) * (3 - mask.ndim) + mask.shape
        if k != self.shape[2]:
            mask = np.repeat(mask, self.shape[2], axis=-1)
        elif not is_direct(mask):
            mask = np.require(mask, requirements=["C", "ALIGNED"])
        own_shape = (num_heads, q, self.shape[2])
        if math.prod(batch_shape) > 1:
            mask = np.broadcast_to(mask, (*self.batch_shape, *own_shape))
            flat = mask.reshape(num_batches, *own_shape)
        else:
            flat = mask.reshape(1, *own_shape)
        return np.broadcast_to(flat, (num_batches, *self.shape))

    def _check_segments(
        self, segment_ids: ArrayLike, key_segment_ids: ArrayLike | None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        names = ("segment_ids", "key_segment_ids")
        query, key, batch_shape = check_pair(names, segment_ids, key_segment_ids)
        for name, ids, length in zip(names, (query, key), self.shape[1:], strict=True):
            if ids.shape[-1] != length:
                given = name if key_segment_ids is not None else "segment_ids"
                raise ValueError(
                    f"{name} must have {length} ids on the last axis, "
                    f"got {given} of shape {ids.shape}"
                )
        self._join_batch(names[0], batch_shape)
        return query, key

    def _set_mask(self, mask: NDArray[Any]) -> None:
        mask_shape(mask.shape, self.shape)
        self._join_batch("mask", mask.shape[:-3])
        if mask.dtype == bool:
            self._keep = mask
        else:
            self._addend = mask

    def _join_batch(self, name: str, batch_shape: tuple[int, ...]) -> None:
        joined = broadcast(self.batch_shape, batch_shape)
        if joined is None:
            raise ValueError(
                f"{name} must broadcast with a batch of shape {self.batch_shape}, "
                f"got a batch of shape {batch_shape}"
            )
        self.batch_shape = joined


def _is_padding(keep: NDArray[Any]) -> bool:
    """Whether a boolean mask is the same for all heads and queries."""
    return math.prod(keep.shape[:-1][-2:]) == 1


def _check_mask(mask: ArrayLike, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Check a boolean or additive mask; return an additive one in the matrix's dtype."""
    array = np.atleast_1d(as_array("mask", mask))
    if array.dtype == bool:
        return array
    if array.dtype.name not in FLOAT_NAMES:
        raise TypeError(
            f"mask must be boolean (true = attend) or additive floats, got dtype {array.dtype}"
        )
    try:
        return round_floats(array, dtype)  # in native byte order
    except MemoryError:
        raise MemoryError(
            f"mask must fit in memory as {dtype}, got shape {array.shape} of {array.dtype}"
        ) from None


def _check_masked_value(value: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Check the value of masked pairs; by default the dtype's finite minimum."""
    if value is None:
        return finite_minimum(dtype)
    number = real("masked_value", value)
    item = round_floats(np.array([number]), dtype)
    if math.isnan(number) or (math.isfinite(number) and not math.isfinite(float(item[0]))):
        raise ValueError(f"masked_value must fit in {dtype}, got {value}")
    return item
