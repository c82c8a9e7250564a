# _engines.py - compiled encoders compared with inference engines.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from typing import Any

from benchmarks import _methods, _models
from benchmarks._models import Encoding
from t5bucket._machine import available_cpus
from t5bucket.cli._measure import Call, Result, Row

LEGEND = """\
rows of engines:
  compiled       torch.compile of the model, with frozen weights
  OpenVINO       the model of transformers; dynamic: for texts of any length; static: for one
Each row has a process of its own; times are medians of calls in turn. Outputs are compared."""


def prepare_compiled(task: Encoding, implementation: str) -> Call:
    """Compile a model with frozen weights, for the shape of the task."""
    torch, _, _ = _models.import_frameworks()
    import torch._inductor.config as inductor

    model = _models.find_model(implementation, task.name)
    compiled = torch.compile(model, fullgraph=True, dynamic=False)
    token_ids = task.make_inputs()["input_ids"]

    def call() -> Any:
        with torch.no_grad(), inductor.patch(freezing=True):
            return compiled(input_ids=token_ids).last_hidden_state

    return call


def prepare_openvino(task: Encoding, is_static: bool) -> Call:
    """Convert a model of transformers to OpenVINO, for the length of the task or for any."""
    torch, _, _ = _models.import_frameworks()
    try:
        import openvino
    except ImportError as error:
        raise NotImplementedError(str(error)) from error
    model = _models.find_model("transformers", task.name)
    token_ids = task.make_inputs()["input_ids"]

    class Encoder(torch.nn.Module):  # type: ignore[misc, name-defined]
        """The model with one input and one output."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, token_ids: Any) -> Any:
            return self.model(input_ids=token_ids).last_hidden_state

    shape = openvino.PartialShape([task.batch, task.length if is_static else -1])
    with torch.no_grad():
        converted = openvino.convert_model(Encoder(), example_input=token_ids, input=[shape])
    options = {
        "INFERENCE_NUM_THREADS": available_cpus(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(converted, "CPU", options)
    array = token_ids.numpy()
    return lambda: torch.from_numpy(compiled([array])[0])


PEERS = {
    "transformers": lambda task: prepare_compiled(task, "transformers"),
    "OpenVINO dynamic": lambda task: prepare_openvino(task, False),
    "OpenVINO static": lambda task: prepare_openvino(task, True),
}


def compare(task: Encoding, peer: str) -> Result:
    """Time both in turn, in this process."""
    theirs, ours = PEERS[peer](task), prepare_compiled(task, "t5bucket")
    task.check(ours(), theirs())
    return _methods.compare_medians(ours, theirs, _methods.MIN_ROUNDS)


def make_row(length: int, peer: str, at_most: float) -> Row:
    """Make a row of a compiled encoder."""
    task = Encoding("t5-small", 1, length, exact=False)  # equal up to rounding

    def measure() -> Result:
        _models.import_frameworks()
        return Result(*_methods.run_in_process(compare, task, peer))

    return Row(f"t5-small, 1 x {length}, compiled", peer, at_most, measure)


AIMS = {"transformers": 1.0, "OpenVINO dynamic": 1.0, "OpenVINO static": 1.1}
ROWS = tuple(
    make_row(length, peer, at_most)
    for length in (1024, 2048, 4096)
    for peer, at_most in AIMS.items()
)
