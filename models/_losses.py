"""The losses of the zoo: the logistic one with R1 (LadaGAN's), and the Wasserstein one with a gradient penalty.

`NonSaturatingR1`: the logistic GAN loss with R1, DiffAugment and balanced consistency, usable by others than LadaGAN.

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

`WassersteinGradientPenalty`: the critic's loss of Gulrajani et al., arXiv 1704.00028, algorithm 1 and equation 3, with
the drift term of Karras et al., arXiv 1710.10196, appendix A.1 (written from the papers). Differences: a critic may say
several numbers of an image, and the penalty is taken on their sum; the length of a zero gradient has derivative 0,
where the formula has none. How many critic updates go with one of the generator is the recipe's business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models._augment import diff_augment
from models._spec import Gan, Loss


@dataclass(frozen=True, kw_only=True)
class NonSaturatingR1:
    """Non-saturating logistic loss with R1; implements `models._spec.Objective`.

    Attributes:
        r1_weight: of E‖∇ Σ D(x)‖², without ½.
        r1_interval: R1 is taken in every so many steps, weighted by as much (lazy, arXiv 1912.04958, appendix B).
        augmentations: DiffAugment policy in order, names of `models._augment.AUGMENTATIONS`.
        bcr_real_weight, bcr_fake_weight: of the mean squared change of a logit under augmentation; 0 and 0 turn
            balanced consistency off, and with it on the losses see un-augmented images.
    """

    r1_weight: float
    r1_interval: int = 1
    augmentations: tuple[str, ...] = ()
    bcr_real_weight: float = 0.0
    bcr_fake_weight: float = 0.0

    @property
    def uses_bcr(self) -> bool:
        """Whether balanced consistency is on."""
        return self.bcr_real_weight > 0 or self.bcr_fake_weight > 0

    @property
    def period(self) -> int:
        """Steps from one penalty to the next."""
        return self.r1_interval

    def discriminator_loss(self, gan: Gan, real: Tensor, z: Tensor, step: int) -> Loss:
        """real [b, 3, h, w], z [b, latent_dim] → parts `real`, `fake` and, where due, `r1` and `bcr`; they add up."""
        is_r1_due = self.r1_weight > 0 and step % self.r1_interval == 0
        with torch.no_grad():
            fake = gan.generator(z)
            real_seen, fake_seen = (real, fake) if self.uses_bcr else (self._augment(real), self._augment(fake))
        real_seen = real_seen.detach().requires_grad_(is_r1_due)
        fake_logits = gan.discriminator(fake_seen)
        real_logits = gan.discriminator(real_seen)
        parts = {
            "real": functional.softplus(-real_logits).mean(),
            "fake": functional.softplus(fake_logits).mean(),
        }
        if is_r1_due:
            parts["r1"] = self.r1_weight * self.r1_interval * squared_gradient_norm(real_logits, real_seen)
        if self.uses_bcr:
            parts["bcr"] = self._consistency(gan, (real, real_logits), (fake, fake_logits))
        return summed(parts)

    def generator_loss(self, gan: Gan, real: Tensor, z: Tensor, step: int) -> Loss:
        """z [b, latent_dim] → part `fake`, the loss itself; neither `real` nor `step` matters."""
        del real, step
        fake = gan.generator(z)
        logits = gan.discriminator(fake if self.uses_bcr else self._augment(fake))
        return summed({"fake": functional.softplus(-logits).mean()})

    def without_penalty(self) -> NonSaturatingR1:
        """The same losses with R1 off."""
        return dataclasses.replace(self, r1_weight=0.0)

    def _augment(self, images: Tensor) -> Tensor:
        return diff_augment(images, self.augmentations)

    def _consistency(self, gan: Gan, real: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor]) -> Tensor:
        """(images, their logits) of each kind → weighted squared change; both logits of a pair carry gradient."""
        (real_images, real_logits), (fake_images, fake_logits) = real, fake
        real_again, fake_again = self._judged_again(gan, real_images, fake_images)
        real_change = functional.mse_loss(real_again, real_logits)
        fake_change = functional.mse_loss(fake_again, fake_logits)
        return self.bcr_real_weight * real_change + self.bcr_fake_weight * fake_change

    def _judged_again(self, gan: Gan, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of augmented real and generated images [b, 3, h, w] each, here from one pass of both."""
        real_again, fake_again = gan.discriminator(torch.cat([self._augment(real), self._augment(fake)])).chunk(2)
        return real_again, fake_again


@dataclass(frozen=True, kw_only=True)
class WassersteinGradientPenalty:
    """Critic loss with a gradient penalty in every step (WGAN-GP); implements `models._spec.Objective`.

    Attributes:
        penalty_weight: λ of λ E(‖∇ D(x̂)‖ - 1)², x̂ uniform between a real and a generated image; 0 turns it off.
        drift_weight: ε of ε E D(x)², which keeps the critic's level near 0; 0 turns it off.
        augmentations: DiffAugment policy in order, names of `models._augment.AUGMENTATIONS`.
    """

    penalty_weight: float = 10.0
    drift_weight: float = 0.0
    augmentations: tuple[str, ...] = ()

    @property
    def period(self) -> int:
        """Every step is alike."""
        return 1

    def discriminator_loss(self, gan: Gan, real: Tensor, z: Tensor, step: int) -> Loss:
        """real [b, 3, h, w], z [b, latent_dim] → `real`, `fake`, where on `gradient_penalty`, `drift`; they add up."""
        del step
        real, fake = augmented_pair(gan, real, z, self.augmentations)
        fake_logits = gan.discriminator(fake)
        real_logits = gan.discriminator(real)
        parts = {"real": -real_logits.mean(), "fake": fake_logits.mean()}
        if self.penalty_weight > 0:
            mixing = torch.rand(real.shape[0], 1, 1, 1, dtype=real.dtype, device=real.device)
            between = torch.lerp(fake, real, mixing).requires_grad_()
            excess = gradient_norms(gan.discriminator(between), between) - 1  # [b]
            parts["gradient_penalty"] = self.penalty_weight * excess.square().mean()
        if self.drift_weight > 0:
            parts["drift"] = self.drift_weight * real_logits.square().mean()
        return summed(parts)

    def generator_loss(self, gan: Gan, real: Tensor, z: Tensor, step: int) -> Loss:
        """z [b, latent_dim] → part `fake`, the loss itself; neither `real` nor `step` matters."""
        del real, step
        return summed({"fake": -augmented_logits(gan, z, self.augmentations).mean()})

    def without_penalty(self) -> WassersteinGradientPenalty:
        """The same losses with the gradient penalty off; the drift term stays."""
        return dataclasses.replace(self, penalty_weight=0.0)


@torch.no_grad()
def augmented_pair(gan: Gan, real: Tensor, z: Tensor, augmentations: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Real images [b, 3, h, w] and those of z [b, latent_dim], augmented with draws of their own, without gradient."""
    return diff_augment(real, augmentations), diff_augment(gan.generator(z), augmentations)


def augmented_logits(gan: Gan, z: Tensor, augmentations: Sequence[str]) -> Tensor:
    """What the discriminator says of the augmented images of z [b, latent_dim]: logits [b, ...], differentiable."""
    logits: Tensor = gan.discriminator(diff_augment(gan.generator(z), augmentations))
    return logits


def gradient_norms(logits: Tensor, images: Tensor) -> Tensor:
    """‖∇ Σ logits‖ of each image: [b], differentiable.

    Args:
        logits: what the discriminator said of `images`, in one pass.
        images: [b, c, h, w], the very tensor that pass was given; requires gradient.
    """
    with torch.autocast(images.device.type, enabled=False):  # as in `squared_gradient_norm`
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        norms: Tensor = torch.linalg.vector_norm(gradient, dim=(1, 2, 3))
        return norms


def squared_gradient_norm(logits: Tensor, images: Tensor) -> Tensor:
    """Mean over images of ‖∇ Σ logits‖²: R1 of arXiv 1801.04406 without its γ/2, itself differentiable.

    Args:
        logits: what the discriminator said of `images`, in one pass.
        images: [b, c, h, w], the very tensor that pass was given; requires gradient.
    """
    with torch.autocast(images.device.type, enabled=False):  # the backward pass picks its own types; squares in fp32
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return gradient.square().sum(dim=(1, 2, 3)).mean()


def summed(parts: dict[str, Tensor]) -> Loss:
    """The loss that is the sum of its parts, scalars that carry gradient; every loss of the zoo is made here."""
    total = torch.stack(tuple(parts.values())).sum()
    return Loss(total, {name: part.detach() for name, part in parts.items()})
