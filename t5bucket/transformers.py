# transformers.py - Hugging Face's models, accelerated as they are (the extra "transformers").
# SPDX-License-Identifier: BSD-3-Clause
"""The same model with its relative position biases from t5bucket.

A layer of a supported model gets a class of its own, derived from the one it has,
in which the methods that compute biases are replaced. Whatever a replacement
does not cover goes to the method of transformers, with a message of level DEBUG
to the logger ``t5bucket.transformers``.
"""

from __future__ import annotations

import copy
import functools
import inspect
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

try:
    import torch
    import transformers
    from torch import nn
    from torch.nn.utils.parametrize import is_parametrized
except ImportError:
    raise ImportError(
        "t5bucket.transformers needs transformers: pip install 't5bucket[transformers]'"
    ) from None

from t5bucket._layers import LAYERS, Layer, Method, NotCoveredError

__all__ = ["accelerate", "accelerated", "restore", "supported_models"]

Model = TypeVar("Model", bound="nn.Module")

logger = logging.getLogger(__name__)


def accelerate(model: Model) -> Model:
    """Compute a model's relative position biases by t5bucket.

    Parameters
    ----------
    model : torch.nn.Module
        A model of a family that `supported_models` lists, or any module that holds
        layers of one. It is changed in place; its classes are not. Doing it again
        changes nothing.

    Returns
    -------
    torch.nn.Module
        `model`.

    Raises
    ------
    TypeError
        If `model` is not a module.
    ValueError
        If it has no layer that could be accelerated.

    See Also
    --------
    accelerated : For the time of a ``with`` block.
    restore : Undo it.

    Notes
    -----
    Outputs are equal bit for bit, in inference and in training: with dropout and the
    same random state, under autocast, and with gradient checkpoints of both kinds.
    Gradients are equal up to their rounding. Biases are computed once for each pair of
    lengths and contiguous, and what ``sdpa`` makes of bias and mask is made once for
    all layers that share it. Tensors that a layer reads stay as they are. What is not
    covered (other devices, tracing and compiling, transforms, offsets that are
    tensors, methods that a subclass overrides, versions of transformers with other
    signatures) runs as before.

    A deep copy is accelerated as well; a pickled model is loaded as it was before.

    Examples
    --------
    >>> import torch
    >>> from transformers import T5Config, T5EncoderModel
    >>> from t5bucket.transformers import accelerate, restore
    >>> config = T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    >>> model = T5EncoderModel(config).eval()
    >>> token_ids = torch.arange(50)[None]
    >>> with torch.no_grad():
    ...     expected = model(token_ids).last_hidden_state
    ...     found = accelerate(model)(token_ids).last_hidden_state
    >>> torch.equal(found, expected)
    True
    >>> restore(model) is model
    True
    """
    _accelerate(model)
    return model


def restore(model: Model) -> Model:
    """Undo `accelerate`.

    Parameters
    ----------
    model : torch.nn.Module
        Any module. One that is not accelerated stays as it is.

    Returns
    -------
    torch.nn.Module
        `model`.

    Raises
    ------
    TypeError
        If `model` is not a module.

    Examples
    --------
    >>> import torch
    >>> from t5bucket.transformers import restore
    >>> restore(torch.nn.Linear(1, 1))
    Linear(in_features=1, out_features=1, bias=True)
    """
    _check_model(model)
    _restore(model.modules())
    return model


@contextmanager
def accelerated(model: Model) -> Iterator[Model]:
    """Compute a model's biases by t5bucket within a ``with`` block.

    Parameters
    ----------
    model : torch.nn.Module
        As of `accelerate`.

    Yields
    ------
    torch.nn.Module
        `model`. Afterwards it is as it was, accelerated or not.

    Raises
    ------
    TypeError, ValueError
        As of `accelerate`.

    Examples
    --------
    >>> import torch
    >>> from transformers import T5Config, T5EncoderModel
    >>> from t5bucket.transformers import accelerated
    >>> config = T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    >>> with accelerated(T5EncoderModel(config)) as model, torch.no_grad():
    ...     model(torch.arange(50)[None]).last_hidden_state.shape
    torch.Size([1, 50, 32])
    """
    changed = _accelerate(model)
    try:
        yield model
    finally:
        _restore(changed)


def supported_models() -> tuple[str, ...]:
    """Names of the families of models that `accelerate` knows.

    Returns
    -------
    tuple of str
        As transformers calls them (``model_type``).

    Examples
    --------
    >>> from t5bucket.transformers import supported_models
    >>> supported_models()[:4]
    ('cpmant', 'layoutlmv2', 'layoutlmv3', 'longt5')
    """
    return tuple(sorted({name.split(".")[0] for name in LAYERS}))


# ---- changing the class of layers ----


def _accelerate(model: nn.Module) -> list[nn.Module]:
    """Accelerate the layers that are not yet; return those."""
    _check_model(model)
    known = [module for module in model.modules() if _find_layer(type(module)) is not None]
    if not known:
        layers = ", ".join(sorted({name.split(".")[1] for name in LAYERS}))
        raise ValueError(
            f"model must have a layer with relative position buckets ({layers}), "
            f"got {type(model).__name__}"
        )
    changed = []
    for module in known:
        if _is_accelerated(type(module)):
            continue
        if is_parametrized(module):  # whose class PyTorch replaces when it is asked to
            logger.debug("a parametrized %s is left", type(module).__qualname__)
            continue
        replaced = _derive(type(module))
        if replaced is not None:
            module.__class__ = replaced
            changed.append(module)
    if not changed and not any(_is_accelerated(type(module)) for module in known):
        logger.warning(
            "no layer of this %s could be accelerated with transformers %s",
            type(model).__name__,
            transformers.__version__,
        )
    return changed


def _restore(modules: Iterable[nn.Module]) -> None:
    for module in modules:
        base = vars(type(module)).get("_t5bucket_base")
        if base is not None:
            module.__class__ = base
        elif _is_accelerated(type(module)):
            logger.warning(
                "%s stays accelerated: its class was derived from an accelerated one",
                type(module).__qualname__,
            )


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")


def _is_accelerated(cls: type) -> bool:
    return hasattr(cls, "_t5bucket_base")


def _find_layer(cls: type) -> tuple[type, Layer] | None:
    """Find the class of transformers that a class is or derives from, and what replaces there."""
    for known in cls.__mro__:
        package, _, name = known.__module__.removeprefix("transformers.models.").partition(".")
        layer = LAYERS.get(f"{package}.{known.__qualname__}")
        if layer is not None and name == f"modeling_{package}":
            return known, layer
    return None


def _derive(base: Any) -> Any:
    """Derive the accelerated class of layers of a class; None if nothing can be replaced."""
    known, layer = _find_layer(base) or (base, Layer({}))
    if any(not _is_inherited(base, known, name) for name in layer.relies_on):
        return None
    wanted = [(name, replacement, _replace_bias) for name, replacement in layer.biases.items()]
    if layer.attend is not None:
        wanted.append(("forward", layer.attend, _replace_attention))
    found = [
        (name, getattr(known, name), replacement, replace)
        for name, replacement, replace in wanted
        if _is_as_expected(base, known, name, replacement)
    ]
    return _make_class(base, *found) if found else None


@functools.lru_cache(maxsize=256)
def _make_class(base: Any, *found: tuple[str, Method, Method, Method]) -> Any:
    def reduce(self: Any, protocol: Any) -> Any:
        """Pickle a layer as what it was, to be loaded without this package."""
        create, arguments, *rest = super(derived, self).__reduce_ex__(2)
        if arguments == (derived,):  # what an object that does not say otherwise is made from
            create, arguments = object.__new__, (base,)
        return create, arguments, *rest

    def copy_deeply(self: Any, memo: dict[int, Any]) -> Any:
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(vars(self), memo))
        return twin

    namespace: dict[str, Any] = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": reduce,
        "_t5bucket_base": base,
    }
    if not hasattr(base, "__deepcopy__"):
        namespace["__deepcopy__"] = copy_deeply
    for name, original, replacement, replace in found:
        namespace[name] = replace(original, replacement)
    derived: Any = type(base.__name__, (base,), namespace)
    return derived


def _is_as_expected(base: type, known: type, name: str, replacement: Method) -> bool:
    """Whether a method is the one that a replacement was written for."""
    found = getattr(known, name, None)
    if not _is_inherited(base, known, name) or found is None:
        return False
    parameters = [
        [(parameter.name, parameter.default) for parameter in signature.parameters.values()]
        for signature in (inspect.signature(found), inspect.signature(replacement))
    ]
    if not _is_of_transformers(found):
        logger.debug("%s.%s is left: somebody has replaced it", known.__qualname__, name)
    elif parameters[0] != parameters[1][1:]:  # but for `original`
        logger.debug("%s.%s is left: it has another signature", known.__qualname__, name)
    else:
        return True
    return False


def _is_of_transformers(method: Any) -> bool:
    """Whether a method, and whatever decorates it, was defined in transformers."""
    while method.__globals__["__name__"].partition(".")[0] == "transformers":
        if not hasattr(method, "__wrapped__"):
            return True
        method = method.__wrapped__
    return False


def _is_inherited(base: type, known: type, name: str) -> bool:
    if inspect.getattr_static(base, name, None) is inspect.getattr_static(known, name, None):
        return True
    logger.debug("%s.%s is left: it is not transformers' own", base.__qualname__, name)
    return False


# ---- replacing methods; what torch.compile compiles is transformers' code alone ----


def _replace_bias(original: Method, replacement: Method) -> Method:
    @functools.wraps(original)
    def method(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return original(self, *args, **kwargs)
        try:
            return replacement(original, self, *args, **kwargs)
        except NotCoveredError as reason:
            logger.debug("%s falls back to transformers: %s", original.__qualname__, reason)
        return original(self, *args, **kwargs)

    return method


def _replace_attention(original: Method, replacement: Method) -> Method:
    @functools.wraps(original)
    def forward(self: nn.Module, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        # A step of decoding has one row: the less is done about it, the better.
        is_step = hidden_states.shape[1] == 1 and not _requires_grad(kwargs.get("position_bias"))
        if is_step or torch.compiler.is_compiling():
            return original(self, hidden_states, *args, **kwargs)
        return replacement(original, self, hidden_states, *args, **kwargs)

    return forward


def _requires_grad(bias: Any) -> bool:
    return bias is not None and bool(bias.requires_grad)
