"""Which figures may be ranked, called the best, or stand on a frontier, and why not the others.

Its own phase decides, not the whole run: that training failed says nothing against counts. A phase that is inconclusive
is ranked by its interval, which is wider than was asked for and no less true. An error of the audit speaks against the
figures of its topic: wrong joules say nothing of images per second.
"""

from __future__ import annotations

from bench.audit import TOPICS
from bench.notation import UNMARKED_KINDS, provenance_mark
from bench.records import PhaseName, PhaseResult, Quantity, Record
from bench.report.rows import doubt


def why_not_ranked(record: Record, figure: str) -> str:
    """Why this figure may neither be ranked nor be called the best, in a few words; empty where it may."""
    phase = next((result for result in record.phases.values() if figure in result.quantities), None)
    if phase is None:
        return "not known"
    return _reason(phase, phase.quantities[figure], _Doubts(record))


def why_each_is_not_ranked(record: Record) -> dict[str, str]:
    """The same of every figure at once."""
    doubts = _Doubts(record)
    reasons: dict[str, str] = {}
    for phase in record.phases.values():
        for name, quantity in phase.quantities.items():
            reasons.setdefault(name, _reason(phase, quantity, doubts))
    return reasons


class _Doubts:
    """What speaks against a record's figures by phase, found once for all figures of a kind."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._errors = {finding.rule for finding in record.validity if finding.level == "error"}
        self._known: dict[tuple[PhaseName, bool], str] = {}

    def of(self, phase: PhaseName, *, is_energy: bool) -> str:
        """Against the measured figures of that phase; empty where nothing does."""
        key = (phase, is_energy)
        if key not in self._known:
            concerned = {rule for rule in self._errors if _concerns(rule, phase, is_energy=is_energy)}
            self._known[key] = doubt(self._record, concerned)
        return self._known[key]


def _reason(phase: PhaseResult, quantity: Quantity, doubts: _Doubts) -> str:
    if quantity.value is None:
        return "not known"
    if phase.phase == "cost":
        return "" if phase.status == "ok" else f"the phase cost is {phase.status}"
    if phase.status not in ("ok", "inconclusive"):
        return f"the phase {phase.phase} is {phase.status}"
    if quantity.kind not in UNMARKED_KINDS or provenance_mark(quantity):
        return f"not measured but {provenance_mark(quantity)}"
    return doubts.of(phase.phase, is_energy=quantity.label is not None)


def _concerns(rule: str, phase: PhaseName, *, is_energy: bool) -> bool:
    """Whether an error of that rule speaks against a figure of that phase."""
    if rule == "phase_status":  # that another phase failed; its own has been asked
        return False
    topic = TOPICS.get(rule, "identity")
    return {
        "timing": phase in ("generate", "train_step"),
        "disturbances": phase in ("generate", "train_step", "train"),
        "energy": is_energy,
        "training": phase in ("train", "quality"),
        "quality": phase == "quality",
        "identity": True,
    }[topic]
