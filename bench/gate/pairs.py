"""Pairs of blocks: the order they run in, the sample they give, and how many a budget of minutes has room for.

Why it exists: two processes measured one after the other differ by what the machine did meanwhile; two blocks that run
within a second of each other hardly do. Base and head stay resident and take turns, and one sample is
log(head's time per unit / base's) of two neighbouring blocks, so that what slows both alike cancels.

Order. Four blocks are `base head head base` (ABBA, a counterbalanced design: Cochran & Cox, Experimental Designs, 2nd
ed. 1957, ch. 4). Let every block be slower than the one before it by d: the first pair then reads +d and the second -d.
A restart holds as many pairs of either order, so a linear drift cancels exactly in the mean. The median of the pairs
stays where it was if the noise is symmetric, and its interval only gets wider than it need be: the count of pairs above
the median is then a sum of unlike coins, which scatters less than that of like ones (Hoeffding, Annals of Mathematical
Statistics 27 (1956) 713, doi:10.1214/aoms/1177728178). Deliberately unlike a plain ABBA, each four is turned round to
`head base base head` by the toss of a seeded coin: a neighbour whose own period is four blocks would otherwise hit
the same side every time, and read as a change.

Restarts are an outer level. Memory layout, hash seeds and the core a process woke up on are drawn once per start and
shift all of its pairs together (Mytkowicz et al., ASPLOS 2009, doi:10.1145/1508244.1508275; Kalibera & Jones, ISMM
2013, doi:10.1145/2464157.2464160). More pairs of one start never average that away; `bench.gate.decide` judges it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from random import Random
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.errors import BenchError, UsageError

Side = Literal["base", "head"]

MIN_PAIRS = 12
"""Pairs that a round needs; with fewer the verdict is inconclusive. 5 pairs give no interval, whatever they read."""
MIN_RESTARTS = 2
"""One start alone says nothing of how much starts differ."""
RESTARTS_AND_LEAST_PAIRS = ((5, 40), (3, MIN_PAIRS), (MIN_RESTARTS, MIN_PAIRS))
"""What a plan tries, the best first. 40 pairs over 5 restarts instead of 3 tell as much of like starts; where starts
scatter by 2 %, they find 5 % in 88 % of gates instead of 71 %, with a third of the false alarms (simulated)."""
MAX_PAIRS = 60  # ours: the smallest visible slowdown is then 3.4 % at 3 % of noise, and 3 % is what is asked
NUM_ROUNDS = 3  # A/A, first, confirming: a budget has to have room for the last one too


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one round of a workload measured.

    Attributes:
        log_ratios: one tuple of pairs per process restart, each log(head's time per unit / base's); in an A/A round
            the head is the base again, in a process of its own.
    """

    log_ratios: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not self.log_ratios or not all(self.log_ratios):
            raise BenchError("A round of the gate has a restart without pairs: measure it again.")
        if not all(map(math.isfinite, self.pairs)):
            raise BenchError("A round of the gate holds a ratio that is not finite: measure it again.")

    @property
    def pairs(self) -> tuple[float, ...]:
        """All pairs, restart after restart."""
        return tuple(chain.from_iterable(self.log_ratios))

    @property
    def arrays(self) -> list[NDArray[np.float64]]:
        """The pairs of each restart as an array."""
        return [np.array(pairs) for pairs in self.log_ratios]

    @property
    def num_pairs(self) -> int:
        """Pairs of all restarts."""
        return sum(map(len, self.log_ratios))

    @property
    def num_restarts(self) -> int:
        """How often both processes were started."""
        return len(self.log_ratios)


def block_order(num_pairs: int, *, seed: int) -> tuple[Side, ...]:
    """Whose turn each of the 2 · num_pairs blocks of one restart is: fours of ABBA or BAAB, chosen by the seed.

    Raises:
        UsageError: an odd or no number of pairs, in which a drift would not cancel.
    """
    if num_pairs < 2 or num_pairs % 2:
        raise UsageError(
            f"{num_pairs} pairs per restart cannot be put in ABBA order: ask for an even number from 2 on."
        )
    coin = Random(seed)
    fours: tuple[tuple[Side, ...], ...] = (("base", "head", "head", "base"), ("head", "base", "base", "head"))
    return tuple(chain.from_iterable(coin.choice(fours) for _ in range(num_pairs // 2)))


def log_ratios(order: Sequence[Side], times_s: Sequence[float]) -> tuple[float, ...]:
    """The pairs of one restart.

    Args:
        order: whose block it was, from `block_order`.
        times_s: seconds per unit of work of each block, in the order they ran.

    Raises:
        BenchError: a time that is not a positive number, or not one time per block.
    """
    if len(order) != len(times_s):
        raise BenchError(f"{len(times_s)} times came back from {len(order)} blocks: measure the restart again.")
    if not all(math.isfinite(time_s) and time_s > 0 for time_s in times_s):
        raise BenchError("A block took no positive time: make it longer.")
    signs = [1.0 if side == "head" else -1.0 for side in order]
    logs = [sign * math.log(time_s) for sign, time_s in zip(signs, times_s, strict=True)]
    return tuple(logs[index] + logs[index + 1] for index in range(0, len(logs), 2))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a budget is spent: `NUM_ROUNDS` rounds alike, of which the last is only run where it is needed.

    Attributes:
        num_restarts: of a round; 0 where the budget has no room for a round that can decide.
        pairs_per_restart: even.
        duration_s: of all rounds; where there is no room, of the smallest that could decide.
        reason: why the verdict can only be inconclusive; empty where it can be more.
    """

    num_restarts: int
    pairs_per_restart: int
    duration_s: float
    reason: str = ""

    @property
    def num_pairs(self) -> int:
        """Pairs of one round."""
        return self.num_restarts * self.pairs_per_restart


def plan_rounds(budget_s: float, *, block_s: float, start_s: float, max_pairs: int = MAX_PAIRS) -> Plan:
    """As many pairs as the budget has room for, over 5, 3 or 2 restarts (`RESTARTS_AND_LEAST_PAIRS`).

    Args:
        budget_s: for all rounds, the confirming one among them.
        block_s: seconds of one block of one side, of all workloads together.
        start_s: seconds to start both sides once and warm them up.
        max_pairs: beyond which a round is not made longer.

    Raises:
        UsageError: a budget or a duration that is not positive, or fewer pairs allowed than `MIN_PAIRS`.
    """
    if not all(math.isfinite(each) and each > 0 for each in (budget_s, block_s)) or not 0 <= start_s < math.inf:
        raise UsageError(
            "A gate's budget and the seconds of a block must be positive: give --budget, for example 6min."
        )
    if max_pairs < MIN_PAIRS:
        raise UsageError(f"{max_pairs} pairs are fewer than the {MIN_PAIRS} that a verdict needs: allow more.")
    for num_restarts, least_pairs in RESTARTS_AND_LEAST_PAIRS:
        room_s = budget_s / (NUM_ROUNDS * num_restarts) - start_s
        pairs = _even(min(room_s / (2 * block_s), max_pairs / num_restarts))
        if pairs * num_restarts >= least_pairs:
            duration_s = NUM_ROUNDS * num_restarts * (start_s + 2 * block_s * pairs)
            return Plan(num_restarts=num_restarts, pairs_per_restart=pairs, duration_s=duration_s)
    least = MIN_PAIRS // MIN_RESTARTS
    needed_s = NUM_ROUNDS * MIN_RESTARTS * (start_s + 2 * block_s * least)
    reason = f"{budget_s:.0f} s of the budget are left and {MIN_PAIRS} pairs a round need {needed_s:.0f} s"
    return Plan(num_restarts=0, pairs_per_restart=0, duration_s=needed_s, reason=reason)


def _even(most: float) -> int:
    """The largest even count that is not above it."""
    return max(0, 2 * math.floor(most / 2 + 1e-9))


def total_pairs(rounds: Iterable[Round]) -> int:
    """Pairs of several rounds together."""
    return sum(each.num_pairs for each in rounds)
