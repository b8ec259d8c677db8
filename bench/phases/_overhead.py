"""What the harness itself costs: meters on against meters off, and its training loop against a bare loop.

Why it exists: a harness that slows what it measures reports its own figure. Every comparison runs both sides in this
process, on the same trainer and the same batches, block by block in the order A B B A …, so that whatever drifts
(clock, temperature, neighbours) meets both. The figure is the median of the paired log-ratios with its exact
order-statistic interval. An A/A comparison of the bare loop with itself, interleaved with the others, says what this
machine can resolve at all.

Choices that are ours. The learning rates are 0: Adam does the same arithmetic, but the weights stay where they are, so
every block does the same work on the same numbers and nothing can diverge. The harness's loop starts its reading
thread, opens its log and reads the losses at each of its snapshot points in every block, so its cost is overstated:
in a real training these come once in minutes, or once in 10 steps. Meters are compared on their own, around windows;
the loop runs without them. The bare loop is what one would write by hand:
`for batch in batches: trainer.step(to_networks(batch))`, batches ready in memory.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from tabulate import tabulate

from bench.catalog import METERS
from bench.datasets._spec import Images, ImageSet, Indices
from bench.errors import UsageError
from bench.machine import set_backend
from bench.meters._spec import Meter
from bench.phases._context import Question
from bench.phases._energy import EnergySetup
from bench.phases._settle import settle
from bench.phases._train_energy import TrainingWatch
from bench.phases._windows import TimedWork
from bench.records import Quantity, RunSpec
from bench.stats import quantile_quantity
from bench.training.distributed import ALONE
from bench.training.feed import open_feed
from bench.training.images import to_networks
from bench.training.log import JsonLines
from bench.training.loop import Hooks, Loop, Pace, Progress
from bench.training.randomness import training_order
from bench.training.signals import StopRequest
from bench.training.step import Trainer
from bench.units import Budget, format_duration

MIN_PAIRS = 6  # the fewest that give a median its 95 % interval
TOLERANCE = 0.005
SUBJECT = RunSpec(model="ladagan", size="tiny", dataset="synthetic", resolution=32, no_data=True)
_NUM_WARMUP_STEPS = 4
_WHOLE = "meters on / off: the whole measure() call"
_WINDOW = "meters on / off: the window's own duration"
_LOOP = "harness train loop / bare loop"
_SAME = "A/A: bare loop / bare loop"


@dataclass(frozen=True, kw_only=True)
class OverheadRow:
    """One comparison.

    Attributes:
        compared: what is over what.
        difference: median of variant / base - 1 over the pairs, unit 1; 0.01 is one per cent slower.
        verdict: for a person.
    """

    compared: str
    difference: Quantity
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two blocks of the same work; each runs once per call and returns its seconds, one figure per row."""

    rows: tuple[str, ...]
    base: Callable[[], tuple[float, ...]]
    variant: Callable[[], tuple[float, ...]]


def measure_overhead(
    device: str | None, *, num_pairs: int = 40, block_s: float = 0.5, say: Callable[[str], None]
) -> list[OverheadRow]:
    """On SUBJECT, about 6 × num_pairs × block_s seconds (two minutes by default).

    Args:
        num_pairs: pairs of blocks per comparison, at least MIN_PAIRS.
        block_s: least length of a block, s.
        say: where the plan goes; never called inside a block.

    Raises:
        UsageError: too few pairs for an interval, or no such device.
    """
    if num_pairs < MIN_PAIRS:
        raise UsageError(f"--overhead needs at least {MIN_PAIRS} pairs for a 95 % interval, not {num_pairs}.")
    question = settle(SUBJECT.model_copy(update={"device": device}))
    set_backend(question.precision)
    meters = window_meters(question.device)
    try:
        with tempfile.TemporaryDirectory() as folder:
            workbench = _Workbench(question, block_s=block_s, log_path=Path(folder) / "train.jsonl")
            comparisons = workbench.comparisons(meters)
            say(
                f"Overhead on {question.device}: {num_pairs} pairs of blocks of {workbench.num_steps} steps, about "
                f"{format_duration(2 * len(comparisons) * num_pairs * workbench.block_s)}; meters: {', '.join(meters)}"
            )
            return rows_of(compare(comparisons, num_pairs=num_pairs), noise_row=_SAME)
    finally:
        for meter in meters.values():
            meter.close()


def overhead_table(rows: Sequence[OverheadRow]) -> str:
    """The rows for a terminal."""
    lines = [
        [
            row.compared,
            _per_cent(row.difference.value),
            f"{_per_cent(row.difference.low)} to {_per_cent(row.difference.high)}",
            row.difference.n,
            row.verdict,
        ]
        for row in rows
    ]
    headers = ["time of", "median", "95 % interval", "pairs", "verdict"]
    text: str = tabulate(lines, headers=headers, tablefmt="simple", disable_numparse=True)
    return text


def compare(comparisons: Sequence[Comparison], *, num_pairs: int) -> dict[str, list[float]]:
    """Row → log(variant / base) of each pair. Pair by pair through all comparisons, base first in every other pair."""
    log_ratios: dict[str, list[float]] = {row: [] for each in comparisons for row in each.rows}
    for index in range(num_pairs):
        for each in comparisons:
            if index % 2 == 0:
                base, variant = each.base(), each.variant()
            else:
                variant, base = each.variant(), each.base()
            for row, base_s, variant_s in zip(each.rows, base, variant, strict=True):
                log_ratios[row].append(math.log(variant_s / base_s))
    return log_ratios


def rows_of(log_ratios: dict[str, list[float]], *, noise_row: str) -> list[OverheadRow]:
    """Medians, intervals and verdicts; `noise_row` is the A/A comparison that the others are judged by."""
    differences = {row: _difference(each) for row, each in log_ratios.items()}
    noise = max(abs(end) for end in (differences[noise_row].low, differences[noise_row].high) if end is not None)
    rows = []
    for row, difference in differences.items():
        verdict = f"this machine's A/A noise: ± {noise:.2%}" if row == noise_row else _verdict(difference, noise)
        rows.append(OverheadRow(compared=row, difference=difference, verdict=verdict))
    return rows


def _difference(log_ratios: Sequence[float]) -> Quantity:
    """exp(median) - 1 with its interval."""
    found = quantile_quantity(log_ratios, unit="1", source="paired blocks in ABBA order, median of the log-ratios")
    ends = {name: None if end is None else math.expm1(end) for name, end in (("low", found.low), ("high", found.high))}
    return found.model_copy(update={"value": math.expm1(found.value or 0.0)} | ends)


def _verdict(difference: Quantity, noise: float) -> str:
    """`within` needs the whole interval inside the tolerance; `more`, the whole of it above tolerance and noise."""
    low, high = difference.low, difference.high
    if low is None or high is None:
        return f"not resolved: {difference.note}"
    if low >= -TOLERANCE and high <= TOLERANCE:
        return f"within {TOLERANCE:.1%}"
    threshold = max(TOLERANCE, noise)
    if low > threshold:
        return f"more than {TOLERANCE:.1%}: slower by at least {low:.2%}"
    if high < -threshold:
        return f"more than {TOLERANCE:.1%}: faster by at least {-high:.2%}"
    return f"not resolved: this machine's A/A noise is ± {noise:.2%}"


def train(trainer: Trainer, images: ImageSet, batch_size: int, log_path: Path) -> None:
    """One epoch by the harness' own loop, with its log and without evaluation, checkpoint and energy meter."""
    feed = open_feed(images, seed=trainer.seed, batch_size=batch_size, position=0, device=trainer.device, world=ALONE)
    log = JsonLines(log_path, 0)
    budget = Budget(num_images=len(images))
    setup = EnergySetup(sources={}, tdp_w=None, num_cpu_cores=1)
    hooks = Hooks(
        evaluate=lambda _progress: False,
        checkpoint=lambda _progress: None,
        diverged=lambda _progress, _batch: None,
        sinks=[log],
        watch=TrainingWatch({}, {}, setup),
        stop=StopRequest(),
    )
    try:
        Loop(
            trainer, feed, Pace(budget=budget, evaluate_every=budget, checkpoint_every=budget), Progress(), hooks
        ).run()
    finally:
        feed.close()
        log.close()


class _HeldImages:
    """Images that are already in memory; an `ImageSet`. Reading them is one copy."""

    def __init__(self, images: Images) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def read(self, indices: Indices) -> Images:
        return self._images[indices]


class _Workbench:
    """One trainer, its batches, and the blocks that are compared.

    Attributes:
        num_steps: optimiser steps in a block.
        block_s: about how long one takes, s.
    """

    def __init__(self, question: Question, *, block_s: float, log_path: Path) -> None:
        still = dataclasses.replace(question.recipe, generator_lr=0.0, discriminator_lr=0.0)
        self._device, self._batch_size, self._log_path = question.device, question.batch_size, log_path
        self._trainer = dataclasses.replace(question, recipe=still).trainer(ALONE)
        one_batch = question.real_batch()
        self._real = to_networks(one_batch, question.device)
        step_s = min(self._seconds(lambda: self._trainer.step(self._real)) for _ in range(_NUM_WARMUP_STEPS))
        self.num_steps = max(1, math.ceil(block_s / step_s))
        self.block_s = self.num_steps * step_s
        self._images = _HeldImages(np.concatenate([one_batch] * self.num_steps))
        starts = range(0, len(self._images), self._batch_size)
        orders = (training_order(len(self._images), question.spec.seed, start, self._batch_size) for start in starts)
        self._batches = [self._images.read(order) for order in orders]

    def comparisons(self, meters: dict[str, Meter]) -> tuple[Comparison, ...]:
        """Meters on / off, harness loop / bare loop, and bare / bare."""

        def bare() -> tuple[float, ...]:
            return (self._seconds(self._bare_loop),)

        def harness() -> tuple[float, ...]:
            return (self._seconds(self._harness_loop),)

        return (
            Comparison(rows=(_WHOLE, _WINDOW), base=lambda: self._window({}), variant=lambda: self._window(meters)),
            Comparison(rows=(_LOOP,), base=bare, variant=harness),
            Comparison(rows=(_SAME,), base=bare, variant=bare),
        )

    def _window(self, meters: dict[str, Meter]) -> tuple[float, ...]:
        """Seconds of a whole `measure` call, and of the window as it reports itself."""
        self._trainer.num_images_shown = 0
        timed = TimedWork(
            series="overhead",
            work=lambda: self._trainer.step(self._real),
            num_units=self._batch_size,
            device=self._device,
            meters=meters,
        )
        started = perf_counter()
        window = timed.measure(0, num_calls=self.num_steps)
        return perf_counter() - started, window.duration_s

    def _bare_loop(self) -> None:
        self._trainer.num_images_shown = 0  # the step's random draws depend on it: the same in every block
        for batch in self._batches:
            self._trainer.step(to_networks(batch, self._device))

    def _harness_loop(self) -> None:
        self._trainer.num_images_shown = 0
        train(self._trainer, self._images, self._batch_size, self._log_path)

    def _seconds(self, block: Callable[[], object]) -> float:
        """Seconds of one block between synchronised edges."""
        self._synchronise()
        started = perf_counter()
        block()
        self._synchronise()
        return perf_counter() - started

    def _synchronise(self) -> None:
        if self._device != "cpu":
            torch.cuda.synchronize(self._device)


def window_meters(device: str) -> dict[str, Meter]:
    """Every meter that reads measured windows on this machine, by name."""
    specs = {name: METERS.load(name) for name in METERS.names()}
    usable = {name: spec for name, spec in specs.items() if spec.in_windows and spec.why_unavailable(device) is None}
    return {name: spec.open(device) for name, spec in usable.items()}


def _per_cent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:+.2%}"
