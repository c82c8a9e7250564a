# test_transforms_of_models.py - PyTorch's transforms of accelerated models.
# SPDX-License-Identifier: BSD-3-Clause
from collections.abc import Callable
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import models  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402
from torch.func import (  # noqa: E402
    functional_call,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    vjp,
    vmap,
)

from t5bucket.transformers import accelerated  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of transformers, about its own versions
    pytest.mark.usefixtures("one_thread"),
]

FAMILIES: dict[str, list[str | None]] = {
    "t5": ["sdpa", "eager"],
    "umt5": ["sdpa", "eager"],
    "mpnet": [None],
    "wavlm": [None],
    "layoutlmv3": ["sdpa", "eager"],
    "udop": ["sdpa", "eager"],
    "longt5_global": [None],
    "prophetnet": [None],
}
CASES = [(family, name) for family, names in FAMILIES.items() for name in names]
Weights = dict[str, Any]


class Shortened:
    """A model with few tokens, its bias weights, and directions to move these in."""

    def __init__(self, family: str, implementation: str | None, requires_grad: bool) -> None:
        # Prophetnet's masks make NaN of what has no key left; a mask of sdpa is merged with a bias.
        case = models.make(family, family not in ("prophetnet", "wavlm"), implementation)
        self.model = case.model.double().requires_grad_(requires_grad)
        inputs = models.converted(case.inputs, torch.float64)
        self.inputs = {name: shorten(value) for name, value in inputs.items()}
        self.weights: Weights = {
            name: parameter.detach().clone().requires_grad_(requires_grad)
            for name, parameter in case.model.named_parameters()
            if ("relative" in name or "rel_" in name) and parameter.ndim == 2
        }
        generator = torch.Generator().manual_seed(1)
        self.directions = {
            name: torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            for name, weight in self.weights.items()
        }

    def loss(self, weights: Weights, inputs: dict[str, Any] | None = None) -> Any:
        output = functional_call(self.model, weights, (), inputs or self.inputs)
        return output[0].square().mean() if output.get("loss") is None else output.loss

    def values(self, weights: Weights) -> Any:
        """Two values that depend on all weights."""
        output = functional_call(self.model, weights, (), self.inputs)
        found = output.logits if "logits" in output else output[0]
        return found.square().mean((1, 2))

    def moved(self, by: Any) -> Weights:
        """Weights that two numbers move."""
        return {
            name: weight * (1 + by[0]) + by[1] * self.directions[name]
            for name, weight in self.weights.items()
        }


def shorten(value: Any) -> Any:
    if value.shape[1] == 4000:  # of sound
        return value[:2, :700]
    return value[:2] if value.ndim == 4 else value[:2, :20].clone()


def ensemble(short: Shortened) -> Weights:
    return {
        name: torch.stack([weight, 2 * weight, short.directions[name]])
        for name, weight in short.weights.items()
    }


def take_dual(short: Shortened) -> Any:
    with forward_ad.dual_level():
        duals = {
            name: forward_ad.make_dual(weight, short.directions[name])
            for name, weight in short.weights.items()
        }
        return forward_ad.unpack_dual(short.loss(duals))


def take_gradients_of_samples(short: Shortened) -> Any:
    # A mask that differs from sample to sample makes transformers ask what it holds.
    samples = {n: value[:, None] for n, value in short.inputs.items() if n != "attention_mask"}
    return vmap(grad(short.loss), (None, 0))(short.weights, samples)


def of_leaves(take: Callable[[Any, list[Any]], Any]) -> Callable[[Shortened], Any]:
    """Differentiate by PyTorch's own engine, with weights as leaves."""

    def call(short: Shortened) -> Any:
        leaves = {n: t.detach().clone().requires_grad_() for n, t in short.weights.items()}
        values = short.values(leaves)
        if not values.requires_grad:
            return values
        return take(values, list(leaves.values()))

    return call


def take_batched(values: Any, leaves: list[Any]) -> Any:
    return torch.autograd.grad(
        values, leaves, torch.eye(2).double(), is_grads_batched=True, allow_unused=True
    )


def take_twice(values: Any, leaves: list[Any]) -> Any:
    found = torch.autograd.grad(values.sum(), leaves, create_graph=True, allow_unused=True)
    total = sum(gradient.square().sum() for gradient in found if gradient is not None)
    return torch.autograd.grad(total, leaves, allow_unused=True)


ORIGIN = torch.zeros(2, dtype=torch.float64)
TRANSFORMS: dict[str, Callable[[Shortened], Any]] = {
    "call": lambda s: s.values(s.weights),
    "grad": lambda s: grad(s.loss)(s.weights),
    "vjp": lambda s: vjp(s.values, s.weights)[1](torch.tensor([1.0, -3.0]).double()),
    "jvp": lambda s: jvp(s.loss, (s.weights,), (s.directions,)),
    "jacrev": lambda s: jacrev(lambda by: s.values(s.moved(by)))(ORIGIN),
    "jacfwd": lambda s: jacfwd(lambda by: s.values(s.moved(by)))(ORIGIN),
    "ensemble": lambda s: vmap(s.values)(ensemble(s)),
    "ensemble of gradients": lambda s: vmap(grad(s.loss))(ensemble(s)),
    "gradients of samples": take_gradients_of_samples,
    "hessian": lambda s: hessian(lambda by: s.loss(s.moved(by)))(ORIGIN),
    "dual numbers": take_dual,
    "batched backward": of_leaves(take_batched),
    "backward twice": of_leaves(take_twice),
    "jacobian of autograd": lambda s: torch.autograd.functional.jacobian(
        lambda by: s.values(s.moved(by)), ORIGIN, vectorize=True
    ),
    "hessian of autograd": lambda s: torch.autograd.functional.hessian(
        lambda by: s.loss(s.moved(by)), ORIGIN
    ),
    "without gradients": lambda s: torch.no_grad()(vmap(s.values))(ensemble(s)),
}


def leaves_of(found: Any) -> list[Any]:
    if isinstance(found, dict):
        found = tuple(found.values())
    if isinstance(found, tuple | list):
        return [leaf for value in found for leaf in leaves_of(value)]
    return [found]


def result_of(transform: str, short: Shortened) -> list[Any] | type[Exception]:
    try:
        return [leaf for leaf in leaves_of(TRANSFORMS[transform](short)) if leaf is not None]
    except Exception as error:  # compared with that of the model as it was
        return type(error)


@pytest.mark.parametrize(("family", "implementation"), CASES)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_transform_gives_the_same_as_before(
    family: str, implementation: str | None, transform: str
) -> None:
    for requires_grad in (True, False):
        short = Shortened(family, implementation, requires_grad)
        expected = result_of(transform, short)
        with accelerated(short.model):
            found = result_of(transform, short)
        if isinstance(expected, type) or isinstance(found, type):
            assert found is expected
            continue
        assert len(found) == len(expected)
        assert expected or family == "layoutlmv3"  # whose weights have no gradient
        for ours, theirs in zip(found, expected, strict=True):
            assert theirs.isfinite().all()
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_most_transforms_of_a_model_are_possible() -> None:
    short = Shortened("t5", "eager", True)
    with accelerated(short.model):
        refused = [name for name in TRANSFORMS if isinstance(result_of(name, short), type)]
    assert refused == []
