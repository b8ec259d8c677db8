"""Training to a budget. Progress is counted in images shown; snapshots and the log are kept on that axis.

Losses stay on the device and are averaged there; they are read once per `LOG_EVERY_STEPS`, because reading one forces a
synchronisation, which would spoil the speed that is reported.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from bench.datasets._spec import Images, ImageSet
from bench.errors import BenchError
from bench.store import storage_errors
from bench.training.images import to_networks
from bench.training.randomness import training_order
from bench.training.step import Trainer
from bench.units import Budget

LOG_EVERY_STEPS = 10
SNAPSHOT_FRACTIONS = (0.0, 1 / 3, 2 / 3, 1.0)


class Watch(Protocol):
    """Whoever reads meters over the segments of a training; the device is idle at both edges of a segment."""

    def start(self, num_images_shown: int) -> None:
        """A segment begins."""
        ...

    def tick(self) -> None:
        """Between two steps, every LOG_EVERY_STEPS of them: a counter that wraps can be read."""
        ...

    def stop(self, num_images_shown: int) -> None:
        """The segment ends, because a snapshot is due."""
        ...


@dataclass
class TrainingTimes:
    """Seconds, summed over the run. `train_s` is the loop without its snapshots; waiting for data is part of it."""

    train_s: float = 0.0
    data_wait_s: float = 0.0
    snapshot_s: float = 0.0
    last_losses: dict[str, float] = field(default_factory=dict)


def train(
    trainer: Trainer,
    images: ImageSet,
    *,
    budget: Budget,
    batch_size: int,
    log_path: Path,
    snapshot: Callable[[TrainingTimes], None],
    watch: Watch | None = None,
) -> TrainingTimes:
    """Train until the budget is used up.

    Args:
        snapshot: called with the trainer idle at each of SNAPSHOT_FRACTIONS of the budget, the untrained state
            first; its time is kept apart and does not count against the budget.
        watch: told when a segment between two snapshots begins and ends.
        log_path: JSONL, one line per LOG_EVERY_STEPS with the means of the losses over those steps.

    Raises:
        BenchError: a loss is no longer finite; the message says after how many images.
        StorageError: the log cannot be written.
    """
    times, losses, segment = TrainingTimes(), _LossMeans(), _Segment(watch)
    pending = list(SNAPSHOT_FRACTIONS)
    with _Log(log_path) as log, _progress_bar(budget) as bar, _Prefetch(images, trainer.seed, batch_size) as batches:
        while pending:
            used = _fraction_used(budget, trainer.num_images_shown, times.train_s)
            is_snapshot_due = used >= pending[0]
            if losses.num_steps == LOG_EVERY_STEPS or (losses.num_steps and is_snapshot_due):
                read_started = perf_counter()
                times.last_losses = losses.read(trainer.num_images_shown)  # synchronises: part of the training
                times.train_s += perf_counter() - read_started
                log.write({"images_shown": trainer.num_images_shown, "duration_s": times.train_s} | times.last_losses)
                _show_progress(bar, budget, trainer.num_images_shown, times)
                segment.tick()
            if is_snapshot_due:
                segment.end(trainer.num_images_shown)
                snapshot_started = perf_counter()
                snapshot(times)
                times.snapshot_s += perf_counter() - snapshot_started
                pending = [fraction for fraction in pending if fraction > used]
                continue
            segment.begin(trainer.num_images_shown)
            step_started = perf_counter()
            batch = batches.next()
            times.data_wait_s += perf_counter() - step_started
            losses.add(trainer.step(to_networks(batch, trainer.device)))
            times.train_s += perf_counter() - step_started
    return times


def _fraction_used(budget: Budget, num_images_shown: int, train_s: float) -> float:
    """Share of the budget used so far, 0 … 1 and above."""
    if budget.num_images is not None:
        return num_images_shown / budget.num_images
    if budget.duration_s is not None:
        return train_s / budget.duration_s
    raise BenchError("The trainer cannot stop on joules yet; give --train-for in images or time.")


class _Segment:
    """Whether a segment is being watched; without a watch, nothing."""

    def __init__(self, watch: Watch | None) -> None:
        self._watch = watch
        self._is_open = False

    def begin(self, num_images_shown: int) -> None:
        if self._watch is not None and not self._is_open:
            self._watch.start(num_images_shown)
            self._is_open = True

    def tick(self) -> None:
        if self._watch is not None and self._is_open:
            self._watch.tick()

    def end(self, num_images_shown: int) -> None:
        if self._watch is not None and self._is_open:
            self._watch.stop(num_images_shown)
            self._is_open = False


class _Log:
    """JSONL, one flushed line at a time, so that a killed run keeps what it had logged. Raises StorageError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage_errors(path):
            self._file = path.open("w", encoding="utf-8", buffering=1)

    def write(self, line: dict[str, float]) -> None:
        with storage_errors(self._path):
            self._file.write(json.dumps(line) + "\n")

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class _LossMeans:
    """Sums losses on the device; `read` synchronises, returns means and starts again."""

    def __init__(self) -> None:
        self.num_steps = 0
        self._sums: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()

    def add(self, losses: dict[str, Tensor]) -> None:
        for name, loss in losses.items():  # a penalty or the generator's update may be due in some steps only
            self._sums[name] = self._sums[name] + loss if name in self._sums else loss
            self._counts[name] += 1
        self.num_steps += 1

    def read(self, num_images_shown: int) -> dict[str, float]:
        names = list(self._sums)
        sums = torch.stack([self._sums[name].float() for name in names]).tolist()
        result = {name: total / self._counts[name] for name, total in zip(names, sums, strict=True)}
        self.num_steps, self._sums, self._counts = 0, {}, Counter()
        broken = [name for name, mean in result.items() if not math.isfinite(mean)]
        if broken:
            raise BenchError(
                f"The training diverged: the loss '{broken[0]}' was not finite within the last {LOG_EVERY_STEPS} steps "
                f"before image {num_images_shown}; train.jsonl holds the steps before."
            )
        return result


class _Prefetch:
    """Reads the next batch in one thread while the present one is trained on; the order is the sampler's."""

    def __init__(self, images: ImageSet, seed: int, batch_size: int) -> None:
        self._images, self._seed, self._batch_size = images, seed, batch_size
        self._position = 0
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._ahead: Future[Images] = self._submit()

    def _submit(self) -> Future[Images]:
        indices = training_order(len(self._images), self._seed, self._position, self._batch_size)
        self._position += self._batch_size
        return self._pool.submit(self._images.read, indices)

    def next(self) -> Images:
        batch, self._ahead = self._ahead.result(), self._submit()
        return batch

    def __enter__(self) -> _Prefetch:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _progress_bar(budget: Budget) -> tqdm[Iterator[None]]:
    """A bar in kimg or seconds on stderr, silent where that is not a terminal."""
    tqdm.monitor_interval = 0  # no thread of ours beside the training
    total = budget.num_images / 1000 if budget.num_images is not None else budget.duration_s
    unit = "kimg" if budget.num_images is not None else "s"
    form = "{desc} {percentage:3.0f}% |{bar:24}| {n:.1f}/{total:.1f} {unit}, {remaining} left{postfix}"
    return tqdm(total=total, unit=unit, desc="train", bar_format=form, disable=None, leave=False, mininterval=0.5)


def _show_progress(bar: tqdm[Iterator[None]], budget: Budget, num_images_shown: int, times: TrainingTimes) -> None:
    done = num_images_shown / 1000 if budget.num_images is not None else times.train_s
    rate = num_images_shown / times.train_s
    bar.set_postfix_str(f"{num_images_shown / 1000:.1f} kimg, {rate:.0f} images/s", refresh=False)
    bar.update(min(done, bar.total) - bar.n)
