# training.py - models of each family for training, with and without checkpoints.
# SPDX-License-Identifier: BSD-3-Clause
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
import models  # noqa: E402

DROPOUTS = ("dropout", "dropout_rate", "attention_dropout", "activation_dropout")


def parts_with_checkpoints(model: Any) -> list[Any]:
    """Find the parts that support checkpoints: the model, or its children, as in Pix2Struct."""

    def supports(module: Any) -> bool:
        return getattr(module, "supports_gradient_checkpointing", False)

    return [model] if supports(model) else [child for child in model.children() if supports(child)]


def checkpoints(family: str) -> list[bool | None]:
    """List the values of `use_reentrant` that a family supports; None means no checkpoint."""
    model = models.FAMILIES[family](False).model
    return [None, True, False] if parts_with_checkpoints(model) else [None]


CASES = [
    (family, implementation, reentrant)
    for family in models.FAMILIES
    for implementation in models.implementations(family)
    for reentrant in checkpoints(family)
]
# With these options, the backward pass of transformers' own WavLM never ends.
ENDLESS = ("wavlm", None, True)


def make(
    family: str,
    padded: bool,
    implementation: str | None,
    reentrant: bool | None,
    dropout: float = 0.0,
    dtype: Any = None,
) -> models.Case:
    """Make a model to train, ready for a step."""
    case = models.make(family, padded, implementation)
    for module in case.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
        for name in DROPOUTS:
            if isinstance(vars(module).get(name), float):
                setattr(module, name, dropout)
    case.model.to(dtype or torch.float32).train()
    if reentrant is not None:
        for part in parts_with_checkpoints(case.model):
            part.gradient_checkpointing_enable({"use_reentrant": reentrant})
    return case._replace(inputs=models.converted(case.inputs, dtype or torch.float32))
