"""The logistic GAN loss with R1, DiffAugment and balanced consistency: LadaGAN's two losses, usable by others.

Sources: non-saturating loss, Goodfellow et al., arXiv 1406.2661; R1, Mescheder et al., arXiv 1801.04406; balanced
consistency (bCR), Zhao et al., arXiv 2002.04724; how they are put together, `train_step` of `tensorflow/trainer.py`:
https://github.com/milmor/LadaGAN/blob/eb3ed9c53c4f4b2775aaee034d991075f670af0d/tensorflow/trainer.py
(MIT; facts were read there, the code is ours). The official code, followed here, because a batch norm in the
discriminator makes it matter which images share a forward pass:

* Generated and real images go through the discriminator in two passes, generated first. R1 differentiates the very
  pass whose logits the loss uses.
* Without bCR every image is augmented first, with draws of its own; R1 is taken at the augmented real image.
* With bCR loss and R1 see the images as they are; a third pass sees augmented real and generated images in one batch,
  and the squared difference from the logits of the clean pass is added. The generator's loss is not augmented.

Difference: the official code weighs both consistency terms alike; here they are two numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models._augment import diff_augment
from models._spec import Gan, Loss


@dataclass(frozen=True, kw_only=True)
class NonSaturatingR1:
    """Non-saturating logistic loss with R1 in every step; implements `models._spec.Objective`.

    Attributes:
        r1_weight: of E‖∇ Σ D(x)‖², without ½.
        augmentations: DiffAugment policy in order, from `color`, `translation`, `cutout`.
        bcr_real_weight, bcr_fake_weight: of the mean squared change of a logit under augmentation; 0 and 0 turn
            balanced consistency off, and with it on the losses see un-augmented images.
    """

    r1_weight: float
    augmentations: tuple[str, ...] = ()
    bcr_real_weight: float = 0.0
    bcr_fake_weight: float = 0.0

    @property
    def uses_bcr(self) -> bool:
        """Whether balanced consistency is on."""
        return self.bcr_real_weight > 0 or self.bcr_fake_weight > 0

    def discriminator_loss(self, gan: Gan, real: Tensor, z: Tensor) -> Loss:
        """real [b, 3, h, w], z [b, latent_dim] → parts `real`, `fake`, `r1` and, where it is on, `bcr`; they add up."""
        with torch.no_grad():
            fake = gan.generator(z)
            real_seen, fake_seen = (real, fake) if self.uses_bcr else (self._augment(real), self._augment(fake))
        real_seen = real_seen.detach().requires_grad_()
        fake_logits = gan.discriminator(fake_seen)
        real_logits = gan.discriminator(real_seen)
        parts = {
            "real": functional.softplus(-real_logits).mean(),
            "fake": functional.softplus(fake_logits).mean(),
            "r1": self.r1_weight * squared_gradient_norm(real_logits, real_seen),
        }
        if self.uses_bcr:
            parts["bcr"] = self._consistency(gan, (real, real_logits), (fake, fake_logits))
        return _sum_of(parts)

    def generator_loss(self, gan: Gan, z: Tensor) -> Loss:
        """z [b, latent_dim] → part `fake`, the loss itself."""
        fake = gan.generator(z)
        logits = gan.discriminator(fake if self.uses_bcr else self._augment(fake))
        return _sum_of({"fake": functional.softplus(-logits).mean()})

    def _augment(self, images: Tensor) -> Tensor:
        return diff_augment(images, self.augmentations)

    def _consistency(self, gan: Gan, real: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor]) -> Tensor:
        """(images, their logits) of each kind → weighted squared change; both logits of a pair carry gradient."""
        (real_images, real_logits), (fake_images, fake_logits) = real, fake
        augmented = torch.cat([self._augment(real_images), self._augment(fake_images)])
        real_again, fake_again = gan.discriminator(augmented).chunk(2)
        real_change = functional.mse_loss(real_again, real_logits)
        fake_change = functional.mse_loss(fake_again, fake_logits)
        return self.bcr_real_weight * real_change + self.bcr_fake_weight * fake_change


def squared_gradient_norm(logits: Tensor, images: Tensor) -> Tensor:
    """Mean over images of ‖∇ Σ logits‖²: R1 of arXiv 1801.04406 without its γ/2, itself differentiable.

    Args:
        logits: what the discriminator said of `images`, in one pass.
        images: [b, c, h, w], the very tensor that pass was given; requires gradient.
    """
    with torch.autocast(images.device.type, enabled=False):  # the backward pass picks its own types; squares in fp32
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return gradient.square().sum(dim=(1, 2, 3)).mean()


def _sum_of(parts: dict[str, Tensor]) -> Loss:
    total = torch.stack(tuple(parts.values())).sum()
    return Loss(total, {name: part.detach() for name, part in parts.items()})
