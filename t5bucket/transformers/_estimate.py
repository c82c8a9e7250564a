# _estimate.py - measure a model's time at a length, with and without t5bucket.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from t5bucket._checks import first_line
from t5bucket.transformers._classes import (
    enter_block,
    leave_block,
    list_accelerated,
    list_known,
    restore_layers,
    undo,
)
from t5bucket.transformers._holders import list_modules
from t5bucket.transformers._inputs import make_inputs

Call = Callable[[], Any]


class Estimate(NamedTuple):
    """The time that a model takes, with and without t5bucket.

    Parameters
    ----------
    part : str
        The part that was run, such as ``"MPNetModel"`` or ``"encoder (T5Stack) of T5Model"``.
    transformers : float
        Seconds for a call without t5bucket.
    t5bucket : float
        Seconds for a call with t5bucket.
    same_bits : bool
        Whether all outputs have the same bits.
    transformers_range, t5bucket_range : tuple of float, optional
        Seconds of the fastest and the slowest timed call.

    Examples
    --------
    >>> from t5bucket.transformers import Estimate
    >>> Estimate("MPNetModel", 2.0, 1.0, True).ratio
    0.5
    """

    part: str
    transformers: float
    t5bucket: float
    same_bits: bool
    transformers_range: tuple[float, float] | None = None
    t5bucket_range: tuple[float, float] | None = None

    @property
    def ratio(self) -> float:
        """Seconds with t5bucket, divided by those without: below 1 it is faster."""
        return self.t5bucket / self.transformers

    @property
    def is_within_noise(self) -> bool:
        """Whether the ranges overlap: then the calls show no difference."""
        if self.transformers_range is None or self.t5bucket_range is None:
            return False
        (fast, slow), (our_fast, our_slow) = self.transformers_range, self.t5bucket_range
        return fast <= our_slow and our_fast <= slow


class Task(NamedTuple):
    """Checked arguments of `estimate`."""

    length: int
    batch: int
    padding: float
    repeats: int
    exact: bool

    @property
    def num_calls(self) -> int:
        """How often the model is called."""
        return 2 * (self.repeats + 1)


def run_task(model: Any, task: Task, report: Callable[[int], object]) -> Estimate:
    """Measure a model, and leave it as it was; `report` gets how many calls just ended."""
    part, name = find_part(model)
    _check_device(part)
    with _fitting_memory(task), _as_it_was(part), torch.no_grad():
        inputs = make_inputs(part, task.length, task.batch, task.padding)

        def call() -> Any:
            return _call(part, inputs, task)

        restore_layers(part)
        expected = call()
        report(1)
        with _accelerated(part, task.exact):
            _check_accelerated(part)
            same_bits = _have_same_bits(call(), expected)
        report(1)
        del expected
        seconds: list[tuple[float, float]] = []
        for _ in range(task.repeats):
            without = _time(call)
            with _accelerated(part, task.exact):
                seconds.append((without, _time(call)))
            report(2)
    theirs, ours = zip(*seconds, strict=True)
    ranges = [(min(times), max(times)) for times in (theirs, ours)]
    return Estimate(name, median(theirs), median(ours), same_bits, *ranges)


# ---- what is run ----


def find_part(model: Any) -> tuple[PreTrainedModel, str]:
    """Find the part to run, the model or its encoder; return it with a description."""
    known = {id(module) for module in list_known(model)}

    def holds_known(module: nn.Module) -> bool:
        return any(id(part) in known for part in module.modules())

    models = [
        module
        for module in list_modules(model)
        if isinstance(module, PreTrainedModel) and holds_known(module)
    ]
    if not models:
        raise ValueError(
            "model must be a transformers.PreTrainedModel or hold one, such as T5EncoderModel, "
            f"got {type(model).__name__}"
        )
    found = models[0]
    name = type(found).__name__
    if found.config.is_encoder_decoder and not getattr(found, "is_decoder", False):
        for stack in ("encoder", "decoder"):
            part = getattr(found, f"get_{stack}")()
            if part is not found and isinstance(part, PreTrainedModel) and holds_known(part):
                return part, f"{stack} ({type(part).__name__}) of {name}"
    return found, name if found is model else f"{name} of {type(model).__name__}"


def _check_device(part: nn.Module) -> None:
    for tensor in (*part.parameters(), *part.buffers()):
        if tensor.device.type != "cpu":
            raise ValueError(
                f"model must be on the CPU, where t5bucket computes, got device {tensor.device}; "
                "estimate(model.cpu(), ...) measures it there"
            )


def _check_accelerated(part: nn.Module) -> None:
    if not list_accelerated(part):
        raise ValueError(
            f"model must have a layer that t5bucket accelerates with transformers "
            f"{transformers.__version__}, got {type(part).__name__}"
        )


# ---- how it is run ----


@contextmanager
def _as_it_was(part: nn.Module) -> Iterator[None]:
    """Switch to inference in a block; afterwards restore the mode and class of each layer."""
    training = [(module, module.training) for module in part.modules()]
    classes = list_accelerated(part)
    try:
        with torch.random.fork_rng(devices=[]):  # some models draw a random number for each layer
            part.eval()
            yield
    finally:
        for module, was_training in training:
            module.training = was_training
        undo(classes)


@contextmanager
def _accelerated(part: nn.Module, exact: bool) -> Iterator[None]:
    block = enter_block(part, exact)
    try:
        yield
    finally:
        leave_block(block)


def _call(part: nn.Module, inputs: dict[str, Any], task: Task) -> Any:
    try:
        return part(**inputs)
    except Exception as error:  # a model's code may raise anything
        if _is_of_memory(error):
            raise
        reason = first_line(error)
        raise ValueError(
            f"model must run on random {', '.join(inputs)} of {task.batch} x {task.length} tokens, "
            f"got {type(error).__name__}: {reason}{_explain_length(part, task.length)}"
        ) from error


@contextmanager
def _fitting_memory(task: Task) -> Iterator[None]:
    """Turn all errors of memory, of which PyTorch has several, into MemoryError."""
    try:
        yield
    except Exception as error:
        if not _is_of_memory(error):
            raise
        raise MemoryError(
            f"a call with {task.batch} x {task.length} tokens must fit in memory: "
            f"{first_line(error)}"
        ) from error


def _is_of_memory(error: Exception) -> bool:
    is_of_torch = isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("allocate memory", "size calculation overflowed")
    )
    return is_of_torch or isinstance(error, MemoryError)


def _explain_length(part: Any, length: int) -> str:
    largest = getattr(part.config, "max_position_embeddings", None)
    if not isinstance(largest, int) or length < largest - 2:  # some reserve two for padding
        return ""
    return f"; its max_position_embeddings is {largest}, so length must be smaller"


def _time(call: Call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _have_same_bits(found: Any, expected: Any) -> bool:
    pairs = zip(_list_tensors(found), _list_tensors(expected), strict=True)
    return all(
        a.shape == b.shape and a.dtype == b.dtype and torch.equal(_bits_of(a), _bits_of(b))
        for a, b in pairs
    )


def _bits_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _list_tensors(output: Any) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output
    if not isinstance(output, dict | tuple | list):
        return []
    return [tensor for part in parts for tensor in _list_tensors(part)]
