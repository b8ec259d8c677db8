"""`kid_50k`: kernel Inception distance of 50,000 generated images from 50,000 real images of the train split.

The squared maximum mean discrepancy with the kernel (x·y / 2048 + 1)³ on Inception features, unbiased, as the mean over
100 subsets of 1,000 images of each side (Bińkowski et al. 2018, https://arxiv.org/abs/1801.01401, eq. 4 and § 4). Its
expectation does not depend on the counts, so it says whether a change of FID is bias; by chance it may be below 0.

Network, images, real side and refusal as in `fid_50k`. Subsets are drawn as torch-fidelity 0.4.0 draws them
(RandomState(2020), generated before real; `metric_kid.py`), from images in order of a hash of their pixels, so that
the value does not depend on the order they came in. Difference: everything after the features is float64, where
torch-fidelity multiplies and sums in float32. The features of both sides are kept, 400 MB each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor

from bench.datasets._spec import Images, OpenDataset
from bench.metrics._inception import inception, why_unavailable
from bench.metrics._pretrained import Features, PretrainedNetwork, RealImages, content_digests
from bench.metrics._spec import Figure, MetricSpec, why_not_random
from bench.records import Quantity, unknown

NUM_IMAGES = 50_000
NUM_SUBSETS = 100
SUBSET_SIZE = 1000
SUBSET_SEED = 2020
SOURCE = "kid_50k"


def squared_discrepancy(x: Tensor, z: Tensor) -> float:
    """x, z: float64 [n, d], as many of both → unbiased estimate of MMD² with the cubic kernel."""
    n, width = x.shape
    between = ((x @ z.T) / width + 1) ** 3
    within = 0.0
    for rows in (x, z):
        kernel = ((rows @ rows.T) / width + 1) ** 3
        within += float(kernel.sum() - kernel.diagonal().sum()) / (n * (n - 1))
    return within - 2 * float(between.mean())


def subset_discrepancies(generated: Features, real: Features, device: str) -> NDArray[np.float64]:
    """float32 [n, d], [m, d] with n, m ≥ 1,000 → MMD² of each of the 100 pairs of subsets."""
    stream = np.random.RandomState(SUBSET_SEED)
    found = np.empty(NUM_SUBSETS)
    for index in range(NUM_SUBSETS):
        rows = [side[stream.choice(len(side), SUBSET_SIZE, replace=False)] for side in (generated, real)]
        x, z = (torch.from_numpy(each).to(device, torch.float64) for each in rows)
        found[index] = squared_discrepancy(x, z)
    return found


class KidScorer:
    """Keeps the features of every image, in float32.

    Args:
        network: the Inception network.
        real: the real side.
    """

    def __init__(self, network: PretrainedNetwork, real: RealImages) -> None:
        self._network = network
        self._real = real
        self._features: list[Features] = []
        self._digests: list[bytes] = []

    def update(self, images: Images) -> None:
        """images: uint8 [n, 3, h, w]."""
        self._features.append(self._network.features_of(images)[self._network.layers[0]])
        self._digests += content_digests(images)

    def figures(self) -> dict[str, Quantity]:
        """`kid_50k` or, from other counts, `kid_fewer`; and the standard deviation over the subsets."""
        num_generated, num_real = len(self._digests), len(self._real.features)
        counts = f"{num_generated} generated and {num_real} real images"
        if min(num_generated, num_real) < SUBSET_SIZE or self._real.moments is None:
            reason = f"{counts} are too few: a subset takes {SUBSET_SIZE} of each"
            return {name: unknown("1", reason, source=SOURCE) for name in METRIC.figures}
        order = sorted(range(num_generated), key=self._digests.__getitem__)
        generated = np.concatenate(self._features)[order]
        found = subset_discrepancies(generated, self._real.features, self._network.device)
        is_full = num_generated == num_real == NUM_IMAGES
        name, other = ("kid_50k", "kid_fewer") if is_full else ("kid_fewer", "kid_50k")
        over = f"over {NUM_SUBSETS} subsets of {SUBSET_SIZE} of {counts}"
        return {
            name: _figure(float(found.mean()), num_generated, f"mean {over}; its spread is kid_subset_sd"),
            other: unknown("1", f"there are {counts}; {name} has the value", source=SOURCE),
            "kid_subset_sd": _figure(float(found.std()), num_generated, f"standard deviation {over}, which overlap"),
        }


def _figure(value: float, count: int, note: str) -> Quantity:
    return Quantity(value=value, unit="1", n=count, kind="measured", source=SOURCE, note=note)


@dataclass(frozen=True, kw_only=True)
class PreparedKid:
    """The network and the features of the real images."""

    network: PretrainedNetwork
    real: RealImages

    @property
    def protocol(self) -> dict[str, JsonValue]:
        """Everything that decides the values."""
        return {
            "metric": SOURCE,
            "features": "torch-fidelity inception-v3-compat, TensorFlow 1 bilinear resize to 299 px",
            "layer": self.network.layers[0],
            **self.network.protocol(self.real),
            "num_images": NUM_IMAGES,
            "statistics": "float64",
            "estimator": f"unbiased MMD², kernel (x·y/d + 1)^3, mean over {NUM_SUBSETS} subsets of {SUBSET_SIZE}, "
            f"RandomState({SUBSET_SEED})",
        }

    def scorer(self) -> KidScorer:
        """A fresh scorer."""
        return KidScorer(self.network, self.real)


def _prepare(dataset: OpenDataset) -> PreparedKid:
    network = inception()
    return PreparedKid(network=network, real=network.real_images(dataset))


METRIC = MetricSpec(
    title="Kernel Inception distance",
    figures={
        "kid_50k": Figure(
            unit="1", better="lower", meaning="unbiased squared MMD of 50,000 generated and as many train images"
        ),
        "kid_fewer": Figure(unit="1", better="lower", meaning="the same from other counts; unbiased, but noisier"),
        "kid_subset_sd": Figure(unit="1", better=None, meaning="standard deviation of it over 100 subsets of 1,000"),
    },
    num_images=NUM_IMAGES,
    why_not=why_not_random,
    prepare=_prepare,
    why_unavailable=why_unavailable,
)
