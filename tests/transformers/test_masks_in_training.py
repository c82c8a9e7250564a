# test_masks_in_training.py - in training, sdpa gets masks that require the same gradients.
# SPDX-License-Identifier: BSD-3-Clause
from collections.abc import Callable
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import models  # noqa: E402
import training  # noqa: E402
from outputs import assert_same_masks, loss_of, watch_sdpa  # noqa: E402

from t5bucket.transformers import accelerated  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of transformers, about its own versions
    pytest.mark.usefixtures("one_thread"),
]


def given_to_sdpa(monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]) -> list[Any]:
    """Collect the masks of sdpa, and the properties that decide its kernel."""

    def read(mask: Any, is_causal: bool) -> Any:
        if mask is None:
            return None
        flags = (mask.requires_grad, mask.is_contiguous(), torch.is_grad_enabled())
        return torch.tensor(flags), mask.detach().clone()

    return watch_sdpa(monkeypatch, call, read)


def with_prefix(case: models.Case) -> models.Case:
    """Give the model one token to read, or one to write."""
    inputs = {"input_ids": models.tokens(1), "labels": models.tokens(1)}
    return case._replace(inputs=inputs)


def with_biases(*kinds: str) -> Callable[[models.Case], models.Case]:
    def change(case: models.Case) -> models.Case:
        biases = case.model.encoder.relative_bias.biases
        order = {"1d": 0, "horizontal": 1, "vertical": 2}
        kept = [biases[order[kind]] for kind in kinds]
        case.model.encoder.relative_bias.biases = torch.nn.ModuleList(kept)
        # Without pictures nothing is masked, and sdpa takes the bias alone.
        read = {name: case.inputs[name] for name in ("input_ids", "bbox")}
        return models.Case(case.model.encoder, read)

    return change


def frozen(case: models.Case) -> models.Case:
    case.model.requires_grad_(False)
    case.model.get_input_embeddings().requires_grad_(True)
    return case


@pytest.mark.parametrize("reentrant", [None, True, False])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("num_heads", [1, 4])
@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("t5", lambda case: case),
        ("t5", with_prefix),
        ("t5", frozen),
        ("udop", lambda case: case),
        ("udop", with_biases("1d")),
        ("udop", with_biases("horizontal", "1d")),
        ("udop", with_biases("1d", "horizontal", "vertical")),
        ("pix2struct", lambda case: case),
    ],
)
def test_sdpa_gets_masks_that_require_the_same_gradients(
    family: str,
    change: Callable[[models.Case], models.Case],
    num_heads: int,
    padded: bool,
    reentrant: bool | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(models.T5, "num_heads", num_heads)
    case = change(training.make(family, padded, "sdpa", reentrant))

    def call() -> None:
        loss_of(case.model(**case.inputs)).backward()

    expected = given_to_sdpa(monkeypatch, call)
    with accelerated(case.model):
        assert_same_masks(given_to_sdpa(monkeypatch, call), expected)


@pytest.mark.parametrize("length", [1, 6])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_a_bias_that_requires_a_gradient_is_read_without(
    length: int, own: bool, with_mask: bool, stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = training.make("t5", False, "sdpa", None)
    first, second = (models.attention_of(case.model, stack, i) for i in (0, 1))
    states, past = torch.randn(2, length, 32), 9 - length
    mask = torch.rand(2, 1, length, 9) < 0.7 if with_mask or length == 6 else None

    class Longer:  # a cache that holds what was before
        def get_seq_length(self, layer: int) -> int:
            return past

        def update(self, keys: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
            return [torch.nn.functional.pad(x, (0, 0, past, 0)) for x in (keys, values)]

    def call() -> None:
        bias = first.compute_bias(length, 9, past_seen_tokens=past)
        if not own:
            bias = torch.empty(bias.shape).copy_(bias.detach()).requires_grad_()
        for _ in range(2):
            with torch.no_grad():
                second(states, mask=mask, position_bias=bias, cache=Longer())
        second(states, mask=mask, position_bias=bias, cache=Longer())

    expected = given_to_sdpa(monkeypatch, call)
    with accelerated(case.model):
        assert_same_masks(given_to_sdpa(monkeypatch, call), expected)
