"""Tokens seen as an image and back, sinusoidal positions on a square grid, and the instance norm of tokens.

Why it exists: models that alternate attention with convolutions or resampling share these.

A square grid of tokens [b, n, c], row by row, is an image [b, c, s, s] in channels-last memory: both are views.

Sinusoidal positions: Vaswani et al., arXiv 1706.03762, section 3.5, once per axis of the grid. Models differ in how
they count steps and in their rates, so the angles are theirs.

Instance norm: Ulyanov et al., arXiv 1607.08022, equation 2, for tokens: every channel of an image is normalised over
its tokens. Difference: torch's own wants channels first and would copy twice; this one needs no copy.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPS = 1e-5  # torch's default


def as_image(x: Tensor) -> Tensor:
    """Tokens [b, s·s, c] → image [b, c, s, s]."""
    b, n, c = x.shape
    side = math.isqrt(n)
    return x.transpose(1, 2).reshape(b, c, side, side)


def as_tokens(x: Tensor) -> Tensor:
    """Image [b, c, h, w] → tokens [b, h·w, c]."""
    return x.flatten(2).transpose(1, 2)


def sinusoids_of_grid(angles: Tensor) -> Tensor:
    """Sines and cosines of an angle per step and rate [s, r], of a place's column and then its row: [s·s, 4 r]."""
    line = torch.cat((angles.sin(), angles.cos()), dim=1)  # [s, 2 r]
    side = angles.shape[0]
    of_column, of_row = line[None].expand(side, -1, -1), line[:, None].expand(-1, side, -1)
    return torch.cat((of_column, of_row), dim=2).flatten(0, 1)


def instance_norm(x: Tensor) -> Tensor:
    """Tokens [b, n, c] → float32 tokens whose channels have mean 0 and variance 1 in every image."""
    x = x.float()
    x = x - x.mean(dim=1, keepdim=True)
    variance = x.square().mean(dim=1, keepdim=True)  # torch.var takes three times as long over this dim on a CPU
    return x * torch.rsqrt(variance + EPS)
