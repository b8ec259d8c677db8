"""A TensorFlow checkpoint (a "tensor bundle") read without TensorFlow: `X.index` and `X.data-00000-of-00001`.

The index is a sorted table from names to where in the data files a tensor lies; the empty name holds the header. Only
numbers are read: the object graph and every other string is left alone, and nothing is executed.

Sources: tensorflow/core/protobuf/tensor_bundle.proto, tensorflow/core/framework/{types,tensor_shape,versions}.proto and
tensorflow/core/util/tensor_bundle/tensor_bundle.h of https://github.com/tensorflow/tensorflow (v2.13.1). Tested against
files that TensorFlow 2.13.1, which the LadaGAN authors name, has written.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.errors import CheckpointError
from bench.released._crc32c import masked_crc32c
from bench.released._wire import DamagedError, fields, read_table

_KNOWN_VERSION = 1  # kTensorBundleVersion
_INDEX_SUFFIX = ".index"
_DTYPES: dict[int, np.dtype[np.generic]] = {  # of DataType in types.proto; always little-endian here
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    9: np.dtype("<i8"),
    19: np.dtype("<f2"),
}
_HASH_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class _Entry:
    """Where one tensor lies: field numbers of BundleEntryProto in the comments."""

    dtype: int = 0  # 1
    shape: tuple[int, ...] = ()  # 2
    shard: int = 0  # 3
    offset: int = 0  # 4
    size: int = 0  # 5
    crc32c: int = 0  # 6
    is_sliced: bool = False  # 7


class TensorBundle:
    """One checkpoint.

    Args:
        index: its `.index` file, beside which the data files lie.

    Raises:
        CheckpointError: the index cannot be read, is damaged, or has a version this reader does not know.
    """

    def __init__(self, index: Path) -> None:
        self.index = index
        try:
            table = read_table(index.read_bytes())
            self._num_shards = self._checked_header(table.pop(b"", b""))
            self._entries = {name.decode("utf-8", "replace"): _entry(value) for name, value in table.items()}
        except DamagedError as error:
            raise CheckpointError(f"The checkpoint index '{index}' {error}; fetch it again.") from error
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint index '{index}' cannot be read: {error.strerror or error}."
            ) from error

    def names(self) -> list[str]:
        """The names of everything in it, sorted."""
        return sorted(self._entries)

    def tensor(self, name: str) -> NDArray[np.generic]:
        """The numbers under that name.

        Raises:
            CheckpointError: no such name, not numbers, or a data file that is missing, truncated or damaged.
        """
        if name not in self._entries:
            raise CheckpointError(f"The checkpoint '{self.index}' lacks '{name}'.")
        entry = self._entries[name]
        dtype = _DTYPES.get(entry.dtype)
        if dtype is None or entry.is_sliced:
            what = "cut into slices" if entry.is_sliced else f"of TensorFlow's type {entry.dtype}"
            raise CheckpointError(
                f"'{name}' in the checkpoint '{self.index}' is {what}, which this reader does not read."
            )
        data = self._data(entry, name)
        if len(data) != math.prod(entry.shape) * dtype.itemsize or masked_crc32c(data) != entry.crc32c:
            path = self._data_path(entry.shard)
            raise CheckpointError(f"'{path}' is damaged: the checksum or size of '{name}' differs; fetch it again.")
        return np.frombuffer(data, dtype).reshape(entry.shape)

    def sha256(self) -> dict[str, str]:
        """File name → SHA-256, of the index and of every data file. Raises CheckpointError where one is missing."""
        paths = [self.index, *(self._data_path(shard) for shard in range(self._num_shards))]
        return {path.name: file_sha256(path) for path in paths}

    def _data(self, entry: _Entry, name: str) -> bytes:
        path = self._data_path(entry.shard)
        try:
            if path.stat().st_size < entry.offset + entry.size:
                raise CheckpointError(f"'{path}' is truncated: '{name}' lies beyond its end; fetch it again.")
            with path.open("rb") as file:
                file.seek(entry.offset)
                return file.read(entry.size)
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint's data '{path}' cannot be read: {error.strerror or error}."
            ) from error

    def _data_path(self, shard: int) -> Path:
        name = self.index.name.removesuffix(_INDEX_SUFFIX)
        return self.index.with_name(f"{name}.data-{shard:05d}-of-{self._num_shards:05d}")

    def _checked_header(self, message: bytes) -> int:
        """BundleHeaderProto (num_shards 1, endianness 2, version 3) → the number of data files."""
        header = dict(fields(message))
        version = header.get(3, b"")
        oldest_reader = dict(fields(version)).get(2, 0) if isinstance(version, bytes) else 0  # min_consumer
        if not isinstance(oldest_reader, int) or oldest_reader > _KNOWN_VERSION:
            raise DamagedError(f"has version {oldest_reader!r} of the format, and this reader knows {_KNOWN_VERSION}")
        if header.get(2, 0) != 0:
            raise DamagedError("is big-endian, which this reader does not read")
        num_shards = header.get(1)
        if not isinstance(num_shards, int) or num_shards < 1:
            raise DamagedError("has no header, so it is not a TensorFlow checkpoint")
        return num_shards


def file_sha256(path: Path) -> str:
    """Raises CheckpointError where the file cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_HASH_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()


def _entry(message: bytes) -> _Entry:
    """BundleEntryProto; a field that is 0 is not written."""
    found = dict(fields(message))
    numbers = {number: value for number, value in found.items() if isinstance(value, int)}
    shape = found.get(2, b"")
    return _Entry(
        dtype=numbers.get(1, 0),
        shape=_shape(shape) if isinstance(shape, bytes) else (),
        shard=numbers.get(3, 0),
        offset=numbers.get(4, 0),
        size=numbers.get(5, 0),
        crc32c=numbers.get(6, 0),
        is_sliced=7 in found,
    )


def _shape(message: bytes) -> tuple[int, ...]:
    """TensorShapeProto: dim is field 2, its size field 1."""
    dims = [dict(fields(value)) for number, value in fields(message) if number == 2 and isinstance(value, bytes)]
    sizes = [dim.get(1, 0) for dim in dims]
    return tuple(size for size in sizes if isinstance(size, int))
