"""`rfd_v1`: grows with every damage, is checked before use, and never passes for the usual distance."""

import itertools
import json

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional

from bench.datasets import stacked_digits
from bench.datasets._spec import OpenDataset
from bench.errors import BenchError
from bench.metrics import _random_features as random_features
from bench.metrics import rfd_v1
from bench.metrics.rfd_v1 import METRIC

NUM_IMAGES = 300
RESOLUTION = 32


class InMemory:
    """An ImageSet of given images, which remembers what was asked for."""

    def __init__(self, images):
        self.images = images
        self.asked = []

    def __len__(self):
        return len(self.images)

    def read(self, indices):
        self.asked.extend(indices.tolist())
        return self.images[indices]


def opened(reference):
    return OpenDataset(train=InMemory(reference[:1]), reference=InMemory(reference), protocol={})


def pairs(seed, *, num_kinds=8, share_broken=0.0, count=NUM_IMAGES):
    """A wall and two objects that match in shape (disc, square) and colour (4), uint8 [n, 3, 32, 32]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:RESOLUTION, 0:RESOLUTION] + 0.5
    walls, colours = (
        np.array([60, 110, 160, 210]),
        np.array([[220, 50, 50], [50, 200, 80], [60, 80, 220], [230, 200, 40]]),
    )
    images = np.empty((count, 3, RESOLUTION, RESOLUTION))
    for position in range(count):
        image = images[position]
        image[:] = rng.choice(walls) + 20 * rows / RESOLUTION
        kind = rng.integers(num_kinds)
        for centre in (8, 24):
            if centre == 24 and rng.random() < share_broken:
                kind = rng.integers(num_kinds)
            down, right = rows - 16 - rng.uniform(-3, 3), columns - centre - rng.uniform(-1, 1)
            radius = rng.uniform(4, 6)
            outside = np.hypot(down, right) if kind % 2 else np.maximum(abs(down), abs(right))
            cover = np.clip(radius + 0.5 - outside, 0, 1)
            image[:] = image + cover * (colours[kind // 2][:, None, None] - image)
    return as_pixels(images)


def as_pixels(values):
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def noise(count=NUM_IMAGES):
    return np.random.default_rng(99).integers(0, 256, size=(count, 3, RESOLUTION, RESOLUTION), dtype=np.uint8)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads of a busy machine wait for one another; small batches are faster without."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def prepared():
    return METRIC.prepare(opened(pairs(0)))


@pytest.fixture(scope="module")
def real():
    return pairs(1)


@pytest.fixture(scope="module")
def score(prepared):
    """images → distance, without the interval."""

    def distance(images):
        return prepared.reference.distance(rfd_v1.moments_of(random_features.features_of(prepared.network, images)))

    return distance


@pytest.fixture(scope="module")
def floor(score, real):
    return score(real)


def assert_grows(values):
    assert all(later > 1.05 * earlier for earlier, later in itertools.pairwise(values)), values


def test_it_grows_with_noise(score, real, floor):
    rng = np.random.default_rng(2)
    unit = rng.normal(size=real.shape)
    assert_grows([floor, *(score(as_pixels(real + sigma * unit)) for sigma in (6, 14, 40))])


def test_it_grows_with_blur(score, real, floor):
    blurred = [as_pixels(gaussian_filter(real.astype(float), (0, 0, sigma, sigma))) for sigma in (0.5, 0.9, 2.0)]
    assert_grows([floor, *map(score, blurred)])


def test_it_grows_with_every_mode_that_is_lost(score, floor):
    assert_grows([floor, *(score(pairs(3, num_kinds=num_kinds)) for num_kinds in (5, 2, 1))])


def test_it_grows_with_the_share_of_broken_pairs(score, floor):
    assert_grows([floor, *(score(pairs(4, share_broken=share)) for share in (0.5, 1.0))])


def test_left_halves_of_other_images_are_seen(score, real, floor):
    swapped = real.copy()
    swapped[..., : RESOLUTION // 2] = np.roll(real, 1, axis=0)[..., : RESOLUTION // 2]
    assert score(swapped) > 3 * floor


def test_flat_brightness_is_seen_although_every_filter_is_blind_to_it(score, real, floor):
    assert score(as_pixels(real + 30.0)) > 2 * floor


def test_noise_scores_a_hundred_times_the_floor(score, floor):
    assert score(noise()) > 100 * floor


def test_one_image_repeated_is_far_and_has_a_value(prepared, real, floor):
    scorer = prepared.scorer()
    scorer.update(np.repeat(real[:1], 100, axis=0))
    assert scorer.figures()["rfd_v1_biased"].value > 5 * floor


def test_the_figures_depend_on_neither_batch_size_nor_order(prepared, real):
    at_once, in_parts = prepared.scorer(), prepared.scorer()
    at_once.update(real[:120])
    for part in np.array_split(np.random.default_rng(5).permutation(120), 17):
        in_parts.update(real[part])
    first, second = (scorer.figures()["rfd_v1_biased"] for scorer in (at_once, in_parts))
    for end in ("value", "low", "high"):
        assert getattr(second, end) == pytest.approx(getattr(first, end), rel=1e-5)
    assert first.low < first.value < first.high
    assert first.n == 120


def test_fewer_images_than_the_protocol_asks_for_have_the_other_name(prepared, real):
    scorer = prepared.scorer()
    scorer.update(real)
    figures = scorer.figures()
    assert set(figures) == set(METRIC.figures)
    assert figures["rfd_v1"].value is None
    assert "300 generated and 300 reference" in figures["rfd_v1"].note
    assert figures["rfd_v1_biased"].value > 0
    assert "biased" in figures["rfd_v1_biased"].note


def test_the_counts_of_the_protocol_have_the_name_of_the_protocol(real, monkeypatch):
    monkeypatch.setattr(rfd_v1, "NUM_IMAGES", 60)
    dataset = opened(pairs(0, count=200))
    prepared = METRIC.prepare(dataset)
    scorer = prepared.scorer()
    scorer.update(real[:60])
    figures = scorer.figures()
    assert figures["rfd_v1"].value > 0
    assert figures["rfd_v1_biased"].value is None
    assert figures["rfd_v1_biased"].note
    chosen = dataset.reference.asked
    assert len(set(chosen)) == len(chosen) == prepared.protocol["num_reference"] == 60
    assert max(chosen) > 100, "the first images are not a selection"
    again = opened(dataset.reference.images)
    assert METRIC.prepare(again).protocol == prepared.protocol
    assert again.reference.asked == chosen


@pytest.mark.parametrize(("num_reference", "num_generated"), [(49, 60), (60, 49), (60, 0)])
def test_fewer_than_fifty_images_have_no_value_but_a_reason(real, num_reference, num_generated):
    scorer = METRIC.prepare(opened(pairs(0, count=num_reference))).scorer()
    if num_generated:
        scorer.update(real[:num_generated])
    figures = scorer.figures()
    assert set(figures) == set(METRIC.figures)
    assert all(figure.value is None and "too few" in figure.note for figure in figures.values())


def test_nothing_it_emits_bears_the_name_of_another_metric(prepared):
    scorer = prepared.scorer()
    scorer.update(pairs(6, count=60))
    names = [*METRIC.figures, *scorer.figures(), *prepared.protocol]
    sources = [figure.source for figure in scorer.figures().values()]
    text = json.dumps([names, sources, prepared.protocol, METRIC.title]).lower()
    assert "fid" not in text
    assert "inception" not in text


def test_real_digits_are_near_and_noise_is_far_on_real_data():
    digits = stacked_digits.SPEC.open(RESOLUTION, None)
    prepared = METRIC.prepare(opened(digits.reference.read(np.arange(NUM_IMAGES))))
    features = [
        random_features.features_of(prepared.network, images)
        for images in (digits.train.read(np.arange(NUM_IMAGES)), noise())
    ]
    near, far = (prepared.reference.distance(rfd_v1.moments_of(each)) for each in features)
    assert far > 10 * near


def test_fifty_varied_reference_images_are_not_taken_for_noise():
    digits = stacked_digits.SPEC.open(RESOLUTION, None)
    assert METRIC.prepare(opened(digits.reference.read(np.arange(50)))).reference is not None


def test_a_changed_weight_is_refused(monkeypatch):
    filters = random_features.draw_filters()
    filters[2][5, 3, 1, 1] += 2.0**-20
    monkeypatch.setattr(random_features, "draw_filters", lambda: filters)
    with pytest.raises(BenchError, match="weights of the random network"):
        METRIC.prepare(opened(pairs(0, count=60)))


def test_another_network_on_the_same_weights_is_refused(monkeypatch):
    monkeypatch.setattr(random_features, "_LAYOUT_COLOUR_SCALE", 0.50001)
    with pytest.raises(BenchError, match="output on the fixed image"):
        METRIC.prepare(opened(pairs(0, count=60)))


def test_convolutions_in_a_lower_precision_are_refused(monkeypatch):
    exact = functional.conv2d

    def rounded(x, weights):
        if x.dtype == torch.float64:
            return exact(x, weights)
        return exact(x.bfloat16(), weights.bfloat16()).to(x.dtype)

    monkeypatch.setattr(functional, "conv2d", rounded)
    with pytest.raises(BenchError, match="lower precision"):
        random_features.checked_features()


def test_a_reference_that_noise_is_near_to_is_refused():
    with pytest.raises(BenchError, match="look like noise"):
        METRIC.prepare(opened(noise(100)))


def test_filters_are_zero_mean_and_of_norm_root_two():
    for stage, (weights, width) in enumerate(zip(random_features.draw_filters(), (32, 64, 128, 256), strict=True)):
        rows = weights.reshape(width, -1)
        assert weights.shape == (width, 3 if stage == 0 else width // 2, 3, 3)
        assert rows.mean(dim=1).abs().max() < 1e-6
        assert (rows.norm(dim=1) - 2**0.5).abs().max() < 1e-4


@pytest.mark.parametrize("resolution", [16, 48, 100, 256])
def test_every_resolution_gives_the_same_width(prepared, resolution):
    images = np.random.default_rng(7).integers(0, 256, size=(2, 3, resolution, resolution), dtype=np.uint8)
    features = random_features.features_of(prepared.network, images)
    assert features.shape == (2, random_features.FEATURE_WIDTH)
    assert np.isfinite(features).all()


def test_images_of_another_kind_are_refused(prepared, real):
    for wrong in (real.astype(np.float32), real[:, :1], real[..., :8, :8], real[0]):
        with pytest.raises(BenchError, match="takes uint8 images"):
            prepared.scorer().update(wrong)


def test_it_applies_everywhere_but_to_random_images():
    assert METRIC.why_not("scenes") is None
    assert METRIC.why_not("folder") is None
    assert "quality" in METRIC.why_not("synthetic")


def test_the_protocol_is_plain_and_pins_weights_and_reference(prepared):
    protocol = prepared.protocol
    assert json.loads(json.dumps(protocol)) == protocol
    assert protocol["weights_sha256"] == random_features.WEIGHTS_SHA256
    assert protocol["num_reference"] == NUM_IMAGES
    assert METRIC.prepare(opened(pairs(8, count=60))).protocol["reference_sha256"] != protocol["reference_sha256"]
