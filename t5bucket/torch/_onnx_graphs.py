# _onnx_graphs.py - the operators of t5bucket as graphs of ONNX's standard operators.
# SPDX-License-Identifier: BSD-3-Clause
"""A bias is a row of heads for each relative position, and an index of each pair into the rows.

Rows are few: beyond a distance all buckets are equal. For consecutive positions there is a
row for each of the ``q + k - 1`` diagonals. What the weight alone decides (buckets, scale,
causal order) is done with the rows, which a runtime computes once if the weight is constant.
Types of 16 bits are added and multiplied in float32, as the kernels do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import torch
from onnxscript import ir
from onnxscript import opset18 as op

from t5bucket._buckets import Buckets, decode_scheme, step_function
from t5bucket._checks import INT64_MAX, INT64_MIN
from t5bucket._rule import LIMIT

MAX_ROWS = 1 << 20  # of relative positions whose buckets are stored in a file
WIDE = {ir.DataType.FLOAT16: ir.DataType.FLOAT, ir.DataType.BFLOAT16: ir.DataType.FLOAT}
Length = Any  # an integer, or the value of one that is not known before a run


class Lookup(NamedTuple):
    """``bias[..., h, i, j] = rows[index[..., i, j], h]``; rows after `present` are the future's."""

    rows: Any
    index: Any
    num_axes: int  # of the index
    present: Length


# ---- operators ----


def translate_bias(
    weight: Any,
    mask: Any,
    scheme: Sequence[int],
    query_length: Length,
    key_length: Length,
    query_offset: Length,
    key_offset: Length,
    causal: bool,
    scale: float | None,
    linear_part: bool,
) -> Any:
    """Translate ``t5bucket::bias``."""
    _require_whole(linear_part)
    _check_mask(weight, mask, query_length, key_length)
    lengths = (query_length, key_length, query_offset, key_offset)
    table = _tabulate(weight, scheme, scale, causal and not _is_added(mask))
    return _narrow(_apply(_look_up(table, *lengths), mask, causal, weight.dtype), weight.dtype)


def translate_bias_at(
    weight: Any,
    query_positions: Any,
    key_positions: Any,
    mask: Any,
    scheme: Sequence[int],
    causal: bool,
    scale: float | None,
    linear_part: bool,
) -> Any:
    """Translate ``t5bucket::bias_at``."""
    _require_whole(linear_part)
    _check_mask(weight, mask, query_positions.shape[-1], key_positions.shape[-1])
    table = _tabulate(weight, scheme, scale, causal and not _is_added(mask))
    lookup = _look_up_at(table, query_positions, key_positions)
    return _narrow(_apply(lookup, mask, causal, weight.dtype), weight.dtype)


def translate_attention(
    query: Any,
    key: Any,
    value: Any,
    weight: Any,
    mask: Any,
    query_positions: Any,
    key_positions: Any,
    segment_ids: Any,
    key_segment_ids: Any,
    scheme: Sequence[int],
    query_offset: Length,
    key_offset: Length,
    causal: bool,
    scale: float | None,
    exact: bool,
    is_trained: bool,
) -> Any:
    """Translate ``t5bucket::attention``."""
    table = _tabulate(weight, scheme, None, causal and not _is_added(mask))
    if query_positions is None:
        lengths = (_size(query, -2), _size(key, -2))
        lookup = _look_up(table, *lengths, query_offset, key_offset)
    else:
        lookup = _look_up_at(table, query_positions, key_positions)
    bias = _apply(lookup, mask, causal, weight.dtype)
    if segment_ids is not None:
        query_ids, key_ids = _make_pairs(segment_ids, key_segment_ids)
        is_same = op.Unsqueeze(op.Equal(query_ids, key_ids), [-3])
        bias = op.Where(is_same, bias, _masked_value(weight.dtype))
    if len(query.shape) == len(key.shape) == len(value.shape) == 3:
        bias = op.Squeeze(bias, [0])
    return _attend(query, key, value, bias, scale, _is_added(mask))


def refuse_gradient(*arguments: Any) -> Any:
    """Refuse an operator that computes gradients."""
    raise NotImplementedError(
        "a gradient of t5bucket's operators cannot be exported to ONNX: "
        "export a module that computes no gradients"
    )


TRANSLATIONS: dict[str, Callable[..., Any]] = {
    "attention": translate_attention,
    "attention_gradient": refuse_gradient,
    "bias": translate_bias,
    "bias_at": translate_bias_at,
    "bias_at_gradient": refuse_gradient,
    "bias_gradient": refuse_gradient,
}


def _require_whole(linear_part: bool) -> None:
    """Refuse the linear part of a bias, which is the gradient of a gradient."""
    if linear_part:
        refuse_gradient()


def _check_mask(weight: Any, mask: Any, query_length: Length, key_length: Length) -> None:
    """Check the sizes of a mask that are known; the operator does so when it is called."""
    if mask is None:
        return
    wanted = (weight.shape[1], query_length, key_length)
    sizes = zip(reversed(mask.shape), reversed(wanted), strict=False)
    if any(isinstance(n, int) and isinstance(m, int) and m not in (1, n) for m, n in sizes):
        shapes = [
            ", ".join(str(n) if isinstance(n, int) else "?" for n in shape)
            for shape in (wanted, mask.shape)
        ]
        raise ValueError(f"mask must broadcast to (..., {shapes[0]}), got shape ({shapes[1]})")


# ---- a row for each relative position ----


class Table(NamedTuple):
    """The rows of relative positions from `first` to `last`; beyond, they do not change."""

    rows: Any
    first: int
    last: int


def _tabulate(weight: Any, scheme: Sequence[int], scale: float | None, causal: bool) -> Table:
    buckets = decode_scheme(tuple(scheme))
    first, last = _find_range(buckets)
    relative_position = np.arange(first, last + 1)
    dtype = weight.dtype
    rows = op.Gather(_widen(weight, dtype), _constant(buckets(relative_position)))
    if scale is not None:
        rows = _round(op.Mul(rows, _number(scale, dtype)), dtype)
    if causal:
        future = _constant(relative_position[:, None] > 0)
        rows = op.Where(future, _masked_value(dtype), rows)
    return Table(rows, first, last)


def _find_range(buckets: Buckets) -> tuple[int, int]:
    """Find the relative positions that have buckets of their own; 0 and 1 are among them."""
    starts, _ = step_function(buckets)
    first, last = min(0, *starts[:1], 0) - 1, max(1, *starts[-1:], 1)
    if last - first >= MAX_ROWS:
        raise ValueError(
            f"buckets must not change beyond a range of {MAX_ROWS} relative positions to be "
            f"exported to ONNX, which stores the bucket of each, got {first} to {last}"
        )
    return first, last


def _look_up(
    table: Table,
    query_length: Length,
    key_length: Length,
    query_offset: Length,
    key_offset: Length,
) -> Lookup:
    """Look up the bias of consecutive positions by ``index[i, j] = q - 1 - i + j``."""
    offset = key_offset - query_offset
    if isinstance(offset, int):
        offset = max(-LIMIT, min(offset, LIMIT))
    start = offset - query_length + 1  # the relative position of the first diagonal
    diagonal = op.Range(0, query_length + key_length - 1, 1)
    numbers = op.Clip(op.Add(diagonal, start - table.first), 0, table.last - table.first)
    query = op.Unsqueeze(op.Range(query_length - 1, -1, -1), [0, 2])
    index = op.Add(query, op.Range(0, key_length, 1))
    return Lookup(op.Gather(table.rows, numbers), index, 3, -start)


def _look_up_at(table: Table, query_positions: Any, key_positions: Any) -> Lookup:
    """Look up the bias of explicit positions, whose differences may exceed int64."""
    num_axes = max(len(query_positions.shape), len(key_positions.shape)) + 1
    query, key = _make_pairs(query_positions, key_positions)
    start, stop = op.Add(query, table.first), op.Add(query, table.last)  # these may wrap around
    lower = op.Where(op.Greater(start, query), INT64_MIN, start)
    upper = op.Where(op.Less(stop, query), INT64_MAX, stop)
    index = op.Sub(op.Max(op.Min(key, upper), lower), start)
    if num_axes == 2:
        index, num_axes = op.Unsqueeze(index, [0]), 3
    return Lookup(table.rows, index, num_axes, -table.first)


def _make_pairs(of_query: Any, of_key: Any) -> tuple[Any, Any]:
    """Give integers of queries and of keys axes in which they broadcast to pairs."""
    of_query, of_key = (op.Cast(value, to=ir.DataType.INT64) for value in (of_query, of_key))
    return op.Unsqueeze(of_query, [-1]), op.Unsqueeze(of_key, [-2])


# ---- the matrix, and attention with it ----


def _apply(lookup: Lookup, mask: Any, causal: bool, dtype: Any) -> Any:
    """Compute a bias, which is rounded to a type, in the wide one."""
    n = lookup.num_axes
    pairs = op.Gather(lookup.rows, lookup.index)  # (..., q, k, num_heads)
    bias = op.Transpose(pairs, perm=[*range(n - 2), n, n - 2, n - 1])
    if _is_added(mask):
        mask = mask if mask.dtype == dtype else op.Cast(mask, to=dtype)
        bias = _round(op.Add(bias, _widen(mask, dtype)), dtype)
        if causal:
            future = op.Unsqueeze(op.Greater(lookup.index, lookup.present), [-3])
            bias = op.Where(future, _masked_value(dtype), bias)
    elif mask is not None:
        bias = op.Where(mask, bias, _masked_value(dtype))
    return bias


def _attend(
    query: Any, key: Any, value: Any, bias: Any, scale: float | None, may_have_no_keys: bool
) -> Any:
    """Attend; a query whose scores are all -inf has no keys, and the result 0."""
    n, dtype = len(key.shape), query.dtype
    transposed = op.Transpose(_widen(key, dtype), perm=[*range(n - 2), n - 1, n - 2])
    scores = op.Add(op.MatMul(_scale(query, scale), transposed), bias)
    attended = op.MatMul(op.Softmax(scores, axis=-1), _widen(value, dtype))
    if may_have_no_keys:
        has_no_keys = op.Equal(op.ReduceMax(scores, [-1]), _number(-math.inf, dtype))
        attended = op.Where(has_no_keys, _number(0.0, dtype), attended)
    return _narrow(attended, dtype)


def _scale(query: Any, scale: float | None) -> Any:
    """Scale the query, in the wide type; the size of a head may not be known before a run."""
    size, wide = _size(query, -1), _widen(query, query.dtype)
    if scale is None and not isinstance(size, int):
        return op.Div(wide, op.Sqrt(op.CastLike(size, wide)))
    return op.Mul(wide, _number(1 / math.sqrt(size) if scale is None else scale, query.dtype))


# ---- types and sizes ----


def _is_added(mask: Any) -> bool:
    return mask is not None and mask.dtype != ir.DataType.BOOL


def _widen(value: Any, dtype: Any) -> Any:
    """Convert from a type to the one in which its values are added and multiplied."""
    return op.Cast(value, to=WIDE[dtype]) if dtype in WIDE else value


def _narrow(value: Any, dtype: Any) -> Any:
    """Convert to a type from the one in which its values are added and multiplied."""
    return op.Cast(value, to=dtype) if dtype in WIDE else value


def _round(value: Any, dtype: Any) -> Any:
    """Round to a type, and keep the wide one."""
    return _widen(_narrow(value, dtype), dtype)


def _masked_value(dtype: Any) -> Any:
    """Make the finite minimum of a type, in the wide one."""
    return _number(float(ml_dtypes.finfo(dtype.numpy()).min), dtype)


def _number(number: float, dtype: Any) -> Any:
    return _constant(np.array(number, WIDE.get(dtype, dtype).numpy()))


def _constant(array: Any) -> Any:
    return op.Constant(value=ir.tensor(array))


def _size(value: Any, axis: int) -> Length:
    """Find a size, which may not be known before a run."""
    size = value.shape[axis]
    if isinstance(size, int):
        return size
    return op.Gather(op.Shape(value), len(value.shape) + axis)
