"""Generated images that lie in files: read as they are, and refused where they have another size.

Why own code: every data set here crops and resizes what it reads. Generated images must not be: who resizes, and how,
moves every figure, so a tool's images are scored at the size the tool made them.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image
from pydantic import JsonValue

from bench.datasets._files import SUFFIXES
from bench.datasets._images import EncodedImages, Preparation, PreparedImages
from bench.datasets._spec import Images
from bench.errors import UsageError
from bench.phases._scoring import BATCH_SIZE
from bench.training.randomness import fixed_selection


@dataclass(frozen=True, kw_only=True)
class GeneratedImages:
    """The generated side of an evaluation.

    Attributes:
        resolution: pixels per side.
        how: how the images were made, for the protocol.
        which: which images these are.
        batches: count → up to so many of them, uint8 [b, 3, resolution, resolution].
    """

    resolution: int
    how: dict[str, JsonValue]
    which: dict[str, JsonValue]
    batches: Callable[[int], Iterator[Images]]


def images_of_files(source: EncodedImages, word: str, resolution: int | None) -> GeneratedImages:
    """The images of a folder or an archive.

    Args:
        word: what the user calls it.
        resolution: pixels per side that every image must have; None is the first one's.

    Raises:
        UsageError: there is no image, or the first is not square; on reading, an image of another size.
    """
    if not len(source):
        raise UsageError(f"--generated '{word}' holds no image ({', '.join(SUFFIXES)}).")
    if resolution is None:
        first = source.encoded(0)
        width, height = _size_of(first) or (0, 0)
        if not width:
            Preparation(resolution=1).apply(first, source.label(0))  # says what is wrong with the file
        if width != height:
            raise UsageError(f"--generated: {source.label(0)} is {width}×{height} px, and only squares are scored.")
        resolution = width
    images = PreparedImages(
        _AtSize(source, resolution), np.arange(len(source), dtype=np.int64), Preparation(resolution=resolution)
    )

    def batches(count: int) -> Iterator[Images]:
        indices = fixed_selection(len(images), count)
        return (images.read(indices[start : start + BATCH_SIZE]) for start in range(0, len(indices), BATCH_SIZE))

    how: dict[str, JsonValue] = {"images": "files as they are, not resized", "selection": "fixed pseudo-random"}
    which: dict[str, JsonValue] = {"files": word, "num_files": len(source)}
    return GeneratedImages(resolution=resolution, how=how, which=which, batches=batches)


class _AtSize:
    """Encoded images that must be squares of one size."""

    def __init__(self, source: EncodedImages, resolution: int) -> None:
        self._source = source
        self._resolution = resolution

    def __len__(self) -> int:
        return len(self._source)

    def encoded(self, position: int) -> bytes:
        """The bytes of the file. Raises UsageError where the image has another size."""
        content = self._source.encoded(position)
        size = _size_of(content)
        if size is not None and size != (self._resolution, self._resolution):
            raise UsageError(
                f"--generated: {self.label(position)} is {size[0]}×{size[1]} px in an evaluation at {self._resolution} "
                "px, and images are not resized here: give squares of one size, and that size as --resolution."
            )
        return content

    def label(self, position: int) -> str:
        """Where a person finds that file."""
        return self._source.label(position)


def _size_of(encoded: bytes) -> tuple[int, int] | None:
    """(width, height) from the image's header; None where it has none that can be read, which decoding explains."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # decoding refuses such an image
        try:
            with Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG", "WEBP", "BMP")) as image:
                return image.size
        except (OSError, ValueError, Image.DecompressionBombError):
            return None
