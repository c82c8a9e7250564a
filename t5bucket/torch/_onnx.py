# _onnx.py - for PyTorch's exporter: what our operators are in ONNX (the extra "onnx").
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def onnx_translations() -> dict[Any, Callable[..., Any]]:
    """Return what t5bucket's operators are in ONNX, for ``torch.onnx.export``.

    A module that calls `compute_bias`, `compute_bias_at` or `scaled_dot_product_attention`
    becomes a graph of standard ONNX operators, which any runtime can run.

    Returns
    -------
    dict
        A new ``custom_translation_table``, to which you may add your own translations.

    Raises
    ------
    ImportError
        If ONNX Script is not installed.

    Notes
    -----
    It is for the exporter with ``dynamo=True``, opset 18 or newer, and fixed and dynamic
    lengths. Buckets are stored for each relative position up to the largest distance, so no
    logarithm is computed. The bias is read from its ``q + k - 1`` diagonals; if weight
    and lengths are constant, exporter or runtime compute it once. Layers that call
    the attention with the same weight, lengths and mask share one bias.

    ONNX Runtime gives the bits of PyTorch for the bias, and attention that is equal up to
    rounding. float16 and bfloat16 are computed in float32 and rounded as PyTorch does.

    A graph has no gradients: operators that compute them are refused, and so are buckets
    that still change beyond a range of 2**20 relative positions.

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
