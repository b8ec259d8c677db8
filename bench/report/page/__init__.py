"""`report.html`: the whole report as one file that needs no network, for someone who opens it once and decides.

Tables, samples, plots, verdict and audit stand in the HTML itself, so the page reads and prints without JavaScript. The
script (`page*.js`) adds sorting, filters, the grid of the CO2 and a dialog behind every figure, from
JSON in the page.

Safety: records may come from anywhere. Every string is escaped here (`html.escape`) or is JSON without `<`, `>` and `&`
that the script only ever shows as text. A content security policy allows this page's own script and style by their
hash and nothing else (https://www.w3.org/TR/CSP3/#grammardef-hash-source), so not even a string that got through runs.

Size: at most `MAX_BYTES`. The newest runs that fit are in, older ones lose their raw windows first; the page says how
many were left out and where they are. The same records give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from bench.records import Record
from bench.report.grids import Grid
from bench.report.page.blocks import (
    audit_html,
    grid_options,
    headline_html,
    machines_html,
    origins_html,
    pictures_html,
    samples_html,
    unknown_html,
    verdicts_html,
)
from bench.report.page.data import FIGURE_FIELDS, MORE_FIELDS, Json, Pool, as_json, clean, run_facts
from bench.report.page.samples import PagePicture, shown_pictures, shown_samples
from bench.report.page.tables import Comparison, Table, comparison_of, figure_title, row_html, table_html, tables_of
from bench.report.page.windows import windows_of
from bench.report.rows import short_ids, sort_key
from bench.store import StoredRun

if TYPE_CHECKING:
    from bench.audit import AuditFinding
    from bench.report.verdict import Verdict

__all__ = ["MAX_BYTES", "PagePicture", "html_page"]

MAX_BYTES = 2_000_000

_PICTURE_BYTES = 850_000
_SAMPLE_BYTES = 400_000
_WINDOW_SHARE = 0.25  # of what is left for runs, kept for the raw windows of the newest
_MARGIN_BYTES = 70_000  # for what is written once the runs are chosen: marks, reasons, origins' frames
_MAX_CANDIDATES = 600  # more rows never fit
_SCRIPTS = ("page.js", "tables.js", "dialog.js")


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """The runs that fit, in table order."""

    runs: Sequence[StoredRun]
    facts: Sequence[dict[str, Json]]
    pool: Pool
    tables: Sequence[Table]
    problems: Sequence[str]

    @property
    def records(self) -> list[Record]:
        return [run.record for run in self.runs]


def html_page(  # noqa: PLR0913 - everything that a report is made of meets on its page
    runs: Sequence[StoredRun],
    *,
    pictures: Sequence[PagePicture],
    verdicts: Sequence[Verdict],
    findings: Mapping[str, Sequence[AuditFinding]],
    problems: Sequence[str],
    grid: Grid | None,
    pue: float,
    num_runs: int | None = None,
) -> str:
    """The page.

    Args:
        runs: all that could be read, their records as `published.reported` gives them for this grid and PUE.
        pictures: in the order to show them.
        verdicts: the claims and what these records say of them.
        findings: run id → what the audit found; a run that is not in it was not audited.
        problems: one sentence per record, log or image that could not be read.
        grid: what a kilowatt-hour stands for; None leaves CO2 unknown until the reader chooses one.
        pue: power usage effectiveness, at least 1 (`checked_pue`).
        num_runs: how many are stored, where `runs` are only the newest of them.
    """
    num_stored = len(runs) if num_runs is None else num_runs
    ordered = sorted(runs, key=lambda run: (run.record.created_at, run.record.run_id), reverse=True)
    shown = shown_pictures(pictures, _PICTURE_BYTES)
    samples, num_samples_out = shown_samples(ordered[:_MAX_CANDIDATES], _SAMPLE_BYTES)
    parts = {
        "pictures": pictures_html(shown),
        "verdicts": verdicts_html(verdicts),
        "grids": grid_options(grid),
        "pue": f"{pue:g}",
        "style": _asset("page.css"),
        "script": "\n".join(map(_asset, _SCRIPTS)),
    }
    records = [run.record for run in ordered]
    parts["csp"] = _policy(parts["script"], parts["style"])
    fixed = sum(len(part.encode()) for part in parts.values()) + sum(len(each.uri) for each in samples)
    budget = MAX_BYTES - fixed - _MARGIN_BYTES - sum(len(clean(each)) * 2 for each in problems[:200])
    while True:
        chosen = _choose(ordered, findings, budget)
        comparing = {
            "headline": headline_html(records, chosen.records, findings, problems, num_stored),
            "samples": samples_html(samples, num_samples_out, chosen.facts),
        }
        page = _filled(chosen, parts | comparing, grid=grid, problems=problems, num_runs=num_stored)
        if len(page.encode()) <= MAX_BYTES or not chosen.runs:
            return page
        budget = int(budget * 0.85)


def _choose(ordered: Sequence[StoredRun], findings: Mapping[str, Sequence[AuditFinding]], budget: int) -> _Chosen:
    """The newest runs whose rows fit into the budget, with the raw windows of the newest of them."""
    candidates = ordered[:_MAX_CANDIDATES]
    names = short_ids([run.record for run in candidates])
    tables = tables_of([run.record for run in candidates])
    columns = [figure for table in tables for figure in table.figures]
    pool, kept, num_bytes = Pool(), [], 0
    rest = list(zip(candidates, names, strict=True))[::-1]

    def take(limit: float) -> None:
        nonlocal num_bytes
        while rest and num_bytes + pool.num_bytes < limit:
            run, short = rest.pop()
            findings_of_run = findings.get(run.record.run_id)
            fact = run_facts(run.record, pool, short=short, columns=columns, findings=findings_of_run)
            num_bytes += _row_bytes(run.record, fact, tables)
            kept.append((run, fact))

    take(budget * (1 - _WINDOW_SHARE))
    problems: list[str] = []
    for run, fact in kept:
        windows, unread = windows_of(run, pool)
        problems += unread
        num_bytes += len(as_json(windows))
        if num_bytes + pool.num_bytes > budget:
            break
        fact["windows"] = windows
    take(budget)
    kept.sort(key=lambda each: sort_key(each[0].record))
    runs, facts = [run for run, _ in kept], [fact for _, fact in kept]
    letters: dict[int, str] = {}
    for fact in facts:
        fact["machine_name"] = letters.setdefault(fact["machine"], f"M{len(letters) + 1}")
    return _Chosen(runs=runs, facts=facts, pool=pool, tables=tables, problems=problems)


def _row_bytes(record: Record, fact: Json, tables: Sequence[Table]) -> int:
    """What a run takes in the page: its facts and a row in each table, with a letter and bold in every cell."""
    alone = comparison_of([record], [figure for table in tables for figure in table.figures])
    rows = sum(len(row_html(table, 0, record, fact, alone)) + 12 * len(table.figures) for table in tables)
    return len(as_json(fact)) + rows


def _filled(
    chosen: _Chosen,
    parts: Mapping[str, str],
    *,
    grid: Grid | None,
    problems: Sequence[str],
    num_runs: int,
) -> str:
    """The template with everything in its place."""
    columns = [figure for table in chosen.tables for figure in table.figures]
    comparison = comparison_of(chosen.records, columns)
    tables = {f"table_{table.name}": _table(table, chosen, comparison) for table in chosen.tables}
    document = {
        "fields": [*FIGURE_FIELDS, *MORE_FIELDS],
        "pool": chosen.pool.values,
        "runs": chosen.facts,
        "titles": {clean(name): figure_title(name) for name in columns if figure_title(name) != clean(name)},
        "differ": {clean(name): fields for name, fields in comparison.differ.items() if fields},
        "groups": {
            clean(name): [groups.get(record.run_id, -1) for record in chosen.records]
            for name, groups in comparison.group.items()
        },
        "grid": None if grid is None else grid.region,
    }
    facts = {
        "data": as_json(document),
        "left_out": _left_out(chosen, num_runs),
        "unknown": unknown_html(chosen.facts, columns, chosen.pool),
        "machines": machines_html(chosen.facts, chosen.pool),
        "audit": audit_html(chosen.facts, chosen.pool),
        "origins": origins_html(chosen.facts),
        "problems": _problems([*problems, *chosen.problems]),
    }
    return _fill(_asset("page.html"), {**parts, **tables, **facts})


def _table(table: Table, chosen: _Chosen, comparison: Comparison) -> str:
    """The table; closed, with a sentence before it, where none of its figures is known."""
    records = chosen.records
    table_text = table_html(table, records, chosen.facts, comparison)
    figures = [record.quantity(figure) for record in records for figure in table.figures]
    if any(figure is not None and figure.value is not None for figure in figures):
        return table_text
    sentence = "No figure of this table is known here; select one to see why."
    return f"<p>{sentence}</p><details><summary>Show the table</summary>{table_text}</details>"


def _left_out(chosen: _Chosen, num_runs: int) -> str:
    """How much of the results this page does not hold; empty where it holds all."""
    num_shown = len(chosen.runs)
    num_bare = sum("windows" not in fact for fact in chosen.facts)
    lines = []
    if num_shown < num_runs:
        lines.append(
            f"This page holds the {num_shown:,} newest of {num_runs:,} runs; {num_runs - num_shown:,} older ones did "
            "not fit. results.csv and measurements.csv beside it have all of them."
        )
    if num_bare:
        lines.append(f"The raw windows of {num_bare:,} of these runs are not here but in their folders.")
    return f'<p class="notice">{" ".join(lines)}</p>' if lines else ""


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return "<p>Everything could be read.</p>"
    more = [f"… and {len(problems) - 200:,} more."] if len(problems) > 200 else []
    lines = "".join(f"<li>{escape(clean(line))}</li>" for line in [*problems[:200], *more])
    return f"<ul>{lines}</ul>"


def _policy(script: str, style: str) -> str:
    """Nothing from anywhere but this page's own script and style, and images inside the page."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)]
    return (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _fill(template: str, parts: Mapping[str, str]) -> str:
    """`{{name}}` → its part, in one pass, so that no part can name another."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _asset(name: str) -> str:
    return files("bench.report.page").joinpath(name).read_text(encoding="utf-8")
