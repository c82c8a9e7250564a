# outputs.py - run models, and compare outputs and the masks of sdpa bit for bit.
# SPDX-License-Identifier: BSD-3-Clause
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
import models  # noqa: E402


def run(case: models.Case, **options: Any) -> Any:
    """Infer; options replace the case's inputs."""
    with torch.no_grad():
        return case.model(**{**case.inputs, **options})


def tensors_of(output: Any) -> Iterator[Any]:
    """Yield all tensors of an output, in a fixed order."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from tensors_of(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from tensors_of(value)


def assert_same_bits(found: Any, expected: Any) -> None:
    """Compare all tensors bit for bit, including signs of zeros."""
    pairs = list(zip(tensors_of(found), tensors_of(expected), strict=True))
    assert pairs
    for a, b in pairs:
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
        assert torch.equal(torch.signbit(a), torch.signbit(b))


def assert_same_masks(found: Any, expected: Any) -> None:
    """Compare all tensors; a mask may broadcast to the expected one."""
    pairs = zip(tensors_of(found), tensors_of(expected), strict=True)
    whole = [ours.expand_as(theirs) if ours.ndim == 4 else ours for ours, theirs in pairs]
    assert_same_bits(whole, expected)


def loss_of(output: Any) -> Any:
    """Return the loss, or make one from the first tensor."""
    loss = output.get("loss")
    return output[0].square().mean() if loss is None else loss


def gradients_of(case: models.Case) -> dict[str, Any]:
    """Gradients of all parameters that have one."""
    case.model.zero_grad()
    torch.manual_seed(1)  # for the noise in the routers of Switch Transformers
    loss_of(case.model(**case.inputs)).backward()
    named = case.model.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def assert_same_gradients(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare gradients in float64, up to different rounding."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.isfinite().all()
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-11)


def watch_sdpa(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any], read: Callable[[Any, bool], Any]
) -> list[Any]:
    """Collect the results of `read` for each call of sdpa, given its mask and is_causal.

    Nested calls, which t5bucket's own attention makes, do not count.
    """
    seen: list[Any] = []
    active: list[Any] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def watched(*args: Any, **kwargs: Any) -> Any:
        if active:
            return attend(*args, **kwargs)
        seen.append(read(kwargs["attn_mask"], bool(kwargs["is_causal"])))
        active.append(None)
        try:
            return attend(*args, **kwargs)
        finally:
            active.pop()

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
        call()
    return seen
