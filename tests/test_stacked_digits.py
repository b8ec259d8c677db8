"""`stacked-digits`: the pixels are pinned, the parts share no digit, the modes are even."""

import hashlib
import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from scipy import ndimage, stats
from sklearn.datasets import load_digits

from bench.datasets.stacked_digits import NUM_MODES, PARTS, SPEC, digits_of, enlarge
from bench.errors import UsageError

# SHA-256 of images 0..63 of each set. They change only with a new version of the data set.
GOLDEN = {
    (32, "train"): "acc24fae07656f72d4cb5051e05bc83bcfc3bb0ce6c32e30894bf288ceea80de",
    (32, "reference"): "8d4529f7172f50f0868ebc7093db967b54e3547228bf5317fc0a3d78bc8f1db8",
    (64, "train"): "00e4f9040e6f906100dd2eea26f17274946e90a7f91dcbd034aa0bc22d394b61",
    (64, "reference"): "c4642dcc0a88831de05cab4a3ca4373e31dd87ef1967d5c1b55940d69cac6944",
}


@pytest.fixture(scope="module")
def opened():
    return {resolution: SPEC.open(resolution, None) for resolution in SPEC.resolutions}


@pytest.mark.parametrize(("resolution", "part"), GOLDEN)
def test_the_pixels_are_those_of_version_1(opened, resolution, part):
    images = getattr(opened[resolution], part).read(np.arange(64))
    assert images.dtype == np.uint8
    assert images.shape == (64, 3, resolution, resolution)
    assert hashlib.sha256(images.tobytes()).hexdigest() == GOLDEN[resolution, part]


def test_an_image_is_a_function_of_its_index_alone(opened):
    train = opened[32].train
    indices = np.array([5, len(train) - 1, 5, 0, 77_777])
    one_by_one = np.concatenate([train.read(indices[i : i + 1]) for i in range(len(indices))])
    np.testing.assert_array_equal(train.read(indices), one_by_one)
    assert train.read(indices[:0]).shape == (0, 3, 32, 32)


def test_both_resolutions_show_the_same_digits(opened):
    indices = np.arange(200)
    np.testing.assert_array_equal(opened[32].train.classes(indices), opened[64].train.classes(indices))
    small, large = (opened[r].train.read(indices).astype(float) for r in (32, 64))
    halved = large.reshape(200, 3, 32, 2, 32, 2).mean(axis=(3, 5))
    assert np.abs(halved - small).mean() < 2.5


def test_every_digit_is_in_exactly_one_part():
    bundle = load_digits()
    parts = [digits_of(part) for part in PARTS]
    together = np.concatenate([part.pixels for part in parts]).reshape(-1, 64)
    order, bundle_order = np.lexsort(together.T), np.lexsort(bundle.data.T)
    np.testing.assert_array_equal(together[order], bundle.data[bundle_order])
    contents = [{digit.tobytes() for digit in part.pixels} for part in parts]
    assert all(contents[a].isdisjoint(contents[b]) for a, b in [(0, 1), (0, 2), (1, 2)])
    for part in parts:
        assert np.bincount(part.classes, minlength=10).min() >= 57
        assert (np.diff(part.classes) >= 0).all()


def test_the_channels_of_an_image_are_the_digits_of_its_own_part_and_class(opened):
    for part in ("train", "reference"):
        images, classes = getattr(opened[32], part).read(np.arange(100)), getattr(opened[32], part).classes(range(100))
        digits = digits_of(part)
        known = {
            (channel.tobytes(), int(digit))
            for channel, digit in zip(enlarge(digits.pixels, 32), digits.classes, strict=True)
        }
        shown = {(images[i, c].tobytes(), int(classes[i, c])) for i in range(100) for c in range(3)}
        assert shown <= known


def test_the_modes_are_even_and_the_channels_independent(opened):
    classes = opened[32].train.classes(np.arange(50_000))
    counts = np.bincount(classes @ np.array([100, 10, 1]), minlength=NUM_MODES)
    assert counts.shape == (NUM_MODES,)
    assert 1e-4 < stats.chisquare(counts).pvalue < 1 - 1e-4


def test_every_digit_of_the_part_is_used_about_equally_within_its_class(opened):
    images = opened[32].reference.read(np.arange(20_000))
    shown = Counter(channel.tobytes() for channel in images.reshape(-1, 1024))
    assert len(shown) == len(digits_of("reference").classes)
    assert 60 < min(shown.values()) <= max(shown.values()) < 150


@pytest.mark.parametrize("resolution", [32, 64])
def test_enlarging_is_bilinear_with_half_pixel_centres(resolution):
    pixels = digits_of("labeller").pixels[:20]
    ratio = resolution / 8
    expected = ndimage.zoom(
        pixels.astype(float), (1, ratio, ratio), order=1, mode="nearest", grid_mode=True, prefilter=False
    )
    assert np.abs(enlarge(pixels, resolution) - expected * 255 / 16).max() <= 0.5 + 1e-6
    assert (enlarge(np.full((1, 8, 8), 16, np.uint8), resolution) == 255).all()
    assert (enlarge(np.zeros((1, 8, 8), np.uint8), resolution) == 0).all()


def test_what_is_not_offered_is_refused_in_a_sentence(opened):
    with pytest.raises(UsageError, match="--resolution 48"):
        SPEC.open(48, None)
    with pytest.raises(UsageError, match="takes no path"):
        SPEC.open(32, "somewhere")
    for outside in (-1, len(opened[32].train)):
        with pytest.raises(IndexError, match="indices 0 to"):
            opened[32].train.read(np.array([0, outside]))


def test_the_protocol_is_plain_and_names_what_decides_the_pixels(opened):
    protocol = opened[64].protocol
    assert json.loads(json.dumps(protocol)) == protocol
    assert protocol["version"] == "stacked-digits-v1"
    assert protocol["resolution"] == 64
    assert sum(protocol["num_digits"].values()) == 1797
    assert (len(opened[64].train), len(opened[64].reference)) == (protocol["num_train"], protocol["num_reference"])


def test_it_needs_no_torch():
    program = "import sys, bench.datasets.stacked_digits; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
