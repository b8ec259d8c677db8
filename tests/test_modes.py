"""Statistics of counted modes: known values, intervals that cover."""

import math

import numpy as np
import pytest

from bench.metrics._modes import (
    distinct_modes_interval,
    expected_kl,
    expected_modes,
    kl_from_uniform,
    wilson_interval,
)


def draws(seed, num_images, num_modes, repeats, weights=None):
    rng = np.random.default_rng(seed)
    shares = np.full(num_modes, 1 / num_modes) if weights is None else weights
    return rng.multinomial(num_images, shares, size=repeats)


def coverage(intervals, truth):
    return np.mean([found.low <= truth <= found.high for found in intervals])


def test_the_wilson_interval_is_the_textbook_one():
    found = wilson_interval(45, 50)
    assert found.value == 0.9
    assert (found.low, found.high) == pytest.approx((0.7864, 0.9565), abs=1e-4)


@pytest.mark.parametrize("num_hits", [0, 1, 49, 50])
def test_the_wilson_interval_holds_its_value_and_never_leaves_the_shares(num_hits):
    found = wilson_interval(num_hits, 50)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high


def test_modes_seen_are_counted_and_lie_in_their_interval():
    found = distinct_modes_interval(np.array([0, 1, 1, 1, 5, 0, 2, 0]))
    assert found.value == 5
    assert 0 <= found.low < 5 < found.high <= 8


def test_the_interval_of_the_modes_follows_colwell_with_chao():
    counts = np.array([1] * 10 + [2] * 4 + [7] * 16 + [0] * 70)
    estimate = 30 + 10 * 9 / (2 * 5)
    reach = 1.959964 * math.sqrt(30 * (1 - 30 / estimate))
    found = distinct_modes_interval(counts)
    assert (found.low, found.high) == pytest.approx((30 - reach, 30 + reach), rel=1e-6)


def test_no_image_at_all_shows_no_mode():
    found = distinct_modes_interval(np.zeros(10, dtype=np.int64))
    assert (found.low, found.value, found.high) == (None, 0, None)


@pytest.mark.parametrize("num_images", [300, 1000, 3000])
def test_the_interval_of_the_modes_covers_what_is_expected_at_that_count(num_images):
    found = [distinct_modes_interval(counts) for counts in draws(0, num_images, 1000, 300)]
    assert coverage(found, expected_modes(num_images, 1000)) >= 0.93
    assert np.mean([each.value for each in found]) == pytest.approx(expected_modes(num_images, 1000), rel=0.005)


def test_divergence_is_zero_for_even_counts_and_largest_for_one_mode():
    assert kl_from_uniform(np.full(10, 7)).value == pytest.approx(0, abs=1e-12)
    one = kl_from_uniform(np.array([0, 900, 0, 0]))
    assert one.value == pytest.approx(math.log(4))
    assert one.low <= one.value <= one.high <= math.log(4)
    few = kl_from_uniform(np.array([0, 9, 0, 0]))
    assert (few.low, few.high) == (None, None)
    half = kl_from_uniform(np.array([5, 5, 0, 0]))
    assert half.value == pytest.approx(math.log(2))


def test_divergence_is_the_sum_of_its_definition():
    counts = np.array([3, 1, 0, 6])
    shares = counts[counts > 0] / 10
    assert kl_from_uniform(counts).value == pytest.approx(float((shares * np.log(shares * 4)).sum()))


def test_the_interval_of_the_divergence_covers_its_mean_for_an_uneven_source():
    weights = np.arange(1, 51) / np.arange(1, 51).sum()
    found = [kl_from_uniform(counts) for counts in draws(1, 2000, 50, 400, weights)]
    assert 0.90 <= coverage(found, np.mean([each.value for each in found])) <= 0.99


def test_the_interval_of_the_divergence_is_not_too_narrow_for_an_even_source():
    found = [kl_from_uniform(counts) for counts in draws(2, 5000, 1000, 300)]
    assert coverage(found, expected_kl(5000, 1000)) >= 0.95


@pytest.mark.parametrize("num_images", [100, 5000])
def test_the_expected_divergence_is_the_mean_of_many_draws(num_images):
    found = [kl_from_uniform(counts).value for counts in draws(3, num_images, 200, 400)]
    assert np.mean(found) == pytest.approx(expected_kl(num_images, 200), rel=0.02)
