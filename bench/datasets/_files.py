"""Where image files lie (a folder, a ZIP archive), how they are split, and what to say when they are not there.

Why own code: a figure measured on files is only worth something with the exact list of files beside it. So every source
has sorted relative names, the split is a pure function of those names, and the SHA-256 over names and sizes goes into
the record. The same files in a folder and in a ZIP archive have the same names, split and hash. File contents are not
hashed: a file replaced by another of equal size goes unseen.

A file handle must not be shared by processes (a ZipFile shared across a fork gives CRC errors at once), so handles are
opened on first use in each process. Nothing is ever extracted.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from pydantic import JsonValue

from bench.datasets._images import EncodedImages, Preparation, PreparedImages
from bench.datasets._safe_zip import open_zip, read_entry
from bench.datasets._spec import Indices, OpenDataset
from bench.errors import BenchError, MissingDataError, UsageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_MANIFEST = "SHA-256 over one line per file, sorted by name: relative path, tab, size in bytes"


class Closable(Protocol):
    """A handle."""

    def close(self) -> None:
        """Give it back."""
        ...


Handle = TypeVar("Handle", bound=Closable)


class PerProcess(Generic[Handle]):
    """A handle that each process opens for itself when it first needs it.

    Args:
        opener: opens it; can be pickled, so that the object can be sent to a spawned process.
    """

    def __init__(self, opener: Callable[[], Handle]) -> None:
        self._opener = opener
        self._handle: Handle | None = None
        self._pid = -1
        self._opening = threading.Lock()  # several threads may read; LMDB refuses to be opened twice

    def __reduce__(self) -> tuple[Any, ...]:
        return PerProcess, (self._opener,)

    def get(self) -> Handle:
        """This process's handle."""
        handle = self._handle
        if handle is not None and self._pid == os.getpid():
            return handle
        with self._opening:
            if self._handle is None or self._pid != os.getpid():
                if self._handle is not None:
                    self._handle.close()  # inherited by fork: this closes our copy, the parent keeps its own
                self._handle = self._opener()
                self._pid = os.getpid()
            return self._handle


class FolderImages:
    """The image files below a folder, sorted by relative path; hidden files and linked folders are left out.

    Raises:
        BenchError: a sub-folder cannot be listed, a link to an image leads nowhere, or links form a loop.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        found = sorted(_walk(folder))
        self.names = [name for name, _ in found]
        self.sizes_bytes = [size_bytes for _, size_bytes in found]

    def __len__(self) -> int:
        return len(self.names)

    def encoded(self, position: int) -> bytes:
        """The bytes of the file. Raises BenchError where it cannot be read any more."""
        try:
            return (self._folder / self.names[position]).read_bytes()
        except OSError as error:
            raise BenchError(f"{self.label(position)} cannot be read ({error.strerror}).") from error

    def label(self, position: int) -> str:
        """The file's path in quotes."""
        return f"The file '{self._folder / self.names[position]}'"


def _walk(folder: Path) -> Iterable[tuple[str, int]]:
    """(relative POSIX path, size in bytes) of every image file below, in no order."""
    for parent, folders, files in os.walk(folder, onerror=_refuse, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            _refuse_loop(Path(parent, name))
        for name in files:
            path = Path(parent, name)
            if not _is_image_name(name):
                _refuse_loop(path)
                continue
            try:
                status = path.stat()
            except OSError as error:
                raise BenchError(f"The file '{path}' cannot be read ({error.strerror}).") from error
            if stat.S_ISREG(status.st_mode):
                yield path.relative_to(folder).as_posix(), status.st_size


def _refuse_loop(path: Path) -> None:
    """Raises BenchError for a link to a folder that it lies in, or to itself: no folder is meant to hold itself."""
    if not path.is_symlink():
        return
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: what Python before 3.13 raises for a loop
        if isinstance(error, OSError) and error.errno != errno.ELOOP:
            return  # leads nowhere; it is not an image, so nothing is missed
        raise BenchError(f"The link '{path}' leads back to itself: remove it.") from error
    if target in path.parent.resolve().parents or target == path.parent.resolve():
        raise BenchError(f"The link '{path}' is a loop, because it leads back to '{target}': remove it.")


def _refuse(error: OSError) -> None:
    raise BenchError(f"The folder '{error.filename}' cannot be listed ({error.strerror}).") from error


def _is_image_name(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


class ZipImages:
    """The image files in a ZIP archive, sorted by name; a first folder named like the archive is not part of the names.

    Raises:
        BenchError: the archive is damaged or looks forged; see `_safe_zip`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._archive = PerProcess(functools.partial(open_zip, path))
        infos = self._archive.get().infolist()
        entries = {info.filename: info.file_size for info in infos if _is_visible_image(info.filename)}
        first_folder = f"{path.stem}/"
        self._prefix = first_folder if entries and all(name.startswith(first_folder) for name in entries) else ""
        self.names = sorted(name.removeprefix(self._prefix) for name in entries)
        self.sizes_bytes = [entries[self._prefix + name] for name in self.names]

    def __len__(self) -> int:
        return len(self.names)

    def encoded(self, position: int) -> bytes:
        """The unpacked bytes of the entry. Raises BenchError where it is damaged, encrypted or too large."""
        return read_entry(self._archive.get(), self._prefix + self.names[position], self.label(position))

    def label(self, position: int) -> str:
        """The entry and its archive in quotes."""
        return f"The entry '{self._prefix + self.names[position]}' of '{self._path}'"


def _is_visible_image(name: str) -> bool:
    path = PurePosixPath(name)
    return _is_image_name(path.name) and not any(part.startswith(".") for part in path.parts)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Positions of the two disjoint parts, ascending, and how they were chosen."""

    train: Indices
    reference: Indices
    description: str


def split_by_hash(names: Iterable[str | bytes]) -> Split:
    """Hold out the files whose SHA-256 of the name is smallest; adding a file moves at most one other across.

    The reference is half of the set up to 5,000 images (what `rfd_v1` asks for), then a tenth, and never more than the
    50,000 of the usual FID. Two files are the least that can be split.
    """
    digests = b"".join(hashlib.sha256(os.fsencode(name)).digest()[:8] for name in names)
    order = np.argsort(np.frombuffer(digests, dtype=">u8"), kind="stable")
    num_reference = min(max(min(len(order) // 2, 5_000), len(order) // 10), 50_000)
    return Split(
        train=np.sort(order[num_reference:]),
        reference=np.sort(order[:num_reference]),
        description=f"reference: the {num_reference:,} files with the smallest SHA-256 of the name; train: the others",
    )


def split_by(is_reference: Sequence[bool], description: str) -> Split:
    """The split that a data set's authors publish: one flag per file."""
    flags = np.array(is_reference, dtype=np.bool_)
    return Split(train=np.flatnonzero(~flags), reference=np.flatnonzero(flags), description=description)


def open_files(source: FolderImages | ZipImages, split: Split, preparation: Preparation, selection: str) -> OpenDataset:
    """The two sets of images over a folder or archive, with the protocol that a record keeps.

    Args:
        selection: which files of the source these are, in words.
    """
    lines = (f"{name}\t{size_bytes}\n" for name, size_bytes in zip(source.names, source.sizes_bytes, strict=True))
    manifest = hashlib.sha256()
    for line in lines:
        manifest.update(os.fsencode(line))
    return open_encoded(
        source,
        split,
        preparation,
        {"selection": selection, "manifest": _MANIFEST, "manifest_sha256": manifest.hexdigest()},
    )


def open_encoded(
    source: EncodedImages, split: Split, preparation: Preparation, facts: dict[str, JsonValue]
) -> OpenDataset:
    """The two sets of images over any source.

    Args:
        facts: what the protocol says of the source itself (selection, manifest).
    """
    return OpenDataset(
        train=PreparedImages(source, split.train, preparation),
        reference=PreparedImages(source, split.reference, preparation),
        protocol={
            **facts,
            "split": split.description,
            "num_train_images": len(split.train),
            "num_reference_images": len(split.reference),
            "preparation": preparation.description,
        },
    )


def find_tree(folder: Path, name: str) -> FolderImages | ZipImages | None:
    """The extracted folder `name` in `folder`, else the archive `name.zip`, else None."""
    if (folder / name).is_dir():
        return FolderImages(folder / name)
    archive = folder / f"{name}.zip"
    return ZipImages(archive) if archive.is_file() else None


def data_folder(name: str) -> Path:
    """Where the files of a named data set belong: `$BENCH_DATA/<name>`, or `data/<name>` in the current folder."""
    return Path(os.environ.get("BENCH_DATA") or "data").expanduser().absolute() / name


def missing(
    name: str, files: str, size: str, page: str, put: str = "it", *, can_download: bool = False
) -> MissingDataError:
    """The one sentence for files that are not here.

    Args:
        name: the data set's name on the command line.
        files: what to fetch, for example `cifar-10-python.tar.gz`.
        size: how much that is, for example `170 MB`.
        page: its official page.
        put: what goes into the folder, where that is not the very file.
        can_download: whether `_download.py` knows the link.
    """
    command = f"run `bench data prepare {name} --download`, or " if can_download else ""
    return MissingDataError(
        f"The files of --dataset {name} are not here: {command}fetch {files} ({size}) from {page} and put {put} into "
        f"'{data_folder(name)}' (BENCH_DATA names another data folder than ./data), or give --no-data, which measures "
        "everything but quality."
    )


def check_resolution(name: str, resolution: int, resolutions: tuple[int, ...]) -> None:
    """Raises UsageError where the data set has no images of that size."""
    if resolution not in resolutions:
        known = ", ".join(map(str, resolutions))
        raise UsageError(f"--resolution {resolution} is not one that --dataset {name} has; known: {known}.")
