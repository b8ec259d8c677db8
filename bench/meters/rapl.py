"""Energy of the processor packages and of the memory, from the kernel's RAPL counters (powercap `energy_uj`).

The processor counts its own energy in a register that moves about once per millisecond; the kernel shows it in
microjoules. It starts again from 0 after `max_energy_range_uj` (as little as 219 s at 300 W), so it is read every 10 s
where the caller ticks, and a gap of more than 30 s is invalid. It holds everything that runs on the host, not this
process alone. Which zones are added up and which are not: `_rapl_zones.py`.

Source: https://docs.kernel.org/power/powercap/powercap.html; root only since Linux 5.10 (CVE-2020-8694).

Systematic error: 5 %, *assumed*. No single figure holds for every processor. Khan et al. 2018 (doi 10.1145/3177754)
find RAPL close to plug power on Intel since Haswell; Desrochers et al. 2016 (doi 10.1145/2989081.2989088) find memory
off by an offset on desktops, worst at idle; Schöne et al. 2021 (arXiv 2108.00808) describe the limits of AMD Zen 2's;
Fahad et al. 2019 (doi 10.3390/en12112204) find far larger errors of *dynamic* energy. It largely cancels between two
runs on one processor; it does not between processors.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pydantic import JsonValue

from bench.errors import BenchError
from bench.meters._integrators import MAX_RAPL_GAP_S, Figure, WrappingCounter, counter_period_s
from bench.meters._rapl_zones import POWERCAP, Part, Zone, distinct_zones, find_zones, why_unavailable
from bench.meters._spec import EnergySource, Meter, MeterSpec, Readings

_JOULES_PER_UJ = 1e-6
_SYSTEMATIC = 0.05
_TICK_S = MAX_RAPL_GAP_S / 3  # a single step may then last 20 s before the gap is too long
# Ours. The hungriest packages are designed for 500 W; more than four times that is a jump of the counter, not energy.
_MAX_ZONE_POWER_W = 2000.0
# Ours. A counter's smallest step is 61 µJ, so even at 0.1 W it moves within a millisecond.
_FROZEN_PERIODS = 100
_POLL_S = 0.25
_NUM_POLLED_CHANGES = 50


class _ZoneWindow:
    """One counter over one window: its reads, their sum, and the faults that only RAPL can tell."""

    def __init__(self, zone: Zone, period_s: float) -> None:
        self.zone = zone
        self._period_s = period_s
        self._counter = WrappingCounter(zone.max_range_uj)
        self._reads: list[tuple[float, int | None]] = []  # one in ten seconds; None where it failed

    def read(self, now: Callable[[], float]) -> None:
        """One read; a failed one marks the window."""
        time_s = now()
        raw_uj, reason = None, ""
        try:
            raw_uj = self.zone.read_uj()
        except (OSError, ValueError) as error:
            reason = f"it could not be read ({error})"
        if self._reads and raw_uj is not None and self._reads[-1][1] is not None:
            self._check_step(time_s - self._reads[-1][0], self._reads[-1][1], raw_uj)
        self._counter.add(time_s, raw_uj, reason)
        self._reads.append((time_s, raw_uj))

    def _check_step(self, elapsed_s: float, previous_uj: int, raw_uj: int) -> None:
        """A wrap is believed only where it means a possible power: a reset or a jump seldom does."""
        energy_j = (raw_uj - previous_uj) % self.zone.max_range_uj * _JOULES_PER_UJ
        if energy_j > _MAX_ZONE_POWER_W * (elapsed_s + 2 * self._period_s):
            self._counter.fail(
                f"it went from {previous_uj} to {raw_uj} in {elapsed_s:.3f} s, {energy_j:.0f} J: no processor draws "
                "that much, it was reset"
            )
        elif energy_j == 0 and elapsed_s > _FROZEN_PERIODS * self._period_s:
            self._counter.fail(f"it is frozen: it stayed at {raw_uj} for {elapsed_s:.3f} s")

    def energy_uj(self) -> Figure:
        """The window's energy in microjoules, or why there is none."""
        figure = self._counter.result()
        duration_s = self._reads[-1][0] - self._reads[0][0]
        if figure.value is None and len(self._reads) == 2 and duration_s <= self._period_s and self._stands_still():
            reason = (
                f"no update fell into the window ({duration_s:.4f} s, the counter's period is {self._period_s:.4f} s)"
            )
            return Figure(value=None, reason=f"{reason}: measure a longer one")
        return figure

    def _stands_still(self) -> bool:
        return self.edges() is not None and self._reads[0][1] == self._reads[-1][1]

    def edges(self) -> tuple[float, float] | None:
        """Raw microjoules at the two edges; None where an edge could not be read."""
        first_uj, last_uj = self._reads[0][1], self._reads[-1][1]
        return None if first_uj is None or last_uj is None else (float(first_uj), float(last_uj))


class RaplMeter(Meter):
    """Joules of the processor packages and, where the kernel shows them, of the memory.

    Args:
        root: the powercap folder.
        now: monotonic clock, seconds.
        period_s: the counters' update period where it is known; None measures it.

    Raises:
        BenchError: the counters cannot be read.
    """

    def __init__(
        self, root: Path = POWERCAP, *, now: Callable[[], float] = time.perf_counter, period_s: float | None = None
    ) -> None:
        if reason := why_unavailable(root):
            raise BenchError(f"The rapl meter cannot be opened: {reason}.")
        every = find_zones(root)
        self._zones = distinct_zones(every)
        self._mirrors = [zone.counter for zone in every if zone not in self._zones]
        self._parts: list[Part] = sorted({zone.part for zone in self._zones})
        self._now = now
        self._period_s, self._period_note = (period_s, "given") if period_s else _measured_period(self._zones[0])
        self._windows: list[_ZoneWindow] = []
        self._read_s = 0.0

    def start(self) -> None:
        """Read every counter at the first edge."""
        self._windows = [_ZoneWindow(zone, self._period_s) for zone in self._zones]
        self._read_all()

    def tick(self) -> None:
        """Read the counters where ten seconds have passed, so that no wrap is missed."""
        if self._now() - self._read_s >= _TICK_S:
            self._read_all()

    def stop(self) -> Readings:
        """Read them at the second edge → joules per part, or why there are none."""
        self._read_all()
        values, problems = {}, {}
        for part in self._parts:
            figures = {each.zone.counter: each.energy_uj() for each in self._windows if each.zone.part == part}
            reasons = [f"{counter}: {figure.reason}" for counter, figure in figures.items() if figure.value is None]
            if reasons:
                problems[f"{part}_energy_j"] = "; ".join(reasons)
            else:
                values[f"{part}_energy_j"] = _JOULES_PER_UJ * sum(figure.value or 0.0 for figure in figures.values())
        edges = {each.zone.counter: ends for each in self._windows if (ends := each.edges()) is not None}
        return Readings(values=values, edges=edges, problems=problems)

    def _read_all(self) -> None:
        for window in self._windows:
            window.read(self._now)
        self._read_s = self._now()

    def energy_sources(self) -> dict[str, EnergySource]:
        """`cpu_energy_j`, and `dram_energy_j` where this machine has a DRAM zone."""
        return {
            f"{part}_energy_j": EnergySource(
                label="measured:rapl", part=part, period_s=self._period_s, systematic=_SYSTEMATIC
            )
            for part in self._parts
        }

    def facts(self) -> dict[str, JsonValue]:
        """The counters, those shown twice, and how the update period is known."""
        return {
            "max_range_uj": {zone.counter: zone.max_range_uj for zone in self._zones},
            "mirrors_left_out": list(self._mirrors),
            "period_s": self._period_s,
            "period_note": self._period_note,
            "max_gap_s": MAX_RAPL_GAP_S,
        }


def _measured_period(zone: Zone) -> tuple[float, str]:
    """(update period in seconds, how it is known): the counter is polled for a quarter of a second at most.

    One that did not move, or failed, gets the time of the poll: a lower bound, so its error is the larger.
    """
    samples: list[tuple[float, float | None]] = []
    num_changes = 0
    started_s = time.perf_counter()
    while num_changes < _NUM_POLLED_CHANGES and time.perf_counter() - started_s < _POLL_S:
        try:
            raw_uj = zone.read_uj()
        except (OSError, ValueError) as error:
            return _POLL_S, f"unknown: {zone.counter} could not be read while it was polled ({error})"
        num_changes += bool(samples) and raw_uj != samples[-1][1]
        samples.append((time.perf_counter(), raw_uj))
    found = counter_period_s(samples)
    if found.value is None:
        return _POLL_S, f"unknown, at least this: {found.reason}"
    return found.value, f"median of {num_changes - 1} gaps between updates of {zone.counter}"


METER = MeterSpec(
    title="energy of the processor packages and of the memory (RAPL)",
    readings={
        "cpu_energy_j": "joules of all processor packages of this machine (powercap energy_uj)",
        "dram_energy_j": "joules of the memory where the kernel shows a DRAM zone (powercap energy_uj)",
    },
    why_unavailable=lambda _device: why_unavailable(POWERCAP),
    open=lambda _device: RaplMeter(),
)
