# _core.pyi - types of the compiled wrappers.
# SPDX-License-Identifier: BSD-3-Clause
import sys
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

@final
class Memory:
    def __new__(cls, owner: object, address: int, nbytes: int) -> Memory: ...
    if sys.version_info >= (3, 12):  # before, only C sees that it is a buffer
        def __buffer__(self, flags: int, /) -> memoryview: ...

@disjoint_base
class Lookup:
    def lookup(
        self,
        relative_position: NDArray[Any],
        type_code: int,
        items: NDArray[Any],
        streaming: bool,
        begin: int,
        end: int,
    ) -> None: ...

@final
class Pairs:
    def __new__(cls, query: NDArray[np.integer], key: NDArray[np.integer]) -> Pairs: ...

@final
class Epilogue:
    def __new__(
        cls,
        type_code: int,
        accumulate: bool,
        addend: NDArray[Any] | None,
        keep: NDArray[np.bool_] | None,
        segments: Pairs | None,
        causal: Pairs | None,
        masked_item: NDArray[Any],
    ) -> Epilogue: ...

@final
class Table(Lookup):
    def __new__(
        cls,
        items: NDArray[Any],
        starts: NDArray[np.int64] | None,
        origin: int = 0,
        num_heads: int = 0,
    ) -> Table: ...
    def fill_diagonals(self, diagonals: NDArray[Any], first: int) -> None: ...
    def write_pairs(
        self,
        positions: Pairs,
        epilogue: Epilogue | None,
        matrix: NDArray[Any],
        streaming: bool,
        begin: int,
        end: int,
    ) -> None: ...
    def sum_diagonals(
        self,
        first: int,
        type_code: int,
        epilogue: Epilogue | None,
        gradient: NDArray[Any],
        diagonals: NDArray[np.float64],
        sums: NDArray[np.float64],
        begin: int,
        end: int,
    ) -> None: ...
    def sum_pairs(
        self,
        positions: Pairs,
        type_code: int,
        epilogue: Epilogue | None,
        gradient: NDArray[Any],
        sums: NDArray[np.float64],
        begin: int,
        end: int,
    ) -> None: ...

@final
class Counter(Lookup):
    def __new__(
        cls,
        max_exact: int,
        future_base: int,
        bidirectional: bool,
        boundaries: NDArray[np.int64],
    ) -> Counter: ...
    def can_count(self) -> bool: ...

def write_diagonals(
    diagonals: NDArray[Any],
    epilogue: Epilogue | None,
    matrix: NDArray[Any],
    streaming: bool,
    begin: int,
    end: int,
) -> None: ...
def get_implementation() -> str: ...
def get_compiler() -> str: ...
