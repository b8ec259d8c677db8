"""One sitting of the gate: the workers, the time that is left, and the rounds that it is spent on.

Why it is apart from `gate.py`: there stands what happens in which order, here how a round is run within its budget.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, process_time
from typing import Protocol

from bench.errors import UsageError
from bench.gate.case import Case, inconclusive
from bench.gate.checkout import Checkouts
from bench.gate.decide import MIN_EFFECT, Policy, invalid
from bench.gate.facts import Facts
from bench.gate.lane import Block, Lane, LaneError
from bench.gate.outcome import PlanOutcome, RoundName
from bench.gate.pairs import MAX_PAIRS, MIN_PAIRS, NUM_ROUNDS, Plan, Side, block_order, plan_rounds
from bench.gate.question import Setting, Workload
from bench.units import format_duration

_PLANNED_SHARE = 0.95
_FOUR = 4
_ROUNDS: tuple[RoundName, ...] = ("base against base", "first", "confirming")


class Worker(Protocol):
    """What the gate asks of a `Lane` that was entered."""

    def wait_until_ready(self) -> None:
        """Until the version is imported."""

    def prepare(self, workload: Workload, *, with_counts: bool = False) -> Facts:
        """Build, count if asked to, warm up."""

    def block(self, workload: Workload, num_iterations: int, *, timeout_s: float) -> Block:
        """Time one block."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked.

    Attributes:
        workloads: one or more, no two alike.
        budget_s: for everything; `min_effect` 0.03 is 3 %.
        inconclusive: whether that verdict has an exit code of its own, passes or fails.
        setting: how the workers measure; its device is settled.
    """

    workloads: tuple[Workload, ...]
    budget_s: float
    setting: Setting
    min_effect: float = MIN_EFFECT
    inconclusive: Policy = "report"


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What tests replace.

    Attributes:
        new_lane: (side, folder, setting) → a worker that starts when it is entered.
        clock: seconds.
        say: a line for a person, before anything is timed.
        progress: the same between two restarts; nothing where nobody watches.
    """

    new_lane: Callable[[str, Path, Setting], AbstractContextManager[Worker]] = Lane
    clock: Callable[[], float] = monotonic
    say: Callable[[str], None] = lambda _: None
    progress: Callable[[str], None] = lambda _: None


class Sitting:
    """The workers of one gate and the time that is left.

    Attributes:
        planned: for the document; None where nothing is to be timed.
        timed_s, parent_cpu_s: of the rounds, and what this process itself used of the processor meanwhile.
    """

    def __init__(self, both: Checkouts, question: Question, around: Surroundings, deadline_s: float) -> None:
        self._both = both
        self._question = question
        self._around = around
        self._deadline_s = deadline_s
        self._plan: Plan | None = None
        self.planned: PlanOutcome | None = None
        self.timed_s = self.parent_cpu_s = 0.0

    def open(self, cases: Sequence[Case]) -> float:
        """Prepare every case once with counts → seconds that starting both sides and warming them up takes."""
        began_s = self._around.clock()
        with self._lanes(("base", "head")) as lanes:
            start_s = self._around.clock() - began_s
            for case in cases:
                base, head = (_asked(lanes[side], case.workload, with_counts=True) for side in ("base", "head"))
                if isinstance(base, LaneError) and isinstance(head, LaneError):
                    raise UsageError(str(head))
                if isinstance(base, LaneError) or isinstance(head, LaneError):
                    refusal = base if isinstance(base, LaneError) else head
                    case.settled = invalid(f"Only one side knows this workload: {refusal}")
                    continue
                case.learn(base, head)
                if case.settled is None:
                    start_s += base.warmup_s + head.warmup_s
        return start_s

    def plan(self, cases: Sequence[Case], start_s: float) -> None:
        """Spend 95 % of what is left; says it."""
        left_s = max(1e-9, self._deadline_s - self._around.clock())
        block_s = sum(case.block_s for case in cases)
        plan = plan_rounds(_PLANNED_SHARE * left_s, block_s=block_s, start_s=start_s)
        self._plan = plan
        self.planned = PlanOutcome(block_s=block_s, start_s=start_s, **vars(plan))
        if plan.reason:
            for case in cases:
                case.settled = inconclusive(f"Nothing was timed, because {plan.reason}: raise --budget.")
            return
        self._around.say(
            f"Plan: rounds of {plan.num_restarts} restarts with {plan.pairs_per_restart} pairs of blocks each "
            f"({format_duration(block_s)} a block of all {len(cases)} workloads, {format_duration(start_s)} a start); "
            f"base against base, first, and where it is needed a confirming one: {format_duration(plan.duration_s)} "
            f"of {format_duration(self._question.budget_s)} at most."
        )

    def run_rounds(self, cases: Sequence[Case]) -> None:
        """Base against base, first, and a confirming one of the cases that need it, with all the time that is left."""
        began_s, began_cpu_s = self._around.clock(), process_time()
        try:
            self._run_rounds(cases)
        finally:
            self.timed_s, self.parent_cpu_s = self._around.clock() - began_s, process_time() - began_cpu_s

    def _run_rounds(self, cases: Sequence[Case]) -> None:
        plan = self._plan
        if plan is None or plan.reason:
            return
        for index, name in enumerate(_ROUNDS):
            pairs = plan.pairs_per_restart
            if name == "confirming":
                cases = [case for case in cases if case.needs_confirmation(self._question.min_effect)]
                pairs = max(pairs, 2 * (MAX_PAIRS // plan.num_restarts // 2))
            if cases:
                self._round(name, cases, pairs, num_left=plan.num_restarts * (NUM_ROUNDS - index))

    def _round(self, name: RoundName, cases: Sequence[Case], num_pairs: int, num_left: int) -> None:
        """`num_left` restarts, this round's among them, share the time that is left."""
        assert self._plan is not None
        clock = self._around.clock
        for restart in range(self._plan.num_restarts):
            end_s = clock() + (self._deadline_s - clock()) / (num_left - restart)
            sides = ("base", "second base") if name == "base against base" else ("base", "head")
            with self._lanes(sides) as lanes:
                for index, case in enumerate(cases):
                    until_s = clock() + (end_s - clock()) / (len(cases) - index)
                    order = block_order(num_pairs, seed=zlib.crc32(f"{name} {case.workload.name} {restart}".encode()))
                    case.add(name, self._blocks(case, lanes, order, until_s))
            self._around.progress(
                f"{name}: restart {restart + 1} of {self._plan.num_restarts} is done, "
                f"{format_duration(max(0.0, self._deadline_s - clock()))} of the budget are left."
            )

    def _blocks(
        self, case: Case, lanes: dict[Side, Worker], order: Sequence[Side], until_s: float
    ) -> list[tuple[Side, Block]]:
        """Fours of blocks, each as a whole or not at all, until that time.

        Those without which the round decides nothing may take from the time of later restarts.
        """
        assert self._plan is not None
        least_pairs = math.ceil(MIN_PAIRS / self._plan.num_restarts)
        for lane in lanes.values():
            lane.prepare(case.workload)
        blocks: list[tuple[Side, Block]] = []
        num_iterations = case.num_iterations
        for first in range(0, len(order), _FOUR):
            is_owed = first < 2 * least_pairs
            if self._around.clock() + _FOUR * case.block_s > (self._deadline_s if is_owed else until_s):
                break
            for side in order[first : first + _FOUR]:
                block = lanes[side].block(case.workload, num_iterations, timeout_s=case.block_timeout_s)
                blocks.append((side, block))
        return blocks

    def _lanes(self, names: tuple[str, str]) -> _Pair:
        folders = [self._both.head.folder if name == "head" else self._both.base.folder for name in names]
        new_lane, setting = self._around.new_lane, self._question.setting
        return _Pair([new_lane(name, folder, setting) for name, folder in zip(names, folders, strict=True)])


class _Pair:
    """Two workers that load beside each other; `with` gives them as `base` and `head`, both ready."""

    def __init__(self, lanes: Sequence[AbstractContextManager[Worker]]) -> None:
        self._lanes = lanes
        self._stack = ExitStack()

    def __enter__(self) -> dict[Side, Worker]:
        with ExitStack() as stack:
            base, head = (stack.enter_context(lane) for lane in self._lanes)
            for each in (base, head):
                each.wait_until_ready()
            self._stack = stack.pop_all()
        return {"base": base, "head": head}

    def __exit__(self, *stopped: object) -> None:
        self._stack.__exit__(*stopped)  # type: ignore[arg-type]


def _asked(lane: Worker, workload: Workload, *, with_counts: bool) -> Facts | LaneError:
    """Its facts, or why this version refuses; any other failure is raised."""
    try:
        return lane.prepare(workload, with_counts=with_counts)
    except LaneError as error:
        if error.failure != "refused":
            raise
        return error
