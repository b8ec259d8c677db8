"""The data set of random bytes."""

import hashlib

import numpy as np
import pytest
from scipy import stats

from bench.datasets.synthetic import SPEC
from bench.errors import UsageError

GOLDEN = {
    32: "6875584aa88f81903b03f68a9fc887834e69035377a66298e2480db0b5ec85cd",
    64: "0a743337cc64847a85c712b4c876713802854dbf8b075550d5ad565e087e0ec1",
    128: "3c22ddab3b63a79c35dc528455c0498a17bc1d2dedd311f4dbde8c1e5904b957",
    256: "f8cb4c89281ec53b6a9aa5f92e5821b9a204e21597ab869e763aab2d7ba75048",
}


@pytest.mark.parametrize("resolution", SPEC.resolutions)
def test_the_bytes_are_always_the_same(resolution):
    images = SPEC.open(resolution, None).train.read(np.arange(16))
    assert images.dtype == np.uint8
    assert images.shape == (16, 3, resolution, resolution)
    assert hashlib.sha256(images.tobytes()).hexdigest() == GOLDEN[resolution]


def test_an_image_does_not_depend_on_the_batch_it_is_read_in():
    train = SPEC.open(64, None).train
    together = train.read(np.arange(100))
    order = np.random.default_rng(0).permutation(100)
    assert np.array_equal(train.read(order), together[order])
    assert np.array_equal(train.read(np.array([7]))[0], together[7])
    assert train.read(np.array([], np.int64)).shape == (0, 3, 64, 64)


def test_bytes_are_uniform_and_neighbours_independent():
    values = SPEC.open(32, None).train.read(np.arange(200)).ravel()
    assert stats.chisquare(np.bincount(values, minlength=256)).pvalue > 0.001
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 5 / np.sqrt(len(values))


def test_train_and_reference_share_no_image():
    opened = SPEC.open(32, None)
    assert opened.protocol["train_indices"][1] <= opened.protocol["reference_indices"][0]
    images = np.concatenate([opened.train.read(np.arange(500)), opened.reference.read(np.arange(500))])
    assert len({image.tobytes() for image in images}) == 1000


def test_what_it_cannot_do_is_said():
    with pytest.raises(UsageError, match="--resolution 48"):
        SPEC.open(48, None)
    with pytest.raises(UsageError, match="without a path"):
        SPEC.open(32, "somewhere")
    with pytest.raises(UsageError, match="0 to 131071"):
        SPEC.open(32, None).reference.read(np.array([2**17]))
