"""From reads of a sensor to energy: counters that only rise, counters that wrap, power samples. Pure arithmetic.

Apart from the meters so that it can be tested against known truth, and mutated, without a device. Everything here
answers with a `Figure`: a number, or the reason why there is none. A fault (failed read, reset, frozen, skipped wrap)
is never patched: one fault, and the whole window has no number.

Source: the thresholds and the list of faults are those of METHODS.md. The quantisation bound is derived beside
`counter_error_j`. Wrap: Documentation/power/powercap/powercap.rst of the Linux kernel, which gives the range of
`energy_uj` in `max_energy_range_uj`.
Deliberate difference: the register behind `energy_uj` wraps one of its own units (at most 61 µJ) after that range; the
kernel does not tell the unit, so each wrap is counted short by that.
"""

from __future__ import annotations

import itertools
import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

MAX_RAPL_GAP_S = 30.0  # a counter of 65.7 kJ wraps in 219 s at 300 W; between reads 30 s apart it wraps once at most
MAX_POWER_GAP_S = 1.0  # ours: the trapezoid over a longer hole would be a guess
_FROZEN_PERIODS = 2.0  # ours: ticks jitter, so one late tick in the middle of a window is not a frozen counter
_FAILED_READ = "the sensor could not be read"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number, or None and the reason why there is none."""

    value: float | None
    reason: str = ""

    def __post_init__(self) -> None:
        assert (self.value is None) == bool(self.reason), "a number, or a reason"


class Integrator(ABC):
    """Reads in the order of time, summed to one figure over the window from the first to the last."""

    def __init__(self) -> None:
        self._first_s: float | None = None
        self._last: tuple[float, float] | None = None  # time, value
        self._total = 0.0
        self._fault = ""

    def add(self, time_s: float, value: float | None, reason: str = _FAILED_READ) -> None:
        """Take one read.

        Args:
            time_s: monotonic seconds.
            value: what was read, in the sensor's unit; None for a read that failed.
            reason: why it failed.
        """
        if value is None:
            self.fail(reason)
            return
        if fault := self._why_impossible(value):
            self.fail(fault)
        if self._last is None:
            self._first_s = time_s
        elif time_s < self._last[0]:
            self.fail(f"the clock went back between two reads, from {self._last[0]:.6f} s to {time_s:.6f} s")
        else:
            self._total += self._step(time_s - self._last[0], self._last[1], value)
        self._last = (time_s, value)

    def fail(self, reason: str) -> None:
        """Mark the window as faulty; the first reason is kept."""
        self._fault = self._fault or reason

    def result(self) -> Figure:
        """The sum over the window, or why there is none."""
        if self._fault:
            return Figure(value=None, reason=self._fault)
        if self._first_s is None or self._last is None or self._last[0] == self._first_s:
            return Figure(value=None, reason="no time passed between the reads of the window")
        if not self._total > 0:
            return Figure(value=None, reason=self._why_zero(self._last[0] - self._first_s))
        return Figure(value=self._total)

    @abstractmethod
    def _step(self, elapsed_s: float, previous: float, value: float) -> float:
        """What one interval adds."""

    @abstractmethod
    def _why_impossible(self, value: float) -> str:
        """Why no working sensor reads this value, or nothing."""

    @abstractmethod
    def _why_zero(self, duration_s: float) -> str:
        """Why a sum of zero over that duration is no number."""


class RisingCounter(Integrator):
    """A counter that only rises and is updated every `period_s` seconds, in the counter's unit."""

    def __init__(self, period_s: float) -> None:
        super().__init__()
        self._period_s = period_s

    def _step(self, elapsed_s: float, previous: float, value: float) -> float:
        if value < previous:
            self.fail(f"the counter went back from {previous:.0f} to {value:.0f}: it was reset inside the window")
        elif value == previous and elapsed_s > _FROZEN_PERIODS * self._period_s:
            self.fail(self._frozen(value, elapsed_s))
        return value - previous

    def _why_impossible(self, value: float) -> str:
        return f"the counter reads {value:.0f}, below zero" if value < 0 else ""

    def _why_zero(self, duration_s: float) -> str:
        if duration_s > self._period_s:
            return self._frozen(self._last[1] if self._last else 0.0, duration_s)
        return (
            f"the window ({duration_s:.3f} s) is shorter than the counter's update period ({self._period_s:.3f} s) and "
            "no update fell into it: measure a longer window"
        )

    def _frozen(self, value: float, duration_s: float) -> str:
        return (
            f"the counter is frozen: it stayed at {value:.0f} for {duration_s:.3f} s, its update period is "
            f"{self._period_s:.3f} s"
        )


class WrappingCounter(Integrator):
    """A counter that starts again from 0 after `max_range`, as RAPL's `energy_uj` does, in the counter's unit.

    A wrap can be told from a reset only while an interval adds less than half the range; more is refused. A reset from
    the upper half of the range looks like a wrap: nothing in the reads tells them apart.
    """

    def __init__(self, max_range: float, max_gap_s: float = MAX_RAPL_GAP_S) -> None:
        super().__init__()
        self._max_range = max_range
        self._max_gap_s = max_gap_s

    def _step(self, elapsed_s: float, previous: float, value: float) -> float:
        if elapsed_s > self._max_gap_s:
            self.fail(
                f"skipped wrap: {elapsed_s:.1f} s passed between two reads, over {self._max_gap_s:.0f} s the counter "
                "may have wrapped unseen"
            )
        advance = value - previous
        if advance < 0:
            advance += self._max_range
        if advance > self._max_range / 2:
            self.fail(
                f"the counter went from {previous:.0f} to {value:.0f} of {self._max_range:.0f}: too far for one wrap, "
                "it was reset"
            )
        return advance

    def _why_impossible(self, value: float) -> str:
        inside = 0 <= value <= self._max_range
        return "" if inside else f"the counter reads {value:.0f}, outside its range of 0 to {self._max_range:.0f}"

    def _why_zero(self, duration_s: float) -> str:
        return f"the counter is frozen: it did not move in {duration_s:.3f} s"


class PowerIntegral(Integrator):
    """Power samples in watts, joined by straight lines (trapezoid rule): joules."""

    def __init__(self, max_gap_s: float = MAX_POWER_GAP_S) -> None:
        super().__init__()
        self._max_gap_s = max_gap_s

    def _step(self, elapsed_s: float, previous: float, value: float) -> float:
        if elapsed_s > self._max_gap_s:
            self.fail(f"no power sample for {elapsed_s:.2f} s (at most {self._max_gap_s:.2f} s may pass between two)")
        return (previous + value) / 2 * elapsed_s

    def _why_impossible(self, value: float) -> str:
        return "" if value > 0 else f"the power sensor reads {value:.1f} W on a working device"

    def _why_zero(self, duration_s: float) -> str:
        return f"the power sensor reads 0 W over {duration_s:.3f} s"


def counter_error_j(energy_j: float, duration_s: float, period_s: float, resolution_j: float = 0.0) -> float:
    """Half-width that surely holds the truth, for two reads of a counter under constant load.

    A read sees the last update, so a window of length T holds k updates of period U, with |k U - T| < U. The counter
    gives E = P k U where the truth is P T, so the error is below P U = E / k. And k > T / U - 1 gives k ≥ floor(T / U);
    a window with E > 0 has k ≥ 1. Each of the two reads is cut to the counter's resolution, so their difference is
    wrong by less than one. Where the load is not constant, the power at the edges counts in place of the mean.

    Args:
        energy_j: difference of the two reads, above zero.
        duration_s: time between them.
        period_s: update period of the counter, not underestimated.
        resolution_j: smallest step of the counter.

    Returns:
        Joules. With a period of 0 (read continuously) only the resolution is left.
    """
    if period_s <= 0:
        return resolution_j
    num_updates = max(1, math.floor(duration_s / period_s))
    return (energy_j + resolution_j) / num_updates + resolution_j


def counter_period_s(samples: Sequence[tuple[float, float | None]]) -> Figure:
    """Update period of a counter from polls of it: the median time between two changes, in seconds.

    Args:
        samples: (monotonic seconds, value or None for a failed read), polled faster than the counter is updated. The
            answer is coarse by one polling interval.
    """
    if any(value is None for _, value in samples):
        return Figure(value=None, reason="a read failed while the counter's update period was being measured")
    values = [value for _, value in samples if value is not None]
    if any(later < earlier for earlier, later in itertools.pairwise(values)):
        return Figure(value=None, reason="the counter went back while its update period was being measured: a reset")
    changes_s = [samples[i][0] for i in range(1, len(samples)) if values[i] != values[i - 1]]
    duration_s = samples[-1][0] - samples[0][0] if samples else 0.0
    if not changes_s:
        return Figure(value=None, reason=f"the counter is frozen: it did not change in {duration_s:.1f} s of polling")
    if len(changes_s) < 2:
        return Figure(value=None, reason=f"the counter changed only once in {duration_s:.1f} s of polling: too slow")
    return Figure(value=statistics.median(b - a for a, b in itertools.pairwise(changes_s)))
