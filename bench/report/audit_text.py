"""The findings of `bench audit` for a reader: on a terminal, in Markdown, as JSON.

A finding that many runs share is written once, with the runs it holds for; where its numbers differ from run to run,
the remedy is still written once. Strings of records are hostile, so whatever is shown goes through
`bench.notation`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from pydantic import JsonValue

from bench.audit import RULES, AuditFinding, Level, badge
from bench.notation import markdown_text, plain, shortened
from bench.records import Record
from bench.report.rows import data_name, model_name, short_ids, sort_key

_LEVELS: tuple[Level, ...] = ("error", "warning", "note")
_DETAIL_CHARS = 300
_NAME_CHARS = 60
_MOST_RUNS = 8


@dataclass(frozen=True, kw_only=True)
class AuditedRun:
    """A record and what the audit found in it."""

    record: Record
    findings: tuple[AuditFinding, ...]


@dataclass(frozen=True, kw_only=True)
class Shared:
    """A rule with one level and one remedy, and its details with the runs (their short ids) each holds for."""

    rule: str
    level: Level
    remedy: str
    runs_of: Mapping[str, tuple[str, ...]]

    @property
    def num_runs(self) -> int:
        """Runs in which it was found."""
        return len({run for runs in self.runs_of.values() for run in runs})


def audit_terminal(runs: Sequence[AuditedRun]) -> str:
    """Each run's badge, the findings, a summary line."""
    runs = sorted(runs, key=lambda run: sort_key(run.record))
    if not runs:
        return "No runs yet. `bench run` makes one."
    badges = [_badge_line(run, short) for run, short in zip(runs, _ids(runs), strict=True)]
    findings = [line for shared in shared_findings(runs) for line in _terminal_lines(shared, len(runs))]
    blocks = [badges, findings, [summary(runs)]]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def audit_markdown(runs: Sequence[AuditedRun]) -> str:
    """A list with one bullet per finding; the runs it holds for in parentheses. Empty where nothing was found."""
    runs = sorted(runs, key=lambda run: sort_key(run.record))
    bullets = []
    for shared in shared_findings(runs):
        details = [
            f"{markdown_text(_shown(detail))} ({markdown_text(_runs_text(ids, len(runs)))})"
            for detail, ids in shared.runs_of.items()
        ]
        remedy = markdown_text(_shown(shared.remedy))
        bullets.append(f"**{shared.level}** {markdown_text(_name(shared.rule))}: {' '.join(details)} Remedy: {remedy}")
    return "\n".join(f"* {bullet}" for bullet in bullets)


def audit_document(runs: Sequence[AuditedRun]) -> list[JsonValue]:
    """For `--json`: run id, badge and findings of each run, strings as they are stored."""
    return [
        {
            "run_id": run.record.run_id,
            "badge": badge(run.findings),
            "findings": [asdict(finding) for finding in run.findings],
        }
        for run in sorted(runs, key=lambda run: sort_key(run.record))
    ]


def rules_text() -> str:
    """Every rule and what it checks."""
    width = max(map(len, RULES))
    return "\n".join(f"{name.ljust(width)}  {checks}" for name, checks in sorted(RULES.items()))


def badge_text(findings: Sequence[AuditFinding]) -> str:
    """`sound`, `2 warnings`, `1 error, 2 warnings`; notes are not counted."""
    counts = Counter(finding.level for finding in findings)
    parts = [f"{counts[level]} {level}{'s' if counts[level] > 1 else ''}" for level in _LEVELS[:2] if counts[level]]
    return ", ".join(parts) or "sound"


def summary(runs: Sequence[AuditedRun]) -> str:
    """`20 runs: 3 with errors, 12 with warnings only, 5 sound.`"""
    counts = Counter(badge(run.findings) for run in runs)
    runs_word = "run" if len(runs) == 1 else "runs"
    return (
        f"{len(runs)} {runs_word}: {counts['errors']} with errors, {counts['warnings']} with warnings only, "
        f"{counts['sound']} sound."
    )


def shared_findings(runs: Sequence[AuditedRun]) -> list[Shared]:
    """Findings of all runs by level and rule; a detail that several runs share stands once."""
    found: dict[tuple[Level, str, str], dict[str, list[str]]] = {}
    for run, short in zip(runs, _ids(runs), strict=True):
        for finding in run.findings:
            details = found.setdefault((finding.level, finding.rule, finding.remedy), {})
            details.setdefault(finding.detail, []).append(short)
    ordered = sorted(found.items(), key=lambda pair: (_LEVELS.index(pair[0][0]), pair[0][1], pair[0][2]))
    return [
        Shared(
            rule=rule,
            level=level,
            remedy=remedy,
            runs_of={detail: tuple(dict.fromkeys(ids)) for detail, ids in details.items()},
        )
        for (level, rule, remedy), details in ordered
    ]


def _terminal_lines(shared: Shared, num_audited: int) -> list[str]:
    head, remedy = f"{shared.level} {_name(shared.rule)}:", f"Remedy: {_shown(shared.remedy)}"
    if len(shared.runs_of) == 1:
        ((detail, ids),) = shared.runs_of.items()
        lines = [f"{head} {_shown(detail)} {remedy}"]
        return lines if num_audited == 1 else [*lines, f"    {_runs_text(ids, num_audited)}"]
    if num_audited == 1:
        return [f"{head} {_shown(detail)} {remedy}" for detail in shared.runs_of]
    details = [f"    {_runs_text(ids, num_audited)}: {_shown(detail)}" for detail, ids in shared.runs_of.items()]
    return [f"{head} {shared.num_runs} of {num_audited} runs. {remedy}", *details]


def _badge_line(run: AuditedRun, short: str) -> str:
    name = shortened(plain(f"{model_name(run.record)} · {data_name(run.record)}"), _NAME_CHARS)
    return f"{plain(short)}  {badge(run.findings):8}  {name}  ({badge_text(run.findings)})"


def _runs_text(ids: Sequence[str], num_audited: int) -> str:
    """`all 20 runs`, or the runs' short ids."""
    if len(ids) == num_audited and num_audited > 1:
        return f"all {num_audited} runs"
    more = f" and {len(ids) - _MOST_RUNS} more" if len(ids) > _MOST_RUNS else ""
    return ", ".join(plain(each) for each in ids[:_MOST_RUNS]) + more


def _ids(runs: Sequence[AuditedRun]) -> list[str]:
    return short_ids([run.record for run in runs])


def _name(rule: str) -> str:
    return shortened(plain(rule), _NAME_CHARS)


def _shown(text: str) -> str:
    return shortened(plain(text), _DETAIL_CHARS)
