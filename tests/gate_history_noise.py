"""Simulated machines for the tests of histories: what a machine's days do to its points, and its restarts and blocks.

A point's figure is that of the code × the day × the start of each process × the block. A day is shared by both
measurements of a point; its scatter is 1 % unless the model says otherwise. Starts scatter by 0.3 %; blocks are
`gate_noise`'s, 12 in each of 5 restarts.
"""

import math

import numpy as np
from gate_noise import MODELS as OF_BLOCKS
from scipy.signal import lfilter

from bench.gate.change_points import course
from bench.gate.history_decide import Figure, decide_point, needs_confirmation, reference_of

PER_DAY, PER_START = 0.01, 0.003
NUM_RESTARTS, NUM_BLOCKS = 5, 12


def normal(rng, num):
    return PER_DAY * rng.standard_normal(num)


def bad_nights(share):
    """So many nights the machine is busy with something else and takes 1.05 to 1.5 times as long."""
    return lambda rng, num: normal(rng, num) + np.where(rng.random(num) < share, np.log(rng.uniform(1.05, 1.5, num)), 0)


def heavy_tails(degrees):
    """Student's t; 1 % is what a normal of the same middle half has."""
    return lambda rng, num: PER_DAY * rng.standard_t(degrees, num)


def skewed(rng, num):
    """Nights only ever get slower: exponential."""
    return PER_DAY * rng.exponential(size=num)


def correlated(share):
    """Neighbouring nights correlate."""
    return lambda rng, num: (
        PER_DAY * math.sqrt(1 - share**2) * lfilter([1], [1, -share], rng.standard_normal(num + 50))[50:]
    )


def drift(rng, num):
    """The machine gets 10 % slower in 100 points."""
    return normal(rng, num) + 0.001 * np.arange(num)


def shared(rng, num):
    """No dedicated machine: 15 % from run to run."""
    return 0.15 * rng.standard_normal(num)


DAYS = {
    "normal": normal,
    "normal, 0.3 %": lambda rng, num: 0.3 * normal(rng, num),
    "normal, 2 %": lambda rng, num: 2 * normal(rng, num),
    "1 bad night in 30": bad_nights(1 / 30),
    "1 bad night in 12": bad_nights(1 / 12),
    "Student's t, 3 degrees": heavy_tails(3),
    "Student's t, 2 degrees": heavy_tails(2),
    "skewed": skewed,
    "neighbours correlate by 0.3": correlated(0.3),
    "neighbours correlate by 0.7": correlated(0.7),
    "drift of 10 % in 100 points": drift,
    "shared machine, 15 %": shared,
}


def measured(rng, day, blocks):
    """The restarts of one measurement."""
    of_blocks, of_start = OF_BLOCKS[blocks]
    return tuple(
        float(day + PER_START * rng.standard_normal() + of_start(rng) + np.median(of_blocks(rng, NUM_BLOCKS)))
        for _ in range(NUM_RESTARTS)
    )


def figures(rng, days, num, blocks="outliers", slow_from=None, slowdown=1.0):
    """So many points; from one on the code is that much slower."""
    change = np.where(np.arange(num) >= (num if slow_from is None else slow_from), math.log(slowdown), 0.0)
    logs = DAYS[days](rng, num) + change
    return [Figure(first=measured(rng, day, blocks), confirming=measured(rng, day, blocks)) for day in logs]


def values(points):
    """What a history keeps of points: the first measurement."""
    return [each.rounds[0] for each in points]


def decided(earlier, is_called, point):
    """The verdict on a point, its confirming measurement used only where the rule asks for it; None: too short."""
    reference = reference_of(course(values(earlier), is_called), [False] * len(earlier))
    if reference is None:
        return None
    is_open = needs_confirmation(reference, point)
    return decide_point(reference, point if is_open else Figure(first=point.first))


def last_decision(rng, days, num_earlier, slowdown=1.0, blocks="outliers"):
    """Of one point that is that much slower than so many earlier ones."""
    *earlier, point = figures(rng, days, num_earlier + 1, blocks, num_earlier, slowdown)
    return decided(earlier, [False] * num_earlier, point)


def every_decision(rng, days, num, slow_from=None, slowdown=1.0):
    """Night after night, each against those before it."""
    points, found = figures(rng, days, num, slow_from=slow_from, slowdown=slowdown), []
    for index, point in enumerate(points):
        is_called = [each is not None and each.verdict in {"regression", "improved"} for each in found]
        found.append(decided(points[:index], is_called, point))
    return found
