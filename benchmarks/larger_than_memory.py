# larger_than_memory.py - two worker processes write arrays larger than their memory, in chunks.
# SPDX-License-Identifier: BSD-3-Clause
"""Write a grid and a bias matrix to Zarr with Dask, and report each worker's peak memory.

    python benchmarks/larger_than_memory.py FOLDER

The workers are processes of one thread each, reached over TCP. The grid is
40,000 x 40,000 uint8 (1.6 GB), the bias 12 x 20,000 x 20,000 bfloat16 (9.6 GB, kept as
uint16); Zarr compresses both. Needs the extra ``dask``, distributed and zarr.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import t5bucket as tb
from t5bucket._arrays import bfloat16


def peak_nbytes() -> int:
    """Return the peak memory of this process."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write(client: Any, lazy: Any, path: Path) -> None:
    """Write an array, and print how long it took and how much each worker's peak grew."""
    before = client.run(peak_nbytes)
    begin = time.perf_counter()
    lazy.to_zarr(str(path), overwrite=True)
    seconds = time.perf_counter() - begin
    grown = {worker: peak - before[worker] for worker, peak in client.run(peak_nbytes).items()}
    print(f"{path.name}: {lazy.nbytes / 1e9:.1f} GB in {seconds:.0f} s; peaks grew by", end=" ")
    print(", ".join(f"{nbytes / 1e6:.0f} MB" for nbytes in grown.values()), flush=True)


def main() -> None:
    """Write both."""
    from distributed import Client, LocalCluster

    from t5bucket.dask import grid, matrix

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--length", type=int, default=40_000, help="of the grid; the bias's is half"
    )
    options = parser.parse_args()
    buckets = tb.Buckets(32, 128)
    weight = np.random.default_rng(0).standard_normal((32, 12)).astype(bfloat16())
    bias = tb.RelativeAttentionBias(weight, buckets)
    half = options.length // 2
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, protocol="tcp", dashboard_address=None
        ) as c,
        Client(c) as client,
    ):
        lazy = grid(buckets, options.length, options.length, chunks=2_000, dtype=np.uint8)
        write(client, grid(buckets, 4_000, 4_000, chunks=2_000), options.folder / "warm.zarr")
        write(client, lazy, options.folder / "grid.zarr")
        write(
            client,
            matrix(bias, half, half, chunks=(12, 1_000, 1_000)).view(np.uint16),
            options.folder / "bias.zarr",
        )


if __name__ == "__main__":
    main()
