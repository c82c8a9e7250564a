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
    if sys.version_info >= (3, 12):  # older Pythons: a buffer only for C
        def __buffer__(self, flags: int, /) -> memoryview: ...

@disjoint_base
class Elementwise:
    def look_up(
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
    def __init__(self, query: NDArray[np.integer], key: NDArray[np.integer]) -> None: ...
    def part(self, batch: int, query: int, key: int) -> Pairs: ...

@final
class Epilogue:
    def __init__(
        self,
        type_code: int,
        accumulate: bool,
        addend: NDArray[Any] | None,
        keep: NDArray[np.bool_] | None,
        segments: Pairs | None,
        causal: Pairs | None,
        masked_item: NDArray[Any],
    ) -> None: ...
    def part(self, batch: int, query: int, key: int, causal: Pairs | None) -> Epilogue: ...

@final
class Table(Elementwise):
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
class BoundaryCounter(Elementwise):
    def __new__(
        cls,
        max_exact: int,
        future_base: int,
        bidirectional: bool,
        boundaries: NDArray[np.int64],
    ) -> BoundaryCounter: ...
    def can_count(self) -> bool: ...

def copy_diagonals(
    diagonals: NDArray[Any],
    matrix: NDArray[Any],
    streaming: bool,
    begin: int,
    end: int,
) -> None: ...
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
