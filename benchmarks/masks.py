# masks.py - masked bias matrices of a batch of four, 512 x 512.
# SPDX-License-Identifier: BSD-3-Clause
from benchmarks import _tasks


class Masked:
    """12 heads of float32, one thread, into memory that was touched before.

    *torch* masks the padding of a matrix that was computed before.
    """

    param_names = ("implementation", "mask")
    params = (
        ["t5bucket", "memset", "torch"],
        ["padding", "causal", "additive", "segments", "by query"],
    )

    def setup(self, implementation: str, mask: str) -> None:
        if implementation == "torch" and mask != "padding":
            raise NotImplementedError(mask)
        self.call = _tasks.masked_matrix(implementation, mask)
        self.call()

    def time_masked_matrix(self, implementation: str, mask: str) -> None:
        self.call()
