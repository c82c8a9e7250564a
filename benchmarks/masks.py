# masks.py - masked bias matrices of a batch of four.
# SPDX-License-Identifier: BSD-3-Clause
from t5bucket.cli import _works


class Masked:
    """12 heads of float32, one thread, into memory that was touched before.

    *torch* masks the padding of a matrix that was computed before.
    """

    param_names = ("implementation", "mask", "length")
    params = (
        ["t5bucket", "memset", "torch"],
        ["padding", "causal", "additive", "segments", "by query"],
        [128, 512],
    )

    def setup(self, implementation: str, mask: str, length: int) -> None:
        if implementation == "torch" and mask != "padding":
            raise NotImplementedError(mask)
        self.call = _works.masked_matrix(implementation, mask, length)
        self.call()

    def time_masked_matrix(self, implementation: str, mask: str, length: int) -> None:
        self.call()
