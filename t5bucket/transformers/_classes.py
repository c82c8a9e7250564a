# _classes.py - give layers a derived class, in which methods are replaced.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import copy
import functools
import inspect
import logging
import threading
from typing import Any

import torch
import transformers
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from t5bucket.transformers._holders import list_modules
from t5bucket.transformers._layer import Layer, Method, NotCoveredError, is_exact
from t5bucket.transformers._older import choices
from t5bucket.transformers._registry import LAYERS
from t5bucket.transformers._sdpa import has_choice

logger = logging.getLogger(__package__)
_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # since PyTorch 2.7


def accelerate_layers(model: object, exact: bool) -> Block:
    """Accelerate layers; return each layer with the class that it had."""
    known = list_known(model)
    before = {id(module): (module, type(module)) for module in known}
    for module in known:
        _accelerate_layer(module, exact)
    if not any(_is_accelerated(type(module)) for module in known):
        logger.warning(
            "no layer of this %s could be accelerated with transformers %s",
            type(model).__name__,
            transformers.__version__,
        )
    return before


def list_known(model: object) -> list[nn.Module]:
    """List the layers of a model that are of a supported family."""
    known = [module for module in list_modules(model) if _find_layer(type(module)) is not None]
    if not known:
        families = ", ".join(sorted({name.split(".")[0] for name in LAYERS}))
        raise ValueError(
            f"model must have a layer with relative position buckets (of {families}), "
            f"got {type(model).__name__}"
        )
    return known


def list_accelerated(model: object) -> list[tuple[nn.Module, type]]:
    """List accelerated layers with their classes, for `undo`."""
    return [
        (module, type(module)) for module in list_modules(model) if _is_accelerated(type(module))
    ]


def undo(before: list[tuple[nn.Module, type]]) -> None:
    """Give layers back the class that they had."""
    for module, cls in before:
        _change_class(module, cls)


def restore_layers(model: object) -> None:
    """Give accelerated layers back their own class."""
    for module in list_modules(model):
        if _is_accelerated(type(module)):
            _change_class(module, _find_base(type(module)))


# ---- `with` blocks, which may end in any order ----

Block = dict[int, tuple[nn.Module, type]]  # by id: a layer, and the class that it had
_open_blocks: list[Block] = []  # in the order in which they were entered
_lock = threading.RLock()  # reentrant: garbage collection of a generator may end a block anywhere


def enter_block(model: object, exact: bool) -> Block:
    """Accelerate layers until the block ends."""
    with _lock:
        block = accelerate_layers(model, exact)
        _open_blocks.append(block)
    return block


def leave_block(block: Block) -> None:
    """End a block; a layer gets its class back unless a later block still uses it."""
    with _lock:
        (place,) = [i for i, other in enumerate(_open_blocks) if other is block]
        later = _open_blocks[place + 1 :]
        del _open_blocks[place]
        for key, before in block.items():
            following = next((other for other in later if key in other), None)
            if following is not None:
                following[key] = before
            elif type(before[0]) is not before[1]:
                _change_class(*before)


def _is_accelerated(cls: type) -> bool:
    return hasattr(cls, "_t5bucket_base")


def _find_base(cls: type) -> type:
    """Return the class that an accelerated class was made from; any other class as it is."""
    base: type = vars(cls).get("_t5bucket_base", cls)
    return base


def _accelerate_layer(module: nn.Module, exact: bool) -> None:
    base = _find_base(type(module))
    if is_parametrized(module):  # PyTorch has replaced its class, too
        logger.debug("a parametrized %s is left as it is", base.__qualname__)
    elif not _is_accelerated(base):
        _change_class(module, _derive(base, exact))
    elif is_exact(module) is not exact:
        _warn_of_derived(base)


def _change_class(module: nn.Module, cls: type) -> None:
    """Give a layer another class with the same base."""
    base = _find_base(type(module))
    if _is_accelerated(base):
        _warn_of_derived(base)
    elif base is _find_base(cls):
        module.__class__ = cls


def _warn_of_derived(cls: type) -> None:
    logger.warning(
        "%s stays accelerated as it is: its class was derived from an accelerated one",
        cls.__qualname__,
    )


# ---- which methods can be replaced ----


def _find_layer(cls: type) -> tuple[type, Layer] | None:
    """Find transformers' class among a class and its bases, and the replacements for it."""
    for known in cls.__mro__:
        package, _, name = known.__module__.removeprefix("transformers.models.").partition(".")
        layer = LAYERS.get(f"{package}.{known.__qualname__}")
        if layer is not None and name == f"modeling_{package}":
            return known, layer
    return None


def _derive(base: Any, exact: bool) -> Any:
    """Derive the accelerated class from a layer's class; keep that if nothing can be replaced."""
    known, layer = _find_layer(base) or (base, Layer({}))
    if any(not _is_inherited(base, known, name) for name in layer.relies_on):
        return base
    wanted = [(name, replacement, _replace) for name, replacement in layer.biases.items()]
    if layer.attend is not None and has_choice(known):
        wanted.append(("forward", layer.attend, _replace_attention))
    if not exact:
        wanted += [(name, replacement, _replace) for name, replacement in layer.inexact.items()]
    found = [
        (name, getattr(known, name), chosen, replace)
        for name, replacement, replace in wanted
        if (chosen := _choose(base, known, name, replacement)) is not None
    ]
    return _make_class(base, exact, *found) if found else base


def _choose(base: type, known: type, name: str, replacement: Method) -> Method | None:
    """Choose the replacement that was written for a method, if there is one."""
    found = getattr(known, name, None)
    if not _is_inherited(base, known, name) or found is None:
        return None
    if not _is_of_transformers(found):
        logger.debug("%s.%s is left as it is: somebody has replaced it", known.__qualname__, name)
        return None
    for choice in choices(replacement):
        if _parameters_of(found) == _parameters_of(choice)[1:]:  # without `original`
            return choice
    logger.debug("%s.%s is left as it is: it has another signature", known.__qualname__, name)
    return None


def _parameters_of(function: Method) -> list[tuple[str, Any]]:
    parameters = inspect.signature(function).parameters.values()
    return [(parameter.name, parameter.default) for parameter in parameters]


def _is_inherited(base: type, known: type, name: str) -> bool:
    if inspect.getattr_static(base, name, None) is inspect.getattr_static(known, name, None):
        return True
    logger.debug("%s.%s is left as it is: it is not transformers' own", base.__qualname__, name)
    return False


def _is_of_transformers(method: Any) -> bool:
    """Whether transformers defined a method, and all its decorators."""
    while _home_of(method) == "transformers":
        if not hasattr(method, "__wrapped__"):
            return True
        method = method.__wrapped__
    return False


def _home_of(method: Any) -> Any:
    """Find the package of a method's code; empty for methods that are not written in Python."""
    return getattr(method, "__globals__", {}).get("__name__", "").partition(".")[0]


# ---- the accelerated class ----


@functools.lru_cache(maxsize=256)
def _make_class(base: Any, exact: bool, *found: tuple[str, Method, Method, Method]) -> Any:
    """Derive a class whose objects are copied as they are, but pickled as its base."""

    def reduce(self: Any, protocol: Any) -> Any:
        """Pickle a layer with its own class, so that it can be loaded without this package."""
        create, arguments, *rest = super(derived, self).__reduce_ex__(2)
        if arguments == (derived,):  # the default, if the class defines no __reduce__
            create, arguments = object.__new__, (base,)
        return create, arguments, *rest

    namespace: dict[str, Any] = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": reduce,
        "_t5bucket_base": base,
        "_t5bucket_exact": exact,
    }
    if not hasattr(base, "__deepcopy__"):
        namespace["__deepcopy__"] = _copy_deeply
    for name, original, replacement, replace in found:
        namespace[name] = replace(namespace.get(name, original), replacement)
    derived: Any = type(base.__name__, (base,), namespace)
    return derived


def _copy_deeply(self: Any, memo: dict[int, Any]) -> Any:
    twin = object.__new__(type(self))
    memo[id(self)] = twin
    twin.__dict__.update(copy.deepcopy(vars(self), memo))
    return twin


# ---- replacing methods ----


def _replace(original: Method, replacement: Method) -> Method:
    """Replace a method; a graph gets an operator if there is one, or else transformers' code."""
    compiled = getattr(replacement, "compiled", None)

    @functools.wraps(original)
    def method(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            found = None
            if compiled is not None and not _is_exporting():
                found = compiled(self, *args, **kwargs)
            return original(self, *args, **kwargs) if found is None else found
        try:
            return replacement(original, self, *args, **kwargs)
        except NotCoveredError as reason:
            logger.debug("%s falls back to transformers: %s", original.__qualname__, reason)
        return original(self, *args, **kwargs)

    return method


def _replace_attention(original: Method, replacement: Method) -> Method:
    @functools.wraps(original)
    def forward(self: nn.Module, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return original(self, hidden_states, *args, **kwargs)
        # A decoding step has one row: merging would cost more than it saves.
        if hidden_states.shape[1] == 1 and not _requires_grad(kwargs.get("position_bias")):
            return original(self, hidden_states, *args, **kwargs)
        return replacement(original, self, hidden_states, *args, **kwargs)

    return forward


def _requires_grad(bias: Any) -> bool:
    return bias is not None and bool(bias.requires_grad)
