"""An estimate of a processor's energy from its design power, only where the user gave that power (`--tdp-w`).

It is time times a constant and cannot tell an efficient model from an inefficient one that keeps the processor as busy;
it answers "how many watt-hours, roughly" and is labelled `estimated:tdp`. No power is ever assumed for a processor.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.records import Quantity, Window, unknown
from bench.stats import quantile_quantity

_TDP_BAND = 2.0  # a processor at a given utilisation may draw half or twice its share of the design power (ours)
_TDP_SOURCE = "design power given by --tdp-w × this process's share of the processor time"


def tdp_estimate(windows: Sequence[Window], tdp_w: float, num_cpu_cores: int, unit: str) -> Quantity:
    """Design power × processor share × time: an order of magnitude, a factor of two either way.

    Args:
        windows: their readings hold `process_cpu_s`, the processor seconds of this process.
        unit: of the result, joules per unit of the windows' work.
    """
    samples = [
        _joules(window, tdp_w, num_cpu_cores) / window.num_units
        for window in windows
        if "process_cpu_s" in window.readings
    ]
    median = quantile_quantity(samples, unit=unit, source=_TDP_SOURCE, kind="estimated")
    return _banded(median.value, len(samples), unit)


def tdp_total(windows: Sequence[Window], tdp_w: float, num_cpu_cores: int) -> Quantity:
    """The same, summed over windows that make up one stretch of work: joules."""
    if not windows or any("process_cpu_s" not in window.readings for window in windows):
        return _banded(None, 0, "J")
    return _banded(sum(_joules(window, tdp_w, num_cpu_cores) for window in windows), len(windows), "J")


def _joules(window: Window, tdp_w: float, num_cpu_cores: int) -> float:
    return tdp_w * window.readings["process_cpu_s"] / num_cpu_cores


def _banded(value: float | None, n: int, unit: str) -> Quantity:
    if value is None:
        return unknown(unit, "the clock meter gave no processor time", source=_TDP_SOURCE, label="unavailable")
    return Quantity(
        value=value,
        unit=unit,
        low=value / _TDP_BAND,
        high=value * _TDP_BAND,
        n=n,
        kind="estimated",
        source=_TDP_SOURCE,
        note="a factor of two either way; at equal utilisation it is time times a constant, so it ranks nothing",
        label="estimated:tdp",
    )
