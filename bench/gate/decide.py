"""Did it get slower? The rule that turns rounds of pairs into a verdict, and verdicts into an exit code.

Why it exists: on one machine with a stored baseline and a fixed 10 %, a third of the alarms are false and half of the
true slowdowns pass (`tests/gate_noise.py` has those gates as well, so that the comparison can be made again). Here
nothing is compared with what another run measured: base and head took turns, block by block.

The rule, for one workload, on the median m of the pairs' log-ratios and its exact interval [low, high] of 95 %
(`bench.stats`; widened where restarts disagree, `bench.gate.noise`). T is log(1 + max(minimum effect, 3 floors)).

1. First round. high < T: no slowdown of T is left to be found, `ok`. Otherwise, or where m <= -T and high < 0, a
   confirming round is run, in processes of its own.
2. Both rounds. `regression`: low > 0 in the first *and* in the confirming round, each by itself, and m of all their
   pairs >= T. `improved`: the same with the signs turned. `ok`: high of all pairs < T. Else `inconclusive`.

So the confirming round has no minimum effect of its own: it must show by itself that there is a slowdown, and both
together how large. Asking 3 % of either would miss a 5 % slowdown twice as often.

False alarms. If base and head are equally fast, a pair is above 0 as often as below, whatever the noise. low > 0 then
has a probability of at most 2.5 % (1.9 % at 40 pairs) in each round, the rounds are independent, so a regression is
declared in at most 2.5 %² = 0.06 % of gates of one workload, before the minimum effect is even asked for. This takes
pairs for independent and starts for alike. Starts that differ raise it; the widening, three floors in T and the fresh
starts are there for these, and leave 0.02 % where starts scatter by 1 %, 0.3 % at 2 % and 0.8 % at 5 %. A head that is
truly slower, by less than T, may be called a regression too, and is one.

Simulated with 15 % from run to run, 3 % from block to block, 40 pairs over 3 restarts; 10,000 gates of equal sides,
2,000 of 5 % (`tests/gate_noise.py` has the noises, `tests/test_gate_decide.py` the checks). 10 % is found in 99.9 % or
more of gates with all of these, 25 % in all:

| noise | false alarms | equal sides are ok | finds 5 % |
|---|---|---|---|
| normal | 0 | 99.4 % | 99.9 % |
| 8 % of blocks take 1.1 to 2 times as long | 0 | 96.7 % | 98.2 % |
| drift of 20 % within a restart | 0 | 99.3 % | 99.9 % |
| Student's t with 2 degrees of freedom | 0 | 92.2 % | 93.5 % |
| a neighbour on one core half of the time | 0 | 96.6 % | 97.6 % |
| starts scatter by 1 % | 0.02 % | 93.9 % | 97.8 % |
| starts scatter by 2 % | 0.3 % | 83.0 % | 71.0 % |

p-value. One round: the two-sided sign test. Both: with p the larger of the two one-sided ones, p² is itself a p-value
(of two independent uniforms the larger is below t with probability t²); doubled, for either direction.

Several workloads: Benjamini and Hochberg (Journal of the Royal Statistical Society B 57 (1995) 289) on these p-values;
a change that does not survive is none. As every change has p <= 2 · 2.5 %², up to 40 workloads it never bites.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
from scipy.stats import binom, false_discovery_control

from bench.errors import UsageError
from bench.gate.noise import Estimate, estimate, noise_of, smallest_detectable
from bench.gate.pairs import MIN_PAIRS, MIN_RESTARTS, Round, total_pairs
from bench.records import Quantity, unknown
from bench.stats import CONFIDENCE

Verdict = Literal["ok", "improved", "regression", "inconclusive", "invalid"]
Policy = Literal["report", "pass", "fail"]

MIN_EFFECT = 0.03
MAX_THRESHOLD_OVER_EFFECT = 3.0
"""A machine is too noisy for `ok` where three floors ask for more than so many minimum effects (ours)."""
FALSE_ALARM_BOUND = ((1 - CONFIDENCE) / 2) ** 2
"""Largest probability of a regression where head is as fast as base, per workload; above stands what it assumes."""
FALSE_DISCOVERY_RATE = 0.05
EXIT_CODES: Mapping[Verdict, int] = MappingProxyType(
    {"ok": 0, "improved": 0, "regression": 1, "inconclusive": 3, "invalid": 4}
)
_GRAVEST_FIRST: tuple[Verdict, ...] = ("regression", "invalid", "inconclusive", "improved", "ok")
_SOURCE = "median of paired blocks"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What is said of one workload.

    Attributes:
        verdict: see the module.
        reason: one sentence.
        ratio: head's time over base's with its interval of 95 %; of both rounds where the confirming one was run.
        p_value: of base and head being equally fast; None where nothing was decided.
        threshold: the slowdown that counts, 0.03 for 3 %.
        noise_floor: what base against base shows by chance, as a share.
        smallest_detectable: the slowdown that a gate like this one sees in 80 % of cases, with its confirming round.
        num_pairs, num_restarts: behind `ratio`.
        adjusted_p_value: after Benjamini-Hochberg over all workloads; None before that.
    """

    verdict: Verdict
    reason: str
    ratio: Quantity
    p_value: float | None
    threshold: float | None
    noise_floor: float | None
    smallest_detectable: float | None
    num_pairs: int
    num_restarts: int
    adjusted_p_value: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Case:
    """All that the rule looks at, in logarithms."""

    floor: float
    threshold: float
    is_too_noisy: bool
    rounds: tuple[Estimate, ...]
    whole: Estimate


def invalid(reason: str) -> Decision:
    """The verdict where a comparison would mean nothing; the reason is a sentence."""
    return _undecided("invalid", reason, ())


def needs_confirmation(null: Round, first: Round, *, min_effect: float = MIN_EFFECT) -> bool:
    """Whether the first round leaves something open that a confirming round can settle."""
    return not _why_too_few((null, first)) and _leaves_open(_case(null, (first,), min_effect))


def decide(null: Round, first: Round, confirming: Round | None = None, *, min_effect: float = MIN_EFFECT) -> Decision:
    """The verdict on one workload.

    Args:
        null: base against base.
        first: head against base.
        confirming: the same in fresh processes; None where it was not needed, or where there was no time for it.
        min_effect: the slowdown that is worth stopping a change for; 0.03 is 3 %.

    Raises:
        UsageError: a minimum effect that is not above 0.
    """
    judged = (first,) if confirming is None else (first, confirming)
    if too_few := _why_too_few((null, *judged)):
        return _undecided("inconclusive", too_few, judged)
    case = _case(null, judged, min_effect)
    verdict, reason = _first_alone(case) if confirming is None else _both(case)
    visible = smallest_detectable(null.arrays, [each.arrays for each in judged], min_effect)
    whole = case.whole
    return Decision(
        verdict=verdict,
        reason=reason,
        ratio=Quantity(
            value=math.exp(whole.middle),
            unit="1",
            low=math.exp(whole.low),
            high=math.exp(whole.high),
            n=total_pairs(judged),
            kind="measured",
            source=_SOURCE,
        ),
        p_value=_p_value(judged),
        threshold=math.expm1(case.threshold),
        noise_floor=math.expm1(case.floor),
        smallest_detectable=math.expm1(visible),
        num_pairs=total_pairs(judged),
        num_restarts=sum(each.num_restarts for each in judged),
    )


def _why_too_few(rounds: Sequence[Round]) -> str:
    num_pairs, num_restarts = min(each.num_pairs for each in rounds), min(each.num_restarts for each in rounds)
    if num_pairs >= MIN_PAIRS and num_restarts >= MIN_RESTARTS:
        return ""
    return (
        f"A round of {num_pairs} pairs from {num_restarts} starts decides nothing, {MIN_PAIRS} pairs from "
        f"{MIN_RESTARTS} starts are needed: give the gate a larger --budget or fewer --models."
    )


def _undecided(verdict: Verdict, reason: str, judged: Sequence[Round]) -> Decision:
    return Decision(
        verdict=verdict,
        reason=reason,
        ratio=unknown("1", reason, source=_SOURCE),
        p_value=None,
        threshold=None,
        noise_floor=None,
        smallest_detectable=None,
        num_pairs=total_pairs(judged),
        num_restarts=sum(each.num_restarts for each in judged),
    )


def _case(null: Round, judged: tuple[Round, ...], min_effect: float) -> _Case:
    if not 0 < min_effect < math.inf:
        raise UsageError(f"A minimum effect of {min_effect} is no slowdown: give --min-effect above 0, such as 0.03.")
    noise = noise_of(null.arrays, [each.arrays for each in judged], min_effect)
    whole = np.array([pair for each in judged for pair in each.pairs])
    return _Case(
        floor=float(noise.floor),
        threshold=float(noise.threshold),
        is_too_noisy=bool(noise.threshold > math.log1p(MAX_THRESHOLD_OVER_EFFECT * min_effect)),
        rounds=tuple(estimate(np.array(each.pairs)) for each in judged),
        whole=estimate(whole).widened(noise.restart_factor),
    )


def _leaves_open(case: _Case) -> bool:
    may_have_improved = case.whole.middle <= -case.threshold and case.whole.high < 0.0
    return bool(case.whole.high >= case.threshold or may_have_improved)


def _first_alone(case: _Case) -> tuple[Verdict, str]:
    if _leaves_open(case):
        return "inconclusive", f"{_found(case)}, and there was no time for the confirming round: raise --budget."
    return _no_change(case)


def _both(case: _Case) -> tuple[Verdict, str]:
    whole = case.whole
    is_slower = all(each.low > 0 for each in case.rounds)
    is_faster = all(each.high < 0 for each in case.rounds)
    if is_slower and whole.middle >= case.threshold:
        return "regression", f"{_found(case)}; both rounds show it, in processes of their own."
    if is_faster and whole.middle <= -case.threshold:
        return "improved", f"{_found(case)}; both rounds show it, in processes of their own."
    if whole.high < case.threshold:
        return _no_change(case)
    if whole.middle >= case.threshold:
        return "inconclusive", f"{_found(case)}, and the two rounds do not both show it by themselves."
    return (
        "inconclusive",
        f"{_found(case)}, so an increase of {_percent(case.threshold)} cannot be ruled out: raise --budget.",
    )


def _no_change(case: _Case) -> tuple[Verdict, str]:
    if case.is_too_noisy:
        found = f"base against base differs by {_percent(case.floor)} by chance"
        return "inconclusive", f"{_found(case)}, but the machine is too noisy to tell: {found}."
    return "ok", f"{_found(case)}, so no increase of {_percent(case.threshold)} is left to be found."


def _found(case: _Case) -> str:
    """`The head needs 5.1% more per unit of work (+3.9% to +6.4%, threshold 3.0%)`; work costs time or joules."""
    middle, low, high = (math.expm1(end) for end in (case.whole.middle, case.whole.low, case.whole.high))
    direction = "more" if middle >= 0 else "less"
    interval = f"{low:+.1%} to {high:+.1%}, threshold {_percent(case.threshold)}"
    return f"The head needs {abs(middle):.1%} {direction} per unit of work ({interval})"


def _percent(log_ratio: float) -> str:
    return f"{math.expm1(log_ratio):.1%}"


def _p_value(judged: Sequence[Round]) -> float:
    slower = max(_sign_test(sum(pair > 0 for pair in each.pairs), each.num_pairs) for each in judged)
    faster = max(_sign_test(sum(pair < 0 for pair in each.pairs), each.num_pairs) for each in judged)
    return min(1.0, 2 * min(slower, faster) ** len(judged))


def _sign_test(num_hits: int, num_pairs: int) -> float:
    """P(at least so many heads of a fair coin); a pair of exactly 0 is a hit of neither side."""
    return float(binom.sf(num_hits - 1, num_pairs, 0.5))


def decide_all(decisions: Mapping[str, Decision]) -> tuple[dict[str, Decision], Verdict]:
    """Each workload's decision after Benjamini-Hochberg over all that have a p-value, and the verdict on the whole.

    The whole is the gravest: regression, invalid, inconclusive, improved, ok; without any workload it is invalid.
    """
    known = {name: each.p_value for name, each in decisions.items() if each.p_value is not None}
    adjusted = dict(zip(known, map(float, false_discovery_control(list(known.values()))), strict=True)) if known else {}
    found = {name: _adjusted(each, adjusted.get(name)) for name, each in decisions.items()}
    verdicts = {each.verdict for each in found.values()} or {"invalid"}
    return found, next(verdict for verdict in _GRAVEST_FIRST if verdict in verdicts)


def _adjusted(decision: Decision, p_value: float | None) -> Decision:
    is_change = decision.verdict in ("regression", "improved")
    if p_value is None or not is_change or p_value <= FALSE_DISCOVERY_RATE:
        return replace(decision, adjusted_p_value=p_value)
    verdict: Verdict = "inconclusive" if decision.verdict == "regression" else "ok"
    reason = f"{decision.reason[:-1]}, but among so many workloads one such change comes by chance (p {p_value:.2g})."
    return replace(decision, verdict=verdict, reason=reason, adjusted_p_value=p_value)


def exit_code(verdict: Verdict, *, inconclusive: Policy = "report") -> int:
    """0 ok and improved, 1 regression, 3 inconclusive (0 if it shall pass, 1 if it shall fail), 4 invalid."""
    if verdict == "inconclusive" and inconclusive != "report":
        return 0 if inconclusive == "pass" else 1
    return EXIT_CODES[verdict]
