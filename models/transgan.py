"""TransGAN: two plain vision transformers; the generator grows its grid, the discriminator merges patches of two sizes.

Source: Jiang, Chang and Wang, "TransGAN: Two Pure Transformers Can Make One Strong GAN, and That Can Scale Up", arXiv
2102.07074. The official code (https://github.com/VITA-Group/TransGAN) carries a non-commercial text and was not
looked at: written from the paper and from the facts in the project's reference on models. The parameter counts known
from that reference settle what the paper leaves open, to the last digit at 32 px: queries, keys and values have no
bias; the bias table belongs to every block but the discriminator's last, whose class token has no place in the grid;
the first stage of the discriminator is 288 wide and the second patch size adds 96; one noise strength per block of it.

* Generator (section 3.1): z → tokens on an 8 × 8 grid → stages of transformer blocks; between them pixel shuffle (twice
  the side, a quarter of the width) or, where the width stays, bicubic upsampling; a linear map of each token to RGB.
* Grid self-attention (section 3.3): from 64 px up a token sees only its own 16 × 16 window, windows do not overlap.
* Discriminator (section 3.2): tokens of the smallest patches → blocks → average pool 2 → tokens of the next patch size
  joined along the width → blocks → … → class token, one more block, layer norm, one logit.
* Relative position bias (section 3.4): `models._window_attention`, which adds one number per head and offset.

What is ours:
* 64, 128 and 256 px. The 256 px generator is inferred: widths and windows are the paper's; that each block up to 32 px
  also attends to 64 tokens made of z, 512 wide, and how z becomes those tokens, was chosen to meet the known 212.9 M
  parameters; its 113.99 GMAC are 0.1 % below the known 114.1. 64 and 128 px are its first four and five stages. Their
  discriminators take patches of 4 and 8 (64 px) and of 4, 8 and 16 pixels.
* Where the discriminator's noise enters (each block's input, one value per token, in training only), that a block
  normalises before its parts and adds them to what came in, layer norm's eps (torch's 1e-5), and the initialisation:
  Xavier uniform weights, zero biases, N(0, 0.02) truncated for positions, class token and bias tables.
* `tiny`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from models._configs import config_for
from models._losses import WassersteinGradientPenalty
from models._relative_position import PositionEmbedding
from models._spec import Gan, GanSpec, Recipe
from models._token_grid import as_image, as_tokens
from models._transformer import attend, initialise_glorot, mlp, split_heads
from models._window_attention import SwinAttention

FIRST_GRID = 8  # tokens per side of the generator's first stage
NUM_LATENT_TOKENS = 64
LATENT_TOKEN_SEED_WIDTH = 8  # what z is cut into before it is widened
MLP_RATIO = 4


@dataclass(frozen=True, kw_only=True)
class TransGanConfig:
    """All widths of one (resolution, size).

    Attributes:
        latent_dim: of z.
        generator_widths, generator_depths: channels and blocks per stage; the side doubles from stage to stage.
        latent_token_width: of the tokens of z that blocks up to `full_grid` attend to; None: there are none.
        patch_sizes: pixels per side of the patches that each stage of the discriminator takes in, each twice the last.
        discriminator_widths, discriminator_depths: channels and blocks per stage; one more block sees the class token.
        full_grid: tokens per side up to which every token sees every other.
        window_size: tokens per side of the windows on larger grids.
        num_heads: of every block in both networks.
    """

    latent_dim: int
    generator_widths: tuple[int, ...]
    generator_depths: tuple[int, ...]
    latent_token_width: int | None = None
    patch_sizes: tuple[int, ...]
    discriminator_widths: tuple[int, ...]
    discriminator_depths: tuple[int, ...]
    full_grid: int = 32
    window_size: int = 16
    num_heads: int = 4


def _large(num_stages: int, patch_sizes: tuple[int, ...], discriminator_widths: tuple[int, ...]) -> TransGanConfig:
    return TransGanConfig(
        latent_dim=512,
        generator_widths=(1024, 1024, 1024, 256, 64, 16)[:num_stages],
        generator_depths=(5, 4, 4, 4, 4, 4)[:num_stages],
        latent_token_width=512,
        patch_sizes=patch_sizes,
        discriminator_widths=discriminator_widths,
        discriminator_depths=(3,) * len(patch_sizes),
    )


def _tiny(widths: tuple[int, ...], patch_sizes: tuple[int, ...], latent_token_width: int | None) -> TransGanConfig:
    return TransGanConfig(
        latent_dim=64,
        generator_widths=widths,
        generator_depths=(1,) * len(widths),
        latent_token_width=latent_token_width,
        patch_sizes=patch_sizes,
        discriminator_widths=(48, 64),
        discriminator_depths=(1, 1),
        full_grid=8,
        window_size=8,
        num_heads=2,
    )


CONFIGS: Mapping[tuple[int, str], TransGanConfig] = {
    (32, "paper"): TransGanConfig(
        latent_dim=256,
        generator_widths=(1024, 256, 64),
        generator_depths=(5, 4, 2),
        patch_sizes=(2, 4),
        discriminator_widths=(288, 384),
        discriminator_depths=(3, 3),
    ),
    (64, "paper"): _large(4, (4, 8), (288, 384)),
    (128, "paper"): _large(5, (4, 8, 16), (192, 288, 384)),
    (256, "paper"): _large(6, (4, 8, 16), (192, 288, 384)),
    (32, "tiny"): _tiny((64, 16, 16), (4, 8), None),
    (64, "tiny"): _tiny((64, 64, 16, 16), (8, 16), 32),
    (128, "tiny"): _tiny((64, 64, 16, 16, 16), (16, 32), 32),
    (256, "tiny"): _tiny((64, 64, 16, 16, 16, 16), (32, 64), 32),
}


class CrossAttention(nn.Module):
    """Tokens attend to the tokens of z: keys and values from z, one softmax over its tokens."""

    def __init__(self, width: int, latent_token_width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(latent_token_width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x [b, n, c], z [b, m, latent_token_width] → [b, n, c]."""
        k, v = self.to_kv(z).chunk(2, dim=-1)
        y: Tensor = self.to_out(_attend((self.to_q(x), k, v), self.num_heads))
        return y


def _attend(qkv: Sequence[Tensor], num_heads: int) -> Tensor:
    """q [b, n, c], k and v [b, m, c] → [b, n, c]; not fused, because WGAN-GP needs the second derivative."""
    q, k, v = (split_heads(each, num_heads) for each in qkv)
    return attend(q, k, v, is_fused=False)


class Block(nn.Module):
    """Self-attention, where asked for attention to z, and an MLP, each on normalised tokens and added to them.

    Args:
        width: channels c of a token.
        num_heads: heads h.
        windows: attention inside windows of the grid with a position bias; None: among all tokens without one.
        latent_token_width: of the tokens of z; None where the block does not see z.
        is_noisy: whether noise of learned strength, 0 at first, is added to the input in training.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        windows: SwinAttention | None,
        *,
        latent_token_width: int | None = None,
        is_noisy: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.noise_strength = nn.Parameter(torch.zeros(())) if is_noisy else None
        self.norm_attention = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.windows = windows
        self.to_out = nn.Linear(width, width)
        self.norm_cross, self.cross = None, None
        if latent_token_width is not None:
            self.norm_cross = nn.LayerNorm(width)
            self.cross = CrossAttention(width, latent_token_width, num_heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = mlp(width, MLP_RATIO * width)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """x [b, n, c], tokens of z [b, m, latent_token_width] → [b, n, c]."""
        if self.noise_strength is not None and self.training:
            noise = torch.randn(*x.shape[:2], 1, dtype=x.dtype, device=x.device)
            x = x + noise * self.noise_strength.to(x.dtype)
        x = x + self.to_out(self._self_attention(self.norm_attention(x)))
        if self.norm_cross is not None and self.cross is not None:
            x = x + self.cross(self.norm_cross(x), z)
        y: Tensor = x + self.mlp(self.norm_mlp(x))
        return y

    def _self_attention(self, x: Tensor) -> Tensor:
        qkv = self.to_qkv(x)
        if self.windows is None:
            return _attend(qkv.chunk(3, dim=-1), self.num_heads)
        side = math.isqrt(x.shape[1])
        grid = qkv.unflatten(1, (side, side)).unflatten(-1, (3, self.num_heads, -1))  # [b, s, s, 3, h, d]
        y: Tensor = self.windows(grid)
        return y.flatten(3).flatten(1, 2)


class Stage(nn.Module):
    """Positions and blocks on one grid.

    Args:
        grid_size: tokens per side.
        width, depth: channels and blocks.
        sees_latent: whether the blocks attend to the tokens of z, where the configuration has them.
        is_noisy: whether the blocks add noise to their input.
    """

    def __init__(
        self,
        grid_size: int,
        width: int,
        depth: int,
        config: TransGanConfig,
        *,
        sees_latent: bool = False,
        is_noisy: bool = False,
    ) -> None:
        super().__init__()
        window_size = grid_size if grid_size <= config.full_grid else config.window_size
        self.position = PositionEmbedding(grid_size**2, width)
        self.blocks = nn.ModuleList(
            Block(
                width,
                config.num_heads,
                SwinAttention(grid_size, window_size, config.num_heads),
                latent_token_width=config.latent_token_width if sees_latent else None,
                is_noisy=is_noisy,
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor, latent_tokens: Tensor | None = None) -> Tensor:
        """x [b, n, c], tokens of z [b, m, latent_token_width] → [b, n, c]."""
        x = self.position(x)
        for block in self.blocks:
            x = block(x, latent_tokens)
        return x


class LatentTokens(nn.Module):
    """z → 64 first tokens of the generator's width, and 64 narrower ones that blocks attend to."""

    def __init__(self, latent_dim: int, width: int, latent_token_width: int) -> None:
        super().__init__()
        self.to_seeds = nn.Linear(latent_dim, NUM_LATENT_TOKENS * LATENT_TOKEN_SEED_WIDTH)
        self.to_first_tokens = nn.Linear(LATENT_TOKEN_SEED_WIDTH, width)
        self.to_latent_tokens = nn.Linear(LATENT_TOKEN_SEED_WIDTH, latent_token_width)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z [b, latent_dim] → ([b, 64, width], [b, 64, latent_token_width])."""
        seeds = self.to_seeds(z).unflatten(1, (NUM_LATENT_TOKENS, -1))
        return self.to_first_tokens(seeds), self.to_latent_tokens(seeds)


class Generator(nn.Module):
    """z [b, latent_dim] → images [b, 3, s, s] with s = 8 · 2^(stages - 1), no tanh."""

    def __init__(self, config: TransGanConfig) -> None:
        super().__init__()
        widths, latent_width = config.generator_widths, config.latent_token_width
        self.widths = widths
        self.to_first_tokens: nn.Module
        if latent_width is None:
            self.to_first_tokens = nn.Linear(config.latent_dim, FIRST_GRID**2 * widths[0])
        else:
            self.to_first_tokens = LatentTokens(config.latent_dim, widths[0], latent_width)
        self.has_latent_tokens = latent_width is not None
        self.stages = nn.ModuleList(
            Stage(FIRST_GRID << index, width, depth, config, sees_latent=FIRST_GRID << index <= config.full_grid)
            for index, (width, depth) in enumerate(zip(widths, config.generator_depths, strict=True))
        )
        self.to_rgb = nn.Linear(widths[-1], 3)

    def forward(self, z: Tensor) -> Tensor:
        """z [b, latent_dim] → images in the dtype of z."""
        latent_tokens = None
        if self.has_latent_tokens:
            x, latent_tokens = self.to_first_tokens(z)
        else:
            x = self.to_first_tokens(z).unflatten(1, (FIRST_GRID**2, -1))
        for index, (width, stage) in enumerate(zip(self.widths, self.stages, strict=True)):
            x = stage(_upsampled(x, width) if index else x, latent_tokens)
        images: Tensor = as_image(self.to_rgb(x))
        return images.to(z.dtype)


def _upsampled(x: Tensor, width: int) -> Tensor:
    """Tokens [b, n, c] → [b, 4 n, width]: pixel shuffle to a quarter of the width, or bicubic where it stays."""
    image = as_image(x)
    if width == x.shape[2]:
        image = functional.interpolate(image, scale_factor=2, mode="bicubic", align_corners=False)
    else:
        image = functional.pixel_shuffle(image, 2)
    return as_tokens(image)


class Discriminator(nn.Module):
    """Images [b, 3, resolution, resolution] → logits [b, 1], from tokens of patches of several sizes."""

    def __init__(self, resolution: int, config: TransGanConfig) -> None:
        super().__init__()
        widths = config.discriminator_widths
        self.to_patches, self.stages = nn.ModuleList(), nn.ModuleList()
        width_before = 0
        for patch, width, depth in zip(config.patch_sizes, widths, config.discriminator_depths, strict=True):
            self.to_patches.append(nn.Conv2d(3, width - width_before, patch, stride=patch))
            self.stages.append(Stage(resolution // patch, width, depth, config, is_noisy=True))
            width_before = width
        self.class_token = nn.Parameter(torch.empty(1, 1, widths[-1]))
        self.last_block = Block(widths[-1], config.num_heads, None, is_noisy=True)
        self.norm = nn.LayerNorm(widths[-1])
        self.to_logit = nn.Linear(widths[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images [b, 3, h, w] → logits [b, 1] in the dtype of the images."""
        tokens = x.new_empty(0)
        for index, (to_patches, stage) in enumerate(zip(self.to_patches, self.stages, strict=True)):
            patches = as_tokens(to_patches(x))
            if index:
                pooled = as_tokens(functional.avg_pool2d(as_image(tokens), 2))
                patches = torch.cat([pooled, patches], dim=2)
            tokens = stage(patches)
        tokens = torch.cat([self.class_token.to(tokens.dtype).expand(x.shape[0], -1, -1), tokens], dim=1)
        logits: Tensor = self.to_logit(self.norm(self.last_block(tokens)[:, 0]))
        return logits.to(x.dtype)


def build(resolution: int, size: str) -> Gan:
    """Both networks, initialised.

    Raises:
        ValueError: there is no configuration for that resolution and size.
    """
    config = _config(resolution, size)
    generator, discriminator = Generator(config), Discriminator(resolution, config)
    for network in (generator, discriminator):
        network.apply(initialise_glorot)  # positions and bias tables keep what they drew
    nn.init.trunc_normal_(discriminator.class_token, std=0.02)
    return Gan(generator=generator, discriminator=discriminator, latent_dim=config.latent_dim)


def _config(resolution: int, size: str) -> TransGanConfig:
    return config_for(CONFIGS, "TransGAN", resolution, size)


_PAPER_RECIPE = Recipe(
    num_images=68_100_000,
    batch_size=64,
    generator_lr=1e-4,
    discriminator_lr=1e-4,
    adam_betas=(0.0, 0.99),
    ema_decay=0.9999,
    num_discriminator_steps=4,
    max_gradient_norm=5.0,
    objective=WassersteinGradientPenalty(
        penalty_weight=10.0, drift_weight=1e-3, augmentations=("translation", "cutout", "color")
    ),
    source="arXiv 2102.07074. Ours: the generator's batch is the discriminator's 64 (theirs: 128), EMA 0.9999, no "
    "decay of the learning rate, and the number of images, which is what LadaGAN was trained for on CIFAR-10",
)
_TINY_RECIPE = Recipe(
    num_images=100_000,
    batch_size=16,
    generator_lr=2e-3,
    discriminator_lr=2e-3,
    adam_betas=(0.0, 0.99),
    ema_decay=0.97,
    num_discriminator_steps=2,
    max_gradient_norm=5.0,
    objective=WassersteinGradientPenalty(penalty_weight=10.0, drift_weight=1e-3),
    source="ours, to learn `scenes` on two CPU cores in minutes: small batch, higher learning rates, two discriminator "
    "steps per generator step, shorter EMA, no augmentation",
)


def recipe(dataset: str, resolution: int, size: str) -> Recipe:
    """The authors' training on CIFAR-10, which other data sets and resolutions borrow; `source` says so.

    Raises:
        ValueError: there is no configuration for that resolution and size.
    """
    _config(resolution, size)  # raises
    if size == "tiny":
        return _TINY_RECIPE
    if (dataset, resolution) == ("cifar10", 32):
        return _PAPER_RECIPE
    note = f"ours: no facts at hand for {dataset} at {resolution} px, so the values of cifar10 at 32 px"
    return replace(_PAPER_RECIPE, source=f"{note} ({_PAPER_RECIPE.source})")


SPEC = GanSpec(
    title="TransGAN",
    year=2021,
    paper="https://arxiv.org/abs/2102.07074",
    code="https://github.com/VITA-Group/TransGAN (not looked at: its licence text is non-commercial)",
    licence="MIT (the authors' code: non-commercial text)",
    attention="softmax, O(n²); in windows of 256 tokens, O(n), from 64 px up",
    resolutions={
        32: "paper",
        64: "ours: the first four stages of the 256 px generator; discriminator of the CIFAR size with patches 4 and 8",
        128: "ours: the first five stages of the 256 px generator; discriminator with patches 4, 8 and 16",
        256: "ours: widths, depths and windows follow the paper, attention to z is inferred from the published counts",
    },
    build=build,
    recipe=recipe,
)
