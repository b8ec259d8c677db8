"""Styleformer: a style-based generator whose layers are self-attention, modulated and demodulated like convolutions.

Source: Park and Kim, "Styleformer: Transformer based Generative Adversarial Networks with Style Vector", arXiv
2106.07023; facts also from reference/models.md. The official code, https://github.com/Jeeseung-Park/Styleformer (its
own parts MIT), is built from files under a non-commercial licence and was not looked at, but for its README and its
issue 1. Widths and layers of the released models: the configuration files (not the code) of a port (Apache-2.0),
https://github.com/BR-IDL/PaddleViT/tree/16ec1fc15140358551eb1be144d5f05b2a19a47d/gan/Styleformer/configs.
Attention style injection is weight demodulation (arXiv 1912.04958, equations 1 to 3) of the linear layers:

    x̂ = instance norm of x over the tokens                  pre-normalisation, without weights
    [q k v] = demodulated linear of x̂, modulated by the style
    y = demodulated linear of (softmax(q kᵀ / √d) v), modulated by a second scale of the style, + linear of x
    x' = activation(y + noise + bias)

The linear layer of x stands in place of the residual, and there is no MLP. Heads are 32 wide. Inferred, because they
give the multiply-accumulates of models.md (to every printed digit, where filters are counted on grids filled with
zeros): the last layer before the grid doubles (low-pass filtered) leads to the next width, a layer takes two scales of
the style, and colours are made once, at the end.

Operators: `softmax` over all tokens (Styleformer), and `linformer` (Styleformer-L): keys and values are 256 learned
mixtures of the tokens wherever there are more than 256 (Wang et al., arXiv 2006.04768, equation 7). Of the released
models the 32 px one is the former, those of 64 and 128 px are the latter.

Choices that are ours, the sources we may read being silent:
* Linformer's mixtures are the same for keys and values (that paper's "key-value sharing").
* The linear skip is neither normalised nor modulated, so it carries what the norm takes away.
* There are no learned positions beside the constant input.
* torch's fused attention: nothing of size n × n is held, but a path length penalty cannot be taken.
* The training, where `source` says so.
Modulating the values before the attention, as the paper draws it, or what comes out of it, as here, is the same:
attention mixes tokens, never channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn

from models._attention import LINFORMER_RANK, OPERATORS
from models._configs import ChannelRule, config_for, decay_of_half_life, gamma_by_pixels
from models._fir import FirUpsample
from models._losses import NonSaturatingR1
from models._spec import Gan, GanSpec, Recipe
from models._stylegan_layers import (
    SQRT_2,
    EqualConv,
    EqualLinear,
    MappingNetwork,
    ResidualDiscriminator,
    StyleNoise,
    ToRgb,
    activated_with_noise,
    modulated_conv,
)
from models._token_grid import as_image, as_tokens, instance_norm
from models._transformer import attend, split_heads

FIRST_GRID = 8  # pixels per side of the constant input


@dataclass(frozen=True, kw_only=True)
class StyleformerConfig(ChannelRule):
    """All widths of one (resolution, size); the rule of channels is the discriminator's.

    Attributes:
        widths: channels at 8, 16, … px up to the resolution.
        num_layers: attention layers of each of these grids.
        head_width: channels of a head; the paper's least depth of 32.
        style_width: of z, of the mapping network and of the styles.
        num_mapping_layers: fully connected layers from z to the style.
    """

    widths: tuple[int, ...]
    num_layers: tuple[int, ...]
    head_width: int = 32
    style_width: int = 512
    num_mapping_layers: int = 8


def _tiny(*widths: int) -> StyleformerConfig:
    return StyleformerConfig(
        widths=widths,
        num_layers=(1,) * len(widths),
        head_width=16,
        style_width=64,
        num_mapping_layers=2,
        channel_base=512,
        channel_max=64,
    )


CONFIGS: Mapping[tuple[int, str], StyleformerConfig] = {
    (32, "paper"): StyleformerConfig(
        widths=(1024, 512, 512),
        num_layers=(1, 3, 3),
        num_mapping_layers=2,
    ),
    (64, "paper"): StyleformerConfig(
        widths=(512, 256, 256, 128),
        num_layers=(1, 2, 2, 2),
    ),
    (128, "paper"): StyleformerConfig(
        widths=(1024, 256, 64, 64, 64),
        num_layers=(1, 2, 1, 1, 1),
    ),
    (256, "paper"): StyleformerConfig(
        widths=(1024, 256, 64, 64, 64, 64),
        num_layers=(1, 2, 1, 1, 1, 1),
    ),
    (32, "tiny"): _tiny(64, 64, 16),
    (64, "tiny"): _tiny(64, 64, 16, 16),
    (128, "tiny"): _tiny(64, 64, 16, 16, 8),
    (256, "tiny"): _tiny(64, 64, 16, 16, 8, 8),
}


class StyledAttention(nn.Module):
    """One encoder layer of the paper; see the file's description for its equations.

    Args:
        width_in, width_out: channels before and after.
        grid: pixels per side.
        rank: mixtures of tokens that stand for the keys and values; None for all tokens as they are.
    """

    def __init__(
        self, width_in: int, width_out: int, grid: int, config: StyleformerConfig, rank: int | None = None
    ) -> None:
        super().__init__()
        self.num_heads = max(1, width_in // config.head_width)
        self.to_scale_in = EqualLinear(config.style_width, width_in, bias_init=1.0)
        self.weight_in = nn.Parameter(torch.randn(3 * width_in, width_in, 1, 1))
        self.mixtures = nn.Parameter(torch.randn(rank, grid**2)) if rank else None
        self.to_scale_out = EqualLinear(config.style_width, width_in, bias_init=1.0)
        self.weight_out = nn.Parameter(torch.randn(width_out, width_in, 1, 1))
        self.skip = EqualConv(width_in, width_out, 1, has_bias=False)
        self.noise = StyleNoise(grid)
        self.bias = nn.Parameter(torch.zeros(width_out))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x [b, c_in, h, w], style [b, style_width] → [b, c_out, h, w]."""
        qkv = as_image(instance_norm(as_tokens(x)))
        qkv = modulated_conv(qkv, self.weight_in, self.to_scale_in(style))  # 1×1: a linear layer of tokens
        mixed = as_image(self._attended(as_tokens(qkv)))
        y = modulated_conv(mixed, self.weight_out, self.to_scale_out(style)) + self.skip(x)
        # both parts have variance 1, so their sum is √2 of what has: the factor that the activation wants
        return activated_with_noise(y, self.noise, self.bias, SQRT_2)

    def _attended(self, qkv: Tensor) -> Tensor:
        """[b, n, 3 c] → [b, n, c]."""
        q, k, v = qkv.chunk(3, dim=2)
        if self.mixtures is not None:
            mixtures = self.mixtures * (1 / math.sqrt(self.mixtures.shape[1]))
            k, v = mixtures @ k, mixtures @ v  # [b, r, c]
        q, k, v = (split_heads(x, self.num_heads) for x in (q, k, v))  # [b, h, n or r, d]
        return attend(q, k, v, is_fused=True)


class Generator(nn.Module):
    """z [b, style_width] → images [b, 3, resolution, resolution], no tanh."""

    def __init__(self, config: StyleformerConfig, operator: str) -> None:
        super().__init__()
        widths = config.widths
        self.mapping = MappingNetwork(config.style_width, config.style_width, config.num_mapping_layers)
        self.constant = nn.Parameter(torch.randn(1, widths[0], FIRST_GRID, FIRST_GRID))
        self.num_layers = config.num_layers
        self.layers = nn.ModuleList()
        for stage, (width, num_layers) in enumerate(zip(widths, config.num_layers, strict=True)):
            grid = FIRST_GRID << stage
            rank = LINFORMER_RANK if operator == "linformer" and grid**2 > LINFORMER_RANK else None
            widths_out = [width] * (num_layers - 1) + [widths[min(stage + 1, len(widths) - 1)]]
            self.layers.extend(StyledAttention(width, width_out, grid, config, rank) for width_out in widths_out)
        self.upsample = FirUpsample()
        self.to_rgb = ToRgb(widths[-1], config.style_width)

    def forward(self, z: Tensor) -> Tensor:
        """z [b, style_width] → images in the dtype of z."""
        style = self.mapping(z)
        x = self.constant.expand(z.shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
        layers = iter(self.layers)
        for stage, num_layers in enumerate(self.num_layers):
            x = self.upsample(x) if stage else x
            for layer in islice(layers, num_layers):
                x = layer(x, style)
        image: Tensor = self.to_rgb(x, style)
        return image.to(z.dtype)


ATTENTIONS: Mapping[str, str] = {name: OPERATORS[name] for name in ("softmax", "linformer")}


def build(resolution: int, size: str, operator: str = "softmax") -> Gan:
    """Both networks; every weight is N(0, 1) and scaled at run time, biases are 0, those of the styles 1.

    Raises:
        ValueError: there is no configuration for that resolution and size, or no such operator.
    """
    config = _config(resolution, size)
    if operator not in ATTENTIONS:
        raise ValueError(f"Styleformer has no attention '{operator}'; known: {', '.join(ATTENTIONS)}.")
    return Gan(
        generator=Generator(config, operator),
        discriminator=ResidualDiscriminator(resolution, config.width_at),
        latent_dim=config.style_width,
    )


def _config(resolution: int, size: str) -> StyleformerConfig:
    return config_for(CONFIGS, "Styleformer", resolution, size)


_CIFAR = Recipe(
    num_images=100_000_000,
    batch_size=32,
    generator_lr=2.5e-3,
    discriminator_lr=2.5e-3,
    adam_betas=(0.0, 0.99),
    ema_decay=decay_of_half_life(32, 500_000),
    objective=NonSaturatingR1(r1_weight=0.01 / 2, r1_interval=16),
    source="the command in the README (batch 32, StyleGAN2-ADA's CIFAR preset) and that preset in arXiv 2006.06676 "
    "as PyTorch-StudioGAN lists it (learning rates, 100 M images, R1 γ 0.01, EMA half-life 500k images, no path "
    "length penalty, no style mixing); ours: without its adaptive augmentation and without the ramp-up of its EMA",
)


def _scaled_to(resolution: int) -> Recipe:
    gamma = gamma_by_pixels(resolution)
    return replace(
        _CIFAR,
        num_images=25_000_000,
        ema_decay=decay_of_half_life(32, 20_000),
        objective=NonSaturatingR1(r1_weight=gamma / 2, r1_interval=16),
        source=f"ours: no values for {resolution} px are known to us, so the batch size of the README and the 256 px "
        f"preset of arXiv 2006.06676 with R1 γ scaled by the number of pixels to {gamma:g}, no path length penalty",
    )


_RECIPES: Mapping[int, Recipe] = {32: _CIFAR, 64: _scaled_to(64), 128: _scaled_to(128), 256: _scaled_to(256)}
_TINY_RECIPE = Recipe(
    num_images=100_000,
    batch_size=16,
    generator_lr=2.5e-3,
    discriminator_lr=1e-3,
    adam_betas=(0.0, 0.99),
    ema_decay=0.99,
    objective=NonSaturatingR1(r1_weight=0.5, r1_interval=16),
    source="ours, to learn `scenes` on two CPU cores in minutes: a small batch, R1 γ 1, a slower discriminator, a "
    "shorter EMA",
)


def recipe(dataset: str, resolution: int, size: str) -> Recipe:
    """What is known of the authors' training; `source` says which values are ours.

    Raises:
        ValueError: there is no configuration for that resolution and size.
    """
    _config(resolution, size)  # raises
    if size == "tiny":
        return _TINY_RECIPE
    found = _RECIPES[resolution]
    if dataset == "cifar10" or found.source.startswith("ours"):
        return found
    return replace(found, source=f"ours: {dataset} has no values of its own at {resolution} px, so {found.source}")


SPEC = GanSpec(
    title="Styleformer",
    year=2022,
    paper="https://arxiv.org/abs/2106.07023",
    code="https://github.com/Jeeseung-Park/Styleformer/tree/15dd72ba7d36fb9b1a9e0956c4708dee84a29cef",
    licence="MIT on files derived from non-commercial ones: written from the paper",
    attention=ATTENTIONS["softmax"],
    attentions=ATTENTIONS,
    resolutions={
        32: "paper",
        64: "ours: widths 512, 256, 256, 128 as counted in reference/models.md; the released CelebA model has others",
        128: "paper",
        256: "ours: the released 128 px model, continued by one grid",
    },
    build=build,
    recipe=recipe,
)
