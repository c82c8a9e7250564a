# _layer.py - Layer: the replacements for a layer's methods; and how calls fall back.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

Method = Callable[..., Any]


class Layer(NamedTuple):
    """Replacements for the methods of a layer, by name.

    `biases` replace methods that compute biases or buckets. `attend` replaces the
    ``forward`` of an attention that uses a bias. `relies_on` names other methods: if one
    of them is not transformers' own, nothing is replaced. `inexact` replacements are tried
    first if equality up to rounding is enough.
    """

    biases: dict[str, Method]
    attend: Method | None = None
    relies_on: tuple[str, ...] = ()
    inexact: Mapping[str, Method] = MappingProxyType({})


def is_exact(layer: Any) -> bool:
    """Whether a layer must give the same bits as transformers, accelerated or not."""
    return getattr(type(layer), "_t5bucket_exact", True)


def make_twin(layer: Any, **changed: Any) -> Any:
    """Copy a layer for one call, with the same parts and some attributes of its own."""
    twin = object.__new__(type(layer))
    twin.__dict__.update({**vars(layer), **changed})
    return twin


class NotCoveredError(Exception):
    """The reason why transformers' own method handles a call."""


def require(condition: object, reason: str) -> None:
    """Leave a call to transformers unless a condition holds."""
    if not condition:
        raise NotCoveredError(reason)
