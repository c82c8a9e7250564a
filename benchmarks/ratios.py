# ratios.py - the table of `t5bucket bench`: each work as a ratio to its peers and limits.
# SPDX-License-Identifier: BSD-3-Clause
from t5bucket.cli import bench

ROWS = {f"{row.work} / {row.peer}": row for row in bench.ROWS}


class Ratios:
    """Time by t5bucket over time by the peer, both in this run."""

    param_names = ("work / peer",)
    params = (list(ROWS),)
    timeout = 120

    def track_ratio(self, name: str) -> float:
        return ROWS[name].measure().ratio

    track_ratio.unit = "ratio"  # type: ignore[attr-defined]
