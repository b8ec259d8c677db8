"""Where the next batch comes from. Its order is the sampler's, a pure function of images shown, wherever it lies and
however many workers read it.

On a GPU a data set that fits lies on the device as uint8; otherwise batches are read ahead, by threads (one, unless
told otherwise) or by processes (`workers.py`). Threads share one cache of decoded images and cost no start; processes
decode beside one another without Python's lock, start in seconds, and keep a cache each. uint8 travels, the device
normalises.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol

import psutil
import torch
from torch import Tensor

from bench.datasets._spec import Images, ImageSet, Indices
from bench.errors import UsageError
from bench.training.distributed import World
from bench.training.images import normalised, to_networks
from bench.training.randomness import training_order
from bench.training.workers import WorkerProcesses
from bench.units import format_bytes

_LARGEST_SHARE_OF_FREE = 0.25  # ours: the rest is the training's
_READ_AT_ONCE = 1024

StartMethod = Literal["thread", "fork", "spawn"]
Place = Literal["auto", "storage", "memory", "device"]


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How batches are read. It changes when an image arrives, never which.

    Attributes:
        num_workers: 0 reads in place, while the device waits.
        start_method: `fork` starts processes at once, and is unsafe where a thread of this process holds a lock at that
            moment (Python 3.12 and later say so); `spawn` imports everything anew and sends the images' source to them.
        place: `auto` is the device where it is a GPU with room, else the storage; `memory` and `device` read all images
            once, before the first batch, and refuse where they do not fit.

    Raises:
        UsageError: a number of workers below zero, or an unknown word.
    """

    num_workers: int = 1
    start_method: StartMethod = "thread"
    place: Place = "auto"

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise UsageError(f"--workers {self.num_workers} must be 0 or more.")
        if self.start_method not in {"thread", "fork", "spawn"}:
            raise UsageError(f"'{self.start_method}' is no way to start workers: choose thread, fork or spawn.")
        if self.place not in {"auto", "storage", "memory", "device"}:
            raise UsageError(f"'{self.place}' is no place for images: choose auto, storage, memory or device.")


class Feed(Protocol):
    """Batches in order."""

    def next(self) -> Tensor:
        """This process's share of the next batch: [b, 3, h, w] in [-1, 1] on the device."""
        ...

    def close(self) -> None:
        """No batch will follow."""
        ...


class _Order:
    """Which images come next, for one process of several."""

    def __init__(self, num_images: int, seed: int, batch_size: int, world: World) -> None:
        self._num_images, self._seed, self._batch_size, self._world = num_images, seed, batch_size, world

    def at(self, position: int) -> Indices:
        whole = training_order(self._num_images, self._seed, position, self._batch_size)
        return whole[self._world.share_of(self._batch_size)]

    def from_position(self, position: int) -> Iterator[Indices]:
        """Batch after batch, without end."""
        while True:
            yield self.at(position)
            position += self._batch_size


class InPlace:
    """Read when it is asked for. Arguments as for `Prefetched`."""

    def __init__(self, images: ImageSet, order: _Order, *, batch_size: int, position: int, device: str) -> None:
        self._images, self._order, self._batch_size, self._position = images, order, batch_size, position
        self._device = device

    def next(self) -> Tensor:
        """See `Feed`."""
        batch = self._images.read(self._order.at(self._position))
        self._position += self._batch_size
        return to_networks(batch, self._device)

    def close(self) -> None:
        """See `Feed`."""


class Prefetched:
    """Read by threads, a batch ahead for each.

    Args:
        position: images shown so far.
        num_threads: at least one.
    """

    def __init__(
        self, images: ImageSet, order: _Order, *, batch_size: int, position: int, device: str, num_threads: int = 1
    ) -> None:
        self._images, self._order, self._batch_size, self._position = images, order, batch_size, position
        self._device = device
        self._pool = ThreadPoolExecutor(max_workers=num_threads)
        self._ahead = deque(self._submit() for _ in range(num_threads))

    def _submit(self) -> Future[Images]:
        indices = self._order.at(self._position)
        self._position += self._batch_size
        return self._pool.submit(self._images.read, indices)

    def next(self) -> Tensor:
        """See `Feed`."""
        batch = self._ahead.popleft().result()
        self._ahead.append(self._submit())
        return to_networks(batch, self._device)

    def close(self) -> None:
        """See `Feed`."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class Resident:
    """All images as uint8 on the device; a batch is an index away. Arguments as for `Prefetched`."""

    def __init__(self, images: ImageSet, order: _Order, *, batch_size: int, position: int, device: str) -> None:
        self._order, self._batch_size, self._position = order, batch_size, position
        self._all = _read_all(images, device)

    def next(self) -> Tensor:
        """See `Feed`."""
        indices = torch.from_numpy(self._order.at(self._position)).to(self._all.device, non_blocking=True)
        self._position += self._batch_size
        return normalised(self._all[indices])

    def close(self) -> None:
        """See `Feed`."""


class _InMemory:
    """An ImageSet with every image in memory; forked workers share the copy, spawned ones are sent one each."""

    def __init__(self, images: ImageSet) -> None:
        self._all = _read_all(images, "cpu").numpy()

    def __len__(self) -> int:
        return len(self._all)

    def read(self, indices: Indices) -> Images:
        return self._all[indices]


def _read_all(images: ImageSet, device: str) -> Tensor:
    """uint8 [n, 3, h, w] on the device."""
    num_images = len(images)
    first = torch.from_numpy(images.read(_range(0, 1)))
    everything = torch.empty((num_images, *first.shape[1:]), dtype=torch.uint8, device=device)
    for start in range(0, num_images, _READ_AT_ONCE):
        stop = min(num_images, start + _READ_AT_ONCE)
        everything[start:stop] = torch.from_numpy(images.read(_range(start, stop))).to(device)
    return everything


def _range(start: int, stop: int) -> Indices:
    indices: Indices = torch.arange(start, stop).numpy()
    return indices


def open_feed(
    images: ImageSet,
    *,
    seed: int,
    batch_size: int,
    position: int,
    device: str,
    world: World,
    loading: Loading | None = None,
) -> InPlace | Prefetched | WorkerProcesses | Resident:
    """Batches from that position on, read as `loading` says (by default: resident where they fit, else one thread).

    Raises:
        UsageError: the images were to lie in memory or on the device, and do not fit.
    """
    loading = loading or Loading()
    order = _Order(len(images), seed, batch_size, world)
    if loading.place == "device" or (loading.place == "auto" and _fits_on(device, images)):
        _check_room(images, loading.place, device)
        return Resident(images, order, batch_size=batch_size, position=position, device=device)
    if loading.place == "memory":
        _check_room(images, loading.place, "cpu")
        images = _InMemory(images)
    if loading.num_workers == 0:
        return InPlace(images, order, batch_size=batch_size, position=position, device=device)
    if loading.start_method == "thread":
        return Prefetched(
            images, order, batch_size=batch_size, position=position, device=device, num_threads=loading.num_workers
        )
    return WorkerProcesses(
        images,
        order.from_position(position),
        num_workers=loading.num_workers,
        start_method=loading.start_method,
        device=device,
    )


def _fits_on(device: str, images: ImageSet) -> bool:
    if device == "cpu":
        return False  # a copy in the same memory gains nothing
    return _num_bytes(images) <= _LARGEST_SHARE_OF_FREE * _free_bytes(device)


def _check_room(images: ImageSet, place: Place, device: str) -> None:
    num_bytes, free_bytes = _num_bytes(images), _free_bytes(device)
    if num_bytes > free_bytes:
        raise UsageError(
            f"{len(images):,} images take {format_bytes(num_bytes)} and do not fit into the {format_bytes(free_bytes)} "
            f"that are free ({place}): leave them in the storage, or prepare fewer (--max-images)."
        )


def _num_bytes(images: ImageSet) -> int:
    return len(images) * images.read(_range(0, 1)).nbytes


def _free_bytes(device: str) -> int:
    free_bytes = psutil.virtual_memory().available if device == "cpu" else torch.cuda.mem_get_info(device)[0]
    return int(free_bytes)
