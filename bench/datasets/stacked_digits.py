"""Stacked digits: three real handwritten digits as the colour channels of one image, 1,000 modes.

It exists because it is the one real-image data set that ships with a library this project needs anyway: nothing is
downloaded, and the modes a generator finds can be counted by name.

Source: the Stacked-MNIST protocol (Metz et al. 2017, "Unrolled GANs", https://arxiv.org/abs/1611.02163; Srivastava et
al. 2017, "VEEGAN", https://arxiv.org/abs/1705.07761) on the 1,797 digits of 8×8 pixels with 17 grey levels that
scikit-learn bundles (UCI "Optical Recognition of Handwritten Digits", https://doi.org/10.24432/C50P49, CC BY 4.0).
Deliberate differences:
* 8×8 digits, not MNIST's 28×28, enlarged to the resolution by bilinear interpolation with an exact integer ratio;
* the class of each channel is drawn first, uniformly, then a digit of that class: every mode has probability 1/1000
  exactly, whatever the sizes of the classes;
* digits are cut by class into three disjoint parts: `train` and `reference` make images, `labeller` trains the
  classifier of `bench/metrics/digit_modes.py` and is in no image.

An image is a pure function of (set, index). All interpolation weights are multiples of 1/16, so float64 holds
every interpolated value exactly and the pixels are the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from bench.datasets._spec import DatasetSpec, Images, Indices, OpenDataset
from bench.datasets._splitmix64 import splitmix64
from bench.errors import UsageError

VERSION = "stacked-digits-v1"
NUM_CLASSES = 10
NUM_MODES = NUM_CLASSES**3
NUM_TRAIN = 2**20
NUM_REFERENCE = 2**17

Part = Literal["train", "reference", "labeller"]
PARTS: tuple[Part, ...] = ("train", "reference", "labeller")

_SPLIT_SEED = 20260101
_IMAGE_SEEDS: dict[Part, int] = {"train": 1, "reference": 2}
_DIGIT_PX = 8
_MAX_GREY = 16
_RESOLUTIONS = (32, 64)


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Digits of one part, sorted by class. pixels: uint8 [n, 8, 8] in 0..16; classes: int64 [n] in 0..9."""

    pixels: NDArray[np.uint8]
    classes: NDArray[np.int64]


def digits_of(part: Part) -> Digits:
    """The digits of one part: each class is shuffled with a fixed seed and every third digit goes to the same part."""
    bundle = load_digits()
    pixels, classes = bundle.images.astype(np.uint8), bundle.target.astype(np.int64)
    shuffle = np.random.RandomState(_SPLIT_SEED)  # its stream is frozen by NumPy; Generator's is not
    chosen = []
    for digit_class in range(NUM_CLASSES):
        members = shuffle.permutation(np.flatnonzero(classes == digit_class))
        chosen.append(members[PARTS.index(part) :: len(PARTS)])
    order = np.concatenate(chosen)
    return Digits(pixels=pixels[order], classes=classes[order])


def enlarge(pixels: NDArray[np.uint8], resolution: int) -> NDArray[np.uint8]:
    """Digits uint8 [n, 8, 8] in 0..16 → uint8 [n, h, w] in 0..255, bilinear with half-pixel centres, edges repeated.

    Raises:
        UsageError: the resolution is not one of those offered.
    """
    if resolution not in _RESOLUTIONS:
        raise UsageError(
            f"--dataset stacked-digits has no --resolution {resolution}: choose one of "
            f"{', '.join(str(offered) for offered in _RESOLUTIONS)}."
        )
    ratio = resolution // _DIGIT_PX
    centres = np.clip((np.arange(resolution) + 0.5) / ratio - 0.5, 0, _DIGIT_PX - 1)
    weights = np.maximum(0.0, 1.0 - np.abs(centres[:, None] - np.arange(_DIGIT_PX)[None, :]))  # [h, 8]
    enlarged = weights @ pixels.astype(np.float64) @ weights.T
    return np.rint(enlarged * (255 / _MAX_GREY)).astype(np.uint8)


class StackedDigits:
    """An ImageSet: index → three digits of one part as the red, green and blue channel.

    Args:
        part: which digits the images are made of, `train` or `reference`.
        num_images: how many indices there are.
        resolution: pixels per side.
    """

    def __init__(self, part: Part, num_images: int, resolution: int) -> None:
        digits = digits_of(part)
        self._seed = _IMAGE_SEEDS[part]
        self._num_images = num_images
        self._channels = enlarge(digits.pixels, resolution)  # [num_digits, h, w]
        self._class_sizes = np.bincount(digits.classes, minlength=NUM_CLASSES)
        self._class_starts = np.cumsum(self._class_sizes) - self._class_sizes

    def __len__(self) -> int:
        return self._num_images

    def read(self, indices: Indices) -> Images:
        """indices [n] in [0, len) → uint8 [n, 3, h, w]. Raises IndexError outside that range."""
        classes, draws = self._draw(indices)
        members = draws % self._class_sizes[classes]
        return self._channels[self._class_starts[classes] + members]

    def classes(self, indices: Indices) -> NDArray[np.int64]:
        """indices [n] → the true digits of the three channels, int64 [n, 3]."""
        return self._draw(indices)[0]

    def _draw(self, indices: Indices) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Per image and channel: a class in 0..9 and 32 more random bits, both int64 [n, 3]."""
        indices = np.asarray(indices, dtype=np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < self._num_images:
            raise IndexError(f"stacked-digits has the indices 0 to {self._num_images - 1}")
        counters = 3 * indices[:, None] + np.arange(3)  # one per channel
        bits = splitmix64(self._seed, counters.astype(np.uint64))
        classes = (bits >> np.uint64(32)) % np.uint64(NUM_CLASSES)
        return classes.astype(np.int64), (bits & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _open(resolution: int, path: str | None) -> OpenDataset:
    if path is not None:
        raise UsageError(f"--dataset stacked-digits takes no path: drop ':{path}'.")
    return OpenDataset(
        train=StackedDigits("train", NUM_TRAIN, resolution),
        reference=StackedDigits("reference", NUM_REFERENCE, resolution),
        protocol={
            "version": VERSION,
            "resolution": resolution,
            "digits": "scikit-learn load_digits: 1797 handwritten digits, 8x8 pixels, grey levels 0..16",
            "selection": "image = f(set, index): SplitMix64 draws per channel a class uniformly, then a digit of it",
            "num_modes": NUM_MODES,
            "split": "disjoint digits: each class shuffled and cut in thirds for train, reference and labeller",
            "split_seed": _SPLIT_SEED,
            "image_seeds": {str(part): seed for part, seed in _IMAGE_SEEDS.items()},
            "num_digits": {part: len(digits_of(part).classes) for part in PARTS},
            "preparation": f"bilinear from 8 to {resolution} px, half-pixel centres, x 255/16, round half to even",
            "num_train": NUM_TRAIN,
            "num_reference": NUM_REFERENCE,
        },
    )


SPEC = DatasetSpec(
    title="Stacked digits (three handwritten digits as colour channels, 1,000 modes)",
    source="scikit-learn's bundled copy of UCI Optical Recognition of Handwritten Digits, doi:10.24432/C50P49",
    licence="CC BY 4.0",
    resolutions=_RESOLUTIONS,
    default_resolution=32,
    open=_open,
)
