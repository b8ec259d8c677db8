"""CIFAR-10: 60,000 photographs of 32×32 px, the set on which small GANs are compared.

Why it exists here: read straight from the published archive (or the folder it unpacks to), so that nothing needs to
be prepared. Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; the format is described
at https://www.cs.toronto.edu/~kriz/cifar.html, the MD5 of each batch is the one torchvision checks
(https://github.com/pytorch/vision/blob/main/torchvision/datasets/cifar.py).

The batches are Python 2 pickles. A pickle can run any code, so each file's MD5 is checked before it is read, and the
unpickler replaces the three NumPy names that the files need by inert stand-ins and refuses every other. (NumPy's own
classes would also warn at these files since 2.4: https://github.com/pytorch/vision/issues/9340.) Nothing is extracted;
an archive with a link, a name that leads out of it, or more bytes than the published 186 MB and a margin is refused.
Deliberate difference: labels are not read, these GANs are unconditional.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import numpy as np

from bench.datasets._files import check_resolution, data_folder, missing
from bench.datasets._shards import open_prepared
from bench.datasets._spec import DatasetSpec, Images, Indices, OpenDataset
from bench.errors import BenchError

_ARCHIVE = "cifar-10-python.tar.gz"
_FOLDER = "cifar-10-batches-py"
_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_TEST_BATCH = "test_batch"
_MAX_UNPACKED_BYTES = 2**28  # 186 MB are published
_PUBLISHED_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    _TEST_BATCH: "40351d587109b95175f43aff81a1287e",
}


class _Array:
    """Stands in for `numpy.ndarray`: keeps what the pickle says of the array and does nothing with it."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Dtype:
    """Stands in for `numpy.dtype`."""

    def __init__(self, code: object, *_flags: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment mean nothing for single bytes."""


def _reconstruct(*_arguments: object) -> _Array:
    """Stands in for `numpy.core.multiarray._reconstruct`."""
    return _Array()


_STAND_INS: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _BatchUnpickler(pickle.Unpickler):
    """Reads what a CIFAR batch is made of and refuses anything else."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name in the pickle. Raises UnpicklingError for a name that no batch needs."""
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR-10 file needs") from None


def _images_of(batch: bytes, label: str) -> Images:
    """A pickled batch → uint8 [n, 3, 32, 32].

    Raises:
        BenchError: the pickle asks for a foreign name, or is not a batch; the message starts with `label`.
    """
    try:
        content = _BatchUnpickler(io.BytesIO(batch), encoding="bytes").load()
        _, shape, dtype, is_fortran, pixels = content[b"data"].state
        if dtype.code != b"u1" or shape[1:] != (3072,):
            raise pickle.UnpicklingError("its data is not a uint8 array with rows of 3072")
        rows = np.frombuffer(pixels, dtype=np.uint8).reshape(shape, order="F" if is_fortran else "C")
        return rows.reshape(-1, 3, 32, 32)  # a row is the red plane, then the green, then the blue, each of 32 rows
    except (pickle.UnpicklingError, EOFError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise BenchError(f"{label} is not a CIFAR-10 batch ({error}): fetch {_ARCHIVE} again from {_PAGE}.") from error


class _Bounded:
    """The unpacked bytes of a gzip file, up to a limit, as tarfile reads them.

    It stands below tarfile because tarfile believes a header that claims gigabytes of names, and reads them at once.

    Args:
        path: the archive, for messages.
    """

    def __init__(self, path: Path, unpacked: gzip.GzipFile) -> None:
        self._path, self._unpacked, self._num_left = path, unpacked, _MAX_UNPACKED_BYTES

    def read(self, num_bytes: int) -> bytes:
        """The next bytes. Raises BenchError where there are too many."""
        chunk = self._unpacked.read(num_bytes)
        self._num_left -= len(chunk)
        if self._num_left < 0:
            raise BenchError(
                f"The archive '{self._path}' is refused as a decompression bomb, because it unpacks to more than "
                f"{_MAX_UNPACKED_BYTES:,} bytes: fetch it again from {_PAGE}."
            )
        return chunk


def _members(archive: Path, names: frozenset[str]) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each batch in the archive, front to back. Raises BenchError where the archive looks forged."""
    with (
        gzip.open(archive, "rb") as unpacked,
        tarfile.open(fileobj=cast(IO[bytes], _Bounded(archive, unpacked)), mode="r|") as members,
    ):
        for member in members:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise BenchError(f"The archive '{archive}' is refused: its entry '{member.name}' leads out of it.")
            if not (member.isreg() or member.isdir()):
                raise BenchError(
                    f"The archive '{archive}' is refused: its entry '{member.name}' is a link or a device."
                )
            name = member.name.removeprefix(f"{_FOLDER}/")
            content = members.extractfile(member) if name in names else None
            if content is not None:
                yield name, content.read()


def _batches(folder: Path, names: frozenset[str]) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each batch, from the extracted folder or else from the archive.

    Raises:
        MissingDataError: neither is there.
        BenchError: one is there and cannot be read, or looks forged.
    """
    extracted, archive = folder / _FOLDER, folder / _ARCHIVE
    if not extracted.is_dir() and not archive.is_file():
        raise missing("cifar10", _ARCHIVE, "170 MB", _PAGE, can_download=True)
    try:
        if extracted.is_dir():
            yield from ((name, (extracted / name).read_bytes()) for name in sorted(names))
            return
        yield from _members(archive, names)
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        raise BenchError(f"CIFAR-10 in '{folder}' cannot be read ({error}): fetch {_ARCHIVE} again.") from error


def _read(folder: Path, expected_md5: Mapping[str, str]) -> tuple[Images, Images]:
    """(train, test) images, each uint8 [n, 3, 32, 32].

    Args:
        expected_md5: batch file name → its MD5; tests give that of their own small files.

    Raises:
        BenchError: a batch is missing, or is not the expected one.
    """
    found: dict[str, Images] = {}
    for name, batch in _batches(folder, frozenset(expected_md5)):
        label = f"The file '{_FOLDER}/{name}' in '{folder}'"
        md5 = hashlib.md5(batch, usedforsecurity=False).hexdigest()
        if md5 != expected_md5[name]:
            raise BenchError(
                f"{label} is not the published one (MD5 {md5}, published {expected_md5[name]}): fetch {_ARCHIVE} again "
                f"from {_PAGE}."
            )
        found[name] = _images_of(batch, label)
    for name in expected_md5:
        if name not in found:
            raise BenchError(f"CIFAR-10 in '{folder}' lacks '{_FOLDER}/{name}': fetch {_ARCHIVE} again from {_PAGE}.")
    train = [found[name] for name in sorted(found) if name != _TEST_BATCH]
    return np.concatenate(train), found[_TEST_BATCH]


class _ImagesInMemory:
    """An `ImageSet` over an array."""

    def __init__(self, images: Images) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def read(self, indices: Indices) -> Images:
        """indices [n] → uint8 [n, 3, 32, 32]."""
        return self._images[indices]


def _open(resolution: int, _path: str | None) -> OpenDataset:
    """What was prepared, else both splits in memory (184 MB). Raises MissingDataError where neither is here."""
    check_resolution("cifar10", resolution, SPEC.resolutions)
    prepared = open_prepared("cifar10", resolution)
    if prepared is not None:
        return prepared
    train, test = _read(data_folder("cifar10"), _PUBLISHED_MD5)
    return OpenDataset(
        train=_ImagesInMemory(train),
        reference=_ImagesInMemory(test),
        protocol={
            "selection": "all images of the python version, labels not used",
            "manifest": "MD5 of each batch file, equal to the published ones",
            "manifest_md5": dict(_PUBLISHED_MD5),
            "split": "official: train is the training set, reference is the test set",
            "num_train_images": len(train),
            "num_reference_images": len(test),
            "preparation": "none: 32×32 uint8 as published",
        },
    )


SPEC = DatasetSpec(
    title="CIFAR-10",
    source=_PAGE,
    licence="none stated; published for research, to be cited as Krizhevsky 2009",
    resolutions=(32,),
    default_resolution=32,
    open=_open,
)
