"""The Fréchet distance: closed forms, rank-deficient sets, no dependence on order, an interval that covers."""

import numpy as np
import pytest
from scipy import linalg

from bench.metrics._frechet import (
    ContentGroups,
    FrechetReference,
    GroupedMoments,
    Moments,
    estimate_distance,
    merge,
    merge_all,
    moments_of,
    remove,
)


def gaussian(mean, covariance, count=10**6):
    covariance = np.asarray(covariance, dtype=np.float64)
    return Moments(count=count, mean=np.asarray(mean, dtype=np.float64), scatter=covariance * (count - 1))


def distance(first, second):
    return FrechetReference(first).distance(second)


def correlated(rng, n, d, shift=0.0):
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / np.sqrt(d) + shift


def test_gaussians_with_diagonal_covariances_have_the_closed_form():
    first, second = np.array([4.0, 1.0, 0.25, 9.0]), np.array([1.0, 1.0, 4.0, 16.0])
    expected = 3**2 + 4**2 + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    assert distance(gaussian([0, 0, 0, 0], np.diag(first)), gaussian([3, 0, -4, 0], np.diag(second))) == pytest.approx(
        expected, abs=1e-8
    )


def test_gaussians_that_do_not_commute_have_the_closed_form_of_two_dimensions():
    first, second = np.array([[2.0, 0.6], [0.6, 1.0]]), np.array([[1.0, -0.4], [-0.4, 3.0]])
    product = first @ second
    overlap = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))  # tr of the root of a 2x2 matrix
    expected = 1 + np.trace(first) + np.trace(second) - 2 * overlap
    assert distance(gaussian([0, 1], first), gaussian([0, 0], second)) == pytest.approx(expected, abs=1e-8)


def test_it_agrees_with_the_general_matrix_square_root():
    rng = np.random.default_rng(0)
    first, second = (moments_of(correlated(rng, 300, 40, shift)) for shift in (0.0, 0.3))
    root = linalg.sqrtm(first.covariance @ second.covariance).real
    gap = first.mean - second.mean
    expected = gap @ gap + np.trace(first.covariance) + np.trace(second.covariance) - 2 * np.trace(root)
    assert distance(first, second) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("n", [2, 30, 79, 81, 500])
def test_a_set_is_at_distance_zero_from_itself_with_fewer_or_more_images_than_features(n):
    moments = moments_of(correlated(np.random.default_rng(n), n, 80))
    assert abs(distance(moments, moments)) < 1e-8


def test_repeated_and_constant_features_do_not_disturb_the_zero():
    features = correlated(np.random.default_rng(1), 400, 20)
    moments = moments_of(np.hstack([features, features, np.full((400, 20), 7.0)]))
    assert abs(distance(moments, moments)) < 1e-8


def test_the_distance_is_symmetric_even_where_one_covariance_lacks_rank():
    rng = np.random.default_rng(2)
    few, many = moments_of(correlated(rng, 20, 60)), moments_of(correlated(rng, 500, 60))
    assert distance(few, many) == pytest.approx(distance(many, few), abs=1e-8)


def test_sets_in_orthogonal_planes_share_nothing():
    assert distance(gaussian([0, 0], np.diag([5.0, 0])), gaussian([0, 0], np.diag([0, 3.0]))) == pytest.approx(
        8.0, abs=1e-8
    )


def test_statistics_depend_on_neither_order_nor_batch_size():
    rng = np.random.default_rng(3)
    features = correlated(rng, 3000, 12, shift=1e3)
    groups = rng.integers(0, 10, size=3000)
    order = rng.permutation(3000)
    at_once, in_parts = GroupedMoments(), GroupedMoments()
    at_once.add(features, groups)
    for part in np.array_split(order, 311):
        in_parts.add(features[part], groups[part])
    for first, second in zip(at_once.by_group(), in_parts.by_group(), strict=True):
        assert first.count == second.count
        np.testing.assert_allclose(second.mean, first.mean, rtol=1e-12)
        np.testing.assert_allclose(second.scatter, first.scatter, rtol=1e-10, atol=1e-10 * first.scatter.max())
    whole = merge_all(at_once.by_group())
    np.testing.assert_allclose(whole.covariance, np.cov(features, rowvar=False), rtol=1e-9, atol=1e-10)


def test_a_group_that_is_removed_leaves_what_the_others_have():
    rng = np.random.default_rng(4)
    kept, dropped = (moments_of(correlated(rng, n, 8, shift=50.0)) for n in (70, 30))
    left = remove(merge(kept, dropped), dropped)
    assert left.count == 70
    np.testing.assert_allclose(left.mean, kept.mean, rtol=1e-12)
    np.testing.assert_allclose(left.scatter, kept.scatter, atol=1e-10 * kept.scatter.max())


def test_float32_features_are_cast_before_anything_is_computed():
    rng = np.random.default_rng(5)
    features = (correlated(rng, 500, 30) + 100.0).astype(np.float32)
    moments, exact = moments_of(features), moments_of(features.astype(np.float64))
    assert moments.scatter.dtype == moments.mean.dtype == np.float64
    np.testing.assert_array_equal(moments.scatter, exact.scatter)
    grouped = GroupedMoments(num_groups=1)
    grouped.add(features, np.zeros(500, dtype=np.int64))
    np.testing.assert_allclose(merge_all(grouped.by_group()).scatter, exact.scatter, rtol=1e-12)
    in_float32 = (features.T @ features - 500 * np.outer(features.mean(0), features.mean(0))).astype(np.float64)
    assert np.abs(in_float32 / exact.scatter - 1).max() > 1e-4, "float32 would have been good enough here"


def test_changing_the_features_given_afterwards_changes_nothing():
    features = np.random.default_rng(6).normal(size=(100, 4))
    grouped = GroupedMoments(num_groups=1)
    grouped.add(features, np.zeros(100, dtype=np.int64))
    expected = moments_of(features).mean
    features[:] = 0
    np.testing.assert_array_equal(merge_all(grouped.by_group()).mean, expected)


def test_images_are_dealt_by_content_whatever_their_order_and_batch():
    rng = np.random.default_rng(7)
    images = rng.integers(0, 256, size=(200, 3, 4, 4), dtype=np.uint8)
    at_once = ContentGroups().deal(images)
    order = rng.permutation(200)
    dealer = ContentGroups()
    in_parts = np.concatenate([dealer.deal(images[part]) for part in np.array_split(order, 17)])
    np.testing.assert_array_equal(in_parts, at_once[order])
    assert set(at_once) == set(range(10))


def test_copies_of_one_image_are_spread_over_the_groups():
    sizes = np.bincount(ContentGroups().deal(np.zeros((2000, 3, 4, 4), dtype=np.uint8)), minlength=10)
    assert 120 < sizes.min() <= sizes.max() < 280


def test_the_interval_covers_the_mean_distance_at_that_count():
    rng = np.random.default_rng(8)
    reference = FrechetReference(gaussian([0, 0, 0], np.diag([1.0, 2.0, 3.0])))
    estimates = []
    for _ in range(400):
        grouped = GroupedMoments()
        grouped.add(rng.normal(0.3, 1.2, size=(200, 3)), rng.integers(0, 10, size=200))
        estimates.append(estimate_distance(reference, grouped))
    mean = np.mean([estimate.value for estimate in estimates])
    covered = np.mean([estimate.low <= mean <= estimate.high for estimate in estimates])
    assert 0.90 <= covered <= 0.99


def test_leaving_a_large_group_out_is_not_taken_for_scatter():
    # Groups of very different size: the 1/n bias differs between the parts, the pseudo-values cancel it.
    rng = np.random.default_rng(9)
    features, reference = rng.normal(size=(2000, 30)), FrechetReference(gaussian(np.zeros(30), np.eye(30)))
    equal, unequal = GroupedMoments(), GroupedMoments()
    equal.add(features, np.arange(2000) % 10)
    unequal.add(features, np.minimum(rng.geometric(0.25, size=2000) - 1, 9))
    widths = [estimate.high - estimate.low for estimate in (estimate_distance(reference, g) for g in (equal, unequal))]
    assert widths[1] < 2.5 * widths[0]


def test_one_group_gives_a_value_without_an_interval():
    grouped = GroupedMoments()
    grouped.add(np.random.default_rng(10).normal(size=(50, 3)), np.full(50, 4))
    estimate = estimate_distance(FrechetReference(gaussian(np.zeros(3), np.eye(3))), grouped)
    assert estimate.value > 0
    assert estimate.low is None
    assert estimate.high is None
    assert estimate.n == 50


def test_one_feature_has_no_covariance():
    with pytest.raises(ValueError, match="two features"):
        _ = moments_of(np.zeros((1, 3))).covariance
