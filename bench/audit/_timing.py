"""Rules on time: were the windows long, many and warm, and do the stored figures follow from them?

Thresholds: windows of 0.2 s, timer overhead of 0.1 %, half-widths of 1 % for time and 2 % for energy, p99 from 300
samples are METHODS.md's; the others are ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from bench.audit._evidence import (
    LATENCY,
    THROUGHPUT,
    Evidence,
    Hit,
    Level,
    Rule,
    cannot_check,
    fact,
    listed,
    number,
)
from bench.stats import relative_half_width, trend

MIN_WINDOW_S = 0.2
MAX_OVERHEAD_SHARE = 0.001
MAX_OVERHEAD_SHARE_OF_ONE_CALL = 0.01  # ours: synchronising an idle GPU takes 10 to 20 µs
GRAVE_OVERHEAD = 10  # times as much is an error (ours)
FEWEST_FOR_INTERVAL = 6
FEWEST_WINDOWS = 12
MIN_WARMUP_SHARE = 0.5  # ours: meters' own reads between short calls are part of the warm-up's time, not of its windows
LARGEST_LOOP_OVER_STEP = 1.2  # ours
SMALLEST_LOOP_OVER_STEP = 0.5  # ours
MAX_FIGURE_ERROR = 1e-6
# Largest half-width of the interval as a share of the value, by figure; latency's is ours.
WIDEST = {
    "generate_images_per_s": 0.01,
    "train_images_per_s": 0.01,
    "generate_latency_ms_p50": 0.05,
    "generate_energy_j_per_image": 0.02,
    "train_step_energy_j_per_image": 0.02,
}
_SERIES = (*THROUGHPUT, LATENCY)


def _window_length(evidence: Evidence) -> Iterator[Hit]:
    for phase, series, _ in THROUGHPUT:
        result = evidence.measured(phase)
        if result is None:
            continue
        lengths = evidence.lengths_s(phase, series)
        if lengths is None:
            yield cannot_check(f"neither windows nor protocol of {phase} say how long a window lasts")
            continue
        asked_s = max(MIN_WINDOW_S, number(result.protocol, "min_window_s") or 0.0)
        if lengths[1] < asked_s:
            detail = f"A window of {series} lasts {lengths[1]:.3g} s in the median, below the {asked_s:g} s asked for."
            yield Hit(level="warning", detail=detail)


def _timer_overhead(evidence: Evidence) -> Iterator[Hit]:
    unknown: list[str] = []
    for phase, series, _ in _SERIES:
        if evidence.measured(phase) is None:
            continue
        most = MAX_OVERHEAD_SHARE_OF_ONE_CALL if series == LATENCY[1] else MAX_OVERHEAD_SHARE
        share = evidence.observed(phase, series, "timer_overhead_share")
        if not isinstance(share, float):
            unknown.append(series)
        elif share > most:
            level: Level = "error" if share > GRAVE_OVERHEAD * most else "warning"
            yield Hit(level=level, detail=f"The timer takes {share:.2%} of a window of {series}.")
    if unknown:
        yield cannot_check(f"the protocol does not say what the timer takes of {listed(unknown)}")


def _num_windows(evidence: Evidence) -> Iterator[Hit]:
    for phase, series, figure in THROUGHPUT:
        quantity = evidence.record.quantity(figure)
        if evidence.measured(phase) is None or quantity is None or quantity.value is None:
            continue
        raw = evidence.counted(phase, series)
        count = quantity.n if raw is None else len(raw)
        if count is None:
            yield cannot_check(f"{figure} does not say how many windows are behind it")
        elif count < FEWEST_WINDOWS:
            few = "too few for a 95 % interval" if count < FEWEST_FOR_INTERVAL else f"fewer than {FEWEST_WINDOWS}"
            level: Level = "error" if count < FEWEST_FOR_INTERVAL else "warning"
            yield Hit(level=level, detail=f"{figure} rests on {count} windows, {few}.")


def _interval_width(evidence: Evidence) -> Iterator[Hit]:
    for figure, widest in WIDEST.items():
        quantity = evidence.record.quantity(figure)
        if quantity is None or quantity.value is None or quantity.kind not in ("measured", "computed"):
            continue
        half_width = relative_half_width(quantity)
        if half_width is None:
            yield Hit(level="warning", detail=f"{figure} has no interval, so nobody can tell it from another run's.")
        elif half_width > widest:
            yield Hit(level="warning", detail=f"{figure} is known to ± {half_width:.1%}, and ± {widest:.0%} is wanted.")


def _stationary(evidence: Evidence) -> Iterator[Hit]:
    for phase, series, _ in _SERIES:
        if evidence.measured(phase) is None:
            continue
        is_stationary = evidence.observed(phase, series, "stationarity", "is_stationary")
        change = evidence.observed(phase, series, "stationarity", "change")
        raw = evidence.counted(phase, series)
        if is_stationary is None and raw is not None:
            found = trend([window.num_units / window.duration_s for window in raw])
            is_stationary, change = found.is_stationary, found.change
        if is_stationary is None:
            yield cannot_check(f"whether {series} stood still is in neither protocol nor windows, or they are too few")
        elif not is_stationary:
            amount = f"{abs(change):.1%} {'faster' if change > 0 else 'slower'}" if isinstance(change, float) else "off"
            yield Hit(level="warning", detail=f"{series} did not stand still: its second half is {amount}.")


def _warm_up(evidence: Evidence) -> Iterator[Hit]:
    for phase, series, _ in THROUGHPUT:
        result = evidence.measured(phase)
        if result is None:
            continue
        asked_s, count = number(result.protocol, "warmup_s"), number(result.protocol, "num_warmup_windows")
        if evidence.counted(phase, series) is not None:
            warm_up = evidence.warm_up(phase, series)
            spent_s = sum(window.duration_s for window in warm_up)
            if not warm_up:
                yield Hit(level="error", detail=f"{series} was measured without any warm-up.")
            elif asked_s is not None and spent_s < MIN_WARMUP_SHARE * asked_s:
                detail = f"{series} was warmed up for {spent_s:.2g} s of the {asked_s:g} s asked for."
                yield Hit(level="warning", detail=detail)
        elif count is None:
            yield cannot_check(f"neither windows nor protocol of {phase} speak of a warm-up")
        elif not count:
            yield Hit(level="error", detail=f"{phase} was measured without any warm-up.")


def _figures_match_windows(evidence: Evidence) -> Iterator[Hit]:
    unseen: list[str] = []
    for phase, series, figure in _SERIES:
        stored = evidence.value(figure)
        if evidence.measured(phase) is None or stored is None:
            continue
        raw = evidence.counted(phase, series)
        if raw is None or any(window.duration_s <= 0 for window in raw):
            unseen.append(figure)
            continue
        is_latency = series == LATENCY[1]
        found = median(1000 * each.duration_s if is_latency else each.num_units / each.duration_s for each in raw)
        if abs(found - stored) > MAX_FIGURE_ERROR * abs(found):
            detail = f"The record says {figure} is {stored:.6g}, its raw windows say {found:.6g}."
            yield Hit(level="error", detail=detail)
    if unseen:
        yield cannot_check(f"the raw windows behind {listed(unseen)} are not here, or hold no time")


def _rates_agree(evidence: Evidence) -> Iterator[Hit]:
    rate, latency_ms = evidence.value("generate_images_per_s"), evidence.value("generate_latency_ms_p50")
    p99_ms, batch_size = evidence.value("generate_latency_ms_p99"), evidence.record.spec.batch_size
    if latency_ms is not None and p99_ms is not None and p99_ms < latency_ms:
        detail = f"The latency's 99th percentile, {p99_ms:.3g} ms, is below its median, {latency_ms:.3g} ms."
        yield Hit(level="error", detail=detail)
    if rate and latency_ms and batch_size:
        batch_ms = 1000 * batch_size / rate
        if latency_ms > 1.25 * batch_ms and batch_size > 1:  # a quarter for noise (ours)
            detail = f"One image takes {latency_ms:.3g} ms, longer than a batch of {batch_size} ({batch_ms:.3g} ms)."
            yield Hit(level="warning", detail=detail)
        if latency_ms < 0.8 * batch_ms / batch_size:
            detail = (
                f"One image alone takes {latency_ms:.3g} ms, less than one in a batch ({batch_ms / batch_size:.3g} ms)."
            )
            yield Hit(level="warning", detail=detail)
    step, loop = evidence.value("train_images_per_s"), evidence.value("train_loop_images_per_s")
    if step and loop and not SMALLEST_LOOP_OVER_STEP <= loop / step <= LARGEST_LOOP_OVER_STEP:
        detail = f"The training ran at {loop:.4g} images/s, its step alone was measured at {step:.4g}."
        yield Hit(level="warning", detail=detail)


def _roofline(evidence: Evidence) -> Iterator[Hit]:
    for figure in ("generate_mfu", "train_step_mfu"):
        quantity = evidence.record.quantity(figure)
        if quantity is not None and quantity.value is not None and (quantity.low or quantity.value) > 1:
            detail = (
                f"{figure} is {quantity.value:.3g}: more multiply-accumulates than the measured peak of the device."
            )
            yield Hit(level="error", detail=detail)
    for phase, _, _ in THROUGHPUT:
        result = evidence.record.phases.get(phase)
        torch = fact(result.protocol, "roofs", "torch") if result is not None else None
        if isinstance(torch, str) and torch != evidence.record.machine.torch:
            detail = f"The peaks beside {phase} are of torch {torch}, the run of torch {evidence.record.machine.torch}."
            yield Hit(level="warning", detail=detail)


_LONGER = "Measure again with --preset standard or publish (--fresh)."

RULES = {
    "window_length": Rule(
        checks="Windows of a throughput are at least as long as the protocol asks, and 0.2 s.",
        remedy=_LONGER,
        find=_window_length,
    ),
    "timer_overhead": Rule(
        checks="The timer takes at most 0.1 % of a window, 1 % of a single call.",
        remedy="Give a larger --batch-size, or measure again with longer windows (--preset standard or publish).",
        find=_timer_overhead,
    ),
    "num_windows": Rule(
        checks="A throughput rests on 12 windows or more; below 6 there is no interval.",
        remedy="Measure again with --fresh; where the time cap cut it short, on a smaller --batch-size.",
        find=_num_windows,
    ),
    "interval_width": Rule(
        checks="Throughputs are known to ± 1 %, energies per image to ± 2 %, the latency to ± 5 %.",
        remedy="Measure again on a quiet machine, with --preset publish where that is not enough.",
        find=_interval_width,
    ),
    "stationary": Rule(
        checks="Measured windows show no trend: the warm-up was long enough.",
        remedy="Measure again with a longer warm-up (--preset publish) on a machine that has reached its temperature.",
        find=_stationary,
    ),
    "warm_up": Rule(
        checks="Each throughput has a warm-up of the length its protocol asks for.",
        remedy=_LONGER,
        find=_warm_up,
    ),
    "figures_match_windows": Rule(
        checks="Throughputs and the median latency are those that the raw windows give.",
        remedy="Do not use the record: figure and windows are not of one measurement; measure again with --fresh.",
        find=_figures_match_windows,
    ),
    "rates_agree": Rule(
        checks="Latency, throughput, and the speeds of step and training fit together.",
        remedy="Measure the slower of the two again on a quiet machine, and see data_wait_share for a training.",
        find=_rates_agree,
    ),
    "roofline": Rule(
        checks="No share of the peak is above 1, and the peaks are of the torch that ran.",
        remedy="Calibrate again with `bench doctor --calibrate`, then measure with --fresh.",
        find=_roofline,
    ),
}
