"""The contract between a data set and the harness.

A data set is opened at a resolution and gives two disjoint sets of images with random access: `train` is what the
discriminator sees, `reference` is what quality is measured against. Which image comes next is never the data set's
choice: the sampler in `bench/training` is a pure function of images shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

Images = NDArray[np.uint8]
Indices = NDArray[np.int64]


class ImageSet(Protocol):
    """Images by index."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def read(self, indices: Indices) -> Images:
        """indices [n] in [0, len) → uint8 RGB images [n, 3, h, w]; the same index always gives the same image.

        Raises:
            BenchError: a file behind an index cannot be decoded; the message names it.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class OpenDataset:
    """A data set at one resolution.

    Attributes:
        train, reference: disjoint sets of images.
        protocol: everything that decides the pixels: version, selection, split, preparation, counts. Plain values.
    """

    train: ImageSet
    reference: ImageSet
    protocol: dict[str, JsonValue]


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """What a data set file ends with.

    Attributes:
        title, source, licence: for people; source is a URL or a sentence.
        resolutions: pixels per side that can be opened; images are square RGB.
        default_resolution: what `--resolution` is when it is not given.
        open: (resolution, path) → OpenDataset. `path` is what follows the colon in `--dataset folder:PATH`, else None.
            Raises MissingDataError where the files are not here: one sentence that says what to fetch, where to put
            it, and that `--no-data` measures everything but quality.
        takes_path: whether `--dataset name:PATH` is how it is asked for.
    """

    title: str
    source: str
    licence: str
    resolutions: tuple[int, ...]
    default_resolution: int
    open: Callable[[int, str | None], OpenDataset]
    takes_path: bool = False
