# test_training_gradients.py - gradients and trained weights are equal up to rounding.
# SPDX-License-Identifier: BSD-3-Clause
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import models  # noqa: E402
import training  # noqa: E402
from outputs import assert_same_gradients, gradients_of  # noqa: E402

from t5bucket.transformers import accelerate, accelerated  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of transformers, about its own versions
    pytest.mark.usefixtures("one_thread"),
]


CASES = [(family, name) for family in models.FAMILIES for name in models.implementations(family)]


@pytest.mark.parametrize(("family", "implementation"), CASES)
def test_gradients_are_equal_to_rounding(family: str, implementation: str | None) -> None:
    case = models.make(family, family != "prophetnet", implementation)
    if family != "layoutlmv2":  # which computes in float32 whatever it is given
        case.model.double()
        case = case._replace(inputs=models.converted(case.inputs, torch.float64))
    expected = gradients_of(case)
    with accelerated(case.model):
        found = gradients_of(case)
    assert_same_gradients(found, expected)
    weights = [name for name in found if "relative" in name or "rel_" in name]
    assert weights or family in ("layoutlmv2", "layoutlmv3")  # which do not train theirs


@pytest.mark.parametrize(
    ("family", "implementation", "reentrant"),
    [case for case in training.CASES if case[2] is not None and case != training.ENDLESS],
)
def test_gradients_with_checkpoints_are_equal_to_rounding(
    family: str, implementation: str | None, reentrant: bool
) -> None:
    padded = family != "prophetnet"  # whose gradients are NaN then
    case = training.make(family, padded, implementation, reentrant, 0.0, torch.float64)
    expected = gradients_of(case)
    with accelerated(case.model):
        found = gradients_of(case)
    assert_same_gradients(found, expected)
    assert any("relative" in name or "rel_attn" in name for name in found)


@pytest.mark.parametrize("with_checkpoints", [(0,), (0, 2), (1, 2)])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_are_the_same_where_some_blocks_have_checkpoints(
    with_checkpoints: tuple[int, ...], reentrant: bool
) -> None:
    case = models.make("t5", padded=True, implementation="sdpa")
    case.model.double().train()
    case.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    for number, block in enumerate(case.model.encoder.block):
        block.gradient_checkpointing = number in with_checkpoints
    expected = gradients_of(case)
    with accelerated(case.model):
        found = gradients_of(case)
    assert_same_gradients(found, expected)


@pytest.mark.parametrize("checkpointing", [None, True, False])
def test_training_ends_with_the_same_weights(checkpointing: bool | None) -> None:
    trained = []
    for fast in (False, True):
        case = models.make("t5", padded=True)
        case.model.double().train()
        if checkpointing is not None:
            case.model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
        if fast:
            accelerate(case.model)
        optimizer = torch.optim.SGD(case.model.parameters(), lr=0.05)
        for _ in range(4):
            optimizer.zero_grad()
            case.model(**case.inputs).loss.backward()
            torch.nn.utils.clip_grad_norm_(case.model.parameters(), 1.0)
            optimizer.step()
        trained.append(
            [
                models.attention_of(case.model, stack)
                .relative_attention_bias.weight.detach()
                .clone()
                for stack in ("encoder", "decoder")
            ]
        )
    initial = models.attention_of(models.make("t5").model)
    assert not torch.equal(trained[0][0], initial.relative_attention_bias.weight.double())
    for theirs, ours in zip(*trained, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_a_bias_used_without_gradients_gets_one_later() -> None:
    case = models.make("t5", implementation="sdpa")
    first, second = (models.attention_of(case.model, "encoder", i) for i in (0, 1))
    states = torch.randn(models.BATCH, models.LENGTH, 32)
    mask = models.lengths_mask().bool()[:, None, None]
    weight = first.relative_attention_bias.weight

    def gradient() -> Any:
        bias = first.compute_bias(models.LENGTH, models.LENGTH)
        with torch.no_grad():
            second(states, mask=mask, position_bias=bias)
        total = second(states, mask=mask, position_bias=bias)[0].square().sum()
        return torch.autograd.grad(total, weight)[0]

    expected = gradient()
    assert expected.abs().max() > 0
    with accelerated(case.model):
        torch.testing.assert_close(gradient(), expected, rtol=1e-3, atol=1e-3)


def test_a_mask_that_is_trained_gets_its_gradient_after_a_pass_without() -> None:
    case = training.make("t5", False, "sdpa", None)
    case.model.requires_grad_(False)
    first, second = (models.attention_of(case.model, "encoder", i) for i in (0, 1))
    states = torch.randn(2, 6, 32)
    mask = torch.randn(2, 1, 6, 6, requires_grad=True)

    def gradient() -> Any:
        bias = first.compute_bias(6, 6)
        with torch.no_grad():
            second(states, mask=mask, position_bias=bias)
        total = second(states, mask=mask, position_bias=bias)[0].square().sum()
        return torch.autograd.grad(total, mask)[0]

    expected = gradient()
    assert expected.abs().max() > 0
    with accelerated(case.model):
        torch.testing.assert_close(gradient(), expected)
