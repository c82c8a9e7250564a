# _onnx_graphs.py - a bias, and attention with it, of ONNX's standard operators.
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

import numpy as np
from onnxscript import ir
from onnxscript import opset18 as op

from t5bucket._arrays import finite_minimum
from t5bucket._buckets import Buckets, decode_scheme, step_function
from t5bucket._checks import INT64_MAX, INT64_MIN
from t5bucket._rule import LIMIT

MAX_ROWS = 1 << 20  # of relative positions whose buckets are stored in a file
WIDE = {ir.DataType.FLOAT16: ir.DataType.FLOAT, ir.DataType.BFLOAT16: ir.DataType.FLOAT}
Length = Any  # an integer, or the value of one that is not known before a run


class Table(NamedTuple):
    """A row of heads for each relative position from `first` to `last`; beyond, it is the same."""

    rows: Any
    first: int
    last: int


class Lookup(NamedTuple):
    """``bias[..., h, i, j] = rows[index[..., i, j], h]``; rows after `present` are the future's."""

    rows: Any
    index: Any
    num_axes: int  # of the index: (..., q, k)
    present: Length  # the row of relative position 0


def make_bias(
    weight: Any,
    mask: Any,
    scheme: Sequence[int],
    causal: bool,
    scale: float | None,
    look_up: Callable[[Table], Lookup],
) -> Any:
    """Make a bias, (..., num_heads, q, k), rounded to the weight's type, in the wide one."""
    dtype = weight.dtype
    lookup = look_up(_tabulate(weight, scheme, scale, causal))
    n = lookup.num_axes
    pairs = op.Gather(lookup.rows, lookup.index)  # heads are last
    bias = op.Transpose(pairs, perm=[*range(n - 2), n, n - 2, n - 1])
    if mask is None:
        return bias
    if not is_added(mask):
        return op.Where(mask, bias, masked_value(dtype))
    mask = mask if mask.dtype == dtype else op.Cast(mask, to=dtype)
    bias = _round(op.Add(bias, _widen(mask, dtype)), dtype)
    if causal:  # once more: the sum has changed the masked value
        future = op.Unsqueeze(op.Greater(lookup.index, lookup.present), [-3])
        bias = op.Where(future, masked_value(dtype), bias)
    return bias


# ---- a row for each relative position ----


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
        rows = op.Where(future, masked_value(dtype), rows)
    return Table(rows, first, last)


def _find_range(buckets: Buckets) -> tuple[int, int]:
    """Find the relative positions that have buckets of their own; 0 and 1 are among them."""
    starts, _ = step_function(buckets)
    first, last = min([0, *starts[:1]]) - 1, max([1, *starts[-1:]])
    if last - first >= MAX_ROWS:
        raise ValueError(
            f"buckets must not change beyond a range of {MAX_ROWS} relative positions to be "
            f"exported to ONNX, which stores the bucket of each, got {first} to {last}"
        )
    return first, last


def look_up(
    query_length: Length,
    key_length: Length,
    query_offset: Length,
    key_offset: Length,
    table: Table,
) -> Lookup:
    """Look up the bias of consecutive positions by ``index[i, j] = q - 1 - i + j``."""
    if isinstance(query_offset, int) and isinstance(key_offset, int):
        offset = max(-LIMIT, min(key_offset - query_offset, LIMIT))
    else:
        offset = op.Sub(_clip(key_offset, query_offset, -LIMIT, LIMIT), query_offset)
    start = offset - query_length + 1  # the relative position of the first diagonal
    diagonal = op.Range(0, query_length + key_length - 1, 1)
    numbers = op.Clip(op.Add(diagonal, start - table.first), 0, table.last - table.first)
    query = op.Unsqueeze(op.Range(query_length - 1, -1, -1), [0, 2])
    index = op.Add(query, op.Range(0, key_length, 1))
    return Lookup(op.Gather(table.rows, numbers), index, 3, -start)


def look_up_at(query_positions: Any, key_positions: Any, table: Table) -> Lookup:
    """Look up the bias of explicit positions."""
    num_axes = max(len(query_positions.shape), len(key_positions.shape)) + 1
    query, key = make_pairs(query_positions, key_positions)
    index = op.Sub(_clip(key, query, table.first, table.last), op.Add(query, table.first))
    if num_axes == 2:
        index, num_axes = op.Unsqueeze(index, [0]), 3
    return Lookup(table.rows, index, num_axes, -table.first)


def _clip(key: Any, query: Any, first: int, last: int) -> Any:
    """Clip the key to ``query + first`` and ``query + last``, which may exceed int64."""
    start, stop = op.Add(query, first), op.Add(query, last)  # these may wrap around
    lower = op.Where(op.Greater(start, query), INT64_MIN, start)
    upper = op.Where(op.Less(stop, query), INT64_MAX, stop)
    return op.Max(op.Min(key, upper), lower)


def make_pairs(of_query: Any, of_key: Any) -> tuple[Any, Any]:
    """Give integers of queries and of keys axes in which they broadcast to pairs."""
    of_query, of_key = (op.Cast(value, to=ir.DataType.INT64) for value in (of_query, of_key))
    return op.Unsqueeze(of_query, [-1]), op.Unsqueeze(of_key, [-2])


# ---- attention ----


def attend(query: Any, key: Any, value: Any, bias: Any, scale: float | None) -> Any:
    """Attend; a query whose scores are all -inf has no keys, and the result 0."""
    n, dtype = len(key.shape), query.dtype
    transposed = op.Transpose(_widen(key, dtype), perm=[*range(n - 2), n - 1, n - 2])
    scores = op.Add(op.MatMul(_scale(query, scale), transposed), bias)
    attended = op.MatMul(op.Softmax(scores, axis=-1), _widen(value, dtype))
    has_no_keys = op.Equal(op.ReduceMax(scores, [-1]), _number(-math.inf, dtype))
    return narrow(op.Where(has_no_keys, _number(0.0, dtype), attended), dtype)


def _scale(query: Any, scale: float | None) -> Any:
    """Scale the query, in the wide type; the size of a head may not be known before a run."""
    size, wide = size_of(query, -1), _widen(query, query.dtype)
    if scale is None and not isinstance(size, int):
        return op.Div(wide, op.Sqrt(op.CastLike(size, wide)))
    return op.Mul(wide, _number(1 / math.sqrt(size or 1) if scale is None else scale, query.dtype))


# ---- types and sizes ----


def is_added(mask: Any) -> bool:
    return mask is not None and mask.dtype != ir.DataType.BOOL


def _widen(value: Any, dtype: Any) -> Any:
    """Convert from a type to the one in which its values are added and multiplied."""
    return op.Cast(value, to=WIDE[dtype]) if dtype in WIDE else value


def narrow(value: Any, dtype: Any) -> Any:
    """Convert to a type from the one in which its values are added and multiplied."""
    return op.Cast(value, to=dtype) if dtype in WIDE else value


def _round(value: Any, dtype: Any) -> Any:
    """Round to a type, and keep the wide one."""
    return _widen(narrow(value, dtype), dtype)


def masked_value(dtype: Any) -> Any:
    """Make the finite minimum of a type, in the wide one."""
    return _number(float(finite_minimum(dtype.numpy())[0]), dtype)


def _number(number: float, dtype: Any) -> Any:
    return _constant(np.array(number, WIDE.get(dtype, dtype).numpy()))


def _constant(array: Any) -> Any:
    return op.Constant(value=ir.tensor(array))


def size_of(value: Any, axis: int) -> Length:
    """Find a size, which may not be known before a run."""
    size = value.shape[axis]
    if isinstance(size, int):
        return size
    return op.Gather(op.Shape(value), len(value.shape) + axis)
