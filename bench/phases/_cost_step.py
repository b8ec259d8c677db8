"""What one optimiser step costs: the very lines of `Trainer.step`, run on shapes and counted.

A step is cut where an optimiser steps, by torch's own optimiser hooks: what ran since the last cut is that network's
loss and backward pass (penalty, augmentation, clipping and the fake images it needs included), then comes its update;
what is left after the step is the moving average. As many steps are counted as it takes for the pattern of updates and
lazy penalties to repeat. Those that make the optimisers' state run uncounted before.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from bench.phases._context import Question
from bench.phases._cost_shapes import shapes_only
from bench.phases._op_counter import OpCounter, Tally
from bench.training.step import Trainer
from models._spec import Gan, Objective

LOSSES = {"discriminator": "discriminator_loss_and_backward", "generator": "generator_loss_and_backward"}
UPDATES = {"discriminator": "discriminator_update", "generator": "generator_update"}
MOVING_AVERAGE = "moving_average"


@dataclass(kw_only=True)
class StepCost:
    """The steps of one period, cut into parts.

    Attributes:
        num_steps: steps counted, each on a batch of its own.
        num_updates: updates of each network among them.
        parts: tallies by the names in LOSSES and UPDATES, and MOVING_AVERAGE; sums over all steps.
        activation_bytes: by network, distinct storages saved for the backward pass of one update, without the
            parameters and buffers of the networks; the most that any step needs.
    """

    num_steps: int
    num_updates: Counter[str] = field(default_factory=Counter)
    parts: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    activation_bytes: dict[str, int] = field(default_factory=dict)

    def network(self, name: str) -> Tally:
        """Loss, backward pass and update of `discriminator` or `generator`, over all its updates."""
        return self.parts[LOSSES[name]] + self.parts[UPDATES[name]]

    @property
    def whole(self) -> Tally:
        """Everything in all the steps."""
        return sum(self.parts.values(), Tally())


def untouched_gan(question: Question) -> Gan:
    """The networks on the CPU, in memory that holds nothing: to be run under `shapes_only` alone."""
    gan = question.build("meta")
    return dataclasses.replace(
        gan, generator=gan.generator.to_empty(device="cpu"), discriminator=gan.discriminator.to_empty(device="cpu")
    )


def count_step(question: Question, objective: Objective, *, has_stepped: bool = True) -> StepCost:
    """Count the step of the question's recipe, batch size and precision, with the losses of `objective`.

    Args:
        has_stepped: whether the optimisers have their state; Adam's first step moves bytes to make it.

    Raises:
        one of CANNOT_RUN: the model or its losses need more than shapes.
    """
    recipe = dataclasses.replace(question.recipe, objective=objective)
    gan = untouched_gan(question)
    shape = (question.batch_size, 3, question.resolution, question.resolution)
    with shapes_only():
        trainer = Trainer(gan, recipe, device="cpu", precision=question.precision, seed=question.spec.seed)
        real = torch.empty(shape)
        for _ in range(recipe.num_discriminator_steps if has_stepped else 0):
            trainer.step(real)
        counter, cost, saved = OpCounter(), StepCost(num_steps=trainer.period), _Saved(trainer)
        with _cut_at_updates(trainer, (counter, cost, saved)), saved.watched(), counter:
            for _ in range(cost.num_steps):
                trainer.step(real)
                cost.parts[MOVING_AVERAGE] += counter.take()
    return cost


@contextmanager
def _cut_at_updates(trainer: Trainer, counting: tuple[OpCounter, StepCost, _Saved]) -> Iterator[None]:
    counter, cost, saved = counting
    owner = {
        id(parameter): name
        for name, network in (("discriminator", trainer.gan.discriminator), ("generator", trainer.gan.generator))
        for parameter in network.parameters()
    }

    def network_of(optimiser: torch.optim.Optimizer) -> str:
        return owner[id(optimiser.param_groups[0]["params"][0])]

    def before(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        name = network_of(optimiser)
        cost.parts[LOSSES[name]] += counter.take()
        cost.activation_bytes[name] = max(cost.activation_bytes.get(name, 0), saved.take())

    def after(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        name = network_of(optimiser)
        cost.parts[UPDATES[name]] += counter.take()
        cost.num_updates[name] += 1

    handles = register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Saved:
    """Distinct storages saved for backward passes; kept until they are taken, so that no address is used twice."""

    def __init__(self, trainer: Trainer) -> None:
        networks: tuple[nn.Module, ...] = (trainer.gan.discriminator, trainer.gan.generator)
        state = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
        self._state = {tensor.untyped_storage().data_ptr() for tensor in state}
        self._storages: dict[int, UntypedStorage] = {}

    def watched(self) -> torch.autograd.graph.saved_tensors_hooks:
        return torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor)

    def take(self) -> int:
        """Bytes so far; noting starts over."""
        num_bytes = sum(storage.nbytes() for storage in self._storages.values())
        self._storages = {}
        return num_bytes

    def _note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._state:
            self._storages[storage.data_ptr()] = storage
        return tensor
