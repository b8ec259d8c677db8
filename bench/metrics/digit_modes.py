"""`digit_modes`: how many of the 1,000 modes of `stacked-digits` are generated, and how far from evenly.

It exists because a distance of features says little about collapse, and here the modes have names: each colour channel
is a digit, so an image is one of 1,000 numbers.

Source: the Stacked-MNIST protocol (Metz et al. 2017, https://arxiv.org/abs/1611.02163; Srivastava et al. 2017,
https://arxiv.org/abs/1705.07761; Lin et al. 2018, https://arxiv.org/abs/1712.04086). Each channel is labelled by a
classifier; the three digits are the mode; reported are modes seen and KL(generated ‖ uniform) in nats. Deliberate
differences:
* 10,000 images and not 25,600 or 26,000, because two CPU cores generate about a thousand per second. A perfect source
  still shows 999.95 of 1,000 modes; its plug-in divergence is 0.051 and not 0.020 (`expected_kl`), which the note says;
* the classifier is a support-vector machine with a radial kernel on 8×8 pixels (each channel averaged down from the
  image's resolution), trained on digits that no image contains and treated in the same way;
* its own accuracy on real digits it never saw is a figure beside the others, for its errors spread over modes: a
  generator without collapse loses about three times the error rate of its images to a neighbouring mode;
* every image counts as some mode, a channel without any digit too: this protocol knows no "none of them".
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from sklearn.svm import SVC

from bench.datasets._spec import Images, OpenDataset
from bench.datasets.stacked_digits import NUM_CLASSES, NUM_MODES, VERSION, Part, digits_of, enlarge
from bench.errors import UsageError
from bench.metrics._modes import Interval, distinct_modes_interval, expected_kl, expected_modes, kl_from_uniform
from bench.metrics._modes import wilson_interval as wilson
from bench.metrics._spec import Figure, MetricSpec
from bench.records import Quantity, unknown

NUM_IMAGES = 10_000
SOURCE = f"digit_modes ({VERSION} classifier)"

_LABELLER_PX = 8
_SVC_C = 10.0
_SVC_GAMMA = 0.001  # of pixels in 0..16, the scale of scikit-learn's own example on these digits
_UNSEEN_PARTS: tuple[Part, ...] = ("train", "reference")


def _shrink(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """uint8 [n, h, w], h = w a multiple of 8 → float64 [n, 64]: means of equal squares, on the digits' scale 0..16."""
    n, height, _ = images.shape
    ratio = height // _LABELLER_PX
    squares = images.reshape(n, _LABELLER_PX, ratio, _LABELLER_PX, ratio)
    means: NDArray[np.float64] = squares.mean(axis=(2, 4), dtype=np.float64)
    return means.reshape(n, -1) * (16 / 255)


def _as_seen(part: Part, resolution: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The digits of a part as the classifier sees them in an image [n, 64], and their classes [n]."""
    digits = digits_of(part)
    return _shrink(enlarge(digits.pixels, resolution)), digits.classes


@dataclass(frozen=True, kw_only=True)
class Labeller:
    """The classifier of one resolution.

    Attributes:
        classifier: trained on the `labeller` digits.
        num_right, num_unseen: of the digits it was not trained on, how many it names rightly, and how many there are.
        labels_sha256: hash of what it says of them; another classifier is another protocol.
    """

    resolution: int
    classifier: SVC
    num_right: int
    num_unseen: int
    labels_sha256: str

    def modes(self, images: Images) -> NDArray[np.int64]:
        """uint8 [n, 3, h, w] → modes [n] in [0, 1000): the digits of red, green and blue read as one number."""
        channels = _shrink(images.reshape(-1, self.resolution, self.resolution))
        digits = self.classifier.predict(channels).reshape(-1, 3)
        return np.asarray(digits @ np.array([NUM_CLASSES**2, NUM_CLASSES, 1]), dtype=np.int64)


def train_labeller(resolution: int) -> Labeller:
    """Train on the digits that no image contains, test on all others; a second or less, no randomness."""
    classifier = SVC(C=_SVC_C, gamma=_SVC_GAMMA).fit(*_as_seen("labeller", resolution))
    unseen = [_as_seen(part, resolution) for part in _UNSEEN_PARTS]
    truth = np.concatenate([classes for _, classes in unseen])
    labels = classifier.predict(np.concatenate([pixels for pixels, _ in unseen]))
    return Labeller(
        resolution=resolution,
        classifier=classifier,
        num_right=int((labels == truth).sum()),
        num_unseen=len(truth),
        labels_sha256=hashlib.sha256(labels.astype(np.uint8).tobytes()).hexdigest(),
    )


@dataclass(kw_only=True)
class DigitScorer:
    """Counts modes; integers only, so that neither batch size nor order can matter.

    Attributes:
        counts: images by mode, [1000].
    """

    labeller: Labeller
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(NUM_MODES, np.int64))

    def update(self, images: Images) -> None:
        """images: uint8 [n, 3, h, w].

        Raises:
            UsageError: another resolution than the one prepared for.
        """
        if images.shape[-1] != self.labeller.resolution:
            raise UsageError(
                f"digit_modes was prepared for {self.labeller.resolution} pixels, not {images.shape[-1]}: "
                "generate images of the data set's --resolution."
            )
        self.counts += np.bincount(self.labeller.modes(images), minlength=NUM_MODES)

    def figures(self) -> dict[str, Quantity]:
        """The three figures of everything seen so far."""
        accuracy = self._accuracy()
        n = int(self.counts.sum())
        if n == 0:
            modes, divergence = (
                unknown(METRIC.figures[name].unit, "no image was scored", source=SOURCE)
                for name in ("digit_modes_covered", "digit_kl")
            )
        else:
            few = "" if n == NUM_IMAGES else f"; n = {n} images, the protocol asks for {NUM_IMAGES}"
            num_expected, kl_expected = expected_modes(n, NUM_MODES), expected_kl(n, NUM_MODES)
            modes = _quantity(
                distinct_modes_interval(self.counts), "1", n, f"a uniform source shows {num_expected:.1f}{few}"
            )
            divergence = _quantity(
                kl_from_uniform(self.counts),
                "nat",
                n,
                f"a uniform source gives {kl_expected:.3f}; the interval is for the spread, not for that bias{few}",
            )
        return {"digit_modes_covered": modes, "digit_kl": divergence, "digit_labeller_accuracy": accuracy}

    def _accuracy(self) -> Quantity:
        num_right, num_unseen = self.labeller.num_right, self.labeller.num_unseen
        note = "of the classifier, on real digits it was not trained on; says nothing about the generated images"
        return _quantity(wilson(num_right, num_unseen), "1", num_unseen, note)


def _quantity(found: Interval, unit: str, n: int, note: str) -> Quantity:
    return Quantity(
        value=found.value,
        unit=unit,
        low=found.low,
        high=found.high,
        n=n,
        kind="measured",
        source=SOURCE,
        note=note,
    )


@dataclass(frozen=True, kw_only=True)
class PreparedDigitModes:
    """The metric at one resolution."""

    labeller: Labeller

    @property
    def protocol(self) -> dict[str, JsonValue]:
        """Everything that decides the values."""
        return {
            "metric": "digit_modes",
            "num_images": NUM_IMAGES,
            "difference": "the field's Stacked-MNIST protocol takes 25600 or 26000 images of 28x28 MNIST digits",
            "dataset": VERSION,
            "resolution": self.labeller.resolution,
            "num_modes": NUM_MODES,
            "classifier": f"scikit-learn SVC, RBF, C={_SVC_C:g}, gamma={_SVC_GAMMA:g}, on 8x8 pixels in 0..16",
            "classifier_input": "each channel averaged over equal squares; trained on digits enlarged and averaged so",
            "classifier_split": "trained on the labeller digits, tested on the train and reference digits",
            "classifier_labels_sha256": self.labeller.labels_sha256,
            "expected_modes_of_a_uniform_source": expected_modes(NUM_IMAGES, NUM_MODES),
            "expected_kl_of_a_uniform_source": expected_kl(NUM_IMAGES, NUM_MODES),
            "estimators": "plug-in; intervals 95 %: Wilson, Colwell et al. 2004 with Chao1, jackknife",
        }

    def scorer(self) -> DigitScorer:
        """A fresh scorer."""
        return DigitScorer(labeller=self.labeller)


def _prepare(dataset: OpenDataset) -> PreparedDigitModes:
    resolution = dataset.protocol.get("resolution")
    if dataset.protocol.get("version") != VERSION or not isinstance(resolution, int):
        raise UsageError(f"digit_modes reads {VERSION} only: choose --dataset stacked-digits.")
    return PreparedDigitModes(labeller=train_labeller(resolution))


def _why_not(dataset: str) -> str | None:
    return None if dataset == "stacked-digits" else "digit_modes reads stacked digits, which other data sets lack."


METRIC = MetricSpec(
    title="Modes of stacked digits (Stacked-MNIST protocol on 8×8 digits)",
    figures={
        "digit_modes_covered": Figure(
            unit="1", better="higher", meaning="distinct modes, of 1,000, that the classifier names at least once"
        ),
        "digit_kl": Figure(
            unit="nat",
            better="lower",
            meaning="divergence from uniform of the modes the classifier names; plug-in, biased upwards",
        ),
        "digit_labeller_accuracy": Figure(
            unit="1", better=None, meaning="share of unseen real digits that the classifier names rightly"
        ),
    },
    num_images=NUM_IMAGES,
    why_not=_why_not,
    prepare=_prepare,
)
