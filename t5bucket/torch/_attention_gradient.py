# _attention_gradient.py - gradients of attention by strips, in linear memory.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import numpy as np
import torch

from t5bucket._arrays import view_tensor
from t5bucket.torch._attend import flatten
from t5bucket.torch._kernels import Inputs, find_scale
from t5bucket.torch._strips import Part, Source, write_strips

Gradients = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def differentiate(gradient: torch.Tensor, inputs: Inputs, source: Source) -> Gradients:
    """Compute the gradients of query, key, value and weight, given that of the attention.

    The weights of attention are computed again, in float32 at least: they are not kept.
    """
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    query, key, value = (tensor.detach().to(dtype) for tensor in inputs[:3])
    wide = Inputs(query, key, value, inputs.scale)
    source = source._replace(weight=source.weight.detach().to(dtype))
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
    """Sum the gradients of all strips; that of the weight in float64."""
    query, key, value = (torch.zeros_like(tensor) for tensor in inputs[:3])
    weight = np.zeros(tuple(source.weight.shape))
    q, k = query.shape[2], key.shape[2]
    for part, bias in write_strips(source, len(query), k, slice(0, q)):
        batch, heads, _ = part
        query[part], of_key, of_value, of_bias = _differentiate_strip(gradient, inputs, part, bias)
        key[batch, heads] += of_key
        value[batch, heads] += of_value
        weight[:, heads] += source.sum_gradient(part, view_tensor(of_bias))
    return query, key, value, torch.from_numpy(weight)


def _differentiate_strip(
    gradient: torch.Tensor, inputs: Inputs, part: Part, bias: torch.Tensor
) -> Gradients:
    """Differentiate ``softmax(scale * query @ key.T + bias) @ value`` for some rows."""
    batch, heads, _ = part
    query = inputs.query[part] * find_scale(inputs)
    key, value = inputs.key[batch, heads], inputs.value[batch, heads]
    weights = torch.matmul(query, key.mT).add_(bias)
    weights = torch.ops.aten._safe_softmax(weights, -1)
    of_value = torch.matmul(weights.mT, gradient[part])
    of_weights = torch.matmul(gradient[part], value.mT)
    of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
    of_query = torch.matmul(of_scores, key).mul_(find_scale(inputs))
    return of_query, torch.matmul(of_scores.mT, query), of_value, of_scores
