"""Levels of a history: where a series of figures stood still, how it scatters there, and where it jumped.

Why it exists: the figures of one machine from commit to commit are flat with scatter, and now and then they jump. A new
figure can only be compared with those since the last jump, and a jump that was missed at the time is worth finding
afterwards. All values are logarithms (of seconds or joules per unit), in the order of the history.

Where it jumped. The segmentation that minimises the squares about each level's mean plus PENALTY · σ² per jump, with no
level shorter than LEAST_POINTS. `ruptures` (Truong, Oudre & Vayatis, Signal Processing 167 (2020) 107299,
doi:10.1016/j.sigpro.2019.107299; BSD-2) finds the best segmentation for each number of jumps, exactly, by dynamic
programming; the penalty then chooses among them. Deliberately not its `Pelt`, which gives the same in less time where
levels may be of any length, but prunes too much where they have a least one (version 1.1.10: [0, 1, 0, 0, 1] with
min_size=2 and pen=0.1 becomes [2, 5] although [5] costs less; github.com/deepcharles/ruptures, issue 342).

Scatter that a jump cannot spoil. σ is the median absolute difference of neighbours, as a standard deviation: one jump
changes one difference. Before segmenting, every value is brought within CLIP · σ of the median of the WINDOW values
around it (after Hampel, Journal of the American Statistical Association 69 (1974) 383,
doi:10.1080/01621459.1974.10482962), so that a bad night is no level; five bad nights in a row are one.

How often it is wrong. PENALTY is such that a jump is found in at most 1 % of histories of independent normal figures
that have none, whatever their length. A jump is listed only where it also is at least the minimum effect and its
interval excludes 0. Simulated with 1 % from point to point and a minimum effect of 3 %, in per cent of histories, found
and listed (5,000 each, 2,000 of 200 points; noises in `tests/gate_history_noise.py`):

| points | 10 | 20 | 50 | 200 |
|---|---|---|---|---|
| normal | 0.4, 0 | 1.0, 0 | 0.5, 0 | 0.3, 0 |
| one night in 30 takes 1.05 to 1.5 times as long | 0.6, 0 | 0.8, 0.1 | 0.8, 0.5 | 1.2, 0.7 |
| one night in 12 does | 0.9, 0.2 | 2.4, 1.3 | 2.4, 2.1 | 5.7, 5.5 |
| Student's t with 2 degrees of freedom | 0.3, 0 | 0.6, 0.1 | 0.9, 0.2 | 1.0, 0.4 |
| exponential | 0.9, 0 | 2.1, 0 | 3.2, 0 | 5.4, 0.2 |
| neighbours correlate by 0.3 | 2.0, 0 | 6.9, 0 | 12, 0 | 25, 0.1 |
| neighbours correlate by 0.7 | 12, 0.1 | 45, 0.4 | 84, 1.3 | 100, 5.6 |
| drift of 10 % in 100 points | 1.3, 0 | 17, 0 | 100, 7.3 | 100, 38 |

So it does not hold where points of neighbouring days resemble each other or drift: steps are then found that nobody
took, and only the minimum effect keeps most of them off the list.

What it finds. 20 points of 1 % scatter, then 5 that are 5 % slower: listed in 100 % of histories, in 99 % at the very
point; of 3 %: in 51 %, because half of such jumps look smaller than 3 %, and in 94 % of these at the very point.

How large it is. The difference of the two levels' means, with Student's t on the scatter about all levels together; the
interval of 95 % held the true jump in 92 to 98 % of the listed ones with normal scatter, in 84 to 97 % with bad nights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from ruptures import KernelCPD
from scipy.stats import norm
from scipy.stats import t as student_t

from bench.stats import CONFIDENCE

Array = NDArray[np.float64]

LEAST_POINTS = 5
"""Of a level. With 3, three times as many histories with bad nights show a jump that is none (ours)."""
PENALTY = 17.0
"""In variances, per jump: what a segmentation gains by chance in at most 1 % of histories of 10 to 1000 points."""
CLIP = 2.0
WINDOW = 9  # two levels of the least length, less one: the first of five new points is already among its own
_MOST_CHANGES = 20
_SMALLEST_SCATTER = 1e-9  # figures that are all equal; as `noise.SMALLEST_SCALE`
_NORMAL = math.sqrt(2) * float(norm.ppf(0.75))  # median absolute difference of two standard normal values


@dataclass(frozen=True, kw_only=True)
class Level:
    """A stretch of a history that stands still.

    Attributes:
        first, end: indices of its first point and of the one behind its last.
        members: indices of those that it consists of; not of the few that were called a change from it.
        middle: mean of its members.
    """

    first: int
    end: int
    members: tuple[int, ...]
    middle: float


@dataclass(frozen=True, kw_only=True)
class Course:
    """A history as levels.

    Attributes:
        scatter: standard deviation of a point about its level, from all levels together.
        num_free: its degrees of freedom; 0 where it is not known.
    """

    levels: tuple[Level, ...]
    scatter: float
    num_free: int


@dataclass(frozen=True, kw_only=True)
class Change:
    """Two neighbouring levels that differ, in logarithms.

    Attributes:
        first_after: index of the first point of the later level; the one before it is the last of the earlier.
        shift: the later level less the earlier, above 0 where it got slower, with its interval of 95 %.
    """

    first_after: int
    shift: float
    low: float
    high: float
    num_before: int
    num_after: int


def course(values: Sequence[float], is_called: Sequence[bool]) -> Course:
    """The levels of a history.

    Args:
        values: logarithms, in the order of the history.
        is_called: whether a point was called slower or faster than its level when it was measured. Such points are no
            members of a level unless they are LEAST_POINTS or more and most of it: one slow commit would hide the next.
    """
    array = np.asarray(values, dtype=np.float64)
    edges = [0, *_jumps(array), len(array)]
    found = tuple(_level(array, is_called, first, end) for first, end in pairwise(edges) if end > first)
    squares = sum(float(np.sum((array[list(each.members)] - each.middle) ** 2)) for each in found)
    num_free = sum(len(each.members) - 1 for each in found)
    scatter = max(math.sqrt(squares / num_free), _SMALLEST_SCATTER) if num_free else 0.0
    return Course(levels=found, scatter=scatter, num_free=num_free)


def changes(found: Course, min_effect: float) -> tuple[Change, ...]:
    """The jumps of at least the minimum effect (0.03 is 3 %), earliest first."""
    listed = []
    for before, after in pairwise(found.levels):
        num_before, num_after = len(before.members), len(after.members)
        shift = after.middle - before.middle
        width = float(student_t.ppf((1 + CONFIDENCE) / 2, found.num_free))
        half_width = width * found.scatter * math.sqrt(1 / num_before + 1 / num_after)
        if abs(shift) >= max(math.log1p(min_effect), half_width):
            change = Change(
                first_after=after.first,
                shift=shift,
                low=shift - half_width,
                high=shift + half_width,
                num_before=num_before,
                num_after=num_after,
            )
            listed.append(change)
    return tuple(listed)


def _level(values: Array, is_called: Sequence[bool], first: int, end: int) -> Level:
    num_called = sum(is_called[first:end])
    is_theirs = num_called >= max(LEAST_POINTS, (end - first) / 2)
    members = tuple(index for index in range(first, end) if is_theirs or not is_called[index])
    return Level(first=first, end=end, members=members, middle=float(np.mean(values[list(members)])))


def _jumps(values: Array) -> list[int]:
    """Indices of the first point of every level but the first."""
    most = min(_MOST_CHANGES, len(values) // LEAST_POINTS - 1)
    if most < 1:
        return []
    scatter = scatter_of_steps(values)
    clipped = _clipped(values, CLIP * scatter)
    search = KernelCPD(kernel="linear", min_size=LEAST_POINTS).fit(clipped)
    segmentations = [[len(values)], *(search.predict(n_bkps=num) for num in range(most, 0, -1))]
    best = min(segmentations, key=lambda ends: _squares(clipped, ends) + PENALTY * scatter**2 * len(ends))
    return [int(end) for end in best[:-1]]


def scatter_of_steps(values: Array) -> float:
    """Standard deviation of a point, from the differences of neighbours; two values or more."""
    return max(float(np.median(np.abs(np.diff(values)))) / _NORMAL, _SMALLEST_SCATTER)


def _clipped(values: Array, most: float) -> Array:
    """Every value at most so far from the median around it; at the ends there are fewer values around."""
    half = WINDOW // 2
    middles = [float(np.median(values[max(0, at - half) : at + half + 1])) for at in range(len(values))]
    return np.clip(values, np.array(middles) - most, np.array(middles) + most)


def _squares(values: Array, ends: Sequence[int]) -> float:
    """About the means of the segments that end there."""
    return sum(float(np.var(values[first:end])) * (end - first) for first, end in pairwise([0, *ends]))
