import numpy as np
import pytest

from bench.stats import median_coverage, planned_count, quantile_quantity, relative_half_width, trend


@pytest.mark.parametrize("n", [6, 11, 12, 30, 101])
def test_the_median_interval_holds_the_truth_in_at_least_95_percent_of_skewed_samples(n):
    rng = np.random.default_rng(1)
    truth = np.log(2)  # median of the unit exponential
    samples = rng.exponential(size=(1500, n))
    quantities = [quantile_quantity(list(row), unit="s", source="test") for row in samples]
    share = np.mean([quantity.low <= truth <= quantity.high for quantity in quantities])
    assert share >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 1500)


def test_too_few_samples_give_a_value_without_an_interval_and_say_so():
    quantity = quantile_quantity([1.0, 2.0, 3.0, 4.0, 5.0], unit="s", source="test")
    assert quantity.value == 3.0
    assert quantity.low is None
    assert "too few" in quantity.note


def test_no_sample_is_unknown_and_not_zero():
    quantity = quantile_quantity([], unit="s", source="test")
    assert quantity.value is None


def test_a_high_percentile_needs_many_samples_for_an_interval():
    few = quantile_quantity(list(range(100)), unit="ms", source="test", probability=0.99)
    many = quantile_quantity(list(range(1000)), unit="ms", source="test", probability=0.99)
    assert few.low is None
    assert many.low < 990 < many.high


def test_half_width_is_relative_to_the_value_and_none_without_an_interval():
    wide = quantile_quantity([9.0, 9.5, 10.0, 10.0, 10.5, 11.0], unit="s", source="test")
    assert relative_half_width(wide) == pytest.approx(0.1)
    assert relative_half_width(quantile_quantity([1.0], unit="s", source="test")) is None


@pytest.mark.parametrize("n", [6, 8, 12, 17, 33])
def test_the_stated_coverage_of_a_count_is_what_samples_show(n):
    rng = np.random.default_rng(n)
    ordered = np.sort(rng.standard_normal((20_000, n)), axis=1)
    whole = quantile_quantity([float(rank) for rank in range(n)], unit="1", source="ranks")
    held = (ordered[:, int(whole.low)] <= 0) & (ordered[:, int(whole.high)] >= 0)
    assert held.mean() == pytest.approx(median_coverage(n), abs=4 * np.sqrt(0.05 * 0.95 / 20_000))


def test_too_few_samples_cover_nothing():
    assert median_coverage(5) == 0.0


@pytest.mark.parametrize(("half_width", "n"), [(0.001, 12), (0.008, 12), (0.011, 25), (0.02, 59), (0.5, 59)])
def test_a_wider_pilot_asks_for_more_samples_up_to_the_most(half_width, n):
    pilot = [1.0] * 12
    pilot[:3], pilot[-3:] = [1 - half_width] * 3, [1 + half_width] * 3
    assert planned_count(pilot, target_half_width=0.01, most=60) == n


def test_a_pilot_that_is_all_there_is_time_for_stays_as_it_is():
    pilot = [0.5, 1.5] * 7
    assert planned_count(pilot, target_half_width=0.01, most=14) == 14
    assert planned_count(pilot, target_half_width=0.01, most=9) == 14


def test_a_step_half_way_is_no_chance_and_has_its_size_and_direction():
    found = trend([1.0, 1.001, 0.999, 1.0, 1.002, 1.001, 0.999, 1.0] * 2 + [0.9, 0.901, 0.899, 0.9] * 4)
    assert found.is_stationary is False
    assert found.change == pytest.approx(-0.1, abs=0.002)


def test_a_clear_order_that_is_too_small_to_matter_stands_still():
    found = trend([1 + 0.0001 * index for index in range(20)])
    assert found.p_value < 1e-6
    assert found.is_stationary is True


def test_equal_samples_stand_still_and_few_samples_do_not_tell():
    assert trend([2.0] * 10).is_stationary is True
    assert trend([2.0] * 10).p_value is None
    assert trend([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]).is_stationary is None
