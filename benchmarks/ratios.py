# ratios.py - the rows of the report: the ratio of each task to its peers and limits.
# SPDX-License-Identifier: BSD-3-Clause
from benchmarks import _report

ROWS = {f"{row.task} / {row.peer}": row for row in _report.ROWS}


class Ratios:
    """Time by t5bucket over time by the peer, both in this run."""

    param_names = ("task / peer",)
    params = (list(ROWS),)
    timeout = 120

    def track_ratio(self, name: str) -> float:
        return ROWS[name].measure().ratio

    track_ratio.unit = "ratio"  # type: ignore[attr-defined]
