"""Where tokens stand: windows of a grid, a learned vector per place, and a learned bias per offset inside a window.

Why it exists: attention inside windows is how TransGAN, StyleSwin and HiT stay affordable at many pixels; the first two
add a bias per offset to the scores, TransGAN and HiT a vector per place to the tokens.

Source: the bias is B of Liu et al., "Swin Transformer", arXiv 2103.14030, equation 4, which TransGAN (arXiv 2102.07074,
section 3.4) uses as well: for a window of w × w tokens and a table T of (2w - 1)² entries per head,

    bias[i, j] = T[y_i - y_j + w - 1, x_i - x_j + w - 1]

so that two pairs of tokens with the same offset share one number. Written from the papers.

Difference: public codes look T up through a stored index of n² integers. The offsets of a square form a Toeplitz
pattern, so the same bias is a sliding-window view of T that is mirrored once: no buffer, no scattered additions in the
backward pass, and the same result on every run.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PositionEmbedding(nn.Module):
    """Adds one learned vector per place: x [b, *shape] → [b, *shape].

    Args:
        shape: of the tokens, their width last.
        std: it starts as N(0, std), truncated at two deviations; None: the model's own initialisation fills it.
    """

    def __init__(self, *shape: int, std: float | None = 0.02) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        if std is not None:
            nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)

    def forward(self, x: Tensor) -> Tensor:
        """x [b, *shape] → [b, *shape]."""
        return x + self.weight


class RelativePositionBias(nn.Module):
    """One learned number per head and offset in a square window of tokens in row-major order.

    Args:
        window_size: tokens per side, w.
        num_heads: heads h.
    """

    def __init__(self, window_size: int, num_heads: int) -> None:
        super().__init__()
        self.window_size = window_size
        num_offsets = 2 * window_size - 1
        self.table = nn.Parameter(torch.empty(num_heads, num_offsets, num_offsets))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self) -> Tensor:
        """→ what to add to the scores: [h, n, n] with n = w², query first."""
        size = self.window_size
        views = self.table.unfold(1, size, 1).unfold(2, size, 1)  # [h, w, w, w, w]: T[a + c, b + d]
        # a and b are the query's row and column; with c = w - 1 - y_j the sum is the offset, hence the mirroring
        return views.flip(3, 4).reshape(-1, size * size, size * size)


def to_windows(x: Tensor, window_size: int) -> Tensor:
    """Cut a grid of tokens [b, h, w, c] into windows: [b, windows, window_size², c], all in row-major order.

    A grid that is one window stays a view. The height and the width must be multiples of the window's size.
    """
    b, height, width, channels = x.shape
    rows, columns = height // window_size, width // window_size
    x = x.reshape(b, rows, window_size, columns, window_size, channels).transpose(2, 3)
    return x.reshape(b, rows * columns, window_size * window_size, channels)


def from_windows(x: Tensor, window_size: int, num_columns: int) -> Tensor:
    """Undo `to_windows`: [b, windows, window_size², c] → [b, h, w, c], `num_columns` windows side by side."""
    b, num_windows, _, channels = x.shape
    rows = num_windows // num_columns
    x = x.reshape(b, rows, num_columns, window_size, window_size, channels).transpose(2, 3)
    return x.reshape(b, rows * window_size, num_columns * window_size, channels)
