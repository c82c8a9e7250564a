# torch.py - the bias as a differentiable operator of PyTorch (the extra "torch").
# SPDX-License-Identifier: BSD-3-Clause
"""Bias matrices of CPU tensors, differentiable in the weight.

The functions are registered as operators ``torch.ops.t5bucket``, with their
gradients and their shapes, so that ``torch.compile`` and ``torch.export`` take
them as they are. Tensors are read and written without a copy. Inside of a transform
of ``torch.func``, or in forward mode, PyTorch's own functions compute the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any

try:
    import torch
    from torch._functorch import eager_transforms
    from torch.autograd import forward_ad
except ImportError:
    raise ImportError("t5bucket.torch needs PyTorch: pip install 't5bucket[torch]'") from None

from t5bucket import _checks
from t5bucket._arrays import view_tensor
from t5bucket._buckets import Buckets
from t5bucket._composite import compose_bias, compose_bias_at, transpose
from t5bucket._tensors import (
    FLOATS,
    INTEGERS,
    batch_axes,
    bias_of,
    fill_bias,
    fill_bias_at,
    is_plain,
    is_transformed,
    mask_options,
    needs_gradient,
    num_threads_of,
    result_shape,
)

__all__ = ["compute_bias", "compute_bias_at"]

Kernel = Callable[..., torch.Tensor]


def compute_bias(
    weight: torch.Tensor,
    query_length: int,
    key_length: int,
    *,
    buckets: Buckets,
    query_offset: int = 0,
    key_offset: int = 0,
    mask: torch.Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Bias of all pairs of consecutive query and key positions, with masks.

    Parameters
    ----------
    weight : Tensor, shape (num_buckets, num_heads)
        float16, bfloat16, float32 or float64, on the CPU: the weight of T5's
        ``relative_attention_bias``. Gradients flow into it.
    query_length, key_length : int
        Number of positions (tokens), at least 0.
    buckets : Buckets
        The scheme that `weight` was trained with.
    query_offset, key_offset : int, optional
        Position of query 0 and of key 0.
    mask : Tensor, optional
        Boolean (true = attend) or floating-point (added); it broadcasts to
        ``(batch, num_heads, query_length, key_length)``. It must not require a gradient.
    causal : bool, optional
        Mask keys whose position is greater than the query's.
    scale : float, optional
        Factor of every weight.

    Returns
    -------
    Tensor of `weight`'s dtype, shape (1, num_heads, query_length, key_length)
        Contiguous; ``(batch, ...)`` with a mask that has a batch. Masked pairs
        have the dtype's finite minimum.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, shape or device, or out of its limits.

    Notes
    -----
    The bias is linear in `weight`, and can be differentiated any number of times, in
    reverse and in forward mode, and mapped over weights and masks (``torch.func``). A
    transform takes several times the memory of its result.

    Examples
    --------
    >>> import torch
    >>> import t5bucket as tb
    >>> from t5bucket.torch import compute_bias
    >>> weight = torch.zeros(32, 12, requires_grad=True)
    >>> bias = compute_bias(weight, 3, 3, buckets=tb.Buckets(32, 128))
    >>> bias.shape
    torch.Size([1, 12, 3, 3])
    >>> bias.sum().backward()
    >>> weight.grad[0, 0]  # pairs of bucket 0
    tensor(3.)
    """
    scale = _check(weight, buckets, mask, causal, scale)
    lengths = (
        _check_integer("query_length", query_length, 0),
        _check_integer("key_length", key_length, 0),
        _check_integer("query_offset", query_offset),
        _check_integer("key_offset", key_offset),
    )
    if is_plain(weight, mask) and not needs_gradient(weight):
        return fill_bias(weight, mask, buckets, *lengths, causal, scale)
    if is_transformed():
        return compose_bias(weight, mask, buckets, *lengths, causal, scale)
    return torch.ops.t5bucket.bias(weight, mask, _settings(buckets), *lengths, causal, scale, False)


def compute_bias_at(
    weight: torch.Tensor,
    query_positions: torch.Tensor,
    key_positions: torch.Tensor | None = None,
    *,
    buckets: Buckets,
    mask: torch.Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Bias of all pairs of given query and key positions, with masks.

    Parameters
    ----------
    weight : Tensor, shape (num_buckets, num_heads)
        float16, bfloat16, float32 or float64, on the CPU. Gradients flow into it.
    query_positions : Tensor of int, shape (..., q)
        Positions (tokens, or any other unit).
    key_positions : Tensor of int, shape (..., k), optional
        The query's if None. Leading axes broadcast.
    buckets : Buckets
        The scheme that `weight` was trained with.
    mask, causal, scale : optional
        As in `compute_bias`.

    Returns
    -------
    Tensor of `weight`'s dtype, shape (..., num_heads, q, k)
        Contiguous; with one batch axis at least.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, shape or device.

    Notes
    -----
    As of `compute_bias`; positions can be mapped as well.

    Examples
    --------
    >>> import torch
    >>> import t5bucket as tb
    >>> from t5bucket.torch import compute_bias_at
    >>> positions = torch.tensor([[0, 1, 2, 0, 1]])  # two sequences in one row
    >>> compute_bias_at(torch.zeros(32, 12), positions, buckets=tb.Buckets()).shape
    torch.Size([1, 12, 5, 5])
    """
    scale = _check(weight, buckets, mask, causal, scale)
    key_positions = query_positions if key_positions is None else key_positions
    _check_positions("query_positions", query_positions)
    _check_positions("key_positions", key_positions)
    positions = (query_positions, key_positions)
    if is_plain(weight, mask, *positions) and not needs_gradient(weight):
        return fill_bias_at(weight, *positions, mask, buckets, causal, scale)
    if is_transformed():
        return compose_bias_at(weight, *positions, mask, buckets, causal, scale)
    return torch.ops.t5bucket.bias_at(
        weight, *positions, mask, _settings(buckets), causal, scale, False
    )


# ---- arguments ----


def _check(weight: Any, buckets: Any, mask: Any, causal: Any, scale: Any) -> float | None:
    """Check what both functions take; return the scale as Python's float."""
    _checks.flag("causal", causal)
    _check_tensor("weight", weight, FLOATS, "float16, bfloat16, float32 or float64")
    if isinstance(scale, torch.Tensor) and scale.requires_grad:
        raise ValueError("scale must not require a gradient, got one that does")
    factor = None
    if scale is not None:
        factor = _checks.scale(scale, is_double=weight.dtype == torch.float64)
    if weight.ndim != 2:
        raise ValueError(
            f"weight must have two axes, buckets and heads, got shape {tuple(weight.shape)}"
        )
    if not isinstance(buckets, Buckets):
        raise TypeError(f"buckets must be a Buckets, got {type(buckets).__name__}")
    if weight.shape[0] != buckets.num_buckets:
        raise ValueError(
            f"weight must have one row for each of the {buckets.num_buckets} buckets, "
            f"got {weight.shape[0]} rows"
        )
    if mask is not None:
        _check_tensor("mask", mask, (torch.bool, *FLOATS), "boolean or floating-point")
        if mask.requires_grad:
            raise ValueError("mask must not require a gradient, got one that does")
    return factor


def _check_integer(name: str, value: Any, minimum: int = _checks.INT64_MIN) -> Any:
    if isinstance(value, torch.SymInt):  # which is what it will be when it is traced
        return value
    return _checks.integer(name, value, minimum)


def _check_positions(name: str, positions: Any) -> None:
    _check_tensor(name, positions, INTEGERS, "integers")
    if positions.ndim == 0:
        raise ValueError(f"{name} must have at least one axis, got shape ()")


def _check_tensor(name: str, value: Any, dtypes: Sequence[torch.dtype], kind: str) -> None:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.device.type != "cpu":
        raise ValueError(f"{name} must be on the CPU, got device {value.device}")
    if value.dtype not in dtypes:
        raise TypeError(f"{name} must be {kind}, got {value.dtype}")
    if value.layout is not torch.strided or value.is_nested:
        layout = "a nested one" if value.is_nested else value.layout
        raise TypeError(f"{name} must be a dense tensor, got {layout}")


def _settings(buckets: Buckets) -> list[int]:
    """Put a scheme into the integers that operators take: T5's three, or starts and buckets."""
    if buckets._is_t5:
        return [buckets.num_buckets, buckets.max_distance, int(buckets.bidirectional)]
    rule = buckets._rule
    return [buckets.num_buckets, buckets.max_distance, -1, *rule.start_list, *rule.bucket_list]


def _scheme(settings: Sequence[int]) -> Buckets:
    """Find the scheme of `_settings`."""
    return _make_scheme(tuple(settings))


@lru_cache
def _make_scheme(settings: tuple[int, ...]) -> Buckets:
    num_buckets, max_distance, bidirectional, *rest = settings
    if bidirectional >= 0:
        return Buckets(num_buckets, max_distance, bool(bidirectional))
    starts, numbers = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    firsts, lasts = [None, *starts], [*(start - 1 for start in starts), None]
    ranges = list(zip(numbers, firsts, lasts, strict=True))
    return Buckets.from_ranges(ranges, max_distance=max_distance, num_buckets=num_buckets)


def _new_weight(gradient: torch.Tensor, settings: Sequence[int]) -> torch.Tensor:
    """Make the gradient of a weight: of zeros, since `bias_of` looks at what it holds."""
    return gradient.new_zeros(settings[0], gradient.shape[-3])


# ---- operators: the bias and its adjoint, each of which is the other's gradient ----


def _is_differentiated_forwards(*arguments: Any) -> bool:
    """Whether an argument has a tangent; one of ``torch.func.jvp`` cannot be seen from here."""
    if forward_ad._current_level < 0:
        return False
    tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
    return bool(
        eager_transforms.JVP_NESTING
        or any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)
    )


def _backward_only(kernel: Kernel) -> Kernel:
    """Refuse forward mode, in which PyTorch takes the derivative of an operator for 0."""

    @wraps(kernel)
    def checked(*arguments: Any) -> torch.Tensor:
        if _is_differentiated_forwards(*arguments):
            raise NotImplementedError(
                "torch.ops.t5bucket must not be differentiated in forward mode: "
                "call the functions of t5bucket.torch, and compile the transform with them"
            )
        return kernel(*arguments)

    return checked


@torch.library.custom_op("t5bucket::bias", mutates_args=())
@_backward_only
def _bias(
    weight: torch.Tensor,
    mask: torch.Tensor | None,
    settings: Sequence[int],
    query_length: int,
    key_length: int,
    query_offset: int,
    key_offset: int,
    causal: bool,
    scale: float | None,
    linear: bool,
) -> torch.Tensor:
    lengths = (query_length, key_length, query_offset, key_offset)
    return fill_bias(weight, mask, _scheme(settings), *lengths, causal, scale, linear)


@torch.library.custom_op("t5bucket::bias_gradient", mutates_args=())
@_backward_only
def _bias_gradient(
    gradient: torch.Tensor,
    mask: torch.Tensor | None,
    settings: Sequence[int],
    query_offset: int,
    key_offset: int,
    causal: bool,
    scale: float | None,
) -> torch.Tensor:
    weight = _new_weight(gradient, settings)
    view_tensor(weight)[...] = bias_of(weight, _scheme(settings)).weight_gradient(
        view_tensor(gradient),
        query_offset=query_offset,
        key_offset=key_offset,
        scale=scale,
        num_threads=num_threads_of(gradient),
        **mask_options(mask, causal, True),
    )
    return weight


@torch.library.custom_op("t5bucket::bias_at", mutates_args=())
@_backward_only
def _bias_at(
    weight: torch.Tensor,
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    mask: torch.Tensor | None,
    settings: Sequence[int],
    causal: bool,
    scale: float | None,
    linear: bool,
) -> torch.Tensor:
    positions = (query_positions, key_positions)
    return fill_bias_at(weight, *positions, mask, _scheme(settings), causal, scale, linear)


@torch.library.custom_op("t5bucket::bias_at_gradient", mutates_args=())
@_backward_only
def _bias_at_gradient(
    gradient: torch.Tensor,
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    mask: torch.Tensor | None,
    settings: Sequence[int],
    causal: bool,
    scale: float | None,
) -> torch.Tensor:
    weight = _new_weight(gradient, settings)
    view_tensor(weight)[...] = bias_of(weight, _scheme(settings)).weight_gradient_at(
        view_tensor(gradient),
        view_tensor(query_positions),
        view_tensor(key_positions),
        scale=scale,
        num_threads=num_threads_of(gradient),
        **mask_options(mask, causal, True),
    )
    return weight


# ---- their shapes ----


@_bias.register_fake
@_backward_only
def _(
    weight: torch.Tensor,
    mask: torch.Tensor | None,
    settings: Sequence[int],
    query_length: int,
    key_length: int,
    *_: Any,
) -> torch.Tensor:
    return weight.new_empty(result_shape(weight, batch_axes(mask), query_length, key_length))


@_bias_at.register_fake
@_backward_only
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


@_bias_gradient.register_fake
@_backward_only
def _(
    gradient: torch.Tensor, mask: torch.Tensor | None, settings: Sequence[int], *_: Any
) -> torch.Tensor:
    return _new_weight(gradient, settings)


@_bias_at_gradient.register_fake
@_backward_only
def _(
    gradient: torch.Tensor,
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    mask: torch.Tensor | None,
    settings: Sequence[int],
    *_: Any,
) -> torch.Tensor:
    return _new_weight(gradient, settings)


# ---- their gradients: the other operator, or what takes its place in a transform ----


def _save_bias(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, mask, settings, _, _, query_offset, key_offset, causal, scale, _ = inputs
    ctx.save_for_backward(mask)
    ctx.options = (settings, query_offset, key_offset, causal, scale)


def _differentiate_bias(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    (mask,) = ctx.saved_tensors
    if is_transformed():
        settings, *offsets, causal, scale = ctx.options
        options = (mask, _scheme(settings), *gradient.shape[-2:], *offsets, causal, scale)
        found = transpose(compose_bias, gradient, settings[0], *options)
    else:
        found = torch.ops.t5bucket.bias_gradient(gradient, mask, *ctx.options)
    return (found, *(None,) * 9)


def _save_bias_gradient(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    gradient, mask, settings, query_offset, key_offset, causal, scale = inputs
    ctx.save_for_backward(mask)
    lengths = gradient.shape[-2:]
    ctx.options = (settings, *lengths, query_offset, key_offset, causal, scale, True)
    ctx.shape = gradient.shape


def _differentiate_bias_gradient(ctx: Any, weight: torch.Tensor) -> tuple[Any, ...]:
    (mask,) = ctx.saved_tensors
    if is_transformed():
        settings, *options = ctx.options
        bias = compose_bias(weight, mask, _scheme(settings), *options)
    else:
        bias = torch.ops.t5bucket.bias(weight, mask, *ctx.options)
    return (bias.expand(ctx.shape), *(None,) * 6)


def _save_bias_at(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, query_positions, key_positions, mask, settings, causal, scale, _ = inputs
    ctx.save_for_backward(query_positions, key_positions, mask)
    ctx.options = (settings, causal, scale)


def _differentiate_bias_at(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    if is_transformed():
        settings, causal, scale = ctx.options
        options = (*ctx.saved_tensors, _scheme(settings), causal, scale)
        found = transpose(compose_bias_at, gradient, settings[0], *options)
    else:
        found = torch.ops.t5bucket.bias_at_gradient(gradient, *ctx.saved_tensors, *ctx.options)
    return (found, *(None,) * 7)


def _save_bias_at_gradient(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    gradient, query_positions, key_positions, mask, settings, causal, scale = inputs
    ctx.save_for_backward(query_positions, key_positions, mask)
    ctx.options = (settings, causal, scale, True)
    ctx.shape = gradient.shape


def _differentiate_bias_at_gradient(ctx: Any, weight: torch.Tensor) -> tuple[Any, ...]:
    if is_transformed():
        settings, causal, scale, linear = ctx.options
        query, key, mask = ctx.saved_tensors
        bias = compose_bias_at(weight, query, key, mask, _scheme(settings), causal, scale, linear)
    else:
        bias = torch.ops.t5bucket.bias_at(weight, *ctx.saved_tensors, *ctx.options)
    return (bias.expand(ctx.shape), *(None,) * 6)


_bias.register_autograd(_differentiate_bias, setup_context=_save_bias)
_bias_gradient.register_autograd(_differentiate_bias_gradient, setup_context=_save_bias_gradient)
_bias_at.register_autograd(_differentiate_bias_at, setup_context=_save_bias_at)
_bias_at_gradient.register_autograd(
    _differentiate_bias_at_gradient, setup_context=_save_bias_at_gradient
)
