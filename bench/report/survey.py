"""One pass over all stored runs: every run goes into the CSV tables, the newest are kept for text and pictures.

Why one pass: a record is up to 0.2 MB in memory, and ten thousand of them would not fit a laptop beside the pictures.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from pathlib import Path

from bench.report.csv_long import LongTable, curve_table, measurements_table
from bench.report.csv_table import ResultsTable
from bench.report.grids import Grid
from bench.report.notation import plain
from bench.report.published import reported
from bench.report.rows import sort_key
from bench.store import StoredRun, each_run

MAX_SHOWN_RUNS = 500


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a report is made of.

    Attributes:
        stored: the newest runs as they are stored, in the order of every table.
        shown: the same as a report may show them (`published.reported`).
        num_runs: how many could be read; all of them are in the tables.
        problems: one sentence for each record that could not.
    """

    stored: tuple[StoredRun, ...]
    shown: tuple[StoredRun, ...]
    num_runs: int
    problems: tuple[str, ...]
    results: ResultsTable
    curve: LongTable
    measurements: LongTable

    @property
    def left_out(self) -> str:
        """A sentence where not all runs are shown; empty where they are."""
        if len(self.shown) == self.num_runs:
            return ""
        return f"The {len(self.shown)} newest of {self.num_runs} runs are shown; the CSV files hold all of them."


def survey(results: Path, *, grid: Grid | None = None, pue: float = 1.0) -> Survey:
    """Read every run under `results`.

    Args:
        grid: what a kilowatt-hour stands for; None leaves CO2 unknown.
        pue: power usage effectiveness, at least 1 (`checked_pue`).
    """
    tables = ResultsTable(grid, pue), curve_table(), measurements_table()
    newest: list[tuple[str, str, StoredRun, StoredRun]] = []
    problems: list[str] = []
    num_runs = 0
    for run in each_run(results):
        if not isinstance(run, StoredRun):
            problems.append(plain(str(run)))
            continue
        num_runs += 1
        record = run.record
        shown = replace(run, record=reported(record, grid, pue))
        for table in tables:
            table.add(shown.record)
        place = (record.created_at, run.folder.name, run, shown)  # a folder's name is unique, so runs are not compared
        (heapq.heappush if len(newest) < MAX_SHOWN_RUNS else heapq.heappushpop)(newest, place)
    newest.sort(key=lambda place: (*sort_key(place[2].record), place[1]))
    return Survey(
        stored=tuple(place[2] for place in newest),
        shown=tuple(place[3] for place in newest),
        num_runs=num_runs,
        problems=tuple(problems),
        results=tables[0],
        curve=tables[1],
        measurements=tables[2],
    )
