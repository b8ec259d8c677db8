"""`bench audit`: executable rules on a stored record, each an error or a warning with the remedy.

Why it exists: a figure is worth what its measurement was worth, and nobody reads a record line by line. What a careful
reviewer would ask of every run is asked here of every run, by code, and the answer stands beside the row. A rule that
cannot judge, because an older schema does not hold the facts, says so in a note; it never passes silently.

An error means that the figure is wrong, impossible, or not what it is called; a warning, that it should not be
published as it is; a note, what a reader should know. The record's own findings are carried over.

Style: hyperfine (https://github.com/sharkdp/hyperfine), whose warnings name the remedy. Thresholds: METHODS.md.
Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from bench.audit import _disturbances, _energy, _identity, _quality, _timing, _training
from bench.audit._evidence import Evidence, Hit, Level, Rule
from bench.audit._files import FILE_RULES, folder_hits, read_windows
from bench.records import Record, Window
from bench.store import StoredRun

__all__ = ["RULES", "TOPICS", "AuditFinding", "Badge", "Level", "Topic", "audit", "audit_run", "badge"]

Topic = Literal["timing", "disturbances", "energy", "training", "quality", "identity"]
Badge = Literal["sound", "warnings", "errors"]
_ORDER: dict[Level, int] = {"error": 0, "warning": 1, "note": 2}
_BY_TOPIC: dict[Topic, dict[str, Rule]] = {
    "timing": _timing.RULES,
    "disturbances": _disturbances.RULES,
    "energy": _energy.RULES,
    "training": _training.RULES,
    "quality": _quality.RULES,
    "identity": _identity.RULES,
}
_OWN: dict[str, Rule] = {name: rule for rules in _BY_TOPIC.values() for name, rule in rules.items()}
_CARRIED_REMEDY = "Do what the finding says, then measure again (--fresh)."

RULES: Mapping[str, str] = MappingProxyType(
    {name: rule.checks for name, rule in _OWN.items()} | {name: checks for name, (checks, _) in FILE_RULES.items()}
)
"""Rule → one line on what it checks."""

TOPICS: Mapping[str, Topic] = MappingProxyType({name: topic for topic, rules in _BY_TOPIC.items() for name in rules})
"""Rule → which figures it speaks of: an energy that is wrong says nothing against the speed. Other rules: all."""


@dataclass(frozen=True, kw_only=True)
class AuditFinding:
    """One thing a rule found.

    Attributes:
        rule: name in `RULES`, or that of a finding which the record itself carries.
        level: `error` (wrong, impossible or mislabelled), `warning` (not to be published so), `note` (to be known).
        detail: one sentence; it may quote the record, so it is shown through `bench.notation`.
        remedy: one sentence.
    """

    rule: str
    level: Level
    detail: str
    remedy: str


def audit(record: Record, windows: Mapping[str, Sequence[Window]]) -> tuple[AuditFinding, ...]:
    """What the rules find in a record and its raw windows by phase; reads no file.

    Returns:
        Errors first, then warnings, then notes; by rule and detail within each.
    """
    evidence = Evidence(record=record, windows=windows)
    found = [_finding(name, hit, rule.remedy) for name, rule in _OWN.items() for hit in rule.find(evidence)]
    return _sorted([*found, *_carried(record, {finding.rule for finding in found})])


def audit_run(run: StoredRun) -> tuple[AuditFinding, ...]:
    """The same of a stored run, with the rules on its folder; reads its raw windows and looks at the files it names.

    A file that is damaged or missing is a finding. Weights are hashed up to 32 MiB.
    """
    windows, damaged = read_windows(run.folder)
    hits = [*folder_hits(run), *(("windows_readable", hit) for hit in damaged)]
    found = [_finding(name, hit, FILE_RULES[name][1]) for name, hit in hits]
    return _sorted([*found, *audit(run.record, windows)])


def badge(findings: Iterable[AuditFinding]) -> Badge:
    """What stands beside the run: the gravest of its findings; notes leave it sound."""
    levels = {finding.level for finding in findings}
    return "errors" if "error" in levels else "warnings" if "warning" in levels else "sound"


def _finding(name: str, hit: Hit, remedy: str) -> AuditFinding:
    return AuditFinding(rule=name, level=hit.level, detail=hit.detail, remedy=hit.remedy or remedy)


def _carried(record: Record, fired: set[str]) -> Iterator[AuditFinding]:
    """The record's own findings, but for those that a rule of the same name has found again."""
    for finding in record.validity:
        if finding.rule not in fired:
            own = _OWN.get(finding.rule)
            remedy = _CARRIED_REMEDY if own is None else own.remedy
            yield AuditFinding(rule=finding.rule, level=finding.level, detail=_sentence(finding.detail), remedy=remedy)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _sorted(findings: Sequence[AuditFinding]) -> tuple[AuditFinding, ...]:
    return tuple(sorted(findings, key=lambda each: (_ORDER[each.level], each.rule, each.detail)))
