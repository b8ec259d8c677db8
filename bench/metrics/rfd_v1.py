"""`rfd_v1`: Fréchet distance between random convolution features of generated and of reference images.

It exists because the pretrained networks of the usual distances are not shipped and a random one of their kind reads 0
for anything. This proxy needs no file: its network is drawn from a fixed seed. It ranks images by how far their local
statistics and their coarse layout are from the real ones; it is its own scale and is compared with nothing else.

The network and the 1,264 features are those of `bench/metrics/_random_features.py` (idea: Lee et al. 2022,
https://arxiv.org/abs/2208.09218; the network is ours): four stages of random filters on the CPU in float32, at the
images' own resolution, mean and standard deviation per stage and a 4×4 layout. The name pins the rest:
* 5,000 generated against 5,000 reference images; of a larger reference split a fixed pseudo-random selection. Fewer on
  either side bias the value upwards, so it then has another name, `rfd_v1_biased`, and below 50 there is none.
* Statistics and distance in float64, jackknife interval over ten groups of generated images
  (`bench/metrics/_frechet.py`).
* Before any value is given, noise must score ten times what the two halves of the reference score (twice, where the
  reference has fewer than 1,000 images).
The statistics of a reference are kept (`bench/metrics/_cache.py`), those two scores among them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydantic import JsonValue

from bench.datasets._spec import Images, ImageSet, Indices, OpenDataset
from bench.errors import BenchError
from bench.metrics import _random_features as random_features
from bench.metrics._cache import PIXELS_SHA256, Arrays, as_array, cached, same_pixels
from bench.metrics._frechet import (
    NUM_GROUPS,
    ContentGroups,
    FrechetReference,
    GroupedMoments,
    Moments,
    estimate_distance,
    merge_all,
    moments_of,
)
from bench.metrics._random_features import RandomFeatures, checked_features, features_of
from bench.metrics._spec import Figure, MetricSpec, why_not_random
from bench.records import Quantity, unknown

NUM_IMAGES = 5000
MIN_IMAGES = 50
SOURCE = "rfd_v1"

_BATCH_SIZE = 64
_NUM_NOISE_IMAGES = 64
_MIN_NOISE_OVER_FLOOR = 10.0
_NUM_FEW = 1000
_MIN_NOISE_OVER_FLOOR_OF_FEW = 2.0  # the halves of a small reference are far apart by bias alone


class RfdScorer:
    """Keeps the moments of ten groups of images; from another count than 5,000 the value has the other name.

    Args:
        network: the checked one.
        reference: decomposed statistics, None where there are too few reference images.
        num_reference: images behind them.
    """

    def __init__(self, network: RandomFeatures, reference: FrechetReference | None, num_reference: int) -> None:
        self._network = network
        self._reference = reference
        self._num_reference = num_reference
        self._moments = GroupedMoments()
        self._groups = ContentGroups()

    def update(self, images: Images) -> None:
        """images: uint8 [n, 3, h, w]."""
        self._moments.add(features_of(self._network, images), self._groups.deal(images))

    def figures(self) -> dict[str, Quantity]:
        """`rfd_v1` or, from other counts than it asks for, `rfd_v1_biased`; the other is null and says why."""
        num_generated, num_reference = self._moments.count, self._num_reference
        counts = f"{num_generated} generated and {num_reference} reference images"
        if self._reference is None or num_generated < MIN_IMAGES:
            reason = f"{counts} are too few for a covariance: {MIN_IMAGES} of each are needed"
            return {name: unknown("1", reason, source=SOURCE) for name in METRIC.figures}
        found = estimate_distance(self._reference, self._moments)
        is_full = num_generated == num_reference == NUM_IMAGES
        full_note = f"{NUM_IMAGES} generated and as many reference images"
        value = Quantity(
            value=found.value,
            unit="1",
            low=found.low,
            high=found.high,
            n=found.n,
            kind="measured",
            source=SOURCE,
            note="the interval is for the generated images, the reference held fixed"
            if is_full
            else f"from {counts}: biased upwards, comparable only with values of the same counts",
        )
        if is_full:
            return {"rfd_v1": value, "rfd_v1_biased": unknown("1", f"rfd_v1 has its {full_note}", source=SOURCE)}
        reason = f"takes {full_note}, there are {counts}; rfd_v1_biased has the value"
        return {"rfd_v1": unknown("1", reason, source=SOURCE), "rfd_v1_biased": value}


@dataclass(frozen=True, kw_only=True)
class PreparedRfd:
    """The network and the statistics of the reference.

    Attributes:
        network: the checked one.
        reference: decomposed, None where there are fewer than 50 reference images.
        num_reference: reference images used.
        reference_sha256: hash of their pixels in the order of their indices.
        resolution: pixels per side.
    """

    network: RandomFeatures
    reference: FrechetReference | None
    num_reference: int
    reference_sha256: str
    resolution: int

    @property
    def protocol(self) -> dict[str, JsonValue]:
        """Everything that decides the value."""
        return {
            **_protocol(self.num_reference),
            "resize": f"none; stage 1 on native {self.resolution} px, its map averaged to at most 32x32",
            "reference_sha256": self.reference_sha256,
        }

    def scorer(self) -> RfdScorer:
        """A fresh scorer."""
        return RfdScorer(self.network, self.reference, self.num_reference)


def _protocol(num_reference: int) -> dict[str, JsonValue]:
    """What is known before an image of the reference is read."""
    return {
        "metric": "rfd_v1",
        "features": "random convolutions 32-64-128-256, mean and deviation per stage, 4x4 layout",
        "feature_width": random_features.FEATURE_WIDTH,
        "weights_seed": random_features.SEED,
        "weights_sha256": random_features.WEIGHTS_SHA256,
        "output_sha256": random_features.OUTPUT_SHA256,
        "input": "uint8 RGB / 127.5 - 1",
        "forward": "float32 on the CPU",
        "statistics": "float64",
        "num_images": NUM_IMAGES,
        "num_reference": num_reference,
        "reference": "reference split; where larger, a fixed pseudo-random selection (RandomState permutation)",
        "reference_selection_seed": random_features.SEED,
        "estimator": f"Fréchet distance, plug-in; 95 % interval: jackknife over {NUM_GROUPS} groups by content",
    }


def _prepare(dataset: OpenDataset) -> PreparedRfd:
    network = checked_features()
    chosen = _selection(len(dataset.reference))
    found = cached(
        {**_protocol(len(chosen)), "num_reference_to_select_from": len(dataset.reference), "dataset": dataset.protocol},
        functools.partial(_statistics, network, dataset.reference, chosen),
        still_holds=same_pixels(dataset, functools.partial(_batches, dataset.reference, chosen)),
    )
    reference = None
    if len(chosen) >= MIN_IMAGES:
        _require_noise_is_far(float(found["noise"]), float(found["floor"]), len(chosen))
        reference = FrechetReference(Moments(count=len(chosen), mean=found["mean"], scatter=found["scatter"]))
    return PreparedRfd(
        network=network,
        reference=reference,
        num_reference=len(chosen),
        reference_sha256=found[PIXELS_SHA256].tobytes().hex(),
        resolution=int(found["resolution"]),
    )


def _statistics(network: RandomFeatures, reference: ImageSet, chosen: Indices) -> Arrays:
    """One pass: the moments (from 50 images on, with the scores of noise and of one half), the pixels' hash."""
    moments, groups, digest = GroupedMoments(), ContentGroups(), hashlib.sha256()
    resolution = 0
    for images in _batches(reference, chosen):
        moments.add(features_of(network, images), groups.deal(images))
        digest.update(images.tobytes())
        resolution = images.shape[-1]
    found: Arrays = {PIXELS_SHA256: as_array(digest.digest()), "resolution": np.array(resolution)}
    if moments.count < MIN_IMAGES:
        return found
    by_group = moments.by_group()
    noise, floor = _scores_of_noise_and_half(network, by_group, resolution)
    _require_noise_is_far(noise, floor, moments.count)  # nothing is kept of a reference that is refused
    whole = merge_all(by_group)
    return found | {"mean": whole.mean, "scatter": whole.scatter, "noise": np.array(noise), "floor": np.array(floor)}


def _selection(num_images: int) -> Indices:
    """Up to 5,000 indices: all of them, or a selection that is the same for every run."""
    permutation = np.random.RandomState(random_features.SEED).permutation(num_images)
    return np.sort(permutation[:NUM_IMAGES]).astype(np.int64)


def _batches(reference: ImageSet, chosen: Indices) -> Iterator[Images]:
    for start in range(0, len(chosen), _BATCH_SIZE):
        yield reference.read(chosen[start : start + _BATCH_SIZE])


def _scores_of_noise_and_half(network: RandomFeatures, groups: list[Moments], resolution: int) -> tuple[float, float]:
    """Distances from one half of the reference: of noise, of the other half."""
    shape = (_NUM_NOISE_IMAGES, 3, resolution, resolution)
    noise = np.random.RandomState(random_features.SEED).randint(0, 256, size=shape, dtype=np.uint8)
    half = FrechetReference(merge_all(groups[::2]))
    return half.distance(moments_of(features_of(network, noise))), half.distance(merge_all(groups[1::2]))


def _require_noise_is_far(noise: float, floor: float, num_images: int) -> None:
    """A network that cannot tell noise from the reference measures nothing.

    Raises:
        BenchError: noise is not many times as far from one half of the reference as the other half is.
    """
    factor = _MIN_NOISE_OVER_FLOOR_OF_FEW if num_images < _NUM_FEW else _MIN_NOISE_OVER_FLOOR
    if not noise > factor * max(floor, 0.0):
        raise BenchError(
            f"rfd_v1: noise scores {noise:.3g} against the reference, whose halves score {floor:.3g} against each "
            "other; the reference images of --dataset look like noise, or the features are broken."
        )


METRIC = MetricSpec(
    title="Random-feature Fréchet distance (a proxy that needs no weights)",
    figures={
        "rfd_v1": Figure(
            unit="1",
            better="lower",
            meaning="distance of 5,000 generated from 5,000 reference images in random convolution features",
        ),
        "rfd_v1_biased": Figure(
            unit="1",
            better="lower",
            meaning="the same from fewer images, which makes it larger; compare at equal counts only",
        ),
    },
    num_images=NUM_IMAGES,
    why_not=why_not_random,
    prepare=_prepare,
)
