"""Every random draw is a function of (seed, purpose, position), so a run can be repeated and a step can be repeated.

Latents are drawn once per index from a CPU generator: an image does not depend on batch size or device.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.datasets._spec import Indices


def derive_seed(seed: int, purpose: str, position: int = 0) -> int:
    """A 63-bit seed for one purpose at one position; distinct inputs give unrelated seeds."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{position}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def latents(seed: int, start: int, count: int, latent_dim: int) -> Tensor:
    """z for images start … start + count - 1: float32 [count, latent_dim] on the CPU, z ~ N(0, I)."""
    generator = torch.Generator()
    rows = []
    for index in range(start, start + count):
        generator.manual_seed(derive_seed(seed, "latent", index))
        rows.append(torch.randn(latent_dim, generator=generator))
    return torch.stack(rows)


def training_order(num_images: int, seed: int, start: int, count: int) -> Indices:
    """Indices [count] of the images shown at positions start … start + count - 1.

    Every epoch is a fresh permutation of all images; the order is a pure function of images shown.
    """
    parts = []
    while count > 0:
        epoch, offset = divmod(start, num_images)
        part = _permutation(num_images, seed, epoch)[offset : offset + count]
        parts.append(part)
        start, count = start + len(part), count - len(part)
    return np.concatenate(parts)


def fixed_selection(num_images: int, count: int) -> Indices:
    """`count` of the indices below `num_images` (all where there are fewer): the same ones for every run and seed."""
    return np.sort(_permutation(num_images, 0, -1)[:count])


@lru_cache(maxsize=2)
def _permutation(num_images: int, seed: int, epoch: int) -> NDArray[np.int64]:
    stream = np.random.Generator(np.random.Philox(derive_seed(seed, f"order of {num_images}", epoch)))
    return stream.permutation(num_images)
