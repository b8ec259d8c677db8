"""A shard as an LMDB of lossless WebP images: key = the row as four bytes, highest first, value = file.

Why it exists: one of the three ways to store a prepared set; some clusters serve a B+-tree in one file better than
others. About the room of the ZIP archive (a value fills whole pages of 4 KiB). Pixels as in `_zip_shards.py`.
Source: https://lmdb.readthedocs.io (an environment may be open once in a process and may not cross a fork).
"""

from __future__ import annotations

import functools
import struct
import threading
from collections.abc import Iterable
from pathlib import Path

import lmdb
import numpy as np

from bench.datasets._files import PerProcess
from bench.datasets._spec import Images, Indices
from bench.datasets._zip_shards import decode_lossless, encode_lossless
from bench.errors import BenchError

SUFFIX = ".lmdb"

_PAGE_BYTES = 4096
_FIXED_BYTES = 2**20  # both head pages and the branches of the tree, with room to spare
_KEY = struct.Struct(">I")
_opening = threading.Lock()  # several threads may read the same set for the first time


def write(path: Path, images: Iterable[Images], num_at_most: int) -> None:
    """Write images uint8 [3, h, w] one after the other.

    Raises:
        OSError: the disk does not take them.
    """
    path.unlink(missing_ok=True)  # what an interrupted writing left
    try:
        with lmdb.open(str(path), subdir=False, lock=False, map_size=_FIXED_BYTES, sync=False) as environment:
            for row, image in enumerate(images):
                if row == 0:  # the map may be far larger than the file: that grows with what is written
                    environment.set_mapsize(_FIXED_BYTES + num_at_most * _room_bytes(image))
                with environment.begin(write=True) as transaction:
                    transaction.put(_KEY.pack(row), encode_lossless(image), append=True)
            environment.sync(True)
    except lmdb.Error as error:
        raise OSError(f"LMDB: {error}") from error


def _room_bytes(image: Images) -> int:
    """More than a lossless WebP of that size can take: where nothing compresses, far less than an eighth is added."""
    return image.nbytes * 9 // 8 + 3 * _PAGE_BYTES


@functools.cache  # LMDB refuses to open a database that this process already has open
def _environment(path: Path) -> PerProcess[lmdb.Environment]:
    return PerProcess(functools.partial(_open, path))


def _open(path: Path) -> lmdb.Environment:
    return lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False, meminit=False)


class LmdbShard:
    """Reads one such database; opened by each process when it first reads. Arguments as for `MemmapShard`."""

    def __init__(self, path: Path, _num_images: int, resolution: int) -> None:
        self._path = path
        self._resolution = resolution

    def read(self, rows: Indices) -> Images:
        """rows [n] → uint8 [n, 3, h, w]. Raises BenchError where the database is damaged."""
        images = np.empty((len(rows), 3, self._resolution, self._resolution), dtype=np.uint8)
        try:
            with _opening:
                environment = _environment(self._path).get()
            with environment.begin() as transaction:
                values = [transaction.get(_KEY.pack(row)) for row in rows.tolist()]
        except lmdb.Error as error:
            raise BenchError(f"The shard '{self._path}' cannot be read ({error}): run `bench data verify`.") from error
        for place, (row, value) in enumerate(zip(rows.tolist(), values, strict=True)):
            label = f"Image {row} of the shard '{self._path}'"
            if value is None:
                raise BenchError(f"{label} is not there: run `bench data verify`.")
            images[place] = decode_lossless(bytes(value), label)
        return images
