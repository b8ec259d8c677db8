"""A look at a GPU's energy counter before the first window: how often is it updated, and does the power sensor agree?

The update period is 20 to 500 ms, depending on board and driver, and it is the error of every window; so it is
measured, under whatever load there is. The same seconds show a counter that does not move, and one that contradicts the
power sensor. Thresholds are ours. The mean power reading is not compared: it would still show what came before.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pynvml

from bench.meters._integrators import Figure, PowerIntegral, RisingCounter, counter_period_s
from bench.meters._nvml_power import MILLI, energy_mj, power_kind, power_w, said

MAX_POLL_S = 3.0
POWER_INTERVALS_S = (0.01, 0.03)  # drawn evenly between the two
_MIN_POLL_S, _ENOUGH_CHANGES = 1.0, 20
_POLL_INTERVAL_S = 1e-3  # a twentieth of the fastest counter's period
_FAULTY_DISAGREEMENT, _NOTED_DISAGREEMENT = 0.15, 0.05

Polls = list[tuple[float, float | None]]  # seconds, value or None where the read failed


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Monotonic seconds and how to wait; a test puts a virtual one here."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What the look found.

    Attributes:
        period_s: update period of the counter, or why it has none.
        interval_s: mean time between two polls.
        counter_w: mean power by the counter, between the first change and the last.
        sensor_w: mean power by the instant reading over the polls; unknown where the board has none.
    """

    period_s: Figure
    interval_s: float
    counter_w: Figure
    sensor_w: Figure

    @property
    def disagreement(self) -> float | None:
        """Counter against power sensor: relative difference, None where they could not be compared."""
        if self.counter_w.value is None or self.sensor_w.value is None:
            return None
        return self.counter_w.value / self.sensor_w.value - 1

    def fault(self) -> str:
        """Why no window of this counter can be trusted, or nothing."""
        if self.period_s.reason:
            return self.period_s.reason
        return self._disagreement_text() if abs(self.disagreement or 0) > _FAULTY_DISAGREEMENT else ""

    def flags(self) -> tuple[str, ...]:
        """A doubt that every window carries."""
        is_noted = _NOTED_DISAGREEMENT < abs(self.disagreement or 0) <= _FAULTY_DISAGREEMENT
        return (self._disagreement_text(),) if is_noted else ()

    def _disagreement_text(self) -> str:
        return (
            f"the energy counter and the power sensor disagreed by {self.disagreement:+.1%} before the first window "
            f"({self.counter_w.value:.1f} W against {self.sensor_w.value:.1f} W)"
        )


def look(handle: Any, clock: Clock) -> Opening:
    """Poll counter and power sensor side by side for 1 to 3 s, until enough updates were seen."""
    has_sensor = power_kind(handle) == "instant"
    jitter = random.Random(0)  # its own, so that the run's seeds stay untouched
    counter: Polls = []
    power: Polls = []
    num_changes, failure = 0, ""
    started_s = next_power_s = clock.now()
    while not _is_enough(clock.now() - started_s, num_changes):
        try:
            counter.append((clock.now(), energy_mj(handle)))
            if has_sensor and counter[-1][0] >= next_power_s:
                power.append((clock.now(), power_w(handle, "instant")))
                next_power_s = power[-1][0] + jitter.uniform(*POWER_INTERVALS_S)
        except pynvml.NVMLError as error:
            failure = f"a read failed while the counter's update period was measured: {said(error)}"
            break
        num_changes += len(counter) > 1 and counter[-1][1] != counter[-2][1]
        clock.sleep(_POLL_INTERVAL_S)
    period_s = Figure(value=None, reason=failure) if failure else counter_period_s(counter)
    return Opening(
        period_s=period_s,
        interval_s=(clock.now() - started_s) / max(1, len(counter)),
        counter_w=_counter_w(counter, period_s),
        sensor_w=_sensor_w(power)
        if has_sensor
        else Figure(value=None, reason="the board has no instant power reading"),
    )


def _is_enough(elapsed_s: float, num_changes: int) -> bool:
    return elapsed_s >= MAX_POLL_S or (elapsed_s >= _MIN_POLL_S and num_changes >= _ENOUGH_CHANGES)


def _counter_w(polls: Polls, period_s: Figure) -> Figure:
    """From the first change to the last, a whole number of updates."""
    if period_s.value is None:
        return Figure(value=None, reason=period_s.reason)
    changes = [polls[i] for i in range(1, len(polls)) if polls[i][1] != polls[i - 1][1]]
    total = RisingCounter(period_s.value)
    for time_s, value_mj in (changes[0], changes[-1]):
        total.add(time_s, value_mj)
    energy = total.result()
    return energy if energy.value is None else Figure(value=energy.value * MILLI / (changes[-1][0] - changes[0][0]))


def _sensor_w(polls: Polls) -> Figure:
    total = PowerIntegral()
    for time_s, sampled_w in polls:
        total.add(time_s, sampled_w)
    energy_j = total.result()
    return energy_j if energy_j.value is None else Figure(value=energy_j.value / (polls[-1][0] - polls[0][0]))
