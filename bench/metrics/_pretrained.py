"""Features of images from a pretrained network, in one pass that all its metrics share, and the real images' side.

It exists so that the metrics of one network agree on the images, the features and the check of the network, and pay
for them once: every scorer is handed the same batch in turn, and the features of the last batch are kept by its hash.

* Forward pass: float32, no TF32, no autocast, deterministic cuDNN kernels, on the GPU where torch sees one, else on the
  CPU. The two differ in the last bits; the protocol says which it was. Everything after the features is float64.
* Real images: 50,000 of the train split, the usual reference; of a larger split a fixed pseudo-random selection, of a
  smaller one all. Their features are held in float32 (400 MB for 50,000 of width 2,048), for kernels and neighbours,
  and kept on this machine with their statistics (`bench/metrics/_cache.py`).
* The gate: in Fréchet distance of these features, random bytes must lie 100 times as far from one half of 50,000 real
  images as the other half does (10 times where there are fewer, twice where there are fewer than twice the width: the
  floor is then bias), and at 1 or more in any case. The ratio catches a broken forward pass. An untrained Inception
  comes near to passing it (84 times, measured), but maps all images to nearly one point and fails the second part.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch_fidelity
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.datasets._spec import Images, ImageSet, Indices, OpenDataset
from bench.errors import BenchError
from bench.metrics._cache import PIXELS_SHA256, Arrays, as_array, cached, same_pixels
from bench.metrics._frechet import ContentGroups, FrechetReference, GroupedMoments, Moments, merge_all, moments_of
from bench.metrics._pinned_weights import PinnedWeights

Features = NDArray[np.float32]

NUM_REAL_IMAGES = 50_000
SELECTION_SEED = 2020
FEWEST_FOR_A_CHECK = 1000  # of fewer no metric gives a value, and their halves are nearly as far apart as noise
MIN_NOISE_DISTANCE = 1.0  # the pinned networks put noise at 100 and more; an untrained Inception at 1e-12
MIN_NOISE_OVER_FLOOR = 100.0

_MIN_OVER_FLOOR_OF_FEWER = 10.0  # the halves are far apart by bias alone: d/n falls slowly
_MIN_OVER_FLOOR_OF_FEW = 2.0
_FEWEST_NOISE_IMAGES = 64
_BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class RealImages:
    """The real side.

    Attributes:
        features: float32 [n, d], in the order of `selection`.
        moments: of all of them; None where there are fewer than 1,000, too few for a check.
        floor: Fréchet distance between two disjoint halves; None likewise.
        digests: hashes of the images.
        sha256: of their pixels in order.
        resolution: pixels per side.
    """

    features: Features
    moments: Moments | None
    floor: float | None
    digests: frozenset[bytes]
    sha256: str
    resolution: int


class PretrainedNetwork:
    """A frozen network and the features of the batch it saw last.

    Args:
        network: uint8 [b, 3, h, w] → a tuple of features [b, d], one per layer.
        layers: their names; the first is the one that distances are taken in.
        weights: where its parameters came from.
    """

    def __init__(self, network: nn.Module, layers: tuple[str, ...], weights: PinnedWeights) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.layers = layers
        self.weights = weights
        self.num_images_passed = 0
        self._network = network.to(self.device).requires_grad_(False).eval()
        self._last: tuple[str, dict[str, Features]] = ("", {})
        self._real: tuple[ImageSet, RealImages] | None = None

    def features_of(self, images: Images) -> dict[str, Features]:
        """uint8 [n, 3, h, w] → layer → float32 [n, d]. The same images again cost a hash."""
        key = hashlib.sha256(str(images.shape).encode() + np.ascontiguousarray(images).tobytes()).hexdigest()
        if key != self._last[0]:
            self._last = (key, self._pass(images))
        return self._last[1]

    def real_images(self, dataset: OpenDataset) -> RealImages:
        """The real side of its train split: of this process, or kept (`bench/metrics/_cache.py`), or computed.

        Raises:
            BenchError: noise is not far from it, see `require_noise_is_far`.
        """
        if self._real is None or self._real[0] is not dataset.train:
            self._real = (dataset.train, self._kept(dataset))
        return self._real[1]

    def protocol(self, real: RealImages) -> dict[str, str | int]:
        """What is common to all metrics of this network."""
        return {
            **self._own_protocol(),
            "num_real": len(real.features),
            "real_sha256": real.sha256,
            "resolution": real.resolution,
        }

    def _own_protocol(self) -> dict[str, str | int]:
        return {
            "weights_file": self.weights.file_name,
            "weights_sha256": self.weights.sha256,
            "torch_fidelity": torch_fidelity.__version__,
            "forward": f"float32 without TF32 on {self.device}",
            "input": "uint8 RGB",
            "real_split": "train",
            "real_selection": f"all, or a fixed pseudo-random selection (RandomState({SELECTION_SEED}) permutation)",
        }

    def _pass(self, images: Images) -> dict[str, Features]:
        self.num_images_passed += len(images)
        parts: list[tuple[Tensor, ...]] = []
        with torch.inference_mode(), torch.autocast(self.device, enabled=False), _exact_arithmetic():
            for batch in torch.split(torch.from_numpy(np.ascontiguousarray(images)), _BATCH_SIZE):
                parts.append(tuple(each.float().cpu() for each in self._network(batch.to(self.device))))
        return {
            layer: torch.cat(found).numpy() for layer, found in zip(self.layers, zip(*parts, strict=True), strict=True)
        }

    def _kept(self, dataset: OpenDataset) -> RealImages:
        chosen = selection(len(dataset.train))
        found = cached(
            {
                **self._own_protocol(),
                "layer": self.layers[0],
                "real_indices_sha256": hashlib.sha256(chosen.tobytes()).hexdigest(),
                "is_checked": len(chosen) >= FEWEST_FOR_A_CHECK,
                "dataset": dataset.protocol,
            },
            functools.partial(self._statistics, dataset.train, chosen),
            still_holds=same_pixels(dataset, functools.partial(_batches, dataset.train, chosen)),
        )
        real = RealImages(
            features=found["features"],
            moments=None,
            floor=None,
            digests=frozenset(row.tobytes() for row in found["digests"]),
            sha256=found[PIXELS_SHA256].tobytes().hex(),
            resolution=int(found["resolution"]),
        )
        if "mean" not in found:
            return real
        self._require_noise_is_far(float(found["noise"]), float(found["floor"]), found["features"])
        moments = Moments(count=len(chosen), mean=found["mean"], scatter=found["scatter"])
        return replace(real, moments=moments, floor=float(found["floor"]))

    def _statistics(self, train: ImageSet, chosen: Indices) -> Arrays:
        """One pass over the real images; where there are enough, one over noise."""
        moments, groups, digest = GroupedMoments(), ContentGroups(), hashlib.sha256()
        features, digests, resolution = [], [], 0
        for images in _batches(train, chosen):
            features.append(self.features_of(images)[self.layers[0]])
            moments.add(features[-1], groups.deal(images))
            digests += content_digests(images)
            digest.update(images.tobytes())
            resolution = images.shape[-1]
        found: Arrays = {
            PIXELS_SHA256: as_array(digest.digest()),
            "resolution": np.array(resolution),
            "features": np.concatenate(features),
            "digests": as_array(b"".join(digests)).reshape(len(digests), -1),
        }
        if moments.count < FEWEST_FOR_A_CHECK:
            return found
        by_group = moments.by_group()
        noise, floor = self._scores_of_noise_and_half(by_group, resolution)
        self._require_noise_is_far(noise, floor, found["features"])  # nothing is kept of a side that is refused
        whole = merge_all(by_group)
        return found | {
            "mean": whole.mean,
            "scatter": whole.scatter,
            "noise": np.array(noise),
            "floor": np.array(floor),
        }

    def _scores_of_noise_and_half(self, groups: list[Moments], resolution: int) -> tuple[float, float]:
        """Distances from one half of the real images: of noise, of the other half."""
        half, other = FrechetReference(merge_all(groups[::2])), merge_all(groups[1::2])
        # As many as a tenth of the real ones: of fewer, the distance would be large by bias, whatever they show.
        num_noise = max(_FEWEST_NOISE_IMAGES, (half.moments.count + other.count) // 10)
        noise = [self.features_of(images)[self.layers[0]] for images in _noise(num_noise, resolution)]
        return half.distance(moments_of(np.concatenate(noise))), max(0.0, half.distance(other))

    def _require_noise_is_far(self, noise: float, floor: float, features: Features) -> None:
        num_real, width = features.shape
        require_noise_is_far(self.weights.title, distance=noise, floor=floor, num_real=num_real, width=width)


def from_torch_fidelity(
    build: Callable[[io.BytesIO], nn.Module], state: dict[str, Tensor], complaint: str
) -> nn.Module:
    """An extractor of torch-fidelity with checked weights in it: it takes a file, and would draw others before.

    Raises:
        BenchError: it is another network than the weights are for; `complaint` says so.
    """
    checked = io.BytesIO()
    torch.save(state, checked)
    checked.seek(0)
    try:
        with torch.random.fork_rng(devices=[]):
            return build(checked)
    except RuntimeError as error:
        raise BenchError(complaint) from error


def require_noise_is_far(title: str, *, distance: float, floor: float, num_real: int, width: int) -> None:
    """A network that cannot tell noise from the real images measures nothing.

    Args:
        title: the network, for the message.
        distance: Fréchet distance of noise from one half of the real images.
        floor: of the other half.
        num_real, width: images in both halves, features of one; few images are far apart by bias alone.

    Raises:
        BenchError: noise is below the distance that any real images have from it in a trained network, or not many
            times as far as the other half.
    """
    ratio = _MIN_OVER_FLOOR_OF_FEW
    if num_real >= NUM_REAL_IMAGES:
        ratio = MIN_NOISE_OVER_FLOOR
    elif num_real >= 2 * width:
        ratio = _MIN_OVER_FLOOR_OF_FEWER
    if not (distance >= MIN_NOISE_DISTANCE and distance >= ratio * floor):
        raise BenchError(
            f"{title}: noise scores {distance:.3g} against real images, whose halves score {floor:.3g} against each "
            f"other; it takes {MIN_NOISE_DISTANCE:g} and {ratio:g} times that, so no value is given: the images of "
            "--dataset look like noise, or the network is broken."
        )


def selection(num_images: int) -> Indices:
    """Up to 50,000 indices: all of them, or a selection that is the same for every run."""
    order = np.random.RandomState(SELECTION_SEED).permutation(num_images)
    return np.sort(order[:NUM_REAL_IMAGES]).astype(np.int64)


def _batches(train: ImageSet, chosen: Indices) -> Iterator[Images]:
    for start in range(0, len(chosen), 8 * _BATCH_SIZE):
        yield train.read(chosen[start : start + 8 * _BATCH_SIZE])


def _noise(count: int, resolution: int) -> Iterator[Images]:
    """Images of independent uniform bytes, always the same, in batches."""
    stream = np.random.RandomState(SELECTION_SEED)
    for start in range(0, count, 8 * _BATCH_SIZE):
        shape = (min(8 * _BATCH_SIZE, count - start), 3, resolution, resolution)
        yield stream.randint(0, 256, size=shape, dtype=np.uint8)


def content_digests(images: Images) -> list[bytes]:
    """uint8 [n, 3, h, w] → a hash of the pixels of each."""
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]


@contextmanager
def _exact_arithmetic() -> Iterator[None]:
    """Inside, float32 is float32 on a GPU too, whatever precision the run was asked for."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        matmul.allow_tf32 = before
