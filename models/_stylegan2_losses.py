"""The losses of StyleGAN2: the logistic loss with lazy R1 (`models._losses`), and the path length penalty.

Why it exists: StyleGAN2 trains with both, and other style-based generators may.

Source: Karras et al., arXiv 1912.04958, section 3.2 (equation 4) and appendix B; written from the paper.

    (4)  E over w, y ~ N(0, I) of (‖J_wᵀ y‖ - a)²,   J_wᵀ y = ∇_w (g(w) · y),   a = running mean of the lengths

The scale: here y has variance 1 / (h w), and w is the styles of all 2 (log₂ r - 1) layers side by side, with the mean
square over layers in place of the sum. With weight 2 that is the paper's γ = ln 2 / (r² (ln r - ln 2)) =
1 / (r² (log₂ r - 1)) on ‖J_wᵀ y‖² with y ~ N(0, I), layers counted as arguments of their own; so it is defined under
style mixing too.

Deliberate differences:
* A lazy penalty is added to the loss of every k-th step, times k; the paper gives it an update of its own and lowers
  learning rate and betas for these k + 1 updates (c = k / (k + 1)). Without the extra update neither is needed.
* The penalty is taken on a share of the batch, by default a half. The paper does not say so; public codes do, for
  one rosinality/stylegan2-pytorch (MIT), option `--path_batch_shrink 2`, whose weight 2, interval 4 and mixing 0.9 are
  ours too: https://github.com/rosinality/stylegan2-pytorch/blob/0832b16f19b3029c937972252633e9b717a59293/train.py
* a is a constant to the derivative.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from models._losses import NonSaturatingR1, summed
from models._spec import Gan, Loss


class StyleBased(Protocol):
    """What the path length penalty asks of a generator; the buffer has no dimension and is updated here."""

    path_length_mean: Tensor

    def to_styles(self, z: Tensor) -> Tensor:
        """z [b, latent_dim] → styles [b, layers, style_width]."""
        ...

    def synthesise(self, styles: Tensor) -> Tensor:
        """styles [b, layers, style_width] → images [b, 3, h, w]."""
        ...


@dataclass(frozen=True, kw_only=True)
class PathLengthR1(NonSaturatingR1):
    """Non-saturating loss with lazy R1 and lazy path length penalty; implements `models._spec.Objective`.

    The generator is `StyleBased` where the path length penalty is on.

    Attributes:
        path_length_weight: of equation 4, in the scale of the file's description; 0 turns it off.
        path_length_interval: taken in every so many steps, weighted by as much.
        path_length_decay: weight of a new mean length in the running one.
        path_length_share: share of the batch it is taken on.
    """

    path_length_weight: float = 2.0
    path_length_interval: int = 4
    path_length_decay: float = 0.01
    path_length_share: float = 0.5

    @property
    def period(self) -> int:
        """Steps after which both penalties fall together again."""
        return math.lcm(self.r1_interval, self.path_length_interval)

    def generator_loss(self, gan: Gan, real: Tensor, z: Tensor, step: int) -> Loss:
        """z [b, latent_dim] → parts `fake` and, where due, `path_length`; they add up."""
        parts = {"fake": super().generator_loss(gan, real, z, step).total}
        if self.path_length_weight == 0 or step % self.path_length_interval:
            return summed(parts)
        share = z[: math.ceil(z.shape[0] * self.path_length_share)]
        generator = cast(StyleBased, gan.generator)
        lengths = path_lengths(generator, share)
        target = updated_mean(generator, lengths, self.path_length_decay)
        weight = self.path_length_weight * self.path_length_interval
        parts["path_length"] = weight * (lengths - target).square().mean()  # (4)
        return summed(parts)

    def without_penalty(self) -> PathLengthR1:
        """The same losses with both penalties off."""
        return dataclasses.replace(self, r1_weight=0.0, path_length_weight=0.0)


def path_lengths(generator: StyleBased, z: Tensor) -> Tensor:
    """‖J_wᵀ y‖ of each z [b, latent_dim], y drawn here: [b], differentiable."""
    styles = generator.to_styles(z)
    images = generator.synthesise(styles).to(z.dtype)
    directions = torch.randn_like(images) / math.sqrt(images.shape[2] * images.shape[3])
    with torch.autocast(images.device.type, enabled=False):  # the backward pass picks its own types
        (gradient,) = torch.autograd.grad((images * directions).sum(), styles, create_graph=True)
        return gradient.to(z.dtype).square().sum(dim=2).mean(dim=1).sqrt()


@torch.no_grad()
def updated_mean(generator: StyleBased, lengths: Tensor, decay: float) -> Tensor:
    """The running mean, moved towards the mean of lengths [b] and kept in the generator's buffer."""
    mean = generator.path_length_mean
    mean.lerp_(lengths.mean().to(mean.dtype), decay)
    return mean.clone()
