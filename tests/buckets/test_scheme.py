# test_scheme.py - Buckets: known values, exact boundaries, equality.
# SPDX-License-Identifier: BSD-3-Clause
import copy
import pickle
import random
import time
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import given
from strategies import schemes, settings_of_schemes

import t5bucket as tb
from t5bucket import _rule

FIRST_DISTANCES = {
    (32, 128, True): "12 16 23 32 46 64 91",
    (32, 128, False): "19 21 24 27 31 35 40 46 52 59 67 77 87 99 113",
    (64, 128, True): "19 21 24 27 31 35 40 46 52 59 67 77 87 99 113",
    (32, 256, True): "13 20 30 46 70 108 166",
    (64, 256, True): "20 23 27 32 39 46 54 64 77 91 108 128 153 182 216",
    (32, 1024, True): "15 27 50 91 166 305 559",
    (33, 1024, False): "21 27 34 43 55 70 89 114 145 185 236 302 385 492 628 802",
}


def first_distances(buckets: tb.Buckets) -> list[int]:
    """Find the first past distance of each logarithmic bucket above ``max_exact``."""
    return [
        -last
        for bucket, _, last in buckets.ranges()
        if last is not None and last < 0 and bucket > buckets.max_exact
    ]


@pytest.mark.parametrize("settings", FIRST_DISTANCES)
def test_first_distances_are_the_known_ones(settings: tuple[int, int, bool]) -> None:
    expected = [int(distance) for distance in FIRST_DISTANCES[settings].split()]
    assert first_distances(tb.Buckets(*settings)) == expected


@pytest.mark.parametrize(
    ("settings", "distance", "bucket"),
    [((32, 128, True), 64, 14), ((32, 256, False), 64, 24), ((20, 160, True), 28, 7)],
)
def test_where_float64_shortcuts_go_wrong_integers_do_not(
    settings: tuple[int, int, bool], distance: int, bucket: int
) -> None:
    assert oracle.bucket(-distance, *settings) == bucket
    assert tb.Buckets(*settings)(-distance) == bucket


def test_no_distance_is_wrong_in_hundreds_of_random_settings() -> None:
    draw = random.Random(5)
    wrong = 0
    for _ in range(300):
        bidirectional = draw.random() < 0.5
        num_buckets = draw.randint(4, 70)
        max_exact = num_buckets // 4 if bidirectional else num_buckets // 2
        max_distance = max_exact + draw.choice([1, 2, 7, draw.randint(1, 400)])
        settings = (num_buckets, max_distance, bidirectional)
        positions = np.arange(-max_distance - 3, max_distance + 4)
        expected = [oracle.bucket(int(d), *settings) for d in positions]
        wrong += int((tb.Buckets(*settings)(positions) != expected).sum())
    assert wrong == 0


@given(settings_of_schemes())
def test_both_sides_of_each_boundary_agree_with_the_oracle(settings: tuple[int, int, bool]) -> None:
    for bucket, first, last in tb.Buckets(*settings).ranges():
        for edge in (first, last):
            if edge is not None:
                assert oracle.bucket(edge, *settings) == bucket


def test_a_bucket_index_of_half_is_never_produced_when_bidirectional() -> None:
    occurring = {bucket for bucket, _, _ in tb.Buckets(32, 128).ranges()}
    assert occurring == set(range(32)) - {16}


def test_the_odd_bucket_of_an_odd_bidirectional_scheme_never_occurs() -> None:
    assert max(bucket for bucket, _, _ in tb.Buckets(33, 128).ranges()) == 31


# ---- the textbook ----


def test_textbook_query_8_key_5_is_bucket_3() -> None:
    query, key = 8, 5
    assert tb.Buckets.from_textbook(32, 1024)(key - query) == 3


def test_textbook_distance_4_is_bucket_4() -> None:
    assert tb.Buckets.from_textbook(32, 1024)(-4) == 4


@pytest.mark.parametrize("n_b", [1, 2, 31, 32, 100])
def test_textbook_n_b_means_n_b_plus_1_parameters(n_b: int) -> None:
    buckets = tb.Buckets.from_textbook(n_b, 1024)
    assert buckets.num_buckets == n_b + 1
    assert buckets == tb.Buckets(n_b + 1, 1024, bidirectional=False)
    assert buckets(-(10**9)) == n_b


def test_textbook_first_buckets_are_one_to_one() -> None:
    buckets = tb.Buckets.from_textbook(32, 1024)
    one_to_one = np.arange((32 + 1) // 2)
    assert (buckets(-one_to_one) == one_to_one).all()


def test_textbook_ranges_are_those_of_its_figure() -> None:
    by_bucket = {
        bucket: (first, last) for bucket, first, last in tb.Buckets.from_textbook(32, 1024).ranges()
    }
    assert by_bucket[16] == (-20, -16)
    assert by_bucket[17] == (-26, -21)
    assert by_bucket[18] == (-33, -27)
    assert by_bucket[32] == (None, -802)


# ---- ranges ----


@given(schemes)
def test_ranges_hold_every_position_once_and_are_sorted_by_bucket(buckets: tb.Buckets) -> None:
    ranges = buckets.ranges()
    assert ranges == sorted(ranges, key=lambda entry: entry[0])
    assert len({bucket for bucket, _, _ in ranges}) == len(ranges)
    for d in range(-buckets.max_distance - 2, buckets.max_distance + 3):
        holding = [
            bucket
            for bucket, first, last in ranges
            if (first is None or first <= d) and (last is None or d <= last)
        ]
        assert holding == [buckets(d)]


# ---- an immutable value ----

TABULATED = tb.Buckets.from_function(lambda d: d.clip(-3, 3) + 3, max_distance=5, num_buckets=7)


@pytest.mark.parametrize("buckets", [tb.Buckets(), tb.Buckets(33, 1024, False), TABULATED])
def test_repr_pickle_and_copy_round_trip(buckets: tb.Buckets) -> None:
    copies = [
        eval(repr(buckets), {"Buckets": tb.Buckets}),
        copy.copy(buckets),
        copy.deepcopy(buckets),
        *(pickle.loads(pickle.dumps(buckets, protocol)) for protocol in range(6)),
    ]
    for other in copies:
        assert other == buckets
        assert hash(other) == hash(buckets)
        assert repr(other) == repr(buckets)
        assert other.ranges() == buckets.ranges()
        for name in ("num_buckets", "max_distance", "bidirectional", "max_exact"):
            assert getattr(other, name) == getattr(buckets, name)


def test_repr_is_the_constructor_call() -> None:
    expected = "Buckets(num_buckets=32, max_distance=128, bidirectional=True)"
    assert repr(tb.Buckets()) == expected


def test_schemes_differ_by_each_setting() -> None:
    different = {
        tb.Buckets(32, 128, True),
        tb.Buckets(32, 128, False),
        tb.Buckets(32, 129, True),
        tb.Buckets(33, 128, True),
        tb.Buckets(32, 128),
    }
    assert len(different) == 4
    assert tb.Buckets() != "Buckets()"


@pytest.mark.parametrize("name", ["num_buckets", "max_distance", "_rule", "new"])
def test_attributes_cannot_be_set_or_deleted(name: str) -> None:
    buckets = tb.Buckets()
    with pytest.raises(AttributeError, match="immutable"):
        setattr(buckets, name, 3)
    with pytest.raises(AttributeError, match="immutable"):
        delattr(buckets, name)
    assert buckets == tb.Buckets(32, 128)


def test_numpy_integers_and_bools_are_settings_too() -> None:
    buckets = tb.Buckets(np.int8(32), np.uint64(128), np.False_)  # type: ignore[arg-type]
    assert repr(buckets) == repr(tb.Buckets(32, 128, False))


def test_equal_schemes_share_their_rule_and_tables() -> None:
    copy = pickle.dumps(tb.Buckets(40, 200))  # threads may each make one at the same time
    first, second = tb.Buckets(40, 200), pickle.loads(copy)
    assert first._rule is second._rule
    dtype = np.dtype(np.uint8)
    assert first._table(dtype) is second._table(dtype)


def test_the_usual_scheme_is_built_well_under_a_millisecond() -> None:
    begin = time.perf_counter()
    for max_distance in range(10_001, 10_101):  # not in the cache
        tb.Buckets(32, max_distance)
    assert time.perf_counter() - begin < 100 * 0.5e-3


def test_boundaries_need_no_good_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = _rule.logarithmic_first_distances(8, 8, 1000)
    exact = _rule._first_reaching
    for factor in (0.0, 0.5, 0.999, 1.001, 2.0, 1e9):
        monkeypatch.setattr(
            _rule,
            "_first_reaching",
            lambda threshold, power, within, guess, f=factor: exact(
                threshold, power, within, guess * f
            ),
        )
        assert _rule.logarithmic_first_distances(8, 8, 1000) == expected


def test_a_large_scheme_is_built_in_under_a_second() -> None:
    begin = time.perf_counter()
    buckets = tb.Buckets(1024, 100_000, bidirectional=False)
    assert time.perf_counter() - begin < 1
    for d in (-511, -512, -514, -1000, -50_000, -98_000, -99_999):
        assert buckets(d) == oracle.bucket(d, 1024, 100_000, False)


# ---- other rules ----


def test_from_function_of_t5s_own_rule_equals_the_scheme() -> None:
    for settings in [(32, 128, True), (320, 800, True), (3, 4, False), (31, 18, True)]:
        buckets = tb.Buckets(*settings)
        tabulated = tb.Buckets.from_function(
            buckets, max_distance=buckets.max_distance, num_buckets=buckets.num_buckets
        )
        assert tabulated == buckets
        assert hash(tabulated) == hash(buckets)
        assert repr(tabulated) == repr(buckets)
        assert tabulated.bidirectional == buckets.bidirectional
        assert tabulated.max_exact == buckets.max_exact


def test_from_function_takes_rules_that_are_not_monotone() -> None:
    def rule(d: Any) -> Any:
        return np.where(d % 2 == 0, 0, np.where(d > 0, 1, 2))

    buckets = tb.Buckets.from_function(rule, max_distance=9, num_buckets=3)
    positions = np.arange(-30, 31)
    expected = rule(positions.clip(-9, 9))
    assert (buckets(positions) == expected).all()
    assert (buckets.grid(1, 61, key_offset=-30)[0] == expected).all()
    assert buckets.bidirectional
    assert len(buckets.ranges()) == 19


def test_from_function_calls_once_with_every_position_and_ignores_later_changes() -> None:
    calls = []

    def rule(d: Any) -> Any:
        calls.append(d.copy())
        d[:] = 0
        return calls[-1] + 4

    buckets = tb.Buckets.from_function(rule, max_distance=4, num_buckets=9)
    assert len(calls) == 1
    assert calls[0].tolist() == list(range(-4, 5))
    assert buckets(np.array([-9, -1, 4])).tolist() == [0, 3, 8]


def test_from_function_of_a_constant_has_one_unbounded_range() -> None:
    buckets = tb.Buckets.from_function(lambda d: 0 * d, max_distance=3, num_buckets=1)
    assert buckets.ranges() == [(0, None, None)]
    assert not buckets.bidirectional
    assert buckets.grid(2, 2).tolist() == [[0, 0], [0, 0]]
    assert buckets(np.array([-7, 7])).tolist() == [0, 0]
    assert buckets.grid_at([3], [5, 2**62]).tolist() == [[0, 0]]


def test_from_ranges_merges_neighbours_of_one_bucket() -> None:
    def scheme(*ranges: Any) -> tb.Buckets:
        return tb.Buckets.from_ranges(ranges, max_distance=5, num_buckets=2)

    assert scheme((1, 3, None), (0, None, -1), (0, 0, 2)) == scheme((0, None, 2), (1, 3, None))


@given(schemes)
def test_from_ranges_inverts_ranges(buckets: tb.Buckets) -> None:
    again = tb.Buckets.from_ranges(
        buckets.ranges(), max_distance=buckets.max_distance, num_buckets=buckets.num_buckets
    )
    assert again == buckets
