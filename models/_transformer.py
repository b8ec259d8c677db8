"""Parts of a transformer that models of the zoo share: heads, softmax attention, the MLP and a usual initialisation.

Why it exists: TransGAN, HiT, StyleSwin, Styleformer and LadaGAN differ in what attends to what, and not in these.

Sources: Vaswani et al., "Attention is all you need", arXiv 1706.03762, equation 1 and section 3.2.2 (attention and its
heads) and 3.3 (the MLP), with the GELU of Hendrycks and Gimpel, arXiv 1606.08415, in the MLP; Glorot and Bengio,
AISTATS 2010, equation 16 (the initialisation).

Two ways to compute the attention. torch's fused kernel holds nothing of size n × m, but its derivative cannot be
differentiated again, which a gradient penalty needs; plain products can. Both have the same values up to rounding and
forward the same multiply-accumulates.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[b, n, c] → [b, h, n, d] with d = c / h; a view where x is contiguous."""
    return x.reshape(*x.shape[:2], num_heads, -1).transpose(1, 2)


def scaled_scores(q: Tensor, k: Tensor) -> Tensor:
    """q kᵀ / √d: q [..., n, d] and k [..., m, d] → [..., n, m]."""
    scale: float = q.shape[-1] ** -0.5
    return q * scale @ k.transpose(-2, -1)


def attend(q: Tensor, k: Tensor, v: Tensor, *, is_fused: bool) -> Tensor:
    """softmax(q kᵀ / √d) v, head by head: q [b, h, n, d], k and v [b, h, m, d] → [b, n, h·d].

    Args:
        is_fused: use torch's fused kernel, which cannot be differentiated twice.
    """
    mix = functional.scaled_dot_product_attention if is_fused else _mixed_by_products
    return mix(q, k, v).transpose(1, 2).flatten(2)


def _mixed_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(scaled_scores(q, k), dim=-1) @ v


def mlp(width: int, hidden_width: int) -> nn.Sequential:
    """Two linear layers with a GELU between them: [..., c] → [..., c]."""
    return nn.Sequential(nn.Linear(width, hidden_width), nn.GELU(), nn.Linear(hidden_width, width))


def initialise_glorot(module: nn.Module) -> None:
    """Glorot's uniform weights and zero biases in a linear layer or a convolution; other modules stay as they are."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
