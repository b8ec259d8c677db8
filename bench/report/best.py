"""`bench best`: which runs fit a budget, cheapest first, and why every other one does not.

A run fits *surely* where the bad end of each figure's 95 % interval is within its limit, *maybe* where only the value
or the good end is, and not where the good end is outside. A limit on joules is absolute, so there the sensor's own
error widens the interval, unlike in a comparison of two runs on one board. A peak of memory has no interval because it
is the highest of all windows: it is its own bad end. Any other figure without an interval fits maybe.

What may not be ranked (smoke, failed, simulated, estimated: `why_not_ranked`) fits nothing, and what is unknown is
no fit. Runs are ordered only against those on the same data set and resolution whose figures are decided by the same
machine, setting and protocol (`compare.deciding`), in one group per such set, the sure ones first. No total order is
claimed within it: a run whose interval reaches that of the cheapest one shares its place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.audit import audit
from bench.compare import deciding, setting_of
from bench.directions import BETTER, DIRECTIONS, HEADLINE_METRIC
from bench.errors import UsageError
from bench.notation import format_number
from bench.records import Quantity, Record
from bench.registry import suggest
from bench.report.ranking import why_not_ranked
from bench.report.ratios import interval_of
from bench.report.rows import why_unknown
from bench.report.survey import judged
from bench.units import BYTES_PER_GIB, Goal, parse_goal

By = Literal["energy", "latency", "throughput", "memory", "macs", "quality"]
ENERGY, LATENCY, MACS = "generate_energy_j_per_image", "generate_latency_ms_p50", "macs_generator"
THROUGHPUT, MEMORY = "generate_images_per_s", "generate_peak_memory_bytes"
ORDER_FIGURES: dict[By, str] = {
    "energy": ENERGY,
    "latency": LATENCY,
    "throughput": THROUGHPUT,
    "memory": MEMORY,
    "macs": MACS,
}
NAMES = {
    ENERGY: "joules per image",
    LATENCY: "latency (p50, batch 1)",
    THROUGHPUT: "images per second",
    MEMORY: "peak memory of generation",
    MACS: "MACs per image",
}


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One part of the budget, in the unit the figure is stored in; `text` is as a reader has it."""

    goal: Goal
    text: str

    @property
    def figure(self) -> str:
        """The figure it limits."""
        return self.goal.figure


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A run that is within the budget.

    Attributes:
        unsure: the limits it may miss; empty where it surely fits.
        is_first: its interval of the order's figure reaches the cheapest one's; False where that is unknown.
    """

    record: Record
    unsure: tuple[str, ...]
    is_first: bool = False


@dataclass(frozen=True, kw_only=True)
class Miss:
    """Why a run does not fit.

    Attributes:
        reason: in words, the same for all runs that miss for the same reason.
        of: what is unknown; empty where something else is the matter.
        value: the run's own figure, where that is outside the limit.
    """

    reason: str
    of: str = ""
    value: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that may be ordered against each other, in order.

    Attributes:
        order: the figure they are ordered by; None where none is known of all.
        why: why by that one.
    """

    order: str | None
    why: str
    fits: tuple[Fit, ...]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What fits, and for each run that does not, why.

    Attributes:
        excluded: run id → what it misses, one or more.
    """

    limits: tuple[Limit, ...]
    groups: tuple[Group, ...]
    excluded: Mapping[str, tuple[Miss, ...]]


def limits_of(
    *,
    latency_ms: float | None = None,
    energy_j: float | None = None,
    memory_gib: float | None = None,
    images_per_s: float | None = None,
    quality: Sequence[str] = (),
) -> tuple[Limit, ...]:
    """The budget as limits on figures.

    Raises:
        UsageError: no limit at all, one that is not above zero, an unknown metric, or a malformed expression.
    """
    asked: tuple[tuple[str, float | None, str, str, str], ...] = (
        ("--latency-ms", latency_ms, LATENCY, "<=", "ms"),
        ("--energy-j", energy_j, ENERGY, "<=", "J"),
        ("--memory-gib", memory_gib, MEMORY, "<=", "GiB"),
        ("--images-per-s", images_per_s, THROUGHPUT, ">=", "image/s"),
    )
    found = []
    for option, value, figure, relation, unit in asked:
        if value is None:
            continue
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"{option} {value:g} must be more than zero.")
        threshold = value * BYTES_PER_GIB if figure == MEMORY else value
        goal = Goal(figure=figure, relation=relation, threshold=threshold)
        found.append(Limit(goal=goal, text=f"{NAMES[figure]} {relation} {value:g} {unit}"))
    found += [_quality_limit(text) for text in quality]
    if not found:
        raise UsageError(
            "Name a budget: --latency-ms, --energy-j, --memory-gib, --images-per-s or --quality, one or more of them."
        )
    return tuple(found)


def _quality_limit(text: str) -> Limit:
    goal = parse_goal(text, "--quality")
    if goal.figure not in BETTER:
        raise UsageError(f"--quality '{text}': unknown metric '{goal.figure}'. {suggest(goal.figure, BETTER)}")
    if (BETTER[goal.figure] == "lower") != goal.relation.startswith("<"):
        right = "<=" if BETTER[goal.figure] == "lower" else ">="
        raise UsageError(f"--quality '{text}': {goal.figure} is better {BETTER[goal.figure]}, so write {right}.")
    return Limit(goal=goal, text=f"{goal.figure} {goal.relation} {goal.threshold:g}")


def best_of(records: Iterable[Record], limits: Sequence[Limit], by: By | None = None) -> Answer:
    """What of these runs fits, in groups that may be ordered.

    Args:
        by: what to order by; None is joules where all of a group have measured ones, else latency, else MACs.
    """
    excluded: dict[str, tuple[Miss, ...]] = {}
    groups: dict[str, list[Fit]] = {}
    for record in records:
        checks, misses = _checks(record, limits)
        if not misses:  # only what would fit is audited: an error of the audit counts as the record's own
            checks, misses = _checks(judged(record, audit(record, {})), limits)
        if misses:
            excluded[record.run_id] = misses
            continue
        unsure = tuple(limit.text for limit, check in zip(limits, checks, strict=True) if check == "maybe")
        key = _key(record, [limit.figure for limit in limits])
        groups.setdefault(key, []).append(Fit(record=record, unsure=unsure))
    ordered = [group for fits in groups.values() for group in _ordered(fits, limits, by)]
    return Answer(limits=tuple(limits), groups=tuple(ordered), excluded=excluded)


def _checks(
    record: Record, limits: Sequence[Limit]
) -> tuple[list[Literal["surely", "maybe"] | Miss], tuple[Miss, ...]]:
    """How it fits each limit, and those of them that it does not fit."""
    checks = [_checked(record, limit) for limit in limits]
    return checks, tuple(dict.fromkeys(check for check in checks if isinstance(check, Miss)))


def _checked(record: Record, limit: Limit) -> Literal["surely", "maybe"] | Miss:
    """How it fits, or why it does not."""
    figure = limit.figure
    quantity = record.quantity(figure)
    if quantity is None or quantity.value is None:
        return Miss(of=NAMES.get(figure, figure), reason=f"unknown: {why_unknown(record, figure)}")
    unranked = why_not_ranked(record, figure)
    if unranked:
        return Miss(reason=unranked)
    good, bad = _ends(quantity, limit)
    if not any(map(limit.goal.is_met, (good, quantity.value))):
        value = format_number(quantity.value, quantity.low, quantity.high, quantity.unit)
        return Miss(reason=f"not {limit.text}", value=value)
    return "surely" if bad is not None and limit.goal.is_met(bad) else "maybe"


def _ends(quantity: Quantity, limit: Limit) -> tuple[float, float | None]:
    """The good end and the bad end, the sensor's own error included; the bad one is None where nobody knows it."""
    assert quantity.value is not None
    if limit.figure == MEMORY and quantity.low is None:
        return quantity.value, quantity.value
    ends = interval_of(quantity)
    low, high = ends or (quantity.value, quantity.value)
    error = quantity.systematic or 0.0
    low, high = low - abs(low) * error, high + abs(high) * error
    good, bad = (low, high) if limit.goal.relation.startswith("<") else (high, low)
    return good, bad if ends else None


def _key(record: Record, figures: Iterable[str]) -> str:
    """Equal for runs that may be ordered against each other by these figures; the batch counts where it decides one."""
    spec = record.spec
    decided = [deciding(record, figure) for figure in figures]
    alone = record.run_id if None in decided else ""
    return json.dumps([spec.dataset, spec.resolution, setting_of(record, LATENCY), decided, alone], sort_keys=True)


def _ordered(fits: Sequence[Fit], limits: Sequence[Limit], by: By | None) -> list[Group]:
    """One group per set that the order's figure, too, allows to be ordered."""
    figure, why = _order_figure([fit.record for fit in fits], limits, by)
    if figure is None:
        return [Group(order=None, why=why, fits=tuple(sorted(fits, key=_run_id)))]
    parts: dict[str, list[Fit]] = {}
    for fit in fits:
        parts.setdefault(_key(fit.record, [figure]), []).append(fit)
    return [Group(order=figure, why=why, fits=_in_order(part, figure)) for part in parts.values()]


def _order_figure(records: Sequence[Record], limits: Sequence[Limit], by: By | None) -> tuple[str | None, str]:
    if by == "quality":
        metrics = [limit.figure for limit in limits if limit.figure in BETTER]
        return (metrics or [HEADLINE_METRIC])[0], "as asked"
    if by is not None:
        return ORDER_FIGURES[by], "as asked"
    missing = ""
    for figure in (ENERGY, LATENCY, MACS):
        if not any(why_not_ranked(record, figure) for record in records):
            return figure, missing or "all of them have measured ones"
        missing += f"{', ' if missing else ''}not all have measured {NAMES[figure].partition(' (')[0]}"
    return None, missing


def _in_order(fits: Sequence[Fit], figure: str) -> tuple[Fit, ...]:
    """The sure ones first, in each the cheapest first; last what has no figure to be ordered by."""
    sign = -1.0 if DIRECTIONS[figure] == "higher" else 1.0

    def place(fit: Fit) -> tuple[bool, bool, float, str]:
        value = _value(fit, figure)
        return bool(fit.unsure), value is None, sign * (value or 0.0), fit.record.run_id

    known = [fit for fit in fits if _value(fit, figure) is not None]
    if not known:
        return tuple(sorted(fits, key=place))
    first = min(known, key=lambda fit: sign * (_value(fit, figure) or 0.0))
    reached = _reach(first, figure)
    found = []
    for fit in sorted(fits, key=place):
        low, high = _reach(fit, figure) if _value(fit, figure) is not None else (math.inf, -math.inf)
        found.append(Fit(record=fit.record, unsure=fit.unsure, is_first=low <= reached[1] and reached[0] <= high))
    return tuple(found)


def _value(fit: Fit, figure: str) -> float | None:
    """The figure where it may be ranked."""
    quantity = None if why_not_ranked(fit.record, figure) else fit.record.quantity(figure)
    return None if quantity is None else quantity.value


def _reach(fit: Fit, figure: str) -> tuple[float, float]:
    quantity = fit.record.quantity(figure)
    assert quantity is not None
    assert quantity.value is not None
    return interval_of(quantity) or (quantity.value, quantity.value)


def _run_id(fit: Fit) -> str:
    return fit.record.run_id
