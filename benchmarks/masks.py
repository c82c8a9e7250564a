# masks.py - masked bias matrices of a batch of four.
# SPDX-License-Identifier: BSD-3-Clause
from t5bucket.cli import _works


class Masked:
    """12 heads of float32, one thread, into memory that was touched before."""

    param_names = ("implementation", "mask", "length")
    params = (
        ["t5bucket", "memset"],
        ["padding", "causal", "additive", "segments", "by query"],
        [128, 512],
    )

    def setup(self, implementation: str, mask: str, length: int) -> None:
        self.call = _works.masked_matrix(implementation, mask, length)
        self.call()

    def time_masked_matrix(self, implementation: str, mask: str, length: int) -> None:
        self.call()


class Padding:
    """Of a matrix that was computed before, by torch.where."""

    param_names = ("implementation",)
    params = (["t5bucket", "memset", "torch"],)

    def setup(self, implementation: str) -> None:
        self.call = _works.masked_matrix(implementation)
        self.call()

    def time_padding_mask(self, implementation: str) -> None:
        self.call()
