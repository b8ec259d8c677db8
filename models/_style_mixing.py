"""Style mixing: in training, some images take the styles of their later layers from another latent.

Why it exists: it keeps neighbouring layers of a style-based generator from relying on each other; StyleGAN2 and
GANformer train with it.

Source: Karras et al., arXiv 1812.04948, section 3.1. Difference: the layer is drawn for every image by itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def layer_styles(to_style: Callable[[Tensor], Tensor], z: Tensor, num_layers: int, share: float) -> Tensor:
    """z [b, latent_dim] → styles [b, layers, ...], the same in every layer but in the share of images that are mixed.

    Args:
        to_style: the mapping network, z → [b, ...].
        share: of the images; 0 outside of training.
    """
    style = to_style(z)
    if share == 0:
        return style.unsqueeze(1).expand(-1, num_layers, *style.shape[1:])
    return mix_styles(style, to_style(torch.randn_like(z)), num_layers, share)


def mix_styles(style: Tensor, other: Tensor, num_layers: int, share: float) -> Tensor:
    """Styles [b, ...] each → [b, layers, ...]; a share of the images takes the other from a layer drawn for it on."""
    shape, device = (style.shape[0], 1), style.device
    first_other = torch.randint(1, num_layers, shape, device=device)
    is_other = torch.arange(num_layers, device=device) >= first_other  # [b, layers]
    is_other = is_other & (torch.rand(shape, device=device) < share)
    is_other = is_other.reshape(*is_other.shape, *[1] * (style.dim() - 1))
    return torch.where(is_other, other.unsqueeze(1), style.unsqueeze(1))
