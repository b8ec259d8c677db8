"""One workload of a point on its way: what it is, its blocks so far, the earlier points, and what follows from them.

Why it is apart from `history.py`: there the order of events stands, here what is known of one workload at each of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.gate.case import (
    COUNTS,
    MIN_ENERGY_BLOCK_S,
    block_timeout_s,
    decided_by_count,
    exact_changes,
    inconclusive,
    timed_block,
)
from bench.gate.change_points import Change, changes
from bench.gate.decide import Decision, invalid
from bench.gate.facts import MIN_BLOCK_S, Facts, why_not_counted
from bench.gate.history_commits import Line
from bench.gate.history_decide import Figure, decide_point, is_too_noisy, needs_confirmation, too_short
from bench.gate.history_past import Past, Series, software_changes
from bench.gate.history_point import (
    MIN_RESTARTS,
    ChangeOutcome,
    HistoryPoint,
    LevelOutcome,
    PointFacts,
    PointWorkload,
    medians,
)
from bench.gate.lane import Block
from bench.gate.outcome import (
    TIME,
    DecisionOutcome,
    ExactChange,
    RoundName,
    RoundOutcome,
    TimedBlock,
)
from bench.gate.question import Workload
from bench.records import Quantity

ROUNDS: tuple[RoundName, RoundName] = ("first", "confirming")


class PointCase:
    """A workload, what its worker said, and the earlier points that it is compared with.

    Args:
        is_kept: whether later points will be compared with this one.

    Attributes:
        facts: None until the worker said them.
        settled: why nothing can be said of its time; None while something can.
        by_count: the decision on its counts, where one grew.
        series: figure → its earlier values.
        restarts: the blocks of each round, one tuple per restart.
        notes: what decides nothing and should be known.
    """

    def __init__(self, workload: Workload, *, is_kept: bool) -> None:
        self.workload = workload
        self._is_kept = is_kept
        self.facts: Facts | None = None
        self.settled: Decision | None = None
        self.by_count: Decision | None = None
        self.series: dict[str, Series] = {}
        self.restarts: dict[RoundName, list[tuple[TimedBlock, ...]]] = {}
        self.notes: list[str] = []
        self._counted: dict[str, Any] = {"counts_from": "", "exact_changes": (), "not_counted": {}}

    @property
    def known(self) -> Facts:
        """Its facts, once they are."""
        assert self.facts is not None
        return self.facts

    @property
    def figures(self) -> tuple[str, ...]:
        """Time, and every reading in joules."""
        return (TIME, *sorted(self.known.energy))

    @property
    def num_iterations(self) -> int:
        """Of a block."""
        return self.known.num_iterations(MIN_ENERGY_BLOCK_S if self.known.energy else MIN_BLOCK_S)

    @property
    def block_s(self) -> float:
        """About how long a block takes."""
        return self.num_iterations * self.known.iteration_s

    @property
    def block_timeout_s(self) -> float:
        """After which a block is taken for hung."""
        return block_timeout_s(self.block_s)

    def compare_with(self, past: Past) -> None:
        """Find what it is compared with; settles it where there are points and none that it may be compared with."""
        name, facts = self.workload.name, self.known
        points, differs = past.of(name, facts)
        self.series = {figure: past.series(figure, name, facts, points) for figure in self.figures}
        if past.why_refused:
            self.settled = invalid(past.why_refused)
        elif differs and not points:
            self.settled = invalid(f"{differs}; points that measure the same as this one are a history of their own.")
        elif differs:
            self.notes.append(f"{name}: {differs}; they are left out.")
        if not facts.is_stationary:
            self.notes.append(f"{name}: it was still becoming faster when its warm-up was cut short.")
        self._compare_counts(past.newest_of_another_commit(points))

    def _compare_counts(self, earlier: HistoryPoint | None) -> None:
        found = earlier.workload(self.workload.name) if earlier else None
        if earlier is None or found is None or found.facts is None:
            return
        before = found.facts.facts(self.workload.name)
        differing: tuple[ExactChange, ...] = exact_changes(before, self.known)
        self._counted = {
            "counts_from": earlier.point_id,
            "exact_changes": differing,
            "not_counted": why_not_counted(before, self.known),
        }
        self.by_count = decided_by_count(differing)

    def add(self, name: RoundName, blocks: list[Block]) -> None:
        """The blocks of one restart in the order they ran."""
        if blocks:
            self.restarts.setdefault(name, []).append(tuple(timed_block("head", block) for block in blocks))

    def needs_confirmation(self, min_effect: float) -> bool:
        """Whether a figure leaves something open that a confirming measurement can settle."""
        if self.settled is not None:
            return False
        return any(
            needs_confirmation(reference, measured, min_effect)
            for figure in self.figures
            if (reference := self.series[figure].reference) and (measured := self._figure(figure))
        )

    def decisions(self, min_effect: float) -> dict[str, Decision]:
        """Figure → what is said of it, before other workloads are looked at."""
        found = {} if self.by_count is None else {COUNTS: self.by_count}
        if self.settled is not None:
            return found | {TIME: self.settled}
        return found | {figure: self._decided(figure, min_effect) for figure in self.figures}

    def _decided(self, figure: str, min_effect: float) -> Decision:
        if missing := self._why_missing(figure):
            return invalid(f"A block has no {figure}: {missing}.")
        measured, series = self._figure(figure), self.series[figure]
        if measured is None:
            return inconclusive(f"There was no time for the {MIN_RESTARTS} starts that a point needs: raise --budget.")
        if series.reference is None:
            levels = series.course.levels
            return too_short((len(levels[-1].members) if levels else 0) + self._is_kept)
        decision = decide_point(series.reference, measured, min_effect)
        if decision.verdict != "inconclusive" or not is_too_noisy(series.reference, min_effect):
            return decision
        return replace(decision, reason=f"{decision.reason} {_furthest(series)}")

    def _why_missing(self, figure: str) -> str:
        """Why a block lacks the figure; empty where none does."""
        every = (block for restarts in self.restarts.values() for blocks in restarts for block in blocks)
        without = next((block for block in every if not block.per_unit(figure)), None)
        return "" if without is None else without.problems.get(figure, "the meter gave no reason")

    def _figure(self, figure: str) -> Figure | None:
        """What was measured; None where it is too little."""
        first, confirming = (medians(self.restarts.get(name, ()), figure) for name in ROUNDS)
        if len(first) < MIN_RESTARTS:
            return None
        return Figure(first=first, confirming=confirming if len(confirming) >= MIN_RESTARTS else ())

    def outcome(self, decisions: Mapping[str, Decision], found: tuple[ChangeOutcome, ...]) -> PointWorkload:
        """Everything of it, for the document."""
        fields: dict[str, Any] = {name: getattr(self.facts, name, None) for name in PointFacts.model_fields}
        return PointWorkload(
            name=self.workload.name,
            size=self.workload.size,
            resolution=self.workload.resolution,
            facts=PointFacts(**fields) if self.facts else None,
            num_iterations=self.num_iterations if self.restarts else 0,
            rounds=tuple(RoundOutcome(name=name, restarts=tuple(each)) for name, each in self.restarts.items()),
            levels=tuple(map(_level, self.series.values())),
            decisions=tuple(DecisionOutcome(figure=figure, **vars(each)) for figure, each in decisions.items()),
            changes=found,
            **self._counted,
        )


def _furthest(series: Series) -> str:
    """The point that adds most to the scatter, for whoever knows what happened that day."""
    off = {index: series.values[index] - level.middle for level in series.course.levels for index in level.members}
    at = max(off, key=lambda index: abs(off[index]))
    furthest = f"{series.points[at].point_id} ({math.expm1(off[at]):+.1%})"
    return f"The furthest from its level is {furthest}; a point is one file."


def _level(series: Series) -> LevelOutcome:
    reference = series.reference
    newest = series.points[reference.newest] if reference else None
    return LevelOutcome(
        figure=series.figure,
        per_unit=math.exp(reference.middle) if reference else None,
        num_points=reference.num_points if reference else 0,
        num_earlier=len(series.points),
        newest_id=newest.point_id if newest else "",
        newest_commit=newest.commit if newest else "",
    )


def change_outcomes(series: Series, line: Line, min_effect: float) -> tuple[ChangeOutcome, ...]:
    """The changes of a history, with who is suspect of each."""
    return tuple(_change(series, each, line) for each in changes(series.course, min_effect))


def _change(series: Series, change: Change, line: Line) -> ChangeOutcome:
    before, after = series.points[change.first_after - 1], series.points[change.first_after]
    return ChangeOutcome(
        figure=series.figure,
        date=after.commit_date,
        measured=after.started,
        ratio=Quantity(
            value=math.exp(change.shift),
            unit="1",
            low=math.exp(change.low),
            high=math.exp(change.high),
            n=change.num_before + change.num_after,
            kind="measured",
            source="later level over the earlier one",
        ),
        num_before=change.num_before,
        num_after=change.num_after,
        suspects=line.suspects(before, after),
        machine=software_changes(before.machine, after.machine),
    )
