# __init__.py - the public names.
# SPDX-License-Identifier: BSD-3-Clause
"""T5 relative position buckets and attention-bias matrices on CPUs: fast and exact.

>>> import t5bucket as tb
>>> tb.Buckets(num_buckets=32, max_distance=128)([-64, -1, 0, 1, 64])
array([14,  1,  0, 17, 30])
"""

try:
    from t5bucket import _core as _core
except ImportError as error:
    if error.name != "t5bucket":  # the module exists, and its own error says what is wrong
        raise
    raise ImportError(
        f"t5bucket's extension module cannot be imported ({error}). In its source tree, start "
        "Python with -P, or from another folder, or install with: pip install --editable ."
    ) from error

from t5bucket._bias import RelativeAttentionBias, compute_bias
from t5bucket._buckets import Buckets, relative_position_bucket
from t5bucket._include import get_include, get_sources

__all__ = [
    "Buckets",
    "RelativeAttentionBias",
    "__version__",
    "compute_bias",
    "get_include",
    "get_sources",
    "relative_position_bucket",
]


def __getattr__(name: str) -> str:
    if name == "__version__":  # reading the metadata costs more than the rest of the import
        from importlib.metadata import version

        return version("t5bucket")
    raise AttributeError(f"module 't5bucket' has no attribute {name!r}")
