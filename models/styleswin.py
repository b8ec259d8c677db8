"""StyleSwin: a style-based generator of transformer blocks that attend in plain and in shifted windows at once.

Source: Zhang et al., "StyleSwin: Transformer-based GAN for High-resolution Image Generation", arXiv 2112.10762;
official code (MIT; facts were read there, the code is ours):
https://github.com/microsoft/StyleSwin/tree/a7c28b3121ca86f0577696d6f1d699e13d368672
`models/{generator,discriminator,basic_layers}.py` for the networks, `train_styleswin.py` and the README's commands for
the training. Window attention, Haar transform and losses are in `_window_attention.py`, `_haar.py` and
`_styleswin_losses.py`; the layers of StyleGAN2 it builds on in `_stylegan_layers.py`.

Layout: tokens are [b, n, c] and images [b, c, h, w] in channels-last memory, so that going from one to the other is a
view.

Deliberate differences from the official code:
* The discriminator halves the image and transforms each size; the official one halves by transforming back, filtering
  and transforming forth again. The transform inverts, so the numbers are the same.
* The bias of an activated convolution belongs to the convolution, not to the activation: the same sum.
* Spectral norm (`_spectral_norm.py`) takes 15 power iterations to begin with instead of none, and one per forward pass
  in training, as there. Its products are counted (0.1 % of the discriminator's multiply-accumulates).
* Images are in [-1, 1]; there they are standardised with the means and deviations of ImageNet.
* R1 is part of the loss and takes no optimiser step of its own (see `_styleswin_losses.py`), the learning rates are not
  lowered at the end of the training, and the discriminator's gradients are not clipped (at norm 5 there, the
  generator's are not clipped either).
* 32, 64 and 128 px and `tiny` are ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from models._configs import config_for, decay_of_half_life
from models._fir import FirBlur, FirDownsample, FirUpsample
from models._haar import haar_transform
from models._losses import NonSaturatingR1
from models._spec import Gan, GanSpec, Recipe
from models._spectral_norm import spectral_norm
from models._stylegan_layers import FIRST_GRID, EqualLinear, MappingNetwork, MinibatchStd, activate
from models._styleswin_losses import SeparateConsistency
from models._token_grid import as_image, as_tokens, instance_norm, sinusoids_of_grid
from models._transformer import mlp
from models._window_attention import SwinAttention

WINDOW_SIZE = 8  # tokens per side; smaller grids are one window
BLOCKS_PER_STAGE = 2
MLP_RATIO = 4


@dataclass(frozen=True, kw_only=True)
class StyleSwinConfig:
    """All widths of one (resolution, size).

    Attributes:
        generator_widths: channels at 4, 8, … px up to the resolution.
        discriminator_widths: channels on grids of 4, 8, … up to half the resolution, which is where wavelets are.
        style_width: of z and of the style.
        num_mapping_layers: from z to the style.
        head_width, min_heads: there are width / head_width heads, but at least so many; half of them are shifted.
    """

    generator_widths: tuple[int, ...]
    discriminator_widths: tuple[int, ...]
    style_width: int = 512
    num_mapping_layers: int = 8
    head_width: int = 32
    min_heads: int = 4


def _tiny(*widths: int) -> StyleSwinConfig:
    return StyleSwinConfig(
        generator_widths=widths,
        discriminator_widths=widths[:-1],
        style_width=64,
        num_mapping_layers=2,
        head_width=16,
        min_heads=2,
    )


# Official: 512 up to 32 px, then 256 m, 128 m, 64 m, …; m is 2, and 1 in the generator of 1024 px. The discriminator's
# first width is that of the resolution, the others are those of the grid.
CONFIGS: Mapping[tuple[int, str], StyleSwinConfig] = {
    (32, "paper"): StyleSwinConfig(
        generator_widths=(512, 512, 512, 512),
        discriminator_widths=(512, 512, 512),
    ),
    (64, "paper"): StyleSwinConfig(
        generator_widths=(512, 512, 512, 512, 512),
        discriminator_widths=(512, 512, 512, 512),
    ),
    (128, "paper"): StyleSwinConfig(
        generator_widths=(512, 512, 512, 512, 512, 256),
        discriminator_widths=(512, 512, 512, 512, 256),
    ),
    (256, "paper"): StyleSwinConfig(
        generator_widths=(512, 512, 512, 512, 512, 256, 128),
        discriminator_widths=(512, 512, 512, 512, 512, 128),
    ),
    (1024, "paper"): StyleSwinConfig(
        generator_widths=(512, 512, 512, 512, 256, 128, 64, 32, 16),
        discriminator_widths=(512, 512, 512, 512, 512, 256, 128, 32),
    ),
    (32, "tiny"): _tiny(64, 64, 32, 16),
    (64, "tiny"): _tiny(64, 64, 32, 16, 8),
    (128, "tiny"): _tiny(64, 64, 32, 16, 8, 8),
    (256, "tiny"): _tiny(64, 64, 32, 16, 8, 8, 8),
    (1024, "tiny"): _tiny(64, 64, 32, 16, 8, 8, 8, 8, 8),
}


class AdaptiveInstanceNorm(nn.Module):
    """Every channel of an image is normalised over the tokens, then scaled and shifted by the style (no "1 +")."""

    def __init__(self, width: int, style_width: int) -> None:
        super().__init__()
        self.to_scale_and_shift = EqualLinear(style_width, 2 * width)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x [b, n, c], style [b, style_width] → [b, n, c]."""
        scale, shift = self.to_scale_and_shift(style).unsqueeze(1).float().chunk(2, dim=-1)  # [b, 1, c] each
        return torch.addcmul(shift, instance_norm(x), scale)


class DoubleAttention(nn.Module):
    """Half of the heads attend in windows, the other half in windows shifted by half a window (section 3.2).

    A grid no larger than a window is one window, and nothing is shifted.
    """

    def __init__(self, width: int, num_heads: int, grid_size: int) -> None:
        super().__init__()
        window_size = min(WINDOW_SIZE, grid_size)
        shift = WINDOW_SIZE // 2 if grid_size > WINDOW_SIZE else 0
        self.num_heads, self.grid_size = num_heads, grid_size
        self.to_qkv = nn.Linear(width, 3 * width)
        self.plain = SwinAttention(grid_size, window_size, num_heads // 2)
        self.shifted = SwinAttention(grid_size, window_size, num_heads // 2, shift)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x [b, n, c] → [b, n, c]."""
        grid = self.to_qkv(x).unflatten(1, (self.grid_size, -1)).unflatten(-1, (3, self.num_heads, -1))
        plain, shifted = grid.chunk(2, dim=4)  # [b, s, s, 3, h / 2, d] each
        y = torch.cat((self.plain(plain), self.shifted(shifted)), dim=3)
        out: Tensor = self.to_out(y.flatten(3).flatten(1, 2))
        return out


class StyleSwinBlock(nn.Module):
    """Double attention and an MLP, each after an adaptive instance norm and beside a residual."""

    def __init__(self, width: int, num_heads: int, grid_size: int, style_width: int) -> None:
        super().__init__()
        self.norm_attention = AdaptiveInstanceNorm(width, style_width)
        self.attention = DoubleAttention(width, num_heads, grid_size)
        self.norm_mlp = AdaptiveInstanceNorm(width, style_width)
        self.mlp = mlp(width, MLP_RATIO * width)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x [b, n, c], style [b, style_width] → [b, n, c]."""
        x = x + self.attention(self.norm_attention(x, style))
        y: Tensor = x + self.mlp(self.norm_mlp(x, style))
        return y


class Upsample(nn.Module):
    """Bilinear ×2, layer norm, a linear layer to the next width, and a sinusoidal position times a learned strength."""

    position: Tensor

    def __init__(self, width_in: int, width_out: int, grid_size: int) -> None:
        """`grid_size`: tokens per side of the result."""
        super().__init__()
        self.norm = nn.LayerNorm(width_in)
        self.reduce = nn.Linear(width_in, width_out, bias=False)
        self.position_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("position", sinusoidal_position(grid_size, width_out), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [b, n, c_in] → [b, 4 n, c_out]."""
        x = as_tokens(functional.interpolate(as_image(x), scale_factor=2, mode="bilinear"))
        y: Tensor = self.reduce(self.norm(x))
        return y + self.position * self.position_strength


def sinusoidal_position(grid_size: int, width: int) -> Tensor:
    """Sine and cosine of column and row, counted from 1, at c / 4 rates from 1 down to 1 / 10000: [n, c]."""
    num_rates = width // 4
    rates = torch.exp(torch.arange(num_rates) * (-math.log(10_000) / (num_rates - 1)))
    angle = torch.arange(1, grid_size + 1)[:, None] * rates  # [s, c / 4]
    return sinusoids_of_grid(angle)


class Generator(nn.Module):
    """z [b, style_width] → images [b, 3, resolution, resolution], the sum of what every stage adds; no tanh."""

    def __init__(self, config: StyleSwinConfig) -> None:
        super().__init__()
        widths = config.generator_widths
        grids = [FIRST_GRID << stage for stage in range(len(widths))]
        self.mapping = MappingNetwork(config.style_width, config.style_width, config.num_mapping_layers)
        self.constant = nn.Parameter(torch.randn(FIRST_GRID**2, widths[0]))
        self.blocks = nn.ModuleList(
            StyleSwinBlock(width, max(width // config.head_width, config.min_heads), grid, config.style_width)
            for width, grid in zip(widths, grids, strict=True)
            for _ in range(BLOCKS_PER_STAGE)
        )
        self.ups = nn.ModuleList(
            Upsample(width_in, width_out, grid)
            for (width_in, width_out), grid in zip(pairwise(widths), grids[1:], strict=True)
        )
        self.to_rgb = nn.ModuleList(_to_rgb(width) for width in (*widths[1:], widths[-1]))
        self.upsample_image = FirUpsample()

    def forward(self, z: Tensor) -> Tensor:
        """z [b, style_width] → images in the dtype of z."""
        style = self.mapping(z)
        x = self._stage(0, self.constant.expand(z.shape[0], -1, -1), style)
        image: Tensor = self.to_rgb[0](as_image(x))
        for stage in range(1, len(self.to_rgb)):
            x = self._stage(stage, x, style)
            skip = self.upsample_image(image) if stage < len(self.ups) else image
            image = self.to_rgb[stage](as_image(x)) + skip
        return image.to(z.dtype)

    def _stage(self, stage: int, x: Tensor, style: Tensor) -> Tensor:
        """The blocks of one grid and, but after the last, what leads to the next grid."""
        for block in self.blocks[stage * BLOCKS_PER_STAGE : (stage + 1) * BLOCKS_PER_STAGE]:
            x = block(x, style)
        return self.ups[stage](x) if stage < len(self.ups) else x


class ExtraBias(nn.Module):
    """Two layers of the official code have a second bias beside their own; kept, so that they learn and count alike."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """x [b, c] or [b, c, h, w] → the same shape."""
        return x + self.bias.view(-1, *(1 for _ in x.shape[2:]))


def _to_rgb(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, 3, 1), ExtraBias(3))


def _spectral_conv(width_in: int, width_out: int, kernel_size: int, stride: int = 1) -> nn.Module:
    padding = kernel_size // 2 if stride == 1 else 0  # before a stride the filter pads
    conv = nn.Conv2d(width_in, width_out, kernel_size, stride=stride, padding=padding)
    return _normalised(conv)


def _normalised(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return spectral_norm(layer)


class DiscriminatorStage(nn.Module):
    """Adds the features of the image's wavelets to those of the larger image, then halves the grid."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.from_wavelets = _spectral_conv(12, width_in, 1)
        self.conv = _spectral_conv(width_in, width_in, 3)
        self.blur = FirBlur(padding=2)
        self.down = _spectral_conv(width_in, width_out, 3, stride=2)

    def forward(self, x: Tensor | None, image: Tensor) -> Tensor:
        """x [b, c_in, h / 2, w / 2] or None at the first stage, image [b, 3, h, w] → [b, c_out, h / 4, w / 4]."""
        features = _features(self.from_wavelets, x, image)
        return activate(self.down(self.blur(activate(self.conv(features)))))


def _features(from_wavelets: nn.Module, x: Tensor | None, image: Tensor) -> Tensor:
    features = activate(from_wavelets(haar_transform(image)))
    return features if x is None else features + x


class Discriminator(nn.Module):
    """Images [b, 3, resolution, resolution] → logits [b, 1]; every layer's weight has spectral norm 1."""

    def __init__(self, config: StyleSwinConfig) -> None:
        super().__init__()
        widths = config.discriminator_widths[::-1]  # from half the resolution down to 4 px
        last = widths[-1]
        self.stages = nn.ModuleList(DiscriminatorStage(*pair) for pair in pairwise(widths))
        self.halve = FirDownsample()
        self.from_wavelets = _spectral_conv(12, last, 1)
        self.minibatch_std = MinibatchStd()
        self.conv = _spectral_conv(last + 1, last, 3)
        self.hidden = nn.Sequential(_normalised(nn.Linear(last * FIRST_GRID**2, last)), ExtraBias(last))
        self.to_logit = _normalised(nn.Linear(last, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Images [b, 3, h, w] → logits [b, 1] in the dtype of the images."""
        dtype = image.dtype
        image = image.contiguous(memory_format=torch.channels_last)
        x: Tensor | None = None
        for stage in self.stages:
            x = stage(x, image)
            image = self.halve(image)
        x = self.minibatch_std(_features(self.from_wavelets, x, image))
        x = activate(self.conv(x)).flatten(1)
        logits: Tensor = self.to_logit(activate(self.hidden(x)))
        return logits.to(dtype)


def build(resolution: int, size: str) -> Gan:
    """Both networks, initialised as in the official code.

    Raises:
        ValueError: there is no configuration for that resolution and size.
    """
    config = _config(resolution, size)
    generator = Generator(config)
    generator.apply(_initialise)
    return Gan(generator=generator, discriminator=Discriminator(config), latent_dim=config.style_width)


def _config(resolution: int, size: str) -> StyleSwinConfig:
    return config_for(CONFIGS, "StyleSwin", resolution, size)


def _initialise(module: nn.Module) -> None:
    """The generator's linear layers: N(0, 0.02²), truncated; to colours: Glorot's normal times 0.02; biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_normal_(module.weight, gain=0.02)
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _official(num_images: int, batch_size: int, objective: NonSaturatingR1, source: str) -> Recipe:
    return Recipe(
        num_images=num_images,
        batch_size=batch_size,
        generator_lr=5e-5,
        discriminator_lr=2e-4,
        adam_betas=(0.0, 0.99),
        ema_decay=decay_of_half_life(32, 10_000),  # whatever the batch size
        objective=objective,
        source=f"{source}: the command in the official README and the defaults of train_styleswin.py; ours: no decay "
        "of the learning rates at the end, no clipping of the discriminator's gradients",
    )


_FFHQ_256 = _official(
    32_000_000,
    32,
    SeparateConsistency(
        r1_weight=10 / 2,
        r1_interval=16,
        augmentations=("translation", "color", "cutout"),
        bcr_real_weight=10.0,
        bcr_fake_weight=10.0,
    ),
    "FFHQ 256",
)
_CHURCH_256 = _official(
    48_000_000,
    32,
    NonSaturatingR1(r1_weight=5 / 2, r1_interval=16),
    "LSUN Church 256 (the data set mirrored at random, which is ours to leave to the data set)",
)
_FFHQ_1024 = _official(12_800_000, 16, NonSaturatingR1(r1_weight=10 / 2, r1_interval=16), "FFHQ 1024")
_TINY_RECIPE = Recipe(
    num_images=100_000,
    batch_size=16,
    generator_lr=2e-3,
    discriminator_lr=4e-3,
    adam_betas=(0.0, 0.99),
    ema_decay=0.99,
    objective=SeparateConsistency(
        r1_weight=0.05,
        r1_interval=16,
        augmentations=("translation",),  # under colour changes the contrast of the images lags behind
        bcr_real_weight=0.1,
        bcr_fake_weight=0.1,
    ),
    source="ours, to learn `scenes` on two CPU cores in minutes: small batch, high learning rates, weak R1, weak "
    "consistency without colour and cutout, shorter EMA",
)


def recipe(dataset: str, resolution: int, size: str) -> Recipe:
    """The authors' training of FFHQ, or of LSUN Church for scenes of LSUN; `source` says which values are ours.

    Raises:
        ValueError: there is no configuration for that resolution and size.
    """
    _config(resolution, size)  # raises
    if size == "tiny":
        return _TINY_RECIPE
    found = _CHURCH_256 if dataset.startswith("lsun") else _FFHQ_256
    found = _FFHQ_1024 if resolution == 1024 else found
    note = f"ours: nothing is published for {dataset} at {resolution} px, so the values of {found.source}"
    return replace(found, source=note)


SPEC = GanSpec(
    title="StyleSwin",
    year=2022,
    paper="https://arxiv.org/abs/2112.10762",
    code="https://github.com/microsoft/StyleSwin/tree/a7c28b3121ca86f0577696d6f1d699e13d368672",
    licence="MIT",
    attention="softmax in 8×8 windows, plain and shifted, O(n)",
    resolutions={
        32: "ours: the 256 px widths, up to 32 px",
        64: "ours: the 256 px widths, up to 64 px",
        128: "ours: the 256 px widths, up to 128 px",
        256: "paper",
        1024: "paper",
    },
    build=build,
    recipe=recipe,
)
