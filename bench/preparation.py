"""`bench data prepare` and `verify`: a data set's images, decoded, cropped and resized once, kept in shards.

Why own code: what decides the pixels is the data set's own (`bench/datasets/_images.py`); here is only what makes a
long preparation bearable. Shards are written by several processes (`bench/datasets/_shard_writer.py`). A preparation
that was killed goes on where it was: a finished shard is kept once its hash was checked. An entry that cannot be read
is left out, named in the manifest and counted.

Processes are spawned, not forked: they start without the parent's threads and open files.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
from filelock import FileLock, Timeout
from tqdm import tqdm

from bench.datasets import _manifest as documents
from bench.datasets._manifest import CorruptEntry, IndexedShard, Manifest, Plan, SplitName, Storage
from bench.datasets._shard_writer import Job, Work, key_of, read_index, start_worker, write_in_worker, write_shard
from bench.datasets._shards import SUFFIXES, automatic_storage, images_per_shard, sources_only
from bench.datasets._spec import DatasetSpec, ImageSet, Indices, OpenDataset
from bench.errors import BenchError, StorageError, UsageError
from bench.store import write_atomically
from bench.units import format_bytes

Say = Callable[[str], None]

_SPAWN = get_context("spawn")
_POLL_S = 0.25


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is asked for.

    Attributes:
        max_images: no more than this many of both splits together, at least 2; None is all.
        num_workers: processes; 0 prepares in this one.
        data: data folder in place of `$BENCH_DATA`.
        num_images_per_shard: None is about 256 MiB of pixels.
    """

    resolution: int
    max_images: int | None = None
    storage: Storage | Literal["auto"] = "auto"
    num_workers: int = 2
    data: Path | None = None
    num_images_per_shard: int | None = None


def prepare(name: str, spec: DatasetSpec, options: Options, say: Say) -> Manifest:
    """Prepare a named data set, or go on with it, and return its manifest.

    Args:
        say: gets one sentence about what will be done, and one about entries that were left out.

    Raises:
        UsageError: the set has no files, or the folder holds another preparation.
        MissingDataError: the source is not here.
        StorageError: the disk is full or may not be written.
        BenchError: the source cannot be read, nothing of a split is left, or another process is at it.
    """
    with sources_only():
        opened = _open_source(name, spec, options)
    images: dict[SplitName, ImageSet] = {"train": opened.train, "reference": opened.reference}
    chosen = _chosen(images, options.max_images)
    plan = _plan(name, spec, options, opened, chosen)
    folder = documents.prepared_folder(name, options.resolution, options.data)
    with _writing(folder), _alone(folder):
        finished = documents.read_manifest(folder)
        _check_same(folder, plan, finished.plan if finished else None)
        if finished is not None:
            documents.check_sizes(folder, finished)
            say(f"{name} is already prepared in '{folder}'.")
            return finished
        _check_room(folder, plan)
        say(
            f"{name}: {plan.num_images:,} images at {plan.resolution} px as {plan.storage} into '{folder}'. Licence: "
            f"{plan.licence}."
        )
        write_atomically(folder / documents.PLAN_FILE, plan.model_dump_json(indent=2).encode())
        work = Work(images=images, folder=folder, plan=plan, num_done=_SPAWN.Value("q", 0), is_stopped=_SPAWN.Event())
        jobs = _jobs(plan, chosen)
        _work_off(jobs, work, options.num_workers)
        manifest = _manifest(folder, plan, jobs)
        write_atomically(folder / documents.MANIFEST_FILE, (manifest.model_dump_json(indent=2) + "\n").encode())
    if manifest.corrupt:
        first = manifest.corrupt[0].reason
        say(f"Corrupt entries left out: {len(manifest.corrupt):,}, all named in the manifest; the first: {first}")
    return manifest


def verify(name: str, resolution: int, data: Path | None = None) -> Manifest:
    """Hash every file of a preparation again.

    Raises:
        UsageError: nothing is prepared there.
        BenchError: the first file that is not what was written.
    """
    folder = documents.prepared_folder(name, resolution, data)
    manifest = documents.read_manifest(folder)
    if manifest is None:
        raise UsageError(
            f"{name} is not prepared at {resolution} px in '{folder}': run `bench data prepare {name} --resolution "
            f"{resolution}`."
        )
    documents.check_sizes(folder, manifest)
    num_bytes = sum(each.shard.num_bytes for each in manifest.shards)
    with _bar(num_bytes, "verify", "B") as bar:
        for each in manifest.shards:
            documents.check_shard(folder, each)
            bar.update(each.shard.num_bytes)
    return manifest


def _open_source(name: str, spec: DatasetSpec, options: Options) -> OpenDataset:
    if spec.takes_path:
        raise UsageError(f"{name} is read where it lies and is not prepared: write --dataset {name}:PATH to use it.")
    if options.max_images is not None and options.max_images < 2:
        raise UsageError("--max-images must be at least 2: one image to train on and one to measure against.")
    opened = spec.open(options.resolution, None)
    if "manifest" not in opened.protocol:
        raise UsageError(f"{name} needs no preparation: its images are computed, not read from files.")
    return opened


def _chosen(images: dict[SplitName, ImageSet], max_images: int | None) -> dict[SplitName, Indices]:
    """Indices to prepare, ascending: a smaller set lies inside a larger one, and no image changes its split."""
    num_train, num_reference = len(images["train"]), len(images["reference"])
    if max_images is None or max_images >= num_train + num_reference:
        return {"train": np.arange(num_train), "reference": np.arange(num_reference)}
    share = min(max(min(max_images // 2, 5_000), max_images // 10), 50_000)  # as `split_by_hash` would hold out
    num_reference = min(max(share, max_images - num_train), num_reference)
    counts: dict[SplitName, int] = {"train": min(max_images - num_reference, num_train), "reference": num_reference}
    return {split: _smallest_hashes(images[split], count) for split, count in counts.items()}


def _smallest_hashes(images: ImageSet, count: int) -> Indices:
    digests = b"".join(hashlib.sha256(key_of(images, index).encode()).digest()[:8] for index in range(len(images)))
    return np.sort(np.argsort(np.frombuffer(digests, dtype=">u8"), kind="stable")[:count])


def _plan(
    name: str, spec: DatasetSpec, options: Options, opened: OpenDataset, chosen: dict[SplitName, Indices]
) -> Plan:
    num_images = sum(map(len, chosen.values()))
    num_source = len(opened.train) + len(opened.reference)
    protocol = dict(opened.protocol)
    if num_images < num_source:
        protocol["selection"] = (
            f"{protocol['selection']}; of these {num_source:,}, within their split the {len(chosen['train']):,} for "
            f"train and {len(chosen['reference']):,} for reference whose name has the smallest SHA-256"
        )
    return Plan(
        dataset=name,
        title=spec.title,
        source=spec.source,
        licence=spec.licence,
        resolution=options.resolution,
        storage=automatic_storage(num_images) if options.storage == "auto" else options.storage,
        max_images=options.max_images if num_images < num_source else None,
        num_train_images=len(chosen["train"]),
        num_reference_images=len(chosen["reference"]),
        num_images_per_shard=options.num_images_per_shard or images_per_shard(num_images, options.resolution),
        pillow=PIL.__version__,
        protocol=protocol,
    )


def _jobs(plan: Plan, chosen: dict[SplitName, Indices]) -> list[Job]:
    step = plan.num_images_per_shard
    return [
        Job(split=split, name=f"{split}-{number:05d}", indices=chosen[split][start : start + step])
        for split in documents.SPLITS
        for number, start in enumerate(range(0, len(chosen[split]), step))
    ]


def _work_off(jobs: list[Job], work: Work, num_workers: int) -> None:
    """Write every shard that is not there yet, in so many processes, with progress."""
    with _bar(work.plan.num_images, "prepare", "image") as bar:
        if num_workers == 0:
            for job in jobs:
                write_shard(job, work)
                bar.update(work.num_done.value - bar.n)
            return
        with ProcessPoolExecutor(num_workers, _SPAWN, start_worker, (work,)) as pool:
            try:
                waiting = {pool.submit(write_in_worker, job) for job in jobs}
                while waiting:
                    done, waiting = wait(waiting, timeout=_POLL_S, return_when=FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    bar.update(work.num_done.value - bar.n)
            except BrokenProcessPool as error:
                raise BenchError(
                    "A process that prepared images was killed, perhaps for want of memory: give fewer --workers; "
                    "finished shards are kept, and the same command continues."
                ) from error
            finally:
                work.is_stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)


def _bar(total: int, what: str, unit: str) -> Any:
    """Progress with rate and time left on stderr, silent in a pipe."""
    tqdm.monitor_interval = 0  # no thread of ours beside the workers
    return tqdm(total=total, desc=what, unit=unit, unit_scale=unit == "B", disable=None, leave=False)


def _manifest(folder: Path, plan: Plan, jobs: list[Job]) -> Manifest:
    """What was written. Raises BenchError where a split is left without an image."""
    shards: list[IndexedShard] = []
    corrupt: list[CorruptEntry] = []
    hashes: dict[SplitName, list[str]] = {"train": [], "reference": []}
    for job in jobs:
        shard, index = read_index(job, folder)
        shards.append(shard)
        corrupt.extend(index.corrupt)
        hashes[job.split].extend(index.pixels_sha256)
    for split, found in hashes.items():
        if not found:
            raise BenchError(
                f"No image of the {split} split of {plan.dataset} can be read; the first: {corrupt[0].reason}"
            )
    return Manifest(
        plan=plan,
        shards=tuple(shards),
        corrupt=tuple(corrupt),
        num_train_images=len(hashes["train"]),
        num_reference_images=len(hashes["reference"]),
        pixels_sha256=documents.pixels_fingerprint(hashes),
    ).sealed()


def _check_same(folder: Path, plan: Plan, finished: Plan | None) -> None:
    """Raises UsageError where the folder holds another preparation than the one asked for."""
    there = finished or documents.read_document(folder / documents.PLAN_FILE, Plan)
    if there is None or there == plan:
        return
    asked, found = plan.model_dump(), there.model_dump()
    differing = ", ".join(field for field in asked if asked[field] != found[field])
    state = "a finished" if finished else "an unfinished"
    raise UsageError(
        f"'{folder}' holds {state} preparation that differs in {differing}: give the same options, another --out, or "
        "remove that folder."
    )


def _check_room(folder: Path, plan: Plan) -> None:
    """Raises StorageError where raw pixels cannot fit; what WebP will need is not known before."""
    if plan.storage != "memmap":
        return
    there = sum(path.stat().st_size for path in folder.glob(f"*{SUFFIXES['memmap']}"))
    needed = plan.num_images * 3 * plan.resolution**2 - there
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"'{folder}' needs {format_bytes(needed)} more and {format_bytes(free)} are free: give --storage zip, "
            "--max-images, or another --out."
        )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn an operating-system error into one sentence."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise StorageError(
            f"Cannot write to '{folder}': {error.strerror or error}. Free space or give another --out; finished shards "
            "are kept, and the same command continues."
        ) from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BenchError(f"Another process is preparing '{folder}': wait for it to end.") from None
    try:
        yield
    finally:
        lock.release()
