"""How surely a candidate lies on the Pareto frontier, where every objective is known with an interval only.

A frontier drawn through point estimates calls the lucky ones members. Here the estimates are redrawn from their own
uncertainty many times (bootstrap), the frontier is found in each draw, and the share of the draws in which a candidate
is on it is its probability of membership, with the error that the finite number of draws leaves.

Dominated: another candidate is at least as good in every objective and better in one (Pareto; Ehrgott, Multicriteria
Optimization (2005), def. 2.1). Two that are equal in everything are both members.

What an objective is drawn from, the first that there is:

* **Raw windows**, where the figure is their median: a resampled median (bootstrap: Efron, Annals of Statistics 7 (1979)
  1, doi:10.1214/aos/1176344552). How many of n samples lie below the true median is Binomial(n, 1/2), as in
  `bench.stats`; so many are counted off, and the draw lies anywhere before the next. Deliberately not Efron's n samples
  drawn with replacement: of 7 samples their middle 95 % hold the truth in 87 % of cases, this in 98 % (simulated, 4000
  cases). Of hundreds of windows the two are the same.
* **Seeds**: from MIN_SEEDS_FOR_MEDIAN on their median is drawn in the same way. Fewer are too few: the resampled mean
  of three holds the truth in 75 % of cases. So their mean is drawn from Student's t, of logarithms where all are
  positive. `curves` has no interval for two seeds; a point would claim certainty, so here two have Student's with one
  degree of freedom, which is as wide as it should be.
* **The 95 % interval**: a normal number, stretched on either side so that the 2.5, 50 and 97.5 % quantiles are exactly
  low, value and high; of the logarithm where low is above zero, since such figures err by factors.
* A figure with **neither** is a point.

Objectives are drawn independently. What all candidates share, such as the sensor's own systematic error, moves them
together and is left out. Where truths are spread more widely than the noise (a flat prior) the probability is
calibrated: of all candidates with 70 %, 70 % are members, within 2 points over 40,000 simulated ones. Of two that tie
in truth it says 1/2 on average, and anything between 0 and 1 in a single case (`tests/test_frontier.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student_t

from bench.compare import Better
from bench.records import Quantity
from bench.report.curves import MIN_SEEDS_FOR_MEDIAN
from bench.stats import CONFIDENCE, quantile_quantity

NUM_DRAWS = 4000

_SEED = 20240123
_NORMAL_QUANTILE = float(norm.ppf((1 + CONFIDENCE) / 2))
_PSEUDO_COUNT = 2  # of Agresti and Coull's interval: no error of 0 where all draws agree

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Membership:
    """Probability of being on the frontier.

    Attributes:
        probability: share of the draws.
        error: its standard error from the number of draws alone.
    """

    probability: float
    error: float


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of one objective of one candidate.

    Attributes:
        quantity: its value with its interval; known.
        windows: the raw samples whose median the value is, where they are at hand.
        seeds: the values of two or more seeds, where the candidate has several.
    """

    quantity: Quantity
    better: Better
    windows: tuple[float, ...] = ()
    seeds: tuple[float, ...] = ()

    def costs(self, generator: np.random.Generator, num_draws: int) -> Floats:
        """[num_draws] draws of the objective, turned so that less is better."""
        sign = 1.0 if self.better == "lower" else -1.0
        if self.windows or len(self.seeds) >= MIN_SEEDS_FOR_MEDIAN:
            return sign * _resampled_medians(self.windows or self.seeds, generator, num_draws)
        if self.seeds:
            return sign * _student_means(self.seeds, generator, num_draws)
        return sign * _stretched_normal(self.quantity, generator, num_draws)


def memberships(
    candidates: Sequence[Sequence[Evidence | None]],
    spaces: Sequence[tuple[int, ...]],
    *,
    seed: int = _SEED,
    num_draws: int = NUM_DRAWS,
) -> list[dict[tuple[int, ...], Membership]]:
    """For every candidate, its membership in each space of objectives in which it is one.

    Args:
        candidates: their objectives, in one order; None is unknown.
        spaces: indices of the objectives that make up a frontier. A candidate with an unknown one is not on it.

    Returns:
        One mapping per candidate, from the space to the membership; without the spaces it has no part in.
    """
    drawn = _drawn(candidates, seed, num_draws)
    found: list[dict[tuple[int, ...], Membership]] = [{} for _ in candidates]
    for space in spaces:
        places = [index for index, each in enumerate(candidates) if all(each[axis] is not None for axis in space)]
        open_places = [index for index in places if index in drawn]
        costs = [drawn[index][list(space)] for index in open_places]
        counts = dict(zip(open_places, _num_member_draws(costs), strict=True))
        for index in places:
            found[index][space] = _membership(counts.get(index, 0), num_draws)
    return found


def undominated(points: Sequence[Sequence[float]], better: Sequence[Better]) -> list[bool]:
    """Whether each point is on the frontier of the values as they are, without their uncertainty."""
    signs = np.array([1.0 if each == "lower" else -1.0 for each in better])
    costs = [(signs * np.asarray(point, dtype=np.float64))[:, None] for point in points]
    return [count > 0 for count in _num_member_draws(costs)]


def seeds_quantity(quantities: Sequence[Quantity]) -> Quantity:
    """Several seeds as one figure: their median from MIN_SEEDS_FOR_MEDIAN on, else their mean with Student's interval.

    Mean and interval are those of the logarithms where all values are positive. All values are known.
    """
    first, values = quantities[0], [quantity.value for quantity in quantities if quantity.value is not None]
    source = f"{len(values)} seeds, {first.source}"
    labels = {quantity.label for quantity in quantities}
    shared = {"unit": first.unit, "kind": first.kind, "label": first.label} if len(labels) == 1 else {}
    if len(values) >= MIN_SEEDS_FOR_MEDIAN:
        return quantile_quantity(values, unit=first.unit, source=source).model_copy(update=shared)
    centre, error, is_log = _centre(values)
    half_width = float(student_t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    ends = [centre - half_width, centre, centre + half_width]
    low, value, high = (math.exp(end) for end in ends) if is_log else ends
    found = Quantity(
        value=value, low=low, high=high, unit=first.unit, n=len(values), kind="computed", source=source, note=first.note
    )
    return found.model_copy(update=shared)


def _drawn(candidates: Sequence[Sequence[Evidence | None]], seed: int, num_draws: int) -> dict[int, Floats]:
    """[objectives, num_draws] costs by candidate, NaN where unknown; without those who lose in every draw.

    Whoever is worse in every objective than another's worst draw is on no frontier, nor is anyone left out because of
    them: the other is there too. So many thousand candidates need memory for the few that matter.
    """
    values = [each[0].quantity.value if each and each[0] is not None else None for each in candidates]
    order = sorted(range(len(candidates)), key=lambda index: math.inf if (got := values[index]) is None else got)
    found: dict[int, Floats] = {}
    worsts: list[Floats] = []
    for index in order:
        generator = np.random.default_rng([seed, index])
        costs = np.full((len(candidates[index]), num_draws), np.nan)
        for axis, evidence in enumerate(candidates[index]):
            if evidence is not None:
                costs[axis] = evidence.costs(generator, num_draws)
        best = costs.min(axis=1)  # NaN where unknown: whoever is not in a space cannot lose there
        if not worsts or not ((np.array(worsts) < best) | np.isnan(best)).all(axis=1).any():
            found[index] = costs
            worsts.append(costs.max(axis=1))
    return found


def _num_member_draws(costs: Sequence[Floats]) -> list[int]:
    """In how many draws each candidate is dominated by nobody; `costs` is one [objectives, draws] per candidate."""
    if not costs:
        return []
    stacked = np.stack(costs)  # [candidates, objectives, draws]
    is_dominated = np.zeros((len(stacked), stacked.shape[2]), dtype=bool)
    for one in stacked:
        is_dominated |= (one <= stacked).all(axis=1) & (one < stacked).any(axis=1)
    return [int(count) for count in (~is_dominated).sum(axis=1)]


def _membership(count: int, num_draws: int) -> Membership:
    trials = num_draws + 2 * _PSEUDO_COUNT
    share = (count + _PSEUDO_COUNT) / trials
    return Membership(probability=count / num_draws, error=math.sqrt(share * (1 - share) / trials))


def _resampled_medians(samples: Sequence[float], generator: np.random.Generator, num_draws: int) -> Floats:
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    edges = np.concatenate([ordered[:1], ordered, ordered[-1:]])  # beyond the outermost sample nothing is known
    num_below = generator.binomial(len(ordered), 0.5, num_draws)
    start, end = edges[num_below], edges[num_below + 1]
    return np.asarray(start + (end - start) * generator.random(num_draws))


def _student_means(values: Sequence[float], generator: np.random.Generator, num_draws: int) -> Floats:
    centre, error, is_log = _centre(values)
    drawn = centre + error * generator.standard_t(len(values) - 1, num_draws)
    return np.exp(np.clip(drawn, -700.0, 700.0)) if is_log else drawn


def _centre(values: Sequence[float]) -> tuple[float, float, bool]:
    """(mean, its standard error, whether both are of logarithms)."""
    is_log = min(values) > 0
    scaled = [math.log(value) for value in values] if is_log else list(values)
    return fmean(scaled), stdev(scaled) / math.sqrt(len(scaled)), is_log


def _stretched_normal(quantity: Quantity, generator: np.random.Generator, num_draws: int) -> Floats:
    value, low, high = quantity.value, quantity.low, quantity.high
    assert value is not None
    if low is None or high is None or low == high:
        return np.full(num_draws, value)
    is_log = low > 0
    bottom, centre, top = (math.log(each) for each in (low, value, high)) if is_log else (low, value, high)
    drawn = generator.standard_normal(num_draws)
    drawn = centre + drawn * np.where(drawn < 0, centre - bottom, top - centre) / _NORMAL_QUANTILE
    return np.exp(drawn) if is_log else drawn
