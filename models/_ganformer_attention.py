"""Bipartite attention of GANformer: pixels look at a few latents, and their features are scaled by what they find.

Why it exists: it is the layer that gives GANformer its name; its cost is linear in the number of pixels, because the
number of latents is fixed.

Source: Hudson and Zitnick, arXiv 2103.01209, section 3.1 (simplex and duplex attention), and the layer of the official
PyTorch code (MIT), for widths, positions, dropout and integration:
https://github.com/dorarad/gansformer/blob/033ac9f656d9be0003000e92ea6ae915baa2b25f/pytorch_version/training/networks.py
Facts were read there, the code is ours. For pixels x_1 … x_n of width c at positions p_i, and latents y_1 … y_k:

    simplex  m_ij = softmax over j of (W_q x_i + W_p p_i) · (W_k y_j + W_l l_j) / √c
    duplex   m_ij = softmax over j of (s ⊙ e_i) · K_j / √c,   e_i = [W_q x_i, W_p p_i],   and for each further step
             K_j = Σ_i m_ij e_i / Σ_i m_ij: the centroid of the pixels that look at latent j; the first K is learned
    both     x_i ← x_i / rms(x_i) ⊙ (1 + W_o Σ_j m_ij W_v y_j)

Deliberate differences:
* Duplex takes one step of k-means, as in the paper, where K is the centroid of an assignment. The official code has the
  loop, but its default is to stop at the learned K, so that its duplex layer sees neither where other pixels are nor
  the latents when it says where to look.
* What the official code computes and does not use is left out: three of its products, and enlarged maps for pictures.
  At 256 px the duplex generator has 68.52 G MACs, the official one 68.93 G: 0.67 G of unused products, 0.44 G of
  enlarged maps and 0.18 G of filter taps between the kept pixels less, 0.89 G for the step of k-means more.
* `to_key` and `position_to_key` are kept in duplex layers, where nothing uses them, as in the official code: the
  parameter counts are those of the official networks.
* One head, as in every published configuration.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from models._stylegan_layers import EPS, EqualLinear, pixel_norm
from models._token_grid import as_image, as_tokens, sinusoids_of_grid

NUM_KMEANS_STEPS = 1
_PERIOD = 10000.0


class BipartiteAttention(nn.Module):
    """What tokens [b, n, c] collect from latents [b, k, d]: [b, n, c]; linear in n.

    Args:
        width: c, of the tokens, the queries and the result.
        latent_width: d, of the latents.
        position_width: of the positions of both.
        num_centroids: k for duplex attention, 0 for simplex.
        dropout: half of it is the chance of a cell of the maps to be 0, half that of a latent to be unseen.

    The submodule `maps` returns the attention maps [b, n, k]; a forward hook on it reads them.
    """

    def __init__(
        self, width: int, latent_width: int, position_width: int, *, num_centroids: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.to_query = EqualLinear(width, width)
        self.to_key = EqualLinear(latent_width, width)
        self.to_value = EqualLinear(latent_width, width)
        self.position_to_query = EqualLinear(position_width, width)
        self.position_to_key = EqualLinear(position_width, width)
        self.to_out = EqualLinear(width, width)
        self.is_duplex = num_centroids > 0
        if self.is_duplex:
            self.channel_weight = nn.Parameter(torch.ones(2 * width))  # s
            self.centroids = nn.Parameter(torch.randn(num_centroids, 2 * width))  # the first K
        self.maps = AttentionMaps(dropout / 2, 1 / math.sqrt(width))

    def forward(self, x: Tensor, latents: Tensor, x_position: Tensor, latent_position: Tensor) -> Tensor:
        """x [b, n, c], latents [b, k, d], positions [n, position_width] and [k, position_width] → [b, n, c]."""
        query, position = self.to_query(x), self.position_to_query(x_position)  # [b, n, c], [n, c]
        if self.is_duplex:
            maps = self._duplex_maps(query, position)
        else:
            key = self.to_key(latents) + self.position_to_key(latent_position)  # [b, k, c]
            maps = self.maps((query + position) @ key.transpose(1, 2))
        y: Tensor = self.to_out(maps @ self.to_value(latents))
        return y

    def _duplex_maps(self, query: Tensor, position: Tensor) -> Tensor:
        """Queries [b, n, c] and what was made of the positions [n, c] are the two halves of e; kept apart."""
        maps = self._maps_to(self.centroids, query, position)
        for _ in range(NUM_KMEANS_STEPS):
            shares = (maps / (maps.sum(dim=1, keepdim=True) + EPS)).transpose(1, 2)  # [b, k, n]
            maps = self._maps_to(torch.cat([shares @ query, shares @ position], dim=-1), query, position)
        return maps

    def _maps_to(self, centroids: Tensor, query: Tensor, position: Tensor) -> Tensor:
        """Centroids [k, 2 c] or [b, k, 2 c] → maps [b, n, k]."""
        of_content, of_position = (self.channel_weight * centroids).transpose(-2, -1).chunk(2, dim=-2)  # [b, c, k]
        maps: Tensor = self.maps(query @ of_content + position @ of_position)
        return maps


class AttentionMaps(nn.Module):
    """Scores [b, n, k] → maps: softmax over the latents, and dropout of cells and of whole latents in training."""

    def __init__(self, dropout: float, scale: float) -> None:
        super().__init__()
        self.dropout, self.scale = dropout, scale

    def forward(self, scores: Tensor) -> Tensor:
        """Scores [b, n, k] → maps [b, n, k]; every row adds up to 1 where nothing was dropped."""
        maps = torch.softmax(scores * self.scale, dim=-1)
        if not self.training or self.dropout == 0:
            return maps
        seen = functional.dropout(torch.ones_like(maps[:, :1]), self.dropout)  # [b, 1, k]
        return functional.dropout(maps, self.dropout) * seen


class ImageAttention(nn.Module):
    """Scales the pixels of images [b, c, grid, grid] by what they collect from the latents, after an RMS norm.

    Args:
        width: c.
        latent_width: of the latents and of the positions; a multiple of 4.
        grid: pixels per side.
        num_centroids, dropout: as in `BipartiteAttention`.
    """

    position: Tensor

    def __init__(self, width: int, latent_width: int, grid: int, *, num_centroids: int, dropout: float) -> None:
        super().__init__()
        self.attention = BipartiteAttention(
            width, latent_width, latent_width, num_centroids=num_centroids, dropout=dropout
        )
        self.register_buffer("position", grid_positions(grid, latent_width), persistent=False)

    def forward(self, x: Tensor, latents: Tensor, latent_position: Tensor) -> Tensor:
        """x [b, c, h, w], latents [b, k, d], latent_position [k, d] → [b, c, h, w]."""
        found: Tensor = self.attention(as_tokens(x), latents, self.position, latent_position)
        return pixel_norm(x) * (1 + as_image(found))


def grid_positions(grid: int, width: int) -> Tensor:
    """Sines and cosines of x, then of y, both from -1 to 1, at width / 4 frequencies: [grid · grid, width]."""
    steps = torch.linspace(-1.0, 1.0, grid)
    periods = torch.pow(torch.tensor(_PERIOD), 4 * torch.arange(width // 4) / width)
    angles = steps[:, None] / periods  # [grid, width / 4]
    return sinusoids_of_grid(angles)
