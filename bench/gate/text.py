"""What a gate says: a table for a terminal, and Markdown for a comment on a pull request and a job's summary.

Names, refs and what workers said come from the versions under test, so they stay text here: escaped, and broken by an
empty HTML comment where GitHub would make a mention, a reference or a link of them
(https://docs.github.com/en/get-started/writing-on-github/working-with-advanced-formatting/autolinked-references-and-urls).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from bench.gate.decide import Verdict
from bench.gate.noise import POWER
from bench.gate.outcome import TIME, DecisionOutcome, ExactChange, GateOutcome, GateVersion, WorkloadOutcome
from bench.notation import (
    UNKNOWN,
    format_quantity,
    markdown_bullets,
    markdown_table,
    markdown_text,
    plain,
    shortened,
)
from bench.units import format_duration

MARKER = "<!-- bench gate -->"
"""First line of the Markdown: by it a workflow finds its earlier comment and replaces it."""
SENTENCES: dict[Verdict, str] = {
    "ok": "No slowdown.",
    "improved": "Faster, and nothing slower.",
    "regression": "Slower, or more of what is counted.",
    "inconclusive": "Not decided: a slowdown is neither shown nor ruled out.",
    "invalid": "Nothing can be compared.",
}
SIGNS: dict[Verdict, str] = {"ok": "✅", "improved": "🚀", "regression": "❌", "inconclusive": "❔", "invalid": "⛔"}
_HEADER = ("workload", "verdict", "base", "head", "head / base", "counts from", "would have seen", "pairs")
NAME_CHARS = 60
REASON_CHARS = 600
_MAX_CHANGES = 30
_AUTOLINK = re.compile(r"(@|#|GH-|://|www\.)", re.IGNORECASE)

HOW_TO_READ = f"""\
* Base and head ran in turn, block by block, on one machine; a pair is two neighbouring blocks. `head / base` is the
  median of the pairs' ratios (above 1: slower) with its exact 95 % interval.
* *counts from*: a change that is smaller is none, max(minimum effect, three times what base against base shows).
* *would have seen*: the slowdown that a gate like this one calls a regression in {POWER:.0%} of cases.
* A regression is shown by two rounds, each by itself, the second in processes of its own."""


def gate_text(outcome: GateOutcome) -> str:
    """The table, a line for each reason and note, and the verdict last."""
    lines = aligned([_HEADER, *(_cells(each, decision) for each, decision in _decisions(outcome))])
    lines.insert(1, "─" * max(map(len, lines)))
    lines.append("")
    for each, decision in _decisions(outcome):
        lines.append(f"{_label(each, decision)}: {shortened(plain(decision.reason), REASON_CHARS)}")
    for each in outcome.workloads:
        lines += [f"{plain(each.name)}: {text}" for text in count_lines(each)]
    lines += [f"Note: {shortened(plain(note), REASON_CHARS)}" for note in outcome.notes]
    lines += ["", _spent(outcome), f"{outcome.verdict}: {SENTENCES[outcome.verdict]} (exit code {outcome.exit_code})"]
    return "\n".join(lines)


def gate_markdown(outcome: GateOutcome) -> str:
    """The same for GitHub and GitLab; it begins with MARKER and ends with a newline."""
    rows = [[inert(cell) for cell in _cells(each, decision)] for each, decision in _decisions(outcome)]
    reasons = [
        f"{inert(_label(each, decision))}: {inert(shortened(decision.reason, REASON_CHARS))}"
        for each, decision in _decisions(outcome)
    ]
    changes = [f"{inert(each.name)}: {inert(text)}" for each in outcome.workloads for text in count_lines(each)]
    notes = [inert(shortened(note, REASON_CHARS)) for note in outcome.notes]
    compared = f"{inert(_version(outcome.head))} against {inert(_version(outcome.base))}"
    machine = f"{outcome.machine.cpu}, {outcome.machine.num_cpu_cores} cores, {outcome.device}, torch "
    machine += f"{outcome.machine.torch}, threads per worker: {outcome.num_threads}. {_spent(outcome)}"
    parts = [
        f"{MARKER}\n### {SIGNS[outcome.verdict]} bench gate: {outcome.verdict}",
        f"{SENTENCES[outcome.verdict]} Head {compared}.",
        markdown_table(_HEADER, rows, num_left=2),
        markdown_bullets(reasons),
        *([f"**Counts that differ**\n\n{markdown_bullets(changes)}"] if changes else []),
        *([f"**Notes**\n\n{markdown_bullets(notes)}"] if notes else []),
        f"<details><summary>How to read this</summary>\n\n{HOW_TO_READ}\n* {inert(machine)}\n\n</details>",
    ]
    return "\n\n".join(parts) + "\n"


def inert(text: str) -> str:
    """Text of strangers for Markdown: no mark-up, no mention, no reference, no link."""
    return _AUTOLINK.sub(lambda found: f"{found[0][0]}<!-- -->{found[0][1:]}", markdown_text(text))


def _decisions(outcome: GateOutcome) -> list[tuple[WorkloadOutcome, DecisionOutcome]]:
    return [(each, decision) for each in outcome.workloads for decision in each.decisions]


def _cells(each: WorkloadOutcome, decision: DecisionOutcome) -> list[str]:
    is_timed = decision.ratio.value is not None
    figures = [each.per_unit(decision.figure, side) for side in ("base", "head")] if is_timed else [None, None]
    unit = f" {'s' if decision.figure == TIME else 'J'}/{plain(each.unit)}" if is_timed else ""
    return [
        shortened(_label(each, decision), NAME_CHARS),
        decision.verdict,
        *(f"{format_quantity(figure)}{unit}" for figure in figures),
        ratio_cell(decision),
        percent(decision.threshold),
        percent(decision.smallest_detectable),
        str(decision.num_pairs) if decision.num_pairs else UNKNOWN,
    ]


def _label(each: WorkloadOutcome, decision: DecisionOutcome) -> str:
    """`train_step:ladagan`, and `, cpu_energy_j` where it is not the time."""
    return plain(each.name if decision.figure == TIME else f"{each.name}, {decision.figure}")


def ratio_cell(decision: DecisionOutcome) -> str:
    """`1.051 [1.039, 1.064]`."""
    ratio = decision.ratio
    if ratio.value is None:
        return UNKNOWN
    interval = f" [{ratio.low:.3f}, {ratio.high:.3f}]" if ratio.low is not None and ratio.high is not None else ""
    return f"{ratio.value:.3f}{interval}"


def percent(share: float | None) -> str:
    """`3.0%`."""
    return UNKNOWN if share is None else f"{share:.1%}"


class Counted(Protocol):
    """A workload whose counts were compared."""

    @property
    def exact_changes(self) -> tuple[ExactChange, ...]:
        """The counts that differ."""

    @property
    def not_counted(self) -> dict[str, str]:
        """Count → why it is not compared."""


def count_lines(each: Counted) -> list[str]:
    """One line per count that differs, and one for those that could not be compared."""
    lines = []
    for change in each.exact_changes[:_MAX_CHANGES]:
        share = f" ({change.ratio - 1:+.2%})" if change.ratio is not None else ""
        meant = ", a regression" if change.is_regression else ", below what counts" if change.head > change.base else ""
        lines.append(f"{plain(change.name)} {change.base} → {change.head}{share}{meant}")
    if len(each.exact_changes) > _MAX_CHANGES:
        lines.append(f"{len(each.exact_changes) - _MAX_CHANGES} more counts differ")
    lines += [f"{plain(name)} is not compared: {plain(reason)}" for name, reason in sorted(each.not_counted.items())]
    return lines


def _version(version: GateVersion) -> str:
    changes = " with uncommitted changes" if version.is_dirty else ""
    return f"{shortened(plain(version.asked), NAME_CHARS)} ({version.commit[:10]}{changes})"


def _spent(outcome: GateOutcome) -> str:
    """What the gate took, and what this process itself used while blocks ran."""
    whole = f"{format_duration(outcome.duration_s)} of {format_duration(outcome.budget_s)}"
    if not outcome.timed_s:
        return f"{whole}; nothing was timed."
    own = f"{outcome.parent_cpu_s:.2f} s of processor time in the {format_duration(outcome.timed_s)} of its rounds"
    return f"{whole}; the gate itself used {own}."


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table for a terminal: the first two columns flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) if index < 2 else cell.rjust(width)
                  for index, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]  # fmt: skip
