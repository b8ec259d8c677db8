"""Prepared images: opening them in place of the source, and how each storage is written and read.

Why it exists: decoding and resizing photographs takes a processor's time in every epoch and in every run; prepared
once, they are read as they are. The pixels, the split and the order are those of reading the source directly, so a
figure does not depend on whether a set was prepared.

Storage `auto` is memory-mapped up to 200,000 images and a stored ZIP beyond: all of LSUN bedroom takes 149 GB raw at
128 px.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Protocol

import numpy as np
from pydantic import JsonValue

from bench.datasets import _lmdb_shards, _memmap_shards, _zip_shards
from bench.datasets._manifest import Manifest, SplitName, Storage, check_sizes, prepared_folder, read_manifest
from bench.datasets._spec import Images, ImageSet, Indices, OpenDataset

MAX_MEMMAP_IMAGES = 200_000

_SHARD_BYTES = 2**28  # an interrupted preparation loses at most one of these per worker
_MAX_IMAGES_PER_SHARD = 16_384
_MAX_SHARDS = 256  # each keeps a file open, and a process may often have no more than 1,024


class ShardReader(Protocol):
    """The images of one file."""

    def read(self, rows: Indices) -> Images:
        """rows [n] → uint8 [n, 3, h, w]. Raises BenchError naming what is damaged."""
        ...


Writer = Callable[[Path, Iterable[Images], int], None]
"""(path, images uint8 [3, h, w], at most how many they are). Raises OSError where the disk does not take them."""

READERS: dict[Storage, Callable[[Path, int, int], ShardReader]] = {
    "memmap": _memmap_shards.MemmapShard,
    "zip": _zip_shards.ZipShard,
    "lmdb": _lmdb_shards.LmdbShard,
}
WRITERS: dict[Storage, Writer] = {
    "memmap": _memmap_shards.write,
    "zip": _zip_shards.write,
    "lmdb": _lmdb_shards.write,
}
SUFFIXES: dict[Storage, str] = {
    "memmap": _memmap_shards.SUFFIX,
    "zip": _zip_shards.SUFFIX,
    "lmdb": _lmdb_shards.SUFFIX,
}

_is_reading_sources: ContextVar[bool] = ContextVar("is_reading_sources", default=False)


def automatic_storage(num_images: int) -> Storage:
    """What `--storage auto` is for a set of that many images."""
    return "memmap" if num_images <= MAX_MEMMAP_IMAGES else "zip"


def images_per_shard(num_images: int, resolution: int) -> int:
    """How many images one file holds: about 256 MiB of pixels, and never more than some 256 files."""
    of_size = min(_SHARD_BYTES // (3 * resolution**2), _MAX_IMAGES_PER_SHARD)
    return min(max(of_size, -(-num_images // _MAX_SHARDS)), _zip_shards.MAX_ENTRIES)


class ShardedImages:
    """An `ImageSet` over shards, one after the other.

    Args:
        readers: one per shard.
        sizes: images in each, at least one.
        resolution: pixels per side.
    """

    def __init__(self, readers: Sequence[ShardReader], sizes: Sequence[int], resolution: int) -> None:
        self._readers = tuple(readers)
        self._ends = np.cumsum(np.array(sizes, dtype=np.int64))
        self._starts = self._ends - np.array(sizes, dtype=np.int64)
        self._resolution = resolution

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, indices: Indices) -> Images:
        """indices [n] → uint8 [n, 3, h, w].

        Raises:
            BenchError: a shard is damaged; the message names it.
            IndexError: an index outside [0, len).
        """
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"these prepared images have the indices 0 to {len(self) - 1}")
        numbers = np.searchsorted(self._ends, indices, side="right")
        images = np.empty((len(indices), 3, self._resolution, self._resolution), dtype=np.uint8)
        for number in np.unique(numbers).tolist():
            is_here = numbers == number
            images[is_here] = self._readers[number].read(indices[is_here] - self._starts[number])
        return images


@contextmanager
def sources_only() -> Iterator[None]:
    """Inside, `open_prepared` finds nothing: preparing a set must read its source, not what was prepared before."""
    token = _is_reading_sources.set(True)
    try:
        yield
    finally:
        _is_reading_sources.reset(token)


def open_prepared(name: str, resolution: int) -> OpenDataset | None:
    """The prepared images of a named data set, None where it is not prepared at that resolution.

    Raises:
        BenchError: what is there is not what was written (the manifest's own hash or a shard's size is wrong).
    """
    if _is_reading_sources.get():
        return None
    folder = prepared_folder(name, resolution)
    manifest = read_manifest(folder)
    return None if manifest is None else open_manifest(folder, manifest)


def open_manifest(folder: Path, manifest: Manifest) -> OpenDataset:
    """The two sets of images of a finished preparation. Raises BenchError where a shard's size is wrong."""
    check_sizes(folder, manifest)
    return OpenDataset(
        train=_images_of("train", folder, manifest),
        reference=_images_of("reference", folder, manifest),
        protocol=_protocol(manifest),
    )


def _images_of(split: SplitName, folder: Path, manifest: Manifest) -> ImageSet:
    plan = manifest.plan
    shards = [each.shard for each in manifest.shards if each.shard.split == split and each.shard.num_images]
    reader = READERS[plan.storage]
    return ShardedImages(
        [reader(folder / shard.file, shard.num_images, plan.resolution) for shard in shards],
        [shard.num_images for shard in shards],
        plan.resolution,
    )


def _protocol(manifest: Manifest) -> dict[str, JsonValue]:
    """What reading the source directly would say, with what only a preparation knows.

    Storage and shards are left out: they decide no pixel.
    """
    protocol = {
        **manifest.plan.protocol,
        "num_train_images": manifest.num_train_images,
        "num_reference_images": manifest.num_reference_images,
        "num_corrupt_entries": len(manifest.corrupt),
        "pixels_sha256": manifest.pixels_sha256,
    }
    # CIFAR-10 pins MD5 sums in place of a manifest of names; the pixels then are the manifest.
    protocol.setdefault("manifest_sha256", manifest.pixels_sha256)
    return protocol
