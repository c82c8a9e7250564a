# _operators.py - torch.ops.t5bucket: the bias and its gradient as PyTorch operators.
# SPDX-License-Identifier: BSD-3-Clause
"""Two pairs of operators, for consecutive and for explicit positions.

A pair is a bias and the gradient of its weight. Without a mask that is added, a bias is linear
in the weight: this is its *linear part*. The gradient is linear, too, and each of the two is
the derivative of the other. `encode_scheme` makes the integers that stand for a scheme. For
forward mode and transforms, `t5bucket.torch` uses functions that PyTorch can transform.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch._functorch import eager_transforms
from torch.autograd import forward_ad

from t5bucket._arrays import view_tensor
from t5bucket._buckets import decode_scheme
from t5bucket.torch._composite import compose_bias, compose_bias_at, transpose
from t5bucket.torch._tensors import (
    batch_axes,
    bias_of,
    fill_bias,
    fill_bias_at,
    is_transformed,
    kernel_options,
    result_shape,
)

Function = Callable[..., torch.Tensor]


def backward_only(function: Function) -> Function:
    """Refuse forward mode, where PyTorch would assume that an operator's derivative is 0."""

    @wraps(function)
    def checked(*arguments: Any) -> torch.Tensor:
        if _is_differentiated_forwards(*arguments):
            raise NotImplementedError(
                "torch.ops.t5bucket must not be differentiated in forward mode: "
                "call the functions of t5bucket.torch, and compile the transform with them"
            )
        return function(*arguments)

    return checked


def _is_differentiated_forwards(*arguments: Any) -> bool:
    """Whether an argument has a tangent, or could have one: in ``torch.func.jvp`` any could."""
    if forward_ad._current_level < 0:
        return False
    tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
    return bool(
        eager_transforms.JVP_NESTING
        or any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)
    )


# ---- kernels ----


@torch.library.custom_op("t5bucket::bias", mutates_args=())
@backward_only
def bias(
    weight: torch.Tensor,
    mask: torch.Tensor | None,
    scheme: Sequence[int],
    query_length: int,
    key_length: int,
    query_offset: int,
    key_offset: int,
    causal: bool,
    scale: float | None,
    linear_part: bool,
) -> torch.Tensor:
    """Compute the bias of consecutive positions."""
    lengths = (query_length, key_length, query_offset, key_offset)
    buckets = decode_scheme(tuple(scheme))
    return fill_bias(weight, mask, buckets, *lengths, causal, scale, linear_part)


@torch.library.custom_op("t5bucket::bias_gradient", mutates_args=())
@backward_only
def bias_gradient(
    gradient: torch.Tensor,
    mask: torch.Tensor | None,
    scheme: Sequence[int],
    query_offset: int,
    key_offset: int,
    causal: bool,
    scale: float | None,
) -> torch.Tensor:
    """Compute the weight's gradient, given that of the bias."""
    weight = _new_weight(gradient, scheme)
    view_tensor(weight)[...] = bias_of(weight, decode_scheme(tuple(scheme))).weight_gradient(
        view_tensor(gradient),
        query_offset=query_offset,
        key_offset=key_offset,
        **kernel_options(gradient, mask, causal, scale, True),
    )
    return weight


@torch.library.custom_op("t5bucket::bias_at", mutates_args=())
@backward_only
def bias_at(
    weight: torch.Tensor,
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    mask: torch.Tensor | None,
    scheme: Sequence[int],
    causal: bool,
    scale: float | None,
    linear_part: bool,
) -> torch.Tensor:
    """Compute the bias of explicit positions."""
    positions = (query_positions, key_positions)
    buckets = decode_scheme(tuple(scheme))
    return fill_bias_at(weight, *positions, mask, buckets, causal, scale, linear_part)


@torch.library.custom_op("t5bucket::bias_at_gradient", mutates_args=())
@backward_only
def bias_at_gradient(
    gradient: torch.Tensor,
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    mask: torch.Tensor | None,
    scheme: Sequence[int],
    causal: bool,
    scale: float | None,
) -> torch.Tensor:
    """Compute the weight's gradient, given that of the bias."""
    weight = _new_weight(gradient, scheme)
    view_tensor(weight)[...] = bias_of(weight, decode_scheme(tuple(scheme))).weight_gradient_at(
        view_tensor(gradient),
        view_tensor(query_positions),
        view_tensor(key_positions),
        **kernel_options(gradient, mask, causal, scale, True),
    )
    return weight


def _new_weight(gradient: torch.Tensor, scheme: Sequence[int]) -> torch.Tensor:
    """Make a weight for the gradient's shape: zeros, for which `bias_of` keeps one object."""
    return gradient.new_zeros(scheme[0], gradient.shape[-3])


# ---- shapes ----


@bias.register_fake
@backward_only
def _(
    weight: torch.Tensor,
    mask: torch.Tensor | None,
    scheme: Sequence[int],
    query_length: int,
    key_length: int,
    *_: Any,
) -> torch.Tensor:
    return weight.new_empty(result_shape(weight, batch_axes(mask), query_length, key_length))


@bias_at.register_fake
@backward_only
def _(
    weight: torch.Tensor,
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    mask: torch.Tensor | None,
    *_: Any,
) -> torch.Tensor:
    batch = batch_axes(mask, query_positions, key_positions)
    lengths = (query_positions.shape[-1], key_positions.shape[-1])
    return weight.new_empty(result_shape(weight, batch, *lengths))


@bias_gradient.register_fake
@backward_only
def _(gradient: torch.Tensor, mask: Any, scheme: Sequence[int], *_: Any) -> torch.Tensor:
    return _new_weight(gradient, scheme)


@bias_at_gradient.register_fake
@backward_only
def _(
    gradient: torch.Tensor,
    query_positions: Any,
    key_positions: Any,
    mask: Any,
    scheme: Sequence[int],
    *_: Any,
) -> torch.Tensor:
    return _new_weight(gradient, scheme)


# ---- gradients ----


def _register_gradients(
    operator: Any, adjoint: Any, compose: Function, num_tensors: int, num_lengths: int
) -> None:
    """Register two operators as each other's gradients; in a transform, use `compose`.

    Their arguments are ``operator(weight, *tensors, scheme, *lengths, *options, linear_part)``
    and ``adjoint(gradient, *tensors, scheme, *options)``.
    """

    def save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        first, *others = inputs
        ctx.save_for_backward(*others[:num_tensors])
        ctx.scheme, *ctx.options = others[num_tensors:]
        ctx.shape, ctx.no_gradients = first.shape, (None,) * len(others)

    def differentiate_operator(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        options = ctx.options[num_lengths:-1]
        if is_transformed():
            lengths = gradient.shape[-2:][:num_lengths]
            arguments = (*ctx.saved_tensors, decode_scheme(tuple(ctx.scheme)), *lengths, *options)
            found = transpose(compose, gradient, ctx.scheme[0], *arguments)
        else:
            found = adjoint(gradient, *ctx.saved_tensors, ctx.scheme, *options)
        return (found, *ctx.no_gradients)

    def differentiate_adjoint(ctx: Any, weight: torch.Tensor) -> tuple[Any, ...]:
        options = (*ctx.shape[-2:][:num_lengths], *ctx.options, True)
        if is_transformed():
            buckets = decode_scheme(tuple(ctx.scheme))
            found = compose(weight, *ctx.saved_tensors, buckets, *options)
        else:
            found = operator(weight, *ctx.saved_tensors, ctx.scheme, *options)
        return (found.expand(ctx.shape), *ctx.no_gradients)

    operator.register_autograd(differentiate_operator, setup_context=save)
    adjoint.register_autograd(differentiate_adjoint, setup_context=save)


_register_gradients(bias, bias_gradient, compose_bias, num_tensors=1, num_lengths=2)
_register_gradients(bias_at, bias_at_gradient, compose_bias_at, num_tensors=3, num_lengths=0)
