"""One pass over all stored runs: every run goes into the CSV tables, the newest are kept for text and pictures.

Why one pass: a record is up to 0.2 MB in memory, and ten thousand of them would not fit a laptop beside the pictures.

Every run is audited, and an error that the audit finds counts as the record's own: no table, picture or verdict ranks
the figures it speaks of. Of a simulated device nothing is said but that it was simulated: no file of a report may
depend on what it read. Raw windows are read for the runs that are shown; of older ones, where there are more, the
record alone is audited, because parsing all windows of ten thousand runs takes minutes.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.audit import TOPICS, AuditFinding, audit, audit_run
from bench.notation import plain
from bench.records import Finding, Record
from bench.report.csv_long import LongTable, curve_table, measurements_table
from bench.report.csv_table import ResultsTable
from bench.report.grids import Grid
from bench.report.published import reported
from bench.report.rows import sort_key
from bench.store import StoredRun, count_records, each_run

MAX_SHOWN_RUNS = 300


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a report is made of.

    Attributes:
        shown: the newest runs as a report may show them (`published.reported`), in the order of every table.
        findings: run id → what the audit found in a shown run.
        num_runs: how many could be read.
        problems: one sentence for each record that could not.
        tables: CSV file → its table; every run that could be read is in each.
    """

    shown: tuple[StoredRun, ...]
    findings: Mapping[str, tuple[AuditFinding, ...]]
    num_runs: int
    problems: tuple[str, ...]
    tables: Mapping[str, ResultsTable | LongTable]

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
    tables: dict[str, ResultsTable | LongTable] = {
        "results.csv": ResultsTable(grid, pue),
        "curve.csv": curve_table(),
        "measurements.csv": measurements_table(),
    }
    newest: list[tuple[str, str, StoredRun, _Judged]] = []
    problems: list[str] = []
    num_runs = 0
    is_small = count_records(results) <= MAX_SHOWN_RUNS
    for run in each_run(results):
        if not isinstance(run, StoredRun):
            problems.append(plain(str(run)))
            continue
        num_runs += 1
        found = _judged(run, publishable(audit_run(run) if is_small else audit(run.record, {})), grid, pue)
        for table in tables.values():
            table.add(found.run.record)
        place = (run.record.created_at, run.folder.name, run, found)  # a folder's name is unique: no runs are compared
        (heapq.heappush if len(newest) < MAX_SHOWN_RUNS else heapq.heappushpop)(newest, place)
    newest.sort(key=lambda place: (*sort_key(place[2].record), place[1]))
    shown = [found if is_small else _judged(run, publishable(audit_run(run)), grid, pue) for _, _, run, found in newest]
    return Survey(
        shown=tuple(each.run for each in shown),
        findings={each.run.record.run_id: each.findings for each in shown},
        num_runs=num_runs,
        problems=tuple(problems),
        tables=tables,
    )


@dataclass(frozen=True)
class _Judged:
    """A run as a report may show it, and what the audit found in it."""

    run: StoredRun
    findings: tuple[AuditFinding, ...]


def _judged(run: StoredRun, findings: tuple[AuditFinding, ...], grid: Grid | None, pue: float) -> _Judged:
    return _Judged(replace(run, record=reported(judged(run.record, findings), grid, pue)), findings)


def publishable(findings: Sequence[AuditFinding]) -> tuple[AuditFinding, ...]:
    """The findings without those on energies where a device was simulated: they would quote it."""
    is_simulated = any(finding.rule == "simulated" for finding in findings)
    return tuple(each for each in findings if not is_simulated or TOPICS.get(each.rule) != "energy")


def judged(record: Record, findings: Sequence[AuditFinding]) -> Record:
    """The record with the audit's errors among its own findings, so that nothing ranks what they speak of."""
    known = {finding.rule for finding in record.validity if finding.level == "error"}
    errors = tuple(
        Finding(rule=finding.rule, level="error", detail=f"{finding.detail} {finding.remedy}")
        for finding in findings
        if finding.level == "error" and finding.rule not in known
    )
    return record.model_copy(update={"validity": record.validity + errors}) if errors else record
