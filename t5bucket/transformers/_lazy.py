# _lazy.py - a bias that attention uses without its matrix, which is made when it is read.
# SPDX-License-Identifier: BSD-3-Clause
"""Layers pass on a `LazyBias` instead of transformers' matrix.

It is a tensor without memory. Given one, ``scaled_dot_product_attention`` of PyTorch calls
t5bucket's. Any other function gets the matrix, which is computed once. As soon as other code
has access to the matrix's memory, and might write to it, attention reads the matrix, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map_only

from t5bucket._buckets import Buckets, encode_scheme
from t5bucket.torch import compute_bias, scaled_dot_product_attention
from t5bucket.torch._padding import shrink
from t5bucket.torch._tensors import is_eager, needs_gradient
from t5bucket.transformers._merge import Kept, mark_heads_last
from t5bucket.transformers._sdpa import copies_bias

Function = Callable[..., Any]


@dataclass(eq=False)
class Recipe:
    """What a bias is made of, and its matrix if that has been read."""

    weight: torch.Tensor
    buckets: Buckets
    query_length: int
    key_length: int
    query_offset: int
    mask: torch.Tensor | None = None
    causal: bool = False
    exact: bool = True
    matrix: torch.Tensor | None = None
    is_exposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        batch = 1 if self.mask is None else self.mask.shape[0]
        return (batch, self.weight.shape[1], self.query_length, self.key_length)

    def compute(self) -> torch.Tensor:
        """Compute the matrix, once."""
        if self.matrix is None:
            with torch.inference_mode(False), torch.no_grad():
                self.matrix = compute_bias(
                    self.weight.detach(),
                    self.query_length,
                    self.key_length,
                    buckets=self.buckets,
                    query_offset=self.query_offset,
                    mask=self.mask,
                    causal=self.causal,
                )
        return self.matrix

    def expose(self, results: Any) -> None:
        """Remember if a function's results give access to the matrix's memory."""
        leaves = [results] if results is None else tree_leaves(results)
        self.is_exposed = self.is_exposed or any(map(self._is_access, leaves))

    def _is_access(self, result: Any) -> bool:
        if not isinstance(result, torch.Tensor):
            # An address, a NumPy array, or None: a function that returns None may have written.
            return not isinstance(result, bool | str)
        if type(result) is LazyBias or self.matrix is None:
            return False
        storages = (result.untyped_storage(), self.matrix.untyped_storage())
        return bool(storages[0].data_ptr() == storages[1].data_ptr())


class LazyBias(torch.Tensor):  # type: ignore[misc]
    """A bias without its matrix."""

    recipe: Recipe
    node: Any  # autograd's node, through which gradients flow into the recipe's weight
    seen: torch.Tensor | None  # the matrix, connected to this tensor's gradient
    masked: Kept | None  # the last result of `with_mask`

    @staticmethod
    def __new__(cls, recipe: Recipe) -> Self:
        make: Function = torch.Tensor._make_wrapper_subclass
        bias: Self = make(cls, recipe.shape, dtype=recipe.weight.dtype, device="cpu")
        bias.recipe, bias.node, bias.seen, bias.masked = recipe, None, None, None
        return bias

    def look(self) -> torch.Tensor:
        """Make the matrix; its gradients flow into this tensor."""
        with torch.inference_mode(False), torch._C.DisableTorchFunctionSubclass():
            requires_grad = self.requires_grad
            if self.seen is None or self.seen.requires_grad != requires_grad:
                with torch.set_grad_enabled(requires_grad):
                    self.seen = _Look.apply(self) if requires_grad else self.recipe.compute()
                mark_heads_last(self.seen)
        return self.seen

    def find_weight(self) -> torch.Tensor | None:
        """Find the weight that attention uses instead; None if it must use the matrix."""
        if self.recipe.is_exposed:
            return None
        with torch._C.DisableTorchFunctionSubclass():
            requires_grad, node = self.requires_grad, self.grad_fn
        if requires_grad and torch.is_grad_enabled():
            return self.recipe.weight if node is not None and node is self.node else None
        if requires_grad and (self.recipe.weight.shape[1] == 1 or not copies_bias()):
            return None  # sdpa does not copy it (as for one head): then it uses another kernel
        return self.recipe.weight.detach()

    def with_mask(self, mask: torch.Tensor | None, causal: bool) -> LazyBias:
        """Add a mask; keep the result for the next layer."""
        if mask is None and not causal:
            return self if torch.is_grad_enabled() else LazyBias(self.recipe)
        options = (causal, torch.is_grad_enabled())
        if self.masked is None or not self.masked.is_of([mask], *options):
            with torch._C.DisableTorchFunctionSubclass():
                is_detached = not self.requires_grad
            weight = self.recipe.weight.detach() if is_detached else self.recipe.weight
            changed: dict[str, Any] = {"mask": shrink(mask), "causal": causal, "matrix": None}
            recipe = replace(self.recipe, weight=weight, **changed)
            self.masked = Kept(_make(recipe), [mask], *options)
        masked: LazyBias = self.masked.result
        return masked

    @classmethod
    def __torch_function__(
        cls, function: Function, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is ATTENTION:
            return _attend(*args, **kwargs)
        if function in UNSEEN:
            with torch._C.DisableTorchFunctionSubclass():
                return function(*args, **kwargs)
        if function is torch.Tensor.contiguous and len(args) == 1 and not kwargs:
            return args[0]
        return _call_with_matrices(function, LazyBias.look, args, kwargs)

    @classmethod
    def __torch_dispatch__(
        cls, function: Function, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in SAME and tuple(args[1] if args[1:] else args[0].size()) == args[0].size():
            return LazyBias(args[0].recipe)
        return _call_with_matrices(function, lambda bias: bias.recipe.compute(), args, kwargs or {})


def make_lazily(
    weight: torch.Tensor,
    query_length: int,
    key_length: int,
    buckets: Buckets,
    query_offset: int,
    exact: bool,
) -> LazyBias:
    """Make a bias with a copy of the weight: FSDP frees weights between layers."""
    lengths = (query_length, key_length, query_offset)
    return _make(Recipe(weight.clone(), buckets, *lengths, exact=exact))


def _make(recipe: Recipe) -> LazyBias:
    if not needs_gradient(recipe.weight):
        return LazyBias(recipe)
    bias: LazyBias = _Make.apply(recipe.weight, recipe)
    with torch._C.DisableTorchFunctionSubclass():
        bias.node = bias.grad_fn
    return bias


def _call_with_matrices(function: Function, look: Function, args: Any, kwargs: Any) -> Any:
    biases = [leaf for leaf in tree_leaves((args, kwargs)) if type(leaf) is LazyBias]
    args, kwargs = tree_map_only(LazyBias, look, (args, kwargs))
    results = function(*args, **kwargs)
    for bias in biases:
        bias.recipe.expose(results)
    return results


# ---- gradients, if the matrix is read ----


class _Make(torch.autograd.Function):  # type: ignore[misc]
    """Make a bias whose gradient flows into the weight."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, recipe: Recipe) -> LazyBias:
        ctx.recipe = recipe
        ctx.set_materialize_grads(False)
        return LazyBias(recipe)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        if gradient is None:
            return None, None
        recipe = ctx.recipe
        options = (encode_scheme(recipe.buckets), recipe.query_offset, 0, recipe.causal, None)
        return torch.ops.t5bucket.bias_gradient(gradient, recipe.mask, *options), None


class _Look(torch.autograd.Function):  # type: ignore[misc]
    """Return the matrix of a bias; the gradient of the matrix is the gradient of the bias."""

    @staticmethod
    def forward(ctx: Any, bias: LazyBias) -> torch.Tensor:
        return bias.recipe.compute().detach()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient


# ---- attention ----

ATTENTION: Function = functional.scaled_dot_product_attention


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
    if not is_causal and not enable_gqa and _is_covered(query, key, value, attn_mask, dropout_p):
        weight = attn_mask.find_weight()
        if weight is not None:
            recipe = attn_mask.recipe
            return scaled_dot_product_attention(
                query,
                key,
                value,
                weight,
                buckets=recipe.buckets,
                attn_mask=recipe.mask,
                is_causal=recipe.causal,
                scale=scale,
                query_offset=recipe.query_offset,
                exact=recipe.exact,
            )
    given = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
    if enable_gqa:
        given["enable_gqa"] = enable_gqa
    args = (query, key, value, attn_mask)
    return _call_with_matrices(ATTENTION, LazyBias.look, args, given)


def _is_covered(query: Any, key: Any, value: Any, bias: Any, dropout_p: float) -> bool:
    if type(bias) is not LazyBias or dropout_p or torch.is_autocast_enabled("cpu"):
        return False
    batch, *sizes = bias.recipe.shape
    return (
        is_eager(query, key, value)
        and query.ndim == key.ndim == value.ndim == 4
        and batch in (1, query.shape[0])
        and [query.shape[1], query.shape[2], key.shape[2]] == sizes
        and query.dtype == key.dtype == value.dtype == bias.recipe.weight.dtype
    )


# ---- functions that do not read items ----

_ATTRIBUTES = """
    _version device dtype grad grad_fn is_cpu is_leaf is_meta is_nested is_quantized is_sparse
    itemsize layout nbytes ndim output_nr requires_grad shape
"""
_METHODS = """
    __hash__ __len__ dim element_size is_complex is_contiguous is_floating_point is_inference
    nelement numel register_hook requires_grad_ retain_grad size storage_offset stride
"""
UNSEEN = {getattr(torch.Tensor, name).__get__ for name in _ATTRIBUTES.split()}
UNSEEN |= {getattr(torch.Tensor, name).__set__ for name in ("grad", "requires_grad")}
UNSEEN |= {getattr(torch.Tensor, name) for name in _METHODS.split()}
UNSEEN |= {torch.Tensor.detach, torch.Tensor.data.__get__}
UNSEEN |= {torch.is_complex, torch.is_floating_point, torch.is_inference, torch.numel}
SAME = {
    torch.ops.aten.alias.default,
    torch.ops.aten.detach.default,
    torch.ops.aten.view.default,
}
