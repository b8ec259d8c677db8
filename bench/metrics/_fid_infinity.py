"""A Fréchet distance for infinitely many generated images: the line through the distance against 1/N, read at 0.

It exists because the distance of N images is too large by about c/N, and c differs from generator to generator, so that
at equal N two generators may be ranked by their bias (Chong and Forsyth 2020, https://arxiv.org/abs/1911.07023, § 4).

Differences from that paper: the images are not drawn again for every N; the ten groups that the images were dealt to by
content are merged, so that no feature is kept. At each N the mean is taken over all disjoint sets of that size that the
groups give. Their quasi-random latents are not used. As there, the reference is held fixed: its own bias stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import linregress
from scipy.stats import t as student_t

from bench.metrics._frechet import FrechetReference, Moments, merge_all

SET_SIZES = (2, 3, 4, 5, 7, 10)
_CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Line:
    """Least squares of the distance against 1/N.

    Attributes:
        intercept: the distance at N = ∞; may be below 0 by chance.
        standard_error: of the intercept, by the regression; the sets share images, so it leaves some scatter out.
        r_squared: share of the variance between the points that the line explains.
        counts: mean N of each point.
        distances: mean distance of each point.
    """

    intercept: float
    standard_error: float
    r_squared: float
    counts: tuple[float, ...]
    distances: tuple[float, ...]

    @property
    def reach(self) -> float:
        """Half of the intercept's 95 % interval, Student's t with two degrees fewer than points."""
        return float(student_t.ppf(0.5 + _CONFIDENCE / 2, len(self.counts) - 2)) * self.standard_error


def extrapolate(reference: FrechetReference, groups: Sequence[Moments]) -> Line:
    """groups: ten sets of features of about equal count → the line. Raises ValueError for another number of groups."""
    if len(groups) != max(SET_SIZES):
        raise ValueError(f"the line takes {max(SET_SIZES)} groups, not {len(groups)}")
    inverse_counts, distances = [], []
    for size in SET_SIZES:
        starts = range(0, len(groups) - size + 1, size)
        sets = [merge_all(groups[start : start + size]) for start in starts]
        inverse_counts.append(float(np.mean([1 / each.count for each in sets])))
        distances.append(float(np.mean([reference.distance(each) for each in sets])))
    fit = linregress(inverse_counts, distances)
    return Line(
        intercept=float(fit.intercept),
        standard_error=float(fit.intercept_stderr),
        r_squared=float(fit.rvalue) ** 2,
        counts=tuple(1 / each for each in inverse_counts),
        distances=tuple(distances),
    )
