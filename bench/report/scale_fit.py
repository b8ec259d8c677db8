"""From the points of `bench scale` to growth: the exponent of a figure in tokens, and where two operators cross.

Exponent. For y = a n^p, log y is a straight line in log n, and p is its slope. It is fitted by least squares to the
LARGE_PART largest sizes of a curve (small ones are ruled by what does not grow: the launch of an operation, the linear
maps beside an n² term), with Student's interval of the slope. The interval is about how well a power law fits these
sizes: curvature and the noise of the repeats both widen it. Nothing is said of sizes that were not measured.

Crossing. At each size that both operators have, the ratio of their figures has an interval: of times, the median over
the rounds of the ratio within one round; of joules, from both intervals; of counts none, they are exact. A size where
the interval holds 1 decides nothing. A crossing lies between the last size that decides one way and the first that
decides the other; the point in between is read off the straight line through the ratios' logarithms and is given only
where that changes sign once. Each size decides wrongly in at most 5 % of cases, and there are many: of two operators
that are truly alike, one size in twenty will say otherwise. (Up to 256 tokens `linformer` is `softmax`, and `window` at
64 tokens: what is found between them there is this measurement's own noise.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Literal

import numpy as np
from scipy.stats import linregress, t

from bench.phases._scale_record import ScalePoint, ScaleRecord, Study
from bench.records import Quantity, Window, unknown
from bench.stats import CONFIDENCE, quantile_quantity

LARGE_PART = 4  # sizes
MIN_SIZES = 3
Metric = Literal["macs", "bytes", "bytes_as_run", "seconds", "joules"]
METRICS: dict[Metric, str] = {
    "macs": "MACs",
    "bytes": "bytes",
    "bytes_as_run": "bytes as run",
    "seconds": "time",
    "joules": "energy",
}
FITTED: tuple[Study, ...] = ("layer", "layer-backward", "grown-generator")  # the others have 1024 tokens throughout


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Up to `low_tokens` `below` is the cheaper of the two, from `high_tokens` on `above`.

    Attributes:
        at_tokens: interpolated; None where the ratios in between change sign more than once.
    """

    study: Study
    metric: Metric
    below: str
    above: str
    low_tokens: int
    high_tokens: int
    at_tokens: float | None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Two operators that do not cross: `cheaper` is so at the `num_decided` sizes that decide; None where none does."""

    study: Study
    metric: Metric
    operators: tuple[str, str]
    cheaper: str | None
    low_tokens: int
    high_tokens: int
    num_sizes: int
    num_decided: int


def counted_windows(point: ScalePoint) -> list[Window]:
    """The rounds, without the warm-up."""
    return [window for window in point.windows if not window.is_warmup]


def figure(point: ScalePoint, metric: Metric) -> Quantity:
    """One figure of a point, per image; counts are exact and have no interval."""
    if metric == "seconds":
        seconds = [window.duration_s / window.num_units for window in counted_windows(point)]
        return quantile_quantity(seconds, unit="s", source="perf_counter over synchronised windows, median of rounds")
    if metric == "joules":
        return point.energy_j_per_image
    count = {"macs": point.macs, "bytes": point.num_bytes, "bytes_as_run": point.num_bytes_as_run}[metric]
    return Quantity(value=float(count), unit="MAC" if metric == "macs" else "B", kind="computed", source="shapes")


def curve(record: ScaleRecord, study: Study, operator: str) -> list[ScalePoint]:
    """The points of one operator in one study, smallest first."""
    return [point for point in record.points if (point.study, point.operator) == (study, operator)]


def exponent(points: Sequence[ScalePoint], metric: Metric) -> Quantity:
    """d log y / d log n over the largest sizes, with its interval; null with a reason where they are too few."""
    source = "least squares in logarithms, Student's interval of the slope"
    large = sorted(points, key=lambda point: point.num_tokens)[-LARGE_PART:]
    figures = [figure(point, metric) for point in large]
    missing = next((each.note for each in figures if each.value is None), None)
    if missing is not None:
        return unknown("1", missing, source=source, kind="computed")
    if len(large) < MIN_SIZES:
        note = f"{len(large)} sizes are too few for a slope with an interval; {MIN_SIZES} are needed"
        return unknown("1", note, source=source, kind="computed")
    log_tokens = np.log([point.num_tokens for point in large])
    fit = linregress(log_tokens, np.log([each.value for each in figures if each.value is not None]))
    half_width = float(t.ppf((1 + CONFIDENCE) / 2, len(large) - 2) * fit.stderr)
    slope = float(fit.slope)
    return Quantity(
        value=slope,
        unit="1",
        low=slope - half_width,
        high=slope + half_width,
        n=len(large),
        kind="computed",
        source=source,
        note=f"over {large[0].num_tokens:,} to {large[-1].num_tokens:,} tokens",
    )


def compared(first: Sequence[ScalePoint], second: Sequence[ScalePoint], metric: Metric) -> list[Crossing] | Standing:
    """Where two curves of one study cross, or who is cheaper throughout.

    Raises:
        ValueError: the curves have no size in common.
    """
    by_tokens = {point.num_tokens: point for point in second}
    both = [(point, by_tokens[point.num_tokens]) for point in first if point.num_tokens in by_tokens]
    if not both:
        raise ValueError("two curves without a common size cannot be compared")
    study, names = both[0][0].study, (both[0][0].operator, both[0][1].operator)
    sizes = [point.num_tokens for point, _ in both]
    ratios = [_log_ratio(*pair, metric) for pair in both]
    signs = [0 if ratio is None else _sign(ratio) for ratio in ratios]
    decided = [(index, sign) for index, sign in enumerate(signs) if sign]
    crossings = [
        Crossing(
            study=study,
            metric=metric,
            below=names[0] if before < 0 else names[1],
            above=names[1] if before < 0 else names[0],
            low_tokens=sizes[start],
            high_tokens=sizes[end],
            at_tokens=_zero(sizes[start : end + 1], [ratio[0] for ratio in ratios[start : end + 1] if ratio]),
        )
        for (start, before), (end, after) in pairwise(decided)
        if before != after
    ]
    if crossings:
        return crossings
    cheaper = None if not decided else names[0] if decided[0][1] < 0 else names[1]
    return Standing(
        study=study,
        metric=metric,
        operators=names,
        cheaper=cheaper,
        low_tokens=sizes[0],
        high_tokens=sizes[-1],
        num_sizes=len(sizes),
        num_decided=len(decided),
    )


def comparisons(record: ScaleRecord, metric: Metric) -> list[Crossing | Standing]:
    """Every pair of operators in every study that has a token axis, where both were measured."""
    found: list[Crossing | Standing] = []
    for study in FITTED:
        for first, second in combinations(record.operators, 2):
            curves = curve(record, study, first), curve(record, study, second)
            if not all(curves):
                continue
            answer = compared(*curves, metric)
            found += answer if isinstance(answer, list) else [answer]
    return found


def _log_ratio(first: ScalePoint, second: ScalePoint, metric: Metric) -> tuple[float, float, float] | None:
    """Logarithm of first / second with the ends of its interval; None where a figure or its interval is missing."""
    if metric == "seconds":
        rounds = zip(counted_windows(first), counted_windows(second), strict=True)
        logs = [math.log(a.duration_s / a.num_units) - math.log(b.duration_s / b.num_units) for a, b in rounds]
        found = quantile_quantity(logs, unit="1", source="ratio within a round")
        return None if found.value is None or found.low is None or found.high is None else _three(found)
    a, b = figure(first, metric), figure(second, metric)
    if a.value is None or b.value is None:
        return None
    (a_low, a_high), (b_low, b_high) = _ends(a), _ends(b)
    if min(a_low, b_low) <= 0:
        return None
    return math.log(a.value / b.value), math.log(a_low / b_high), math.log(a_high / b_low)


def _three(found: Quantity) -> tuple[float, float, float]:
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    return found.value, found.low, found.high


def _ends(found: Quantity) -> tuple[float, float]:
    value = found.value or 0.0
    return (value, value) if found.low is None or found.high is None else (found.low, found.high)


def _sign(ratio: tuple[float, float, float]) -> int:
    """-1 where the first is cheaper, 1 where the second is, 0 where the interval holds a ratio of 1."""
    _, low, high = ratio
    return 1 if low > 0 else -1 if high < 0 else 0


def _zero(sizes: Sequence[int], logs: Sequence[float]) -> float | None:
    """Tokens where the straight line from size to size goes through 0; None where it does not do so exactly once."""
    if len(logs) != len(sizes):
        return None
    pairs = list(pairwise(zip(sizes, logs, strict=True)))
    changes = [pair for pair in pairs if (pair[0][1] < 0) != (pair[1][1] < 0)]
    if len(changes) != 1:
        return None
    ((low, log_low), (high, log_high)) = changes[0]
    share = log_low / (log_low - log_high)
    return float(low * (high / low) ** share)
