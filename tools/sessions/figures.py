# figures.py - record the figures of sessions, and write them into docs/reference/trust.md.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import nox  # which workflows that use this module have not

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "trust"
REPORT = ROOT / "docs" / "reference" / "trust.md"
RECORDED: dict[str, dict[str, str]] = {}  # by session; this process's only


def last_line(output: object) -> str:
    """Return the last line that a program printed, without pytest's ornaments."""
    return str(output).strip().splitlines()[-1].strip("= ")


def record(session: nox.Session, promise: str, figure: str) -> None:
    """Keep a figure for the report, and print it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    recorded = RECORDED.setdefault(session.name, {})
    recorded[promise] = figure
    (FOLDER / f"{session.name}.json").write_text(json.dumps(recorded, indent=1), encoding="utf-8")
    session.log(f"{promise}: {figure}")


def list_rows() -> list[str]:
    """List what the sessions recorded, as rows of the report."""
    rows = ["| promise | figure |", "|---|---|"]
    for path in sorted(FOLDER.glob("*.json"), key=lambda path: path.stat().st_mtime):
        figures = json.loads(path.read_text(encoding="utf-8"))
        rows += [f"| {promise} | {figure} |" for promise, figure in figures.items()]
    return rows


def write_report() -> None:
    """Write the rows into docs/reference/trust.md."""
    text = REPORT.read_text(encoding="utf-8")
    begin, end = (f"<!-- figures: {place} -->" for place in ("begin", "end"))
    head, tail = text.split(begin)[0], text.split(end)[1]
    REPORT.write_text("\n".join([f"{head}{begin}", *list_rows(), f"{end}{tail}"]), encoding="utf-8")
