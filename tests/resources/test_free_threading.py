# test_free_threading.py - threads that share objects and memory, with and without the GIL.
# SPDX-License-Identifier: BSD-3-Clause
import os
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np
import oracle
import pytest
import reference
import strategies

import t5bucket as tb
from t5bucket import _arrays, _rule

NUM_THREADS = 16
Result = TypeVar("Result")

CALLS = """
import sys
import numpy as np
import t5bucket as tb
buckets = tb.Buckets(32, 128)
buckets(np.arange(100))
bias = tb.RelativeAttentionBias(np.ones((32, 4), np.float32), buckets)
out = bias.matrix(64, 64, causal=True, num_threads=2)
bias.matrix_at(np.arange(64), out=out, accumulate=True)
bias.weight_gradient(out)
bias.attend(*np.ones((3, 4, 64, 8), np.float32), num_threads=2)
print(getattr(sys, "_is_gil_enabled", lambda: True)())
"""


def at_once(work: Callable[[int], Result]) -> list[Result]:
    """Call ``work(thread)`` in threads that begin together; return what it returns."""
    barrier = threading.Barrier(NUM_THREADS, timeout=60)

    def begin(thread: int) -> Result:
        barrier.wait()
        return work(thread)

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return list(pool.map(begin, range(NUM_THREADS)))


def test_the_gil_stays_as_the_interpreter_has_it() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}
    command = [sys.executable, "-W", "error", "-c", CALLS]
    printed = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    assert printed.split() == [str(not sysconfig.get_config_var("Py_GIL_DISABLED"))]


@pytest.mark.parametrize("bidirectional", [True, False])
def test_threads_that_make_a_scheme_at_once_agree_with_the_oracle(bidirectional: bool) -> None:
    positions = np.arange(-400, 400)

    def ask(thread: int) -> tuple[tb.Buckets, Any]:
        buckets = tb.Buckets(num_buckets, max_distance, bidirectional)
        dtype = strategies.INTEGERS[thread % len(strategies.INTEGERS)]
        return buckets, buckets(positions, dtype=dtype)

    for num_buckets, max_distance in [(32, 128), (33, 100), (8, 2**40), (64, 3000), (127, 65)]:
        settings = (num_buckets, max_distance, bidirectional)
        expected = [oracle.bucket(int(d), *settings) for d in positions]
        for _ in range(10):
            _rule.t5_rule.cache_clear()
            answers = at_once(ask)
            assert len({buckets for buckets, _ in answers}) == 1
            assert all(found.tolist() == expected for _, found in answers)


@pytest.mark.parametrize("dtype", strategies.FLOAT_DTYPES, ids=str)
def test_threads_that_first_use_a_bias_agree(dtype: np.dtype[Any]) -> None:
    query, key = np.arange(40), np.arange(60)
    segment_ids, key_segment_ids = query // 16, key // 16
    masks: dict[str, Any] = {"causal": True, "segment_ids": segment_ids}
    masks["key_segment_ids"] = key_segment_ids
    relative = reference.consecutive(40, 60)
    for seed in range(20):
        buckets = tb.Buckets(32, 128)
        weight = reference.normal_weight(32, 5, dtype, seed)
        bias = tb.RelativeAttentionBias(weight, buckets)
        _arrays.finite_minimum.cache_clear()
        _arrays.float_code.cache_clear()
        calls: list[Callable[..., Any]] = [
            partial(bias.matrix, 40, 60),
            partial(bias.matrix_at, query, key),
            partial(bias.matrix, 40, 60, num_threads=3),
        ]

        def call(thread: int, calls: list[Callable[..., Any]] = calls) -> Any:
            return calls[thread % len(calls)](**masks)

        expected = reference.bits(reference.matrix(weight, reference.t5(), relative, **masks))
        for found in at_once(call):
            assert np.array_equal(reference.bits(found), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_threads_write_parts_of_one_grid_whose_lines_they_share(dtype: Any) -> None:
    buckets = tb.Buckets(48, 333)
    edges = np.cumsum([0] + [3 + thread % 5 for thread in range(NUM_THREADS)])
    length = int(edges[-1])
    out = np.zeros((length, length), dtype)
    expected = reference.t5(48, 333)(reference.consecutive(length, length))

    def write(thread: int) -> None:
        first, last = (int(edge) for edge in edges[thread : thread + 2])
        keys = out[:, first:last]
        for _ in range(20):
            keys[...] = 99
            if thread % 2:
                buckets.grid(length, last - first, key_offset=first, dtype=dtype, out=keys)
            else:
                key_positions = np.arange(first, last)
                buckets.grid_at(np.arange(length), key_positions, dtype=dtype, out=keys)

    at_once(write)
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("dtype", strategies.FLOAT_DTYPES, ids=str)
def test_threads_add_to_parts_of_one_matrix(dtype: np.dtype[Any]) -> None:
    buckets = tb.Buckets(32, 128)
    weight = reference.normal_weight(32, 3, dtype)
    bias = tb.RelativeAttentionBias(weight, buckets)
    length = 7 * NUM_THREADS
    out = np.random.default_rng(1).standard_normal((3, length, length)).astype(dtype)
    relative = reference.consecutive(length, length)
    expected = reference.matrix(weight, reference.t5(), relative, held=out)
    start = out.copy()

    def add(thread: int) -> None:
        first = 7 * thread
        keys = slice(first, first + 7)
        for _ in range(20):
            out[..., keys] = start[..., keys]
            bias.add_to(out[..., keys], key_offset=first)

    at_once(add)
    assert np.array_equal(reference.bits(out), reference.bits(expected))


def test_threads_share_one_gradient_and_its_masks() -> None:
    buckets = tb.Buckets(32, 128)
    bias = tb.RelativeAttentionBias(reference.normal_weight(32, 4, np.float32), buckets)
    gradient = np.random.default_rng(2).standard_normal((4, 90, 80)).astype(np.float32)
    mask = np.random.default_rng(3).random((90, 80)) > 0.3
    expected = bias.weight_gradient(gradient, mask=mask)
    relative = reference.consecutive(90, 80)
    np.testing.assert_allclose(
        expected,
        reference.weight_gradient(gradient, reference.t5(), relative, mask=mask),
        rtol=1e-5,
    )
    sums = at_once(
        lambda thread: bias.weight_gradient(gradient, mask=mask, num_threads=1 + thread % 3)
    )
    assert all(np.array_equal(found, expected) for found in sums)


def test_threads_share_one_bias_and_attend() -> None:
    bias = tb.RelativeAttentionBias(reference.normal_weight(32, 4, np.float16), tb.Buckets())
    query, key, value = np.random.default_rng(4).standard_normal((3, 2, 4, 90, 8)).astype("f2")
    masks: dict[str, Any] = {"mask": np.arange(90) < 80, "causal": True}
    calls: list[Callable[..., Any]] = [
        partial(bias.attend, query, key, value, **masks),
        partial(bias.attend_at, query, key, value, np.arange(90), **masks),
    ]
    expected = [call() for call in calls]
    found = at_once(lambda thread: calls[thread % 2](num_threads=1 + thread % 3))
    assert all(np.array_equal(x, expected[thread % 2]) for thread, x in enumerate(found))
