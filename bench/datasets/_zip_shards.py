"""A shard as a ZIP archive of lossless WebP images, stored without a second compression.

Why it exists: about half the room of raw bytes and still the same pixels, for sets that would not fit otherwise; any
ZIP program opens it. Lossless, because a stored set must give the pixels that the source gives; WebP, because it beats
PNG of compression level 1 in all three: on photograph-like noise at 128 and 256 px it is written 3.5 times and read
2 times as fast, and takes 6 to 8 % less room (Pillow 13, one core).

Reading is ours because `zipfile` keeps half a kB per entry: 1.5 GB for all of LSUN bedroom in every process, while
three numbers per entry, read at once from the central directory, are enough. Names have one length and there are no
extra fields, so the directory is a table of fixed rows. Every entry's CRC is checked when it is read. Layout: PKWARE
APPNOTE 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16 (https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT).
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, WebPImagePlugin

from bench.datasets._images import DAMAGE
from bench.datasets._spec import Images, Indices
from bench.errors import BenchError

SUFFIX = ".zip"
MAX_ENTRIES = 60_000
"""Below the 65,535 entries from which a ZIP archive needs another directory."""

_NAME = "{:06d}.webp"
_FIRST_DATE = (1980, 1, 1, 0, 0, 0)  # equal images give equal bytes, whenever they are written
_LOCAL_HEADER_BYTES = 30 + len(_NAME.format(0))
_END = struct.Struct("<4s4H2LH")
_ROW = np.dtype(
    {
        "names": ["signature", "method", "crc", "num_bytes", "name_length", "offset", "name"],
        "formats": ["S4", "<u2", "<u4", "<u4", "<u2", "<u4", "S11"],
        "offsets": [0, 10, 16, 24, 28, 42, 46],
        "itemsize": 57,
    }
)


def encode_lossless(image: Images) -> bytes:
    """uint8 [3, h, w] → lossless WebP."""
    stream = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(stream, "WEBP", lossless=True, quality=0, method=0)  # least effort
    return stream.getvalue()


def decode_lossless(encoded: bytes, label: str) -> Images:
    """Lossless WebP → uint8 [3, h, w]. Raises BenchError, beginning with `label`, where it is damaged."""
    try:
        return np.asarray(WebPImagePlugin.WebPImageFile(io.BytesIO(encoded))).transpose(2, 0, 1)
    except DAMAGE as error:
        raise BenchError(f"{label} is damaged ({error}): run `bench data verify`.") from error


def write(path: Path, images: Iterable[Images], _num_at_most: int) -> None:
    """Write images uint8 [3, h, w] one after the other. Raises OSError where the disk does not take them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for row, image in enumerate(images):
            archive.writestr(zipfile.ZipInfo(_NAME.format(row), _FIRST_DATE), encode_lossless(image))


class ZipShard:
    """Reads one such archive; mapped when it is first read. Arguments and processes as for `MemmapShard`."""

    def __init__(self, path: Path, num_images: int, resolution: int) -> None:
        self._path = path
        self._num_images = num_images
        self._resolution = resolution
        self._opened: tuple[NDArray[np.uint8], NDArray[np.uint32]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return ZipShard, (self._path, self._num_images, self._resolution)

    def read(self, rows: Indices) -> Images:
        """rows [n] → uint8 [n, 3, h, w].

        Raises:
            BenchError: the archive is not one of ours, or an entry is damaged; the message names it.
        """
        if self._opened is None:
            self._opened = self._open()
        content, entries = self._opened
        images = np.empty((len(rows), 3, self._resolution, self._resolution), dtype=np.uint8)
        for place, row in enumerate(rows.tolist()):
            offset, num_bytes, crc = entries[row].tolist()
            start = offset + _LOCAL_HEADER_BYTES
            encoded = content[start : start + num_bytes].tobytes()
            label = f"The entry '{_NAME.format(row)}' of '{self._path}'"
            if zlib.crc32(encoded) != crc:
                raise BenchError(f"{label} is damaged (its CRC is wrong): run `bench data verify`.")
            images[place] = decode_lossless(encoded, label)
        return images

    def _open(self) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
        """The archive's bytes, and of each entry [n, 3]: where it starts, how long it is, its CRC."""
        try:
            content = np.memmap(self._path, dtype=np.uint8, mode="r")
            end = _END.unpack(content[-_END.size :].tobytes())
            signature, num_entries, start = end[0], end[4], end[6]
            directory = np.frombuffer(content[start : -_END.size].tobytes(), dtype=_ROW)
        except (OSError, ValueError, struct.error) as error:
            raise BenchError(f"The shard '{self._path}' cannot be read ({error}): run `bench data verify`.") from error
        is_ours = (
            (directory["signature"] == b"PK\x01\x02")
            & (directory["method"] == zipfile.ZIP_STORED)
            & (directory["name_length"] == _ROW["name"].itemsize)
        )
        if signature != b"PK\x05\x06" or not num_entries == len(directory) == self._num_images or not is_ours.all():
            raise BenchError(f"The shard '{self._path}' is not as it was written: run `bench data verify`.")
        return content, np.column_stack([directory[field] for field in ("offset", "num_bytes", "crc")])
