"""One shard of a preparation: read its images from the source, write them, then write the index that completes it.

Why own code: what makes a preparation resumable is one rule, kept here. A shard and then its index are each written to
a temporary name, forced to the disk and renamed, so an index that is there says that its shard is whole; a shard
without one is written again. An index from another plan, or whose shard has another hash, counts for nothing.

These functions run in spawned processes. A worker ends when its parent does (a killed parent cannot tell it to), leaves
Ctrl-C to the parent, and stops within one image when that says so.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np

from bench.datasets._images import PreparedImages
from bench.datasets._manifest import (
    CorruptEntry,
    IndexedShard,
    Plan,
    Shard,
    ShardIndex,
    SplitName,
    file_sha256,
    fingerprint,
    read_document,
)
from bench.datasets._shards import SUFFIXES, WRITERS
from bench.datasets._spec import Images, ImageSet, Indices
from bench.errors import BenchError, InterruptedRunError


@dataclass(frozen=True, kw_only=True)
class Job:
    """One shard: which images of a split go into the files of that name."""

    split: SplitName
    name: str
    indices: Indices

    @property
    def index_file(self) -> str:
        """Name of the file with its keys."""
        return f"{self.name}.json"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every process needs.

    Attributes:
        images: the source, each split as it is read directly.
        folder: where shards go.
        num_done: entries worked off by all processes.
        is_stopped: set where everybody should stop.
    """

    images: dict[SplitName, ImageSet]
    folder: Path
    plan: Plan
    num_done: Synchronized[int]
    is_stopped: Event


_work_of_this_process: list[Work] = []


def start_worker(work: Work) -> None:
    """The first call in a spawned process."""
    _work_of_this_process[:] = [work]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None, "a worker was spawned by somebody"
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def write_in_worker(job: Job) -> None:
    """`write_shard` in a process that `start_worker` has prepared."""
    write_shard(job, _work_of_this_process[0])


def write_shard(job: Job, work: Work) -> None:
    """Write that shard and its index, unless they are there.

    Raises:
        InterruptedRunError: everybody should stop.
        OSError: the disk does not take them.
    """
    if is_written(job, work.folder, work.plan):
        _count(work, len(job.indices))
        return
    file = job.name + SUFFIXES[work.plan.storage]
    keys: list[str] = []
    hashes: list[str] = []
    corrupt: list[CorruptEntry] = []

    def readable() -> Iterator[Images]:
        images = work.images[job.split]
        for index in job.indices.tolist():
            if work.is_stopped.is_set():
                raise InterruptedRunError("Stopped; finished shards are kept, and the same command continues.")
            key = key_of(images, index)
            try:
                image = images.read(np.array([index]))[0]
            except BenchError as error:
                corrupt.append(CorruptEntry(split=job.split, key=key, reason=_printable(str(error))))
            else:
                keys.append(key)
                hashes.append(hashlib.sha256(np.ascontiguousarray(image).data).hexdigest())
                yield image
            _count(work, 1)

    path = work.folder / file
    _replace(path, lambda temporary: WRITERS[work.plan.storage](temporary, readable(), len(job.indices)))
    index = ShardIndex(
        plan_sha256=fingerprint(work.plan),
        shard=Shard(
            file=file,
            split=job.split,
            num_images=len(keys),
            num_bytes=path.stat().st_size,
            sha256=file_sha256(path),
        ),
        keys=tuple(keys),
        pixels_sha256=tuple(hashes),
        corrupt=tuple(corrupt),
    )
    content = index.model_dump_json().encode()
    _replace(work.folder / job.index_file, lambda temporary: _store(temporary, content))


def is_written(job: Job, folder: Path, plan: Plan) -> bool:
    """Whether that shard is complete and has the hash that its index says."""
    try:
        index = read_document(folder / job.index_file, ShardIndex)
        if index is None or index.plan_sha256 != fingerprint(plan):
            return False
        return file_sha256(folder / index.shard.file) == index.shard.sha256
    except (BenchError, FileNotFoundError):
        return False  # a damaged index, or one whose shard is gone: write both again


def read_index(job: Job, folder: Path) -> tuple[IndexedShard, ShardIndex]:
    """A finished shard as the manifest has it, and its keys. Raises BenchError where the index cannot be read."""
    path = folder / job.index_file
    index = read_document(path, ShardIndex)
    if index is None:
        raise BenchError(f"'{path}' is not there any more: run the same command again.")
    return IndexedShard(shard=index.shard, index_file=job.index_file, index_sha256=file_sha256(path)), index


def key_of(images: ImageSet, index: int) -> str:
    """What the source calls that image: the name of a file or a database's key, else its number."""
    if not isinstance(images, PreparedImages):
        return f"{index:06d}"
    source: Any = images._source
    position = int(images._positions[index])
    key = source.names[position] if hasattr(source, "names") else bytes(source.keys[position])
    return _printable(os.fsdecode(key))


def _printable(text: str) -> str:
    r"""A file name that is no UTF-8 with its odd bytes as \xNN, so that it can be written as JSON."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def _count(work: Work, num_entries: int) -> None:
    with work.num_done.get_lock():
        work.num_done.value += num_entries


def _store(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file under a temporary name, force it to the disk, and give it its name."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # there only where something went wrong
