"""One optimiser step of a GAN: discriminator, generator, moving average. Every model is trained by these lines.

The moving average (EMA) runs from step 0 and copies buffers as well as parameters: batch-norm statistics matter once a
generator has batch norm.
"""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import Tensor, nn

from bench.records import Precision
from bench.training.randomness import derive_seed
from models._spec import Gan, Loss, Recipe


class Trainer:
    """The state of a training run and its step.

    Args:
        gan: the two networks, on any device; they are moved.
        recipe: optimiser settings, EMA decay and losses.
        device: torch device.
        precision: `bf16` runs the networks under autocast; parameters and optimiser stay in float32.
        seed: every step reseeds torch from (seed, images shown), so a step does not depend on those before it.
    """

    def __init__(self, gan: Gan, recipe: Recipe, *, device: str, precision: Precision, seed: int) -> None:
        self.gan = dataclasses.replace(
            gan, generator=gan.generator.to(device).train(), discriminator=gan.discriminator.to(device).train()
        )
        self.ema = copy.deepcopy(self.gan.generator).eval().requires_grad_(False)
        self.recipe = recipe
        self.device = device
        self.precision = precision
        self.seed = seed
        self.num_images_shown = 0
        self.num_steps = 0
        self._generator_optimiser = self._adam(self.gan.generator, recipe.generator_lr)
        self._discriminator_optimiser = self._adam(self.gan.discriminator, recipe.discriminator_lr)

    def step(self, real: Tensor) -> dict[str, Tensor]:
        """One discriminator update on real [b, 3, h, w] in [-1, 1], and the generator's where one is due.

        Returns:
            losses, detached, on the device: `discriminator`, `generator` (totals), and each part as
            `discriminator_<part>`, `generator_<part>`; the generator's only from a step that updated it.
        """
        torch.manual_seed(derive_seed(self.seed, "step", self.num_images_shown))
        batch_size = real.shape[0]

        # Discriminator
        with self.autocast():
            z = self._latents(batch_size)
            d_loss = self.recipe.objective.discriminator_loss(self.gan, real, z, self.num_steps)
        self._update(self._discriminator_optimiser, d_loss)
        losses = _named("discriminator", d_loss)
        self.num_images_shown += batch_size
        self.num_steps += 1
        if self.num_steps % self.recipe.num_discriminator_steps:
            return losses

        # Generator; the discriminator's weight gradients are not needed
        self.gan.discriminator.requires_grad_(False)
        with self.autocast():
            z = self._latents(batch_size)
            g_step = self.num_steps // self.recipe.num_discriminator_steps - 1
            g_loss = self.recipe.objective.generator_loss(self.gan, real, z, g_step)
        self._update(self._generator_optimiser, g_loss)
        self.gan.discriminator.requires_grad_(True)

        # Moving average
        update_ema(self.ema, self.gan.generator, self.recipe.ema_decay)
        return losses | _named("generator", g_loss)

    @property
    def period(self) -> int:
        """Steps after which the pattern of updates and penalties repeats."""
        return self.recipe.objective.period * self.recipe.num_discriminator_steps

    def _latents(self, batch_size: int) -> Tensor:
        return torch.randn(batch_size, self.gan.latent_dim, device=self.device)

    def update_both(self) -> None:
        """Both optimisers' update from the gradients as they stand: a part of `step`, for replaying it alone."""
        self._discriminator_optimiser.step()
        self._generator_optimiser.step()

    def autocast(self) -> torch.autocast:
        """The context the losses are computed in."""
        return torch.autocast(
            torch.device(self.device).type, dtype=torch.bfloat16, enabled=self.precision == "bf16", cache_enabled=True
        )

    def _adam(self, network: nn.Module, lr: float) -> torch.optim.Adam:
        return torch.optim.Adam(
            network.parameters(), lr=lr, betas=self.recipe.adam_betas, eps=self.recipe.adam_eps, fused=True
        )

    def _update(self, optimiser: torch.optim.Optimizer, loss: Loss) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.total.backward()  # type: ignore[no-untyped-call]
        if self.recipe.max_gradient_norm is not None:
            nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], self.recipe.max_gradient_norm)
        optimiser.step()


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """ema ← decay · ema + (1 - decay) · network for parameters; buffers are copied."""
    torch._foreach_lerp_(list(ema.parameters()), list(network.parameters()), 1 - decay)
    for averaged, buffer in zip(ema.buffers(), network.buffers(), strict=True):
        averaged.copy_(buffer)


def _named(network: str, loss: Loss) -> dict[str, Tensor]:
    parts = {f"{network}_{name}": part.detach() for name, part in loss.parts.items()}
    return {network: loss.total.detach(), **parts}
