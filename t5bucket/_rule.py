# _rule.py - a bucketing rule as a step function of the relative position, decided by integers.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from t5bucket import _core
from t5bucket._arrays import allocate
from t5bucket._checks import integer, integers

Range = tuple[int, int | None, int | None]  # (bucket, first, last); None is no bound

# With this limit, the sum of a distance and a length fits in int64.
LIMIT = 2**62


class Rule:
    """The bucket of each relative position ``d`` (tokens), as a step function; immutable.

    Range ``r`` is ``starts[r - 1] <= d < starts[r]``; the first and the last
    range are unbounded. The package computes everything from these two arrays, so it
    can use any rule that is constant beyond some distance.

    Parameters
    ----------
    starts : sequence of int
        First relative position of each range but the first, ascending.
    buckets : sequence of int
        The bucket of each range, one more than `starts`.
    counter : BoundaryCounter, optional
        Gives the same buckets by counting boundaries, if that is faster.
    """

    __slots__ = (
        "_hash",
        "bucket_list",
        "buckets",
        "counter",
        "start_list",
        "starts",
        "widths",
    )

    def __init__(
        self, starts: list[int], buckets: list[int], counter: _core.BoundaryCounter | None = None
    ) -> None:
        self.counter = counter
        self.start_list = starts  # lists, because bisect looks single positions up in them
        self.bucket_list = buckets
        self.starts: NDArray[np.int64] = np.array(starts, np.int64)
        self.buckets: NDArray[np.int64] = np.array(buckets, np.int64)
        # Number of positions in each range; 1 for the first and the last, which are unbounded.
        self.widths: NDArray[np.int64] = np.concatenate(([1], np.diff(self.starts), [1]))
        self.starts.flags.writeable = self.buckets.flags.writeable = False
        self._hash = hash((tuple(starts), tuple(buckets)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rule):
            return NotImplemented
        return self.start_list == other.start_list and self.bucket_list == other.bucket_list

    def __hash__(self) -> int:
        return self._hash

    @classmethod
    def from_function(
        cls,
        function: Callable[[NDArray[np.int64]], ArrayLike],
        max_distance: int,
        num_buckets: int,
    ) -> Rule:
        """Tabulate a function of an array of positions up to a distance; beyond it, constant."""
        if not callable(function):
            raise TypeError(f"function must be callable, got {function!r}")
        positions = allocate((2 * max_distance + 1,), np.dtype(np.int64))
        positions[:] = np.arange(-max_distance, max_distance + 1)
        buckets = integers("the result of function", function(positions.copy()))
        if buckets.shape != positions.shape:
            raise ValueError(
                f"the result of function must have shape {positions.shape}, got {buckets.shape}"
            )
        _check_buckets("the result of function", buckets.min(), buckets.max(), num_buckets)
        changes = np.flatnonzero(buckets[1:] != buckets[:-1]) + 1
        return cls(positions[changes].tolist(), buckets[[0, *changes]].tolist())

    @classmethod
    def from_ranges(cls, ranges: Iterable[Range], max_distance: int, num_buckets: int) -> Rule:
        """Rule with the given ranges; together they must hold every ``d`` once."""
        if not isinstance(ranges, Iterable):
            raise TypeError(f"ranges must be iterable, got {ranges!r}")
        checked = sorted((_check_range(entry) for entry in ranges), key=_by_first)
        bounds = [first for _, first, _ in checked] + [None]
        afters = [None] + [None if last is None else last + 1 for _, _, last in checked]
        starts = [start for start in bounds[1:-1] if start is not None]
        ascending = all(first < second for first, second in pairwise(starts))
        if not checked or bounds != afters or len(starts) != len(checked) - 1 or not ascending:
            raise ValueError("ranges must hold every relative position once, got gaps or overlaps")
        if any(not -max_distance < start <= max_distance for start in starts):
            raise ValueError(f"ranges must not change beyond max_distance = {max_distance}")
        buckets = [bucket for bucket, _, _ in checked]
        _check_buckets("ranges", min(buckets), max(buckets), num_buckets)
        changes = [i for i in range(len(starts)) if buckets[i] != buckets[i + 1]]
        return cls([starts[i] for i in changes], [buckets[0], *(buckets[i + 1] for i in changes)])

    def bucket(self, relative_position: int) -> int:
        """Bucket of one relative position."""
        return self.bucket_list[bisect_right(self.start_list, relative_position)]

    def distinguishes_future(self) -> bool:
        """Whether some ``d > 0`` has another bucket than ``d = 0``."""
        after_zero = self.bucket_list[bisect_right(self.start_list, 1) :]
        return any(bucket != self.bucket(0) for bucket in after_zero)

    def max_exact(self) -> int:
        """Count distances ``n = 0, 1, ...`` into the past that have bucket ``n`` to themselves."""
        singles = {
            first
            for bucket, first, last in self.ranges()
            if first is not None and bucket == -first and (last == first or first == 0)
        }
        return next(n for n in range(len(singles) + 1) if -n not in singles)

    def is_t5(self, num_buckets: int, max_distance: int, bidirectional: bool) -> bool:
        """Whether this is T5's rule for these settings; T5 may not allow them."""
        max_exact = num_buckets // (4 if bidirectional else 2)
        if not 1 <= max_exact < max_distance or self.max_exact() < max_exact:
            return False
        # Building the rule of a very large scheme takes long, and nobody tabulates one.
        return num_buckets <= 4096 and self == t5_rule(num_buckets, max_distance, bidirectional)

    def ranges(self) -> list[Range]:
        """``(bucket, first, last)`` of each range, in the order of the buckets."""
        first = [None, *self.start_list]
        last = [start - 1 for start in self.start_list]
        order = sorted(range(len(self.buckets)), key=self.bucket_list.__getitem__)
        return [(self.bucket_list[r], first[r], [*last, None][r]) for r in order]


def _check_buckets(name: str, lowest: int, highest: int, num_buckets: int) -> None:
    if lowest < 0 or highest >= num_buckets:
        raise ValueError(
            f"{name} must hold buckets in [0, {num_buckets}), got {lowest} to {highest}"
        )


def _check_range(entry: Any) -> Range:
    try:
        bucket, first, last = entry
    except (TypeError, ValueError):
        raise TypeError(f"ranges must hold (bucket, first, last), got {entry!r}") from None
    first = None if first is None else integer("first of ranges", first, -LIMIT, LIMIT)
    last = None if last is None else integer("last of ranges", last, -LIMIT, LIMIT)
    return integer("bucket of ranges", bucket), first, last


def _by_first(entry: Range) -> int:
    return -LIMIT - 1 if entry[1] is None else entry[1]


# Equal schemes share one rule; rules are small and immutable.
@lru_cache(maxsize=256)
def t5_rule(num_buckets: int, max_distance: int, bidirectional: bool) -> Rule:
    """Rule of T5 for settings that have been checked."""
    num_distance_buckets = num_buckets // 2 if bidirectional else num_buckets
    max_exact = num_distance_buckets // 2
    boundaries = logarithmic_first_distances(
        max_exact, num_distance_buckets - max_exact, max_distance
    )
    first_distance = [*range(max_exact + 1), *boundaries]
    # A scheme with many buckets has some that begin where the next one begins: they never occur.
    occurring = [
        bucket
        for bucket, first in enumerate(first_distance)
        if bucket + 1 == num_distance_buckets or first < first_distance[bucket + 1]
    ]
    beyond_zero = occurring[1:]
    starts = [1 - first_distance[bucket] for bucket in reversed(beyond_zero)]
    buckets = occurring[::-1]
    if bidirectional:
        starts += [first_distance[bucket] for bucket in beyond_zero]
        buckets += [num_distance_buckets + bucket for bucket in beyond_zero]
    future_base = num_distance_buckets if bidirectional else 0
    counted = np.array(boundaries, np.int64)
    counter = _core.BoundaryCounter(max_exact, future_base, bidirectional, counted)
    return Rule(starts, buckets, counter if counter.can_count() else None)


def logarithmic_first_distances(
    max_exact: int, num_logarithmic: int, max_distance: int
) -> list[int]:
    """First distance of each logarithmic bucket above ``max_exact``, exactly.

    With ``e = max_exact``, ``m = num_logarithmic`` and ``D = max_distance``, the
    definition ``floor(m * log(n/e) / log(D/e)) >= k`` is equivalent to
    ``n**m >= D**k * e**(m - k)``. Integers decide it, without a logarithm or rounding.
    """
    first_distances = []
    first = max_exact
    threshold = max_exact**num_logarithmic
    for k in range(1, num_logarithmic):
        threshold = threshold // max_exact * max_distance
        first = _first_reaching(
            threshold,
            num_logarithmic,
            range(first, max_distance),
            guess=max_exact * (max_distance / max_exact) ** (k / num_logarithmic),
        )
        first_distances.append(first)
    return first_distances


def _first_reaching(threshold: int, power: int, within: range, guess: float) -> int:
    """Find the first ``n`` of a range with ``n**power >= threshold``, or the range's end.

    The guess narrows the range only if integer arithmetic confirms it.
    """
    lowest, highest = within.start, within.stop
    slack = 2 + int(guess * 2**-40)
    below, above = int(guess) - slack, int(guess) + slack
    if lowest < below < highest and below**power < threshold:
        lowest = below + 1
    if lowest < above < highest and above**power >= threshold:
        highest = above
    while lowest < highest:  # not `bisect`: an index has 32 bits on some systems
        middle = (lowest + highest) // 2
        if middle**power < threshold:
            lowest = middle + 1
        else:
            highest = middle
    return lowest
