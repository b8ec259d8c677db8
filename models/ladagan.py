"""LadaGAN: a generator and a discriminator built on linear additive attention. The model this bench is about.

Source: Morales-Juarez and Fuentes-Pineda, "Efficient generative adversarial networks using linear additive-attention
Transformers", arXiv 2401.09596; official code (MIT; facts were read there, the code is ours):
https://github.com/milmor/LadaGAN/tree/eb3ed9c53c4f4b2775aaee034d991075f670af0d
`tensorflow/{model,trainer,config}.py` is the reference. The authors' PyTorch port (`pytorch/`) has the same networks at
32 and 64 px and cannot build the 128 px one, because its convolutions do not change the width between stages.

Layout: tokens are [b, n, c] and images are [b, c, h, w] in channels-last memory, so that going from one to the other
is a view; only depth-to-space and space-to-depth copy. Channel order of both is TensorFlow's (block row, block column,
channel).

Deliberate differences from the TensorFlow code:
* A stride-2 convolution pads one pixel on every side, as in the port; Keras' `same` pads below and on the right only.
  The two are mirror images of each other: the same function class, parameters and multiply-accumulates.
* `build` knows 256 px, which the authors published no configuration for, and `tiny`, which is ours.
* `attention` puts another operator in place of the additive one, in every block of both networks: the controlled
  experiment. Everything else stays as it is; in size `paper` the generator's parameters change by at most 1.3 %
  (Linformer's projection at 1024 tokens, 262,144 weights; the others lack the additive score's 5,388 at 64 px). The
  same projection is 42 % of a `tiny` generator: there Linformer is not matched in parameters, the others are.
Where port and TensorFlow code disagree, TensorFlow's values stand: batch norm momentum 0.99 (torch's 0.01) and eps
1e-3, layer norm eps 1e-6 in both networks, orthogonal position embeddings, query, key and value weights each orthogonal
by itself, R1 weight 1e-4, batch 128 up to 64 px, Adam eps 1e-7.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from models._attention import OPERATORS, build_attention
from models._configs import config_for
from models._losses import NonSaturatingR1
from models._relative_position import PositionEmbedding
from models._spec import Gan, GanSpec, Recipe
from models._token_grid import as_tokens
from models._transformer import mlp

FIRST_GRID = 8  # tokens per side of the generator's first stage; each further one has twice as many
NUM_FIRST_TOKENS = FIRST_GRID**2
DISCRIMINATOR_GRID = 16  # pixels per side where the discriminator attends, 256 tokens


@dataclass(frozen=True, kw_only=True)
class LadaGanConfig:
    """All widths of one (resolution, size).

    Attributes:
        generator_widths: channels of the stages with 64, 256 and 1024 tokens; the published ones have these three, and
            more would go on with four times the tokens each.
        decoder_widths: convolutional decoder, one ×2 upsampling per entry; without it depth-to-space makes the image.
        encoder_widths: discriminator, first convolution and then one ×½ block per further entry.
        head_widths: discriminator, the two convolutions before the logits.
        mlp_width, num_heads, attention: of every Ladaformer block, in both networks.
    """

    generator_widths: tuple[int, ...]
    decoder_widths: tuple[int, ...] = ()
    encoder_widths: tuple[int, ...]
    head_widths: tuple[int, int] = (512, 1024)
    mlp_width: int = 512
    num_heads: int = 4
    attention: str = "additive"
    latent_dim: int = 128


CONFIGS: Mapping[tuple[int, str], LadaGanConfig] = {
    (32, "paper"): LadaGanConfig(
        generator_widths=(1024, 256, 64),
        encoder_widths=(128, 256),
    ),
    (64, "paper"): LadaGanConfig(
        generator_widths=(1024, 256, 64),
        encoder_widths=(64, 128, 256),
    ),
    (128, "paper"): LadaGanConfig(
        generator_widths=(1024, 512, 256),
        decoder_widths=(128, 64),
        encoder_widths=(32, 64, 128, 256),
    ),
    (256, "paper"): LadaGanConfig(
        generator_widths=(1024, 512, 256),
        decoder_widths=(128, 64, 32),
        encoder_widths=(16, 32, 64, 128, 256),
    ),
    (32, "tiny"): LadaGanConfig(
        generator_widths=(64, 32, 8),
        encoder_widths=(8, 16),
        head_widths=(32, 64),
        mlp_width=32,
        num_heads=2,
    ),
    (64, "tiny"): LadaGanConfig(
        generator_widths=(64, 32, 16),
        encoder_widths=(8, 8, 16),
        head_widths=(32, 64),
        mlp_width=32,
        num_heads=2,
    ),
    (128, "tiny"): LadaGanConfig(
        generator_widths=(64, 32, 16),
        decoder_widths=(8, 8),
        encoder_widths=(4, 8, 8, 16),
        head_widths=(32, 64),
        mlp_width=32,
        num_heads=2,
    ),
    (256, "tiny"): LadaGanConfig(
        generator_widths=(64, 32, 16),
        decoder_widths=(8, 8, 4),
        encoder_widths=(4, 4, 8, 8, 16),
        head_widths=(32, 64),
        mlp_width=32,
        num_heads=2,
    ),
}


class SelfModulatedLayerNorm(nn.Module):
    """Layer norm whose scale and shift come from z: h = relu(W_h z + b_h); y = norm(x) ⊙ scale(h) + shift(h)."""

    def __init__(self, width: int, latent_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.hidden = nn.Linear(latent_dim, width)
        self.to_scale = nn.Linear(width, width)
        self.to_shift = nn.Linear(width, width)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x [b, n, c], z [b, latent_dim] → [b, n, c]; the scale is used as it is, without "1 +"."""
        h = torch.relu(self.hidden(z)).unsqueeze(1)  # [b, 1, c]
        return torch.addcmul(self.to_shift(h), self.norm(x), self.to_scale(h))


class SelfModulatedLadaformer(nn.Module):
    """The generator's block, on side × side tokens: a residual around the attention and none around the MLP."""

    def __init__(self, width: int, side: int, config: LadaGanConfig) -> None:
        super().__init__()
        self.norm_attention = SelfModulatedLayerNorm(width, config.latent_dim)
        # The generator's loss is differentiated once, so a softmax may be fused.
        self.attention = build_attention(config.attention, width, config.num_heads, (side, side), is_fused=True)
        self.norm_mlp = SelfModulatedLayerNorm(width, config.latent_dim)
        self.mlp = mlp(width, config.mlp_width)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x [b, n, c], z [b, latent_dim] → [b, n, c]."""
        x = self.attention(self.norm_attention(x, z)) + x
        y: Tensor = self.mlp(self.norm_mlp(x, z))
        return y


class Ladaformer(nn.Module):
    """The discriminator's block, on side × side tokens: layer norms with weights of their own and both residuals."""

    def __init__(self, width: int, side: int, config: LadaGanConfig) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, eps=1e-6)
        self.attention = build_attention(config.attention, width, config.num_heads, (side, side))
        self.norm_mlp = nn.LayerNorm(width, eps=1e-6)
        self.mlp = mlp(width, config.mlp_width)

    def forward(self, x: Tensor) -> Tensor:
        """x [b, n, c] → [b, n, c]."""
        x = self.attention(self.norm_attention(x)) + x
        y: Tensor = self.mlp(self.norm_mlp(x)) + x
        return y


class Generator(nn.Module):
    """z [b, latent_dim] → images [b, 3, resolution, resolution], no tanh."""

    def __init__(self, resolution: int, config: LadaGanConfig) -> None:
        super().__init__()
        widths = config.generator_widths
        sides = [FIRST_GRID * 2**stage for stage in range(len(widths))]
        self.to_first_tokens = nn.Linear(config.latent_dim, NUM_FIRST_TOKENS * widths[0], bias=False)
        self.positions = nn.ModuleList(
            PositionEmbedding(side**2, width, std=None) for side, width in zip(sides, widths, strict=True)
        )
        self.blocks = nn.ModuleList(
            SelfModulatedLadaformer(width, side, config) for width, side in zip(widths, sides, strict=True)
        )
        self.up_convs = nn.ModuleList(
            nn.Conv2d(width_in // 4, width_out, 3, padding=1) for width_in, width_out in pairwise(widths)
        )
        self.decoder = nn.Sequential()
        for width_in, width_out in pairwise((widths[-1], *config.decoder_widths)):
            self.decoder.extend(_up_block(width_in, width_out))
        self.patch_size = resolution // (sides[-1] * 2 ** len(config.decoder_widths))
        image_width = config.decoder_widths[-1] if config.decoder_widths else widths[-1] // self.patch_size**2
        self.to_rgb = nn.Conv2d(image_width, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """z [b, latent_dim] → images in the dtype of z."""
        x = self.to_first_tokens(z).unflatten(1, (NUM_FIRST_TOKENS, -1))
        x = self.blocks[0](self.positions[0](x), z)
        for up_conv, position, block in zip(self.up_convs, self.positions[1:], self.blocks[1:], strict=True):
            x = as_tokens(up_conv(_depth_to_space(x, 2)))
            x = block(position(x), z)
        images: Tensor = self.to_rgb(self.decoder(_depth_to_space(x, self.patch_size)))
        return images.to(z.dtype)


def _up_block(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(width_in, width_out, 3, padding=1),
        _batch_norm(width_out),
        nn.LeakyReLU(0.2, inplace=True),
    )


class DownBlock(nn.Module):
    """Halves the grid; the mean of a convolutional path and a pooled one."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(width_in, width_out, 3, stride=2, padding=1, bias=False),
            _batch_norm(width_out),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(width_out, width_out, 3, padding=1, bias=False),
            _batch_norm(width_out),
            nn.LeakyReLU(0.2, inplace=True),
        )
        self.direct = nn.Sequential(
            nn.AvgPool2d(2),
            nn.Conv2d(width_in, width_out, 1, bias=False),
            _batch_norm(width_out),
            nn.LeakyReLU(0.2, inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [b, c_in, h, w] → [b, c_out, h / 2, w / 2]."""
        y: Tensor = (self.main(x) + self.direct(x)) / 2
        return y


class Discriminator(nn.Module):
    """Images [b, 3, resolution, resolution] → logits [b, 25], one per position of a 4 × 4 window on an 8 × 8 grid."""

    def __init__(self, config: LadaGanConfig) -> None:
        super().__init__()
        widths = config.encoder_widths
        self.from_rgb = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.LeakyReLU(0.2, inplace=True)
        )
        self.encoder = nn.Sequential(*(DownBlock(width_in, width_out) for width_in, width_out in pairwise(widths)))
        self.position = PositionEmbedding(DISCRIMINATOR_GRID**2, widths[-1], std=None)
        self.block = Ladaformer(widths[-1], DISCRIMINATOR_GRID, config)
        self.head = nn.Sequential(
            nn.Conv2d(4 * widths[-1], config.head_widths[0], 3, padding=1),
            nn.Conv2d(config.head_widths[0], config.head_widths[1], 1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(config.head_widths[1], 1, 4, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images [b, 3, h, w] → logits [b, 25] in the dtype of the images."""
        features = self.encoder(self.from_rgb(x.contiguous(memory_format=torch.channels_last)))
        tokens = self.block(self.position(as_tokens(features)))
        logits: Tensor = self.head(_space_to_depth(tokens, 2)).flatten(1)
        return logits.to(x.dtype)


def _batch_norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)  # Keras' defaults; its momentum .99 is torch's .01


def _depth_to_space(x: Tensor, factor: int) -> Tensor:
    """Tokens [b, s·s, f·f·c] → image [b, c, f·s, f·s] in channels-last memory."""
    b, num_tokens, width = x.shape
    side = math.isqrt(num_tokens)
    x = x.reshape(b, side, side, factor, factor, width // factor**2).transpose(2, 3)  # [b, s, f, s, f, c]
    return x.reshape(b, side * factor, side * factor, width // factor**2).permute(0, 3, 1, 2)


def _space_to_depth(x: Tensor, factor: int) -> Tensor:
    """Tokens [b, s·s, c] → image [b, f·f·c, s / f, s / f] in channels-last memory."""
    b, num_tokens, width = x.shape
    side = math.isqrt(num_tokens) // factor
    x = x.reshape(b, side, factor, side, factor, width).transpose(2, 3)  # [b, s/f, s/f, f, f, c]
    return x.reshape(b, side, side, factor**2 * width).permute(0, 3, 1, 2)


def build(resolution: int, size: str, attention: str = "additive") -> Gan:
    """Both networks, orthogonally initialised, with that operator of `models._attention.OPERATORS` in both.

    Raises:
        ValueError: there is no configuration for that resolution and size, or no such operator.
    """
    config = replace(config_for(CONFIGS, "LadaGAN", resolution, size), attention=attention)
    generator, discriminator = Generator(resolution, config), Discriminator(config)
    for network in (generator, discriminator):
        network.apply(_initialise)
    return Gan(generator=generator, discriminator=discriminator, latent_dim=config.latent_dim)


def _initialise(module: nn.Module) -> None:
    """Orthogonal weights, a convolution's flattened to [c_out, c_in·k·k]; biases zero; norms keep their 1 and 0."""
    if isinstance(module, nn.Linear | nn.Conv2d | PositionEmbedding):
        nn.init.orthogonal_(module.weight)
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _published(num_images: int, batch_size: int, objective: NonSaturatingR1, source: str) -> Recipe:
    return Recipe(
        num_images=num_images,
        batch_size=batch_size,
        generator_lr=2e-4,
        discriminator_lr=2e-4,
        adam_betas=(0.5, 0.99),
        adam_eps=1e-7,  # Keras' default
        ema_decay=0.999,
        objective=objective,
        source=f"{source}; https://huggingface.co/milmor/LadaGAN and tensorflow/config.py",
    )


_PLAIN = NonSaturatingR1(r1_weight=1e-4, augmentations=("color", "translation"))
_CONSISTENT = NonSaturatingR1(
    r1_weight=1e-4, augmentations=("color", "translation", "cutout"), bcr_real_weight=0.1, bcr_fake_weight=0.1
)

_RECIPES: Mapping[tuple[str, int], Recipe] = {
    ("cifar10", 32): _published(68_100_000, 128, _PLAIN, "released model cifar10"),
    ("celeba-64", 64): _published(72_200_000, 128, _PLAIN, "released model celeba_64"),
    ("ffhq-128", 128): _published(
        24_100_000,
        64,
        _CONSISTENT,
        "released model ffhq_128 (the README says 53M images, the released model saw 24.1M)",
    ),
    ("lsun-bedroom", 128): _published(
        10_600_000,
        64,
        _CONSISTENT,
        "released model bedroom_128 (image count read; the rest inferred to be that of ffhq_128, whose configuration "
        "file has the same length)",
    ),
}
_TINY_RECIPE = Recipe(
    num_images=100_000,
    batch_size=16,
    generator_lr=1e-3,
    discriminator_lr=2e-3,
    adam_betas=(0.0, 0.99),
    adam_eps=1e-7,
    ema_decay=0.996,
    objective=NonSaturatingR1(r1_weight=0.005, augmentations=("color",)),
    source="ours, to learn a little on two CPU cores in minutes: small batch, stronger R1, higher learning rates, no "
    "momentum, shorter EMA, only the colour augmentation",
)
# The discriminator is blind to the contrast of a batch: nothing before its first batch norm has a bias, and it sees
# real and generated images apart. With the colours alone the contrast of the images drifts; beside a border it does
# not, and higher learning rates hold. At these, a training on crops of photographs fell apart: for `scenes` only.
_TINY_SCENES_RECIPE = replace(
    _TINY_RECIPE,
    generator_lr=6e-3,
    discriminator_lr=6e-3,
    adam_betas=(0.0, 0.999),
    ema_decay=0.993,
    max_gradient_norm=1.0,  # without it some seeds come to a standstill at such learning rates
    objective=NonSaturatingR1(r1_weight=0.015, r1_interval=4, augmentations=("mild_color", "bordered_translation")),
    source="ours, to learn `scenes` at 32 px on two CPU cores in minutes: small batch, stronger R1 in every fourth "
    "step, high learning rates with clipped gradients, no momentum, shorter EMA, milder colours and a border of black "
    "or white",
)
_STAND_INS = {32: ("cifar10", 32), 64: ("celeba-64", 64), 128: ("ffhq-128", 128), 256: ("ffhq-128", 128)}


def recipe(dataset: str, resolution: int, size: str) -> Recipe:
    """The authors' training where they published one; `source` says which values are ours.

    Raises:
        ValueError: there is no configuration for that resolution and size.
    """
    config_for(CONFIGS, "LadaGAN", resolution, size)  # raises
    if size == "tiny":
        return _TINY_SCENES_RECIPE if (dataset, resolution) == ("scenes", 32) else _TINY_RECIPE
    found = _RECIPES.get((dataset, resolution))
    if found is None:
        name, at_px = _STAND_INS[resolution]
        found = _RECIPES[name, at_px]
        note = f"ours: nothing is published for {dataset} at {resolution} px, so the values of {name} at {at_px} px"
        found = replace(found, source=f"{note} ({found.source})")
    return found


SPEC = GanSpec(
    title="LadaGAN",
    year=2024,
    paper="https://arxiv.org/abs/2401.09596",
    code="https://github.com/milmor/LadaGAN/tree/eb3ed9c53c4f4b2775aaee034d991075f670af0d",
    licence="MIT",
    attention="additive, O(n)",
    resolutions={
        32: "paper",
        64: "paper",
        128: "paper",
        256: "ours: the 128 px widths, continued by one decoder stage (32) and one encoder stage (16)",
    },
    attentions=OPERATORS,
    build=build,
    recipe=recipe,
)
