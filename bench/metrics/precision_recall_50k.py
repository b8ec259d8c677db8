"""`precision_recall_50k`: the share of generated images that look real, and of real images that can be generated.

An image is inside a set if it is no farther from one of its members than that member's third nearest neighbour in the
set; precision is the share of generated images inside the real set, recall that of real images inside the generated one
(Kynkäänniemi et al. 2019, https://arxiv.org/abs/1904.06991, eq. 1 and 2, k = 3). Together they tell a generator that
gives few good images from one that gives many poor ones, which a Fréchet distance does not.

The name pins torch-fidelity 0.4.0's definition (`metric_prc.py`): VGG-16 `fc2_relu` (`bench/metrics/_vgg16.py`, its own
pinned weights), k = 3, 50,000 images of each side, the real ones of the train split as in `fid_50k`. Differences:
distances are float64 from float32 features, compared squared, in blocks of bounded memory; a squared distance that is
rounding noise beside the features counts as 0. The features of both sides are kept, 800 MB each. Other counts give
other values (`precision_fewer`, `recall_fewer`): the sets' neighbourhoods shrink as they grow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from bench.datasets._spec import Images, OpenDataset
from bench.metrics._modes import wilson_interval
from bench.metrics._pretrained import Features, PretrainedNetwork, RealImages
from bench.metrics._spec import Figure, MetricSpec, why_not_random
from bench.metrics._vgg16 import LAYERS, vgg16, why_unavailable
from bench.records import Quantity, unknown

NUM_IMAGES = 50_000
NUM_NEIGHBOURS = 3
MIN_IMAGES = 1000
SOURCE = "precision_recall_50k"

_BLOCK_ROWS = 2000
_ROUNDING = 1e-12


def squared_distances(x: Tensor, z: Tensor) -> Tensor:
    """float64 [n, d], [m, d] → [n, m]."""
    squares = x.square().sum(dim=1)[:, None] + z.square().sum(dim=1)
    found = squares - 2 * x @ z.T
    return torch.where(found > _ROUNDING * squares, found, 0.0)


def squared_radii(features: Features, device: str) -> Tensor:
    """float32 [n, d], n > 3 → squared distance of each to its third nearest neighbour, float64 [n] on the device."""
    radii = []
    for rows in _blocks(features, device):
        nearest = torch.empty(len(rows), 0, dtype=torch.float64, device=device)
        for columns in _blocks(features, device):
            both = torch.cat([nearest, squared_distances(rows, columns)], dim=1)
            nearest = both.topk(min(NUM_NEIGHBOURS + 1, both.shape[1]), largest=False, sorted=True).values
        radii.append(nearest[:, NUM_NEIGHBOURS])  # the first is the image itself
    return torch.cat(radii)


def num_inside(features: Features, members: Features, radii: Tensor) -> int:
    """How many of features [n, d] lie in a ball around one of members [m, d] with squared radii [m]."""
    device = str(radii.device)
    count = 0
    for rows in _blocks(features, device):
        is_inside = torch.zeros(len(rows), dtype=torch.bool, device=device)
        for columns, limits in zip(_blocks(members, device), torch.split(radii, _BLOCK_ROWS), strict=True):
            is_inside |= (squared_distances(rows, columns) <= limits).any(dim=1)
        count += int(is_inside.sum())
    return count


def _blocks(features: Features, device: str) -> Iterator[Tensor]:
    for start in range(0, len(features), _BLOCK_ROWS):
        yield torch.from_numpy(features[start : start + _BLOCK_ROWS]).to(device, torch.float64)


class PrecisionRecallScorer:
    """Keeps the features of every image, in float32.

    Args:
        network: the VGG network.
        real: the real side.
        real_radii: squared radii of its balls, None where there are too few real images.
    """

    def __init__(self, network: PretrainedNetwork, real: RealImages, real_radii: Tensor | None) -> None:
        self._network = network
        self._real = real
        self._real_radii = real_radii
        self._features: list[Features] = []

    def update(self, images: Images) -> None:
        """images: uint8 [n, 3, h, w]."""
        self._features.append(self._network.features_of(images)[LAYERS[0]])

    def figures(self) -> dict[str, Quantity]:
        """`precision_50k` and `recall_50k` or, from other counts, `precision_fewer` and `recall_fewer`."""
        num_generated, num_real = sum(map(len, self._features)), len(self._real.features)
        counts = f"{num_generated} generated and {num_real} real images"
        if self._real_radii is None or num_generated < MIN_IMAGES:
            reason = f"{counts} are too few: {MIN_IMAGES} of each are needed"
            return {name: unknown("1", reason, source=SOURCE) for name in METRIC.figures}
        generated, real = np.concatenate(self._features), self._real.features
        precision = num_inside(generated, real, self._real_radii)
        recall = num_inside(real, generated, squared_radii(generated, self._network.device))
        is_full = num_generated == num_real == NUM_IMAGES
        ending, other = ("50k", "fewer") if is_full else ("fewer", "50k")
        elsewhere = unknown("1", f"there are {counts}; the figures named {ending} have the values", source=SOURCE)
        return {
            f"precision_{ending}": _precision(precision, num_generated, counts),
            f"recall_{ending}": Quantity(
                value=recall / num_real, unit="1", n=num_real, kind="measured", source=SOURCE, note=f"from {counts}"
            ),
            f"precision_{other}": elsewhere,
            f"recall_{other}": elsewhere,
        }


def _precision(num_hits: int, num_trials: int, counts: str) -> Quantity:
    share = wilson_interval(num_hits, num_trials)
    return Quantity(
        value=share.value,
        unit="1",
        low=share.low,
        high=share.high,
        n=num_trials,
        kind="measured",
        source=SOURCE,
        note=f"from {counts}; the interval is for the generated images, the real ones held fixed",
    )


@dataclass(frozen=True, kw_only=True)
class PreparedPrecisionRecall:
    """The network, the features of the real images and their balls."""

    network: PretrainedNetwork
    real: RealImages
    real_radii: Tensor | None

    @property
    def protocol(self) -> dict[str, JsonValue]:
        """Everything that decides the values."""
        return {
            "metric": SOURCE,
            "features": "torch-fidelity vgg16, TensorFlow 1 bilinear resize to 224 px",
            "layer": LAYERS[0],
            **self.network.protocol(self.real),
            "num_images": NUM_IMAGES,
            "statistics": "float64",
            "estimator": f"improved precision and recall, k = {NUM_NEIGHBOURS}",
        }

    def scorer(self) -> PrecisionRecallScorer:
        """A fresh scorer."""
        return PrecisionRecallScorer(self.network, self.real, self.real_radii)


def _prepare(dataset: OpenDataset) -> PreparedPrecisionRecall:
    network = vgg16()
    real = network.real_images(dataset)
    is_enough = len(real.features) >= MIN_IMAGES and real.moments is not None
    radii = squared_radii(real.features, network.device) if is_enough else None
    return PreparedPrecisionRecall(network=network, real=real, real_radii=radii)


METRIC = MetricSpec(
    title="Precision and recall",
    figures={
        "precision_50k": Figure(
            unit="1", better="higher", meaning="share of 50,000 generated images among the real ones in VGG features"
        ),
        "recall_50k": Figure(
            unit="1", better="higher", meaning="share of 50,000 train images among the generated ones in VGG features"
        ),
        "precision_fewer": Figure(unit="1", better="higher", meaning="precision from other counts, another figure"),
        "recall_fewer": Figure(unit="1", better="higher", meaning="recall from other counts, another figure"),
    },
    num_images=NUM_IMAGES,
    why_not=why_not_random,
    prepare=_prepare,
    why_unavailable=why_unavailable,
)
