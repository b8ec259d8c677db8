"""The exact quality metric on `scenes`."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import ndimage, stats

from bench.datasets import _scene_geometry as geometry
from bench.datasets.scenes import SPEC, render, scenes_at
from bench.datasets.synthetic import SPEC as SYNTHETIC
from bench.errors import UsageError
from bench.metrics import _modes
from bench.metrics.mode_coverage import METRIC, ModeScorer

NUM_IMAGES = 3000


def expected_modes(num_images):
    return _modes.expected_modes(num_images, geometry.NUM_MODES)


def expected_kl(num_images):
    return _modes.expected_kl(num_images, geometry.NUM_MODES)


@pytest.fixture(scope="module")
def real_images():
    return SPEC.open(32, None).train.read(np.arange(NUM_IMAGES))


def figures_of(images, batch_size=500):
    scorer = METRIC.prepare(SPEC.open(images.shape[-1], None)).scorer()
    for start in range(0, len(images), batch_size):
        scorer.update(images[start : start + batch_size])
    return scorer.figures()


def figures_of_counts(mode_counts):
    """Figures of perfect images, that many of each mode."""
    num_images = int(mode_counts.sum())
    scorer = ModeScorer(resolution=32, num_images=num_images, num_valid=num_images, num_both_sides=num_images)
    scorer.num_pairs, scorer.mode_counts = num_images, mode_counts
    by_level = mode_counts.reshape(tuple(geometry.FACTORS.values()))
    marginals = [by_level.sum(axis=tuple({0, 1, 2, 3, 4} - {axis})) for axis in (0, 3, 4, 1, 2, 3, 4)]
    scorer.level_counts = dict(zip(scorer.level_counts, marginals, strict=True))
    return scorer.figures()


def uniform_draws(num_draws, num_images):
    shares = np.full(geometry.NUM_MODES, 1 / geometry.NUM_MODES)
    return np.random.default_rng(0).multinomial(num_images, shares, size=num_draws)


def test_it_applies_to_scenes_only():
    assert METRIC.why_not("scenes") is None
    assert "scenes" in METRIC.why_not("cifar10")
    with pytest.raises(UsageError, match="scenes-v1"):
        METRIC.prepare(SYNTHETIC.open(32, None))


def test_real_images_are_valid_cover_the_modes_and_match(real_images):
    found = figures_of(real_images)
    assert set(found) == set(METRIC.figures)
    assert found["validity"].value >= 0.99
    assert found["pair_consistency"].value >= 0.99
    assert found["modes_covered"].low <= expected_modes(NUM_IMAGES) <= found["modes_covered"].high
    assert found["modes_covered"].value == len(set(scenes_at(np.arange(NUM_IMAGES)).mode))
    assert found["mode_kl"].value == pytest.approx(expected_kl(NUM_IMAGES), abs=0.03)
    assert found["factor_drift"].value < 0.04
    assert {(each.kind, each.source) for each in found.values()} == {("measured", "mode_coverage (scenes-v1 decoder)")}


def test_figures_depend_neither_on_batch_size_nor_on_order(real_images):
    images = real_images[:700].copy()
    images[:200] = np.rint(ndimage.gaussian_filter(images[:200].astype(float), (0, 0, 1, 1))).astype(np.uint8)
    assert 0.1 < figures_of(images)["validity"].value < 0.95
    order = np.random.default_rng(0).permutation(700)
    assert figures_of(images, 700) == figures_of(images, 13) == figures_of(images[order], 1)


def test_noise_grey_and_grey_blobs_score_zero(real_images):
    noise = np.random.default_rng(0).integers(0, 256, (300, 3, 32, 32), np.uint8)
    grey = np.full((300, 3, 32, 32), 128, np.uint8)
    mean = np.repeat(real_images.mean(axis=0, keepdims=True), 300, axis=0).astype(np.uint8)
    for images in (noise, grey, mean):
        found = figures_of(images)
        assert [found[name].value for name in ("validity", "modes_covered", "pair_consistency")] == [0, 0, 0]
        assert found["modes_covered"].high is None
        assert 0 < found["validity"].high < 0.02
        for name in ("mode_kl", "factor_drift"):
            assert found[name].value is None
            assert found[name].note.startswith("no image")


def test_blurred_images_are_invalid(real_images):
    soft = ndimage.gaussian_filter(real_images[:300].astype(float), (0, 0, 1.5, 1.5))
    found = figures_of(np.rint(soft).astype(np.uint8))
    assert found["validity"].value < 0.02
    assert found["pair_consistency"].value < 0.1


def test_sides_that_ignore_each_other_match_by_chance_only():
    """Images of one wall and one light, each with the lower right quarter of the next."""
    num_images = 3000
    scenes = scenes_at(np.arange(num_images))
    same_room = dataclasses.replace(
        scenes, wall=np.zeros(num_images, np.int64), light=np.full(num_images, 0.9, np.float32)
    )
    images = render(same_room, 32)
    assert figures_of(images)["pair_consistency"].value > 0.99
    images[:, :, 16:, 16:] = np.roll(images[:, :, 16:, 16:], 1, axis=0)
    found = figures_of(images)
    assert found["validity"].value > 0.99
    assert found["pair_consistency"].low < 1 / 20 < found["pair_consistency"].high
    expected = expected_modes(num_images / 20) / 4  # an image whose sides differ belongs to no mode; one wall of four
    assert found["modes_covered"].value < 1.3 * 4 * expected
    assert found["mode_kl"].n == pytest.approx(num_images * found["pair_consistency"].value, rel=0.01)
    assert found["factor_drift"].value == pytest.approx(0.75)
    assert "the factor is wall" in found["factor_drift"].note


def test_collapse_is_seen(real_images):
    few = np.unique(scenes_at(np.arange(NUM_IMAGES)).mode)[:10]
    collapsed = real_images[np.isin(scenes_at(np.arange(NUM_IMAGES)).mode, few)]
    found = figures_of(np.repeat(collapsed, 20, axis=0))
    assert found["validity"].value == 1
    assert found["modes_covered"].value == found["modes_covered"].high == 10
    assert found["mode_kl"].value > math.log(1600 / 10)
    assert found["factor_drift"].value > 0.7


def test_a_mode_seen_as_often_as_any_other_has_no_divergence():
    found = figures_of_counts(np.full(geometry.NUM_MODES, 4))
    assert found["mode_kl"].value == pytest.approx(0, abs=1e-12)
    assert found["factor_drift"].value == pytest.approx(0, abs=1e-12)
    assert found["modes_covered"].value == 1600
    one = np.zeros(geometry.NUM_MODES, np.int64)
    one[7] = 6400
    assert figures_of_counts(one)["mode_kl"].value == pytest.approx(math.log(1600))


def test_expected_figures_of_real_draws_are_those_of_simulated_ones():
    assert expected_modes(1) == pytest.approx(1)
    assert expected_modes(5000) == pytest.approx(1529.8, abs=0.1)
    found = [figures_of_counts(counts) for counts in uniform_draws(100, 5000)]
    modes, divergences = ([each[name].value for each in found] for name in ("modes_covered", "mode_kl"))
    assert np.mean(modes) == pytest.approx(expected_modes(5000), abs=5 * np.std(modes) / 10)
    assert np.mean(divergences) == pytest.approx(expected_kl(5000), abs=5 * np.std(divergences) / 10)


@pytest.mark.parametrize("num_images", [100, 500, 5000])
def test_intervals_hold_the_expected_value_as_often_as_they_say(num_images):
    found = [figures_of_counts(counts) for counts in uniform_draws(200, num_images)]
    for name, truth in (("modes_covered", expected_modes(num_images)), ("mode_kl", expected_kl(num_images))):
        held = np.mean([each[name].low <= truth <= each[name].high for each in found])
        assert stats.binom.cdf(round(held * 200), 200, 0.95) > 0.001, (name, held)


def test_the_jackknife_in_closed_form_is_the_jackknife():
    counts = np.zeros(geometry.NUM_MODES, np.int64)
    counts[:4] = [1, 20, 30, 70]
    left_out = []
    for mode in np.repeat(np.arange(4), counts[:4]):
        fewer = counts.copy()
        fewer[mode] -= 1
        left_out.append(figures_of_counts(fewer)["mode_kl"].value)
    expected = math.sqrt(120 / 121 * np.sum((left_out - np.mean(left_out)) ** 2))
    found = figures_of_counts(counts)["mode_kl"]
    assert found.value - found.low == pytest.approx(1.959964 * expected)


def test_the_interval_of_the_drift_holds_a_known_drift():
    walls = np.array([0.4, 0.25, 0.25, 0.1])  # total variation 0.15 from a quarter each
    shares = np.repeat(walls / 400, 400)
    held = [
        figures_of_counts(counts)["factor_drift"] for counts in np.random.default_rng(0).multinomial(5000, shares, 200)
    ]
    assert np.mean([each.low <= 0.15 <= each.high for each in held]) > 0.9


def test_fewer_images_than_the_protocol_asks_for_are_noted(real_images):
    for figure in figures_of(real_images[:100]).values():
        assert "n = 100 images, the protocol asks for 5000" in figure.note
    enough = figures_of_counts(uniform_draws(1, 5000)[0])
    assert not any("protocol asks" in figure.note for figure in enough.values())


def test_a_divergence_of_very_few_images_has_no_interval():
    found = figures_of_counts(uniform_draws(1, 99)[0])["mode_kl"]
    assert found.value > 0
    assert found.low is None
    assert "too few for an interval" in found.note


def test_nothing_seen_is_unknown_and_not_zero():
    found = METRIC.prepare(SPEC.open(64, None)).scorer().figures()
    assert set(found) == set(METRIC.figures)
    assert all(figure.value is None and figure.note for figure in found.values())


def test_another_resolution_than_prepared_for_is_refused(real_images):
    with pytest.raises(UsageError, match="64 pixels"):
        METRIC.prepare(SPEC.open(64, None)).scorer().update(real_images[:2])


def test_the_protocol_tells_what_decides_the_values():
    protocol = METRIC.prepare(SPEC.open(128, None)).protocol
    assert protocol["num_images"] == METRIC.num_images == 5000
    assert protocol["overlap_threshold"] == pytest.approx(0.9356)
    assert protocol["expected_modes_of_real_images"] == pytest.approx(1529.8, abs=0.1)
    assert {"decoder", "palette_sha256", "resolution", "mode", "estimators"} <= set(protocol)
