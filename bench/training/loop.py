"""Training to a budget. Progress is counted in images shown; evaluations, checkpoints and the log are on that axis.

Nothing is read from the device but once per `LOOK_EVERY_STEPS`. The loop knows neither files nor metrics: it says when
an evaluation or a checkpoint is due, with the device idle, and the phase does it. Their seconds are booked apart.

Several processes must decide alike. The clock and the signal are process 0's, told to the others at each look, so that
an evaluation that is due by time comes at a look. Joules do not end such a training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any, Protocol

from torch import Tensor

from bench.errors import BenchError, InterruptedRunError
from bench.training.bar import ProgressBar
from bench.training.feed import Feed
from bench.training.log import Sink
from bench.training.losses import LossMeans
from bench.training.signals import StopRequest
from bench.training.step import Trainer
from bench.units import Budget

LOOK_EVERY_STEPS = 10
DEFAULT_NUM_EVALUATIONS = 3  # of a budget, besides the untrained state


class Watch(Protocol):
    """Whoever reads meters over the segments of a training; the device is idle at both edges of a segment."""

    def start(self, num_images_shown: int) -> None:
        """A segment begins."""
        ...

    def tick(self, num_images_shown: int) -> None:
        """A look has just been taken, so the device is idle: a counter can be read."""
        ...

    def stop(self, num_images_shown: int) -> None:
        """The segment ends, because an evaluation or a checkpoint is due."""
        ...

    def energy_j(self) -> float | None:
        """Joules of the training so far, as of the last closed stretch; None where no meter tells."""
        ...


@dataclass
class Progress:
    """What the loop remembers, across a resume too. Seconds are sums over all sittings.

    Attributes:
        train_s: the loop without evaluations and checkpoints; waiting for data is part of it.
        num_evaluations: done so far, the untrained state's included.
        is_met: the goal was reached.
    """

    train_s: float = 0.0
    data_wait_s: float = 0.0
    evaluation_s: float = 0.0
    checkpoint_s: float = 0.0
    num_evaluations: int = 0
    is_met: bool = False
    last_losses: dict[str, float | None] = field(default_factory=dict)
    num_nonfinite: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What surrounds the loop. It calls the first three with the device idle, in every process.

    Attributes:
        evaluate: keep a snapshot, score it if that is wanted → whether the training may end (its goal is met).
        checkpoint: save all that the rest of the training depends on.
        diverged: keep a dump of the state and the last batch.
        sinks: take the log's lines.
        watch: reads the meters.
        stop: whether a signal has asked to stop.
    """

    evaluate: Callable[[Progress], bool]
    checkpoint: Callable[[Progress], None]
    diverged: Callable[[Progress, Tensor], None]
    sinks: Sequence[Sink]
    watch: Watch
    stop: StopRequest


@dataclass(frozen=True, kw_only=True)
class Pace:
    """When things are due.

    Attributes:
        budget: how long to train.
        evaluate_every: in images, seconds or joules; also at 0 and at the end.
        checkpoint_every: in images or seconds since the last one.
    """

    budget: Budget
    evaluate_every: Budget
    checkpoint_every: Budget

    @staticmethod
    def thirds(budget: Budget) -> Budget:
        """The evaluations of a training that was not asked for any: at thirds of its budget."""
        share = {name: value / DEFAULT_NUM_EVALUATIONS for name, value in asdict(budget).items() if value is not None}
        return Budget(**share)


class Loop:
    """One sitting of a training.

    Args:
        feed: the batches, from `trainer.num_images_shown` on.
        progress: a new one, or that of the checkpoint the trainer was restored from.
    """

    def __init__(self, trainer: Trainer, feed: Feed, pace: Pace, progress: Progress, hooks: Hooks) -> None:
        self._trainer, self._feed, self._pace, self.progress, self._hooks = trainer, feed, pace, progress, hooks
        self._watch = hooks.watch
        self._losses = LossMeans(trainer)
        self._is_watched = False
        self._is_asked_to_stop = False
        self._clock_s = progress.train_s  # process 0's training seconds, as all processes know them
        self._saved_at = (trainer.num_images_shown, progress.train_s)
        self._bar = ProgressBar(pace.budget, trainer.num_images_shown, progress.train_s)

    def run(self) -> Progress:
        """Train until the budget is used up or the goal is met.

        Raises:
            DivergedError: too many updates in a row were not finite; a dump was kept.
            InterruptedRunError: a signal asked to stop; a checkpoint was kept.
            BenchError: joules are to end the training and a meter failed; a checkpoint was kept.
            StorageError: the log or a snapshot cannot be written.
        """
        trainer, batch = self._trainer, None
        with self._bar:
            while True:
                if self._losses.num_steps == LOOK_EVERY_STEPS:
                    self._look(batch)
                self._check_joules()
                is_over = self._spent(self._pace.budget) >= 1
                is_due = is_over or self._spent(self._pace.evaluate_every) >= self.progress.num_evaluations
                if is_due and self._losses.num_steps:
                    self._look(batch)
                if is_due:
                    self._evaluate()
                    if is_over or self.progress.is_met:
                        return self.progress
                    continue
                if self._is_asked_to_stop or self._is_checkpoint_due():
                    self._checkpoint()
                    self._leave_if_asked()
                if not self._is_watched:
                    self._watch.start(trainer.num_images_shown)
                    self._is_watched = True
                started = perf_counter()
                batch = self._feed.next()
                self.progress.data_wait_s += perf_counter() - started
                self._losses.add(trainer.step(batch))
                self._book(perf_counter() - started)
                if trainer.world.is_alone:
                    self._is_asked_to_stop = self._hooks.stop.is_set

    def _look(self, batch: Tensor | None) -> None:
        """Read the losses, which waits for the device: part of the training."""
        trainer, progress = self._trainer, self.progress
        started = perf_counter()
        try:
            look = self._losses.look()
        except BenchError:
            self._close_segment()
            assert batch is not None
            self._hooks.diverged(progress, batch)
            raise
        progress.last_losses, progress.num_nonfinite = look.means, look.num_nonfinite
        self._watch.tick(trainer.num_images_shown)
        self._book(perf_counter() - started)
        if not trainer.world.is_alone:
            self._clock_s, self._is_asked_to_stop = trainer.world.agreed((progress.train_s, self._hooks.stop.is_set))
        counts = {f"num_nonfinite_{name}": float(count) for name, count in look.num_nonfinite.items() if count}
        line = {"images_shown": trainer.num_images_shown, "duration_s": progress.train_s}
        energy_j = self._joules_so_far()
        energy = {} if energy_j is None else {"energy_j": energy_j}
        for sink in self._hooks.sinks:
            sink.write({**line, **energy, **look.means, **counts})
        self._bar.show(trainer.num_images_shown, progress.train_s, energy_j)

    def _evaluate(self) -> None:
        self._close_segment()
        started = perf_counter()
        self.progress.is_met = self._hooks.evaluate(self.progress)
        # the next one lies beyond where the training is now, even if a step went past several
        self.progress.num_evaluations = int(self._spent(self._pace.evaluate_every)) + 1
        self.progress.evaluation_s += perf_counter() - started

    def _is_checkpoint_due(self) -> bool:
        every = self._pace.checkpoint_every
        if every.num_images is not None:
            return self._trainer.num_images_shown - self._saved_at[0] >= every.num_images
        return self._clock_s - self._saved_at[1] >= (every.duration_s or 0)

    def _checkpoint(self) -> None:
        self._close_segment()
        started = perf_counter()
        self._hooks.checkpoint(self.progress)
        self._saved_at = (self._trainer.num_images_shown, self._clock_s)
        self.progress.checkpoint_s += perf_counter() - started

    def _leave_if_asked(self) -> None:
        if self._is_asked_to_stop:
            raise InterruptedRunError(
                f"Stopped by a signal after {self._trainer.num_images_shown} images; the same command goes on from the "
                "last checkpoint."
            )

    def _check_joules(self) -> None:
        """A training that joules are to end would never end without them. Raises BenchError, after a checkpoint."""
        if self._pace.budget.energy_j is not None and self._joules_so_far() is None:
            self._checkpoint()
            raise BenchError(
                f"An energy meter failed, up to image {self._trainer.num_images_shown}, so the joules that --train-for "
                "is to end on are unknown; a checkpoint is kept. Give images or time."
            )

    def _joules_so_far(self) -> float | None:
        """As of the last closed stretch; of several processes each knows its own only, so none is told."""
        return self._watch.energy_j() if self._trainer.world.is_alone else None

    def _close_segment(self) -> None:
        if self._is_watched:
            self._watch.stop(self._trainer.num_images_shown)
        self._is_watched = False

    def _book(self, duration_s: float) -> None:
        self.progress.train_s += duration_s
        if self._trainer.world.is_alone:
            self._clock_s = self.progress.train_s

    def _spent(self, budget: Budget) -> float:
        """How many times that budget was used so far."""
        if budget.num_images is not None:
            return self._trainer.num_images_shown / budget.num_images
        if budget.duration_s is not None:
            return self._clock_s / budget.duration_s
        assert budget.energy_j is not None
        return (self._joules_so_far() or 0.0) / budget.energy_j  # unknown ones have ended the training already
