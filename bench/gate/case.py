"""One workload on its way through the gate: what both sides said, the blocks so far, and what follows from them.

Why it is apart from `gate.py`: there the order of events stands, here what is known of one workload at each of them.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from bench.gate.decide import Decision, decide, invalid, needs_confirmation
from bench.gate.facts import (
    MIN_BLOCK_S,
    Facts,
    energy_is_comparable,
    exact_differences,
    what_is_measured_differs,
    why_not_counted,
)
from bench.gate.lane import BLOCK_TIMEOUT_S, Block
from bench.gate.outcome import (
    TIME,
    DecisionOutcome,
    ExactChange,
    RoundName,
    RoundOutcome,
    SideFacts,
    TimedBlock,
    WorkloadOutcome,
)
from bench.gate.pairs import Round, Side, log_ratios
from bench.gate.question import Workload

COUNTS = "counts"
COUNT_SLACK = 0.001  # ours; of bytes and peak memory
NO_SLACK = ("num_params_", "macs_")
MIN_ENERGY_BLOCK_S = 2.0  # a counter that ticks every 0.1 s is then off by 2 % rms per block, about as much as a clock
_SLOWEST_BLOCK = 50.0  # times its expected duration; then it hangs


class Case:
    """A workload, what is known of it, and whether that settles it without a clock.

    Attributes:
        base, head: what the workers said; None until they did.
        settled: the decision that needs no timing; None while it is open.
        restarts: the blocks of each round, one tuple per restart.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.base: Facts | None = None
        self.head: Facts | None = None
        self.settled: Decision | None = None
        self.changes: tuple[ExactChange, ...] = ()
        self.not_counted: dict[str, str] = {}
        self.restarts: dict[RoundName, list[tuple[TimedBlock, ...]]] = {}

    def learn(self, base: Facts, head: Facts) -> None:
        """What both sides said; settles the case where it is invalid or where a count grew."""
        self.base, self.head = base, head
        if differs := what_is_measured_differs(base, head):
            self.settled = invalid(f"What is measured is not the same: {'; '.join(differs)}.")
            return
        self.not_counted = why_not_counted(base, head)
        self.changes = exact_changes(base, head)
        self.settled = decided_by_count(self.changes)

    @property
    def facts(self) -> tuple[Facts, Facts]:
        """Of base and head, once they are known."""
        assert self.base is not None
        assert self.head is not None
        return self.base, self.head

    @property
    def figures(self) -> tuple[str, ...]:
        """What is compared: time, and every reading in joules that both sides take alike."""
        base, head = self.facts
        return (TIME, *sorted(base.energy)) if energy_is_comparable(base, head) else (TIME,)

    @property
    def num_iterations(self) -> int:
        """Of a block, the same on both sides; decided on the base."""
        return self.facts[0].num_iterations(MIN_BLOCK_S if self.figures == (TIME,) else MIN_ENERGY_BLOCK_S)

    @property
    def block_s(self) -> float:
        """About how long a block takes, mean of the sides."""
        return self.num_iterations * sum(each.iteration_s for each in self.facts) / 2

    @property
    def block_timeout_s(self) -> float:
        """After which a block is taken for hung."""
        return block_timeout_s(self.block_s)

    def add(self, name: RoundName, blocks: list[tuple[Side, Block]]) -> None:
        """The blocks of one restart in the order they ran."""
        if blocks:
            timed = tuple(timed_block(side, block) for side, block in blocks)
            self.restarts.setdefault(name, []).append(timed)

    def needs_confirmation(self, min_effect: float) -> bool:
        """Whether a figure leaves something open that a confirming round can settle."""
        return any(
            needs_confirmation(null, first, min_effect=min_effect)
            for figure in self.figures
            if (null := self._round("base against base", figure)) and (first := self._round("first", figure))
        )

    def decisions(self, min_effect: float) -> dict[str, Decision]:
        """Figure → what is said of it, before other workloads are looked at."""
        if self.settled is not None:
            return {COUNTS if self.settled.verdict == "regression" else TIME: self.settled}
        return {figure: self._decided(figure, min_effect) for figure in self.figures}

    def _decided(self, figure: str, min_effect: float) -> Decision:
        if missing := self._why_missing(figure):
            return invalid(f"A block has no {figure}: {missing}.")
        null, first = self._round("base against base", figure), self._round("first", figure)
        if null is None or first is None:
            return inconclusive("There was no time for both rounds that a verdict needs: raise --budget.")
        confirming = (
            self._round("confirming", figure) if needs_confirmation(null, first, min_effect=min_effect) else None
        )
        return decide(null, first, confirming, min_effect=min_effect)

    def _why_missing(self, figure: str) -> str:
        """Why a block lacks the figure; empty where none does."""
        every = (block for restarts in self.restarts.values() for blocks in restarts for block in blocks)
        without = next((block for block in every if block.per_unit(figure) is None), None)
        return "" if without is None else without.problems.get(figure, "the meter gave no reason")

    def _round(self, name: RoundName, figure: str) -> Round | None:
        """The pairs of a round; None where it was not run, or where a block lacks the figure."""
        restarts = self.restarts.get(name, [])
        if not restarts or self._why_missing(figure):
            return None
        pairs = []
        for blocks in restarts:
            values = [value for block in blocks if (value := block.per_unit(figure)) is not None]
            pairs.append(log_ratios([block.side for block in blocks], values))
        return Round(log_ratios=tuple(pairs))

    def outcome(self, decisions: dict[str, Decision]) -> WorkloadOutcome:
        """Everything of it, for the document."""
        is_timed = bool(self.restarts)
        return WorkloadOutcome(
            name=self.workload.name,
            size=self.workload.size,
            resolution=self.workload.resolution,
            unit=self.base.unit if self.base else "",
            num_iterations=self.num_iterations if is_timed else 0,
            base=_side(self.base),
            head=_side(self.head),
            exact_changes=self.changes,
            not_counted=self.not_counted,
            rounds=tuple(RoundOutcome(name=name, restarts=tuple(each)) for name, each in self.restarts.items()),
            decisions=tuple(DecisionOutcome(figure=figure, **vars(each)) for figure, each in decisions.items()),
        )


def inconclusive(reason: str) -> Decision:
    """The verdict where nothing could be decided; the reason is a sentence."""
    return replace(invalid(reason), verdict="inconclusive")


def exact_changes(base: Facts, head: Facts) -> tuple[ExactChange, ...]:
    """The counts that differ, and whether each is a regression."""
    return tuple(
        ExactChange(name=each.name, base=each.base, head=each.head, is_regression=_is_regression(*each))
        for each in exact_differences(base, head)
    )


def decided_by_count(changes: tuple[ExactChange, ...]) -> Decision | None:
    """A regression where a count grew, else nothing."""
    grown = [each for each in changes if each.is_regression]
    said = ", ".join(f"{each.name} +{each.head - each.base}" for each in grown)
    return replace(invalid(f"The head needs more by count: {said}."), verdict="regression") if grown else None


def _is_regression(name: str, base: int, head: int) -> bool:
    slack = 0.0 if name.startswith(NO_SLACK) else COUNT_SLACK
    return head > base * (1 + slack)


def block_timeout_s(block_s: float) -> float:
    """After which a block that should take so long is taken for hung."""
    return max(BLOCK_TIMEOUT_S, _SLOWEST_BLOCK * block_s)


def timed_block(side: Side, block: Block) -> TimedBlock:
    """A block for the document."""
    fields: dict[str, Any] = asdict(block) | {"readings": dict(block.readings), "problems": dict(block.problems)}
    return TimedBlock(side=side, **fields)


def _side(facts: Facts | None) -> SideFacts | None:
    if facts is None:
        return None
    named: dict[str, Any] = {name: getattr(facts, name) for name in SideFacts.model_fields}
    return SideFacts(**named)
