"""One sitting of a history: one version, measured alone, in fresh processes again and again.

Why it is apart from `sitting.py`: side by side, two workers take turns in one restart and their pairs are the sample.
Here the restart is the sample (what a start draws stays for all of its blocks), so there are as many as can be had, and
blocks only make each of them certain. Worker, warm-up, length of a block and budget are the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from time import process_time

from bench.errors import UsageError
from bench.gate.checkout import Version
from bench.gate.history_case import ROUNDS, PointCase
from bench.gate.history_point import MIN_RESTARTS, PointPlan
from bench.gate.lane import Block, LaneError
from bench.gate.outcome import RoundName
from bench.gate.sitting import Question, Surroundings, Worker
from bench.units import format_duration

RESTARTS_AND_LEAST_BLOCKS = ((5, 6), (MIN_RESTARTS, 4))
"""What a plan tries, the best first (ours): where starts scatter by 1 %, a median of 5 does by 0.54 %, of 3 by 0.67."""
MAX_BLOCKS = 20
"""Ours. Where blocks scatter by 3 %, the median of 20 does by 0.8 %, and that of 5 such medians by 0.45 %."""
_PLANNED_SHARE = 0.95


def plan_points(budget_s: float, *, block_s: float, start_s: float) -> PointPlan:
    """As many blocks as the budget has room for, over 5 or 3 restarts; the confirming measurement is planned in.

    Args:
        budget_s: for both measurements.
        block_s: seconds of one block of all workloads together.
        start_s: seconds to start the worker once and warm all workloads up.
    """
    for num_restarts, least in RESTARTS_AND_LEAST_BLOCKS:
        room_s = budget_s / (len(ROUNDS) * num_restarts) - start_s
        num_blocks = min(MAX_BLOCKS, math.floor(room_s / block_s))
        if num_blocks >= least:
            duration_s = len(ROUNDS) * num_restarts * (start_s + num_blocks * block_s)
            return PointPlan(
                num_restarts=num_restarts,
                blocks_per_restart=num_blocks,
                block_s=block_s,
                start_s=start_s,
                duration_s=duration_s,
            )
    needed_s = len(ROUNDS) * num_restarts * (start_s + least * block_s)
    reason = (
        f"{budget_s:.0f} s of the budget are left, and {num_restarts} starts with {least} blocks each and confirming "
        f"them need {needed_s:.0f} s"
    )
    return PointPlan(
        num_restarts=0, blocks_per_restart=0, block_s=block_s, start_s=start_s, duration_s=needed_s, reason=reason
    )


class PointSitting:
    """The worker of one point and the time that is left.

    Attributes:
        planned: None where nothing is to be timed.
        timed_s, parent_cpu_s: of the measurements, and what this process itself used of the processor meanwhile.
    """

    def __init__(self, version: Version, question: Question, around: Surroundings, deadline_s: float) -> None:
        self._version = version
        self._question = question
        self._around = around
        self._deadline_s = deadline_s
        self._start_s = 0.0
        self.planned: PointPlan | None = None
        self.timed_s = self.parent_cpu_s = 0.0

    def open(self, cases: Sequence[PointCase]) -> None:
        """Prepare every case once with counts. Raises UsageError: a workload that this version does not know."""
        began_s = self._around.clock()
        with self._lane() as lane:
            lane.wait_until_ready()
            self._start_s = self._around.clock() - began_s
            for case in cases:
                try:
                    case.facts = lane.prepare(case.workload, with_counts=True)
                except LaneError as error:
                    if error.failure == "refused":
                        raise UsageError(str(error)) from error
                    raise
                self._start_s += case.facts.warmup_s

    def plan(self, cases: Sequence[PointCase]) -> PointPlan:
        """Spend 95 % of what is left; says it."""
        left_s = max(1e-9, self._deadline_s - self._around.clock())
        block_s = sum(case.block_s for case in cases)
        plan = self.planned = plan_points(_PLANNED_SHARE * left_s, block_s=block_s, start_s=self._start_s)
        if not plan.reason:
            self._around.say(
                f"Plan: {plan.num_restarts} restarts with {plan.blocks_per_restart} blocks each "
                f"({format_duration(block_s)} a block of all {len(cases)} workloads, "
                f"{format_duration(plan.start_s)} a start), and as many again where something is to be confirmed: "
                f"{format_duration(plan.duration_s)} of {format_duration(self._question.budget_s)} at most."
            )
        return plan

    def measure(self, name: RoundName, cases: Sequence[PointCase]) -> None:
        """All restarts of one measurement, with its share of the time that is left."""
        plan, clock = self.planned, self._around.clock
        if plan is None or plan.reason or not cases:
            return
        began_s, began_cpu_s = clock(), process_time()
        num_left = plan.num_restarts * (len(ROUNDS) - ROUNDS.index(name))
        try:
            for restart in range(plan.num_restarts):
                end_s = clock() + (self._deadline_s - clock()) / (num_left - restart)
                self._restart(name, cases, plan, end_s)
                left = format_duration(max(0.0, self._deadline_s - clock()))
                self._around.progress(
                    f"{name}: restart {restart + 1} of {plan.num_restarts} is done, {left} of the budget are left."
                )
        finally:
            self.timed_s += clock() - began_s
            self.parent_cpu_s += process_time() - began_cpu_s

    def _restart(self, name: RoundName, cases: Sequence[PointCase], plan: PointPlan, end_s: float) -> None:
        clock = self._around.clock
        with self._lane() as lane:
            lane.wait_until_ready()
            for index, case in enumerate(cases):
                until_s = clock() + (end_s - clock()) / (len(cases) - index)
                case.add(name, self._blocks(case, lane, plan, until_s))

    def _blocks(self, case: PointCase, lane: Worker, plan: PointPlan, until_s: float) -> list[Block]:
        """Blocks until that time; those without which a restart says little may take from the time of later ones."""
        lane.prepare(case.workload)
        least = dict(RESTARTS_AND_LEAST_BLOCKS)[plan.num_restarts]
        blocks: list[Block] = []
        while len(blocks) < plan.blocks_per_restart:
            end_s = self._deadline_s if len(blocks) < least else until_s
            if self._around.clock() + case.block_s > end_s:
                break
            blocks.append(lane.block(case.workload, case.num_iterations, timeout_s=case.block_timeout_s))
        return blocks

    def _lane(self) -> AbstractContextManager[Worker]:
        return self._around.new_lane("head", self._version.folder, self._question.setting)
