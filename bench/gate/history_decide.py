"""Is this version slower than this machine's own history says it should be? The rule, and how often it is wrong.

Why it exists: side by side (`bench.gate.decide`) two versions share the minute they are measured in. A history has no
such luck: the figure of a point holds whatever the machine was like that day. So its scatter from point to point, and
not that of its blocks, is the noise, and where it is large no history tells anything (the table's last line).

The rule, for one figure of one workload. x is the median over restarts of the median logarithm of seconds (or joules)
per unit: a restart, not a block, is what is drawn anew. m and n are mean and number of the points of the newest level
(`bench.gate.change_points`), s the scatter of points about their levels with f degrees of freedom, and e = s √(1 + 1/n)
the standard error of one more point. d = x - m has the interval d ± t(97.5 %, f) e, Student's for a value that is still
to come. T is max(log(1 + minimum effect), t(99.9 %, f) e).

1. First measurement. The interval's upper end is below T: `ok`. Otherwise, or where d <= -T, a confirming measurement
   is made, in processes of its own.
2. Both. `regression`: the lower end is above 0 in each by itself, and d of all their restarts >= T. `improved`: the
   same with the signs turned. `ok`: the upper end of all is below T. Else `inconclusive`.

Where T is more than three minimum effects, the machine is too noisy for `ok`.

Which level. The newest; but while there is an earlier one, not one that points of this very commit make up alone, or
measuring a slow commit again and again would make it good. Points that were called slower or faster do not count to a
level, unless they are LEAST_POINTS or more and most of it. So after a slow commit the next ones are called slow too,
until there are so many of them; the alarm then ends (of 10 % after 5 points in 95 % of histories, seldom after 20), and
the change stays in the list.

False alarms. With normal scatter, d reaches T by chance in 0.1 % of points. The confirming measurement takes away what
belongs to a minute or to a process, and nothing of what belongs to the day: a night that is 10 % slow to its end is
called so, and `bench gate --base` must tell it from a commit.

Simulated from the first point on, in per cent: unchanged code over 60 nights (11,000 verdicts a line), and a slowdown
after 20 nights (300 a line). 1 % from night to night unless it says otherwise, 0.3 % from start to start, 3 % from
block to block with 8 % of blocks interrupted (`tests/gate_history_noise.py`):

| nights | false alarms | `ok` | finds 5 % | finds 10 % | would have seen |
|---|---|---|---|---|---|
| normal, 0.3 % | 0 | 99.6 | 100 | 100 | 3.6 |
| normal | 0.05 | 92.5 | 67 | 100 | 5.5 |
| normal, 2 % | 0.05 | 76.1 | 11 | 77 | 9.8 |
| one in 30 takes 1.05 to 1.5 times as long | 3.0 | 76.8 | 59 | 88 | 5.4 |
| one in 12 does | 7.4 | 58.6 | 48 | 68 | 6.3 |
| Student's t with 3 degrees of freedom | 0.85 | 86.4 | 32 | 95 | 7.0 |
| Student's t with 2 degrees of freedom | 1.7 | 78.5 | 27 | 86 | 8.0 |
| exponential | 1.2 | 90.2 | 74 | 100 | 4.9 |
| neighbours correlate by 0.3 | 0.07 | 93.2 | 69 | 100 | 5.2 |
| neighbours correlate by 0.7 | 0.15 | 92.3 | 82 | 100 | 4.5 |
| drift of 10 % in 100 points | 0.45 | 78.3 | 78 | 100 | 5.9 |
| shared machine, 15 % | 0.13 | 0 | 0 | 0.3 | 98 |

So 0.1 % holds for normal scatter, and about for correlated one. It does not hold for heavy tails, and a bad night is an
alarm nearly every time: this is for machines that do nothing else.

Smallest visible slowdown. T + t(80 %, f) e: a point that is so much slower reaches T in 80 % of cases.

Several workloads: `decide_all` of `bench.gate.decide`, as side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from scipy.stats import t as student_t

from bench.errors import UsageError
from bench.gate.case import inconclusive
from bench.gate.change_points import LEAST_POINTS, Course
from bench.gate.decide import MAX_THRESHOLD_OVER_EFFECT, MIN_EFFECT, Decision, Verdict
from bench.gate.noise import POWER
from bench.records import Quantity
from bench.stats import CONFIDENCE

FALSE_ALARMS = 0.001
"""Of points, per workload, where the scatter is normal: of one point a night, one in three years (ours)."""
_SOURCE = "figure over the level of earlier points"
_TAIL = (1 + CONFIDENCE) / 2


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a point is compared with, in logarithms.

    Attributes:
        middle: mean of the level's points.
        num_points: of the level.
        newest: index of the newest of them in the history.
        scatter: standard deviation of a point about its level.
        num_free: its degrees of freedom.
    """

    middle: float
    num_points: int
    newest: int
    scatter: float
    num_free: int

    @property
    def error(self) -> float:
        """Standard error of one more point's distance from the level."""
        return self.scatter * math.sqrt(1 + 1 / self.num_points)

    def within(self, probability: float) -> float:
        """One more point lies at most so far above the level with that probability."""
        return float(student_t.ppf(probability, self.num_free)) * self.error

    def chance_above(self, distance: float) -> float:
        """Probability that one more point lies so far above the level, or further."""
        return float(student_t.sf(distance / self.error, self.num_free))


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What a point's restarts say, each a median logarithm per unit.

    Attributes:
        first: of the first measurement, which the history keeps as the point's.
        confirming: of the second one; empty where there was none.
    """

    first: tuple[float, ...]
    confirming: tuple[float, ...] = ()

    @property
    def rounds(self) -> list[float]:
        """One value per measurement."""
        return [median(each) for each in (self.first, self.confirming) if each]

    @property
    def whole(self) -> float:
        """One value of all restarts."""
        return median((*self.first, *self.confirming))


@dataclass(frozen=True, kw_only=True)
class _Case:
    """All that the rule looks at, in logarithms: distances from the level, and what counts."""

    reference: Reference
    rounds: tuple[float, ...]
    whole: float
    half_width: float
    threshold: float
    is_too_noisy: bool

    @property
    def low(self) -> float:
        return self.whole - self.half_width

    @property
    def high(self) -> float:
        return self.whole + self.half_width


def reference_of(found: Course, is_own: Sequence[bool]) -> Reference | None:
    """The level to compare with, or None where there is none of LEAST_POINTS.

    Args:
        found: the levels of the earlier points.
        is_own: whether a point is of the very commit that is compared.
    """
    long_enough = [each for each in found.levels if len(each.members) >= LEAST_POINTS]
    of_others = [each for each in long_enough if not all(is_own[each.first : each.end])]
    if not long_enough:
        return None
    level = (of_others or long_enough)[-1]
    return Reference(
        middle=level.middle,
        num_points=len(level.members),
        newest=level.members[-1],
        scatter=found.scatter,
        num_free=found.num_free,
    )


def needs_confirmation(reference: Reference, figure: Figure, min_effect: float = MIN_EFFECT) -> bool:
    """Whether the first measurement leaves something open that a confirming one can settle."""
    return _leaves_open(_case(reference, Figure(first=figure.first), min_effect))


def decide_point(reference: Reference, figure: Figure, min_effect: float = MIN_EFFECT) -> Decision:
    """The verdict on one figure of a point.

    Args:
        reference: the level it is compared with.
        figure: what was measured; its confirming part is empty where there was no time for it or no need of it.
        min_effect: the slowdown that is worth stopping a change for; 0.03 is 3 %.

    Raises:
        UsageError: a minimum effect that is not above 0.
    """
    case = _case(reference, figure, min_effect)
    verdict, reason = _both(case) if len(case.rounds) > 1 else _first_alone(case)
    return Decision(
        verdict=verdict,
        reason=reason,
        ratio=Quantity(
            value=math.exp(case.whole),
            unit="1",
            low=math.exp(case.low),
            high=math.exp(case.high),
            n=len(figure.first) + len(figure.confirming),
            kind="measured",
            source=_SOURCE,
        ),
        p_value=_p_value(case),
        threshold=math.expm1(case.threshold),
        noise_floor=math.expm1(reference.error),
        smallest_detectable=math.expm1(case.threshold + reference.within(POWER)),
        num_pairs=0,
        num_restarts=len(figure.first) + len(figure.confirming),
    )


def too_short(num_points: int) -> Decision:
    """The verdict where the newest level has too few points; `num_points` of it will be there for the next one."""
    missing = max(0, LEAST_POINTS - num_points)
    left = f"{missing} more point{' is' if missing == 1 else 's are'} missing" if missing else "the next one has them"
    return inconclusive(f"There is no level of {LEAST_POINTS} earlier points to compare with: {left}.")


def _case(reference: Reference, figure: Figure, min_effect: float) -> _Case:
    if not 0 < min_effect < math.inf:
        raise UsageError(f"A minimum effect of {min_effect} is no slowdown: give --min-effect above 0, such as 0.03.")
    return _Case(
        reference=reference,
        rounds=tuple(each - reference.middle for each in figure.rounds),
        whole=figure.whole - reference.middle,
        half_width=reference.within(_TAIL),
        threshold=_threshold(reference, min_effect),
        is_too_noisy=is_too_noisy(reference, min_effect),
    )


def is_too_noisy(reference: Reference, min_effect: float) -> bool:
    """Whether points scatter so much that `ok` would mean little."""
    return _threshold(reference, min_effect) > math.log1p(MAX_THRESHOLD_OVER_EFFECT * min_effect)


def _threshold(reference: Reference, min_effect: float) -> float:
    return max(math.log1p(min_effect), reference.within(1 - FALSE_ALARMS))


def _leaves_open(case: _Case) -> bool:
    return case.high >= case.threshold or case.whole <= -case.threshold


def _first_alone(case: _Case) -> tuple[Verdict, str]:
    if _leaves_open(case):
        return "inconclusive", f"{_found(case)}, and there was no time for the confirming measurement: raise --budget."
    return _no_change(case)


def _both(case: _Case) -> tuple[Verdict, str]:
    shown = f"{_found(case)}; both measurements show it, in processes of their own."
    if all(each > case.half_width for each in case.rounds) and case.whole >= case.threshold:
        return "regression", shown
    if all(each < -case.half_width for each in case.rounds) and case.whole <= -case.threshold:
        return "improved", shown
    if case.high < case.threshold:
        return _no_change(case)
    if case.whole >= case.threshold:
        return "inconclusive", f"{_found(case)}, and the two measurements do not both show it by themselves."
    beside = "side by side, without --history, smaller ones are seen"
    return "inconclusive", f"{_found(case)}, so one of {_percent(case.threshold)} cannot be ruled out; {beside}."


def _no_change(case: _Case) -> tuple[Verdict, str]:
    if case.is_too_noisy:
        why = f"but points of one level scatter by {_percent(case.reference.scatter)}, too much to tell"
        return "inconclusive", f"{_found(case)}, {why}: compare side by side, without --history."
    return "ok", f"{_found(case)}, so no increase of {_percent(case.threshold)} is left to be found."


def _found(case: _Case) -> str:
    """`It needs 5.1% more per unit of work than the level of 12 earlier points (+3.9% to +6.4%, threshold 3.0%)`."""
    middle, low, high = (math.expm1(end) for end in (case.whole, case.low, case.high))
    direction = "more" if middle >= 0 else "less"
    interval = f"{low:+.1%} to {high:+.1%}, threshold {_percent(case.threshold)}"
    level = f"the level of {case.reference.num_points} earlier points"
    return f"It needs {abs(middle):.1%} {direction} per unit of work than {level} ({interval})"


def _percent(log_ratio: float) -> str:
    return f"{math.expm1(log_ratio):.1%}"


def _p_value(case: _Case) -> float:
    """Two-sided; of two measurements the less striking, because they share their day."""
    slower = max(case.reference.chance_above(each) for each in case.rounds)
    faster = max(case.reference.chance_above(-each) for each in case.rounds)
    return min(1.0, 2 * min(slower, faster))
