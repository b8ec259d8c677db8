"""HiT: a generator of blocked attention along two axes at low resolution and of MLPs alone above; z enters as tokens.

Source: Zhao et al., "Improved Transformer for High-Resolution GANs", arXiv 2106.07631; official code (Apache-2.0; facts
were read there, the code is ours): https://github.com/google-research/hit-gan/tree/5d9be72365ac8992e54e9f81162ef3c7bce63378
`models/{generators,layers,discriminators}.py`, `trainers/gan_trainer.py`, `run.py` and the README's commands.

* Multi-axis blocked self-attention (section 3.2): the grid is cut into square blocks; half of the heads attend among
  the tokens of a block (local), the other half among the tokens at the same place of all blocks (dilated). Keys and
  values are shared by all heads (multi-query).
* Every stage starts with cross-attention to 16 embeddings of z (section 3.4), and in the high-resolution stages the
  rest is MLPs (section 3.3); each of those adds its colours to the upsampled image of the stage before.
* Batch norm throughout, pixel shuffle between stages and a linear layer where the width is not a quarter.
* The discriminator is StyleGAN2's residual one without equalised learning rate and minibatch statistics: low-pass and
  subsampling stand before the convolutions instead of a stride in them.

Deliberate differences from the official code:
* Pixel shuffle has torch's channel order; TensorFlow's is a permutation of the weights before it.
* The two networks are updated in turn; there both gradients are taken at the same weights, from the same images.
* EMA runs from step 0 and not from step 10; real images are not flipped here, which is the data set's business.
* 32 and 64 px are ours (the 128 px layout, cut), and `tiny` is.
Keras' defaults stand: batch norm momentum 0.99 (torch's 0.01) and eps 1e-3, Adam eps 1e-7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models._configs import config_for
from models._fir import FirDownsample
from models._losses import NonSaturatingR1
from models._relative_position import PositionEmbedding, from_windows, to_windows
from models._spec import Gan, GanSpec, Recipe
from models._stylegan_layers import LEAK
from models._transformer import attend, initialise_glorot, mlp, split_heads

FIRST_GRID = 8  # tokens per side of the generator's first stage
LAST_GRID = 4  # pixels per side where the discriminator ends
NUM_EMBEDDINGS = 16  # of z
MLP_RATIO = 4


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the generator, at twice the side of the one before.

    Attributes:
        width: channels of a token.
        num_heads: of its attention layers.
        num_layers: after the cross-attention.
        block_size: tokens per side of a block; None: the layers are MLPs and the stage makes colours.
    """

    width: int
    num_heads: int
    num_layers: int
    block_size: int | None


@dataclass(frozen=True, kw_only=True)
class HitConfig:
    """All widths of one (resolution, size).

    Attributes:
        stages: the generator's, from 8 × 8 up.
        discriminator_widths: channels from the full image down to 4 × 4, one per halving of the side.
    """

    latent_dim: int
    stages: tuple[Stage, ...]
    discriminator_widths: tuple[int, ...]


def _stages(
    widths: tuple[int, ...], heads: tuple[int, ...], layers: tuple[int, ...], blocks: tuple[int, ...]
) -> tuple[Stage, ...]:
    """Stages beyond the last of `blocks` are MLPs."""
    sizes: tuple[int | None, ...] = (*blocks, *[None] * (len(widths) - len(blocks)))
    return tuple(
        Stage(width=width, num_heads=num_heads, num_layers=num_layers, block_size=size)
        for width, num_heads, num_layers, size in zip(widths, heads, layers, sizes, strict=True)
    )


def _tiny(num_stages: int, num_attending: int) -> HitConfig:
    widths = (64, 32, 16, 16, 16, 8, 8, 8)[:num_stages]
    stages = _stages(widths, (4,) * num_stages, (1,) * num_stages, (4, 4, 8, 8)[:num_attending])
    return HitConfig(
        latent_dim=64, stages=stages, discriminator_widths=(48, 48, 32, 16, 8, 8, 8, 4, 4)[: num_stages + 1][::-1]
    )


CONFIGS: Mapping[tuple[int, str], HitConfig] = {
    (32, "paper"): HitConfig(
        latent_dim=256,
        stages=_stages((512, 512, 256), (16, 8, 4), (2, 2, 2), (4, 4)),
        discriminator_widths=(512, 512, 512, 512),
    ),
    (64, "paper"): HitConfig(
        latent_dim=256,
        stages=_stages((512, 512, 256, 128), (16, 8, 4, 4), (2, 2, 2, 2), (4, 4, 8)),
        discriminator_widths=(256, 512, 512, 512, 512),
    ),
    (128, "paper"): HitConfig(
        latent_dim=256,
        stages=_stages((512, 512, 256, 128, 128), (16, 8, 4, 4, 4), (2, 2, 2, 2, 2), (4, 4, 8, 8)),
        discriminator_widths=(128, 256, 512, 512, 512, 512),
    ),
    (256, "paper"): HitConfig(
        latent_dim=512,
        stages=_stages((512, 512, 256, 128, 64, 64), (16, 8, 4, 4, 4, 4), (2, 2, 2, 2, 1, 1), (4, 4, 8, 8)),
        discriminator_widths=(128, 256, 512, 512, 512, 512, 512),
    ),
    (1024, "paper"): HitConfig(
        latent_dim=512,
        stages=_stages((512, 512, 256, 128, 64, 64, 32, 32), (16, 8, *[4] * 6), (2, 2, 2, 2, 1, 1, 1, 1), (4, 4, 8, 8)),
        discriminator_widths=(32, 64, 128, 256, 512, 512, 512, 512, 512),
    ),
    (32, "tiny"): _tiny(3, 2),
    (64, "tiny"): _tiny(4, 3),
    (128, "tiny"): _tiny(5, 4),
    (256, "tiny"): _tiny(6, 4),
    (1024, "tiny"): _tiny(8, 4),
}


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch norm over everything but the last dimension, with Keras' defaults."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., c] → [..., c]."""
        y: Tensor = super().forward(x.reshape(-1, x.shape[-1]))
        return y.view(x.shape)


class MultiQueryAttention(nn.Module):
    """Softmax attention whose heads share their keys and values; the parts of both layers that attend.

    Args:
        width: channels c of the queries' tokens and of the result.
        num_heads: heads h of width d = c / h.
        source_width: channels of the tokens that keys and values are made of.
    """

    def __init__(self, width: int, num_heads: int, source_width: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(source_width, width // num_heads)
        self.to_v = nn.Linear(source_width, width // num_heads)
        self.to_out = nn.Linear(width, width)


class CrossAttention(MultiQueryAttention):
    """Every token attends to the embeddings of z."""

    def forward(self, x: Tensor, embeddings: Tensor) -> Tensor:
        """x [b, blocks, n, c], embeddings [b, m, e] → [b, blocks, n, c]."""
        q = split_heads(self.to_q(x).flatten(1, 2), self.num_heads)  # [b, h, blocks·n, d]
        out: Tensor = self.to_out(_attend(q, self.to_k(embeddings), self.to_v(embeddings)).reshape(x.shape))
        return out


class MultiAxisAttention(MultiQueryAttention):
    """The first half of the heads attends inside blocks, the second half across them (section 3.2)."""

    def forward(self, x: Tensor) -> Tensor:
        """x [b, blocks, n, c] → [b, blocks, n, c]."""
        b, num_blocks, n, _ = x.shape
        local, dilated = self.to_q(x).unflatten(-1, (2, self.num_heads // 2, -1)).unbind(3)  # [b, blocks, n, h/2, d]
        k, v = self.to_k(x), self.to_v(x)  # [b, blocks, n, d]
        inside = _attend(local.transpose(2, 3).flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
        inside = inside.reshape(b, num_blocks, n, -1)  # [b, blocks, n, c/2]
        across = _attend(
            dilated.permute(0, 2, 3, 1, 4).flatten(0, 1),
            k.transpose(1, 2).flatten(0, 1),
            v.transpose(1, 2).flatten(0, 1),
        )
        across = across.reshape(b, n, num_blocks, -1).transpose(1, 2)  # [b, blocks, n, c/2]
        y: Tensor = self.to_out(torch.cat([inside, across], dim=3))
        return y


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [b, h, n, d], one k and v [b, m, d] for all heads → [b, n, h·d]."""
    k, v = (part.unsqueeze(1).expand(-1, q.shape[1], -1, -1) for part in (k, v))
    return attend(q, k, v, is_fused=True)


class Mlp(nn.Module):
    """Batch norm, two linear layers, residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = TokenBatchNorm(width)
        self.layers = mlp(width, MLP_RATIO * width)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., c] → [..., c]."""
        y: Tensor = self.layers(self.norm(x)) + x
        return y


class AttentionLayer(nn.Module):
    """Batch norm, attention and residual, then an MLP; attends to the embeddings of z where given a source width."""

    def __init__(self, width: int, num_heads: int, source_width: int | None = None) -> None:
        super().__init__()
        self.norm = TokenBatchNorm(width)
        self.attention: nn.Module
        if source_width is None:
            self.attention = MultiAxisAttention(width, num_heads, width)
        else:
            self.attention = CrossAttention(width, num_heads, source_width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor, *embeddings: Tensor) -> Tensor:
        """x [b, blocks, n, c], nothing or embeddings [b, m, e] → [b, blocks, n, c]."""
        y: Tensor = self.mlp(self.attention(self.norm(x), *embeddings) + x)
        return y


class GeneratorStage(nn.Module):
    """Positions, cross-attention to z, then blocked attention layers or MLPs, which also make colours."""

    def __init__(self, grid_size: int, stage: Stage, embedding_width: int) -> None:
        super().__init__()
        self.block_size = stage.block_size or grid_size
        self.num_columns = grid_size // self.block_size
        self.position = PositionEmbedding(grid_size, grid_size, stage.width)
        self.cross = AttentionLayer(stage.width, stage.num_heads, embedding_width)
        is_attending = stage.block_size is not None
        self.layers = nn.Sequential(
            *(
                AttentionLayer(stage.width, stage.num_heads) if is_attending else Mlp(stage.width)
                for _ in range(stage.num_layers)
            )
        )
        self.to_rgb = None if is_attending else nn.Sequential(TokenBatchNorm(stage.width), nn.Linear(stage.width, 3))

    def forward(self, x: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor | None]:
        """x [b, s, s, c], embeddings [b, m, e] → [b, s, s, c] and, where the stage makes them, colours [b, 3, s, s]."""
        x = to_windows(self.position(x), self.block_size)
        x = self.layers(self.cross(x, embeddings))
        x = from_windows(x, self.block_size, self.num_columns)
        return x, None if self.to_rgb is None else self.to_rgb(x).permute(0, 3, 1, 2)


class PixelShuffle(nn.Module):
    """Twice the side, a quarter of the width, and a linear layer where another width is wanted."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width_in // 4, width_out) if width_in // 4 != width_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x [b, s, s, c_in] → [b, 2 s, 2 s, c_out]."""
        y: Tensor = self.linear(functional.pixel_shuffle(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1))
        return y


class Generator(nn.Module):
    """z [b, latent_dim] → images [b, 3, s, s] with s = 8 · 2^(stages - 1), no tanh."""

    def __init__(self, config: HitConfig) -> None:
        super().__init__()
        widths = [stage.width for stage in config.stages]
        self.to_first_tokens = nn.Linear(config.latent_dim, FIRST_GRID**2 * widths[0])
        self.to_embeddings = nn.Sequential(
            nn.Linear(config.latent_dim, NUM_EMBEDDINGS * widths[0]),
            nn.Unflatten(1, (NUM_EMBEDDINGS, widths[0])),
            PositionEmbedding(NUM_EMBEDDINGS, widths[0]),
            TokenBatchNorm(widths[0]),
        )
        self.stages = nn.ModuleList(
            GeneratorStage(FIRST_GRID << index, stage, widths[0]) for index, stage in enumerate(config.stages)
        )
        self.upsamplings = nn.ModuleList(PixelShuffle(width_in, width_out) for width_in, width_out in pairwise(widths))

    def forward(self, z: Tensor) -> Tensor:
        """z [b, latent_dim] → images in the dtype of z."""
        embeddings = self.to_embeddings(z)
        x = self.to_first_tokens(z).unflatten(1, (FIRST_GRID, FIRST_GRID, -1))
        image: Any = None  # until the first stage that makes colours; the last one always does
        for stage, upsampling in zip(self.stages, (*self.upsamplings, None), strict=True):
            x, colours = stage(x, embeddings)
            if colours is not None:
                image = colours if image is None else colours + functional.interpolate(image, scale_factor=2)
            if upsampling is not None:
                x = upsampling(x)
        images: Tensor = image.to(z.dtype)
        return images


class DownBlock(nn.Module):
    """Halves the grid: two convolutions with the low-pass between them, beside a low-pass and a 1×1 convolution."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_in, 3, padding=1)
        self.pool = FirDownsample()
        self.conv_after = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.skip = nn.Conv2d(width_in, width_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [b, c_in, h, w] → [b, c_out, h / 2, w / 2]; the sum's variance is that of its parts."""
        main = _leaky(self.conv_after(self.pool(_leaky(self.conv(x)))))
        y: Tensor = (main + self.skip(self.pool(x))) * 0.5**0.5
        return y


def _leaky(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, LEAK)


class Discriminator(nn.Module):
    """Images [b, 3, resolution, resolution] → logits [b, 1]."""

    def __init__(self, config: HitConfig) -> None:
        super().__init__()
        widths = config.discriminator_widths
        self.from_rgb = nn.Conv2d(3, widths[0], 3, padding=1)
        self.blocks = nn.Sequential(*(DownBlock(width_in, width_out) for width_in, width_out in pairwise(widths)))
        self.last_conv = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)
        self.hidden = nn.Linear(widths[-1] * LAST_GRID**2, widths[-1])
        self.to_logit = nn.Linear(widths[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images [b, 3, h, w] → logits [b, 1] in the dtype of the images."""
        features = self.blocks(_leaky(self.from_rgb(x.contiguous(memory_format=torch.channels_last))))
        logits: Tensor = self.to_logit(_leaky(self.hidden(_leaky(self.last_conv(features)).flatten(1))))
        return logits.to(x.dtype)


def build(resolution: int, size: str) -> Gan:
    """Both networks, initialised.

    Raises:
        ValueError: there is no configuration for that resolution and size.
    """
    config = _config(resolution, size)
    generator, discriminator = Generator(config), Discriminator(config)
    generator.apply(_initialise_generator)
    discriminator.apply(initialise_glorot)  # Keras' default
    return Gan(generator=generator, discriminator=discriminator, latent_dim=config.latent_dim)


def _config(resolution: int, size: str) -> HitConfig:
    return config_for(CONFIGS, "HiT", resolution, size)


def _initialise_generator(module: nn.Module) -> None:
    """N(0, 0.02) cut at two deviations, as positions have; zero biases; norms keep their 1 and 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
        nn.init.zeros_(module.bias)


def _published(num_steps: int, lr: float, objective: NonSaturatingR1, source: str) -> Recipe:
    return Recipe(
        num_images=256 * num_steps,
        batch_size=256,
        generator_lr=lr,
        discriminator_lr=lr,
        adam_betas=(0.0, 0.99),
        adam_eps=1e-7,  # Keras' default
        ema_decay=0.999,
        objective=objective,
        source=f"{source} of the official README and the defaults of run.py",
    )


_IMAGENET_128 = _published(1_000_000, 1e-4, NonSaturatingR1(r1_weight=10.0), "the ImageNet 128 px command")
_FFHQ_256 = _published(
    500_000,
    5e-5,
    NonSaturatingR1(
        r1_weight=10.0,
        augmentations=("color", "translation", "cutout"),
        bcr_real_weight=10.0,
        bcr_fake_weight=10.0,
    ),
    "the FFHQ 256 px command",
)
_TINY_RECIPE = Recipe(
    num_images=100_000,
    batch_size=16,
    generator_lr=4e-3,
    discriminator_lr=2e-3,
    adam_betas=(0.0, 0.99),
    ema_decay=0.98,
    objective=NonSaturatingR1(r1_weight=0.1),
    source="ours, to learn `scenes` on two CPU cores in minutes: small batch, weaker R1, higher learning rates, "
    "shorter EMA, no augmentation",
)


def recipe(dataset: str, resolution: int, size: str) -> Recipe:
    """The authors' training of FFHQ at 256 px (from there up) or of ImageNet at 128 px; `source` says whose it is.

    Raises:
        ValueError: there is no configuration for that resolution and size.
    """
    _config(resolution, size)  # raises
    if size == "tiny":
        return _TINY_RECIPE
    name, found = ("FFHQ at 256 px", _FFHQ_256) if resolution >= 256 else ("ImageNet at 128 px", _IMAGENET_128)
    note = f"ours: no settings are published for {dataset} at {resolution} px, so those of {name}"
    return replace(found, source=f"{note} ({found.source})")


SPEC = GanSpec(
    title="HiT",
    year=2021,
    paper="https://arxiv.org/abs/2106.07631",
    code="https://github.com/google-research/hit-gan/tree/5d9be72365ac8992e54e9f81162ef3c7bce63378",
    licence="Apache-2.0",
    attention="softmax along two axes of blocks, O(n √n) and below; to 16 embeddings of z, O(n); none above 64 px",
    resolutions={
        32: "ours: the first three stages of the 128 px layout, the third without attention so that it makes colours",
        64: "ours: the first four stages of the 128 px layout, the fourth without attention so that it makes colours",
        128: "paper",
        256: "paper",
        1024: "paper",
    },
    build=build,
    recipe=recipe,
)
