"""What the machine's own scatter lets a gate say: noise floor, threshold, intervals, smallest visible slowdown.

Scatter. `scale` is the standard error of a median of n pairs times √n, read off each round's exact order-statistic
interval. It needs no shape of noise, and a few wild blocks do not move it. Restarts are deliberately not centred first:
a median takes the pairs next to it out of its own sample, and what is left looks less scattered than it is, by a fifth.

Restarts. Pairs of one start share what that start drew (`bench.gate.pairs`). An interval that takes all pairs for
independent assumes that starts do not differ. How far their medians scatter tells: `restart_factor` is Birge's ratio
√(χ²/degrees of freedom), not below 1, by which the Particle Data Group widens intervals where experiments disagree
(Birge, Physical Review 40 (1932) 207, doi:10.1103/PhysRev.40.207; Review of Particle Physics, Introduction, § 5.2.2,
doi:10.1103/PhysRevD.110.030001). Degrees of freedom are few, 2 of the A/A round and up to 5 of the others, so one gate
may miss that starts differ; hence the confirming round in starts of its own.

Floor. What an A/A comparison shows by chance: one standard error of the median of the two rounds that can make a
verdict, the factor of the restarts in it. Not the A/A round's |median|: that is near 0 by luck as often as not. Not its
half-width either: that is two standard errors of half the pairs, and three of them would hide 5 % of slowdown. Where
the A/A interval does not reach 0, base is unlike itself, and that gap is a floor as well.

Smallest visible slowdown. Gates like this one are drawn from its own pairs (bootstrap: Efron, Annals of Statistics 7
(1979) 1, doi:10.1214/aos/1176344552), with shifts between restarts as large as those found, and go through the same
rule. A slowdown shifts all pairs of head and base alike, so each drawn gate has one least slowdown that it would call a
regression; 80 % of them see the 80th percentile. The seed is fixed: the same pairs give the same figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from bench.stats import median_coverage, quantile_quantity

Array = NDArray[np.float64]
Restarts = Sequence[Array]
"""A round: one array of log-ratios per restart, the last axis the pairs; gates drawn at random have one axis before."""

FLOORS_IN_THRESHOLD = 3.0
POWER = 0.8
"""How often a gate sees the slowdown that it calls the smallest it could have seen."""
SMALLEST_SCALE = 1e-9  # pairs that are all equal; a clock does not tell times apart so finely
NUM_DRAWS = 400  # the share of gates that see it is then known to 2 %


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Median log-ratio of some pairs, and its interval of 95 %."""

    middle: Array
    low: Array
    high: Array

    def widened(self, factor: Array) -> Estimate:
        """The same with both sides that many times as long."""
        low = self.middle - factor * (self.middle - self.low)
        return Estimate(middle=self.middle, low=low, high=self.middle + factor * (self.high - self.middle))


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What all rounds of a workload say of its scatter, in logarithms.

    Attributes:
        scale: standard error of the median of n pairs of restarts that do not differ, times √n.
        restart_factor: by how much restarts scatter more than their pairs explain; 1 or more.
        floor: what base against base shows by chance, or by its own lopsidedness.
        threshold: the slowdown that counts.
    """

    scale: Array
    restart_factor: Array
    floor: Array
    threshold: Array


def estimate(pairs: Array) -> Estimate:
    """The median over the last axis with the exact interval of `bench.stats`; 6 pairs or more."""
    num_pairs = pairs.shape[-1]
    low, high = _ranks(num_pairs)
    ordered = np.sort(pairs, axis=-1)
    middle = (ordered[..., (num_pairs - 1) // 2] + ordered[..., num_pairs // 2]) / 2
    return Estimate(middle=middle, low=ordered[..., low], high=ordered[..., high])


@lru_cache(maxsize=256)
def _ranks(num_pairs: int) -> tuple[int, int]:
    """0-based ranks of the interval's ends; ranks that are put in their own place say them."""
    found = quantile_quantity(range(num_pairs), unit="1", source="ranks")
    assert found.low is not None
    assert found.high is not None
    return int(found.low), int(found.high)


def noise_of(null: Restarts, judged: Sequence[Restarts], min_effect: float) -> Noise:
    """The scatter that the A/A round and the judged rounds show together, and what follows from it.

    Args:
        null: the A/A round.
        judged: the first round, or the first and the confirming one.
        min_effect: 0.03 for 3 %.
    """
    rounds = (null, *judged)
    counts = [_num_pairs(each) for each in rounds]
    scale = np.average(np.array([_scale(_whole(each)) for each in rounds]), axis=0, weights=counts)
    scale = np.maximum(scale, SMALLEST_SCALE)
    groups = (null, [pairs for each in judged for pairs in each])  # within each, restarts should agree
    factor = _restart_factor(groups, scale)
    around = estimate(_whole(null)).widened(factor)
    gap = np.maximum(0.0, np.maximum(around.low, -around.high))
    of_verdict = sum(counts[1:]) * (2 if len(judged) == 1 else 1)  # pairs behind the verdict if it needs confirming
    floor = np.maximum(factor * scale / np.sqrt(of_verdict), gap)
    threshold = np.maximum(np.log1p(min_effect), FLOORS_IN_THRESHOLD * floor)
    return Noise(scale=scale, restart_factor=factor, floor=floor, threshold=threshold)


def _whole(restarts: Restarts) -> Array:
    return np.concatenate(restarts, axis=-1)


def _num_pairs(restarts: Restarts) -> int:
    return sum(pairs.shape[-1] for pairs in restarts)


def _scale(pairs: Array) -> Array:
    """Half the interval over its width in standard errors (1.96 for 95 %, more where ranks make it a wider one)."""
    around, num_pairs = estimate(pairs), pairs.shape[-1]
    half_width: Array = (around.high - around.low) / 2
    width = float(ndtri((1 + median_coverage(num_pairs)) / 2))
    scale: Array = half_width * (np.sqrt(num_pairs) / width)
    return scale


def _restart_factor(groups: Sequence[Restarts], scale: Array) -> Array:
    squares, freedom = np.zeros_like(scale), 0
    for restarts in groups:
        counts = np.array([pairs.shape[-1] for pairs in restarts])
        medians = np.stack([np.median(pairs, axis=-1) for pairs in restarts], axis=-1)
        centre = np.average(medians, axis=-1, weights=counts)
        squares = squares + np.sum(counts * (medians - centre[..., None]) ** 2, axis=-1)
        freedom += len(restarts) - 1
    return np.maximum(1.0, np.sqrt(squares / freedom) / scale)


def smallest_detectable(null: Restarts, judged: Sequence[Restarts], min_effect: float) -> float:
    """The slowdown, in logarithms, that gates like this one call a regression in `POWER` of cases.

    Args:
        null, judged, min_effect: as `noise_of`. Without a confirming round one of the first's size is assumed.
    """
    rng = np.random.default_rng(0)
    noise = noise_of(null, judged, min_effect)
    residuals = np.concatenate([pairs - np.median(pairs) for pairs in map(_whole, (null, *judged))])
    first, confirming = judged[0], judged[-1]
    drawn = [_drawn(each, residuals, noise, rng) for each in (null, first, confirming)]
    least = _least_slowdown(drawn[0], drawn[1], drawn[2], min_effect)
    return float(np.quantile(least, POWER))


def _drawn(like: Restarts, residuals: Array, noise: Noise, rng: np.random.Generator) -> list[Array]:
    """`NUM_DRAWS` rounds of that size, of a head that is as fast as its base."""
    pairs_per_restart = _num_pairs(like) / len(like)
    spread = noise.scale * np.sqrt((noise.restart_factor**2 - 1) / pairs_per_restart)
    shifts = spread * rng.standard_normal((len(like), NUM_DRAWS, 1))
    return [
        rng.choice(residuals, (NUM_DRAWS, pairs.shape[-1])) + shift for pairs, shift in zip(like, shifts, strict=True)
    ]


def _least_slowdown(null: Restarts, first: Restarts, confirming: Restarts, min_effect: float) -> Array:
    """What has to be added to all pairs for the rule of `bench.gate.decide` to say `regression`."""
    at_first, at_last = noise_of(null, [first], min_effect), noise_of(null, [first, confirming], min_effect)
    one, two = estimate(_whole(first)), estimate(_whole(confirming))
    whole = estimate(_whole([*first, *confirming])).middle
    goes_on = at_first.threshold - one.widened(at_first.restart_factor).high
    least: Array = np.max(np.stack([goes_on, -one.low, -two.low, at_last.threshold - whole]), axis=0)
    return least
