"""How time is measured. Read this before trusting a throughput.

A window chains iterations of the real work and is synchronised only at its edges. Inside, nothing of ours runs: no
progress bar, no log, no garbage collection, no meter. Windows before the warm-up's end are kept and marked; every
window is stored, with what disturbed it.

Edges, in this order: synchronise, start the meters, read the monotonic clock | work | synchronise, read the clock, stop
the meters in the reverse order. Reading the clock before the counters at both edges would make both spans equally long,
but would count the meters' own reads (milliseconds, where a driver is asked) as time of the work. Here the clock's span
lies inside the counters', energy meters innermost. A counter's span is longer by at most the reading `edge_reads_s`,
in which the device idles: 5 ms in a window of 10 s is 0.05 % of the time and less of the energy.

How many windows: a pilot of the preset's fewest decides once (`bench.stats.planned_count`). Whether they stood still is
looked at afterwards (`bench.stats.trend`), and said.
"""

from __future__ import annotations

import gc
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
from pydantic import JsonValue

from bench.meters._spec import Meter, Readings
from bench.phases._presets import Preset
from bench.records import PhaseStatus, Quantity, Window, unknown
from bench.stats import planned_count, quantile_quantity, relative_half_width, trend

MIN_WARMUP_CALLS = 3
# Windows vary, and joules are published only where the shortest is long enough; so the mean aims higher.
_WINDOW_MARGIN = 1.05
_NUM_LENGTH_TRIALS = 3
_NUM_EMPTY_WINDOWS = 21


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
        work = self.work
        outside_in = sorted(self.meters.values(), key=lambda meter: bool(meter.energy_sources()))
        with _no_garbage_collection():
            self._synchronise()
            reads_started = perf_counter()
            for meter in outside_in:
                meter.start()
            started = perf_counter()
            for _ in range(num_calls):
                work()
            self._synchronise()
            ended = perf_counter()
            found = [meter.stop() for meter in reversed(outside_in)]
            reads_ended = perf_counter()
        fields = merged(found)
        fields["readings"]["edge_reads_s"] = (started - reads_started) + (reads_ended - ended)
        return Window(
            series=self.series,
            index=index,
            is_warmup=is_warmup,
            num_units=num_calls * self.num_units,
            duration_s=ended - started,
            **fields,
        )

    def _synchronise(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)


def measure_throughput(timed: TimedWork, preset: Preset) -> list[Window]:
    """Windows of at least `min_window_s`: warm-up first, then as many as the first `num_windows[0]` of them call for.

    The time cap ends the series early, but not before its first window.
    """
    windows = _warm_up(timed, preset)
    num_calls = _calls_per_window(timed, preset, windows)
    fewest, most = preset.num_windows
    series: list[Window] = []
    wanted = fewest
    started = perf_counter()
    while len(series) < wanted:
        series.append(timed.measure(len(windows) + len(series), num_calls=num_calls))
        elapsed_s = perf_counter() - started
        if len(series) == fewest and preset.target_half_width is not None:
            affordable = int(fewest * preset.max_duration_s / elapsed_s)
            rates = [window.num_units / window.duration_s for window in series]
            wanted = planned_count(rates, target_half_width=preset.target_half_width, most=min(most, affordable))
        if elapsed_s > preset.max_duration_s:
            break
    return windows + series


def _calls_per_window(timed: TimedWork, preset: Preset, windows: list[Window]) -> int:
    """Calls that fill a window; tried, because chained calls are faster than single ones. Trials join the warm-up."""
    aim_s = _WINDOW_MARGIN * preset.min_window_s
    num_calls = max(1, math.ceil(aim_s / min(window.duration_s for window in windows)))
    for _ in range(_NUM_LENGTH_TRIALS):
        if num_calls == 1:
            break
        windows.append(timed.measure(len(windows), num_calls=num_calls, is_warmup=True))
        if windows[-1].duration_s >= aim_s:
            break
        num_calls = math.ceil(num_calls * aim_s / windows[-1].duration_s)
    return num_calls


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
        _rates(windows, series),
        unit="image/s",
        source="perf_counter over synchronised windows, median, exact order-statistic interval",
    )


def _rates(windows: list[Window], series: str) -> list[float]:
    return [window.num_units / window.duration_s for window in counted(windows, series)]


def counted(windows: list[Window], series: str) -> list[Window]:
    """The windows of a series that are not warm-up."""
    return [window for window in windows if window.series == series and not window.is_warmup]


def is_settled(quantity: Quantity, preset: Preset) -> bool:
    """Whether the interval is as narrow as the preset asks; always true where it asks nothing."""
    if preset.target_half_width is None:
        return True
    half_width = relative_half_width(quantity)
    return half_width is not None and half_width <= preset.target_half_width


def merged(readings: list[Readings]) -> dict[str, Any]:
    """What several meters said of one window, as the fields of a Window."""
    return {
        "readings": {name: value for each in readings for name, value in each.values.items()},
        "edges": {name: ends for each in readings for name, ends in each.edges.items()},
        "problems": {name: reason for each in readings for name, reason in each.problems.items()},
        "flags": tuple(flag for each in readings for flag in each.flags),
    }


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


def window_protocol(windows: list[Window], preset: Preset, device: str) -> dict[str, JsonValue]:
    """How the windows of a phase were taken, and what was seen of each series."""
    fewest, most = preset.num_windows
    fixed = f"{fewest} windows"
    planned = f"the first {fewest} windows decide how many, at most {most}"
    empty_s = empty_window_s(device)
    return {
        "warmup_s": preset.warmup_s,
        "min_window_s": preset.min_window_s,
        "target_half_width": preset.target_half_width,
        "stop_rule": fixed if preset.target_half_width is None else planned,
        "num_warmup_windows": sum(window.is_warmup for window in windows),
        "num_windows": sum(not window.is_warmup for window in windows),
        "garbage_collection": "off inside windows",
        "series": {name: _observed(windows, name, empty_s) for name in {window.series: None for window in windows}},
    }


def _observed(windows: list[Window], series: str, empty_s: float) -> dict[str, JsonValue]:
    found = counted(windows, series)
    window_s = median(window.duration_s for window in found)
    return {
        "num_windows": len(found),
        "median_window_s": window_s,
        "timer_overhead_share": empty_s / window_s,
        "stationarity": {**asdict(trend(_rates(windows, series))), "finding": drift(windows, series)},
        "disturbances": disturbances(found),
    }


def empty_window_s(device: str) -> float:
    """What the clock, the loop and synchronising an idle device take of a window: the median of empty windows."""
    empty = TimedWork(series="empty", work=lambda: None, num_units=1, device=device, meters={})
    return median(empty.measure(index, num_calls=1).duration_s for index in range(_NUM_EMPTY_WINDOWS))


def drift(windows: list[Window], series: str) -> str:
    """`x is not stationary: the second half is 4 % slower`, or nothing where it stood still."""
    found = trend(_rates(windows, series))
    if found.is_stationary is not False or found.change is None:
        return ""
    direction = "slower" if found.change < 0 else "faster"
    return f"{series} is not stationary: the second half is {100 * abs(found.change):.0f} % {direction}"


def disturbances(windows: Sequence[Window]) -> dict[str, JsonValue]:
    """How many windows something disturbed, what it was, and the machine's load before the first and after the last."""
    counts = Counter(flag for window in windows for flag in set(window.flags))
    num_disturbed = sum(bool(window.flags) for window in windows)
    causes = "; ".join(f"{flag} ({count})" for flag, count in counts.most_common())
    loads = [window.edges["load_average_tasks"] for window in windows if "load_average_tasks" in window.edges]
    return {
        "num_disturbed": num_disturbed,
        "by": dict(counts.most_common()),
        "load_average_tasks": [loads[0][0], loads[-1][1]] if loads else None,
        "finding": f"{num_disturbed} of {len(windows)} windows were disturbed: {causes}" if num_disturbed else "",
    }


def verdict(figures: dict[str, Quantity], preset: Preset, findings: Sequence[str] = ()) -> tuple[PhaseStatus, str]:
    """The phase's status and reason.

    Args:
        figures: those whose interval must be as narrow as the preset asks.
        findings: what else is wrong with them (`drift`); empty ones do not count.

    Returns:
        `inconclusive` where an interval is too wide or there is a finding; with a preset that asks for no width the
        phase is `ok`, and the findings are said all the same.
    """
    said = [finding for finding in findings if finding]
    wide = [name for name, figure in figures.items() if not is_settled(figure, preset)]
    if wide:
        target = f"{preset.target_half_width or 0:.0%}"
        said.insert(0, f"{', '.join(wide)}: the 95 % interval is still wider than ± {target} at the cap")
    is_ok = preset.target_half_width is None or not said
    return "ok" if is_ok else "inconclusive", "; ".join(said)
