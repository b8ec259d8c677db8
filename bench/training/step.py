"""One optimiser step of a GAN: discriminator, generator, moving average. Every model is trained by these lines.

The moving average (EMA) runs from step 0 and copies buffers as well as parameters: batch-norm statistics matter once a
generator has batch norm.

An update whose loss or gradients are not finite is not applied: the optimiser is told on the device (`found_inf`, the
way torch's gradient scaler does it), so nothing is synchronised, and it is counted, so nothing is silent. The loop
reads the counts.

Several processes: each network's whole loss, forward passes included, runs inside a module that DDP wraps. One forward
and one backward per update is what DDP can follow, however often a loss calls its networks; and losses see the bare
networks, with all their attributes.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.records import Precision
from bench.training.capture import CapturedStep
from bench.training.compiled import compile_losses
from bench.training.distributed import ALONE, World
from bench.training.randomness import derive_seed
from models._spec import Gan, Loss, Recipe

LossOf = Callable[[Tensor, Tensor, int], Loss]  # (real, z, step) → loss


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """How a step is computed, never what it computes.

    Attributes:
        compile, capture, channels_last, num_accumulation_steps: as in `bench.records.RunSpec`.
    """

    compile: bool = False
    capture: bool = False
    channels_last: bool = False
    num_accumulation_steps: int = 1


class Trainer:
    """The state of a training run and its step.

    Args:
        gan: the two networks, on any device; they are moved.
        recipe: optimiser settings, EMA decay and losses.
        device: torch device.
        precision: `bf16` runs the networks under autocast; parameters and optimiser stay in float32.
        seed: every update reseeds torch from (seed, images shown), so a step does not depend on those before it.
        options: how the step is computed.
        world: the processes that share the batch.
    """

    def __init__(
        self,
        gan: Gan,
        recipe: Recipe,
        *,
        device: str,
        precision: Precision,
        seed: int,
        options: StepOptions = StepOptions(),
        world: World = ALONE,
    ) -> None:
        self.gan = dataclasses.replace(
            gan, generator=gan.generator.to(device).train(), discriminator=gan.discriminator.to(device).train()
        )
        if options.channels_last:
            for network in (self.gan.generator, self.gan.discriminator):
                network.to(memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.gan.generator).eval().requires_grad_(False)
        self.recipe = recipe
        self.device = device
        self.precision = precision
        self.seed = seed
        self.options = options
        self.world = world
        self.num_images_shown = 0
        self.num_steps = 0
        self.generator_optimiser = self._adam(self.gan.generator, recipe.generator_lr)
        self.discriminator_optimiser = self._adam(self.gan.discriminator, recipe.discriminator_lr)
        self.num_nonfinite = torch.zeros(2, device=device)  # updates not applied: discriminator, generator
        self.num_nonfinite_in_a_row = torch.zeros(2, device=device)
        self._losses = self._loss_functions()
        self._captured = CapturedStep(self) if options.capture else None

    def step(self, real: Tensor) -> dict[str, Tensor]:
        """One discriminator update, and the generator's where one is due.

        Args:
            real: this process's share of the batch, [b, 3, h, w] in [-1, 1].

        Returns:
            losses, detached, on the device: `discriminator`, `generator` (totals), and each part as
            `discriminator_<part>`, `generator_<part>`; the generator's only from a step that updated it.
        """
        losses = self._seeded_update("discriminator", real, self.num_steps)
        self.num_images_shown += real.shape[0] * self.world.size
        self.num_steps += 1
        if self.num_steps % self.recipe.num_discriminator_steps:
            return losses
        step = self.num_steps // self.recipe.num_discriminator_steps - 1
        return losses | self._seeded_update("generator", real, step)

    def _seeded_update(self, network: str, real: Tensor, step: int) -> dict[str, Tensor]:
        if self._captured is None:
            self.seed_update(network)
        updates = self._captured or self  # a captured update seeds by itself
        return (updates.discriminator_update if network == "discriminator" else updates.generator_update)(real, step)

    def seed_update(self, network: str) -> None:
        """Reseed torch for all that the coming update of `discriminator` or `generator` draws."""
        torch.manual_seed(derive_seed(self.seed, f"{network} step", self.num_images_shown))

    def discriminator_update(self, real: Tensor, step: int) -> dict[str, Tensor]:
        """Loss, backward pass and optimiser of the discriminator; `step` decides which penalties are due."""
        loss = self._backward("discriminator", real, step)
        self._apply(0, self.discriminator_optimiser, loss)
        return _named("discriminator", loss)

    def generator_update(self, real: Tensor, step: int) -> dict[str, Tensor]:
        """Loss, backward pass, optimiser and moving average of the generator."""
        self.gan.discriminator.requires_grad_(False)  # its weights' gradients are not needed
        loss = self._backward("generator", real, step)
        self._apply(1, self.generator_optimiser, loss)
        self.gan.discriminator.requires_grad_(True)
        update_ema(self.ema, self.gan.generator, self.recipe.ema_decay)
        return _named("generator", loss)

    @property
    def period(self) -> int:
        """Steps after which the pattern of updates and penalties repeats."""
        return self.recipe.objective.period * self.recipe.num_discriminator_steps

    def update_both(self) -> None:
        """Both optimisers' update from the gradients as they stand: a part of `step`, for replaying it alone."""
        self.discriminator_optimiser.step()
        self.generator_optimiser.step()

    def autocast(self) -> torch.autocast:
        """The context the losses are computed in."""
        return torch.autocast(
            torch.device(self.device).type, dtype=torch.bfloat16, enabled=self.precision == "bf16", cache_enabled=True
        )

    def _backward(self, network: str, real: Tensor, step: int) -> Loss:
        """Gradients of one network's loss, averaged over the parts of the batch → the mean of the parts' losses."""
        z = self._latents(network, real.shape[0])
        loss_of = self._losses[network]
        optimiser = self.discriminator_optimiser if network == "discriminator" else self.generator_optimiser
        optimiser.zero_grad(set_to_none=True)
        num_parts = self.options.num_accumulation_steps
        found = []
        for index, (real_part, z_part) in enumerate(zip(real.chunk(num_parts), z.chunk(num_parts), strict=True)):
            is_last = index == num_parts - 1
            quiet = loss_of.no_sync() if isinstance(loss_of, DistributedDataParallel) and not is_last else None
            with quiet or contextlib.nullcontext():
                with self.autocast():
                    loss: Loss = loss_of(real_part, z_part, step)
                (loss.total / num_parts).backward()  # type: ignore[no-untyped-call]
            found.append(loss)
        return found[0] if num_parts == 1 else _mean(found)

    def _latents(self, network: str, batch_size: int) -> Tensor:
        """This process's share of the latents of the whole batch; then each process draws for itself."""
        whole = torch.randn(batch_size * self.world.size, self.gan.latent_dim, device=self.device)
        if not self.world.is_alone:
            purpose = f"{network} step of process {self.world.rank}"
            torch.manual_seed(derive_seed(self.seed, purpose, self.num_images_shown))
        return whole[self.world.share_of(len(whole))]

    def _apply(self, index: int, optimiser: torch.optim.Adam, loss: Loss) -> None:
        """The optimiser's update, unless the loss or a gradient is not finite; counted on the device."""
        gradients = [each.grad for each in optimiser.param_groups[0]["params"] if each.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        is_broken = (~(torch.isfinite(norm) & torch.isfinite(loss.total.detach()))).float()
        self.world.largest_(is_broken)  # the loss of one process alone may be broken
        self.num_nonfinite[index] += is_broken
        self.num_nonfinite_in_a_row[index].add_(is_broken).mul_(is_broken)
        if self.recipe.max_gradient_norm is not None:
            limit = (self.recipe.max_gradient_norm / (norm + 1e-6)).clamp(max=1.0)  # as torch's clip_grad_norm_
            torch._foreach_mul_(gradients, limit)
        optimiser.found_inf = is_broken  # type: ignore[attr-defined]
        optimiser.grad_scale = None  # type: ignore[attr-defined]
        optimiser.step()

    def _adam(self, network: nn.Module, lr: float) -> torch.optim.Adam:
        return torch.optim.Adam(
            network.parameters(), lr=lr, betas=self.recipe.adam_betas, eps=self.recipe.adam_eps, fused=True
        )

    def _loss_functions(self) -> dict[str, LossOf]:
        """Both losses as functions of (real, z, step)."""
        objective, gan = self.recipe.objective, self.gan
        discriminator_loss, generator_loss = (
            compile_losses(gan, objective)
            if self.options.compile
            else (partial(objective.discriminator_loss, gan), partial(objective.generator_loss, gan))
        )
        functions = {"discriminator": discriminator_loss, "generator": generator_loss}
        if self.world.is_alone:
            return functions
        networks = {"discriminator": gan.discriminator, "generator": gan.generator}
        return {name: self._distributed(networks[name], loss_of) for name, loss_of in functions.items()}

    def _distributed(self, network: nn.Module, loss_of: LossOf) -> DistributedDataParallel:
        device_ids = None if self.device == "cpu" else [torch.device(self.device)]
        module = _LossModule(network, loss_of)
        # Buffers are each process's own; torch 2.15 renames the argument.
        is_renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
        keep_own: dict[str, Any] = {"forward_sync_buffers" if is_renamed else "broadcast_buffers": False}
        return DistributedDataParallel(module, device_ids=device_ids, **keep_own)


class _LossModule(nn.Module):
    """A loss as a module that owns the network it trains; the other network stays outside, with no gradient."""

    def __init__(self, network: nn.Module, loss_of: LossOf) -> None:
        super().__init__()
        self.network = network
        self._loss_of = loss_of

    def forward(self, real: Tensor, z: Tensor, step: int) -> Loss:
        """real [b, 3, h, w], z [b, latent_dim] → loss."""
        return self._loss_of(real, z, step)


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """ema ← decay · ema + (1 - decay) · network for parameters; buffers are copied."""
    torch._foreach_lerp_(list(ema.parameters()), list(network.parameters()), 1 - decay)
    for averaged, buffer in zip(ema.buffers(), network.buffers(), strict=True):
        averaged.copy_(buffer)


def _mean(losses: list[Loss]) -> Loss:
    """Of the parts of one batch."""
    parts = {name: torch.stack([loss.parts[name] for loss in losses]).mean() for name in losses[0].parts}
    return Loss(torch.stack([loss.total.detach() for loss in losses]).mean(), parts)


def _named(network: str, loss: Loss) -> dict[str, Tensor]:
    parts = {f"{network}_{name}": part.detach() for name, part in loss.parts.items()}
    return {network: loss.total.detach(), **parts}
