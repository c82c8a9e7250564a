# _onnx_operators.py - translate each operator of torch.ops.t5bucket to ONNX.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from onnxscript import opset18 as op

from t5bucket.torch._onnx_graphs import (
    Length,
    attend,
    look_up,
    look_up_at,
    make_bias,
    make_pairs,
    masked_value,
    narrow,
    size_of,
)


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
    look = partial(look_up, query_length, key_length, query_offset, key_offset)
    bias = make_bias(weight, mask, scheme, causal, scale, look)
    return narrow(bias, weight.dtype)


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
    look = partial(look_up_at, query_positions, key_positions)
    bias = make_bias(weight, mask, scheme, causal, scale, look)
    return narrow(bias, weight.dtype)


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
    """Translate ``t5bucket::attention``; layers with equal arguments share one bias."""
    # A length that is known only at run time has a name; equal names mean equal lengths.
    lengths = (query.shape[-2], key.shape[-2], query_offset, key_offset)
    positions = (query_positions, key_positions)
    segments = (segment_ids, key_segment_ids)
    arguments = (*lengths, *positions, *segments, mask, *scheme, causal)
    biases = weight.meta.setdefault("t5bucket", {})
    if arguments not in biases:
        look = partial(look_up_at, *positions)
        if query_positions is None:
            look = partial(look_up, size_of(query, -2), size_of(key, -2), query_offset, key_offset)
        bias = make_bias(weight, mask, scheme, causal, None, look)
        biases[arguments] = _mask_segments(bias, *segments, weight)
    bias = biases[arguments]
    if len(query.shape) == len(key.shape) == len(value.shape) == 3:
        bias = op.Squeeze(bias, [0])
    return attend(query, key, value, bias, scale)


def _mask_segments(bias: Any, segment_ids: Any, key_segment_ids: Any, weight: Any) -> Any:
    if segment_ids is None:
        return bias
    query_ids, key_ids = make_pairs(segment_ids, key_segment_ids)
    is_same = op.Unsqueeze(op.Equal(query_ids, key_ids), [-3])
    return op.Where(is_same, bias, masked_value(weight.dtype))


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
    """Refuse the linear part of a bias, which occurs only in second derivatives."""
    if linear_part:
        refuse_gradient()


def _check_mask(weight: Any, mask: Any, query_length: Length, key_length: Length) -> None:
    """Check the known sizes of a mask, as the operator does when it is called."""
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
