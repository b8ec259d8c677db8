"""`report.md`: what was measured, one comparison per data set and resolution, the pictures, and where each row is from.

Quality is only ever put side by side within one data set at one resolution, and a figure is only called the best of
those whose protocols agree (`bench/compare.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from bench.compare import COMPANIONS, differences
from bench.records import Quantity, Record
from bench.report.comparable import marked_figures
from bench.report.curves import quality_protocol
from bench.report.energy_table import energy_blocks
from bench.report.energy_to_quality import reach_blocks
from bench.report.grids import Grid
from bench.report.notation import (
    UNKNOWN,
    format_quantity,
    markdown_bullets,
    markdown_table,
    markdown_text,
    shortened,
)
from bench.report.rows import (
    COST_COLUMNS,
    QUALITY_COLUMNS,
    SPEED_COLUMNS,
    data_name,
    grouped_reasons,
    model_name,
    setting_name,
    short_ids,
    sort_key,
    status_reason,
    why_not_publishable,
)
from bench.units import format_bytes

_REASON_CHARS = 160
_BUDGET_COLUMNS = ("num_images_shown", "train_duration_s")

# Titles of the pictures that stand in the section on quality and cost.
CURVE_TITLE = "Quality while training"
COST_TITLE = "The cost of reaching a quality"

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


def report_markdown(
    records: Sequence[Record],
    pictures: Sequence[PictureNote],
    problems: Sequence[str],
    *,
    grid: Grid | None = None,
    pue: float = 1.0,
    left_out: str = "",
) -> str:
    """The whole report as Markdown text.

    Args:
        records: the runs to show, as a report may show them (`published.reported` with the same grid and PUE).
        pictures: in the order to show them.
        problems: one sentence per record or log that could not be read.
        grid: what a kilowatt-hour stands for; None leaves CO2 unknown.
        pue: power usage effectiveness, at least 1 (`checked_pue`).
        left_out: a sentence where these are not all.
    """
    records = sorted(records, key=sort_key)
    names = dict(zip((record.run_id for record in records), short_ids(records), strict=True))
    machines = _letters("M", (_machine_text(record) for record in records))
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
        members = list(group)
        blocks += [f"### {markdown_text(data)}", *_comparison(members, names, machines)]
    letters = [machines[_machine_text(record)] for record in records]
    blocks += ["## Energy and CO2", *energy_blocks(records, names, letters, grid, pue)]
    beside = [note for note in pictures if note.title in (CURVE_TITLE, COST_TITLE)]
    blocks += ["## Quality against images, time and energy", HOW_TO_READ_CURVES.rstrip()]
    blocks += [*(_picture(note) for note in beside), *reach_blocks(records)]
    blocks += ["## Pictures", *(_picture(note) for note in pictures if note not in beside)]
    blocks += ["## Where each row is from", *(_provenance(record, names[record.run_id]) for record in records)]
    if problems:
        blocks += ["## What could not be read", markdown_bullets(markdown_text(problem) for problem in problems)]
    return "\n\n".join(blocks) + "\n"


def _made_by(num_runs: int, left_out: str, *, is_broken: bool) -> str:
    broken = "; the end lists what could not be read" if is_broken else ""
    first = f"Made by `bench report` from {num_runs} stored runs{broken}."
    return " ".join(filter(None, (first, left_out, "The next report replaces this file.")))


def _comparison(records: Sequence[Record], names: dict[str, str], machines: dict[str, str]) -> list[str]:
    """Cost and speed, quality, and the reasons of what is unknown, for the runs on one data set at one resolution."""
    figures = [*COST_COLUMNS, *SPEED_COLUMNS]
    header = ["run", "model", "setting", "machine", *(_heading(name, records) for name in figures), "status"]
    rows, marks = [], marked_figures(records, figures, names)
    for record in records:
        first = [names[record.run_id], _model_cell(record), setting_name(record), machines[_machine_text(record)]]
        costs = [marks.around(markdown_text(format_quantity(record.quantity(name))), record, name) for name in figures]
        rows.append([*map(markdown_text, first), *costs, markdown_text(_status(record))])
    blocks = [markdown_table(header, rows, num_left=4)]

    quality = _quality_columns(records)
    protocols = _letters("Q", (quality_protocol(record) for record in records))
    header = ["run", "model", "protocol", *(_heading(name, records) for name in (*_BUDGET_COLUMNS, *quality)), "status"]
    rows, marks = [], marked_figures(records, quality, names)
    for record in records:
        cells = [names[record.run_id], _model_cell(record), protocols[quality_protocol(record)]]
        cells += [format_quantity(record.quantity(name)) for name in _BUDGET_COLUMNS]
        scores = [marks.around(markdown_text(_quality_cell(record, name)), record, name) for name in quality]
        rows.append([*map(markdown_text, cells), *scores, markdown_text(_status(record))])
    blocks.append(markdown_table(header, rows, num_left=3))
    differing = differences([json.loads(text) for text in protocols if text])
    if differing:
        blocks.append(f"The quality protocols differ in: {markdown_text(', '.join(differing))}.")
    if marks.explanations:
        blocks.append(f"Not comparable:\n\n{markdown_bullets(map(markdown_text, marks.explanations))}")
    reasons = grouped_reasons(records, [*figures, *_BUDGET_COLUMNS, *quality], names)
    return [*blocks, f"Not known:\n\n{markdown_bullets(map(markdown_text, reasons))}"] if reasons else blocks


def _quality_columns(records: Sequence[Record]) -> list[str]:
    """Every figure of the quality phase, the headline ones first, without the companions shown inside their cells."""
    found = {name for record in records if "quality" in record.phases for name in record.phases["quality"].quantities}
    own = {name for name in found if not any(name.removesuffix(end) in found - {name} for end in COMPANIONS)}
    headline = [name for name in QUALITY_COLUMNS if name in own] or ["rfd_v1"]
    return [*headline, *sorted(own - set(headline))]


def _quality_cell(record: Record, name: str) -> str:
    """`0.0152(4) (4.2× the floor; real 0.0036(1); untrained 0.91; spread 0.0003)`."""
    quantity = record.quantity(name)
    real, untrained, spread = (record.quantity(f"{name}{end}") for end in COMPANIONS)
    beside = []
    if name.startswith("rfd") and quantity and real and quantity.value is not None and real.value:
        beside.append(f"{quantity.value / real.value:.3g}× the floor")
    beside += [
        f"{word} {format_quantity(other)}"
        for word, other in (("real", real), ("untrained", untrained), ("spread", spread))
        if other is not None and other.value is not None
    ]
    return format_quantity(quantity) + (f" ({'; '.join(beside)})" if beside else "")


def _heading(name: str, records: Sequence[Record]) -> str:
    """`train images per s (image/s)`: the quantity's name and the unit its records give."""
    quantities: list[Quantity | None] = [record.quantity(name) for record in records]
    units = sorted({found.unit for found in quantities if found is not None and found.unit not in ("1", "B")})
    return markdown_text(name + (f" ({', '.join(units)})" if units else ""))


def _status(record: Record) -> str:
    words = [record.status if record.status == "ok" else f"{record.status}: {status_reason(record)}"]
    why_not = why_not_publishable(record)
    if why_not and not why_not.startswith(record.status):
        words.append(why_not)
    num_warnings = sum(finding.level == "warning" and finding.rule != "preset" for finding in record.validity)
    if num_warnings:
        words.append(f"{num_warnings} warning{'s' if num_warnings > 1 else ''}")
    return shortened("; ".join(words), _REASON_CHARS)


def _letters(prefix: str, texts: Iterable[str]) -> dict[str, str]:
    """Each distinct text → M1, M2, … in the order met; an empty text → —."""
    distinct = dict.fromkeys(text for text in texts if text)
    return {text: f"{prefix}{index}" for index, text in enumerate(distinct, start=1)} | {"": UNKNOWN}


def _model_cell(record: Record) -> str:
    """The model, and whether its configuration at this resolution is its authors' or ours."""
    return f"{model_name(record)} (ours)" if record.model.configuration.startswith("ours") else model_name(record)


def _machine_text(record: Record) -> str:
    """The hardware and the software of a run; two runs with the same text were made on the same machine."""
    machine = record.machine
    num_cores = machine.container_cpu_limit or machine.num_cpu_cores
    memory_bytes = machine.container_memory_limit_bytes or machine.memory_bytes
    gpus = [
        f"{name} ({format_bytes(num_bytes)}, {'unknown power limit' if limit_w is None else f'{limit_w:g} W'})"
        for name, num_bytes, limit_w in zip(
            machine.gpus, machine.gpu_memory_bytes, machine.gpu_power_limit_w, strict=False
        )
    ]
    parts = [
        f"{machine.hostname}: {machine.cpu}, {num_cores:g} cores, {format_bytes(memory_bytes)}",
        ", ".join(gpus) or "no GPU",
        machine.os,
        f"driver {machine.driver}, CUDA {machine.cuda}" if machine.gpus else "",
        f"Python {machine.python}, torch {machine.torch}, {machine.num_torch_threads} threads",
    ]
    return "; ".join(filter(None, parts))


def _provenance(record: Record, name: str) -> str:
    """Everything one needs to ask the same question again, and who made what is measured."""
    spec, model, machine = record.spec, record.model, record.machine
    commit = f"commit {machine.git_commit or 'unknown'}{', with uncommitted changes' if machine.git_dirty else ''}"
    asked = {key: fact for key, fact in spec.model_dump().items() if fact is not None}
    facts = {
        "run": f"{record.run_id}, {record.created_at}, bench {record.harness_version}",
        "code": f"{commit}; model source {model.source_hash}",
        "question": ", ".join(f"{key} {fact}" for key, fact in asked.items()),
        "model": f"{model.title} ({model.year}), {model.paper}; {model.code}; licence: {model.licence}",
        "configuration at this resolution": model.configuration,
        "recipe": str(record.recipe.get("source", "no source recorded")),
        "recipe's full length": f"{record.recipe.get('num_images', 'unknown')} images",
        "data": f"{record.dataset.title}, {record.dataset.source}; licence: {record.dataset.licence}",
        "status": _status(record) if record.status == "ok" else f"{record.status}: {status_reason(record)}",
    }
    lines = [f"{key}: {markdown_text(fact)}" for key, fact in facts.items() if fact]
    lines += [markdown_text(f"{found.level}: {found.rule}: {found.detail}") for found in record.validity]
    return f"### {markdown_text(f'{name} {model_name(record)}, {data_name(record)}')}\n\n{markdown_bullets(lines)}"


def _picture(note: PictureNote) -> str:
    caption = markdown_text(note.caption)
    image = f"![{note.title}]({note.file})\n\n" if note.file else ""
    return f"### {note.title}\n\n{image}{caption}"
