# _onnx.py - translations of our operators for PyTorch's ONNX exporter (the extra "onnx").
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def onnx_translations() -> dict[Any, Callable[..., Any]]:
    """Return translations of t5bucket's operators to ONNX, for ``torch.onnx.export``.

    A module that calls `compute_bias`, `compute_bias_at` or `scaled_dot_product_attention`
    is exported as a graph of standard ONNX operators, which any runtime can run.

    Returns
    -------
    dict
        A new ``custom_translation_table``; you may add your own translations.

    Raises
    ------
    ImportError
        If ONNX Script is not installed.

    Notes
    -----
    Use the exporter with ``dynamo=True`` and opset 18 or newer. Lengths may be fixed or
    dynamic. The graph stores a bucket for each relative position up to the largest distance,
    and computes no logarithm. It reads the bias from its ``q + k - 1`` diagonals. If weight
    and lengths are constant, exporter or runtime compute the bias once. Layers that call
    the attention with the same weight, lengths and mask share one bias.

    In ONNX Runtime the bias has the same bits as in PyTorch, and attention is equal up to
    rounding. float16 and bfloat16 are computed in float32 and rounded as in PyTorch.

    Operators that compute gradients are refused, and so are buckets that still change
    beyond a range of 2**20 relative positions.

    Examples
    --------
    >>> import torch
    >>> import t5bucket as tb
    >>> from t5bucket.torch import compute_bias, onnx_translations
    >>> class Bias(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.weight = torch.nn.Parameter(torch.randn(32, 12))
    ...
    ...     def forward(self, hidden_states):
    ...         length = hidden_states.shape[1]
    ...         return compute_bias(self.weight, length, length, buckets=tb.Buckets())
    >>> program = torch.onnx.export(
    ...     Bias().eval(),
    ...     (torch.zeros(1, 50, 8),),
    ...     dynamic_shapes=({1: "length"},),
    ...     custom_translation_table=onnx_translations(),
    ...     dynamo=True,
    ...     verbose=False,
    ... )
    >>> [str(size) for size in program.model.graph.outputs[0].shape]
    ['1', '12', 'length', 'length']
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ImportError(
            "onnx_translations needs ONNX Script: pip install 't5bucket[onnx]'"
        ) from None
    from t5bucket.torch._onnx_operators import TRANSLATIONS

    operators = torch.ops.t5bucket
    return {getattr(operators, name).default: graph for name, graph in TRANSLATIONS.items()}
