"""Tokens seen as an image and back, and the instance norm of tokens.

Why it exists: models that alternate attention with convolutions or resampling (StyleSwin, Styleformer) share these.

A square grid of tokens [b, n, c], row by row, is an image [b, c, s, s] in channels-last memory: both are views.

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


def instance_norm(x: Tensor) -> Tensor:
    """Tokens [b, n, c] → float32 tokens whose channels have mean 0 and variance 1 in every image."""
    x = x.float()
    x = x - x.mean(dim=1, keepdim=True)
    variance = x.square().mean(dim=1, keepdim=True)  # torch.var takes three times as long over this dim on a CPU
    return x * torch.rsqrt(variance + EPS)
