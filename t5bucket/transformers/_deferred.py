# _deferred.py - a bias that layers hand on as what it is made of, until somebody looks at it.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from t5bucket._buckets import Buckets
from t5bucket.transformers._layer import NotCoveredError

METADATA = frozenset(
    (
        torch.Tensor.device.__get__,
        torch.Tensor.dim,
        torch.Tensor.dtype.__get__,
        torch.Tensor.ndim.__get__,
        torch.Tensor.requires_grad.__get__,
        torch.Tensor.shape.__get__,
        torch.Tensor.size,
    )
)


class Recipe(NamedTuple):
    """A weight with its scheme."""

    weight: torch.Tensor
    buckets: Buckets


class DeferredBias(torch.Tensor):  # type: ignore[misc] # PyTorch's types are not known
    """A bias of one item in memory. Whatever PyTorch does with it, it does with the matrix.

    The matrix is computed when that happens for the first time. From then on it may be
    changed, so `recipe` is None.
    """

    recipe: Recipe | None
    _make: Callable[[], torch.Tensor]
    _matrix: torch.Tensor

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in METADATA:
            return super().__torch_function__(func, types, args, kwargs)
        return func(*_find_matrices(args), **_find_matrices(kwargs or {}))

    def matrix(self) -> torch.Tensor:
        """Compute the matrix, once."""
        if self.recipe is not None:
            self._matrix = self._make()
            self.recipe = None
        return self._matrix


def _find_matrices(value: Any) -> Any:
    if isinstance(value, DeferredBias):
        return value.matrix()
    if type(value) in (tuple, list):
        return type(value)(_find_matrices(item) for item in value)
    if type(value) is dict:
        return {name: _find_matrices(item) for name, item in value.items()}
    return value


def defer(recipe: Recipe, shape: tuple[int, ...], make: Callable[[], torch.Tensor]) -> DeferredBias:
    """Defer a bias; `make` computes it, of the shape that transformers expects."""
    # What reads the memory and not the tensor would find no number.
    item = torch.full((), torch.nan, dtype=recipe.weight.dtype)
    deferred: DeferredBias = item.expand(shape).as_subclass(DeferredBias)
    deferred.recipe = recipe
    deferred._make = make
    return deferred


def find_recipe(bias: Any) -> Recipe:
    """Find what a bias is made of, unless the matrix exists."""
    recipe = bias.recipe if isinstance(bias, DeferredBias) else None
    if recipe is None:
        raise NotCoveredError("a bias that is a matrix")
    return recipe
