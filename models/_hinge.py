"""The hinge loss of a GAN: real images are pushed above a margin of 1, generated ones below -1.

Why it exists: SAGAN trains with it; any model may.

Source: Lim and Ye, "Geometric GAN", arXiv 1705.02894, section 4, as equation 4 of SAGAN writes it (arXiv 1805.08318):

    discriminator  E max(0, 1 - D(x)) + E max(0, 1 + D(G(z)))
    generator      - E D(G(z))

Difference: DiffAugment (arXiv 2006.10738) may be put before the discriminator, in both losses; SAGAN does not use it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models._losses import augmented_logits, augmented_pair, summed
from models._spec import Gan, Loss


@dataclass(frozen=True, kw_only=True)
class Hinge:
    """Hinge loss without a penalty; implements `models._spec.Objective`.

    Attributes:
        augmentations: DiffAugment policy in order, names of `models._augment.AUGMENTATIONS`.
    """

    augmentations: tuple[str, ...] = ()

    @property
    def period(self) -> int:
        """Every step is alike."""
        return 1

    def discriminator_loss(self, gan: Gan, real: Tensor, z: Tensor, step: int) -> Loss:
        """real [b, 3, h, w], z [b, latent_dim] → parts `real` and `fake`; they add up."""
        del step
        real, fake = augmented_pair(gan, real, z, self.augmentations)
        fake_loss = torch.relu(1 + gan.discriminator(fake)).mean()
        real_loss = torch.relu(1 - gan.discriminator(real)).mean()
        return summed({"real": real_loss, "fake": fake_loss})

    def generator_loss(self, gan: Gan, real: Tensor, z: Tensor, step: int) -> Loss:
        """z [b, latent_dim] → part `fake`, the loss itself; neither `real` nor `step` matters."""
        del real, step
        return summed({"fake": -augmented_logits(gan, z, self.augmentations).mean()})

    def without_penalty(self) -> Hinge:
        """Itself: there is none."""
        return self
