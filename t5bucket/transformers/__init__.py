# __init__.py - Hugging Face's models, accelerated as they are (the extra "transformers").
# SPDX-License-Identifier: BSD-3-Clause
"""The same model, with its relative position biases computed by t5bucket.

Each layer of a supported model gets a class of its own, derived from the class it has, in
which the methods that compute biases are replaced. If a replacement does not cover a call,
the method of transformers runs, and a message of level DEBUG goes to the logger
``t5bucket.transformers``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

try:
    import torch  # noqa: F401
    import transformers  # noqa: F401
except ImportError:
    raise ImportError(
        "t5bucket.transformers needs transformers: pip install 't5bucket[transformers]'"
    ) from None

from t5bucket import _checks
from t5bucket.transformers._classes import (
    accelerate_layers,
    enter_block,
    leave_block,
    restore_layers,
)
from t5bucket.transformers._estimate import Estimate, Task, run_task
from t5bucket.transformers._registry import LAYERS

__all__ = ["Estimate", "accelerate", "accelerated", "estimate", "restore", "supported_models"]

Model = TypeVar("Model")


def accelerate(model: Model, *, exact: bool = True) -> Model:
    """Compute a model's relative position biases with t5bucket.

    Parameters
    ----------
    model : torch.nn.Module, or an object that holds some
        A model of a family that `supported_models` lists, or any module that holds
        layers of such a model. It is changed in place; transformers' classes are not. Of
        another object, such as a pipeline, the modules are changed that it holds: as
        attributes, also those of ``__slots__``, as items of lists, tuples and dictionaries,
        and in the objects that it holds, five deep. No property and no method of them is
        called.
    exact : bool, optional
        Whether outputs must have the same bits. If False, they are equal up to rounding
        (1e-5 relative in float32), and inference is faster. A second call changes an
        accelerated model to what it says.

    Returns
    -------
    torch.nn.Module, or the object
        `model`.

    Raises
    ------
    TypeError
        If `model` is not a module and holds none, or `exact` is not a boolean.
    ValueError
        If the model has no layer that could be accelerated.

    See Also
    --------
    accelerated : The context-manager form.
    estimate : Measure what it gives.
    restore : Undo it.

    Notes
    -----
    If `exact`, outputs are equal bit for bit, in inference and in training: with dropout and the
    same random state, under autocast, and with both kinds of gradient checkpoints.
    Gradients are equal up to rounding.

    Where transformers has ``sdpa`` and T5's attention, no bias matrix is made: each layer
    calls `t5bucket.torch.scaled_dot_product_attention`. Layers hand on a tensor that makes
    the matrix when somebody looks at it, as hooks and a user's own attention function do.
    Short texts (1 MiB), steps of decoding and training with dropout take the matrix, which
    is computed once for each pair of lengths. The zeros of cross-attention take no memory.
    LayoutLMv3 and UDOP's encoder merge bias and mask once for all layers.

    In training a bias has the gradient of its uses outside of attention alone, if a tensor
    hook or ``retain_grad`` reads it. The weight has the whole gradient.

    A graph of ``torch.compile`` has t5bucket's attention where T5 and its relatives have
    ``sdpa``, and no bias matrix, unless something else reads it, or the text is short. It
    keeps the operator that computes T5's bias for dropout, autocast, ``eager`` attention and
    checkpoints, and where a bias leaves its graph. The rest runs as before: other devices,
    tracing and exporting, transforms, offsets that are tensors, methods that a subclass
    overrides, versions of transformers with other signatures. The tensors that layers read
    do not change.

    If not `exact`, the attentions of T5 and its relatives cut off padded keys, and MPNet,
    WavLM, LongT5 and Switch Transformers attend without a matrix for each layer, although
    transformers has their attention as ``eager`` alone. Training, autocast,
    ``output_attentions`` and attentions with hooks run as if `exact`.

    A deep copy is accelerated as well. A pickled model is loaded without acceleration.

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
    accelerate_layers(model, _checks.flag("exact", exact))
    return model


def restore(model: Model) -> Model:
    """Undo ``accelerate``.

    Parameters
    ----------
    model : torch.nn.Module, or an object that holds some
        Any module. One that is not accelerated stays as it is.

    Returns
    -------
    torch.nn.Module, or the object
        `model`.

    Raises
    ------
    TypeError
        If `model` is not a module and holds none.

    Examples
    --------
    >>> import torch
    >>> from t5bucket.transformers import restore
    >>> restore(torch.nn.Linear(1, 1))
    Linear(in_features=1, out_features=1, bias=True)
    """
    restore_layers(model)
    return model


@contextmanager
def accelerated(model: Model, *, exact: bool = True) -> Iterator[Model]:
    """Compute a model's biases with t5bucket within a ``with`` block.

    Parameters
    ----------
    model : torch.nn.Module, or an object that holds some
        As in `accelerate`.
    exact : bool, optional
        As in `accelerate`.

    Yields
    ------
    torch.nn.Module, or the object
        `model`. After the block it is as before: accelerated, exact or not. Blocks may
        overlap in any order, in threads too: the last one that is left restores the model.

    Raises
    ------
    TypeError, ValueError
        As in `accelerate`.

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
    block = enter_block(model, _checks.flag("exact", exact))
    try:
        yield model
    finally:
        leave_block(block)


def estimate(
    model: object,
    length: int,
    *,
    batch: int = 1,
    padding: float = 0.0,
    repeats: int = 5,
    exact: bool = True,
) -> Estimate:
    """Measure a model's time at a length, with and without t5bucket.

    Parameters
    ----------
    model : transformers.PreTrainedModel, or what holds one
        A model on the CPU, of a family that `supported_models` lists. Of an encoder and a
        decoder, the encoder is run. Afterwards the model is as before.
    length : int
        Tokens of a row; of WavLM, frames of sound.
    batch : int, optional
        Number of rows.
    padding : float, optional
        Part of each row, at its end, that is padding: at least 0 and less than 1.
    repeats : int, optional
        Timed calls of each. Both take turns, after one call that is not timed.
    exact : bool, optional
        As in `accelerate`.

    Returns
    -------
    Estimate
        What was run, the median seconds ``transformers`` and ``t5bucket``, their
        ``ratio``, and whether outputs have the ``same_bits``.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of its limits, or the model cannot run
        at this length, is not of a supported family, or not on the CPU.
    MemoryError
        If a call does not fit in memory.

    See Also
    --------
    accelerate : Use it.

    Notes
    -----
    The model infers (``eval``, ``no_grad``) on random tokens, with random boxes and pixels
    if it reads them. Speed does not depend on them.

    Examples
    --------
    >>> from transformers import T5Config, T5EncoderModel
    >>> from t5bucket.transformers import estimate
    >>> config = T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    >>> found = estimate(T5EncoderModel(config), 256, repeats=1)
    >>> found.same_bits
    True
    >>> found.ratio == found.t5bucket / found.transformers
    True
    """
    return run_task(model, make_task(length, batch, padding, repeats, exact), lambda done: None)


def make_task(length: int, batch: int, padding: float, repeats: int, exact: bool) -> Task:
    """Check the arguments of `estimate`."""
    padding = _checks.real("padding", padding)
    if not 0 <= padding < 1:
        raise ValueError(f"padding must be at least 0 and less than 1, got {padding}")
    return Task(
        _checks.integer("length", length, 1),
        _checks.integer("batch", batch, 1),
        padding,
        _checks.integer("repeats", repeats, 1),
        _checks.flag("exact", exact),
    )


def supported_models() -> tuple[str, ...]:
    """Names of the families of models that ``accelerate`` knows.

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
