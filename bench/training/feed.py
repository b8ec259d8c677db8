"""Where the next batch comes from. Its order is the sampler's, a pure function of images shown, wherever it lies.

On a GPU a data set that fits lies on the device as uint8; otherwise one thread reads the next batch while the present
one is trained on.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from bench.datasets._spec import Images, ImageSet, Indices
from bench.training.distributed import World
from bench.training.images import normalised, to_networks
from bench.training.randomness import training_order

_LARGEST_SHARE_OF_FREE = 0.25  # ours: the rest is the training's
_READ_AT_ONCE = 1024


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


class Prefetched:
    """Read by one thread, a batch ahead.

    Args:
        position: images shown so far.
    """

    def __init__(self, images: ImageSet, order: _Order, *, batch_size: int, position: int, device: str) -> None:
        self._images, self._order, self._batch_size, self._position = images, order, batch_size, position
        self._device = device
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._ahead: Future[Images] = self._submit()

    def _submit(self) -> Future[Images]:
        indices = self._order.at(self._position)
        self._position += self._batch_size
        return self._pool.submit(self._images.read, indices)

    def next(self) -> Tensor:
        """See `Feed`."""
        batch, self._ahead = self._ahead.result(), self._submit()
        return to_networks(batch, self._device)

    def close(self) -> None:
        """See `Feed`."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class Resident:
    """All images as uint8 on the device; a batch is an index away. Arguments as for `Prefetched`."""

    def __init__(self, images: ImageSet, order: _Order, *, batch_size: int, position: int, device: str) -> None:
        self._order, self._batch_size, self._position = order, batch_size, position
        num_images = len(images)
        parts = [
            torch.from_numpy(images.read(_range(start, min(num_images, start + _READ_AT_ONCE)))).to(device)
            for start in range(0, num_images, _READ_AT_ONCE)
        ]
        self._all = torch.cat(parts)

    def next(self) -> Tensor:
        """See `Feed`."""
        indices = torch.from_numpy(self._order.at(self._position)).to(self._all.device, non_blocking=True)
        self._position += self._batch_size
        return normalised(self._all[indices])

    def close(self) -> None:
        """See `Feed`."""


def _range(start: int, stop: int) -> Indices:
    indices: Indices = torch.arange(start, stop).numpy()
    return indices


def open_feed(
    images: ImageSet, *, seed: int, batch_size: int, position: int, device: str, world: World
) -> Prefetched | Resident:
    """Resident where the device is a GPU with room for it, prefetched elsewhere."""
    order = _Order(len(images), seed, batch_size, world)
    kind = Resident if _fits_on(device, images) else Prefetched
    return kind(images, order, batch_size=batch_size, position=position, device=device)


def _fits_on(device: str, images: ImageSet) -> bool:
    if device == "cpu":
        return False  # a copy in the same memory gains nothing
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return len(images) * images.read(_range(0, 1)).nbytes <= _LARGEST_SHARE_OF_FREE * free_bytes
