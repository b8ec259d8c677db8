"""SAGAN: residual convolutions and one non-local (self-attention) block per network, everything spectrally normalised.

Source: Zhang et al., "Self-Attention Generative Adversarial Networks", arXiv 1805.08318; facts were read in two public
codes, every line here is ours:

* the authors' TensorFlow code (Apache-2.0): the 128 px networks, `generator_test` and `discriminator_test`, and the
  recipe. https://github.com/brain-research/self-attention-gan/tree/ad9612e60f6ba2b5ad3d3340ebae60f724636d75
* PyTorch-StudioGAN (MIT; `src/models/resnet.py`, `src/utils/ops.py` and its training logs): the widths at 32, 64 and
  256 px, and the recipes at 32 and 64 px.
  https://github.com/POSTECH-CVLab/PyTorch-StudioGAN/tree/947b35e9835b67860fdce44d337f6d7fee7c8db3

The networks, images being [b, c, h, w]:

* Generator: linear z → 4×4, residual blocks that each double the grid (BN, ReLU, nearest ×2, conv 3×3, BN, ReLU, conv
  3×3, beside nearest ×2, conv 1×1), the non-local block once, then BN, ReLU, conv 3×3, tanh.
* Discriminator: residual blocks (ReLU, conv 3×3, ReLU, conv 3×3, average pool 2, beside conv 1×1, average pool 2; the
  first takes the pixels as they are and pools before its 1×1), the non-local block once, ReLU, sum over the grid,
  linear.
* Non-local block, with N pixels of C channels (section 3): θ and φ have C/8 channels, g has C/2, φ and g are max-pooled
  to N/4 pixels; β = softmax over those of θᵀφ, without a scale; o = W_v Σ β g; y = x + γ o, and γ starts at 0. No
  biases. Cost: N · N/4 · (C/8 + C/2) multiply-accumulates besides the 1×1 convolutions.

Deliberate differences from the codes:
* Unconditional: plain batch norm for the class-conditional one, no projection in the discriminator.
* Batch norm has StudioGAN's momentum 0.1 and eps 1e-4 at every resolution (TensorFlow: 0.001, in torch's counting, and
  1e-5), weights start Xavier-uniform with zero biases as the authors' do (StudioGAN: orthogonal).
* Spectral norm iterates once per forward pass in training and rests in eval mode (`models/_spectral_norm.py`); the
  TensorFlow code does not store the iteration of the discriminator's second pass.
  σ adds one multiply-accumulate per weight and pass (0.2 to 0.6 % of a generator's image) to the published counts,
  which leave it out.
* StudioGAN's in-place ReLU also changes what its discriminator's shortcut sees; here, as in the TensorFlow code, not.
* 256 px (StudioGAN's widths; the non-local block stays at 32×32) and `tiny` are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from models._configs import config_for
from models._hinge import Hinge
from models._spec import Gan, GanSpec, Recipe
from models._spectral_norm import spectral_norm
from models._transformer import initialise_glorot

FIRST_GRID = 4  # pixels per side where the generator starts


@dataclass(frozen=True, kw_only=True)
class SaganConfig:
    """All widths of one (resolution, size).

    Attributes:
        generator_widths: channels at 4×4, then of each block; every block doubles the grid.
        discriminator_widths: channels of each block.
        num_down_blocks: so many of the discriminator's blocks, the first ones, halve the grid.
        attention_grid: pixels per side where both networks attend.
    """

    generator_widths: tuple[int, ...]
    discriminator_widths: tuple[int, ...]
    num_down_blocks: int
    attention_grid: int
    latent_dim: int = 128


CONFIGS: Mapping[tuple[int, str], SaganConfig] = {
    (32, "paper"): SaganConfig(
        generator_widths=(256, 256, 256, 256),
        discriminator_widths=(128, 128, 128, 128),
        num_down_blocks=2,
        attention_grid=16,
    ),
    (64, "paper"): SaganConfig(
        generator_widths=(1024, 512, 256, 128, 64),
        discriminator_widths=(64, 128, 256, 512, 1024),
        num_down_blocks=4,
        attention_grid=32,
    ),
    (128, "paper"): SaganConfig(
        generator_widths=(1024, 1024, 512, 256, 128, 64),
        discriminator_widths=(64, 128, 256, 512, 1024, 1024),
        num_down_blocks=5,
        attention_grid=32,
    ),
    (256, "paper"): SaganConfig(
        generator_widths=(1024, 1024, 512, 512, 256, 128, 64),
        discriminator_widths=(64, 128, 256, 512, 512, 1024, 1024),
        num_down_blocks=6,
        attention_grid=32,
    ),
    (32, "tiny"): SaganConfig(
        generator_widths=(64, 48, 32, 16),
        discriminator_widths=(16, 32, 48, 64),
        num_down_blocks=3,
        attention_grid=16,
    ),
    (64, "tiny"): SaganConfig(
        generator_widths=(64, 48, 32, 16, 16),
        discriminator_widths=(16, 16, 32, 48, 64),
        num_down_blocks=4,
        attention_grid=16,
    ),
    (128, "tiny"): SaganConfig(
        generator_widths=(64, 48, 32, 16, 16, 8),
        discriminator_widths=(8, 16, 16, 32, 48, 64),
        num_down_blocks=5,
        attention_grid=16,
    ),
    (256, "tiny"): SaganConfig(
        generator_widths=(64, 48, 32, 16, 16, 8, 8),
        discriminator_widths=(8, 8, 16, 16, 32, 48, 64),
        num_down_blocks=6,
        attention_grid=16,
    ),
}


def _conv(width_in: int, width_out: int, kernel_size: int, *, has_bias: bool = True) -> nn.Module:
    return _normalised(nn.Conv2d(width_in, width_out, kernel_size, padding=kernel_size // 2, bias=has_bias))


def _normalised(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """Initialise and then divide the weight by its largest singular value: the power iteration starts from it."""
    initialise_glorot(layer)
    return spectral_norm(layer)


def _batch_norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-4, momentum=0.1)


class NonLocal(nn.Module):
    """Every pixel attends to the max-pooled pixels of its image; images [b, c, h, w], h and w even.

    The submodule `softmax` returns the attention maps β [b, h·w, h·w / 4]; a forward hook on it reads them.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_theta = _conv(width, width // 8, 1, has_bias=False)
        self.to_phi = _conv(width, width // 8, 1, has_bias=False)
        self.to_g = _conv(width, width // 2, 1, has_bias=False)
        self.to_out = _conv(width // 2, width, 1, has_bias=False)
        self.softmax = nn.Softmax(dim=-1)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Equations 1 to 3; x [b, c, h, w]."""
        theta = self.to_theta(x).flatten(2)  # [b, c / 8, n]
        phi = functional.max_pool2d(self.to_phi(x), 2).flatten(2)  # [b, c / 8, n / 4]
        g = functional.max_pool2d(self.to_g(x), 2).flatten(2)  # [b, c / 2, n / 4]
        beta = self.softmax(theta.transpose(1, 2) @ phi)  # (1) [b, n, n / 4]
        mixed = g @ beta.transpose(1, 2)  # [b, c / 2, n]
        out: Tensor = x + self.gate * self.to_out(mixed.unflatten(2, x.shape[2:]))  # (2), (3)
        return out


class UpBlock(nn.Module):
    """The generator's residual block, which doubles the grid."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            _batch_norm(width_in),
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="nearest"),
            _conv(width_in, width_out, 3),
            _batch_norm(width_out),
            nn.ReLU(),
            _conv(width_out, width_out, 3),
        )
        self.skip = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), _conv(width_in, width_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x [b, c_in, h, w] → [b, c_out, 2 h, 2 w]."""
        y: Tensor = self.main(x) + self.skip(x)
        return y


class DownBlock(nn.Module):
    """The discriminator's residual block.

    Args:
        is_down: halve the grid.
        is_first: takes pixels, so no ReLU before its first convolution, and pools before its 1×1.
    """

    def __init__(self, width_in: int, width_out: int, *, is_down: bool, is_first: bool = False) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Identity() if is_first else nn.ReLU(),
            _conv(width_in, width_out, 3),
            nn.ReLU(),
            _conv(width_out, width_out, 3),
        )
        self.skip = nn.Sequential()
        if is_down or width_in != width_out:
            self.skip.append(_conv(width_in, width_out, 1))
        if is_down:
            self.main.append(nn.AvgPool2d(2))
            self.skip.insert(0 if is_first else 1, nn.AvgPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        """x [b, c_in, h, w] → [b, c_out, h, w], or half of the grid."""
        y: Tensor = self.main(x) + self.skip(x)
        return y


class Generator(nn.Module):
    """z [b, latent_dim] → images [b, 3, resolution, resolution] in [-1, 1]."""

    def __init__(self, config: SaganConfig) -> None:
        super().__init__()
        widths = config.generator_widths
        self.to_first_grid = _normalised(nn.Linear(config.latent_dim, FIRST_GRID**2 * widths[0]))
        self.blocks = nn.Sequential()
        grid = FIRST_GRID
        for width_in, width_out in pairwise(widths):
            self.blocks.append(UpBlock(width_in, width_out))
            grid *= 2
            if grid == config.attention_grid:
                self.blocks.append(NonLocal(width_out))
        self.to_rgb = nn.Sequential(_batch_norm(widths[-1]), nn.ReLU(), _conv(widths[-1], 3, 3), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        """z [b, latent_dim] → images in the dtype of z."""
        x = self.to_first_grid(z).unflatten(1, (-1, FIRST_GRID, FIRST_GRID))
        images: Tensor = self.to_rgb(self.blocks(x.contiguous(memory_format=torch.channels_last)))
        return images.to(z.dtype)


class Discriminator(nn.Module):
    """Images [b, 3, resolution, resolution] → logits [b, 1]."""

    def __init__(self, resolution: int, config: SaganConfig) -> None:
        super().__init__()
        self.blocks = nn.Sequential()
        grid = resolution
        for index, (width_in, width_out) in enumerate(pairwise((3, *config.discriminator_widths))):
            is_down = index < config.num_down_blocks
            self.blocks.append(DownBlock(width_in, width_out, is_down=is_down, is_first=index == 0))
            grid = grid // 2 if is_down else grid
            if is_down and grid == config.attention_grid:
                self.blocks.append(NonLocal(width_out))
        self.to_logit = _normalised(nn.Linear(config.discriminator_widths[-1], 1))

    def forward(self, x: Tensor) -> Tensor:
        """Images [b, 3, h, w] → logits [b, 1] in the dtype of the images."""
        features = self.blocks(x.contiguous(memory_format=torch.channels_last))
        logits: Tensor = self.to_logit(functional.relu(features).sum(dim=(2, 3)))
        return logits.to(x.dtype)


def build(resolution: int, size: str) -> Gan:
    """Both networks, initialised.

    Raises:
        ValueError: there is no configuration for that resolution and size.
    """
    config = _config(resolution, size)
    return Gan(
        generator=Generator(config), discriminator=Discriminator(resolution, config), latent_dim=config.latent_dim
    )


def _config(resolution: int, size: str) -> SaganConfig:
    return config_for(CONFIGS, "SAGAN", resolution, size)


_AUTHORS = Recipe(
    num_images=256_000_000,
    batch_size=256,
    generator_lr=1e-4,
    discriminator_lr=4e-4,
    adam_betas=(0.0, 0.999),
    ema_decay=0.0,  # none: the images are the generator's own
    objective=Hinge(),
    source="arXiv 1805.08318, section 4, and train_imagenet.py of the authors' code (ImageNet 128 px, "
    "class-conditional; one million steps of 256 images)",
)
_RECIPES: Mapping[int, Recipe] = {
    32: replace(
        _AUTHORS,
        num_images=32_000_000,
        batch_size=64,
        generator_lr=2e-4,
        discriminator_lr=2e-4,
        adam_betas=(0.5, 0.999),
        num_discriminator_steps=5,
        source="not the authors': PyTorch-StudioGAN, logs/CIFAR10/SAGAN-train-2020_09_18_23_34_49.log (CIFAR-10, class-"
        "conditional; 100,000 generator steps, five discriminator steps of 64 images each)",
    ),
    64: replace(
        _AUTHORS,
        num_images=25_600_000,
        source="the authors' values as PyTorch-StudioGAN uses them at 64 px, logs/TINY_IMAGENET/SAGAN-train-"
        "2021_01_15_12_16_42.log (Tiny ImageNet, class-conditional; 100,000 steps of 256 images)",
    ),
    128: _AUTHORS,
    256: _AUTHORS,
}
_TINY_RECIPE = Recipe(
    num_images=100_000,
    batch_size=16,
    generator_lr=1e-3,
    discriminator_lr=2e-3,
    adam_betas=(0.0, 0.99),
    ema_decay=0.98,
    objective=Hinge(augmentations=("color",)),
    source="ours, to learn `scenes` on two CPU cores in minutes: small batch, higher learning rates, a short EMA, "
    "the colour augmentation",
)


def recipe(dataset: str, resolution: int, size: str) -> Recipe:
    """The training at that resolution; `source` says whose it is and that none of them is unconditional.

    Raises:
        ValueError: there is no configuration for that resolution and size.
    """
    _config(resolution, size)  # raises
    if size == "tiny":
        return _TINY_RECIPE
    found = _RECIPES[resolution]
    note = f"ours for {dataset} at {resolution} px, unconditional: the values of"
    return replace(found, source=f"{note} {found.source}")


SPEC = GanSpec(
    title="SAGAN",
    year=2018,
    paper="https://arxiv.org/abs/1805.08318",
    code="https://github.com/brain-research/self-attention-gan/tree/ad9612e60f6ba2b5ad3d3340ebae60f724636d75",
    licence="Apache-2.0",
    attention="quadratic (one non-local block per network, keys pooled to n/4), O(n²)",
    resolutions={
        32: "ours: PyTorch-StudioGAN's 32 px networks, unconditional",
        64: "ours: PyTorch-StudioGAN's 64 px networks, unconditional",
        128: "paper",
        256: "ours: PyTorch-StudioGAN's 256 px widths, unconditional, the non-local block at 32×32 as at 128 px",
    },
    build=build,
    recipe=recipe,
)
