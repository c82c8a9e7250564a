# _models.py - models of transformers of their real sizes, with and without t5bucket.
# SPDX-License-Identifier: BSD-3-Clause
"""Weights are random: speed does not depend on them. All processors are used, as by default."""

from __future__ import annotations

import copy
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from t5bucket._machine import available_cpus, read
from t5bucket.cli._peers import Call

T5_SMALL = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8}
UMT5_SMALL = {"vocab_size": 256384, "d_model": 512, "d_ff": 1024, "num_layers": 8, "num_heads": 6}
NEW_TOKENS = 128


def import_frameworks() -> tuple[Any, Any, Any]:
    """Import PyTorch, transformers and what accelerates it."""
    try:
        import torch
        import transformers

        import t5bucket.transformers as ours
    except ImportError as error:
        raise NotImplementedError(str(error)) from error
    torch.set_num_threads(available_cpus())
    return torch, transformers, ours


@cache
def make_model(name: str) -> Any:
    """Make a model of its real size, with random weights."""
    torch, transformers, _ = import_frameworks()
    torch.manual_seed(0)
    if name.startswith("t5-small"):
        config = transformers.T5Config(**T5_SMALL, decoder_start_token_id=0)
        kinds = (transformers.T5EncoderModel, transformers.T5ForConditionalGeneration)
    elif name.startswith("umt5-small"):
        config = transformers.UMT5Config(**UMT5_SMALL, decoder_start_token_id=0)
        kinds = (transformers.UMT5EncoderModel, transformers.UMT5ForConditionalGeneration)
    elif name == "layoutlmv3-base":
        config = transformers.LayoutLMv3Config()
        kinds = (transformers.LayoutLMv3Model,) * 2
    else:
        config = transformers.MPNetConfig()
        kinds = (transformers.MPNetModel,) * 2
    return kinds["decoder" in name](config).eval()


def accelerated_twin(model: Any) -> Any:
    """Make an accelerated model of the same weights."""
    _, _, ours = import_frameworks()
    weights = {id(parameter): parameter for parameter in model.parameters()}
    return ours.accelerate(copy.deepcopy(model, weights))


def make_inputs(name: str, batch: int, length: int, padded: bool) -> dict[str, Any]:
    """Make token ids, with what else the model takes."""
    torch, _, _ = import_frameworks()
    generator = torch.Generator().manual_seed(0)
    lengths = torch.linspace(length, 0.6 * length, batch + padded).long()[-batch:]
    inputs = {
        "input_ids": torch.randint(3, 999, (batch, length), generator=generator),
        "attention_mask": (torch.arange(length) < lengths[:, None]).long(),
    }
    if name == "layoutlmv3-base":
        corner = torch.randint(0, 500, (batch, length, 2), generator=generator)
        inputs["bbox"] = torch.cat([corner, corner + 20], dim=-1)
        inputs["pixel_values"] = torch.randn(batch, 3, 224, 224, generator=generator)
    return inputs


def forward(implementation: str, name: str, batch: int, length: int, padded: bool = False) -> Call:
    """Encode a batch."""
    torch, _, _ = import_frameworks()
    model = make_model(name)
    if implementation == "t5bucket":
        model = accelerated_twin(model)
    inputs = make_inputs(name, batch, length, padded)

    def call() -> Any:
        with torch.no_grad():
            return model(**inputs).last_hidden_state

    return call


def decode(implementation: str, name: str) -> Call:
    """Generate tokens greedily."""
    model = make_model(name)
    if implementation == "t5bucket":
        model = accelerated_twin(model)
    inputs = make_inputs(name, 1, 32, False)
    lengths = {"min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS}
    return lambda: model.generate(**inputs, **lengths, do_sample=False)


def peak_memory(implementation: str, length: int = 4096) -> float:
    """Measure the largest memory of a process that encodes with t5-small, in bytes."""
    import_frameworks()
    script = f"from t5bucket.cli import _models; _models.print_peak({implementation!r}, {length})"
    command = [sys.executable, "-c", script]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(implementation: str, length: int) -> None:
    """Encode, and print the largest memory of this process."""
    forward(implementation, "t5-small", 1, length)()
    if sys.platform == "linux":  # where getrusage counts what the parent had before exec
        status = dict(line.split(":", 1) for line in read("/proc/self/status").splitlines())
        print(int(status["VmHWM"].split()[0]) << 10)
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def assert_equal(prepare: Callable[..., Call], *arguments: Any) -> None:
    """Check that both ways have the same bits."""
    torch, _, _ = import_frameworks()
    expected, found = (prepare(way, *arguments)() for way in ("transformers", "t5bucket"))
    if not torch.equal(found, expected):
        raise AssertionError(f"the outputs of {arguments} differ")
