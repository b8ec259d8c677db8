"""Does a 95 % interval hold the truth 95 % of the time, with the rule that decides how long to measure in force?

Simulated measurements with known truth go through the functions that real ones go through.
"""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy.stats import norm

from bench.phases import _windows
from bench.phases._presets import PRESETS
from bench.phases._windows import TimedWork, is_settled, measure_throughput, rate
from bench.stats import median_coverage, planned_count, quantile_quantity, trend

NUM_MEASUREMENTS = 1000
FEWEST, MOST = PRESETS["standard"].num_windows
TARGET = PRESETS["standard"].target_half_width
SHARE_OF_OUTLIERS = 0.08


def with_outliers(rng, spread, shape):
    usual = 1 + spread * rng.standard_normal(shape)
    slowed = usual / rng.uniform(1.1, 2, shape)
    return np.where(rng.random(shape) < SHARE_OF_OUTLIERS, slowed, usual)


# Rates of windows: (how to draw them, their true median). Outliers are windows that something slowed.
NOISES = {
    "normal": (lambda rng, spread, shape: 1 + spread * rng.standard_normal(shape), lambda _spread: 1.0),
    "lognormal": (lambda rng, spread, shape: np.exp(spread * rng.standard_normal(shape)), lambda _spread: 1.0),
    "exponential": (
        lambda rng, spread, shape: 1 / (1 + spread * rng.exponential(size=shape)),
        lambda spread: 1 / (1 + spread * np.log(2)),
    ),
    "heavy-tailed": (
        lambda rng, spread, shape: 1 + np.clip(spread * rng.standard_t(3, shape), -0.5, None),
        lambda _spread: 1.0,
    ),
    "outliers": (
        with_outliers,
        lambda spread: 1 + spread * norm.ppf((0.5 - SHARE_OF_OUTLIERS) / (1 - SHARE_OF_OUTLIERS)),
    ),
}
SPREADS = (0.003, 0.015, 0.03)  # from stopping at the fewest windows to hitting the most


def figure_of(samples):
    return quantile_quantity(samples, unit="1", source="test")


def holds(figure, truth):
    return figure.low <= truth <= figure.high


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("spread", SPREADS)
def test_the_95_percent_interval_holds_the_truth_93_to_97_percent_of_the_time_with_the_stop_rule(noise, spread):
    draw, median_of = NOISES[noise]
    rng = np.random.default_rng([round(spread * 1000), *noise.encode()])
    held = []
    for samples in draw(rng, spread, (NUM_MEASUREMENTS, MOST)).tolist():
        n = planned_count(samples[:FEWEST], target_half_width=TARGET, most=MOST)
        held.append(holds(figure_of(samples[:n]), median_of(spread)))
    assert 0.93 <= np.mean(held) <= 0.97


def test_the_same_holds_for_what_measure_throughput_itself_returns(monkeypatch):
    spread = 0.02
    rng = np.random.default_rng(7)
    now = itertools.accumulate(itertools.chain.from_iterable(edge_steps(rng, spread)))
    monkeypatch.setattr(_windows, "perf_counter", lambda: next(now))
    preset = dataclasses.replace(PRESETS["standard"], warmup_s=0.0, min_window_s=0.0, max_duration_s=1e12)
    timed = TimedWork(series="x", work=lambda: None, num_units=1, device="cpu", meters={})
    figures = [rate(measure_throughput(timed, preset), "x") for _ in range(NUM_MEASUREMENTS)]
    assert 0.93 <= np.mean([holds(figure, 1.0) for figure in figures]) <= 0.97
    assert 15 < np.mean([figure.n for figure in figures]) < MOST
    assert np.mean([is_settled(figure, preset) for figure in figures]) > 0.75


def edge_steps(rng, spread):
    """Seconds between consecutive reads of the clock: every step, and so every window, is a draw with median 1."""
    while True:
        yield np.exp(spread * rng.standard_normal(10_000)).tolist()


def test_stopping_at_the_first_narrow_interval_would_not_pass():
    samples = 1 + 0.03 * np.random.default_rng(0).standard_normal((NUM_MEASUREMENTS, MOST))
    held = np.zeros(NUM_MEASUREMENTS, dtype=bool)
    looking = np.ones(NUM_MEASUREMENTS, dtype=bool)
    for n in range(FEWEST, MOST + 1):
        whole = figure_of(list(range(n)))  # ranks: the samples are their own indices
        ordered = np.sort(samples[:, :n], axis=1)
        low, high = ordered[:, int(whole.low)], ordered[:, int(whole.high)]
        stops = looking & (((high - low) / 2 <= TARGET * np.median(ordered, axis=1)) | (n == MOST))
        held[stops] = ((low <= 1) & (high >= 1))[stops]
        looking &= ~stops
    assert held.mean() < 0.935


def test_only_counts_that_cover_close_to_95_percent_are_planned():
    rng = np.random.default_rng(3)
    planned = {
        planned_count((1 + spread * rng.standard_normal(FEWEST)).tolist(), target_half_width=TARGET, most=MOST)
        for spread in np.geomspace(0.002, 0.1, 300)
    }
    assert len(planned) > 5
    assert all(0.95 <= median_coverage(n) <= 0.965 for n in planned)
    assert max(planned) <= MOST


@pytest.mark.parametrize("n", [12, 30])
@pytest.mark.parametrize("spread", [0.03, 0.1])
def test_noise_that_stands_still_is_called_a_trend_in_about_1_percent_of_series_at_most(n, spread):
    samples = 1 + spread * np.random.default_rng(n).standard_normal((NUM_MEASUREMENTS, n))
    assert np.mean([trend(list(row)).is_stationary is False for row in samples]) <= 0.015


@pytest.mark.parametrize(("n", "least_share_found"), [(12, 0.7), (30, 0.97)])
def test_a_drift_of_4_percent_is_found_under_1_percent_of_noise(n, least_share_found):
    slowing = np.linspace(1, 0.96, n)
    samples = slowing * (1 + 0.01 * np.random.default_rng(n).standard_normal((300, n)))
    assert np.mean([trend(list(row)).is_stationary is False for row in samples]) >= least_share_found


def test_neighbours_that_correlate_are_called_a_trend_more_often_as_the_docstring_says():
    rng = np.random.default_rng(5)
    noise = rng.standard_normal((NUM_MEASUREMENTS, 30))
    for index in range(1, 30):
        noise[:, index] = 0.5 * noise[:, index - 1] + np.sqrt(0.75) * noise[:, index]
    share = np.mean([trend(list(1 + 0.03 * row)).is_stationary is False for row in noise])
    assert 0.05 <= share <= 0.13
