"""StyleSwin's losses: the logistic ones with lazy R1 of `_losses`, and balanced consistency as that model takes it.

Why it exists: StyleSwin's balanced consistency differs from LadaGAN's in two things that matter to it.

Source: `train_styleswin.py` and `utils/CRDiffAug.py` of the official code (MIT; facts were read there, see
`styleswin.py` for the link):

* Real and generated images are augmented and judged in passes of their own. The discriminator compares the images of a
  pass with one another (minibatch standard deviation), so a mixed pass would not be judged as the clean ones are.
* Before translation, colour and cutout an image is mirrored, with probability ½.

Difference: R1 is part of the step's loss, with the pass whose logits the loss uses; the official code takes a second
optimiser step for it, and corrects Adam's settings for these extra steps (arXiv 1912.04958, appendix B). With one step
there is nothing to correct.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models._augment import diff_augment
from models._losses import NonSaturatingR1
from models._spec import Gan


@dataclass(frozen=True, kw_only=True)
class SeparateConsistency(NonSaturatingR1):
    """`NonSaturatingR1` whose consistency passes are separate and mirror images at random."""

    def _augment(self, images: Tensor) -> Tensor:
        return diff_augment(mirrored_at_random(images), self.augmentations)

    def _judged_again(self, gan: Gan, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of augmented real and generated images [b, 3, h, w] each, from a pass each, generated ones first."""
        fake_again: Tensor = gan.discriminator(self._augment(fake))
        real_again: Tensor = gan.discriminator(self._augment(real))
        return real_again, fake_again


def mirrored_at_random(images: Tensor) -> Tensor:
    """Images [b, c, h, w], each with probability ½ mirrored left to right."""
    is_mirrored = torch.rand(images.shape[0], 1, 1, 1, device=images.device) < 0.5
    return torch.where(is_mirrored, images.flip(3), images)
