"""Intervals that hold without assuming a distribution.

The median's exact order-statistic interval: the number of samples below the true median is Binomial(n, 1/2), so
[x_(k+1), x_(n-k)] holds it with probability 1 - 2·P(B <= k). See David & Nagaraja, Order Statistics (2003), § 7.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binom

from bench.records import Kind, Quantity, unknown

CONFIDENCE = 0.95


def quantile_quantity(
    samples: Sequence[float], *, unit: str, source: str, probability: float = 0.5, kind: Kind = "measured"
) -> Quantity:
    """The sample quantile and the narrowest symmetric-rank exact interval of at least 95 %.

    With too few samples for such an interval (fewer than 6 for a median) the value stands without one, and the note
    says so. Zero samples give an unknown quantity.
    """
    if not samples:
        return unknown(unit, "no window was measured", source=source, kind=kind)
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    n = len(ordered)
    value = float(np.quantile(ordered, probability))
    ranks = _interval_ranks(n, probability)
    if ranks is None:
        note = f"{n} samples are too few for a 95 % interval"
        return Quantity(value=value, unit=unit, n=n, kind=kind, source=source, note=note)
    low, high = float(ordered[ranks[0]]), float(ordered[ranks[1]])
    return Quantity(value=value, unit=unit, low=low, high=high, n=n, kind=kind, source=source)


def _interval_ranks(n: int, probability: float) -> tuple[int, int] | None:
    """0-based ranks (i, j): P(x_(i) <= quantile <= x_(j)) >= 95 %, each tail at most 2.5 %; None if n is too few."""
    tail = (1 - CONFIDENCE) / 2
    below = int(binom.ppf(tail, n, probability))  # smallest k with P(B <= k) >= 2.5 %
    above = int(binom.ppf(1 - tail, n, probability))
    low, high = below - 1, above
    return (low, high) if low >= 0 and high < n else None


def relative_half_width(quantity: Quantity) -> float | None:
    """Half the interval over the value; None where there is no interval."""
    if not quantity.value or quantity.low is None or quantity.high is None:
        return None
    return (quantity.high - quantity.low) / 2 / abs(quantity.value)
