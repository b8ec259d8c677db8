"""What a point says: tables for a terminal and Markdown, of the verdict and of the changes over time.

Made from the document alone. Names and commit subjects are strangers' and stay text, as in `bench.gate.text`.
"""

from __future__ import annotations

from bench.gate.change_points import LEAST_POINTS
from bench.gate.history_decide import FALSE_ALARMS
from bench.gate.history_point import ChangeOutcome, HistoryPoint, LevelOutcome, PointWorkload, Suspects
from bench.gate.noise import POWER
from bench.gate.outcome import TIME, DecisionOutcome
from bench.gate.text import (
    MARKER,
    NAME_CHARS,
    REASON_CHARS,
    SENTENCES,
    SIGNS,
    aligned,
    count_lines,
    inert,
    percent,
    ratio_cell,
)
from bench.notation import UNKNOWN, format_number, markdown_bullets, markdown_table, plain, shortened
from bench.records import Quantity
from bench.units import format_duration

_HEADER = ("workload", "verdict", "this point", "level", "point / level", "counts from", "would have seen", "points")
_CHANGES_HEADER = ("workload", "change", "since the commit of", "points", "suspect")
_SHORT = 10

HOW_TO_READ = f"""\
* A point is one version measured alone; its figure is the median over restarts. *level*: the mean of this machine's
  earlier points since the last change (*points*: how many of all). `point / level` (above 1: slower) has the 95 %
  interval of one more point of that level, from how the points scatter.
* *counts from*: a smaller change is none, max(minimum effect, what {FALSE_ALARMS:.1%} of unchanged points reach).
* *would have seen*: the slowdown that is called a regression in {POWER:.0%} of cases.
* A regression is shown by two measurements in processes of their own, but on one day: `bench gate --base` tells a day
  from a commit."""


def history_text(point: HistoryPoint) -> str:
    """The table, a line for each reason and note, the changes over time, and the verdict last."""
    lines = aligned([_HEADER, *(_cells(each, decision) for each, decision in _decisions(point))])
    lines.insert(1, "─" * max(map(len, lines)))
    lines.append("")
    for each, decision in _decisions(point):
        lines.append(f"{_label(each, decision.figure)}: {shortened(plain(decision.reason), REASON_CHARS)}")
    for each in point.workloads:
        lines += [f"{plain(each.name)}: {text}" for text in count_lines(each)]
    lines += [f"Note: {shortened(plain(note), REASON_CHARS)}" for note in point.notes]
    if rows := _change_rows(point):
        table = aligned([_CHANGES_HEADER, *rows])
        lines += ["", _changes_title(point), *table[:1], "─" * max(map(len, table)), *table[1:]]
    else:
        lines += ["", _no_changes(point)]
    lines += ["", _spent(point), f"{point.verdict}: {SENTENCES[point.verdict]} (exit code {point.exit_code})"]
    return "\n".join(lines)


def history_markdown(point: HistoryPoint) -> str:
    """The same for GitHub and GitLab; it begins with MARKER and ends with a newline."""
    rows = [[inert(cell) for cell in _cells(each, decision)] for each, decision in _decisions(point)]
    reasons = [
        f"{inert(_label(each, decision.figure))}: {inert(shortened(decision.reason, REASON_CHARS))}"
        for each, decision in _decisions(point)
    ]
    counts = [f"{inert(each.name)}: {inert(text)}" for each in point.workloads for text in count_lines(each)]
    notes = [inert(shortened(note, REASON_CHARS)) for note in point.notes]
    changed = [[inert(cell) for cell in row] for row in _change_rows(point)]
    machine = f"{point.machine.cpu}, {point.machine.num_cpu_cores} cores, {point.device}, torch {point.machine.torch}, "
    machine += f"threads per worker: {point.num_threads}. {_spent(point)}"
    parts = [
        f"{MARKER}\n### {SIGNS[point.verdict]} bench gate --history: {point.verdict}",
        f"{SENTENCES[point.verdict]} {inert(_version(point))} against this machine's earlier points.",
        markdown_table(_HEADER, rows, num_left=2),
        markdown_bullets(reasons),
        *([f"**Counts that differ**\n\n{markdown_bullets(counts)}"] if counts else []),
        *([f"**Notes**\n\n{markdown_bullets(notes)}"] if notes else []),
        f"**{_changes_title(point)}**\n\n{markdown_table(_CHANGES_HEADER, changed, num_left=3)}"
        if changed
        else _no_changes(point),
        f"<details><summary>How to read this</summary>\n\n{HOW_TO_READ}\n* {inert(machine)}\n\n</details>",
    ]
    return "\n\n".join(parts) + "\n"


def suspects_text(suspects: Suspects) -> str:
    """`3 commits, 1234567890..abcdef0123`, or the one commit with its subject, or why there is no number."""
    ends = f"{suspects.before[:_SHORT]}..{suspects.after[:_SHORT]}"
    if suspects.num_commits == 1:
        return f"1 commit, {suspects.after[:_SHORT]} {shortened(plain(suspects.subject), NAME_CHARS)}".rstrip()
    if suspects.num_commits:
        return f"{suspects.num_commits} commits, {ends}"
    many = "no commit" if suspects.num_commits == 0 else "an unknown number of commits"
    return f"{many}, {ends}: {plain(suspects.note)}"


def _decisions(point: HistoryPoint) -> list[tuple[PointWorkload, DecisionOutcome]]:
    return [(each, decision) for each in point.workloads for decision in each.decisions]


def _cells(each: PointWorkload, decision: DecisionOutcome) -> list[str]:
    level = next((level for level in each.levels if level.figure == decision.figure), None)
    return [
        shortened(_label(each, decision.figure), NAME_CHARS),
        decision.verdict,
        _per_unit(each, decision.figure, each.per_unit(decision.figure)),
        _per_unit(each, decision.figure, level.per_unit if level else None),
        ratio_cell(decision),
        percent(decision.threshold),
        percent(decision.smallest_detectable),
        _num_points(level),
    ]


def _num_points(level: LevelOutcome | None) -> str:
    """`12`, or `12 of 30` where there are points of other levels."""
    if level is None:
        return UNKNOWN
    return f"{level.num_points} of {level.num_earlier}"


def _per_unit(each: PointWorkload, figure: str, value: float | None) -> str:
    if value is None or each.facts is None:
        return UNKNOWN
    return f"{format_number(value)} {'s' if figure == TIME else 'J'}/{plain(each.facts.unit)}"


def _label(each: PointWorkload, figure: str) -> str:
    """`train_step:ladagan`, and `, cpu_energy_j` where it is not the time."""
    return plain(each.name if figure == TIME else f"{each.name}, {figure}")


def _change_rows(point: HistoryPoint) -> list[list[str]]:
    return [_change_cells(each, change) for each in point.workloads for change in each.changes]


def _change_cells(each: PointWorkload, change: ChangeOutcome) -> list[str]:
    beside = f"; also changed: {', '.join(map(plain, change.machine))}" if change.machine else ""
    return [
        shortened(_label(each, change.figure), NAME_CHARS),
        _shift(change.ratio),
        change.date.replace("T", " "),
        f"{change.num_before} → {change.num_after}",
        shortened(f"{suspects_text(change.suspects)}{beside}", REASON_CHARS),
    ]


def _shift(ratio: Quantity) -> str:
    """`10.2% slower (+9.1% to +11.3%)`."""
    assert ratio.value is not None
    assert ratio.low is not None
    assert ratio.high is not None
    word = "slower" if ratio.value >= 1 else "faster"
    return f"{abs(ratio.value - 1):.1%} {word} ({ratio.low - 1:+.1%} to {ratio.high - 1:+.1%})"


def _changes_title(point: HistoryPoint) -> str:
    return f"Changes over time, of {percent(point.min_effect)} or more between levels of {LEAST_POINTS} points or more"


def _no_changes(point: HistoryPoint) -> str:
    most = max((level.num_earlier for each in point.workloads for level in each.levels), default=0)
    if most + 1 < 2 * LEAST_POINTS:
        return f"Changes over time are looked for from {2 * LEAST_POINTS} points on; {most} earlier ones are there."
    return f"No change over time of {percent(point.min_effect)} or more in {most} earlier points."


def _version(point: HistoryPoint) -> str:
    changes = " with uncommitted changes" if point.is_dirty else ""
    return f"{shortened(plain(point.asked), NAME_CHARS)} ({point.commit[:_SHORT]}{changes})"


def _spent(point: HistoryPoint) -> str:
    """What the point took, and what this process itself used while blocks ran."""
    whole = f"{format_duration(point.duration_s)} of {format_duration(point.budget_s)}"
    if not point.timed_s:
        return f"{whole}; nothing was timed."
    own = f"{point.parent_cpu_s:.2f} s of processor time in the {format_duration(point.timed_s)} of its measurements"
    return f"{whole}; the gate itself used {own}."
