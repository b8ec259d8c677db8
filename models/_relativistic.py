"""The relativistic pairing loss with zero-centred gradient penalties on real and on generated images (RpGAN + R1 + R2).

Why it exists: it is what R3GAN trains with. A generated image is judged against a real one instead of against a fixed
decision boundary, so no part of the data can be given up without loss; the two penalties make the game converge.

Sources: Huang et al., "The GAN is dead; long live the GAN! A modern GAN baseline", arXiv 2501.05441, equation 2 (the
pairing loss of Jolicoeur-Martineau, arXiv 1807.00734) and equation 3 (both penalties); R1 and R2 of Mescheder et al.,
arXiv 1801.04406. Written from the papers. With f(t) = softplus(-t), x real, y = G(z):

    (2)  L_D = E f(D(x) - D(y)),   L_G = E f(D(y) - D(x))
    (3)  R1 = γ/2 E ‖∇ D(x)‖²,     R2 = γ/2 E ‖∇ D(y)‖²,   in every step

γ falls along half a cosine during a burn-in and then stays; so do the authors.

Deliberate differences: images are paired in the order of the batch, one to one; the gradients are taken at the image
the discriminator saw, so after the augmentation where there is one.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models._augment import diff_augment
from models._losses import augmented_logits, augmented_pair, squared_gradient_norm, summed
from models._spec import Gan, Loss


@dataclass(frozen=True, kw_only=True)
class RelativisticPairing:
    """RpGAN with R1 and R2 in every step; implements `models._spec.Objective`.

    Attributes:
        gamma: γ of γ/2 E‖∇ D‖² once the burn-in is over; 0 turns both penalties off.
        first_gamma: γ at step 0; None starts with `gamma`.
        num_burn_in_steps: steps until γ has come down from `first_gamma` to `gamma`.
        augmentations: DiffAugment policy in order, names of `models._augment.AUGMENTATIONS`.
    """

    gamma: float
    first_gamma: float | None = None
    num_burn_in_steps: int = 0
    augmentations: tuple[str, ...] = ()

    @property
    def period(self) -> int:
        """Both penalties are taken in every step."""
        return 1

    def gamma_at(self, step: int) -> float:
        """γ of that step: half a cosine from `first_gamma` to `gamma`."""
        if self.first_gamma is None or step >= self.num_burn_in_steps:
            return self.gamma
        share_left = (1 + math.cos(math.pi * step / self.num_burn_in_steps)) / 2
        return self.gamma + (self.first_gamma - self.gamma) * share_left

    def discriminator_loss(self, gan: Gan, real: Tensor, z: Tensor, step: int) -> Loss:
        """real [b, 3, h, w], z [b, latent_dim] → parts `pairing` and, where on, `r1` and `r2`; they add up."""
        real, fake = augmented_pair(gan, real, z, self.augmentations)
        gamma = self.gamma_at(step)
        real, fake = (images.detach().requires_grad_(gamma > 0) for images in (real, fake))
        real_logits, fake_logits = gan.discriminator(real), gan.discriminator(fake)
        parts = {"pairing": functional.softplus(fake_logits - real_logits).mean()}
        if gamma > 0:
            parts["r1"] = gamma / 2 * squared_gradient_norm(real_logits, real)
            parts["r2"] = gamma / 2 * squared_gradient_norm(fake_logits, fake)
        return summed(parts)

    def generator_loss(self, gan: Gan, real: Tensor, z: Tensor, step: int) -> Loss:
        """z [b, latent_dim] against real [b, 3, h, w] → part `pairing`, the loss itself; `step` does not matter."""
        del step
        fake_logits = augmented_logits(gan, z, self.augmentations)
        with torch.no_grad():
            real_logits = gan.discriminator(diff_augment(real, self.augmentations))
        return summed({"pairing": functional.softplus(real_logits - fake_logits).mean()})

    def without_penalty(self) -> RelativisticPairing:
        """The same loss with R1 and R2 off."""
        return dataclasses.replace(self, gamma=0.0, first_gamma=None)
