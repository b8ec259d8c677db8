"""Images between uint8 and the networks' [-1, 1], generated images in batches, and the grid of samples.

Generated images are rounded to uint8 in memory, as every real image is, before any metric sees them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bench.datasets._spec import Images
from bench.training.randomness import latents


def to_networks(images: Images, device: str) -> Tensor:
    """uint8 [b, 3, h, w] → float32 in [-1, 1] on the device; uint8 travels, the device normalises."""
    return normalised(torch.from_numpy(images).to(device, non_blocking=True))


def normalised(images: Tensor) -> Tensor:
    """uint8 [b, 3, h, w] → float32 in [-1, 1], where they lie."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Images:
    """[b, 3, h, w] in [-1, 1], clipped → uint8 on the CPU, rounded to nearest."""
    levels = (images.float().clamp(-1, 1) + 1).mul(127.5).round()
    result: Images = levels.to(torch.uint8).cpu().numpy()
    return result


@torch.no_grad()
def generate(
    generator: nn.Module, *, latent_dim: int, seed: int, count: int, batch_size: int, device: str
) -> Iterator[Images]:
    """Images 0 … count - 1 of that seed, in batches of uint8 [b, 3, h, w]. The generator must be in eval mode."""
    for start in range(0, count, batch_size):
        z = latents(seed, start, min(batch_size, count - start), latent_dim)
        yield to_uint8(generator(z.to(device)))


def grid_png(images: Images) -> bytes:
    """uint8 [n, 3, h, w] → one PNG, rows of about √n images with a 2-pixel gap."""
    n, _, h, w = images.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    gap = 2
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = (index // columns) * (h + gap), (index % columns) * (w + gap)
        sheet[top : top + h, left : left + w] = image.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="PNG")
    return buffer.getvalue()
