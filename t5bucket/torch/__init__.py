# __init__.py - the bias as a PyTorch tensor, and attention with it (the extra "torch").
# SPDX-License-Identifier: BSD-3-Clause
"""Bias matrices of CPU tensors, and attention without the matrix; both are differentiable.

The functions read and write tensors without a copy. They call operators of
``torch.ops.t5bucket``, which have gradients and shapes, so ``torch.compile`` and
``torch.export`` work. Inside a transform of ``torch.func``, and in forward mode,
PyTorch's own functions compute the same values.
"""

from __future__ import annotations

try:
    import torch  # noqa: F401
except ImportError:
    raise ImportError("t5bucket.torch needs PyTorch: pip install 't5bucket[torch]'") from None

from t5bucket.torch._attention import scaled_dot_product_attention
from t5bucket.torch._bias import compute_bias, compute_bias_at
from t5bucket.torch._onnx import onnx_translations

__all__ = [
    "compute_bias",
    "compute_bias_at",
    "onnx_translations",
    "scaled_dot_product_attention",
]
