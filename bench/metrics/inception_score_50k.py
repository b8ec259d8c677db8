"""`inception_score_50k`: how sure Inception is of each of 50,000 generated images, and how varied its answers are.

exp of the mean divergence of p(y | x) from p(y), over ten splits (Salimans et al. 2016,
https://arxiv.org/abs/1606.03498, § 4), from the logits without bias, in float64, as torch-fidelity 0.4.0 does
(`metric_isc.py`). It sees no real image: on anything but photographs of ImageNet's classes it says little (Barratt and
Sharma 2018, https://arxiv.org/abs/1801.01973), so it is never the figure that a training follows.

Difference: an image's split follows from a hash of its pixels, so that the value does not depend on the order of the
images and only sums are kept; torch-fidelity cuts a shuffled list into ten equal parts. Each split's score is the same
function of its images. Network and refusal as in `fid_50k`; the check of the network needs the real images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from scipy.special import log_softmax, xlogy
from scipy.stats import t as student_t

from bench.datasets._spec import Images, OpenDataset
from bench.metrics._frechet import ContentGroups
from bench.metrics._inception import LAYERS, NUM_CLASSES, inception, why_unavailable
from bench.metrics._pretrained import Features, PretrainedNetwork, RealImages
from bench.metrics._spec import Figure, MetricSpec, why_not_random
from bench.records import Quantity, unknown

NUM_IMAGES = 50_000
NUM_SPLITS = 10
MIN_IMAGES = 1000
SOURCE = "inception_score_50k"
_CONFIDENCE = 0.95


class ScoreSums:
    """Sums over the images of each split from which its score follows."""

    def __init__(self, num_splits: int) -> None:
        self.counts = np.zeros(num_splits, dtype=np.int64)
        self._probabilities = np.zeros((num_splits, NUM_CLASSES))
        self._negative_entropies = np.zeros(num_splits)

    def add(self, logits: Features, splits: NDArray[np.int64]) -> None:
        """logits [n, 1008], splits [n]."""
        log_p = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
        p = np.exp(log_p)
        np.add.at(self.counts, splits, 1)
        np.add.at(self._probabilities, splits, p)
        np.add.at(self._negative_entropies, splits, (p * log_p).sum(axis=1))

    def scores(self) -> NDArray[np.float64]:
        """exp(mean Σ p ln p − Σ q ln q) with q the mean of p, for every split that has an image."""
        held = self.counts > 0
        counts = self.counts[held]
        q = self._probabilities[held] / counts[:, None]
        result: NDArray[np.float64] = np.exp(self._negative_entropies[held] / counts - xlogy(q, q).sum(axis=1))
        return result


class InceptionScorer:
    """Keeps sums per split.

    Args:
        network: the Inception network.
        is_checked: whether there were enough real images to check it on.
    """

    def __init__(self, network: PretrainedNetwork, *, is_checked: bool) -> None:
        self._network = network
        self._is_checked = is_checked
        self._sums = ScoreSums(NUM_SPLITS)
        self._groups = ContentGroups(NUM_SPLITS)

    def update(self, images: Images) -> None:
        """images: uint8 [n, 3, h, w]."""
        self._sums.add(self._network.features_of(images)[LAYERS[1]], self._groups.deal(images))

    def figures(self) -> dict[str, Quantity]:
        """`inception_score_50k` or, from another count, `inception_score_fewer`; and the deviation over splits."""
        count = int(self._sums.counts.sum())
        scores = self._sums.scores()
        if not self._is_checked:
            reason = "there are too few real images to check the network on"
            return {name: unknown("1", reason, source=SOURCE) for name in METRIC.figures}
        if count < MIN_IMAGES or len(scores) < NUM_SPLITS:
            reason = f"{count} images are too few: {MIN_IMAGES} are needed"
            return {name: unknown("1", reason, source=SOURCE) for name in METRIC.figures}
        name, other = "inception_score_50k", "inception_score_fewer"
        if count != NUM_IMAGES:
            name, other = other, name
        value, deviation = float(scores.mean()), float(scores.std())
        reach = float(student_t.ppf(0.5 + _CONFIDENCE / 2, NUM_SPLITS - 1) * scores.std(ddof=1) / np.sqrt(NUM_SPLITS))
        note = f"mean over {NUM_SPLITS} splits of about {count // NUM_SPLITS} images; fewer images per split lower it"
        return {
            name: Quantity(
                value=value,
                unit="1",
                low=value - reach,
                high=value + reach,
                n=count,
                kind="measured",
                source=SOURCE,
                note=note,
            ),
            other: unknown("1", f"there are {count} images; {name} has the value", source=SOURCE),
            "inception_score_split_sd": Quantity(
                value=deviation, unit="1", n=count, kind="measured", source=SOURCE, note=f"over {NUM_SPLITS} splits"
            ),
        }


@dataclass(frozen=True, kw_only=True)
class PreparedInceptionScore:
    """The network, and the real images it was checked on."""

    network: PretrainedNetwork
    real: RealImages

    @property
    def protocol(self) -> dict[str, JsonValue]:
        """Everything that decides the values; the real images decide none, they checked the network."""
        return {
            "metric": SOURCE,
            "features": "torch-fidelity inception-v3-compat, TensorFlow 1 bilinear resize to 299 px",
            "layer": LAYERS[1],
            **self.network.protocol(self.real),
            "num_images": NUM_IMAGES,
            "statistics": "float64",
            "estimator": f"mean over {NUM_SPLITS} splits by content",
        }

    def scorer(self) -> InceptionScorer:
        """A fresh scorer."""
        return InceptionScorer(self.network, is_checked=self.real.moments is not None)


def _prepare(dataset: OpenDataset) -> PreparedInceptionScore:
    network = inception()
    return PreparedInceptionScore(network=network, real=network.real_images(dataset))


METRIC = MetricSpec(
    title="Inception score",
    figures={
        "inception_score_50k": Figure(
            unit="1", better="higher", meaning="sure and varied classes of 50,000 images; knows no real image"
        ),
        "inception_score_fewer": Figure(
            unit="1", better="higher", meaning="the same from another count, which lowers it"
        ),
        "inception_score_split_sd": Figure(unit="1", better=None, meaning="standard deviation of it over ten splits"),
    },
    num_images=NUM_IMAGES,
    why_not=why_not_random,
    prepare=_prepare,
    why_unavailable=why_unavailable,
)
