# _models.py - models of transformers of their real sizes, with and without t5bucket.
# SPDX-License-Identifier: BSD-3-Clause
"""Weights are random: speed does not depend on them. All processors are used, as by default."""

from __future__ import annotations

import copy
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from t5bucket._machine import available_cpus, read
from t5bucket.cli._measure import Call

T5_SMALL = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8}
UMT5_SMALL = {"vocab_size": 256384, "d_model": 512, "d_ff": 1024, "num_layers": 8, "num_heads": 6}
MODELS: dict[str, tuple[str, str, dict[str, int]]] = {  # class, configuration, its options
    "t5-small": ("T5EncoderModel", "T5Config", T5_SMALL),
    "t5-small decoder": ("T5ForConditionalGeneration", "T5Config", T5_SMALL),
    "umt5-small": ("UMT5EncoderModel", "UMT5Config", UMT5_SMALL),
    "umt5-small decoder": ("UMT5ForConditionalGeneration", "UMT5Config", UMT5_SMALL),
    "layoutlmv3-base": ("LayoutLMv3Model", "LayoutLMv3Config", {}),
    "mpnet-base": ("MPNetModel", "MPNetConfig", {}),
}
# What is encoded (model, batch, length, padded), and the bound of t5bucket's time over that of
# transformers: the median that an idle machine gave, and a tenth for noise. It is 1.1 where there
# is nothing to gain: no slower.
ENCODINGS = {
    ("t5-small", 1, 1024, False): 0.85,
    ("t5-small", 1, 2048, False): 0.7,
    ("t5-small", 4, 512, True): 0.9,
    ("t5-small", 1, 1024, True): 0.75,
    ("umt5-small", 1, 1024, False): 0.75,
    ("layoutlmv3-base", 1, 510, False): 1.1,
    ("layoutlmv3-base", 1, 510, True): 1.1,
    ("mpnet-base", 1, 128, False): 1.1,
    ("mpnet-base", 8, 128, True): 1.1,
    ("mpnet-base", 1, 500, False): 1.1,
}
DECODINGS = {"t5-small decoder": 1.1, "umt5-small decoder": 1.1}
NEW_TOKENS = 128
ROOT = Path(__file__).parents[1]


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
    model, config, options = MODELS[name]
    torch.manual_seed(0)
    if name.endswith("decoder"):
        options = {**options, "decoder_start_token_id": 0}
    return getattr(transformers, model)(getattr(transformers, config)(**options)).eval()


def find_model(implementation: str, name: str) -> Any:
    """Find a model, or make an accelerated one of the same weights."""
    model = make_model(name)
    if implementation != "t5bucket":
        return model
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
    model = find_model(implementation, name)
    inputs = make_inputs(name, batch, length, padded)

    def call() -> Any:
        with torch.no_grad():
            return model(**inputs).last_hidden_state

    return call


def decode(implementation: str, name: str) -> Call:
    """Generate tokens greedily."""
    model = find_model(implementation, name)
    inputs = make_inputs(name, 1, 32, False)
    lengths = {"min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS}
    return lambda: model.generate(**inputs, **lengths, do_sample=False)


def peak_memory(implementation: str, length: int = 4096) -> float:
    """Measure the largest memory of a process that encodes with t5-small, in bytes."""
    import_frameworks()
    if sys.platform == "win32":
        raise NotImplementedError("Windows does not tell the peak memory in this way")
    # The checkout comes last: the installed package is measured.
    script = f"import sys; sys.path.append({str(ROOT)!r}); from benchmarks import _models; "
    script += f"_models.print_peak({implementation!r}, {length})"
    command = [sys.executable, "-P", "-c", script]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(implementation: str, length: int) -> None:
    """Encode, and print the largest memory of this process."""
    forward(implementation, "t5-small", 1, length)()
    if sys.platform == "linux":  # where getrusage counts what the parent had before exec
        status = dict(line.split(":", 1) for line in read("/proc/self/status").splitlines())
        print(int(status["VmHWM"].split()[0]) << 10)
    else:
        import resource  # only POSIX has it

        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
