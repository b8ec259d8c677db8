"""Softmax attention inside the square windows of a grid, plain or shifted, with a relative position bias.

Why it exists: it is StyleSwin's operator; whatever else attends in windows can use it.

Source: Liu et al., "Swin Transformer", arXiv 2103.14030, section 3.2 (shifted windows; equation 4, the bias), as Zhang
et al., "StyleSwin", arXiv 2112.10762, use it. For the n = w² tokens of one window, one head of width d, and the bias B
of `_relative_position`:

    y = softmax(q kᵀ / √d + B) v

A shift rolls the grid, so that all windows keep n tokens; a window at the far edges then holds tokens from both sides
of the grid, which are hidden from one another. Multiply-accumulates per image: 2 n c for each of the N tokens of width
c, linear in N.

Differences from the official codes: what is hidden gets -∞ where they add -100, so that nothing at all leaks. The
product is written out, as there, so that it costs and counts the same on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models._relative_position import RelativePositionBias, from_windows, to_windows
from models._transformer import scaled_scores


class SwinAttention(nn.Module):
    """Attention in windows over a square grid; it has no weights but the position bias.

    The submodule `token_softmax` returns the attention maps [b, windows, h, n, n]; a forward hook on it reads them.

    Args:
        grid_size: tokens per side of the grid.
        window_size: tokens per side of a window; must divide the grid's side.
        num_heads: heads h.
        shift: tokens by which the windows are moved down and to the right.

    Raises:
        ValueError: the windows do not fill the grid, or the shift is not smaller than a window.
    """

    is_hidden: Tensor | None

    def __init__(self, grid_size: int, window_size: int, num_heads: int, shift: int = 0) -> None:
        super().__init__()
        if grid_size % window_size:
            raise ValueError(f"Windows of {window_size} tokens per side do not fill a grid of {grid_size}.")
        if not 0 <= shift < window_size:
            raise ValueError(f"The shift {shift} does not lie from 0 to {window_size - 1}, within a window.")
        self.window_size, self.num_columns, self.shift = window_size, grid_size // window_size, shift
        self.position_bias = RelativePositionBias(window_size, num_heads)
        self.token_softmax = nn.Softmax(dim=-1)
        is_hidden = _is_hidden(grid_size, window_size, shift) if shift else None
        self.register_buffer("is_hidden", is_hidden, persistent=False)

    def forward(self, qkv: Tensor) -> Tensor:
        """Queries, keys and values [b, s, s, 3, h, d] → [b, s, s, h, d]."""
        h, d = qkv.shape[4:]
        if self.shift:
            qkv = qkv.roll((-self.shift, -self.shift), dims=(1, 2))
        windows = to_windows(qkv.flatten(3), self.window_size)  # [b, windows, n, 3 h d]
        q, k, v = windows.reshape(*windows.shape[:3], 3, h, d).permute(3, 0, 1, 4, 2, 5)  # [b, windows, h, n, d] each
        bias = self.position_bias()  # [h, n, n]
        if self.is_hidden is not None:
            bias = bias.masked_fill(self.is_hidden[:, None], -torch.inf)  # [windows, h, n, n]
        scores = scaled_scores(q, k) + bias  # [b, windows, h, n, n]
        y = (self.token_softmax(scores) @ v).transpose(2, 3).flatten(3)  # [b, windows, n, h d]
        y = from_windows(y, self.window_size, self.num_columns)
        y = y.reshape(*y.shape[:3], h, d)
        return y.roll((self.shift, self.shift), dims=(1, 2)) if self.shift else y


def _is_hidden(grid_size: int, window_size: int, shift: int) -> Tensor:
    """Whether query and key of a window lie on opposite sides of the rolled grid: [windows, n, n], bool."""
    came_round = (torch.arange(grid_size) >= grid_size - shift).long()
    corner = came_round[:, None] * 2 + came_round[None, :]  # [s, s]
    corner = to_windows(corner[None, :, :, None], window_size)[0, :, :, 0]  # [windows, n]
    return corner[:, :, None] != corner[:, None, :]
