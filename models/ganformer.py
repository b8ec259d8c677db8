"""GANformer: StyleGAN2 whose pixels also attend to a set of latents, each of which may take charge of a region.

Source: Hudson and Zitnick, "Generative Adversarial Transformers", arXiv 2103.01209; official PyTorch code (MIT, with
files derived from NVIDIA's), for the configuration that `--ganformer-default` sets and the order of the layers:
https://github.com/dorarad/gansformer/tree/033ac9f656d9be0003000e92ea6ae915baa2b25f/pytorch_version
Facts were read there, the code is ours; all convolutions are those of `models._stylegan_layers`, written from papers.

z is 17 vectors of width 32: 16 latents that pixels attend to, and a global one that modulates every convolution. Each
3×3 convolution up to 128 px is followed by attention, noise, bias and activation; blocks are residual; one last
convolution without bias, then the colours. The discriminator is StyleGAN2's and has no attention, as in that code.

Deliberate differences from the official code:
* Duplex attention takes a step of k-means (see `models._ganformer_attention`).
* The mapping network's weights start at N(0, 1) / lr_multiplier, as in StyleGAN2; the official PyTorch code divides the
  other way round, so that its latents start near 0.
* Style mixing is drawn per image, not per batch; no truncation, no component mixing.
* The lazy R1 is part of every 16th step's loss, not an update of its own (`models._stylegan2_losses` says why).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from models._configs import ChannelRule, config_for, decay_of_half_life
from models._fir import FirUpsample
from models._ganformer_attention import BipartiteAttention, ImageAttention
from models._losses import NonSaturatingR1
from models._spec import Gan, GanSpec, Recipe
from models._style_mixing import layer_styles
from models._stylegan_layers import (
    FIRST_GRID,
    LEAK,
    EqualConv,
    EqualLinear,
    ModulatedConv,
    ResidualDiscriminator,
    StyledConv,
    ToRgb,
    grids_to,
    pixel_norm,
)

LAST_ATTENTION_GRID = 128  # pixels per side
MAPPING_LR_MULTIPLIER = 0.01
HALF_POWER = math.sqrt(0.5)  # of each of two branches that are added


@dataclass(frozen=True, kw_only=True)
class GanformerConfig(ChannelRule):
    """All widths of one (resolution, size).

    Attributes:
        num_latents, latent_width: of what pixels attend to; one more vector of that width modulates the convolutions.
        num_mapping_blocks: residual blocks of two layers between z and the styles.
        dropout: of attention.
        style_mixing: share of the images in training whose layers take other styles from some layer on.
        attention: `simplex` or `duplex`.
    """

    channel_base: int = 32768
    num_latents: int = 16
    latent_width: int = 32
    num_mapping_blocks: int = 4
    dropout: float = 0.12
    style_mixing: float = 0.9
    attention: str = "simplex"


_PAPER = GanformerConfig()
_TINY = GanformerConfig(
    channel_base=256,
    channel_max=32,
    num_latents=8,
    latent_width=16,
    num_mapping_blocks=1,
    dropout=0.0,
    style_mixing=0.0,
)

CONFIGS: Mapping[tuple[int, str], GanformerConfig] = {
    (32, "paper"): _PAPER,
    (64, "paper"): _PAPER,
    (128, "paper"): _PAPER,
    (256, "paper"): _PAPER,
    (32, "tiny"): _TINY,
    (64, "tiny"): _TINY,
    (128, "tiny"): _TINY,
    (256, "tiny"): _TINY,
}


class MappingBlock(nn.Module):
    """Two linear layers with a residual around them, and, for latents, around the self-attention before them too."""

    def __init__(self, config: GanformerConfig, has_attention: bool) -> None:
        super().__init__()
        width = config.latent_width
        self.attention = BipartiteAttention(width, width, width, dropout=config.dropout) if has_attention else None
        self.first = EqualLinear(width, width, lr_multiplier=MAPPING_LR_MULTIPLIER, is_activated=True)
        self.second = EqualLinear(width, width, lr_multiplier=MAPPING_LR_MULTIPLIER)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """x [b, k, latent_width], position [k, latent_width] → [b, k, latent_width]."""
        seen = x if self.attention is None else x + self.attention(x, x, position, position)
        return functional.leaky_relu(self.second(self.first(seen)) + x, LEAK)


class ResidualMapping(nn.Module):
    """Residual blocks, then one activated layer; applied to every vector alike."""

    def __init__(self, config: GanformerConfig, *, has_attention: bool) -> None:
        super().__init__()
        width = config.latent_width
        self.blocks = nn.ModuleList(MappingBlock(config, has_attention) for _ in range(config.num_mapping_blocks))
        self.last = EqualLinear(width, width, lr_multiplier=MAPPING_LR_MULTIPLIER, is_activated=True)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """x [b, k, latent_width], position [k, latent_width] → [b, k, latent_width]."""
        for block in self.blocks:
            x = block(x, position)
        y: Tensor = self.last(x)
        return y


class AttendedConv(StyledConv):
    """Modulated 3×3 convolution, attention to the latents (up to 128 px), then noise, bias and activation."""

    def __init__(
        self, width_in: int, grid: int, config: GanformerConfig, *, is_up: bool = False, gain: float = 1.0
    ) -> None:
        width = config.width_at(grid)
        super().__init__(width_in, width, config.latent_width, grid, is_up=is_up, gain=gain)
        self.attention: ImageAttention | None = None
        if grid <= LAST_ATTENTION_GRID:
            self.conv.gain = 1.0  # the norm would take it away; `forward` multiplies it in
            num_centroids = config.num_latents if config.attention == "duplex" else 0
            self.attention = ImageAttention(
                width, config.latent_width, grid, num_centroids=num_centroids, dropout=config.dropout
            )

    def attend(self, x: Tensor, styles: Tensor, latent_position: Tensor) -> Tensor:
        """x [b, c_in, h, w], styles [b, k + 1, latent_width], the global one last → [b, c_out, grid, grid]."""
        y = self.conv(x, styles[:, -1])
        if self.attention is not None:
            y = self.attention(y, styles[:, :-1], latent_position) * self.gain
        return self.finish(y)


class SynthesisBlock(nn.Module):
    """One grid of the generator: two attended convolutions beside a 1×1 one; at 4 px a single one."""

    def __init__(self, grid: int, config: GanformerConfig) -> None:
        super().__init__()
        self.is_first = grid == FIRST_GRID
        width = config.width_at(grid)
        self.conv = AttendedConv(width, grid, config, gain=1.0 if self.is_first else HALF_POWER)
        if not self.is_first:
            width_in = config.width_at(grid // 2)
            self.up = AttendedConv(width_in, grid, config, is_up=True)
            self.skip = EqualConv(width_in, width, 1, has_bias=False)
            self.upsample = FirUpsample()

    def forward(self, x: Tensor, styles: Tensor, latent_position: Tensor) -> Tensor:
        """x [b, c_in, h, w], styles [b, 1 or 2 layers, k + 1, latent_width] → [b, c_out, grid, grid]."""
        if self.is_first:
            return self.conv.attend(x, styles[:, 0], latent_position)
        shortcut: Tensor = self.upsample(self.skip(x) * HALF_POWER)
        x = self.up.attend(x, styles[:, 0], latent_position)
        return self.conv.attend(x, styles[:, 1], latent_position) + shortcut


class Generator(nn.Module):
    """z [b, latent_dim] → images [b, 3, resolution, resolution], no tanh; z is num_latents + 1 vectors in a row."""

    def __init__(self, resolution: int, config: GanformerConfig) -> None:
        super().__init__()
        grids = grids_to(resolution)
        width = config.width_at(resolution)
        self.latent_position = nn.Parameter(torch.rand(config.num_latents, config.latent_width))
        self.mapping = ResidualMapping(config, has_attention=True)
        self.global_mapping = ResidualMapping(config, has_attention=False)
        self.constant = nn.Parameter(torch.randn(config.width_at(FIRST_GRID), FIRST_GRID, FIRST_GRID))
        self.blocks = nn.ModuleList(SynthesisBlock(grid, config) for grid in grids)
        self.last = ModulatedConv(width, width, 3, config.latent_width)
        self.to_rgb = ToRgb(width, config.latent_width)
        self.num_layers = 2 * len(grids) + 1
        self.config = config

    def forward(self, z: Tensor) -> Tensor:
        """z [b, latent_dim] → images in the dtype of z."""
        return self.synthesise(self.to_styles(z)).to(z.dtype)

    def to_styles(self, z: Tensor) -> Tensor:
        """z [b, latent_dim] → styles [b, layers, k + 1, latent_width], mixed in training; the global one is last."""
        return layer_styles(self._mapped, z, self.num_layers, self.config.style_mixing if self.training else 0.0)

    def _mapped(self, z: Tensor) -> Tensor:
        """z [b, latent_dim] → [b, k + 1, latent_width]; all latents together are normalised, the global one alone."""
        width = self.config.latent_width
        latents, of_all = z[:, :-width], z[:, -width:]
        latents = self.mapping(pixel_norm(latents).reshape(z.shape[0], -1, width), self.latent_position)
        of_all = self.global_mapping(pixel_norm(of_all).unsqueeze(1), self.latent_position)
        return torch.cat([latents, of_all], dim=1)

    def synthesise(self, styles: Tensor) -> Tensor:
        """styles [b, layers, k + 1, latent_width] → images [b, 3, h, w]."""
        x = self.constant.expand(styles.shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
        for index, block in enumerate(self.blocks):
            x = block(x, styles[:, max(0, 2 * index - 1) : 2 * index + 1], self.latent_position)
        x = self.last(x, styles[:, -2, -1])
        image: Tensor = self.to_rgb(x, styles[:, -1, -1])
        return image


def build(resolution: int, size: str, attention: str = "simplex") -> Gan:
    """Both networks; every weight is N(0, 1) and scaled at run time, biases are 0, those of the styles 1.

    Raises:
        ValueError: there is no configuration for that resolution and size, or no such attention.
    """
    if attention not in ATTENTIONS:
        raise ValueError(f"GANformer has no attention '{attention}'; known: {', '.join(ATTENTIONS)}.")
    config = replace(_config(resolution, size), attention=attention)
    return Gan(
        generator=Generator(resolution, config),
        discriminator=ResidualDiscriminator(resolution, config.width_at),
        latent_dim=(config.num_latents + 1) * config.latent_width,
    )


def _config(resolution: int, size: str) -> GanformerConfig:
    return config_for(CONFIGS, "GANformer", resolution, size)


_R1_GAMMAS = {"lsun-bedroom": 100.0, "ffhq": 10.0}


def _published(gamma: float, source: str) -> Recipe:
    return Recipe(
        num_images=25_000_000,
        batch_size=32,
        generator_lr=2e-3,
        discriminator_lr=2e-3,
        adam_betas=(0.0, 0.99),
        ema_decay=decay_of_half_life(32, 10_000),
        objective=NonSaturatingR1(r1_weight=gamma / 2, r1_interval=16),
        source=f"{source}; EMA half-life 10k images: run_network.py and training_loop.py of the official code",
    )


_TINY_RECIPE = Recipe(
    num_images=100_000,
    batch_size=16,
    generator_lr=1e-2,
    discriminator_lr=1e-2,
    adam_betas=(0.0, 0.99),
    ema_decay=0.99,
    objective=NonSaturatingR1(r1_weight=0.5, r1_interval=16),
    source="ours, to learn `scenes` on two CPU cores in minutes: small batch, higher learning rates, R1 γ 1, a shorter "
    "EMA, no dropout and no style mixing",
)


def recipe(dataset: str, resolution: int, size: str) -> Recipe:
    """The authors' defaults; γ of R1 is theirs where they name the data set. `source` says which values are ours.

    Raises:
        ValueError: there is no configuration for that resolution and size.
    """
    _config(resolution, size)  # raises
    if size == "tiny":
        return _TINY_RECIPE
    name = "ffhq" if dataset.startswith("ffhq") else dataset
    gamma = _R1_GAMMAS.get(name, 10.0)
    if name in _R1_GAMMAS and resolution == 256:
        return _published(gamma, f"published for {name}: R1 γ {gamma:g}")
    return _published(
        gamma, f"ours: nothing is published for {dataset} at {resolution} px, so the defaults, R1 γ {gamma:g}"
    )


ATTENTIONS = {
    "simplex": "bipartite softmax, pixels × 16 latents, O(n)",
    "duplex": "bipartite softmax, pixels × 16 k-means centroids, O(n)",
}
_OURS = "ours: the 256 px network, up to {} px"

SPEC = GanSpec(
    title="GANformer",
    year=2021,
    paper="https://arxiv.org/abs/2103.01209",
    code="https://github.com/dorarad/gansformer/tree/033ac9f656d9be0003000e92ea6ae915baa2b25f",
    licence="MIT, with files derived from NVIDIA's non-commercial code",
    attention=ATTENTIONS["simplex"],
    resolutions={32: _OURS.format(32), 64: _OURS.format(64), 128: _OURS.format(128), 256: "paper"},
    attentions=ATTENTIONS,
    build=build,
    recipe=recipe,
)
