# _rules.py - tabulate a model's own rule as a scheme, and check its weights.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from t5bucket._arrays import bfloat16, view_tensor
from t5bucket._buckets import Buckets
from t5bucket.torch._tensors import EAGER_TYPES, FLOAT_DTYPES, is_eager
from t5bucket.transformers._layer import Method, NotCoveredError, require

LARGEST_DISTANCE = 1 << 20  # up to which rules are tabulated
MAX_SCHEMES = 256


# ---- rules ----


def find_function(method: Method, name: str) -> Method:
    """Find a function in the module in which transformers defines a method."""
    function: Method | None = inspect.unwrap(method).__globals__.get(name)
    if function is None:
        raise NotCoveredError(f"no function {name}: another version of transformers")
    return function


def find_rule(layer: Any, name: str) -> Any:
    """Find the function of a layer's class that computes buckets."""
    require(name not in vars(layer), f"a {name} of the instance's own")
    return getattr(type(layer), name)


_schemes: dict[tuple[Any, ...], Buckets] = {}


def tabulate(rule: Method, settings: tuple[Any, ...], compute: Method) -> Buckets:
    """Find the scheme of a rule and its settings, which end in num_buckets and max_distance.

    `compute` calls the rule with these settings, on a tensor of relative positions.
    """
    key = (rule, *settings)
    buckets = _schemes.get(key)
    if buckets is None:
        buckets = _tabulate(settings, compute)
        if len(_schemes) >= MAX_SCHEMES:
            _schemes.clear()
        _schemes[key] = buckets
    return buckets


def _tabulate(settings: tuple[Any, ...], compute: Method) -> Buckets:
    num_buckets, max_distance = settings[-2:]
    require(type(num_buckets) is type(max_distance) is int, "settings that are not integers")
    require(max_distance <= LARGEST_DISTANCE, f"a max_distance of {max_distance}")

    def rule(distances: NDArray[np.int64]) -> NDArray[Any]:
        array: NDArray[Any] = compute(torch.from_numpy(distances)).numpy()
        return array

    try:
        buckets = Buckets.from_function(rule, max_distance=max_distance, num_buckets=num_buckets)
        far = _far_positions(num_buckets, max_distance)
        is_constant = np.array_equal(rule(far), buckets(far))
    except Exception as error:
        raise NotCoveredError(f"a rule with the settings {settings}: {error}") from error
    require(is_constant, f"a rule that still changes beyond a max_distance of {max_distance}")
    return buckets


def _far_positions(num_buckets: int, max_distance: int) -> NDArray[np.int64]:
    """Sample the positions beyond a distance: first all of them, then fewer and fewer."""
    near = np.arange(1, 4 * num_buckets + 2 * max_distance)
    far = max_distance + np.concatenate([near, 1 << np.arange(30)])
    return np.concatenate([-far, far])


def look_up(buckets: Buckets, relative_positions: Any) -> torch.Tensor:
    """Map a tensor of relative positions to buckets with the same dtype."""
    array = view_tensor(relative_positions)
    return torch.from_numpy(np.asarray(buckets(array, dtype=array.dtype)))


# ---- weights ----


def check_weight(weight: Any, rows: int, num_buckets: Any, is_compiled: bool = False) -> None:
    """Leave a call to transformers unless t5bucket can read the weight."""
    is_known = type(weight) in EAGER_TYPES and weight.is_cpu if is_compiled else is_eager(weight)
    require(is_known, "a weight on another device, of another kind, or traced")
    require(weight.dtype in FLOAT_DTYPES, f"a weight of {weight.dtype}")
    if weight.dtype == torch.bfloat16:
        try:
            bfloat16()
        except ImportError as error:
            raise NotCoveredError(str(error)) from None
    require(rows == num_buckets, f"a weight of {rows} rows for {num_buckets} buckets")


def find_weight(embedding: Any, num_buckets: Any, is_compiled: bool = False) -> torch.Tensor:
    """Find the weight of an embedding that does nothing but look up rows."""
    require(type(embedding) is nn.Embedding, f"a {type(embedding).__name__} as embedding")
    hooks = (
        embedding._forward_hooks
        or embedding._forward_pre_hooks
        or embedding._backward_hooks
        or embedding._backward_pre_hooks
        or "forward" in vars(embedding)
        or nn.modules.module._has_any_global_hook()
    )
    options = (
        embedding.max_norm is not None
        or embedding.padding_idx is not None
        or embedding.scale_grad_by_freq
        or embedding.sparse
    )
    require(not hooks and not options, "an embedding with hooks or options")
    weight: torch.Tensor = embedding.weight
    check_weight(weight, weight.shape[0], num_buckets, is_compiled)
    return weight
