"""What it took to reach a quality: images, seconds and joules until a curve is first as good as a threshold.

Nothing is interpolated. Between two evaluations nobody looked, so the answer is a bracket (the evaluation before, this
one), and the figure is its later end. A run that never got there is a lower bound, never a gap and never left out:
where some seeds got there and others did not, the median is given only where the others cannot move it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from bench.directions import BETTER
from bench.errors import UsageError
from bench.notation import UNKNOWN, format_quantity, markdown_bullets, markdown_table, markdown_text
from bench.records import CurvePoint, Quantity, Record
from bench.report.curves import COSTS, ENERGY, Configuration, Cost, Group, groups_of, ordered_points, value_at
from bench.units import parse_goal

NO_METER = "no run here has an energy meter"

_ROUND = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
_MAX_ROUND_THRESHOLDS = 4
_MIN_ROUND_THRESHOLDS = 3
_HOW_TO_READ = """\
* A row says what training had taken when an evaluation first found the quality; the evaluations' own seconds and joules
  are not in it. With **one seed**, the parentheses give the bracket: the evaluation before, and this one, whose figure
  stands in front. What was needed lies between the two; nothing is interpolated. With **several seeds**, the figure is
  their median and the parentheses their range; every seed has a bracket too, the widest is under *apart*.
* **not reached (> 12)**: training ended after 12 and the quality was not there. It is a lower bound and no failure of
  the measurement. **> 12**: too few of the seeds got there to know more of the median.
* A threshold is compared with the value alone, not with its interval; close to it, the next evaluation may well be
  above again. Thresholds are round numbers between the best and the worst end of the group, and those of `--until`.
* Hours belong to the machine, joules to the machine and what its meter covers. Compare within one table, and energies
  of one **known by** only; an `[estimated]` one ranks nothing.
"""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A quality to reach: `rfd_v1 ≤ 0.1`."""

    metric: str
    value: float

    @property
    def text(self) -> str:
        """As a reader sees it."""
        return f"{self.metric} {'≤' if BETTER[self.metric] == 'lower' else '≥'} {self.value:g}"

    def holds(self, value: float) -> bool:
        """Whether that value is as good or better."""
        return value <= self.value if BETTER[self.metric] == "lower" else value >= self.value


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What one run spent on a threshold, in SI units.

    Attributes:
        is_reached: whether an evaluation found it.
        before, spent: cost at the evaluation before and at this one; where it is not reached, both are all it spent.
            None where it is unknown.
    """

    is_reached: bool
    before: float | None
    spent: float | None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A configuration's seeds together, in SI units.

    Attributes:
        num_reached, num_runs: seeds.
        amount: median, or where it is a bound the lower one; None where a cost is unknown.
        is_bound: the true median is above `amount`.
        low, high: with one seed the bracket, with several the range.
        is_high_bound: `high` is what a seed spent in vain.
        widest_bracket: the largest distance between the evaluation before and the one that found it, where one did.
    """

    num_reached: int
    num_runs: int
    amount: float | None
    is_bound: bool
    low: float | None
    high: float | None
    is_high_bound: bool
    widest_bracket: float | None


def thresholds_of(group: Group) -> list[Threshold]:
    """From easy to hard; without those that every run holds before training."""
    records = [record for each in group.configurations for record in each.records]
    found = [threshold for record in records if (threshold := threshold_of(record.spec.until)) is not None]
    for metric in group.metrics[:1]:
        ends = [value for record in records if (value := _last_value(record, metric)) is not None and value > 0]
        found += [Threshold(metric=metric, value=value) for value in _round_values(ends, BETTER[metric])]
    distinct = sorted(set(found), key=lambda each: (each.metric, each.value * _sign(each.metric)))
    return [each for each in distinct if not all(_holds_untrained(record, each) for record in records)]


def threshold_of(until: str | None) -> Threshold | None:
    """The threshold in `--until`; None without one, or where its metric has no direction or the other one."""
    if until is None:
        return None
    try:
        goal = parse_goal(until)
    except UsageError:  # a record may hold what this version no longer reads
        return None
    if BETTER.get(goal.figure) != ("lower" if "<" in goal.relation else "higher"):
        return None
    return Threshold(metric=goal.figure, value=goal.threshold)


def _sign(metric: str) -> int:
    return -1 if BETTER[metric] == "lower" else 1


def _last_value(record: Record, metric: str) -> float | None:
    values = [value for point in ordered_points(record) if (value := value_at(point, metric)) is not None]
    return values[-1] if values else None


def _holds_untrained(record: Record, threshold: Threshold) -> bool:
    first = ordered_points(record)[0]
    value = value_at(first, threshold.metric)
    return first.num_images_shown == 0 and value is not None and threshold.holds(value)


def _round_values(ends: Sequence[float], better: Literal["lower", "higher"]) -> list[float]:
    """Round numbers between the best and the worst end, at most four, and then easier ones up to three in all."""
    if not ends:
        return []
    first, last = math.floor(math.log10(min(ends))) - 1, math.ceil(math.log10(max(ends))) + 1
    grid = [float(f"{factor * 10.0**power:.6g}") for power in range(first, last + 1) for factor in _ROUND]
    between = [value for value in grid if min(ends) <= value <= max(ends)]
    if better == "lower":
        easier = [value for value in grid if value > max(ends)]
    else:
        between, easier = between[::-1], [value for value in reversed(grid) if value < min(ends)]
    count = min(len(between), _MAX_ROUND_THRESHOLDS)
    spread = [between[round(index * (len(between) - 1) / max(1, count - 1))] for index in range(count)]
    return [*spread, *easier[: max(1, _MIN_ROUND_THRESHOLDS - count)]]


def reach(configuration: Configuration, record: Record, threshold: Threshold, cost: Cost) -> Reach | None:
    """What the run spent until its first evaluation at which the threshold holds; None where it was never evaluated."""
    points = [point for point in ordered_points(record) if value_at(point, threshold.metric) is not None]
    if not points:
        return None

    def spent_at(point: CurvePoint) -> float | None:
        return cost.amount(configuration, record, point)

    before = 0.0  # at the start nothing has been spent
    for point in points:
        value = value_at(point, threshold.metric)
        if value is not None and threshold.holds(value):
            is_start = point.num_images_shown == 0
            return Reach(is_reached=True, before=before, spent=0.0 if is_start else spent_at(point))
        known = spent_at(point)
        before = before if known is None else known
    spent = spent_at(points[-1])
    return Reach(is_reached=False, before=spent, spent=spent)


def summary(configuration: Configuration, threshold: Threshold, cost: Cost) -> Summary | None:
    """All seeds of a configuration; None where none was evaluated by that metric."""
    found = [reach(configuration, record, threshold, cost) for record in configuration.records]
    runs = [each for each in found if each is not None]
    if not runs:
        return None
    reached = [each for each in runs if each.is_reached]
    spent = [each.spent for each in runs if each.spent is not None]
    is_unknown = len(spent) < len(runs)
    at_most = [each.spent if each.is_reached and each.spent is not None else math.inf for each in runs]
    largest_in_vain = max((each.spent or 0.0 for each in runs if not each.is_reached), default=-math.inf)
    only = runs[0] if len(runs) == 1 else None
    brackets = [each.spent - each.before for each in reached if each.spent is not None and each.before is not None]
    return Summary(
        num_reached=len(reached),
        num_runs=len(runs),
        amount=None if is_unknown else median(spent),
        is_bound=not is_unknown and median(at_most) > median(spent),
        low=None if is_unknown else only.before if only else min(spent),
        high=None if is_unknown else max(spent),
        is_high_bound=not is_unknown and largest_in_vain >= max(spent),
        widest_bracket=None if is_unknown else max(brackets, default=None),
    )


def reach_blocks(records: Sequence[Record]) -> list[str]:
    """How to read it, and one table per group, as Markdown without a heading.

    Args:
        records: as `reported` gives them.
    """
    groups = [(group, thresholds) for group in groups_of(records) if (thresholds := thresholds_of(group))]
    if not groups:
        return ["No run has a curve whose quality came to a threshold, so there is no table of what it took."]
    blocks = ["What it took to reach a quality:", _HOW_TO_READ.rstrip()]
    for group, thresholds in groups:
        blocks += [f"**{markdown_text(group.title)}**", *_table(group, thresholds)]
    return blocks


def _table(group: Group, thresholds: Sequence[Threshold]) -> list[str]:
    spent = [
        [each for run in group.configurations for q in thresholds if (each := summary(run, q, cost)) is not None]
        for cost in COSTS
    ]
    units = [
        cost.unit_for(each.high for each in found if each.high is not None)
        for cost, found in zip(COSTS, spent, strict=True)
    ]
    header = ["quality", "configuration", "seeds there", *(unit for _, unit in units), "known by", "apart"]
    rows = []
    for threshold in thresholds:
        for run in group.configurations:
            found = [summary(run, threshold, cost) for cost in COSTS]
            cells = [_cell(each, unit[0]) for each, unit in zip(found, units, strict=True)]
            if found[0] is None:
                continue
            if run.energy_label == "estimated:tdp" and found[2] is not None:
                cells[2] = _estimate_cell(found[2], units[2])
            counts = f"{found[0].num_reached}/{found[0].num_runs}"
            apart = UNKNOWN if found[0].widest_bracket is None else f"{_short(found[0].widest_bracket / 1e3)} kimg"
            rows.append([threshold.text, run.label, counts, *cells, run.energy_label or UNKNOWN, apart])
    table = markdown_table(header, [[markdown_text(cell) for cell in row] for row in rows], num_left=2)
    runs_of: dict[str, list[str]] = defaultdict(list)
    for run in group.configurations:
        runs_of[why_no_energy(run)].append(run.label)
    lines = [f"{ENERGY.name} of {', '.join(labels)}: {why}" for why, labels in runs_of.items() if why]
    return [table, f"Not known:\n\n{markdown_bullets(map(markdown_text, lines))}"] if lines else [table]


def why_no_energy(configuration: Configuration) -> str:
    """Why the configuration has no joules to set quality against; empty where it has."""
    if configuration.energy_label is not None:
        return ""
    energies = [point.train_energy for record in configuration.records for point in record.curve]
    known = [each for each in energies if each is not None]
    if any(each.value is not None for each in known):
        return "its joules are simulated, or known in several ways; they are not put together"
    return next((each.note for each in known), "its evaluations carry no joules")


def _cell(found: Summary | None, unit: float) -> str:
    """`5.18 (3.33 to 5.18)`, `> 6.58 (4.4 to > 6.58)` or `not reached (> 6.58)`."""
    if found is None or found.amount is None or found.low is None or found.high is None:
        return UNKNOWN
    amount, low, high = (_short(each / unit) for each in (found.amount, found.low, found.high))
    if not found.num_reached:
        return f"not reached (> {amount})"
    if found.high == 0.0:
        return "before training"
    return f"{'> ' if found.is_bound else ''}{amount} ({low} to {'> ' if found.is_high_bound else ''}{high})"


def _estimate_cell(found: Summary, unit: tuple[float, str]) -> str:
    """One digit, and marked: time multiplied by a constant."""
    if found.amount is None:
        return UNKNOWN
    value = found.amount / unit[0]
    figure = Quantity(value=value, unit=unit[1], kind="estimated", source=ENERGY.name, label="estimated:tdp")
    text = format_quantity(figure)
    if not found.num_reached:
        return f"not reached (> {text})"
    return f"> {text}" if found.is_bound else text


def _short(value: float) -> str:
    """Three digits, no exponent: 5184.0 → `5184`, 0.01234 → `0.0123`."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
