# test_training_outputs.py - outputs in training have the same bits, also with checkpoints.
# SPDX-License-Identifier: BSD-3-Clause
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import models  # noqa: E402
import training  # noqa: E402
from outputs import assert_same_bits, loss_of, tensors_of  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from t5bucket.transformers import accelerated  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of transformers, about its own versions
    pytest.mark.usefixtures("one_thread"),
]


def copies_of(output: Any) -> list[Any]:
    return [tensor.detach().clone() for tensor in tensors_of(output)]


def steps(case: models.Case, backward: bool = True) -> list[Any]:
    """Train for two steps, then infer: all outputs, and the random state after each pass."""
    case.model.train().zero_grad()
    torch.manual_seed(1)
    seen: list[Any] = []
    for _ in range(2):
        output = case.model(**case.inputs)
        seen += [*copies_of(output), torch.get_rng_state()]
        if backward:
            loss_of(output).backward()
            seen.append(torch.get_rng_state())
    case.model.eval()
    with torch.no_grad():
        seen += copies_of(case.model(**case.inputs))
    return seen


def assert_trains_the_same(case: models.Case, backward: bool = True) -> None:
    expected = steps(case, backward)
    with accelerated(case.model):
        assert_same_bits(steps(case, backward), expected)


@pytest.mark.parametrize(("family", "implementation", "reentrant"), training.CASES)
@pytest.mark.parametrize(("padded", "dropout"), [(False, 0.0), (True, 0.1)])
def test_outputs_in_training_are_the_same_bits(
    family: str, implementation: str | None, reentrant: bool | None, padded: bool, dropout: float
) -> None:
    case = training.make(family, padded, implementation, reentrant, dropout)
    assert_trains_the_same(case, (family, implementation, reentrant) != training.ENDLESS)


@pytest.mark.parametrize(
    ("family", "reentrant"),
    [
        *((f, r) for f in ("t5", "umt5", "udop", "pix2struct") for r in (None, True, False)),
        ("layoutlmv3", None),
    ],
)
@pytest.mark.parametrize("change", ["bfloat16", "autocast", "one_head"])
def test_outputs_in_training_are_the_same_bits_in_other_dtypes_and_with_one_head(
    family: str, reentrant: bool | None, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if change == "one_head":
        monkeypatch.setitem(models.T5, "num_heads", 1)
        monkeypatch.setitem(models.LAYOUT, "num_attention_heads", 1)
    dtype = torch.bfloat16 if change == "bfloat16" else None
    case = training.make(family, False, "sdpa", reentrant, 0.0, dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=change == "autocast"):
        assert_trains_the_same(case)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("whole", [True, False])
def test_checkpoints_by_hand_give_the_same_bits(reentrant: bool, padded: bool, whole: bool) -> None:
    case = training.make("t5", padded, "sdpa", None)
    encoder = case.model.encoder
    attention_mask = case.inputs.get("attention_mask")
    states = encoder.embed_tokens(case.inputs["input_ids"]).detach().requires_grad_()

    def run_blocks() -> Any:
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None]
        x, bias = states, None
        for block in encoder.block:
            x, bias, _ = checkpoint(block, x, mask, bias, use_reentrant=reentrant)
        return x

    def run_whole() -> Any:
        def call(embeds: Any) -> Any:
            return encoder(inputs_embeds=embeds, attention_mask=attention_mask)[0]

        return checkpoint(call, states, use_reentrant=reentrant)

    def train() -> tuple[list[Any], list[Any]]:
        outputs, states.grad = [], None
        encoder.zero_grad()
        for _ in range(2):
            output = (run_whole if whole else run_blocks)()
            output.square().mean().backward()
            outputs.append(output.detach())
        named = [*encoder.block.parameters(), states]
        return outputs, [parameter.grad.clone() for parameter in named]

    expected, expected_gradients = train()
    with accelerated(case.model):
        found, found_gradients = train()
    assert_same_bits(found, expected)
    for ours, theirs in zip(found_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


def test_generating_after_training_gives_the_same_tokens() -> None:
    case = training.make("t5", True, "sdpa", True, 0.1)
    inputs = {name: value for name, value in case.inputs.items() if name != "labels"}

    def run() -> list[Any]:
        steps(case)
        for train in (True, False):
            case.model.train(train)
            with torch.no_grad():
                found = case.model.generate(
                    **inputs, max_new_tokens=6, output_scores=True, return_dict_in_generate=True
                )
        return [found.sequences, *found.scores, torch.get_rng_state()]

    expected = run()
    with accelerated(case.model):
        assert_same_bits(run(), expected)
