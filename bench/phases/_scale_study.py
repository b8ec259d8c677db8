"""One study of `bench scale`: size by size, all operators in rounds, until memory, time or the sizes end.

How it is timed, what bounds memory and how a budget is spent: `_scale`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import psutil
import torch

from bench.meters._spec import Meter
from bench.phases._energy import EnergySetup, energy_quantities
from bench.phases._scale_record import CurveEnd, EndReason, ScalePoint, Study
from bench.phases._scale_subjects import Costs, ScaleRequest, Subject, costs_of, sizes, work_of
from bench.phases._windows import TimedWork, counted
from bench.records import Machine, Window
from bench.stats import quantile_quantity
from bench.units import format_bytes, format_duration

NUM_ROUNDS = (12, 9, 6)  # medians of these many have exact intervals of 96.1, 96.1 and 96.9 %
FREE_MEMORY_SHARE = 0.5
_MIN_WINDOW_S = 0.02
_MIN_METERED_WINDOW_S = 0.2
_PERIODS_PER_WINDOW = 20  # of the slowest energy counter: ± 5 % of a window's joules
_SIZE_SHARE = 1 / 2  # of a study's time left: what the fewest rounds of one size may take
_COMFORT_SHARE = 1 / 8  # likewise: what more rounds and windows long enough for an energy counter may take
_FEWEST_PASSES = NUM_ROUNDS[-1] + 1  # with the warm-up
_LONG_PASS_S = 1.0
_SURPRISE = 1.5  # a pass may be this much slower than the size before let expect
_SEED = 0


class Clock:
    """A budget that runs from when it is made."""

    def __init__(self, budget_s: float) -> None:
        self._until = perf_counter() + budget_s

    @property
    def left_s(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self._until - perf_counter())


def energy_setup(meters: Mapping[str, Meter], machine: Machine) -> EnergySetup:
    """The headline energies that these meters read; no estimate from a design power."""
    every = {name: source for meter in meters.values() for name, source in meter.energy_sources().items()}
    headline = {name: source for name, source in every.items() if not source.is_cross_check}
    return EnergySetup(sources=headline, tdp_w=None, num_cpu_cores=machine.num_cpu_cores)


def wanted_window_s(setup: EnergySetup) -> float:
    """Length of a window if time allows: longer where an energy counter has to tick in it."""
    if not setup.has_meter:
        return _MIN_WINDOW_S
    return max(_MIN_METERED_WINDOW_S, _PERIODS_PER_WINDOW * max(each.period_s for each in setup.sources.values()))


def free_bytes(device: str, machine: Machine) -> int:
    """Memory a pass may hope for: free on the GPU; on a CPU available, and inside the container's limit."""
    if device != "cpu":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    available = int(psutil.virtual_memory().available)
    limit = machine.container_memory_limit_bytes
    return available if limit is None else min(available, max(0, limit - int(psutil.Process().memory_info().rss)))


@dataclass(kw_only=True)
class _Ready:
    """A subject that is in memory and warm."""

    subject: Subject
    costs: Costs
    timed: TimedWork
    windows: list[Window] = field(default_factory=list)

    @property
    def pass_s(self) -> float:
        """Seconds of the last pass of the warm-up."""
        return self.windows[-1].duration_s


class StudyRun:
    """Measures one study; what it found is in `points` and `ends`.

    Args:
        meters: read around every window.
        clock: the study's budget.
    """

    def __init__(
        self, request: ScaleRequest, study: Study, *, machine: Machine, meters: dict[str, Meter], clock: Clock
    ) -> None:
        self.points: list[ScalePoint] = []
        self.ends: list[CurveEnd] = []
        self._request, self._study, self._machine, self._meters, self._clock = request, study, machine, meters, clock
        self._setup = energy_setup(meters, machine)
        self._last: dict[str, tuple[Costs, float]] = {}  # operator → counts and seconds of a pass at its last size

    def measure(self, say: Callable[[str], None]) -> None:
        """All sizes, smallest first; torch's random state is afterwards as it was."""
        with _seeded(self._request.device):
            for subjects in sizes(self._study, self._request):
                going_on = [subject for subject in subjects if not self._has_ended(subject.operator)]
                if not going_on:
                    break
                self._measure_size(going_on, say)
        for operator in self._request.operators:
            if not self._has_ended(operator):
                limit = self._request.max_tokens
                self._end(operator, None, *(("all sizes", "") if limit is None else ("max-tokens", f"{limit} at most")))
        for end in self.ends:
            if end.reason in {"memory", "time"}:
                say(f"{self._study}, {end.operator}: ends before {_size(end.num_tokens, end.resolution)}, {end.detail}")

    def _measure_size(self, subjects: Sequence[Subject], say: Callable[[str], None]) -> None:
        left_s = self._clock.left_s
        ready = self._prepared(subjects, left_s * _SIZE_SHARE)
        if not ready:
            return
        comfort_s = left_s * _COMFORT_SHARE
        affordable_s = comfort_s / (NUM_ROUNDS[-1] * len(ready))
        least_s = max(_MIN_WINDOW_S, min(wanted_window_s(self._setup), affordable_s))
        num_calls = [max(1, math.ceil(least_s / each.pass_s)) for each in ready]
        round_s = sum(calls * each.pass_s for calls, each in zip(num_calls, ready, strict=True))
        num_rounds = next((rounds for rounds in NUM_ROUNDS if rounds * round_s <= comfort_s), NUM_ROUNDS[-1])
        for index in range(num_rounds):
            for turn in range(len(ready)):
                which = (index + turn) % len(ready)
                each = ready[which]
                each.windows.append(each.timed.measure(index, num_calls=num_calls[which]))
        self.points += map(self._point, ready)
        found_s = {each.subject.operator: _median_pass_s(each, self._request.batch_size) for each in ready}
        self._last |= {each.subject.operator: (each.costs, found_s[each.subject.operator]) for each in ready}
        first = ready[0].subject
        times = ", ".join(f"{operator} {1000 * pass_s:.4g} ms" for operator, pass_s in found_s.items())
        say(f"{self._study}, {_size(first.num_tokens, first.resolution)}: {times} ({num_rounds} rounds)")

    def _prepared(self, subjects: Sequence[Subject], slice_s: float) -> list[_Ready]:
        """Those that memory and time allow, in memory and warm, the quickest first; the others' curves end."""
        costs = {subject.operator: costs_of(subject) for subject in subjects}
        expected_s = {operator: self._expected_pass_s(operator, each) for operator, each in costs.items()}
        ready: list[_Ready] = []
        spent_s, held_bytes = 0.0, 0
        for subject in sorted(subjects, key=lambda each: expected_s[each.operator]):
            operator, left_s = subject.operator, slice_s - spent_s
            if self._lacks_memory(subject, costs[operator], held_bytes):
                continue
            if self._lacks_time(subject, expected_s[operator], left_s):
                continue
            found = self._warm(subject, costs[operator], left_s)
            if found is not None:
                ready.append(found)
                held_bytes += found.costs.held_bytes
                spent_s += _FEWEST_PASSES * found.pass_s
        return sorted(ready, key=lambda each: self._request.operators.index(each.subject.operator))

    def _lacks_memory(self, subject: Subject, costs: Costs, held_bytes: int) -> bool:
        """Whether the curve ends because a pass, beside what the other operators hold, would not fit."""
        may_bytes = int(FREE_MEMORY_SHARE * (free_bytes(self._request.device, self._machine) + held_bytes))
        need_bytes = held_bytes + costs.peak_memory_bytes
        if need_bytes > may_bytes:
            detail = f"a pass would hold {format_bytes(need_bytes)} of the {format_bytes(may_bytes)} it may"
            self._end(subject.operator, subject, "memory", detail)
        return need_bytes > may_bytes

    def _lacks_time(self, subject: Subject, pass_s: float, left_s: float) -> bool:
        """Whether the curve ends because the fewest passes would take longer than what is left of this size."""
        needed_s = _FEWEST_PASSES * pass_s
        if needed_s > left_s:
            left = _span(max(0.0, left_s))
            detail = f"{_FEWEST_PASSES} passes would take about {_span(needed_s)}, and {left} are left for them"
            self._end(subject.operator, subject, "time", detail)
        return needed_s > left_s

    def _warm(self, subject: Subject, costs: Costs, left_s: float) -> _Ready | None:
        """In memory and called until warm; None where the first call shows that the curve ends here."""
        try:
            with torch.device(self._request.device):
                work = work_of(subject)
            timed = TimedWork(
                series=subject.series,
                work=work,
                num_units=self._request.batch_size,
                device=self._request.device,
                meters=self._meters,
            )
            ready = _Ready(subject=subject, costs=costs, timed=timed)
            ready.windows.append(timed.measure(0, num_calls=1, is_warmup=True))
            if ready.pass_s < _LONG_PASS_S:  # a long one is not worth a second call: what is slow at first is short
                ready.windows.append(timed.measure(1, num_calls=1, is_warmup=True))
        except torch.OutOfMemoryError as error:
            self._end(subject.operator, subject, "memory", f"the device ran out: {str(error).splitlines()[0]}")
            return None
        return None if self._lacks_time(subject, ready.pass_s / _SURPRISE, left_s) else ready

    def _expected_pass_s(self, operator: str, costs: Costs) -> float:
        """From the size before; 0 where there was none."""
        if operator not in self._last:
            return 0.0
        before, pass_s = self._last[operator]
        return pass_s * max(costs.macs / before.macs, costs.num_bytes_as_run / before.num_bytes_as_run)

    def _point(self, ready: _Ready) -> ScalePoint:
        subject, costs = ready.subject, ready.costs
        energies = energy_quantities("scale", ready.windows, subject.series, self._setup)
        return ScalePoint(
            study=self._study,
            operator=subject.operator,
            num_tokens=subject.num_tokens,
            resolution=subject.resolution,
            num_params=costs.num_params,
            macs=costs.macs,
            num_bytes=costs.num_bytes,
            num_bytes_as_run=costs.num_bytes_as_run,
            peak_memory_bytes=costs.peak_memory_bytes,
            energy_j_per_image=energies["scale_energy_j_per_image"],
            windows=tuple(ready.windows),
        )

    def _has_ended(self, operator: str) -> bool:
        return any(end.operator == operator for end in self.ends)

    def _end(self, operator: str, subject: Subject | None, reason: EndReason, detail: str) -> None:
        self.ends.append(
            CurveEnd(
                study=self._study,
                operator=operator,
                reason=reason,
                num_tokens=None if subject is None else subject.num_tokens,
                resolution=None if subject is None else subject.resolution,
                detail=detail,
            )
        )


@contextmanager
def _seeded(device: str) -> Iterator[None]:
    with torch.random.fork_rng(devices=[] if device == "cpu" else [device]):
        torch.manual_seed(_SEED)
        yield


def _median_pass_s(ready: _Ready, batch_size: int) -> float:
    passes = [
        window.duration_s * batch_size / window.num_units for window in counted(ready.windows, ready.subject.series)
    ]
    return quantile_quantity(passes, unit="s", source="windows").value or 0.0


def _size(num_tokens: int | None, resolution: int | None) -> str:
    return f"{num_tokens} tokens" if resolution is None else f"{num_tokens} tokens at {resolution} px"


def _span(duration_s: float) -> str:
    """Short spans with two digits: whether 0.21 s or 0.24 s were left decides."""
    return f"{duration_s:.2g} s" if duration_s < 10 else format_duration(duration_s)
