"""StyleGAN2: the convolutional reference of the field, modulated convolutions without any attention.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", arXiv 1912.04958: the final network
(config F) with skip generator and residual discriminator. The official code,
https://github.com/NVlabs/stylegan2-ada-pytorch, is under a non-commercial licence and was not looked at: this file is
written from the paper, and its counts were checked against those of the official code in reference/models.md.
Hyperparameters of the 256 px and the CIFAR preset: Karras et al., arXiv 2006.06676, appendix, table of hyperparameters,
as PyTorch-StudioGAN (MIT) lists them; that text was read, the paper's table was not:
https://github.com/POSTECH-CVLab/PyTorch-StudioGAN/blob/947b35e9835b67860fdce44d337f6d7fee7c8db3/src/configs/StyleGAN_ADA_GuideLine.md

Widths: channels at a grid of s pixels per side are min(channel_base / s, 512).

Deliberate differences from the presets:
* The discriminator's skip filter is evaluated only at the pixels that are kept (0.2 to 0.6 % fewer MACs).
* Lazy penalties are part of the k-th step's loss, not updates of their own (see `models._stylegan2_losses`).
* The CIFAR preset's discriminator is the residual one too, and minibatch std has groups of 4 everywhere (the presets:
  8 at 256 px, 32 for CIFAR). Its moving average does not start shorter and grow (the preset: 5 % of the images so far).
* No truncation, no adaptive augmentation, no mixed precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models._configs import ChannelRule, config_for, decay_of_half_life, gamma_by_pixels
from models._spec import Gan, GanSpec, Recipe
from models._style_mixing import layer_styles
from models._stylegan2_losses import PathLengthR1
from models._stylegan_layers import (
    FIRST_GRID,
    MappingNetwork,
    ResidualDiscriminator,
    StyledConv,
    ToRgb,
    grids_to,
)


@dataclass(frozen=True, kw_only=True)
class StyleGan2Config(ChannelRule):
    """All widths of one (resolution, size).

    Attributes:
        style_width: of z, of the mapping network and of the styles.
        num_mapping_layers: fully connected layers from z to the style.
        style_mixing: share of the images in training whose layers take a second style from some layer on.
    """

    style_width: int = 512
    num_mapping_layers: int = 8
    style_mixing: float = 0.9


_PAPER = StyleGan2Config()
_TINY = StyleGan2Config(channel_base=512, channel_max=32, style_width=64, num_mapping_layers=2, style_mixing=0.0)

CONFIGS: Mapping[tuple[int, str], StyleGan2Config] = {
    (32, "paper"): StyleGan2Config(num_mapping_layers=2, style_mixing=0.0),
    (64, "paper"): _PAPER,
    (128, "paper"): _PAPER,
    (256, "paper"): _PAPER,
    (32, "tiny"): _TINY,
    (64, "tiny"): _TINY,
    (128, "tiny"): _TINY,
    (256, "tiny"): _TINY,
}


class SynthesisBlock(nn.Module):
    """One grid of the generator: a convolution that doubles it (not at 4 px), one that does not, and the colours."""

    def __init__(self, grid: int, config: StyleGan2Config) -> None:
        super().__init__()
        width = config.width_at(grid)
        self.up: StyledConv | None = None
        if grid > FIRST_GRID:
            self.up = StyledConv(config.width_at(grid // 2), width, config.style_width, grid, is_up=True)
        self.conv = StyledConv(width, width, config.style_width, grid)
        self.to_rgb = ToRgb(width, config.style_width)

    def forward(self, x: Tensor, skip: Tensor | None, styles: Tensor) -> tuple[Tensor, Tensor]:
        """x [b, c_in, h, w], skip [b, 3, h, w] or None, styles [b, 2 or 3, style_width] → features and image."""
        *of_convs, of_rgb = styles.unbind(dim=1)
        if self.up is not None:
            x = self.up(x, of_convs[0])
        x = self.conv(x, of_convs[-1])
        return x, self.to_rgb(x, of_rgb, skip)


class Generator(nn.Module):
    """z [b, latent_dim] → images [b, 3, resolution, resolution], no tanh.

    `path_length_mean` is the running mean of path lengths, kept by the loss.
    """

    path_length_mean: Tensor

    def __init__(self, resolution: int, config: StyleGan2Config) -> None:
        super().__init__()
        self.mapping = MappingNetwork(config.style_width, config.style_width, config.num_mapping_layers)
        self.constant = nn.Parameter(torch.randn(config.width_at(FIRST_GRID), FIRST_GRID, FIRST_GRID))
        grids = grids_to(resolution)
        self.blocks = nn.ModuleList(SynthesisBlock(grid, config) for grid in grids)
        self.num_layers = 2 * len(grids)
        self.style_mixing = config.style_mixing
        self.register_buffer("path_length_mean", torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        """z [b, latent_dim] → images in the dtype of z."""
        return self.synthesise(self.to_styles(z)).to(z.dtype)

    def to_styles(self, z: Tensor) -> Tensor:
        """z [b, latent_dim] → styles [b, layers, style_width], mixed in training."""
        return layer_styles(self.mapping, z, self.num_layers, self.style_mixing if self.training else 0.0)

    def synthesise(self, styles: Tensor) -> Tensor:
        """styles [b, layers, style_width] → images [b, 3, h, w]; colours share the next grid's first style."""
        x = self.constant.expand(styles.shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
        image: Tensor | None = None
        for index, block in enumerate(self.blocks):
            first = max(0, 2 * index - 1)
            x, image = block(x, image, styles[:, first : 2 * index + 2])
        assert image is not None
        return image


def build(resolution: int, size: str) -> Gan:
    """Both networks; every weight is N(0, 1) and scaled at run time, biases are 0, those of the styles 1.

    Raises:
        ValueError: there is no configuration for that resolution and size.
    """
    config = _config(resolution, size)
    return Gan(
        generator=Generator(resolution, config),
        discriminator=ResidualDiscriminator(resolution, config.width_at),
        latent_dim=config.style_width,
    )


def _config(resolution: int, size: str) -> StyleGan2Config:
    return config_for(CONFIGS, "StyleGAN2", resolution, size)


_PRESET_256 = Recipe(
    num_images=25_000_000,
    batch_size=64,
    generator_lr=2.5e-3,
    discriminator_lr=2.5e-3,
    adam_betas=(0.0, 0.99),
    ema_decay=decay_of_half_life(64, 20_000),
    objective=PathLengthR1(r1_weight=1.0 / 2, r1_interval=16),
    source="256 px preset (half the feature maps) of arXiv 2006.06676: 25 M images in batches of 64, R1 γ 1, EMA "
    "half-life 20k images, as listed by PyTorch-StudioGAN; ours: path length on half of the batch, as "
    "rosinality/stylegan2-pytorch takes it",
)
_PRESET_CIFAR = replace(
    _PRESET_256,
    num_images=100_000_000,
    ema_decay=decay_of_half_life(64, 500_000),
    objective=PathLengthR1(r1_weight=0.01 / 2, r1_interval=16, path_length_weight=0.0),
    source="CIFAR preset of arXiv 2006.06676 without its augmentation: 100 M images in batches of 64, R1 γ 0.01, EMA "
    "half-life 500k images, as listed by PyTorch-StudioGAN; ours: no ramp-up of the EMA",
)


def _scaled_to(resolution: int) -> Recipe:
    gamma = gamma_by_pixels(resolution)
    objective = PathLengthR1(r1_weight=gamma / 2, r1_interval=16)
    return replace(
        _PRESET_256,
        objective=objective,
        source=f"ours: the 256 px preset of arXiv 2006.06676 with R1 γ scaled by the number of pixels to {gamma:g}",
    )


_RECIPES: Mapping[int, Recipe] = {
    32: _PRESET_CIFAR,
    64: _scaled_to(64),
    128: _scaled_to(128),
    256: _PRESET_256,
}
_TINY_RECIPE = Recipe(
    num_images=100_000,
    batch_size=16,
    generator_lr=1e-2,
    discriminator_lr=1e-2,
    adam_betas=(0.0, 0.99),
    ema_decay=0.99,
    # A running mean of path lengths that starts at 0 and needs hundreds of updates would pull all lengths towards 0.
    objective=PathLengthR1(r1_weight=2.5, r1_interval=16, path_length_weight=0.1, path_length_decay=0.1),
    source="ours, to learn `scenes` on two CPU cores in minutes: small batch, higher learning rates, R1 γ 5, a weaker "
    "path length penalty whose mean moves faster, a shorter EMA, no style mixing",
)
_AT_HOME = {("cifar10", 32), ("lsun-bedroom", 256)}


def recipe(dataset: str, resolution: int, size: str) -> Recipe:
    """The authors' preset for the resolution; `source` says which values are ours.

    Raises:
        ValueError: there is no configuration for that resolution and size.
    """
    _config(resolution, size)  # raises
    if size == "tiny":
        return _TINY_RECIPE
    found = _RECIPES[resolution]
    if (dataset, resolution) in _AT_HOME or found.source.startswith("ours"):
        return found
    return replace(found, source=f"ours: {dataset} has no values of its own at {resolution} px, so the {found.source}")


SPEC = GanSpec(
    title="StyleGAN2",
    year=2020,
    paper="https://arxiv.org/abs/1912.04958",
    code="https://github.com/NVlabs/stylegan2-ada-pytorch",
    licence="NVIDIA Source Code License, non-commercial: written from the paper",
    attention="none (modulated convolution), O(n)",
    resolutions={
        32: "paper",
        64: "ours: the widths of the 256 px preset, up to 64 px",
        128: "ours: the widths of the 256 px preset, up to 128 px",
        256: "paper",
    },
    build=build,
    recipe=recipe,
)
