# _holders.py - the modules that an object holds, such as a pipeline.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any

from torch import nn

MAX_DEPTH = 5  # of objects in objects
LEAVES = (str, bytes, int, float, type, FunctionType, ModuleType)  # which hold no model
DESCRIPTORS = (GetSetDescriptorType, MemberDescriptorType)


def list_modules(model: object) -> list[nn.Module]:
    """List the modules of a module, or of an object that holds some; each of them once."""
    if isinstance(model, nn.Module):
        return [*model.modules()]
    held = _find_held(model)
    if not held:
        raise TypeError(
            "model must be a torch.nn.Module, or hold some as attributes or items, "
            f"got {model if isinstance(model, type) else type(model).__name__}"
        )
    return [*nn.ModuleList(held).modules()]


def _find_held(holder: object) -> list[nn.Module]:
    """Find modules in an object, and in the objects that it holds. None of their code runs."""
    held: list[nn.Module] = []
    seen: dict[int, object] = {}
    parts: list[object] = [holder]
    for _ in range(1 + MAX_DEPTH):
        level = []
        for part in parts:
            if issubclass(type(part), nn.Module):
                held.append(part)
            elif not issubclass(type(part), LEAVES) and id(part) not in seen:
                seen[id(part)] = part
                level.append(part)
        parts = [part for outer in level for part in _list_parts(outer)]
    return held


def _list_parts(holder: Any) -> Iterator[object]:
    """List attributes, and the items of lists, tuples and dictionaries."""
    kinds = type(holder).__mro__
    if dict in kinds:
        yield from [*dict.values(holder)]
    if list in kinds:
        yield from list.__iter__(holder)
    if tuple in kinds:
        yield from tuple.__iter__(holder)
    for kind in kinds:
        yield from _list_attributes(holder, vars(kind))


def _list_attributes(holder: object, definitions: Mapping[str, Any]) -> Iterator[object]:
    """List attributes that are stored in a dictionary or in slots, as a class defines them."""
    stored = definitions.get("__dict__")
    if isinstance(stored, DESCRIPTORS):
        yield from [*stored.__get__(holder).values()]
    if "__slots__" not in definitions:
        return
    for slot in definitions.values():
        if isinstance(slot, MemberDescriptorType):
            with suppress(AttributeError):  # one that is not set
                yield slot.__get__(holder)
