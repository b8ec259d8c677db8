"""Ratios of two figures: their intervals hold the truth, and nothing is called more or less without one."""

import math

import numpy as np
import pytest
from test_report import figure

from bench.report.ratios import ratio_of
from bench.stats import quantile_quantity

NUM_PAIRS = 1000
NOISE = {
    "normal": lambda rng, n, spread: 1 + spread * rng.standard_normal(n),
    "lognormal": lambda rng, n, spread: np.exp(3 * spread * rng.standard_normal(n)),
    "heavy": lambda rng, n, spread: np.exp(spread * rng.standard_t(2, n)),
    "outliers": lambda rng, n, spread: (
        np.exp(spread * rng.standard_normal(n)) / np.where(rng.random(n) < 0.15, 1 + rng.exponential(0.5, n), 1)
    ),
}


def exact(value):
    return figure(value, 0.0, kind="computed")


@pytest.mark.parametrize(
    ("kinds", "counts", "spreads"),
    [
        (("normal", "normal"), (12, 12), (0.01, 0.01)),
        (("lognormal", "lognormal"), (12, 30), (0.01, 0.05)),
        (("heavy", "heavy"), (20, 20), (0.02, 0.02)),
        (("outliers", "outliers"), (12, 20), (0.01, 0.03)),
        (("normal", "outliers"), (30, 30), (0.01, 0.01)),
    ],
)
def test_the_interval_of_a_ratio_of_medians_holds_the_truth(kinds, counts, spreads):
    rng = np.random.default_rng(7)
    truth = [
        float(np.median(NOISE[kind](np.random.default_rng(0), 400_000, spread)))
        for kind, spread in zip(kinds, spreads, strict=True)
    ]
    held = wrong = 0
    for _ in range(NUM_PAIRS):
        found = [
            quantile_quantity(list(map(float, NOISE[kind](rng, n, spread))), unit="image/s", source="simulated noise")
            for kind, n, spread in zip(kinds, counts, spreads, strict=True)
        ]
        ratio = ratio_of(*found)
        held += ratio.low <= truth[1] / truth[0] <= ratio.high
        wrong += {"more": truth[1] < truth[0], "less": truth[1] > truth[0]}.get(ratio.order, False)
    assert held / NUM_PAIRS > 0.94
    assert wrong / NUM_PAIRS < 0.05


def test_exact_counts_have_exact_ratios():
    ratio = ratio_of(exact(200.0), exact(300.0))
    assert (ratio.value, ratio.low, ratio.high, ratio.order) == (1.5, 1.5, 1.5, "more")
    assert ratio.text() == "1.5"
    assert ratio_of(exact(7.0), exact(7.0)).order == "same"
    assert ratio_of(exact(7.0), exact(6.0)).order == "less"


def test_the_interval_is_that_of_the_formula_and_turns_over_with_the_runs():
    a, b = figure(10.0, 1.0), figure(20.0, 2.0)
    ratio, back = ratio_of(a, b), ratio_of(b, a)
    low = math.exp(math.log(2) - math.hypot(math.log(20 / 18), math.log(11 / 10)))
    assert ratio.value == 2.0
    assert ratio.low == pytest.approx(low)
    assert back.high == pytest.approx(1 / ratio.low)
    assert back.low == pytest.approx(1 / ratio.high)
    assert (ratio.order, back.order) == ("more", "less")


def test_an_interval_that_holds_one_says_neither_more_nor_less():
    wide = ratio_of(figure(10.0, 2.0), figure(11.0, 2.0))
    assert (wide.order, wide.why) == ("unknown", "the interval holds 1")
    assert ratio_of(figure(100.0, 1.0), figure(100.5, 1.0)).order == "alike"


@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        (figure(1.0), figure(2.0, 0.1), "A has no interval"),
        (figure(1.0, 0.1), figure(2.0), "B has no interval"),
        (figure(1.0), figure(2.0), "neither has an interval"),
        (figure(1.0, 0.0), figure(2.0, 0.1), "A has no interval"),
    ],
)
def test_without_two_intervals_nothing_is_told(a, b, why):
    ratio = ratio_of(a, b)
    assert (ratio.value, ratio.low, ratio.order, ratio.why) == (2.0, None, "unknown", why)


def test_figures_at_or_below_zero_have_no_ratio_and_are_told_apart_by_their_difference():
    low, middle, near = figure(-0.01, 0.02), figure(0.2, 0.05), figure(0.03, 0.04)
    assert (ratio_of(low, middle).value, ratio_of(low, middle).order) == (None, "more")
    assert ratio_of(middle, low).order == "less"
    assert ratio_of(low, near).order == "unknown"
    assert ratio_of(near, middle).low is None
    assert ratio_of(near, middle).order == "more"


def test_sensors_that_are_not_shared_widen_the_interval():
    a, b = (figure(value, 0.01, systematic=0.05) for value in (1.0, 1.08))
    assert ratio_of(a, b).order == "more"
    apart = ratio_of(a, b, is_sensor_shared=False)
    assert apart.order == "unknown"
    assert apart.low < 1.08 * 0.95**2 < apart.high
    nothing = ratio_of(a, b.model_copy(update={"systematic": 1.0}), is_sensor_shared=False)
    assert (nothing.low, nothing.order) == (None, "unknown")


def test_the_largest_and_smallest_numbers_give_no_infinity():
    ratio = ratio_of(exact(1e-300), exact(1e300))
    assert (ratio.value, ratio.order) == (None, "more")


@pytest.mark.parametrize(
    ("a", "b", "text"),
    [
        (figure(100.0, 1.0), figure(190.0, 3.0), "1.90 (1.86 to 1.94)"),
        (figure(100.0, 10.0), figure(190.0, 10.0), "1.9 (1.7 to 2.1)"),
        (figure(100.0), figure(190.0, 10.0), "1.9"),
        (figure(0.0), figure(190.0, 10.0), "—"),
    ],
)
def test_a_ratio_is_written_with_the_digits_its_interval_leaves(a, b, text):
    assert ratio_of(a, b).text() == text
