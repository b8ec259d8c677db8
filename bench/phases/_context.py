"""What a phase is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from pydantic import JsonValue
from torch import nn

from bench.calibration import Calibration
from bench.catalog import METRICS, FoundDataset, FoundModel, build_gan
from bench.datasets._spec import Images, OpenDataset
from bench.meters._spec import Meter
from bench.metrics._spec import MetricSpec
from bench.phases._presets import Preset
from bench.records import (
    CurvePoint,
    Finding,
    Machine,
    PhaseName,
    PhaseResult,
    PhaseStatus,
    Precision,
    Quantity,
    RunSpec,
    Window,
)
from bench.store import RunFolder
from bench.training.distributed import ALONE, World
from bench.training.feed import Loading
from bench.training.randomness import derive_seed
from bench.training.signals import StopRequest
from bench.training.step import StepOptions, Trainer
from bench.training.weights import load_weights
from bench.units import Budget, Goal
from models._spec import Gan, Recipe

CHECKPOINT_EVERY = Budget(duration_s=300.0)
LOADING = Loading()
MOST_IMAGES_ON_A_CPU = 10_000  # ours: 50,000 through Inception take an hour on two cores; --metrics asks for it by name


@dataclass(frozen=True)
class FollowedFigure:
    """A metric's figure and its better direction."""

    name: str
    is_higher_better: bool

    def is_better(self, value: float, than: float) -> bool:
        """Whether a value is better than another."""
        return value > than if self.is_higher_better else value < than


@dataclass(frozen=True, kw_only=True)
class Question:
    """A settled RunSpec with everything its words stand for; nothing in it is None that the spec can say.

    Attributes:
        spec: every field settled.
        discriminator: whose discriminator stands in for the model's own, or None.
        evaluate_every: images or seconds between evaluations inside the training; None is at thirds, scored afterwards.
        goal: ends the training early.
        dataset: the opened data set; None with `no_data`.
    """

    spec: RunSpec
    resolution: int
    batch_size: int
    precision: Precision
    device: str
    model: FoundModel
    discriminator: FoundModel | None = None
    recipe: Recipe
    found_dataset: FoundDataset
    dataset: OpenDataset | None
    budget: Budget
    evaluate_every: Budget | None = None
    goal: Goal | None = None
    preset: Preset

    @property
    def scores_while_training(self) -> bool:
        """Whether evaluations fall inside the training, because they were asked for."""
        return self.evaluate_every is not None or self.goal is not None

    @property
    def followed_figure(self) -> FollowedFigure:
        """The figure whose best checkpoint is kept: the goal's, else `rfd_v1`, which every data set has."""
        name = "rfd_v1" if self.goal is None else self.goal.figure
        better = next(metric.figures[name].better for metric in self.metrics() if name in metric.figures)
        return FollowedFigure(name, better == "higher")

    @property
    def configuration(self) -> str:
        """Where the widths come from: `paper`, or `ours: …`; every size but `paper` is ours."""
        ours = []
        if self.spec.size != "paper":
            ours.append(f"size {self.spec.size}")
        if self.spec.attention is not None:
            ours.append(f"{self.spec.attention} attention")
        if self.discriminator is not None:
            ours.append(f"discriminator of {self.discriminator.name}")
        return f"ours: {', '.join(ours)}" if ours else self.model.spec.resolutions[self.resolution]

    def build(self, device: str) -> Gan:
        """The networks, initialised on the CPU from the run's seed whatever the device, so devices start equal."""
        if device == "meta":
            with torch.device("meta"):
                return self._paired()
        torch.manual_seed(derive_seed(self.spec.seed, "initialisation"))
        gan = self._paired()
        return Gan(
            generator=gan.generator.to(device),
            discriminator=gan.discriminator.to(device),
            latent_dim=gan.latent_dim,
        )

    def _paired(self) -> Gan:
        """The model's networks, or its generator with the other model's discriminator of the same size."""
        gan = build_gan(self.model, self.resolution, self.spec.size, self.spec.attention)
        if self.discriminator is None:
            return gan
        other = build_gan(self.discriminator, self.resolution, self.spec.size, None)
        return Gan(generator=gan.generator, discriminator=other.discriminator, latent_dim=gan.latent_dim)

    def build_generator(self, device: str) -> tuple[nn.Module, int]:
        """The generator alone, in eval mode, with the given weights where there are some; and its latent's width."""
        gan = self.build(device)
        if self.spec.weights is not None and device != "meta":
            load_weights(Path(self.spec.weights), gan.generator)
        return gan.generator.eval(), gan.latent_dim

    def trainer(self, world: World) -> Trainer:
        """A trainer of freshly initialised networks for this process."""
        spec = self.spec
        return Trainer(
            self.build(self.device),
            self.recipe,
            device=self.device,
            precision=self.precision,
            seed=spec.seed,
            options=StepOptions(
                compile=spec.compile,
                capture=spec.capture,
                channels_last=spec.channels_last,
                num_accumulation_steps=spec.num_accumulation_steps,
            ),
            world=world,
        )

    def metrics(self) -> list[MetricSpec]:
        """Those asked for, or every metric that applies, whose weights are here, and that is not too slow for a CPU."""
        if self.spec.metrics is not None:
            return [METRICS.load(name) for name in self.spec.metrics]
        every = [METRICS.load(name) for name in METRICS.names()]
        usable = [
            each for each in every if each.why_not(self.found_dataset.name) is None and not each.why_unavailable()
        ]
        return [each for each in usable if self.device != "cpu" or each.num_images <= MOST_IMAGES_ON_A_CPU]

    def real_batch(self) -> Images:
        """One batch to measure a step on: of the data set, or random images of its shape with `no_data`."""
        if self.dataset is not None:
            return self.dataset.train.read(np.arange(self.batch_size) % len(self.dataset.train))
        random = np.random.default_rng(self.spec.seed)
        return random.integers(0, 256, (self.batch_size, 3, self.resolution, self.resolution), dtype=np.uint8)


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a phase works with.

    Attributes:
        meters: those that read every window.
        stretch_meters: opens, for a `with` block, those that read long stretches only.
        calibration: this machine's own peaks; None where it was not calibrated.
        done: the phases that are already in the record.
        curve: the points that the training has scored already.
        world: the processes that share the training.
        stop: whether a signal has asked to stop.
        checkpoint_every: images or seconds from one checkpoint to the next.
        logs: optional logs beside the JSONL, from `tensorboard`.
        loading: how the training reads its images.
    """

    question: Question
    folder: RunFolder
    machine: Machine
    meters: dict[str, Meter]
    stretch_meters: Callable[[], AbstractContextManager[dict[str, Meter]]]
    calibration: Calibration | None
    done: dict[PhaseName, PhaseResult]
    say: Callable[[str], None]
    curve: tuple[CurvePoint, ...] = ()
    world: World = ALONE
    stop: StopRequest = field(default_factory=StopRequest)
    checkpoint_every: Budget = CHECKPOINT_EVERY
    logs: tuple[str, ...] = ()
    loading: Loading = LOADING

    def cost(self, name: str) -> Quantity | None:
        """A figure of the cost phase, or None where that phase has not spoken."""
        counted = self.done.get("cost")
        return None if counted is None else counted.quantities.get(name)


@dataclass(kw_only=True)
class Outcome:
    """What a phase found; the runner adds the phase's name, when it began and how long it took."""

    status: PhaseStatus = "ok"
    reason: str = ""
    quantities: dict[str, Quantity] = field(default_factory=dict)
    protocol: dict[str, JsonValue] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    windows: list[Window] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
