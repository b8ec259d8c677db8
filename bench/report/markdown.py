"""`report.md`: what was measured, one comparison per data set and resolution, the pictures, and where each row is from.

Quality is only ever put side by side within one data set at one resolution, and a figure is only called the best of
those whose protocols agree (`bench/compare.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from bench.audit import AuditFinding
from bench.notation import format_quantity, markdown_bullets, markdown_table, markdown_text
from bench.records import Record
from bench.report.audit_text import AuditedRun, audit_markdown, summary
from bench.report.energy_table import energy_blocks
from bench.report.energy_to_quality import reach_blocks
from bench.report.frontier import FrontierRow
from bench.report.grids import Grid
from bench.report.markdown_runs import comparison, letters, provenance
from bench.report.plots_frontier import percent
from bench.report.rows import data_name, machine_text, short_ids, sort_key
from bench.report.verdict import Verdict
from bench.report.verdict.text import verdict_markdown

# Titles of the pictures that stand in the section on quality and cost.
CURVE_TITLE = "Quality while training"
COST_TITLE = "The cost of reaching a quality"
FRONTIER_TITLE = "Quality, energy and latency"

HOW_TO_READ = """\
* `12.34(5)` is 12.34 with an uncertainty of 5 in its last digit, 0.05: the half-width of the 95 % interval, of
  its wider side where the two differ. A figure without parentheses is an exact count or a single reading.
* `—` is not known; the reason is below the table. `[estimated]` and `[attributed]` figures were not measured, and
  `≈3 [estimated]` is known to one digit at best: nothing may be ranked by it. Simulated figures are not shown at all.
  Everything else was measured, or computed from what was.
* **smoke** runs are too short to be published: they show that everything works.
* Quality stands beside what real images of the same data set get under the same protocol (`real`, the floor of a
  distance and the ceiling of a count) and, where known, what the untrained generator gets. `rfd_v1` is a distance
  between random features, lower is better; it is no FID. It is also given as a multiple of its floor.
* *(ours)* behind a model's name: its authors published no configuration for this resolution; it is ours.
* Compare quality only within one table. Where the protocols of a figure differ, its cells end in `{a}`, `{b}`, …: only
  cells of one letter may be compared, and the fields that differ stand below the table. **Bold** is the best of the
  cells that may be compared, together with all whose 95 % interval overlaps its own; the interval knows nothing of
  other trainings. The protocol letter of a row speaks of all its figures. Smoke runs, estimates and figures of a phase
  that failed are never bold; an inconclusive phase missed its target of ± 1 % and is ranked by its wider interval.
* `spread` is the largest minus the smallest value of three sets of latents from the same weights.
* Speed and cost depend on the shape of the images and not on what they show; bold is the best of the rows with the
  same machine, software, precision and batch size (latency is always at batch 1). Counts hold on every machine and
  have no best.
* Rows are sorted by name. The order is no ranking.
"""

HOW_TO_READ_CURVES = """\
* Each evaluation is one point: what the metric found, set against the images shown to the discriminator, the seconds
  and the joules that training had taken by then. The evaluations' own are booked apart (`curve.csv`).
* Images say how well a model learns from what it sees and hold on any machine. Seconds and joules say what that costs
  here: a model that needs fewer images may need more of both. A curve further left and further down is better for a
  distance; where it ends is the budget and says nothing of what more would give.
* A line is one configuration, its seeds repeats. One seed: the band is the metric's own 95 % interval, which knows
  nothing of other seeds. Two: no interval, both are drawn thin. Three and more: 95 % interval over the seeds.
"""


@dataclass(frozen=True)
class PictureNote:
    """A picture as the report speaks of it; `file` is None where there was nothing to draw and `caption` says why."""

    title: str
    file: str | None
    caption: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a report concludes from its runs.

    Attributes:
        findings: run id → what the audit found; a run that is not there was not audited.
        verdicts: the authors' claims, each with the evidence in these records.
        frontier: who is on the frontier of quality, energy and latency.
    """

    findings: Mapping[str, Sequence[AuditFinding]] = field(default_factory=dict)
    verdicts: Sequence[Verdict] = ()
    frontier: Sequence[FrontierRow] = ()


def report_markdown(
    records: Sequence[Record],
    pictures: Sequence[PictureNote],
    problems: Sequence[str],
    *,
    judgement: Judgement = Judgement(),
    grid: Grid | None = None,
    pue: float = 1.0,
    left_out: str = "",
) -> str:
    """The whole report as Markdown text.

    Args:
        records: the runs to show, as a report may show them (`published.reported` with the same grid and PUE).
        pictures: in the order to show them.
        problems: one sentence per record or log that could not be read.
        judgement: audit, verdicts and frontier of the same runs.
        grid: what a kilowatt-hour stands for; None leaves CO2 unknown.
        pue: power usage effectiveness, at least 1 (`checked_pue`).
        left_out: a sentence where these are not all.
    """
    records = sorted(records, key=sort_key)
    names = dict(zip((record.run_id for record in records), short_ids(records), strict=True))
    machines = letters("M", (machine_text(record) for record in records))
    notes = {note.title: note for note in pictures}
    blocks = [
        "# What these GANs cost, and what they give",
        _made_by(len(records), left_out, is_broken=bool(problems)),
        "## How to read this",
        HOW_TO_READ.rstrip(),
        "## Machines",
        markdown_bullets(f"**{letter}** {markdown_text(text)}" for text, letter in machines.items() if text)
        or "No runs yet.",
        "## Runs",
    ]
    for data, group in groupby(records, key=data_name):
        tables = comparison(list(group), names, machines, judgement.findings)
        blocks += [f"### {markdown_text(data)}", *tables]
    blocks += [f"## {FRONTIER_TITLE}", *_picture(notes.pop(FRONTIER_TITLE, None)), *_frontier(judgement.frontier)]
    of_machines = [machines[machine_text(record)] for record in records]
    blocks += ["## Energy and CO2", *energy_blocks(records, names, of_machines, grid, pue)]
    blocks += ["## Quality against images, time and energy", HOW_TO_READ_CURVES.rstrip()]
    blocks += [*_picture(notes.pop(CURVE_TITLE, None)), *_picture(notes.pop(COST_TITLE, None)), *reach_blocks(records)]
    blocks += _judged(records, judgement, names)
    blocks += ["## Pictures", *(block for note in notes.values() for block in _picture(note))]
    blocks += ["## Where each row is from", *(provenance(record, names[record.run_id]) for record in records)]
    if problems:
        blocks += ["## What could not be read", markdown_bullets(markdown_text(problem) for problem in problems)]
    return "\n\n".join(blocks) + "\n"


def _judged(records: Sequence[Record], judgement: Judgement, names: Mapping[str, str]) -> list[str]:
    """The verdict and the audit, as far as there are any."""
    blocks = []
    if judgement.verdicts:
        blocks += ["## The authors' claims, in these records", *verdict_markdown(judgement.verdicts, names)]
    if judgement.findings:
        blocks += ["## Audit", *_audit(records, judgement.findings)]
    return blocks


def _frontier(rows: Sequence[FrontierRow]) -> list[str]:
    """Who may be on the frontier and how surely; who is no candidate and why."""
    candidates = [row for row in rows if row.membership is not None]
    blocks = []
    if candidates:
        figures = list(dict.fromkeys(name for row in candidates for name in row.figures))
        cells = [
            [
                row.group,
                row.label,
                *(format_quantity(dict(zip(row.figures, row.values, strict=True)).get(name)) for name in figures),
                percent(row.membership),
                ", ".join(row.space),
            ]
            for row in candidates
        ]
        header = ["group", "run", *figures, "on the frontier with probability", "frontier of"]
        escaped = [[markdown_text(cell) for cell in row] for row in cells]
        blocks.append(markdown_table([markdown_text(name) for name in header], escaped, num_left=2))
    reasons = [markdown_text(f"{row.label}: {row.reason}") for row in rows if row.reason]
    return [*blocks, f"No candidates, or not in every objective:\n\n{markdown_bullets(reasons)}"] if reasons else blocks


def _audit(records: Sequence[Record], findings: Mapping[str, Sequence[AuditFinding]]) -> list[str]:
    audited = [
        AuditedRun(record=record, findings=tuple(findings[record.run_id]))
        for record in records
        if record.run_id in findings
    ]
    return [markdown_text(summary(audited)), audit_markdown(audited) or "Nothing was found."]


def _made_by(num_runs: int, left_out: str, *, is_broken: bool) -> str:
    broken = "; the end lists what could not be read" if is_broken else ""
    first = f"Made by `bench report` from {num_runs} stored runs{broken}."
    return " ".join(filter(None, (first, left_out, "The next report replaces this file.")))


def _picture(note: PictureNote | None) -> list[str]:
    if note is None:
        return []
    image = f"![{note.title}]({note.file})\n\n" if note.file else ""
    return [f"### {note.title}\n\n{image}{markdown_text(note.caption)}"]
