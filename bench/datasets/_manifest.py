"""What lies in a folder of prepared images, and how to tell that it is still what was written.

    prepared/128/manifest.json     this file's `Manifest`, written last: without it a preparation is unfinished
    prepared/128/plan.json         this file's `Plan`, written first
    prepared/128/train-00000.u8    a shard (.u8 memory-mapped, .zip or .lmdb)
    prepared/128/train-00000.json  this file's `ShardIndex`: key and SHA-256 of the pixels of each image in that shard

Why own code: a quality figure needs the exact pixels beside it. The manifest carries its own hash, each shard's, and
one hash over all pixels that does not depend on how they are stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import JsonValue, ValidationError

from bench.datasets._files import data_folder
from bench.errors import BenchError
from bench.quantities import Frozen

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
PLAN_FILE = "plan.json"

Storage = Literal["memmap", "zip", "lmdb"]
SplitName = Literal["train", "reference"]
SPLITS: tuple[SplitName, ...] = ("train", "reference")


class Plan(Frozen):
    """Everything that decides what a preparation writes. Two preparations with equal plans write equal pixels.

    Attributes:
        title, source, licence: as the data set's file says.
        max_images: the limit that was asked for, None for the whole set.
        num_train_images, num_reference_images: entries to prepare, corrupt ones counted.
        pillow: version of the library that decodes and resizes.
        protocol: what the data set says of itself when it is read directly.
    """

    format_version: int = FORMAT_VERSION
    dataset: str
    title: str
    source: str
    licence: str
    resolution: int
    storage: Storage
    max_images: int | None
    num_train_images: int
    num_reference_images: int
    num_images_per_shard: int
    pillow: str
    protocol: dict[str, JsonValue]

    @property
    def num_images(self) -> int:
        """Entries to prepare."""
        return self.num_train_images + self.num_reference_images


class CorruptEntry(Frozen):
    """An entry of the source that gives no image: left out, and never silently."""

    split: SplitName
    key: str
    reason: str


class Shard(Frozen):
    """One file of images of one split."""

    file: str
    split: SplitName
    num_images: int
    num_bytes: int
    sha256: str


class ShardIndex(Frozen):
    """What is in a shard; written when the shard is complete, so that it also says that the shard is.

    Attributes:
        plan_sha256: fingerprint of the plan it was written for.
        keys: name of each image in the source, in the order of the shard.
        pixels_sha256: SHA-256 of each image as uint8 [3, h, w].
        corrupt: entries that belong here and could not be read.
    """

    plan_sha256: str
    shard: Shard
    keys: tuple[str, ...]
    pixels_sha256: tuple[str, ...]
    corrupt: tuple[CorruptEntry, ...]


class IndexedShard(Frozen):
    """A shard, and the file with its keys."""

    shard: Shard
    index_file: str
    index_sha256: str


class Manifest(Frozen):
    """A finished preparation.

    Attributes:
        shards: of train, then of reference; image i of a split is the i-th over its shards.
        num_train_images, num_reference_images: images that are here.
        pixels_sha256: SHA-256 over the split's name and then the SHA-256 of each of its images, one per line, for
            train and then reference; equal for every storage and size of shard.
        sha256: fingerprint of everything else in this document.
    """

    plan: Plan
    shards: tuple[IndexedShard, ...]
    corrupt: tuple[CorruptEntry, ...]
    num_train_images: int
    num_reference_images: int
    pixels_sha256: str
    sha256: str = ""

    def sealed(self) -> Manifest:
        """With its own fingerprint in it."""
        return self.model_copy(update={"sha256": fingerprint(self)})


def prepared_folder(name: str, resolution: int, data: Path | None = None) -> Path:
    """Where that data set is prepared at that resolution.

    Args:
        data: a data folder in place of `$BENCH_DATA`.
    """
    home = data_folder(name) if data is None else data.expanduser().absolute() / name
    return home / "prepared" / str(resolution)


def fingerprint(document: Frozen) -> str:
    """SHA-256 over the document as JSON with sorted keys, its own `sha256` apart."""
    content = document.model_dump(mode="json", exclude={"sha256"})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pixels_fingerprint(hashes: Mapping[SplitName, Iterable[str]]) -> str:
    """`Manifest.pixels_sha256` from the hashes of the images in order, by split."""
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(f"{split}\n".encode())
        for each in hashes[split]:
            digest.update(f"{each}\n".encode())
    return digest.hexdigest()


def again(folder: Path) -> str:
    """The remedy for prepared images that are not what they were."""
    return f"remove the folder '{folder}' and prepare again (`bench data prepare`)"


Document = TypeVar("Document", bound=Frozen)


def read_document(path: Path, document_type: type[Document]) -> Document | None:
    """The document in that file, None where there is no file.

    Raises:
        BenchError: it cannot be read, or is not such a document.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BenchError(f"'{path}' cannot be read ({error.strerror}): {again(path.parent)}.") from error
    try:
        return document_type.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise BenchError(
            f"'{path}' is damaged or of another version ({where}: {first['msg']}): {again(path.parent)}."
        ) from error


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in that folder, None where no preparation was finished there.

    Raises:
        BenchError: it is broken, of another version, or not what was written.
    """
    path = folder / MANIFEST_FILE
    manifest = read_document(path, Manifest)
    if manifest is None:
        return None
    if manifest.plan.format_version != FORMAT_VERSION:
        found = manifest.plan.format_version
        raise BenchError(f"'{path}' has format {found}, this program reads {FORMAT_VERSION}: {again(folder)}.")
    if manifest.sha256 != fingerprint(manifest):
        raise BenchError(f"'{path}' was changed after it was written (its hash is wrong): {again(folder)}.")
    return manifest


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """The cheap check at every opening: each shard is there and has its size.

    Raises:
        BenchError: the first shard that is not.
    """
    for each in manifest.shards:
        path = folder / each.shard.file
        try:
            num_bytes = path.stat().st_size
        except OSError as error:
            raise BenchError(f"The shard '{path}' cannot be read ({error.strerror}): {again(folder)}.") from error
        if num_bytes != each.shard.num_bytes:
            raise BenchError(
                f"The shard '{path}' has {num_bytes:,} bytes where {each.shard.num_bytes:,} were written: "
                f"{again(folder)}."
            )


def check_shard(folder: Path, each: IndexedShard) -> None:
    """The full check: the shard and its index have the hashes that the manifest says.

    Raises:
        BenchError: one of the two files does not.
    """
    for file, expected in ((each.shard.file, each.shard.sha256), (each.index_file, each.index_sha256)):
        path = folder / file
        try:
            found = file_sha256(path)
        except OSError as error:
            raise BenchError(f"'{path}' cannot be read ({error.strerror}): {again(folder)}.") from error
        if found != expected:
            raise BenchError(f"'{path}' is not what was written (SHA-256 {found}, was {expected}): {again(folder)}.")
