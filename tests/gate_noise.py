"""Simulated machines for the gate's tests: what noise does to blocks, and gates of other designs to compare with.

A block's time is speed of the machine during this run (15 % from run to run) × noise of the block (3 %) × whatever the
model adds × the slowdown, if it is the head's. Blocks run in the order and are paired by the functions that real ones
go through. The other gates see the same machine, but base and head in runs of their own.
"""

import math

import numpy as np
from scipy.stats import mannwhitneyu
from scipy.stats import t as student_t

from bench.gate.decide import decide, needs_confirmation
from bench.gate.pairs import Round, block_order, log_ratios

RUN_TO_RUN = 0.15
PER_BLOCK = 0.03
SHARE_OF_OUTLIERS = 0.08  # as in test_coverage.py
PAIRS = (14, 14, 12)  # 40 over 3 restarts, each even


def normal(rng, num):
    return PER_BLOCK * rng.standard_normal(num)


def outliers(rng, num):
    """8 % of blocks are interrupted and take 1.1 to 2 times as long."""
    slowed = np.where(rng.random(num) < SHARE_OF_OUTLIERS, np.log(rng.uniform(1.1, 2, num)), 0)
    return normal(rng, num) + slowed


def drift(rng, num):
    """The machine gets 20 % slower within a restart, as it warms up."""
    return normal(rng, num) + np.linspace(0, math.log(1.2), num)


def heavy_tails(rng, num):
    """Student's t with 2 degrees of freedom: no variance at all."""
    return PER_BLOCK * rng.standard_t(2, num)


def skewed(rng, num):
    """Blocks only ever get slower: exponential."""
    return PER_BLOCK * rng.exponential(size=num)


def autocorrelated(rng, num):
    """Neighbouring blocks correlate by 0.7."""
    steps = normal(rng, num)
    found = np.empty(num)
    found[0] = steps[0]
    for index in range(1, num):
        found[index] = 0.7 * found[index - 1] + math.sqrt(1 - 0.49) * steps[index]
    return found


def neighbour(rng, num):
    """Another process takes a core half of the time, for 1 to 20 blocks at a stretch: a block then takes 1.6 times as
    long, and in part where it comes or goes."""
    stretches = rng.uniform(1, 20, num + 2)
    edges = np.cumsum(stretches) - rng.uniform(0, 20)
    is_busy_first = rng.integers(2)
    times = (np.arange(num * 10) + 0.5) / 10
    is_busy = (np.searchsorted(edges, times) + is_busy_first) % 2
    share = is_busy.reshape(num, 10).mean(axis=1)
    return normal(rng, num) + np.log1p(0.6 * share)


def in_step(rng, num):
    """The worst neighbour for ABBA: busy for two blocks, idle for two, for ever."""
    return normal(rng, num) + np.log(1.6) * ((np.arange(num) + rng.integers(4)) % 4 < 2)


def nothing_else(rng):
    return 0.0


def starts_differ(spread):
    """Each start of a process draws a speed of its own."""
    return lambda rng: math.sqrt(2) * spread * rng.standard_normal()  # head's draw less base's


MODELS = {
    "normal": (normal, nothing_else),
    "outliers": (outliers, nothing_else),
    "drift": (drift, nothing_else),
    "heavy tails": (heavy_tails, nothing_else),
    "skewed": (skewed, nothing_else),
    "autocorrelated": (autocorrelated, nothing_else),
    "neighbour": (neighbour, nothing_else),
    "neighbour in step": (in_step, nothing_else),
    "starts differ by 1 %": (normal, starts_differ(0.01)),
    "starts differ by 2 %": (normal, starts_differ(0.02)),
}


def simulated_round(rng, model, slowdown=1.0, pairs=PAIRS):
    """A round of restarts with so many pairs each, head `slowdown` times as slow as base."""
    of_blocks, of_start = MODELS[model]
    restarts = []
    for num_pairs in pairs:
        order = block_order(num_pairs, seed=int(rng.integers(2**31)))
        is_head = np.array([side == "head" for side in order])
        logs = RUN_TO_RUN * rng.standard_normal() + of_blocks(rng, len(order))
        logs = logs + is_head * (math.log(slowdown) + of_start(rng))
        restarts.append(log_ratios(order, np.exp(logs).tolist()))
    return Round(log_ratios=tuple(restarts))


def simulated_gate(rng, model, slowdown=1.0, pairs=PAIRS):
    """A whole gate as the runner has it: A/A, first round, and the confirming one where it is asked for."""
    null, first = simulated_round(rng, model, 1.0, pairs), simulated_round(rng, model, slowdown, pairs)
    confirming = simulated_round(rng, model, slowdown, pairs) if needs_confirmation(null, first) else None
    return decide(null, first, confirming)


def one_run(rng, model, slowdown, num):
    """Times of so many blocks of one program in a run of its own."""
    return slowdown * np.exp(RUN_TO_RUN * rng.standard_normal() + MODELS[model][0](rng, num))


def fixed_margin_alarm(rng, model, slowdown):
    """Median of 40 blocks more than 10 % above that of a stored run."""
    return np.median(one_run(rng, model, slowdown, 40)) > 1.1 * np.median(one_run(rng, model, 1.0, 40))


def mann_whitney_alarm(rng, model, slowdown):
    """40 blocks against 40 of a stored run, one-sided at 5 %."""
    base, head = one_run(rng, model, 1.0, 40), one_run(rng, model, slowdown, 40)
    return mannwhitneyu(head, base, alternative="greater", method="asymptotic").pvalue < 0.05


def history_alarm(rng, model, slowdown):
    """The median of a run against those of 20 stored ones, by Student's t for a new value, two-sided at 1 %."""
    history = np.array([np.median(one_run(rng, model, 1.0, 40)) for _ in range(20)])
    distance = np.median(one_run(rng, model, slowdown, 40)) - history.mean()
    return distance / (history.std(ddof=1) * math.sqrt(1 + 1 / 20)) > student_t.ppf(0.995, 19)


OTHER_GATES = {
    "stored baseline, fixed 10 %": fixed_margin_alarm,
    "Mann-Whitney against a stored run": mann_whitney_alarm,
    "t-test on history": history_alarm,
}
