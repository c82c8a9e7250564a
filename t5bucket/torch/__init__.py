# __init__.py - the bias of PyTorch's tensors, and attention with it (the extra "torch").
# SPDX-License-Identifier: BSD-3-Clause
"""Bias matrices of CPU tensors, and attention that needs none; both can be differentiated.

The functions read and write tensors without a copy. They are operators,
``torch.ops.t5bucket``, with gradients and shapes, so ``torch.compile`` and
``torch.export`` take them as they are. Inside a transform of ``torch.func``, and in
forward mode, PyTorch's own functions compute the same.
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
