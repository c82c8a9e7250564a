# _inputs.py - random inputs of a model's families: tokens, boxes, pixels, samples of sound.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import inspect
from typing import Any

import torch

MAX_COORDINATE = 1000  # of a box; UDOP's are divided by it
SIDE = 20  # of a box


def make_inputs(model: Any, length: int, batch: int, padding: float) -> dict[str, Any]:
    """Make keyword arguments of a model's forward; the same for the same arguments."""
    takes = inspect.signature(model.forward).parameters
    generator = torch.Generator().manual_seed(0)
    main = model.main_input_name
    if main == "input_values" and hasattr(model.config, "conv_stride"):
        return _make_sound(model, length, batch, padding, generator)
    if main != "input_ids" or "input_ids" not in takes:
        raise ValueError(
            f"model must take input_ids or input_values to be measured, got {main} of "
            f"{type(model).__name__}"
        )
    kept = _make_mask(length, batch, padding)
    inputs = {"input_ids": _make_tokens(model.config, kept, generator)}
    if "attention_mask" in takes:
        inputs["attention_mask"] = kept.long()
    if "bbox" in takes and not getattr(model, "is_decoder", False):
        inputs |= _make_page(model, takes, length, batch, generator)
    return inputs


def _make_mask(length: int, batch: int, padding: float) -> torch.Tensor:
    """Mark what is no padding: all but the end of each row."""
    num_kept = max(1, round(length * (1 - padding)))
    return (torch.arange(length) < num_kept).expand(batch, length)


def _make_tokens(config: Any, kept: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw tokens, none of which is that of padding."""
    vocab_size = config.vocab_size
    pad = getattr(config, "pad_token_id", None) or 0
    tokens = torch.randint(0, vocab_size - 1, kept.shape, generator=generator)
    tokens += tokens >= pad
    return tokens.where(kept, torch.tensor(pad))


def _make_page(
    model: Any, takes: Any, length: int, batch: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Place a token in each box, on a page whose picture is noise."""
    config = model.config
    corner = torch.randint(0, MAX_COORDINATE - SIDE, (batch, length, 2), generator=generator)
    boxes = torch.cat([corner, corner + SIDE], dim=-1)
    if config.model_type == "udop":
        boxes = (boxes / MAX_COORDINATE).to(model.dtype)
    inputs = {"bbox": boxes}
    size = getattr(config, "input_size", None) or getattr(config, "image_size", None)
    if "pixel_values" in takes and size and getattr(config, "visual_embed", True):
        height, width = (size, size) if isinstance(size, int) else size
        shape = (batch, getattr(config, "num_channels", 3), height, width)
        inputs["pixel_values"] = torch.randn(shape, generator=generator).to(model.dtype)
    return inputs


def _make_sound(
    model: Any, length: int, batch: int, padding: float, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Draw the samples that convolutions make `length` frames of."""
    config = model.config
    num_samples = length
    for kernel, stride in zip(config.conv_kernel[::-1], config.conv_stride[::-1], strict=True):
        num_samples = (num_samples - 1) * stride + kernel
    samples = torch.randn(batch, num_samples, generator=generator).to(model.dtype)
    if not padding:
        return {"input_values": samples}
    kept = _make_mask(num_samples, batch, padding)
    return {"input_values": samples * kept, "attention_mask": kept.long()}
