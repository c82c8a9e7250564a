# __init__.py - buckets and the bias, computed by JAX's own operations (the extra "jax").
# SPDX-License-Identifier: BSD-3-Clause
"""Bias matrices of JAX arrays, on any device: compiled, differentiated, mapped and exported.

The scheme is tabulated when JAX traces a function. The compiled program computes no logarithm
and no one-hot matrix: it looks up one weight for each diagonal and head. Each row of the bias
is a window of the diagonals.
"""

from __future__ import annotations

try:
    import jax  # noqa: F401
except ImportError:
    raise ImportError("t5bucket.jax needs JAX: pip install 't5bucket[jax]'") from None

from t5bucket.jax._bias import compute_bias
from t5bucket.jax._buckets import bucket

__all__ = ["bucket", "compute_bias"]
