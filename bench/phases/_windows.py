"""How time is measured. Read this before trusting a throughput.

A window chains iterations of the real work and is synchronised only at its edges: synchronise, start the meters, read
the monotonic clock; at the end synchronise, read the clock, stop the meters. Inside, nothing of ours runs: no progress
bar, no log, no garbage collection. Windows before the warm-up's end are kept and marked; every window is stored.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import torch
from pydantic import JsonValue

from bench.meters._spec import Meter
from bench.phases._context import Preset
from bench.records import PhaseStatus, Quantity, Window, unknown
from bench.stats import quantile_quantity, relative_half_width

MIN_WARMUP_CALLS = 3


@dataclass(frozen=True, kw_only=True)
class TimedWork:
    """One thing to be timed: `work()` handles `num_units` images on `device` while `meters` are read around it."""

    series: str
    work: Callable[[], object]
    num_units: int
    device: str
    meters: dict[str, Meter]

    def measure(self, index: int, *, num_calls: int, is_warmup: bool = False) -> Window:
        """One window of that many calls."""
        with _no_garbage_collection():
            self._synchronise()
            for meter in self.meters.values():
                meter.start()
            started = perf_counter()
            for _ in range(num_calls):
                self.work()
            self._synchronise()
            duration_s = perf_counter() - started
            readings: dict[str, float] = {}
            for meter in self.meters.values():
                readings |= meter.stop()
        return Window(
            series=self.series,
            index=index,
            is_warmup=is_warmup,
            num_units=num_calls * self.num_units,
            duration_s=duration_s,
            readings=readings,
        )

    def _synchronise(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)


def measure_throughput(timed: TimedWork, preset: Preset) -> list[Window]:
    """Windows of at least `min_window_s`: warm-up first, then until the preset's stop rule."""
    windows = _warm_up(timed, preset)
    fastest_call_s = min(window.duration_s for window in windows)
    num_calls = max(1, math.ceil(preset.min_window_s / fastest_call_s))
    fewest, most = preset.num_windows
    started = perf_counter()
    for count in range(1, most + 1):
        windows.append(timed.measure(len(windows), num_calls=num_calls))
        has_enough = count >= fewest and preset.target_half_width is not None
        if has_enough and is_settled(rate(windows, timed.series), preset):
            break
        if perf_counter() - started > preset.max_duration_s:
            break
    return windows


def measure_latency(timed: TimedWork, preset: Preset) -> list[Window]:
    """One call per window, synchronised each time: what a user waits for one image."""
    windows = _warm_up(timed, preset)
    started = perf_counter()
    for _ in range(preset.num_latency_samples):
        windows.append(timed.measure(len(windows), num_calls=1))
        if perf_counter() - started > preset.max_duration_s:
            break
    return windows


def _warm_up(timed: TimedWork, preset: Preset) -> list[Window]:
    """Single calls until the preset's time has passed and there were MIN_WARMUP_CALLS; all kept, marked as warm-up."""
    windows: list[Window] = []
    started = perf_counter()
    while len(windows) < MIN_WARMUP_CALLS or perf_counter() - started < preset.warmup_s:
        windows.append(timed.measure(len(windows), num_calls=1, is_warmup=True))
    return windows


def rate(windows: list[Window], series: str) -> Quantity:
    """Median images per second over the windows that count."""
    return quantile_quantity(
        [window.num_units / window.duration_s for window in counted(windows, series)],
        unit="image/s",
        source="perf_counter over synchronised windows, median, exact order-statistic interval",
    )


def counted(windows: list[Window], series: str) -> list[Window]:
    """The windows of a series that are not warm-up."""
    return [window for window in windows if window.series == series and not window.is_warmup]


def is_settled(quantity: Quantity, preset: Preset) -> bool:
    """Whether the interval is as narrow as the preset asks; always true where it asks nothing."""
    if preset.target_half_width is None:
        return True
    half_width = relative_half_width(quantity)
    return half_width is not None and half_width <= preset.target_half_width


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def peak_memory(windows: list[Window]) -> Quantity:
    """The highest peak over every window, the warm-up included: workspace searches happen there."""
    source = "memory meter: GPU allocator's high-water mark, or resident set of the whole process on a CPU"
    peaks = [window.readings["peak_memory_bytes"] for window in windows if "peak_memory_bytes" in window.readings]
    if not peaks:
        return unknown("B", "no memory meter on this machine (`bench doctor` says why)", source=source)
    note = "the highest of all windows, so without an interval"
    return Quantity(value=max(peaks), unit="B", n=len(peaks), kind="measured", source=source, note=note)


def window_protocol(windows: list[Window], preset: Preset) -> dict[str, JsonValue]:
    """How the windows of a phase were taken."""
    return {
        "warmup_s": preset.warmup_s,
        "min_window_s": preset.min_window_s,
        "target_half_width": preset.target_half_width,
        "num_warmup_windows": sum(window.is_warmup for window in windows),
        "num_windows": sum(not window.is_warmup for window in windows),
        "garbage_collection": "off inside windows",
    }


def verdict(figures: dict[str, Quantity], preset: Preset) -> tuple[PhaseStatus, str]:
    """`inconclusive`, naming the figures, where an interval stayed wider than the preset asks."""
    wide = [name for name, figure in figures.items() if not is_settled(figure, preset)]
    if not wide:
        return "ok", ""
    target = f"{preset.target_half_width or 0:.0%}"
    return "inconclusive", f"{', '.join(wide)}: the 95 % interval is still wider than ± {target} at the time cap"
