# __init__.py - buckets and the bias in JAX's own operations (the extra "jax").
# SPDX-License-Identifier: BSD-3-Clause
"""Bias matrices of JAX's arrays, on any device: compiled, differentiated, mapped and exported.

A scheme is tabulated when JAX traces a function, so no program computes a logarithm or a
one-hot matrix for each pair. It looks up one weight for each diagonal and head; a row of
the bias is a window of the diagonals.
"""

from __future__ import annotations

try:
    import jax  # noqa: F401
except ImportError:
    raise ImportError("t5bucket.jax needs JAX: pip install 't5bucket[jax]'") from None

from t5bucket.jax._bias import compute_bias
from t5bucket.jax._buckets import bucket

__all__ = ["bucket", "compute_bias"]
