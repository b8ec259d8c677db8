"""A record at its beginning, and with one more phase in it."""

from __future__ import annotations

import dataclasses
import json

from bench import __version__
from bench.phases._context import Outcome, Question
from bench.records import (
    PHASES,
    DatasetFacts,
    Finding,
    Machine,
    ModelFacts,
    PhaseResult,
    Record,
    status_of,
)


def with_phase(record: Record, result: PhaseResult, outcome: Outcome) -> Record:
    """The record with that phase's result in it."""
    phases = record.phases | {result.phase: result}
    ordered = {name: phases[name] for name in PHASES if name in phases}
    curve = tuple(outcome.curve) if result.phase in {"train", "quality"} else record.curve
    findings = record.validity + tuple(outcome.findings)
    return record.model_copy(
        update={"phases": ordered, "curve": curve, "validity": findings, "status": status_of(ordered)}
    )


def new_record(question: Question, run_id: str, *, machine: Machine, created_at: str) -> Record:
    """Of a question nothing has been measured for."""
    model, data = question.model.spec, question.found_dataset.spec
    return Record(
        run_id=run_id,
        harness_version=__version__,
        created_at=created_at,
        spec=question.spec,
        machine=machine,
        model=ModelFacts(
            title=model.title,
            year=model.year,
            paper=model.paper,
            code=model.code,
            licence=model.licence,
            attention=model.attentions.get(
                question.spec.attention or next(iter(model.attentions), ""), model.attention
            ),
            configuration=question.configuration,
            source_hash=question.model.source_hash,
        ),
        dataset=DatasetFacts(
            title=data.title,
            source=data.source,
            licence=data.licence,
            protocol={} if question.dataset is None else question.dataset.protocol,
        ),
        recipe=json.loads(json.dumps(dataclasses.asdict(question.recipe))),
        validity=_findings(question, machine),
    )


def _findings(question: Question, machine: Machine) -> tuple[Finding, ...]:
    """What a reader must know about the record's worth, as far as it is known beforehand."""
    findings = []
    if not question.preset.is_publishable:
        detail = "measured briefly; not publishable; use --preset standard or publish"
        findings.append(Finding(rule="preset", level="warning", detail=detail))
    if machine.git_dirty:
        findings.append(Finding(rule="dirty_tree", level="note", detail="the checkout had uncommitted changes"))
    return tuple(findings)
