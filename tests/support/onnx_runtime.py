# onnx_runtime.py - export PyTorch modules to ONNX, and run the graphs in ONNX Runtime.
# SPDX-License-Identifier: BSD-3-Clause
from collections.abc import Callable
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
onnxruntime: Any = pytest.importorskip("onnxruntime")

from t5bucket.torch import onnx_translations  # noqa: E402


class Function(torch.nn.Module):  # type: ignore[misc]
    """A module that calls a function; its parameters become constants of the graph."""

    def __init__(self, function: Callable[..., Any], *parameters: Any) -> None:
        super().__init__()
        self.function = function
        self.own = torch.nn.ParameterList(parameters)

    def forward(self, *inputs: Any) -> Any:
        return self.function(*self.own, *inputs)


def export(module: Any, inputs: tuple[Any, ...], **options: Any) -> Any:
    """Export a module with our translations; turn off its gradients."""
    options = {"custom_translation_table": onnx_translations(), **options}
    return torch.onnx.export(
        module.eval().requires_grad_(False), inputs, dynamo=True, verbose=False, **options
    )


def start(program: Any) -> Callable[..., list[Any]]:
    """Load a graph in ONNX Runtime; return a function that runs it."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    names = [given.name for given in session.get_inputs()]

    def run(*inputs: Any) -> list[Any]:
        given = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, given)]

    return run


def count_operators(program: Any, name: str) -> int:
    return sum(node.op_type == name for node in program.model.graph)


def is_standard(program: Any) -> bool:
    """Whether all operators are ONNX's own, without logarithms."""
    return all(node.domain == "" and node.op_type != "Log" for node in program.model.graph)
