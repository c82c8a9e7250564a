# _compiled.py - a bias in a compiled graph that attention uses without its matrix.
# SPDX-License-Identifier: BSD-3-Clause
"""While PyTorch compiles, layers pass on a `GraphBias` instead of transformers' matrix.

A `GraphBias` is the matrix, and also knows its parts: what it was made of. The replacement of
PyTorch's ``scaled_dot_product_attention`` uses only the parts. If nothing else reads the
matrix, it is removed from the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from t5bucket.torch._tensors import is_transformed, needs_gradient

Function = Callable[..., Any]
ATTENTION: Function = functional.scaled_dot_product_attention


class Parts(NamedTuple):
    """What a bias in a graph is made of."""

    weight: torch.Tensor  # a copy: the model's own may be written to
    scheme: list[int]  # of the buckets, as operators expect it
    query_offset: Any
    exact: bool
    mask: torch.Tensor | None = None


class GraphBias(torch.Tensor):  # type: ignore[misc]
    """A bias that knows its parts, until other code may have access to its memory.

    It exists only in graphs. If it leaves one, for example at a graph break, PyTorch makes the
    object and sets its attributes: then it becomes an ordinary tensor.
    """

    def _become_plain(self, parts: Parts | None) -> None:
        self.__class__ = torch.Tensor

    parts = property(lambda self: None, _become_plain)  # in a graph, the value that was set there

    @classmethod
    def __torch_function__(
        cls, function: Function, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.Tensor.contiguous and len(args) == 1 and not kwargs:
            return args[0]
        with torch._C.DisableTorchFunctionSubclass():
            if function is ATTENTION:
                return _attend(*args, **kwargs)
            masked = None if kwargs else _find_parts(function, *args)
            result = function(*args, **kwargs)
        if masked is not None:
            return with_parts(result, masked)
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, GraphBias):
                leaf.parts = None
        return result


def with_parts(matrix: torch.Tensor, parts: Parts) -> torch.Tensor:
    """Attach its parts to a matrix."""
    bias = matrix.as_subclass(GraphBias)
    bias.parts = parts
    return bias


def _find_parts(function: Function, *args: Any) -> Parts | None:
    """Find the parts of a sum, if transformers' ``sdpa`` adds a mask to a bias."""
    minimum = None
    if function is torch.where and len(args) == 3:
        mask, bias, minimum = args
    elif function is torch.Tensor.add and len(args) == 2:
        bias, mask = args
    else:
        return None
    if not isinstance(bias, GraphBias) or not isinstance(mask, torch.Tensor) or mask.ndim != 4:
        return None
    if function is torch.where:
        is_mask = type(minimum) is float and minimum == torch.finfo(bias.dtype).min
    else:
        is_mask = mask.dtype == bias.dtype and not mask.requires_grad
    parts: Parts | None = bias.parts
    return parts._replace(mask=mask) if is_mask and parts and parts.mask is None else None


def _attend(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Replace PyTorch's own function, without the matrix if possible."""
    options = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
    if enable_gqa or is_causal or not _is_covered(query, key, value, attn_mask, dropout_p):
        return ATTENTION(query, key, value, attn_mask, enable_gqa=enable_gqa, **options)
    weight, scheme, query_offset, exact, mask = attn_mask.parts
    positions_and_segments = (None, None, None, None)
    return torch.ops.t5bucket.attention(
        query,
        key,
        value,
        weight,
        mask,
        *positions_and_segments,
        scheme,
        query_offset,
        0,
        False,
        scale,
        exact,
        needs_gradient(weight),
    )


def _is_covered(query: Any, key: Any, value: Any, bias: Any, dropout_p: float) -> bool:
    return (
        isinstance(bias, GraphBias)
        and bias.parts is not None
        and not dropout_p
        and not is_transformed()
        and not torch.is_autocast_enabled("cpu")
        and query.is_cpu
        and query.ndim == key.ndim == value.ndim == bias.ndim == 4
        and bias.shape[0] in (1, query.shape[0])
        and bias.shape[1:] == (query.shape[1], query.shape[2], key.shape[2])
        and query.dtype == key.dtype == value.dtype == bias.dtype
    )
