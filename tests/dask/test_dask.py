# test_dask.py - lazy grids and matrices: values, keys, worker processes that die.
# SPDX-License-Identifier: BSD-3-Clause
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import BFLOAT16, bits, random_weight

import t5bucket as tb

da: Any = pytest.importorskip("dask.array")
from t5bucket import dask as tb_dask  # noqa: E402

grid: Any = tb_dask.grid
matrix: Any = tb_dask.matrix
BUCKETS: Any = tb.Buckets(32, 128)
BIAS = tb.RelativeAttentionBias(random_weight(32, 5, BFLOAT16 or np.float16), BUCKETS)


@pytest.mark.parametrize("chunks", [1, 7, (30, 70), (-1, 33), ((10, 90), (150, 50)), "auto"])
@pytest.mark.parametrize("dtype", ["uint8", "int64", ">i4"])
def test_grid_equals_the_grid_in_memory(chunks: Any, dtype: str) -> None:
    if chunks == 1:
        lazy = grid(BUCKETS, 5, 6, chunks=chunks, key_offset=-3, dtype=dtype)
        expected = BUCKETS.grid(5, 6, key_offset=-3, dtype=dtype)
    else:
        lazy = grid(BUCKETS, 100, 200, chunks=chunks, key_offset=-3, dtype=dtype)
        expected = BUCKETS.grid(100, 200, key_offset=-3, dtype=dtype)
    assert isinstance(lazy, da.Array)
    assert lazy.shape == expected.shape
    assert lazy.dtype == np.dtype(dtype)
    found = lazy.compute()
    assert found.dtype == np.dtype(dtype)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("chunks", [(5, 20, 30), (2, 50, -1), (1, 7, 11), 25])
@pytest.mark.parametrize("heads_first", [False, True])
def test_matrix_equals_the_matrix_in_memory_bit_for_bit(chunks: Any, heads_first: bool) -> None:
    weight = BIAS.weight.T if heads_first else BIAS.weight
    bias = tb.RelativeAttentionBias(weight, BUCKETS, heads_first=heads_first)
    lazy = matrix(bias, 50, 60, chunks=chunks, query_offset=4)
    assert lazy.dtype == BIAS.dtype
    expected = BIAS.matrix(50, 60, query_offset=4)
    assert np.array_equal(bits(lazy.compute()), bits(expected))


@pytest.mark.parametrize(
    "index",
    [
        np.s_[3, 5, 7],
        np.s_[:, 10:40:7, ::-3],
        np.s_[1:3, -1],
        np.s_[..., 59],
        np.s_[[4, 0], 3:4],
        np.s_[:, :0],
    ],
)
def test_any_slice_equals_the_slice_in_memory(index: Any) -> None:
    lazy = matrix(BIAS, 50, 60, chunks=(2, 13, 17))
    assert np.array_equal(bits(lazy[index].compute()), bits(BIAS.matrix(50, 60)[index]))


@pytest.mark.parametrize("at", [2**63 - 1, -(2**63)])
def test_blocks_may_exceed_the_limits_of_offsets(at: int) -> None:
    lazy = grid(BUCKETS, 20, 20, chunks=6, query_offset=at, key_offset=at)
    assert np.array_equal(lazy.compute(), BUCKETS.grid(20, 20))
    lazy = grid(BUCKETS, 20, 20, chunks=6, key_offset=at)
    assert np.array_equal(lazy.compute(), BUCKETS.grid(20, 20, key_offset=at))


def test_equal_arguments_share_their_keys_and_others_do_not() -> None:
    first = grid(BUCKETS, 100, 200, chunks=30)
    assert grid(tb.Buckets(32, 128), 100, 200, chunks=30).name == first.name
    others = [
        grid(tb.Buckets(32, 129), 100, 200, chunks=30),
        grid(tb.Buckets(32, 128, False), 100, 200, chunks=30),
        grid(BUCKETS, 101, 200, chunks=30),
        grid(BUCKETS, 100, 200, chunks=31),
        grid(BUCKETS, 100, 200, chunks=30, dtype=np.uint8),
        grid(BUCKETS, 100, 200, chunks=30, key_offset=1),
    ]
    assert len({first.name, *(other.name for other in others)}) == 1 + len(others)
    assert grid(BUCKETS, 100, 200, chunks=30, query_offset=5, key_offset=5).name == first.name
    again = tb.RelativeAttentionBias(BIAS.weight.copy(), tb.Buckets(32, 128))
    name = matrix(BIAS, 9, 9, chunks=3).name
    assert matrix(again, 9, 9, chunks=3).name == name
    weight = BIAS.weight.copy()
    weight.view(np.uint16)[3, 1] ^= 1
    assert matrix(tb.RelativeAttentionBias(weight, BUCKETS), 9, 9, chunks=3).name != name


def test_a_key_is_the_same_in_another_process() -> None:
    script = """
import t5bucket as tb
from t5bucket.dask import grid
print(grid(tb.Buckets(32, 128), 100, 200, chunks=30).name)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == grid(BUCKETS, 100, 200, chunks=30).name


def test_explicit_positions_go_through_map_blocks() -> None:
    positions = np.random.default_rng(0).integers(-300, 300, (40, 50))
    lazy = da.from_array(positions, chunks=(7, 50))
    found = lazy.map_blocks(BUCKETS, dtype=np.int64).compute()
    assert np.array_equal(found, BUCKETS(positions))
    rows = da.from_array(positions, chunks=(7, 50))
    packed = rows.map_blocks(BUCKETS.grid_at, chunks=(7, 50, 50), new_axis=2, dtype=np.int64)
    assert np.array_equal(packed.compute(), BUCKETS.grid_at(positions))


def test_a_graph_can_be_sent_away() -> None:
    lazy = pickle.loads(pickle.dumps(matrix(BIAS, 30, 30, chunks=(5, 9, 9))))
    assert np.array_equal(bits(lazy.compute(scheduler="sync")), bits(BIAS.matrix(30, 30)))


# ---- worker processes ----


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Any]:
    """Two worker processes of one thread each, reached over TCP."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        protocol="tcp",
        dashboard_address=None,
        local_directory=str(tmp_path),
    ) as cluster:
        assert cluster.scheduler_address.startswith("tcp://")
        with distributed.Client(cluster) as client:
            yield client


@pytest.mark.filterwarnings("ignore")
def test_workers_write_arrays_larger_than_their_memory(client: Any, tmp_path: Path) -> None:
    def peak_nbytes() -> int:  # nested, so that it is pickled by value
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    zarr = pytest.importorskip("zarr")
    client.run(grid(BUCKETS, 4, 4, chunks=2).compute, scheduler="sync")
    before = client.run(peak_nbytes)
    length, chunk = 12_000, 1_000
    lazy = grid(BUCKETS, length, length, chunks=chunk, dtype=np.uint8)
    path = str(tmp_path / "grid.zarr")
    lazy.to_zarr(path)
    stored = zarr.open_array(path, mode="r")
    step = BUCKETS.grid(1, length, query_offset=7_001, dtype=np.uint8)
    assert np.array_equal(stored[7_001], step[0])
    assert np.array_equal(stored[:, 11_999], BUCKETS(11_999 - np.arange(length)))
    bias = matrix(BIAS, 4_000, 4_000, chunks=(5, 1_000, 1_000)).view(np.uint16)  # no bfloat16 there
    bias.to_zarr(str(tmp_path / "bias.zarr"))
    stored = zarr.open_array(str(tmp_path / "bias.zarr"), mode="r")
    assert np.array_equal(stored[:, 3_999], bits(BIAS.matrix(1, 4_000, query_offset=3_999))[:, 0])
    after = client.run(peak_nbytes)
    for worker, nbytes in after.items():  # of 144 and 160 MB
        assert nbytes - before[worker] < 100e6


@pytest.mark.filterwarnings("ignore")
def test_a_worker_that_is_killed_loses_nothing(client: Any) -> None:
    def slowly(block: Any) -> Any:
        import time

        time.sleep(0.02)
        return block

    lazy: Any = grid(BUCKETS, 8_000, 8_000, chunks=500, dtype=np.uint8)
    future = client.compute(lazy.map_blocks(slowly, dtype=np.uint8).sum())
    time.sleep(1.0)
    process_ids = list(client.run(os.getpid).values())
    os.kill(process_ids[0], signal.SIGKILL)
    assert future.result(timeout=100) == BUCKETS.grid(8_000, 8_000).sum()


# ---- bad input ----

CASES: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: grid(32, 5, 5, chunks=2), TypeError, "buckets must be a Buckets, got int"),
    (
        lambda: matrix(BUCKETS, 5, 5, chunks=2),
        TypeError,
        "bias must be a RelativeAttentionBias, got Buckets",
    ),
    (lambda: grid(BUCKETS, -1, 5, chunks=2), ValueError, "query_length must be at least 0, got -1"),
    (lambda: matrix(BIAS, 5, 5.0, chunks=2), TypeError, "key_length must be an integer"),
    (lambda: grid(BUCKETS, 5, 5, chunks=(2, 2, 2)), ValueError, "chunks must divide shape (5, 5)"),
    (lambda: grid(BUCKETS, 5, 5, chunks=((2, 2), 5)), ValueError, "chunks must divide shape"),
    (lambda: grid(BUCKETS, 5, 5, chunks=2, dtype=float), TypeError, "dtype must be an integer"),
]


@pytest.mark.parametrize(("call", "error", "message"), CASES)
def test_bad_input_is_refused_with_a_message_that_names_it(
    call: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
