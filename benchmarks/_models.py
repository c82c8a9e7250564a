# _models.py - models of transformers in their real sizes, with and without t5bucket.
# SPDX-License-Identifier: BSD-3-Clause
"""Weights are random: speed does not depend on them. All processors are used, as by default."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, NamedTuple

from benchmarks import _methods
from t5bucket._machine import available_cpus
from t5bucket.cli._measure import Call, Result

T5_SMALL = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8}
UMT5_SMALL = {"vocab_size": 256384, "d_model": 512, "d_ff": 1024, "num_layers": 8, "num_heads": 6}
START = {"decoder_start_token_id": 0}
MODELS: dict[str, tuple[str, str, dict[str, int]]] = {  # class, configuration, its options
    "t5-small": ("T5EncoderModel", "T5Config", T5_SMALL),
    "t5-small decoder": ("T5ForConditionalGeneration", "T5Config", T5_SMALL | START),
    "t5-small no dropout": (
        "T5ForConditionalGeneration",
        "T5Config",
        T5_SMALL | START | {"dropout_rate": 0},
    ),
    "umt5-small": ("UMT5EncoderModel", "UMT5Config", UMT5_SMALL),
    "umt5-small decoder": ("UMT5ForConditionalGeneration", "UMT5Config", UMT5_SMALL | START),
    "layoutlmv3-base": ("LayoutLMv3Model", "LayoutLMv3Config", {}),
    "mpnet-base": ("MPNetModel", "MPNetConfig", {}),
    "wavlm-base encoder": ("WavLMModel", "WavLMConfig", {}),
}
TOLERANCE = 1e-5  # of differences by rounding, relative to the largest output


def import_frameworks() -> tuple[Any, Any, Any]:
    """Import PyTorch, transformers and t5bucket.transformers."""
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
    """Make a model in its real size, with random weights."""
    torch, transformers, _ = import_frameworks()
    model, config, options = MODELS[name]
    torch.manual_seed(0)
    return getattr(transformers, model)(getattr(transformers, config)(**options)).eval()


def find_model(implementation: str, name: str, exact: bool = True) -> Any:
    """Return a model, or an accelerated copy with the same weights."""
    model = make_model(name)
    if implementation != "t5bucket":
        return model
    _, _, ours = import_frameworks()
    weights = {id(parameter): parameter for parameter in model.parameters()}
    return ours.accelerate(copy.deepcopy(model, weights), exact=exact)


# ---- tasks ----


class Encoding(NamedTuple):
    """Encode a batch."""

    name: str
    batch: int
    length: int
    padded: bool = False
    exact: bool = True

    def __str__(self) -> str:
        padded, exact = " padded" * self.padded, ", exact=False" * (not self.exact)
        return f"{self.name}, {self.batch} x {self.length}{padded}{exact}"

    def prepare(self, implementation: str) -> Call:
        """Make the call; WavLM's encoder gets frames, and other models get tokens."""
        torch, _, _ = import_frameworks()
        model = find_model(implementation, self.name, self.exact)
        inputs = self.make_inputs()
        encode = model.encoder if "hidden_states" in inputs else model

        def call() -> Any:
            with torch.no_grad():
                return encode(**inputs).last_hidden_state

        return call

    def make_inputs(self) -> dict[str, Any]:
        """Make token ids, and the model's other inputs."""
        torch, _, _ = import_frameworks()
        generator = torch.Generator().manual_seed(0)
        if self.name == "wavlm-base encoder":
            frames = torch.randn(self.batch, self.length, 768, generator=generator)
            return {"hidden_states": frames}
        inputs = {
            "input_ids": torch.randint(3, 999, (self.batch, self.length), generator=generator),
            "attention_mask": self.make_mask(),
        }
        if self.name == "layoutlmv3-base":
            corner = torch.randint(0, 500, (self.batch, self.length, 2), generator=generator)
            inputs["bbox"] = torch.cat([corner, corner + 20], dim=-1)
            inputs["pixel_values"] = torch.randn(self.batch, 3, 224, 224, generator=generator)
        return inputs

    def make_mask(self) -> Any:
        """Make a mask that is 1 except for padding: if padded, 40 % of the last row."""
        torch, _, _ = import_frameworks()
        lengths = torch.linspace(self.length, 0.6 * self.length, self.batch + self.padded)
        return (torch.arange(self.length) < lengths.long()[-self.batch :, None]).long()

    def check(self, found: Any, expected: Any) -> None:
        """Raise an error if the outputs differ; if not exact, those of padding may."""
        if self.exact:
            check_bits(found, expected)
            return
        difference = (found - expected)[self.make_mask().bool()].abs().max()
        if difference > TOLERANCE * expected.abs().max():
            raise AssertionError(f"the outputs of {self} differ by {difference}")


class Decoding(NamedTuple):
    """Generate tokens greedily."""

    name: str
    length: int = 128

    def __str__(self) -> str:
        return f"{self.name}, {self.length} tokens"

    def prepare(self, implementation: str) -> Call:
        """Make the call."""
        model = find_model(implementation, self.name)
        inputs = Encoding(self.name, 1, 32).make_inputs()
        lengths = {"min_new_tokens": self.length, "max_new_tokens": self.length}
        return lambda: model.generate(**inputs, **lengths, do_sample=False)

    def check(self, found: Any, expected: Any) -> None:
        """Raise an error if the tokens differ."""
        check_bits(found, expected)


class TrainingStep(NamedTuple):
    """Compute the loss of 128 labels, and the gradients."""

    name: str
    length: int

    def __str__(self) -> str:
        return f"training step, {self.name}, 1 x {self.length}"

    def prepare(self, implementation: str) -> Call:
        """Make the call; gradients are added to those of earlier calls."""
        model = find_model(implementation, self.name).train()
        inputs = Encoding(self.name, 1, self.length).make_inputs()
        labels = inputs["input_ids"][:, :128]

        def call() -> Any:
            loss = model(**inputs, labels=labels).loss
            loss.backward()
            return loss.detach()

        return call

    def check(self, found: Any, expected: Any) -> None:
        """Raise an error if the losses differ."""
        check_bits(found, expected)


Task = Encoding | Decoding | TrainingStep


def check_bits(found: Any, expected: Any) -> None:
    """Raise an error if tensors differ."""
    if not found.equal(expected):
        raise AssertionError("the outputs differ")


# ---- measurements ----


def compare(task: Task, min_rounds: int) -> Result:
    """Time both implementations in this process."""
    ours, peer = (task.prepare(way) for way in ("t5bucket", "transformers"))
    task.check(ours(), peer())
    return _methods.compare_medians(ours, peer, min_rounds)


def prepare(task: Task, implementation: str) -> Call:
    """Make the call of a task."""
    return task.prepare(implementation)


def measure_growth(implementation: str, task: Encoding | TrainingStep) -> float:
    """Measure by how many bytes a task increases the peak memory of a process."""
    import_frameworks()
    small = (task._replace(length=_methods.SMALL_LENGTH), implementation)
    return _methods.measure_growth(prepare, (task, implementation), small)
