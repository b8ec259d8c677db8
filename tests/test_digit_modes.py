"""`digit_modes`: real digits show all modes evenly, collapse shows, the classifier's errors are stated."""

import json

import numpy as np
import pytest

from bench.datasets import stacked_digits
from bench.datasets._spec import OpenDataset
from bench.errors import UsageError
from bench.metrics import digit_modes
from bench.metrics.digit_modes import METRIC


@pytest.fixture(scope="module")
def opened():
    return stacked_digits.SPEC.open(32, None)


@pytest.fixture(scope="module")
def prepared(opened):
    return METRIC.prepare(opened)


@pytest.fixture(scope="module")
def real(opened):
    return opened.train.read(np.arange(4000))


def figures_of(prepared, images):
    scorer = prepared.scorer()
    scorer.update(images)
    return scorer.figures()


def test_real_images_show_the_modes_of_a_uniform_source(prepared, real):
    figures = figures_of(prepared, real)
    assert set(figures) == set(METRIC.figures)
    assert figures["digit_modes_covered"].value == pytest.approx(1000 * (1 - 0.999**4000), abs=10)
    assert figures["digit_kl"].value == pytest.approx(digit_modes.expected_kl(4000, 1000), abs=0.03)
    for name, figure in figures.items():
        assert figure.low <= figure.value <= figure.high, name
        assert figure.unit == METRIC.figures[name].unit


@pytest.mark.parametrize("resolution", [32, 64])
def test_the_labeller_reads_real_images_at_every_resolution(resolution):
    opened = stacked_digits.SPEC.open(resolution, None)
    labeller = METRIC.prepare(opened).labeller
    indices = np.arange(500)
    for images in (opened.train, opened.reference):
        truth = images.classes(indices) @ np.array([100, 10, 1])
        assert (labeller.modes(images.read(indices)) == truth).mean() > 0.88  # three digits at 97 % each: 0.91


def test_the_accuracy_is_that_of_digits_the_labeller_never_saw(prepared):
    figure = prepared.scorer().figures()["digit_labeller_accuracy"]
    assert 0.96 < figure.value < 1
    num_seen = len(stacked_digits.digits_of("labeller").classes)
    assert figure.n == 1797 - num_seen
    assert 0.005 < figure.high - figure.low < 0.03
    assert prepared.labeller.num_right == round(figure.value * figure.n)


def test_collapse_shows_in_modes_and_divergence(prepared, opened, real):
    few = np.tile(opened.train.read(np.arange(20)), (100, 1, 1, 1))
    figures, healthy = figures_of(prepared, few), figures_of(prepared, real[:2000])
    assert figures["digit_modes_covered"].value <= 20
    assert figures["digit_kl"].value > np.log(1000 / 20) - 1e-9
    assert healthy["digit_kl"].value < 0.5
    grey = np.repeat(real[:500, :1], 3, axis=1)  # the same digit three times: 10 modes
    assert figures_of(prepared, grey)["digit_modes_covered"].value == 10


def test_the_channels_are_read_in_the_order_red_green_blue(prepared, opened):
    indices = np.arange(50)
    modes = prepared.labeller.modes(opened.reference.read(indices)[:, ::-1])
    truth = opened.reference.classes(indices) @ np.array([1, 10, 100])
    assert (modes == truth).mean() > 0.85


def test_the_figures_depend_on_neither_batch_size_nor_order(prepared, real):
    scorer = prepared.scorer()
    for part in np.array_split(np.random.default_rng(0).permutation(1000), 23):
        scorer.update(real[part])
    assert scorer.figures() == figures_of(prepared, real[:1000])


def test_another_count_than_the_protocols_is_noted(prepared, real, monkeypatch):
    assert "asks for 10000" in figures_of(prepared, real[:100])["digit_kl"].note
    monkeypatch.setattr(digit_modes, "NUM_IMAGES", 100)
    assert "asks for" not in figures_of(prepared, real[:100])["digit_kl"].note


def test_without_images_the_modes_are_unknown_and_say_so(prepared):
    figures = prepared.scorer().figures()
    for name in ("digit_modes_covered", "digit_kl"):
        assert figures[name].value is None
        assert figures[name].note == "no image was scored"


def test_no_image_contains_a_digit_the_labeller_was_trained_on(opened):
    trained_on = {digit.tobytes() for digit in stacked_digits.enlarge(stacked_digits.digits_of("labeller").pixels, 32)}
    for images in (opened.train, opened.reference):
        assert trained_on.isdisjoint(channel.tobytes() for channel in images.read(np.arange(2000)).reshape(-1, 1024))


def test_it_applies_to_stacked_digits_alone(opened):
    assert METRIC.why_not("stacked-digits") is None
    assert "stacked digits" in METRIC.why_not("scenes")
    other = OpenDataset(train=opened.train, reference=opened.reference, protocol={"version": "scenes-v1"})
    with pytest.raises(UsageError, match="--dataset stacked-digits"):
        METRIC.prepare(other)


def test_images_of_another_resolution_are_refused(prepared):
    with pytest.raises(UsageError, match="32 pixels, not 64"):
        prepared.scorer().update(np.zeros((2, 3, 64, 64), np.uint8))


def test_the_protocol_is_plain_and_says_how_it_differs_from_the_fields(prepared):
    protocol = prepared.protocol
    assert json.loads(json.dumps(protocol)) == protocol
    assert "25600" in protocol["difference"]
    assert protocol["num_images"] == METRIC.num_images == 10_000
    assert METRIC.prepare(stacked_digits.SPEC.open(32, None)).protocol == protocol
