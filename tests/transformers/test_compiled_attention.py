# test_compiled_attention.py - compiled models attend without a bias matrix if possible.
# SPDX-License-Identifier: BSD-3-Clause
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import models  # noqa: E402
import training  # noqa: E402
from outputs import assert_same_bits, gradients_of, run, tensors_of  # noqa: E402

from t5bucket.transformers import _t5, accelerate  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of transformers, about its own versions
    pytest.mark.usefixtures("one_thread"),
]

FAMILIES = [
    ("t5", 6),
    ("umt5", 6),
    ("pix2struct", 2),
    *(pytest.param(name, 6, marks=pytest.mark.slow) for name in ("mt5", "pop2piano")),
]


@pytest.fixture(autouse=True)
def no_graphs() -> Iterator[None]:
    """Forget the graphs of other tests."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compile_and_count(model: Any, **options: Any) -> tuple[Any, Counter[str]]:
    """Compile a model; return it with counts of the operators that its graphs will contain.

    The graphs are those from which dead code has been removed. They run as they are.
    """
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func

    counts: Counter[str] = Counter()

    def count(graph: Any, inputs: Any) -> Any:
        targets = [node.target for node in graph.graph.nodes if node.op == "call_function"]
        counts.update(str(target).removesuffix(".default") for target in targets)
        return make_boxed_func(graph.forward)

    return torch.compile(model, backend=aot_autograd(fw_compiler=count), **options), counts


def make(family: str, padded: bool = True, **options: Any) -> models.Case:
    return models.make(family, padded, "sdpa", **options)


def count_ours(counts: Counter[str]) -> tuple[int, int]:
    return counts["t5bucket.attention"], counts["t5bucket.bias"]


@pytest.mark.parametrize(
    ("padded", "exact"),
    [
        pytest.param(False, True, marks=pytest.mark.slow),
        (True, True),
        pytest.param(True, False, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(("family", "attentions"), FAMILIES)
def test_a_compiled_model_attends_without_a_matrix(
    family: str, attentions: int, padded: bool, exact: bool
) -> None:
    case = make(family, padded)
    expected = run(case)
    eager = run(case._replace(model=accelerate(case.model, exact=exact)))
    compiled, counts = compile_and_count(case.model, fullgraph=True)
    found = run(case._replace(model=compiled))
    assert count_ours(counts) == (attentions, 0)
    torch.testing.assert_close(found.logits, expected.logits)
    assert_same_bits(found.logits, eager.logits)


@pytest.mark.parametrize(
    ("family", "reentrant", "attentions"),
    [
        ("t5", None, 6),
        pytest.param("t5", False, 0, marks=pytest.mark.slow),
        pytest.param("umt5", None, 6, marks=pytest.mark.slow),
        ("umt5", False, 6),
    ],
)
def test_gradients_of_a_compiled_model_are_close(
    family: str, reentrant: bool | None, attentions: int
) -> None:
    case = training.make(family, True, "sdpa", reentrant, dtype=torch.float64)
    gradients = gradients_of(case)
    compiled, counts = compile_and_count(accelerate(case.model), fullgraph=reentrant is None)
    case.model.zero_grad()
    loss = compiled(**case.inputs, use_cache=False).loss
    assert counts["t5bucket.attention"] == attentions
    loss.backward()
    for name, parameter in case.model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("family", ["t5", pytest.param("umt5", marks=pytest.mark.slow)])
def test_a_graph_serves_texts_of_other_lengths(family: str) -> None:
    case = make(family)
    texts = [
        {"input_ids": models.tokens(length), "attention_mask": models.lengths_mask(length)}
        for length in (150, 90, 121)
    ]
    expected = [run(case, **text).logits for text in texts]
    compiled, counts = compile_and_count(accelerate(case.model), fullgraph=True)
    case = case._replace(model=compiled)
    for text, logits in zip(texts, expected, strict=True):
        torch.testing.assert_close(run(case, **text).logits, logits)
    assert count_ours(counts) == (12, 0)  # a graph of one length, and one of any length


def test_a_step_of_decoding_is_close() -> None:
    case = make("t5")
    cache = {"decoder_input_ids": models.tokens(9), "labels": None, "use_cache": True}
    tokens = models.tokens(3)

    def decode(model: Any) -> Any:
        first = run(case, **cache)
        step = {**cache, "decoder_input_ids": tokens, first_cache_name(first): cache_of(first)}
        return run(case._replace(model=model), **step).logits

    expected = decode(case.model)
    compiled, counts = compile_and_count(accelerate(case.model))
    torch.testing.assert_close(decode(compiled), expected)
    assert count_ours(counts) == (6, 0)


def first_cache_name(output: Any) -> str:
    return "cache" if "cache" in output else "past_key_values"


def cache_of(output: Any) -> Any:
    return output[first_cache_name(output)]


# ---- calls that use the matrix ----


def test_a_bias_of_the_users_own_is_added() -> None:
    case = make("t5")
    attention = models.attention_of(case.model, block=1)
    hidden_states, bias = torch.randn(2, 40, 32), torch.randn(1, 4, 40, 40)
    with torch.no_grad():
        expected = attention(hidden_states, position_bias=bias)[0]
        accelerate(case.model)
        compiled, counts = compile_and_count(attention, fullgraph=True)
        torch.testing.assert_close(compiled(hidden_states, position_bias=bias)[0], expected)
    assert count_ours(counts) == (0, 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda bias: bias.mul_(2),
        lambda bias: bias[:, 1].zero_(),
        lambda bias: bias.detach().add_(torch.arange(4.0)[:, None, None]),
        lambda bias: torch.add(bias, 1, out=bias),
    ],
)
@pytest.mark.parametrize("padded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_attention_reads_a_hooks_writes_to_the_bias(
    change: Callable[[Any], Any], padded: bool
) -> None:
    case = make("t5", padded)
    attention = models.attention_of(case.model)
    attention.register_forward_hook(lambda module, args, output: (change(output[1]), None)[1])
    expected = run(case)
    compiled, counts = compile_and_count(accelerate(case.model))
    torch.testing.assert_close(run(case._replace(model=compiled)).logits, expected.logits)
    assert counts["t5bucket.attention"] == 4  # the encoder's first, and the decoder's


def test_a_hook_sees_the_matrix() -> None:
    case = make("t5")
    seen: list[Any] = []
    attention = models.attention_of(case.model, block=1)
    attention.register_forward_hook(lambda module, args, output: seen.append(output[1] * 1))
    run(case)
    compiled, _ = compile_and_count(accelerate(case.model))
    run(case._replace(model=compiled))
    assert len(seen) == 2
    assert type(seen[1]) is torch.Tensor
    assert torch.equal(*seen)


# ---- biases that leave a graph ----


@pytest.mark.parametrize(
    "stacks",
    [pytest.param(["encoder"], marks=pytest.mark.slow), ["decoder"], ["encoder", "decoder"]],
)
def test_blocks_may_be_compiled_one_by_one(stacks: list[str]) -> None:
    case = make("t5")
    expected = run(case)
    accelerate(case.model)
    for stack in stacks:
        for block in getattr(case.model, stack).block:
            block.forward, _ = compile_and_count(block.forward)
    torch.testing.assert_close(run(case).logits, expected.logits)


def test_a_graph_may_break_between_layers() -> None:
    case = make("t5")
    for block in case.model.encoder.block:
        block.register_forward_hook(lambda *_: torch._dynamo.graph_break())
    expected = run(case)
    compiled, counts = compile_and_count(accelerate(case.model))
    torch.testing.assert_close(run(case._replace(model=compiled)).logits, expected.logits)
    assert counts["t5bucket.attention"] == 4  # the encoder's first, and the decoder's


def test_a_bias_that_leaves_its_graph_is_a_tensor_like_any_other() -> None:
    case = make("t5")
    attention = models.attention_of(case.model)
    hidden_states = torch.randn(2, 40, 32)
    expected = attention(hidden_states)
    compiled, counts = compile_and_count(accelerate(attention), fullgraph=True)
    found = compiled(hidden_states)
    assert count_ours(counts) == (1, 1)
    assert type(found[1]) is torch.Tensor
    assert not vars(found[1])
    for ours, theirs in zip(tensors_of(found), tensors_of(expected), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_dropout_and_other_attentions_take_the_matrix() -> None:
    case = training.make("t5", True, "sdpa", None, dropout=0.1)
    compiled, counts = compile_and_count(accelerate(case.model), fullgraph=True)
    compiled(**case.inputs)
    assert count_ours(counts) == (0, 2)
    case = models.make("t5", True, "eager")
    expected = run(case)
    compiled, counts = compile_and_count(accelerate(case.model), fullgraph=True)
    torch.testing.assert_close(run(case._replace(model=compiled)).logits, expected.logits)
    assert count_ours(counts) == (0, 2)


def test_autocast_uses_the_matrix() -> None:
    case = make("t5")
    with torch.autocast("cpu", torch.bfloat16):
        expected = run(case)
        compiled, counts = compile_and_count(accelerate(case.model), fullgraph=True)
        found = run(case._replace(model=compiled))
    torch.testing.assert_close(found.logits, expected.logits, rtol=0.05, atol=0.5)
    assert count_ours(counts) == (0, 2)


def test_short_texts_take_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_t5, "MIN_NBYTES", 1 << 20)
    case = make("t5")
    compiled, counts = compile_and_count(accelerate(case.model), fullgraph=True)
    run(case._replace(model=compiled))
    assert count_ours(counts) == (0, 2)
