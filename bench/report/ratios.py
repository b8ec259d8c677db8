"""How many times B's figure is A's, with an interval: what `bench compare` says, and when it must not say more or less.

Two independent figures with 95 % intervals [l, h] give the ratio's interval on the logarithmic scale ("method of
variance estimates recovery": Zou & Donner, Statistics in Medicine 27 (2008) 1693, doi:10.1002/sim.3095):

    ln(b/a) - sqrt(ln(b/l_b)² + ln(h_a/a)²)   to   ln(b/a) + sqrt(ln(h_b/b)² + ln(a/l_a)²)

The interval of a stored speed or latency is the exact one of its raw windows' median (`bench.stats`), so this is an
interval of the ratio of the windows' medians, and reading the windows again would give the same. Simulated (10,000
pairs per case; 12 to 30 windows on either side; normal, lognormal, heavy-tailed (t with 2 degrees of freedom), 15 %
slow outliers, two speeds, each against each; noise of 1 and 5 %, equal or not): it holds the true ratio in 95.3 to
98.3 % of pairs; with 6 against 9 in 96.5 to 98.9 %, with 300 in 94.5 to 97.4 % (1,500 pairs). Two narrower intervals
were tried and left: the percentile bootstrap of the medians, 15 % narrower, held in 93.8 to 97.3 % (1,500 pairs), and
the inverted Mann-Whitney test in as few as 87 % where A's noise has another shape than B's, because it takes both for
one. `tests/test_ratios.py` repeats the first.

Assumed: the two figures are independent and each interval holds. Neighbouring windows that correlate break the second
(`bench.stats`), and what varies between sittings or trainings is in no interval of one run.

A ratio needs figures above zero. Where one, or an end of its interval, is not, the same method on the plain scale still
tells which is more. Exact counts have exact ratios.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.notation import UNKNOWN
from bench.records import Quantity

SAME_WITHIN = 0.05
"""An interval that holds 1 and lies within so much of it says that two figures are the same for most purposes."""

_LARGEST_LOG = 690.0  # e^690: beyond it a ratio is no float64
_NUM_RATIO_DIGITS = 4

Order = Literal["more", "less", "same", "alike", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """B over A.

    Attributes:
        value: None where a figure is not above zero.
        low, high: ends of the 95 % interval; equal to the value where both figures are exact; None where unknown.
        order: B against A: more, less, exactly the same, alike (the interval holds 1 and is within SAME_WITHIN of
            it), or unknown.
        why: why there is no ratio, no interval or no order; empty where there are all.
    """

    value: float | None
    low: float | None
    high: float | None
    order: Order
    why: str

    def text(self) -> str:
        """`1.90 (1.81 to 2.00)`: one digit of the half-width, two where the first is a 1; four where it has none."""
        if self.value is None:
            return UNKNOWN
        if self.low is None or self.high is None or self.low == self.high:
            return f"{self.value:.{_NUM_RATIO_DIGITS}g}"
        half_width = (self.high - self.low) / 2
        exponent = math.floor(math.log10(half_width))
        places = min(6, max(0, (half_width < 2 * 10.0**exponent) - exponent))
        if self.value < 10**-places or self.value >= 1e6:
            return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"
        return f"{self.value:.{places}f} ({self.low:.{places}f} to {self.high:.{places}f})"


def ratio_of(quantity_a: Quantity, quantity_b: Quantity, *, is_sensor_shared: bool = True) -> Ratio:
    """The ratio of two known figures of one unit.

    Args:
        is_sensor_shared: a sensor's own error cancels, as it does between two runs on one board. Otherwise both errors
            widen the interval, added as if they pointed apart.
    """
    value_a, value_b = quantity_a.value, quantity_b.value
    assert value_a is not None
    assert value_b is not None
    value = _quotient(value_a, value_b)
    ends_a, ends_b = interval_of(quantity_a), interval_of(quantity_b)
    if ends_a is None or ends_b is None:
        why = {(True, True): "neither has an interval", (True, False): "A has no interval"}.get(
            (ends_a is None, ends_b is None), "B has no interval"
        )
        return Ratio(value=value, low=None, high=None, order="unknown", why=why)
    if value is None or min(ends_a[0], ends_b[0]) <= 0:
        order = _order(_difference((value_a, *ends_a), (value_b, *ends_b)), 0.0)
        reason = "no ratio: a figure is not above zero" if value is None else "an interval reaches zero"
        return Ratio(value=value, low=None, high=None, order=order, why=reason)
    logs_a, logs_b = ([math.log(each) for each in found] for found in ((value_a, *ends_a), (value_b, *ends_b)))
    margin = 0.0 if is_sensor_shared else _log_error(quantity_a) + _log_error(quantity_b)
    low, high = _difference(logs_a, logs_b)
    if max(-low, high) + margin > _LARGEST_LOG:
        return Ratio(value=value, low=None, high=None, order="unknown", why="the intervals leave nothing known")
    if low == high and margin == 0:
        return Ratio(value=value, low=value, high=value, order=_order((low, high), 0.0), why="")
    low, high = low - margin, high + margin
    order = _order((low, high), math.log1p(SAME_WITHIN))
    why = "the interval holds 1" if order in {"alike", "unknown"} else ""
    return Ratio(value=value, low=min(value, math.exp(low)), high=max(value, math.exp(high)), order=order, why=why)


def _quotient(value_a: float, value_b: float) -> float | None:
    """B over A where both are above zero and a float can hold it."""
    if min(value_a, value_b) <= 0 or abs(math.log(value_b) - math.log(value_a)) > _LARGEST_LOG:
        return None
    return value_b / value_a


def interval_of(quantity: Quantity) -> tuple[float, float] | None:
    """The ends of the figure's interval; None where it has none. Only what was computed can be exact."""
    if quantity.low is None or quantity.high is None:
        return None
    is_point = quantity.low == quantity.high
    return None if is_point and quantity.kind != "computed" else (quantity.low, quantity.high)


def _difference(found_a: Sequence[float], found_b: Sequence[float]) -> tuple[float, float]:
    """The ends of B - A, from (value, low, high) of each."""
    (mid_a, low_a, high_a), (mid_b, low_b, high_b) = found_a, found_b
    below, above = math.hypot(mid_b - low_b, high_a - mid_a), math.hypot(high_b - mid_b, mid_a - low_a)
    return mid_b - mid_a - below, mid_b - mid_a + above


def _order(difference: tuple[float, float], alike_within: float) -> Order:
    low, high = difference
    if low > 0:
        return "more"
    if high < 0:
        return "less"
    if low == high:
        return "same"
    return "alike" if -alike_within <= low and high <= alike_within else "unknown"


def _log_error(quantity: Quantity) -> float:
    """The sensor's own relative error on the logarithmic scale; one of 100 % or more leaves nothing known."""
    error = quantity.systematic or 0.0
    return -math.log1p(-error) if error < 1 else math.inf
