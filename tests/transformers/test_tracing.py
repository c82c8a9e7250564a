# test_tracing.py - accelerated models that are traced, compiled, exported or watched.
# SPDX-License-Identifier: BSD-3-Clause
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import models  # noqa: E402
from outputs import assert_same_bits, run  # noqa: E402

from t5bucket.transformers import accelerate  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about its own versions


def test_a_traced_model_gives_the_same_bits() -> None:
    encoder = transformers.T5EncoderModel(transformers.T5Config(**models.T5)).eval()
    token_ids = models.tokens()
    with torch.no_grad():
        expected = encoder(token_ids).last_hidden_state
        traced = torch.jit.trace(accelerate(encoder), (token_ids,), strict=False, check_trace=False)
        shorter = token_ids[:, :70]
        assert torch.equal(traced(token_ids)["last_hidden_state"], expected)
        assert traced(shorter)["last_hidden_state"].shape == (models.BATCH, 70, 32)


@pytest.mark.parametrize("family", ["t5", "umt5", "mpnet", "pop2piano"])
def test_compiling_needs_no_graph_break(family: str) -> None:
    case = models.make(family, padded=True)
    options = {"backend": "eager", "fullgraph": True}
    torch._dynamo.reset()
    expected = torch.compile(case.model, **options)(**case.inputs)
    torch._dynamo.reset()
    found = torch.compile(accelerate(case.model), **options)(**case.inputs)
    assert_same_bits(found.logits, expected.logits)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("family", "count"), [("t5", 2), ("umt5", 6), ("pix2struct", 1), ("mt5", 2)]
)
def test_a_graph_has_the_operator_that_computes_biases(family: str, count: int) -> None:
    case = models.make(family, padded=True)
    names: list[str] = []

    def collect(graph: Any, inputs: Any) -> Any:
        names.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch._dynamo.reset()
    torch.compile(accelerate(case.model), backend=collect)(**case.inputs)
    torch._dynamo.reset()
    assert sum("t5bucket.bias" in name for name in names) == count


def test_a_graph_has_no_operator_where_a_replacement_does_not_cover_a_call() -> None:
    case = models.make("t5", padded=True)
    embedding = models.attention_of(case.model).relative_attention_bias
    embedding.register_forward_hook(lambda module, args, output: output + 1)
    expected = run(case)
    torch._dynamo.reset()
    found = torch.compile(accelerate(case.model), backend="eager")(**case.inputs)
    torch._dynamo.reset()
    torch.testing.assert_close(found.logits, expected.logits)


def test_an_exported_model_gives_the_same_bits_without_operators_of_t5bucket() -> None:
    encoder = transformers.T5EncoderModel(transformers.T5Config(**models.T5)).eval()
    token_ids = models.tokens()
    with torch.no_grad():
        expected = encoder(token_ids).last_hidden_state
        program = torch.export.export(accelerate(encoder), (token_ids,), strict=False)
        assert torch.equal(program.module()(token_ids).last_hidden_state, expected)
    assert not any("t5bucket" in str(node.target) for node in program.graph.nodes)


def test_a_mode_that_counts_operations_counts_the_same() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    case = models.make("t5")
    counts = []
    for model in (case.model, accelerate(case.model)):
        with FlopCounterMode(display=False) as counter:
            run(case._replace(model=model))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
