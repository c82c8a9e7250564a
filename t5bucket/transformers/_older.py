# _older.py - replacements for methods with other parameters in older versions of transformers.
# SPDX-License-Identifier: BSD-3-Clause
"""A replacement has the newest version's parameters. Wrappers here accept older parameters."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from t5bucket._arrays import view_tensor
from t5bucket.torch._tensors import is_eager
from t5bucket.transformers._layer import Method, require


def for_older(replacement: Method, *others: Method) -> Method:
    """Register other replacements, which are used if a method has their parameters."""
    replacement.older = others  # type: ignore[attr-defined]
    return replacement


def choices(replacement: Method) -> tuple[Method, ...]:
    """List the possible replacements, the one for the newest version first."""
    return (replacement, *getattr(replacement, "older", ()))


def with_past_key_values(replacement: Method) -> Method:
    """Accept ``past_key_values``, which is called ``cache`` since transformers 5.24."""

    def replace(original: Method, self: Any, *args: Any, **kwargs: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            return original(*args, **_rename(kwargs, "cache", "past_key_values"))

        if "cache" in kwargs:  # another option with this name
            return original(self, *args, **kwargs)
        return replacement(call, self, *args, **_rename(kwargs, "past_key_values", "cache"))

    signature = inspect.signature(replacement)
    parameters = [
        parameter.replace(name="past_key_values") if name == "cache" else parameter
        for name, parameter in signature.parameters.items()
    ]
    replace.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=parameters
    )
    return replace


def with_cache_position(compute: Method) -> Method:
    """Accept the positions of queries, as T5's biases do before transformers 5.4."""

    def compute_at(
        original: Method,
        self: Any,
        query_length: Any,
        key_length: Any,
        device: Any = None,
        cache_position: Any = None,
    ) -> Any:
        past = 0
        if cache_position is not None:  # transformers ignores the length then
            query_length, past = _find_range(cache_position)
        return compute(original, self, query_length, key_length, device, past)

    return compute_at


def _rename(kwargs: dict[str, Any], before: str, after: str) -> dict[str, Any]:
    return {after if name == before else name: value for name, value in kwargs.items()}


def _find_range(positions: Any) -> tuple[int, int]:
    """Return the number of consecutive positions, and the first one."""
    require(is_eager(positions), "positions on another device, or traced ones")
    array = view_tensor(positions)
    is_range = array.ndim == 1 and array.size and np.all(np.diff(array) == 1)
    require(is_range, "positions that are not consecutive")
    return array.size, int(array[0])
