# _inexact.py - attention that is equal up to rounding: when it is allowed, and its bias.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from t5bucket._buckets import Buckets
from t5bucket.torch._tensors import is_eager, needs_gradient
from t5bucket.transformers._layer import Method, NotCoveredError, make_twin, require
from t5bucket.transformers._lazy import LazyBias, Recipe

RECORDER = "transformers.utils.output_capturing"


def require_inference(layer: nn.Module, dropout: Any, *tensors: torch.Tensor | None) -> None:
    """Leave a call to transformers unless it is inference on CPU tensors of one dtype."""
    require(not layer.training, "training")
    given = [tensor for tensor in (*tensors, *layer.parameters()) if tensor is not None]
    require(is_eager(*given), "another device or kind of tensor, or tracing")
    require(not any(map(needs_gradient, given)), "gradients")
    require(not dropout, "dropout")
    dtypes = {tensor.dtype for tensor in given if tensor.is_floating_point()}
    same = len(dtypes) == 1 and not torch.is_autocast_enabled("cpu")
    require(same, "several dtypes, or autocast")


def require_unseen_weights(output_attentions: Any, *modules: nn.Module) -> None:
    """Leave a call to transformers if the attention weights may be read.

    Transformers' own hooks, which record requested outputs, are allowed.
    """
    hooks = [
        hook
        for module in modules
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if hook.__module__ != RECORDER
    ]
    replaced = any("forward" in vars(module) for module in modules)
    is_watched = hooks or replaced or nn.modules.module._has_any_global_hook()
    require(not (output_attentions or is_watched), "attention weights that may be read")


def attend_by_sdpa(
    original: Method,
    self: Any,
    hidden_states: Any,
    mask: Any = None,
    key_value_states: Any = None,
    position_bias: Any = None,
    cache: Any = None,
    **kwargs: Any,
) -> Any:
    """Compute an attention of T5 by ``sdpa``, if transformers has only ``eager`` for it."""
    config = self.config
    require(config._attn_implementation == "eager", "another implementation")
    require(hidden_states.shape[1] > 1, "a step of decoding")
    require(mask is not None or not self.is_causal, "no mask")
    require_unseen_weights(kwargs.get("output_attentions") or config.output_attentions, self)
    dropout = self.training and self.dropout
    require_inference(self, dropout, hidden_states, mask, key_value_states)
    twin = make_twin(self, config=SimpleNamespace(_attn_implementation="sdpa"))
    given = {"key_value_states": key_value_states, "position_bias": position_bias, "cache": cache}
    return original(twin, hidden_states, mask=mask, **given, **kwargs)


# ---- the bias that layers pass on ----


@dataclass(eq=False)
class RepeatedRecipe(Recipe):
    """What a bias is made of, if transformers repeats it for each example."""

    batch: int = 1
    heads_in_batch: bool = False  # batch and heads share an axis, (batch x num_heads, q, k)

    @property
    def shape(self) -> tuple[int, ...]:
        _, num_heads, *lengths = super().shape
        if self.heads_in_batch:
            return (self.batch * num_heads, *lengths)
        return (self.batch, num_heads, *lengths)

    def compute(self) -> torch.Tensor:
        if self.matrix is None:
            repeated = super().compute().expand(self.batch, -1, -1, -1)
            self.matrix = repeated.flatten(0, 1) if self.heads_in_batch else repeated
        return self.matrix


def repeat_lazily(
    weight: torch.Tensor, buckets: Buckets, batch: int, length: int, heads_in_batch: bool = False
) -> LazyBias:
    """Make a bias for inference, with the shape that transformers expects."""
    require(not needs_gradient(weight), "gradients")
    lengths = (length, length, 0)
    return LazyBias(
        RepeatedRecipe(
            weight.detach().clone(), buckets, *lengths, batch=batch, heads_in_batch=heads_in_batch
        )
    )


def find_recipe(bias: Any) -> Recipe:
    """Find what a bias is made of, unless its matrix might have been changed."""
    if type(bias) is not LazyBias or bias.find_weight() is None:
        raise NotCoveredError("a bias that is a matrix")
    return bias.recipe
