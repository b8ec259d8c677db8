"""Spectral normalisation: a layer's weight is divided by its largest singular value, which one power iteration follows.

Why it exists: SAGAN normalises every layer of both networks, ViTGAN's improved form keeps the norm a layer starts with.
`torch.nn.utils.parametrizations.spectral_norm` is not enough: on the `meta` device, where models are counted, its 15
first iterations take a second per network; under autocast it follows the norm in bfloat16; and it has no improved form.

Source: Miyato et al., "Spectral Normalization for Generative Adversarial Networks", arXiv 1802.05957, algorithm 1, with
the weight as the matrix [c_out, everything else]; the improved form is that of ViTGAN, arXiv 2107.04589, section 3.1:

    (1)  v ← Wᵀ u / ‖Wᵀ u‖,  u ← W v / ‖W v‖     once per pass in training, from the u of the pass before
    (2)  σ(W) = uᵀ W v                           u and v are constants of the gradient
    (3)  W / σ(W), improved: W σ(W at the start) / σ(W)

Differences: 15 iterations are made at the start (torch does so too), so that the first passes are near norm 1, and none
in eval mode, so that an image depends on its z alone. σ costs one multiply-accumulate per weight and pass in eval mode,
two in training, whatever the batch size.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

NUM_FIRST_ITERATIONS = 15

Layer = TypeVar("Layer", bound=nn.Module)


def spectral_norm(layer: Layer, *, keeps_first_norm: bool = False) -> Layer:
    """The layer itself, its `weight` [c_out, ...] normalised from now on. Initialise the weight before.

    Args:
        keeps_first_norm: hold the largest singular value where it is now (improved form) instead of at 1.
    """
    weight = layer.get_parameter("weight")
    parametrize.register_parametrization(layer, "weight", SpectralNorm(weight, keeps_first_norm=keeps_first_norm))
    return layer


class SpectralNorm(nn.Module):
    """The parametrization: weight [c_out, ...] → the weight with its largest singular value held."""

    left: Tensor
    right: Tensor
    held_norm: Tensor

    def __init__(self, weight: Tensor, *, keeps_first_norm: bool) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        left, right = (functional.normalize(torch.randn(length), dim=0) for length in matrix.shape)
        if not matrix.is_meta:
            for _ in range(NUM_FIRST_ITERATIONS):
                right = functional.normalize(matrix.T @ left, dim=0)
                left = functional.normalize(matrix @ right, dim=0)
        self.register_buffer("left", left)
        self.register_buffer("right", right)
        held_norm = torch.linalg.matrix_norm(matrix, ord=2) if keeps_first_norm else torch.ones(())
        self.register_buffer("held_norm", held_norm)

    def forward(self, weight: Tensor) -> Tensor:
        """Equations 1 to 3, in the weight's own precision also under autocast."""
        with nullcontext() if weight.is_meta else torch.autocast(weight.device.type, enabled=False):
            matrix = weight.flatten(1)
            if self.training:
                right = functional.normalize(torch.mv(matrix.detach().T, self.left), dim=0)  # (1)
                image = torch.mv(matrix, right)
                left = functional.normalize(image.detach(), dim=0)
                with torch.no_grad():
                    self.right.copy_(right)
                    self.left.copy_(left)
            else:
                left = self.left.clone()  # later passes in training write to the buffers
                image = torch.mv(matrix, self.right.clone())
            sigma = torch.dot(left, image)  # (2)
            return weight * (self.held_norm / sigma)  # (3)
