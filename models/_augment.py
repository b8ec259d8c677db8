"""DiffAugment: the same kind of random change for real and generated images, differentiable in the pixels.

Why it exists: a discriminator that sees little data memorises it; shown changed images, it cannot (LadaGAN, TransGAN).

Source: Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", arXiv 2006.10738 (their code:
BSD 2-clause), with the constants of the copy LadaGAN trains with, `tensorflow/diffaug.py`:
https://github.com/milmor/LadaGAN/blob/eb3ed9c53c4f4b2775aaee034d991075f670af0d/tensorflow/diffaug.py
The code is ours. One random draw per image and function:

* color: brightness + U(-0.5, 0.5); saturation × U(0, 2) about the pixel's mean over channels; contrast × U(0.5, 1.5)
  about the image's mean; in this order.
* translation: by a whole number of pixels, uniform up to ±1/8 of each side (rounded half up); zeros come in.
* cutout: a square of half the side, its centre uniform over the image, is set to zero; it may stick out of the image.

Two are ours, for discriminators whose batch norm hides the contrast of a whole batch (LadaGAN's, whose layers before
the first batch norm have no bias, so that images of half the contrast become the same features):

* mild_color: as color, with saturation × U(0.5, 1.5) and contrast × U(0.75, 1.25), so that more of both is left to see.
* bordered_translation: as translation, but black (-1) or white (1) comes in, one of the two per image. The border is a
  level that no generator moves, and every contrast is seen beside it.

Differences: the three colour functions are one expression, equal up to rounding. Derivatives of any order exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def diff_augment(x: Tensor, policy: Sequence[str]) -> Tensor:
    """Images [b, c, h, w] → images of the same shape, changed by each named function in the order of `policy`.

    Draws from torch's global generator of the images' device.

    Raises:
        ValueError: a name that `AUGMENTATIONS` lacks.
    """
    for name in policy:
        if name not in AUGMENTATIONS:
            raise ValueError(f"Unknown augmentation '{name}'; known: {', '.join(AUGMENTATIONS)}.")
        x = AUGMENTATIONS[name](x)
    return x


def color(x: Tensor) -> Tensor:
    """Brightness, saturation and contrast of images [b, c, h, w].

    With the draws β, s, k, the channel mean m of a pixel and the mean M of an image, the three steps
    x₁ = x + β, x₂ = (x₁ - m₁) s + m₁, x₃ = (x₂ - M₂) k + M₂ have m₁ = m + β and M₂ = M + β, hence
    x₃ = k s x + k (1 - s) m + (1 - k) M + β.
    """
    brightness, saturation, contrast = torch.rand(3, x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device)
    return _recoloured(x, brightness - 0.5, saturation * 2, contrast + 0.5)


def mild_color(x: Tensor) -> Tensor:
    """As `color`, with half the range of saturation and contrast."""
    brightness, saturation, contrast = torch.rand(3, x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device)
    return _recoloured(x, brightness - 0.5, saturation + 0.5, contrast * 0.5 + 0.75)


def translation(x: Tensor) -> Tensor:
    """Shift images [b, c, h, w] by up to an eighth of their side."""
    for dim in (2, 3):
        x = _shifted(x, dim, _uniform_int(x, -_rounded(x.shape[dim], 0.125), _rounded(x.shape[dim], 0.125)))
    return x


def bordered_translation(x: Tensor) -> Tensor:
    """Shift images [b, c, h, w] in [-1, 1] as `translation` does, with a black or white border coming in."""
    border = _uniform_int(x, 0, 1).to(x.dtype).mul(2).sub(1).view(-1, 1, 1, 1)
    return translation(x - border) + border


def cutout(x: Tensor) -> Tensor:
    """Set a square of half the side to zero in images [b, c, h, w]."""
    inside_rows, inside_columns = _inside_cut(x, 2), _inside_cut(x, 3)  # [b, h], [b, w]
    keep = ~(inside_rows[:, :, None] & inside_columns[:, None, :])
    return x * keep.unsqueeze(1)


AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "color": color,
    "mild_color": mild_color,
    "translation": translation,
    "bordered_translation": bordered_translation,
    "cutout": cutout,
}


def _recoloured(x: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Images [b, c, h, w] and what is drawn for each, [b, 1, 1, 1]; see `color`."""
    pixel_mean = x.mean(dim=1, keepdim=True)  # [b, 1, h, w]
    image_mean = pixel_mean.mean(dim=(2, 3), keepdim=True)  # [b, 1, 1, 1]
    grey = contrast * (1 - saturation) * pixel_mean + ((1 - contrast) * image_mean + brightness)  # [b, 1, h, w]
    return torch.addcmul(grey, x, contrast * saturation)


def _shifted(x: Tensor, dim: int, shift: Tensor) -> Tensor:
    """y[…, i, …] = x[…, i + shift, …] along `dim`, zero where that lies outside; one shift [b] per image."""
    size = x.shape[dim]
    source = torch.arange(size, device=x.device) + shift[:, None]  # [b, size]
    inside = (source >= 0) & (source < size)
    shape = [x.shape[0], 1, 1, 1]
    shape[dim] = size
    index = source.clamp(0, size - 1).view(shape).expand_as(x)
    return x.gather(dim, index) * inside.view(shape)


def _inside_cut(x: Tensor, dim: int) -> Tensor:
    """Which rows (dim 2) or columns (dim 3) the cut covers: [b, size], bool."""
    size = x.shape[dim]
    cut = _rounded(size, 0.5)
    first = _uniform_int(x, 0, size - cut % 2) - cut // 2
    offset = torch.arange(size, device=x.device) - first[:, None]
    return (offset >= 0) & (offset < cut)


def _rounded(size: int, ratio: float) -> int:
    return int(size * ratio + 0.5)


def _uniform_int(x: Tensor, low: int, high: int) -> Tensor:
    """One integer per image, uniform from `low` to `high`, both included: [b]."""
    return torch.randint(low, high + 1, (x.shape[0],), device=x.device)
