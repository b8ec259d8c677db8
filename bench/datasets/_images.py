"""From an encoded file to a square uint8 RGB image: the one preparation that every data set of files shares.

Why own code: a quality figure is only comparable when the pixels are, so every choice below is pinned and named in
`Preparation.description`, which goes into the record. The order (decode, centre crop, Lanczos resize) is that of
StyleGAN2-ADA's `dataset_tool.py --transform=center-crop` (https://github.com/NVlabs/stylegan2-ada-pytorch).
Deliberate differences: it applies the EXIF orientation (a portrait photo is upright), puts transparency on black
instead of refusing it, and keeps the high byte of 16-bit grey (Pillow's own conversion clips it to white).

Decoding is Pillow's. The decoder is chosen by the file's first bytes, never by its suffix, and is called directly, not
through `Image.open`: that prints a warning for a large image and lowers or lifts its limit only for the whole process.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, Image, ImageFile, ImageOps, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from bench.datasets._spec import Images, Indices
from bench.errors import BenchError
from bench.units import BYTES_PER_GIB

MAX_PIXELS = 89_478_485
"""Largest image that is decoded: Pillow's own `Image.MAX_IMAGE_PIXELS`, a quarter of a GiB as RGB."""

CACHE_LIMIT_BYTES = BYTES_PER_GIB
"""A split whose prepared images fit in here is decoded once per process and then read from memory."""

DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error)
"""What Pillow raises on a damaged file; `ImageFile.ImageFile.__init__` takes the same list for broken data."""


class EncodedImages(Protocol):
    """Encoded image files by position: a folder, a ZIP archive or an LMDB."""

    def __len__(self) -> int:
        """Number of files."""
        ...

    def encoded(self, position: int) -> bytes:
        """The bytes of the file. Raises BenchError, naming it, where they cannot be read."""
        ...

    def label(self, position: int) -> str:
        """Where a person finds that file, quoted, for messages."""
        ...


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a decoded image becomes a square.

    Attributes:
        resolution: pixels per side of the result.
        crop: pixels per side of the centre crop, no more than `required_size`; None is the image's shorter side.
        required_size: (width, height) every file must have, None where any will do.
    """

    resolution: int
    crop: int | None = None
    required_size: tuple[int, int] | None = None

    @property
    def description(self) -> str:
        """Everything that decides the pixels, in words."""
        side = f"{self.crop} px" if self.crop else "the shorter side"
        return (
            "first frame; EXIF orientation applied; ICC profile ignored; 16-bit grey: high byte; "
            f"transparency on black; RGB; centre crop to {side} (odd pixel to the right and below); "
            f"Pillow LANCZOS to {self.resolution} px, smaller images enlarged; uint8"
        )

    def apply(self, encoded: bytes, label: str) -> Images:
        """Encoded file → uint8 [3, resolution, resolution].

        Raises:
            BenchError: no image, damaged, too large to decode, or not of the required size; the message starts with
                `label`.
        """
        image = _decode(encoded, label)
        if self.required_size and image.size != self.required_size:
            found, wanted = ("×".join(map(str, size)) for size in (image.size, self.required_size))
            raise BenchError(f"{label} is {found} px where this data set has {wanted}: put the published files there.")
        side = self.crop or min(image.size)
        left, top = ((length - side) // 2 for length in image.size)
        image = image.crop((left, top, left + side, top + side))
        if side != self.resolution:
            image = image.resize((self.resolution, self.resolution), Image.Resampling.LANCZOS)
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _decode(encoded: bytes, label: str) -> Image.Image:
    """The upright RGB image in those bytes. Raises BenchError as `Preparation.apply` does."""
    plugin = _plugin_of(encoded)
    if plugin is None:
        raise BenchError(
            f"{label} is not a JPEG, PNG, WebP or BMP image, whatever its name says: remove or replace it."
        )
    try:
        image: Image.Image = plugin(io.BytesIO(encoded))  # reads the header only
        num_pixels = image.width * image.height
        if num_pixels > MAX_PIXELS:
            raise Image.DecompressionBombError(f"{image.width}×{image.height} = {num_pixels:,} pixels")
        return _upright_rgb(image)
    except Image.DecompressionBombError as error:  # Pillow's WebP decoder raises it too, above twice this limit
        raise BenchError(
            f"{label} is refused as a decompression bomb, because more than {MAX_PIXELS:,} pixels are never decoded "
            f"({error}): remove it or scale it down."
        ) from error
    except DAMAGE as error:
        raise BenchError(f"{label} is truncated or damaged ({error}): remove or replace it.") from error


def _plugin_of(encoded: bytes) -> type[ImageFile.ImageFile] | None:
    """Pillow's decoder for these first bytes, or None."""
    if encoded[:3] == b"\xff\xd8\xff":
        return JpegImagePlugin.JpegImageFile
    if encoded[:8] == b"\x89PNG\r\n\x1a\n":
        return PngImagePlugin.PngImageFile
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile
    if encoded[:2] == b"BM":
        return BmpImagePlugin.BmpImageFile
    return None


def _upright_rgb(image: Image.Image) -> Image.Image:
    """Decode, turn as EXIF says, convert to RGB."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


class PreparedImages:
    """An `ImageSet` over some of the files of a source, decoded when they are first read.

    Args:
        source: the encoded files.
        positions: int64 [n]: image i of this set is file `positions[i]` of the source.
        preparation: how each is prepared.
    """

    def __init__(self, source: EncodedImages, positions: Indices, preparation: Preparation) -> None:
        self._source = source
        self._positions = positions
        self._preparation = preparation
        shape = (len(positions), 3, preparation.resolution, preparation.resolution)
        is_cached = int(np.prod(shape, dtype=np.int64)) <= CACHE_LIMIT_BYTES
        # Not touched before it is filled, so the operating system gives memory only to images that were read.
        self._pixels: Images | None = np.empty(shape, dtype=np.uint8) if is_cached else None
        self._is_decoded: NDArray[np.bool_] = np.zeros(len(positions), dtype=np.bool_)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy sent to another process starts with an empty cache."""
        return PreparedImages, (self._source, self._positions, self._preparation)

    def __len__(self) -> int:
        return len(self._positions)

    def read(self, indices: Indices) -> Images:
        """indices [n] → uint8 [n, 3, resolution, resolution]. Raises BenchError naming a file that is damaged."""
        if self._pixels is None:
            return self._decode(indices)
        new = np.unique(indices[~self._is_decoded[indices]])
        if len(new):
            self._pixels[new] = self._decode(new)
            self._is_decoded[new] = True
        return self._pixels[indices]

    def _decode(self, indices: Indices) -> Images:
        resolution = self._preparation.resolution
        images = np.empty((len(indices), 3, resolution, resolution), dtype=np.uint8)
        for row, position in enumerate(self._positions[indices].tolist()):
            images[row] = self._preparation.apply(self._source.encoded(position), self._source.label(position))
        return images
