"""From counters to joules per image. Read this before trusting an energy.

A window's energy is the difference of two reads of a counter at the window's synchronised edges. Three things make it
wrong, and each is told apart:

* *Repeats.* Windows differ. The interval is the median's exact order-statistic interval over the windows.
* *Quantisation.* The counter moves in ticks; two reads are wrong by up to one tick's energy. The interval is widened on
  both sides by the worst case of the window where that is largest.
* *The sensor.* About ± 5 % of any absolute figure. It is the same in every window, largely cancels between two models
  on one board, and stands in `systematic`, outside the interval.

Idle power is measured before and after the series, the device's context alive; gross is the headline, net is gross less
idle power times time. A window whose reading failed has no energy; where too many have none, the figure is unknown with
the reason, never 0. Sources and thresholds: METHODS.md.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from bench.meters._integrators import counter_error_j
from bench.meters._spec import EnergySource
from bench.phases._context import Context
from bench.phases._presets import Preset
from bench.phases._provenance import kind_of, weakest
from bench.phases._tdp import tdp_estimate
from bench.phases._windows import TimedWork, counted
from bench.records import Quantity, Window, unknown
from bench.stats import quantile_quantity

PARTS = ("gpu", "cpu", "dram")
NO_METER = "no energy meter can be read on this machine (`bench doctor` says why)"
MIN_PUBLISHED_WINDOW_S = 10.0
MIN_PUBLISHED_PERIODS = 100
_LARGEST_INVALID_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class EnergySetup:
    """What can be known of energy in this run.

    Attributes:
        sources: headline reading → how it is known; cross-checks are not in it.
        tdp_w: design power for an estimate, or None.
        num_cpu_cores: processor cores that share `tdp_w`.
    """

    sources: Mapping[str, EnergySource]
    tdp_w: float | None
    num_cpu_cores: int

    @property
    def has_meter(self) -> bool:
        """Whether anything is measured."""
        return bool(self.sources)

    @property
    def scope(self) -> str:
        """Whose energy the total is, for example `gpu + cpu`."""
        parts = [part for part in PARTS if any(source.part == part for source in self.sources.values())]
        return " + ".join(parts) if parts else ("cpu (estimate)" if self.tdp_w else "none")

    @property
    def min_window_s(self) -> float:
        """Shortest window whose joules may be published."""
        periods = [source.period_s for source in self.sources.values()]
        return max(MIN_PUBLISHED_WINDOW_S, MIN_PUBLISHED_PERIODS * max(periods, default=0.0))


def setup_of(context: Context) -> EnergySetup:
    """The headline sources of the meters that read every window, and what an estimate would need."""
    every = {name: source for meter in context.meters.values() for name, source in meter.energy_sources().items()}
    headline = {name: source for name, source in every.items() if not source.is_cross_check}
    return EnergySetup(sources=headline, tdp_w=context.question.spec.tdp_w, num_cpu_cores=context.machine.num_cpu_cores)


def lengthened(preset: Preset, setup: EnergySetup) -> Preset:
    """The preset with windows long enough for joules that may be published, where it asks for such."""
    if not (preset.has_long_windows and setup.has_meter):
        return preset
    return dataclasses.replace(preset, min_window_s=max(preset.min_window_s, setup.min_window_s))


def measure_idle(setup: EnergySetup, context: Context, series: str) -> list[Window]:
    """One window `<series>.idle` in which nothing runs, the device's context alive; none where there is no meter."""
    if not setup.has_meter:
        return []
    idle_s = context.question.preset.idle_s
    idle = TimedWork(
        series=f"{series}.idle",
        work=lambda: time.sleep(idle_s),
        num_units=1,
        device=context.question.device,
        meters=context.meters,
    )
    return [idle.measure(0, num_calls=1)]


def energy_quantities(
    prefix: str, windows: Sequence[Window], series: str, setup: EnergySetup, per: str = "image"
) -> dict[str, Quantity]:
    """`<prefix>_energy_j_per_image` gross and net, each part's own, idle power and mean power.

    Args:
        windows: the phase's, idle windows `<series>.idle` included.
        per: what a window's units are.
    """
    unit, name = f"J/{per}", f"{prefix}_energy_j_per_{per}"
    net_name = f"{prefix}_energy_net_j_per_{per}"
    timed = counted(list(windows), series)
    if not setup.has_meter:
        gross = (
            tdp_estimate(timed, setup.tdp_w, setup.num_cpu_cores, unit) if setup.tdp_w else unavailable(unit, NO_METER)
        )
        net = unavailable(unit, "idle power was not measured: " + NO_METER)
        return {name: gross, net_name: net, f"{prefix}_power_w": unavailable("W", NO_METER)}
    idle = counted(list(windows), f"{series}.idle")
    idle_w = idle_power(idle, setup)
    figures = {
        name: _per_unit(timed, setup.sources, unit),
        net_name: _net(timed, setup.sources, unit, idle_w),
        f"{prefix}_power_w": _power(timed, setup.sources),
        f"{prefix}_idle_power_w": idle_w,
    }
    for part in PARTS:
        own = {reading: source for reading, source in setup.sources.items() if source.part == part}
        if own:
            figures[f"{prefix}_{part}_energy_j_per_{per}"] = _per_unit(timed, own, unit)
    return figures


def energy_protocol(windows: Sequence[Window], series: str, setup: EnergySetup) -> dict[str, JsonValue]:
    """How the energy of that series was measured and whether it may be published."""
    shortest_s = min((window.duration_s for window in counted(list(windows), series)), default=0.0)
    enough = shortest_s >= setup.min_window_s
    reason = "" if enough else f"windows of {shortest_s:.2g} s are shorter than {setup.min_window_s:.3g} s"
    if not setup.has_meter:
        enough, reason = False, NO_METER if setup.tdp_w is None else "an estimate from the design power"
    return {
        "scope": setup.scope,
        "publishable": enough,
        "why_not_publishable": reason,
        "tdp_w": setup.tdp_w,
        "sources": {
            name: {"label": source.label, "period_s": source.period_s, "systematic": source.systematic}
            for name, source in setup.sources.items()
        },
    }


def window_energy(window: Window, sources: Mapping[str, EnergySource]) -> tuple[float, float] | str:
    """(joules, half-width by quantisation) of one window summed over the sources, or why it has none."""
    energy_j = half_width_j = 0.0
    for reading, source in sources.items():
        if reading in window.problems:
            return window.problems[reading]
        if reading not in window.readings:
            return f"the meter gave no {reading}"
        part_j = window.readings[reading]
        energy_j += part_j
        half_width_j += counter_error_j(part_j, window.duration_s, source.period_s)
    return energy_j, half_width_j


def _per_unit(windows: Sequence[Window], sources: Mapping[str, EnergySource], unit: str) -> Quantity:
    """Joules per unit of work: median over the windows, widened by quantisation."""
    return _from_windows(windows, sources, unit, lambda window: 1 / window.num_units)


def _power(windows: Sequence[Window], sources: Mapping[str, EnergySource]) -> Quantity:
    return _from_windows(windows, sources, "W", lambda window: 1 / window.duration_s)


def _from_windows(
    windows: Sequence[Window], sources: Mapping[str, EnergySource], unit: str, scale: Callable[[Window], float]
) -> Quantity:
    """Median over windows of energy × scale(window) with its interval."""
    samples, errors, reasons = [], [], []
    for window in windows:
        found = window_energy(window, sources)
        if isinstance(found, str):
            reasons.append(found)
        else:
            samples.append(found[0] * scale(window))
            errors.append(found[1] * scale(window))
    if not samples or len(reasons) > _LARGEST_INVALID_SHARE * len(windows):
        why = reasons[0] if reasons else "no window was measured"
        return unavailable(unit, f"{len(reasons)} of {len(windows)} windows are invalid: {why}")
    median = quantile_quantity(samples, unit=unit, source=_source(sources))
    return _labelled(median, sources, widen_by=max(errors), note=_note(reasons, len(windows)))


def _labelled(median: Quantity, sources: Mapping[str, EnergySource], *, widen_by: float, note: str) -> Quantity:
    label = weakest([source.label for source in sources.values()])
    assert median.value is not None
    low = median.value if median.low is None else median.low
    high = median.value if median.high is None else median.high
    notes = [each for each in (median.note and f"{median.note}; quantisation only", note) if each]
    return Quantity(
        value=median.value,
        unit=median.unit,
        low=low - widen_by,
        high=high + widen_by,
        n=median.n,
        kind=kind_of(label),
        source=median.source,
        note="; ".join(notes),
        label=label,
        systematic=max(source.systematic for source in sources.values()),
    )


def _net(windows: Sequence[Window], sources: Mapping[str, EnergySource], unit: str, idle_w: Quantity) -> Quantity:
    """Gross less idle power × seconds per unit; idle's interval widens it."""
    gross = _per_unit(windows, sources, unit)
    if gross.value is None:
        return gross
    if idle_w.value is None or idle_w.low is None or idle_w.high is None:
        return unavailable(unit, f"idle power is unknown: {idle_w.note}")
    seconds = quantile_quantity(
        [window.duration_s / window.num_units for window in windows], unit="s", source="perf_counter"
    ).value
    assert seconds is not None
    assert gross.low is not None
    assert gross.high is not None
    return gross.model_copy(
        update={
            "value": gross.value - idle_w.value * seconds,
            "low": gross.low - idle_w.high * seconds,
            "high": gross.high - idle_w.low * seconds,
            "source": f"{gross.source}, less idle power",
        }
    )


def idle_power(idle: Sequence[Window], setup: EnergySetup) -> Quantity:
    """Mean of the idle windows before and after; the interval spans both and their quantisation."""
    found = [(window_energy(window, setup.sources), window.duration_s) for window in idle]
    valid = [(each[0] / duration_s, each[1] / duration_s) for each, duration_s in found if not isinstance(each, str)]
    if not valid:
        reasons = [energy for energy, _ in found if isinstance(energy, str)]
        return unavailable("W", reasons[0] if reasons else "no idle window was measured")
    sources = setup.sources
    label = weakest([source.label for source in sources.values()])
    return Quantity(
        value=sum(power for power, _ in valid) / len(valid),
        unit="W",
        low=min(power - error for power, error in valid),
        high=max(power + error for power, error in valid),
        n=len(valid),
        kind=kind_of(label),
        source=f"{_source(sources)}, mean of idle before and after",
        label=label,
        systematic=max(source.systematic for source in sources.values()),
    )


def unavailable(unit: str, reason: str) -> Quantity:
    """An energy, or a power, that is unknown."""
    return unknown(unit, reason, source="energy meters", label="unavailable")


def _source(sources: Mapping[str, EnergySource]) -> str:
    return "energy counters at synchronised window edges: " + ", ".join(sorted(sources))


def _note(reasons: Sequence[str], num_windows: int) -> str:
    return f"{len(reasons)} of {num_windows} windows invalid and left out: {reasons[0]}" if reasons else ""
