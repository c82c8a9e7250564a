# _core.pyi - types of the compiled wrappers.
# SPDX-License-Identifier: BSD-3-Clause
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

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
class Table(Lookup):
    def __new__(
        cls, items: NDArray[Any], starts: NDArray[np.int64] | None, origin: int = 0
    ) -> Table: ...
    def fill_diagonals(self, diagonals: NDArray[Any], first: int) -> None: ...
    def lookup_pairs(
        self,
        query_positions: NDArray[np.int64],
        key_positions: NDArray[np.int64],
        matrix: NDArray[Any],
        streaming: bool,
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

def copy_diagonals(
    diagonals: NDArray[Any], matrix: NDArray[Any], streaming: bool, begin: int, end: int
) -> None: ...
def get_implementation() -> str: ...
def get_compiler() -> str: ...
