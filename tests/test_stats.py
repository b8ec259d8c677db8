import numpy as np
import pytest

from bench.stats import quantile_quantity, relative_half_width


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
