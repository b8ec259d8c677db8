"""Where a step's milliseconds and joules go: each part replayed alone, on the same tensors.

A step is far shorter than the update period of an energy counter, so its parts cannot be split by reading the counter
inside it. Each part is repeated by itself for as long as the preset asks, between synchronised edges, and its figures
are `attributed`, not measured: caches are warmer than in the step, kernels do not overlap with their neighbours, and
the parts need not add up. What they miss or count twice is printed as the residual against the whole step.

Parts: `generator_forward` (without gradient, for the discriminator's fakes), `discriminator` (its loss and backward
pass on fixed images, without the penalty), `penalty` (the same with the penalty, less the same without), `generator`
(its loss, forward and backward through both networks), `optimiser` (both updates), `ema`, `data` (reading a batch and
handing it to the device, not hidden behind the step as it is in a training).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from itertools import count

import torch
from torch import Tensor, nn

from bench.phases._context import Question
from bench.phases._energy import EnergySetup, energy_quantities
from bench.phases._presets import Preset
from bench.phases._windows import TimedWork, counted
from bench.records import Quantity, Window, unknown
from bench.stats import quantile_quantity
from bench.training.images import to_networks
from bench.training.step import Trainer, update_ema
from models._spec import Gan, Objective

PARTS = ("generator_forward", "discriminator", "penalty", "generator", "optimiser", "ema", "data")
_NUM_WINDOWS = 6  # the fewest with an exact 95 % interval of the median
_SOURCE = "isolated replay of this part on the step's tensors"


class _FixedImages(nn.Module):
    """Stands in for the generator, so that the discriminator's loss is replayed without it."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self._images = images

    def forward(self, _: Tensor) -> Tensor:
        return self._images


def replay(trainer: Trainer, question: Question, timed: TimedWork, setup: EnergySetup) -> list[Window]:
    """Windows of every part, series `replay.<part>`, `replay.discriminator_with_penalty` among them; units are steps.

    Args:
        timed: the whole step's work; its device and meters are used here too.
    """
    windows: list[Window] = []
    for part, work in _works(trainer, question).items():
        alone = dataclasses.replace(timed, series=f"replay.{part}", work=work, num_units=1)
        windows += _measure(alone, question.preset, setup)
    return windows


def replay_quantities(windows: list[Window], setup: EnergySetup, *, batch_size: int) -> dict[str, Quantity]:
    """`step_<part>_ms`, `step_<part>_energy_j`, and the residuals `step_residual_ms`, `step_residual_energy_j`.

    Args:
        windows: those of `replay` and of the whole step, series `train_step`, whose units are images.
    """
    windows = [_in_steps(window, batch_size) for window in windows]
    figures = {f"step_{part}_ms": _milliseconds(windows, part) for part in PARTS}
    whole_ms = _median_ms(windows, "train_step")
    figures["step_residual_ms"] = _residual(whole_ms, [figures[f"step_{part}_ms"] for part in PARTS if part != "data"])
    if not setup.has_meter:
        return figures
    figures |= {f"step_{part}_energy_j": _joules(windows, part, setup) for part in PARTS}
    whole_j = _step_energy(windows, "train_step", setup)
    parts_j = [figures[f"step_{part}_energy_j"] for part in PARTS if part != "data"]
    figures["step_residual_energy_j"] = _residual(whole_j, parts_j)
    return figures


def _in_steps(window: Window, batch_size: int) -> Window:
    """A window of the whole step counts images; here everything counts steps."""
    if window.series != "train_step":
        return window
    return window.model_copy(update={"num_units": window.num_units // batch_size})


def _works(trainer: Trainer, question: Question) -> dict[str, Callable[[], object]]:
    """Each part as a call that does one step's worth of it."""
    gan, objective, batch_size = trainer.gan, trainer.recipe.objective, question.batch_size
    images = question.real_batch()
    real = to_networks(images, question.device)
    z = torch.randn(batch_size, gan.latent_dim, device=question.device)
    with torch.no_grad(), trainer.autocast():
        fake = gan.generator(z)
    g_steps, plain_steps, penalised_steps = count(), count(), count()  # penalties that are not due in every step
    fixed = dataclasses.replace(gan, generator=_FixedImages(fake))

    def generator_forward() -> None:
        with torch.no_grad(), trainer.autocast():
            gan.generator(z)

    def generator() -> None:
        gan.generator.zero_grad(set_to_none=True)
        gan.discriminator.requires_grad_(False)
        with trainer.autocast():
            loss = objective.generator_loss(gan, real, z, next(g_steps))
        loss.total.backward()  # type: ignore[no-untyped-call]
        gan.discriminator.requires_grad_(True)

    def data() -> None:
        to_networks(question.real_batch(), question.device)

    return {
        "generator_forward": generator_forward,
        "discriminator": lambda: _discriminator_pass(
            trainer, objective.without_penalty(), fixed, (real, z), next(plain_steps)
        ),
        "discriminator_with_penalty": lambda: _discriminator_pass(
            trainer, objective, fixed, (real, z), next(penalised_steps)
        ),
        "generator": generator,
        "optimiser": trainer.update_both,
        "ema": lambda: update_ema(trainer.ema, gan.generator, trainer.recipe.ema_decay),
        "data": data,
    }


def _discriminator_pass(
    trainer: Trainer, objective: Objective, gan: Gan, batch: tuple[Tensor, Tensor], step: int
) -> None:
    real, z = batch
    gan.discriminator.zero_grad(set_to_none=True)
    with trainer.autocast():
        loss = objective.discriminator_loss(gan, real, z, step)
    loss.total.backward()  # type: ignore[no-untyped-call]


def _measure(timed: TimedWork, preset: Preset, setup: EnergySetup) -> list[Window]:
    """Warm-up calls, then `_NUM_WINDOWS` windows that fill the preset's time; publishable joules need long ones."""
    windows = [timed.measure(index, num_calls=1, is_warmup=True) for index in range(3)]
    window_s = preset.replay_s / _NUM_WINDOWS
    if preset.has_long_windows and setup.has_meter:
        window_s = max(window_s, setup.min_window_s)
    num_calls = max(1, round(window_s / min(window.duration_s for window in windows)))
    return windows + [timed.measure(len(windows) + index, num_calls=num_calls) for index in range(_NUM_WINDOWS)]


def _median_ms(windows: list[Window], series: str) -> Quantity:
    """Milliseconds per step."""
    found = counted(windows, series)
    samples = [1000 * window.duration_s / window.num_units for window in found]
    return quantile_quantity(samples, unit="ms", source=_SOURCE, kind="attributed")


def _milliseconds(windows: list[Window], part: str) -> Quantity:
    if part != "penalty":
        return _median_ms(windows, f"replay.{part}")
    return _difference(
        _median_ms(windows, "replay.discriminator_with_penalty"), _median_ms(windows, "replay.discriminator")
    )


def _joules(windows: list[Window], part: str, setup: EnergySetup) -> Quantity:
    if part != "penalty":
        return _step_energy(windows, f"replay.{part}", setup)
    return _difference(
        _step_energy(windows, "replay.discriminator_with_penalty", setup),
        _step_energy(windows, "replay.discriminator", setup),
    )


def _step_energy(windows: list[Window], series: str, setup: EnergySetup) -> Quantity:
    """Joules per step, attributed."""
    figure = energy_quantities("step", windows, series, setup, per="step")["step_energy_j_per_step"]
    update: Mapping[str, object] = {"unit": "J", "source": _SOURCE}
    if figure.value is not None and figure.label is not None and figure.label.startswith("measured"):
        update = {**update, "label": "attributed:replay", "kind": "attributed"}
    return figure.model_copy(update=dict(update))


def _difference(left: Quantity, right: Quantity) -> Quantity:
    """left - right with the ends that lie farthest apart."""
    return _combined(left, [right], f"{_SOURCE}: with the penalty less without")


def _residual(whole: Quantity, parts: list[Quantity]) -> Quantity:
    """What the parts do not explain of the whole; below zero where they count twice."""
    return _combined(whole, parts, "the whole step less the sum of its parts")


def _combined(whole: Quantity, parts: list[Quantity], source: str) -> Quantity:
    """whole - Σ parts; the interval takes every part at its far end, so it is wide."""
    missing = next((each for each in (whole, *parts) if each.value is None), None)
    if missing is not None:
        return unknown(whole.unit, missing.note, source=source, kind="attributed", label=missing.label)
    values = [part.value or 0.0 for part in parts]
    lows = [part.value or 0.0 if part.low is None else part.low for part in parts]
    highs = [part.value or 0.0 if part.high is None else part.high for part in parts]
    value = (whole.value or 0.0) - sum(values)
    low = (whole.value or 0.0) if whole.low is None else whole.low
    high = (whole.value or 0.0) if whole.high is None else whole.high
    return whole.model_copy(
        update={
            "value": value,
            "low": low - sum(highs),
            "high": high - sum(lows),
            "kind": "attributed" if whole.kind != "simulated" else whole.kind,
            "source": source,
        }
    )
