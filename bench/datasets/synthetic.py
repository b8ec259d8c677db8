"""`synthetic`: images of uniform random bytes, for measuring cost and speed where no data is wanted.

Why it exists: energy, speed and work per image do not depend on what the pixels show, so `--no-data` measures them on
these images in place of any data set of that shape. They say nothing about quality.

Image = f(seed, index, resolution): the bytes are consecutive SplitMix64 outputs, eight bytes each, lowest byte first;
image `index` owns the outputs index·w … (index + 1)·w - 1 with w = 3·resolution² / 8. Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.datasets._spec import DatasetSpec, Images, Indices, OpenDataset
from bench.datasets._splitmix64 import splitmix64
from bench.errors import UsageError

SEED = 1
RESOLUTIONS = (32, 64, 128, 256)
NUM_TRAIN_IMAGES = 2**20
NUM_REFERENCE_IMAGES = 2**17

_WORDS_PER_CHUNK = 2**15  # keeps the working set of a chunk in a core's own cache


@dataclass(frozen=True, kw_only=True)
class NoiseImages:
    """A range of indices at one resolution; an `ImageSet`."""

    resolution: int
    first_index: int
    num_images: int
    seed: int = SEED

    def __len__(self) -> int:
        return self.num_images

    def read(self, indices: Indices) -> Images:
        """indices [n] in [0, len) → uint8 noise [n, 3, h, w].

        Raises:
            UsageError: an index outside the range.
        """
        indices = np.asarray(indices, np.int64)
        if len(indices) and not 0 <= indices.min() <= indices.max() < self.num_images:
            raise UsageError(f"synthetic has the images 0 to {self.num_images - 1}; ask for indices in that range.")
        num_words = 3 * self.resolution**2 // 8
        first_words = (indices + self.first_index).astype(np.uint64) * np.uint64(num_words)
        words_of_image = np.arange(num_words, dtype=np.uint64)
        words = np.empty((len(indices), num_words), "<u8")  # lowest byte first, whatever the computer's own order
        step = max(1, _WORDS_PER_CHUNK // num_words)
        for start in range(0, len(indices), step):
            part = slice(start, start + step)
            words[part] = splitmix64(self.seed, first_words[part, None] + words_of_image)
        return words.view(np.uint8).reshape(len(indices), 3, self.resolution, self.resolution)


def _open(resolution: int, path: str | None) -> OpenDataset:
    if resolution not in RESOLUTIONS:
        raise UsageError(f"--resolution {resolution} is not one of synthetic: {RESOLUTIONS}.")
    if path is not None:
        raise UsageError("synthetic is made from nothing; write --dataset synthetic without a path.")
    return OpenDataset(
        train=NoiseImages(resolution=resolution, first_index=0, num_images=NUM_TRAIN_IMAGES),
        reference=NoiseImages(resolution=resolution, first_index=NUM_TRAIN_IMAGES, num_images=NUM_REFERENCE_IMAGES),
        protocol={
            "version": "synthetic-v1",
            "resolution": resolution,
            "seed": SEED,
            "train_indices": [0, NUM_TRAIN_IMAGES],
            "reference_indices": [NUM_TRAIN_IMAGES, NUM_TRAIN_IMAGES + NUM_REFERENCE_IMAGES],
            "preparation": "independent uniform bytes",
        },
    )


SPEC = DatasetSpec(
    title="Synthetic: uniform random bytes, for cost and speed without data",
    source="procedural (bench/datasets/synthetic.py)",
    licence="MIT, as this project",
    resolutions=RESOLUTIONS,
    default_resolution=32,
    open=_open,
)
