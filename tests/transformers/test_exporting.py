# test_exporting.py - accelerated models export to the same ONNX graphs as transformers' own.
# SPDX-License-Identifier: BSD-3-Clause
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import models  # noqa: E402
from onnx_runtime import export, start  # noqa: E402

from t5bucket.transformers import accelerate  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of PyTorch's exporter, about its own parts


class FirstOutput(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, case: models.Case) -> None:
        super().__init__()
        self.model, self.names = case.model, list(case.inputs)

    def forward(self, *inputs: Any) -> Any:
        return self.model(**dict(zip(self.names, inputs, strict=True)))[0]


def nodes_of(case: models.Case, **options: Any) -> list[str]:
    """Export a model; list its graph's nodes with their inputs and outputs."""
    program = export(FirstOutput(case), tuple(case.inputs.values()), **options)
    return [str(node) for node in program.model.graph]


def test_an_accelerated_encoder_needs_no_table() -> None:
    config = transformers.T5Config(**{**models.T5, "num_layers": 1})
    encoder = transformers.T5EncoderModel(config).eval()
    inputs = {"input_ids": models.tokens(), "attention_mask": models.lengths_mask()}
    case = models.Case(encoder, inputs)
    axes = {0: "batch", 1: "length"}
    options: dict[str, Any] = {
        "dynamic_shapes": ((axes, axes),),
        "custom_translation_table": None,
    }
    expected = nodes_of(case, **options)
    accelerate(encoder)
    assert nodes_of(case, **options) == expected


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "umt5", "mpnet", "wavlm"])
@pytest.mark.parametrize("exact", [True, False])
def test_an_accelerated_model_becomes_transformers_own_graph(family: str, exact: bool) -> None:
    case = models.make(family, padded=True)
    expected = nodes_of(case)
    accelerate(case.model, exact=exact)
    assert nodes_of(case) == expected


def test_the_graph_of_an_accelerated_model_gives_its_outputs() -> None:
    case = models.make("mpnet", padded=True)
    accelerate(case.model)
    module, inputs = FirstOutput(case), tuple(case.inputs.values())
    (found,) = start(export(module, inputs))(*inputs)
    torch.testing.assert_close(found, module(*inputs), rtol=1e-4, atol=1e-5)
