# _inexact.py - when attention may be computed in another way, equal up to rounding.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from typing import Any

import torch
from torch import nn

from t5bucket.torch._tensors import is_eager, needs_gradient
from t5bucket.transformers._layer import require

RECORDER = "transformers.utils.output_capturing"


def require_inference(layer: nn.Module, dropout: Any, *tensors: torch.Tensor | None) -> None:
    """Leave a call to transformers unless it is inference on CPU tensors of one dtype."""
    given = [tensor for tensor in (*tensors, *layer.parameters()) if tensor is not None]
    require(is_eager(*given), "another device or kind of tensor, or tracing")
    require(not any(map(needs_gradient, given)), "gradients")
    require(not dropout, "dropout")
    dtypes = {tensor.dtype for tensor in given if tensor.is_floating_point()}
    same = len(dtypes) == 1 and not torch.is_autocast_enabled("cpu")
    require(same, "several dtypes, or autocast")


def require_unseen_weights(output_attentions: Any, *modules: nn.Module) -> None:
    """Leave a call to transformers if somebody may look at the attention's weights.

    The hooks with which transformers records outputs stay, and record what is asked for.
    """
    hooks = [
        hook
        for module in modules
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if hook.__module__ != RECORDER
    ]
    replaced = any("forward" in vars(module) for module in modules)
    is_watched = hooks or replaced or nn.modules.module._has_any_global_hook()
    require(not (output_attentions or is_watched), "weights that somebody may look at")
