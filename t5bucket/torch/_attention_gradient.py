# _attention_gradient.py - gradients of attention by strips, in linear memory.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from typing import Any

import numpy as np
import torch

from t5bucket._arrays import view_tensor
from t5bucket.torch._attend import flatten
from t5bucket.torch._kernels import Inputs, find_scale
from t5bucket.torch._strips import Source, write_strips
from t5bucket.torch._tensors import wide_dtype

Gradients = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
STRIP_NBYTES = 4 << 20  # three strips are in the cache at a time


def differentiate(gradient: torch.Tensor, inputs: Inputs, source: Source) -> Gradients:
    """Compute the gradients of query, key, value and weight, given the attention's gradient.

    The attention weights were not kept: they are computed again, in float32 at least.
    The bias is the same as in the forward pass, rounded to its dtype.
    """
    dtype = wide_dtype(gradient.dtype)
    query, key, value = (tensor.detach().to(dtype) for tensor in inputs[:3])
    wide = Inputs(query, key, value, inputs.scale)
    source = source._replace(weight=source.weight.detach())
    flat, flat_source, _ = flatten(wide, source)
    flat_gradient = gradient.to(dtype).reshape(len(flat.query), *gradient.shape[-3:])
    found = _sum_strips(flat_gradient, flat, flat_source)
    query, key, value = (
        total.reshape(*gradient.shape[:-3], *total.shape[1:])
        .sum_to_size(tensor.shape)
        .to(tensor.dtype)
        for total, tensor in zip(found, inputs[:3], strict=False)
    )
    return query, key, value, found[3].to(gradient.dtype)


def _sum_strips(gradient: torch.Tensor, inputs: Inputs, source: Source) -> Gradients:
    """Sum the gradients of all strips; the weight's in float64."""
    query, key, value = (tensor.new_zeros(tensor.shape) for tensor in inputs[:3])
    weight = np.zeros(tuple(source.weight.shape))
    dtype = gradient.dtype
    memory = _Memory(dtype)
    rows = slice(0, query.shape[2])
    for example in range(len(gradient)):
        own = source.take(example)
        wide = own._replace(weight=own.weight.to(dtype))
        for part, bias in write_strips(own, 1, key.shape[2], rows, STRIP_NBYTES):
            queries, keys = (example, part.heads, part.rows), (example, part.heads)
            of_bias = _differentiate_strip(
                Inputs(inputs.query[queries], inputs.key[keys], inputs.value[keys], inputs.scale),
                gradient[queries],
                bias[0].to(dtype),
                (query[queries], key[keys], value[keys]),
                memory,
            )
            weight[:, part.heads] += wide.sum_gradient(part, view_tensor(of_bias[None]))
    return query, key, value, torch.from_numpy(weight)


class _Memory:
    """Two buffers that all strips use, one after the other."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._strips = [torch.empty(0, dtype=dtype, device="cpu")] * 2

    def like(self, strip: torch.Tensor) -> list[torch.Tensor]:
        if strip.numel() > self._strips[0].numel():
            self._strips = [strip.new_empty(strip.numel()) for _ in range(2)]
        return [memory[: strip.numel()].view(strip.shape) for memory in self._strips]


def _differentiate_strip(
    inputs: Inputs,
    gradient: torch.Tensor,
    bias: torch.Tensor,
    totals: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    memory: _Memory,
) -> torch.Tensor:
    """Differentiate ``softmax(scale * query @ key.mT + bias) @ value`` for some rows.

    The inputs' gradients are added to the totals. The bias's gradient overwrites the bias.
    """
    query, key, value, _ = inputs
    scale = find_scale(inputs)
    weights, of_weights = memory.like(bias)
    scores = bias.baddbmm_(query, key.mT, alpha=scale)
    torch.softmax(scores, -1, out=weights)
    if not scores[..., :1].isfinite().all():
        # The weights of a query without keys are 0, as in PyTorch's kernel.
        weights.masked_fill_((scores == -torch.inf).all(-1, keepdim=True), 0)
    of_query, of_key, of_value = totals
    of_value.baddbmm_(weights.mT, gradient)
    torch.bmm(gradient, value.mT, out=of_weights)
    differentiate_softmax: Any = torch.ops.aten._softmax_backward_data.out
    of_scores = differentiate_softmax(of_weights, weights, -1, weights.dtype, grad_input=scores)
    of_query.baddbmm_(of_scores, key, alpha=scale)
    of_key.baddbmm_(of_scores.mT, query, alpha=scale)
    return of_scores
