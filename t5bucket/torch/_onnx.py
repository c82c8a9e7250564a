# _onnx.py - for PyTorch's exporter: what the operators are in ONNX (the extra "onnx").
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def onnx_translations() -> dict[Any, Callable[..., Any]]:
    """Translations of this module's operators for PyTorch's ONNX exporter.
    """
    try:
        from t5bucket.torch._onnx_graphs import TRANSLATIONS
    except ImportError:
        raise ImportError(
            "onnx_translations needs ONNX Script: pip install 't5bucket[onnx]'"
        ) from None
    operators = torch.ops.t5bucket
    return {getattr(operators, name).default: graph for name, graph in TRANSLATIONS.items()}
