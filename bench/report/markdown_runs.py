"""The runs in `report.md`: the tables of one data set at one resolution, and where each row is from.

Quality is only ever put side by side within one data set at one resolution, and a figure is only called the best of
those that may be compared (`comparable`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from bench.audit import AuditFinding
from bench.compare import COMPANIONS, differences
from bench.notation import (
    UNKNOWN,
    format_quantity,
    markdown_bullets,
    markdown_table,
    markdown_text,
    shortened,
)
from bench.records import Quantity, Record
from bench.report.audit_text import badge_text
from bench.report.comparable import marked_figures
from bench.report.curves import quality_protocol
from bench.report.rows import (
    COST_COLUMNS,
    QUALITY_COLUMNS,
    SPEED_COLUMNS,
    data_name,
    grouped_reasons,
    machine_text,
    model_name,
    setting_name,
    status_reason,
    why_not_publishable,
)

_REASON_CHARS = 160
_BUDGET_COLUMNS = ("num_images_shown", "train_duration_s")


def comparison(
    records: Sequence[Record],
    names: Mapping[str, str],
    machines: Mapping[str, str],
    findings: Mapping[str, Sequence[AuditFinding]],
) -> list[str]:
    """Cost and speed, quality, and the reasons of what is unknown, for the runs on one data set at one resolution.

    Args:
        names: run id → what the tables call the run.
        machines: what `machine_text` says → its letter.
        findings: run id → what the audit found; a run that is not there was not audited.
    """
    figures = [*COST_COLUMNS, *SPEED_COLUMNS]
    header = ["run", "model", "setting", "machine", *(_heading(name, records) for name in figures), "audit", "status"]
    rows, marks = [], marked_figures(records, figures, names)
    for record in records:
        first = [names[record.run_id], _model_cell(record), setting_name(record), machines[machine_text(record)]]
        costs = [marks.around(markdown_text(format_quantity(record.quantity(name))), record, name) for name in figures]
        audit = badge_text(findings[record.run_id]) if record.run_id in findings else UNKNOWN
        rows.append([*map(markdown_text, first), *costs, audit, markdown_text(_status(record))])
    blocks = [markdown_table(header, rows, num_left=4)]

    quality = _quality_columns(records)
    protocols = letters("Q", (quality_protocol(record) for record in records))
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
    return shortened("; ".join(words), _REASON_CHARS)


def letters(prefix: str, texts: Iterable[str]) -> dict[str, str]:
    """Each distinct text → M1, M2, … in the order met; an empty text → —."""
    distinct = dict.fromkeys(text for text in texts if text)
    return {text: f"{prefix}{index}" for index, text in enumerate(distinct, start=1)} | {"": UNKNOWN}


def _model_cell(record: Record) -> str:
    """The model, and whether its configuration at this resolution is its authors' or ours."""
    return f"{model_name(record)} (ours)" if record.model.configuration.startswith("ours") else model_name(record)


def provenance(record: Record, name: str) -> str:
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
