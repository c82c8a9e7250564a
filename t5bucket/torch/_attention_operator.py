# _attention_operator.py - torch.ops.t5bucket.attention and its gradient.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from t5bucket._buckets import decode_scheme
from t5bucket.torch._attend import allocate_result, attend
from t5bucket.torch._attention_by_pytorch import attend_by_pytorch
from t5bucket.torch._attention_gradient import differentiate
from t5bucket.torch._kernels import Inputs, math_kernel
from t5bucket.torch._operators import backward_only
from t5bucket.torch._strips import Source

NUM_TENSORS = 9  # the first arguments: query, key, value and the tensors of the source


def _make_source(
    weight: torch.Tensor,
    mask: torch.Tensor | None,
    query_positions: torch.Tensor | None,
    key_positions: torch.Tensor | None,
    segment_ids: torch.Tensor | None,
    key_segment_ids: torch.Tensor | None,
    scheme: Sequence[int],
    query_offset: int,
    key_offset: int,
    causal: bool,
) -> Source:
    tensors = (weight, mask, query_positions, key_positions, segment_ids, key_segment_ids)
    return Source(*tensors, decode_scheme(tuple(scheme)), query_offset, key_offset, causal)


@torch.library.custom_op("t5bucket::attention", mutates_args=())
@backward_only
def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    weight: torch.Tensor,
    mask: torch.Tensor | None,
    query_positions: torch.Tensor | None,
    key_positions: torch.Tensor | None,
    segment_ids: torch.Tensor | None,
    key_segment_ids: torch.Tensor | None,
    scheme: Sequence[int],
    query_offset: int,
    key_offset: int,
    causal: bool,
    scale: float | None,
    exact: bool,
    is_trained: bool,
) -> torch.Tensor:
    """Attend with a bias, without its matrix."""
    source = _make_source(
        weight,
        mask,
        query_positions,
        key_positions,
        segment_ids,
        key_segment_ids,
        scheme,
        query_offset,
        key_offset,
        causal,
    )
    with torch.no_grad():
        return attend(Inputs(query, key, value, scale), source, exact, is_trained)


@torch.library.custom_op("t5bucket::attention_gradient", mutates_args=())
@backward_only
def attention_gradient(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    weight: torch.Tensor,
    mask: torch.Tensor | None,
    query_positions: torch.Tensor | None,
    key_positions: torch.Tensor | None,
    segment_ids: torch.Tensor | None,
    key_segment_ids: torch.Tensor | None,
    scheme: Sequence[int],
    query_offset: int,
    key_offset: int,
    causal: bool,
    scale: float | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the gradients of query, key, value and weight."""
    source = _make_source(
        weight,
        mask,
        query_positions,
        key_positions,
        segment_ids,
        key_segment_ids,
        scheme,
        query_offset,
        key_offset,
        causal,
    )
    with torch.no_grad():
        return differentiate(gradient, Inputs(query, key, value, scale), source)


@attention.register_fake
@backward_only
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> torch.Tensor:
    return allocate_result(Inputs(query, key, value, None))


@attention_gradient.register_fake
@backward_only
def _(gradient: torch.Tensor, *tensors: Any) -> tuple[torch.Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in tensors[:4])


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:NUM_TENSORS])
    ctx.options = inputs[NUM_TENSORS:-2]
    ctx.no_gradients = (None,) * (len(inputs) - 4)


def _differentiate(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    tensors = ctx.saved_tensors
    if not torch.is_grad_enabled():
        found = attention_gradient(gradient, *tensors, *ctx.options)
        return (*found, *ctx.no_gradients)
    # For second derivatives, use PyTorch's functions, with the matrix. Views separate the
    # inputs: one may have been computed from another, and its gradient must stop here.
    query, key, value, weight = inner = [tensor.view_as(tensor) for tensor in tensors[:4]]
    *options, scale = ctx.options
    inputs, source = Inputs(query, key, value, scale), _make_source(weight, *tensors[4:], *options)
    attended = attend_by_pytorch(inputs, source, kernel=math_kernel)
    needed = [tensor for tensor in inner if tensor.requires_grad]
    found = iter(torch.autograd.grad(attended, needed, gradient, create_graph=True))
    return (
        *(next(found) if tensor.requires_grad else None for tensor in inner),
        *ctx.no_gradients,
    )


attention.register_autograd(_differentiate, setup_context=_save)
