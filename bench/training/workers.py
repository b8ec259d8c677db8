"""Batches read by processes beside the training, for sets that are decoded faster than one thread can.

The processes are those of torch's `DataLoader` (https://docs.pytorch.org/docs/stable/data.html), used so that nothing
is left to it but carrying: it is given whole batches of indices, already in order, by one pass without end. So the
order is the caller's, the workers live as long as the training, and a resumed training shows what an uninterrupted one
would have shown.
"""

from __future__ import annotations

import signal
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench.datasets._spec import ImageSet, Indices
from bench.errors import BenchError
from bench.training.images import normalised

_NUM_AHEAD_EACH = 2  # batches that each process reads ahead: DataLoader's own default


class _Batches(Dataset["Tensor | BenchError"]):
    """What a worker does: indices [b] → uint8 [b, 3, h, w]."""

    def __init__(self, images: ImageSet) -> None:
        self._images = images

    def __getitem__(self, indices: Indices) -> Tensor | BenchError:
        try:
            return torch.from_numpy(self._images.read(indices))
        except BenchError as error:
            return error  # raised by who asked: DataLoader would put the worker's whole traceback into the sentence


class WorkerProcesses:
    """A `Feed` read by processes, two batches ahead for each; through pinned memory to a GPU.

    Args:
        images: what to read; each process keeps its own cache of decoded images, where the set has one.
        batches: the indices of one batch after the other, without end.
        num_workers: at least one.
        start_method: see `feed.Loading`.
    """

    def __init__(
        self,
        images: ImageSet,
        batches: Iterable[Indices],
        *,
        num_workers: int,
        start_method: Literal["fork", "spawn"],
        device: str,
    ) -> None:
        self._device = device
        self._is_closing = self._is_broken = False
        with warnings.catch_warnings(), _child_signals_as_before():
            # Asked for by name, and `Loading` says what it risks; torch always has threads.
            warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
            # More workers than cores: they wait for disks, too.
            warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
            loader = DataLoader(
                _Batches(images),
                batch_size=None,  # the sampler gives whole batches
                sampler=self._until_closed(batches),
                num_workers=num_workers,
                multiprocessing_context=start_method,
                prefetch_factor=_NUM_AHEAD_EACH,
                pin_memory=device != "cpu",
                worker_init_fn=_leave_signals_to_the_parent,
                generator=torch.Generator(),  # else it draws from the global one, and workers change the training
            )
            self._batches: Iterator[Tensor | BenchError] = iter(loader)

    def _until_closed(self, batches: Iterable[Indices]) -> Iterator[Indices]:
        for indices in batches:
            if self._is_closing:
                return
            yield indices

    def next(self) -> Tensor:
        """See `Feed`. Raises BenchError where an image is damaged, or (after five seconds) a worker was killed."""
        try:
            batch = next(self._batches)
        except RuntimeError as error:
            self._is_broken = True
            if "exited unexpectedly" not in str(error):
                raise
            raise BenchError(
                "A process that loads images was killed, most often for want of memory (or of shared memory in a "
                "container, --shm-size): use fewer workers, or threads."
            ) from error
        if isinstance(batch, BenchError):
            raise batch
        return normalised(batch.to(self._device, non_blocking=True))

    def close(self) -> None:
        """See `Feed`. Takes what is still on its way first.

        A spawned worker that had to end in mid sending was once seen to be aborted by C++ ("terminate called without an
        active exception"); one that has nothing left to send has no thread inside torch when Python ends it.
        """
        self._is_closing = True
        if not self._is_broken:
            with suppress(RuntimeError):  # a worker that is killed only now is missed by nobody
                deque(self._batches, maxlen=0)
        self._batches = iter(())  # the processes end with their iterator


@contextmanager
def _child_signals_as_before() -> Iterator[None]:
    """Take back the SIGCHLD handler that DataLoader sets: it would raise a killed worker's error in mid training step.

    Without it the error comes from where batches are asked for.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if is_main and before is not None:
            signal.signal(signal.SIGCHLD, before)


def _leave_signals_to_the_parent(_worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach every process; the parent still needs batches up to its checkpoint."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
