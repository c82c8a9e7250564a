# models.py - whole models of transformers, with and without t5bucket.
# SPDX-License-Identifier: BSD-3-Clause
from benchmarks import _models

IMPLEMENTATIONS = ["t5bucket", "transformers"]


class Encoding:
    """Models of their real sizes, one forward pass on all processors."""

    timeout = 300
    param_names = ("implementation", "name, batch, length, padded")
    params = (IMPLEMENTATIONS, list(_models.ENCODINGS))

    def setup(self, implementation: str, batch: tuple[str, int, int, bool]) -> None:
        self.call = _models.forward(implementation, *batch)
        self.call()

    def time_forward(self, implementation: str, batch: tuple[str, int, int, bool]) -> None:
        self.call()


class Decoding:
    """Greedy decoding of 128 tokens."""

    timeout = 300
    param_names = ("implementation", "name")
    params = (IMPLEMENTATIONS, list(_models.DECODINGS))

    def setup(self, implementation: str, name: str) -> None:
        self.call = _models.decode(implementation, name)
        self.call()

    def time_decode(self, implementation: str, name: str) -> None:
        self.call()


class Memory:
    """Largest memory of a process that encodes 4096 tokens with t5-small."""

    timeout = 300
    param_names = ("implementation",)
    params = (IMPLEMENTATIONS,)
    unit = "bytes"

    def track_peak(self, implementation: str) -> float:
        return _models.peak_memory(implementation)
