"""ViTGAN: a Transformer of 64 tokens paints features, StyleGAN2's convolutions make the image and judge it.

Source: Lee et al., "ViTGAN: Training GANs with Vision Transformers", arXiv 2107.04589; the authors' PyTorch
reproduction (MIT; facts were read there, every line here is ours):
https://github.com/mlpc-ucsd/ViTGAN/tree/d57078e49a1f6f8a0588f3a53b26c95c6c12cd1f
`models/gan/stylegan2/{vit_generator,vit_common,discriminator}.py`, `train_stylegan2.py`, `training/gan/aug_both.py`,
the variant its README calls the most performant: ViTGAN's generator with convolutions instead of the implicit patch
function, against StyleGAN2's residual discriminator. Its `models/gan/stylegan2/op` (non-commercial) was not read. The
38M parameters and 2.6B operations of the paper are of a network that is not public.

The generator: mapping network z → w; tokens are sines of a linear layer of the coordinates of an 8×8 grid; blocks, then
one more norm; per doubling of the grid two modulated 3×3 convolutions with w as their style; modulated 1×1 to colours.

* Self-modulated norm: y = LN(x) (1 + γ(w)) + β(w); LN without weights, eps 1e-3; γ, β linear.
* Block: x ← norm(x), x ← x + attention(x), x ← norm(x), x ← x + MLP(x): the residual takes the normalised tokens, as
  in the code (the paper: those before the norm). MLP = linear ×4, SiLU, linear.
* L2 attention (Kim et al., arXiv 2006.04710): softmax over j of -τ ‖q_i - k_j‖² / √d with W_q = W_k, τ learned from 1.
* Improved spectral norm, on the attention's and the MLP's matrices: W σ(W at the start) / σ(W).

Deliberate differences from the code:
* W_q = W_k as paper and code say; the code gives k a matrix of its own (147,456 parameters per block, 589,824 in all:
  16.39 M here, 16.98 M there; with `ties_query_key=False` every count is the code's). With a k of its own the sign of
  the scores is learnable, and the code's is +, of means of squares; here the distance is subtracted.
* The power iteration of the spectral norm goes on from pass to pass; the code starts it at the same random vector in
  every pass.
* Pixels are in [-1, 1], in the code [0, 1]: its R1 weight 0.1/2 is 4 × as much here. DiffAugment is always applied (the
  code: with probability 0.8); images are not flipped; no warm-up of the learning rate over 3000 steps.
* The discriminator's two heads for contrastive learning, which the loss multiplies by 0, are left out.
* 64, 128 and 256 px (from the code's tables of widths; it runs at 32 px only) and `tiny` are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from models._augment import diff_augment
from models._configs import config_for, decay_of_half_life
from models._losses import augmented_logits, squared_gradient_norm, summed
from models._spec import Gan, GanSpec, Loss, Recipe
from models._spectral_norm import spectral_norm
from models._stylegan_layers import EqualLinear, MappingNetwork, ResidualDiscriminator, StyledConv, ToRgb
from models._token_grid import as_image

TOKEN_GRID = 8  # pixels per side of the tokens, at every resolution


@dataclass(frozen=True, kw_only=True)
class VitGanConfig:
    """All widths of one (resolution, size).

    Attributes:
        width: of tokens, styles and z.
        num_heads, num_blocks: of the Transformer; its MLP is four times as wide as its tokens.
        num_mapping_layers: from z to the style.
        head_widths: channels of the convolutions at 16, 32, … pixels per side.
        discriminator_widths: channels of the discriminator at 4, 8, … pixels per side.
        ties_query_key: W_q = W_k; off, the parameters are those of the authors' code.
    """

    width: int = 384
    num_heads: int = 6
    num_blocks: int = 4
    num_mapping_layers: int = 8
    head_widths: tuple[int, ...]
    discriminator_widths: tuple[int, ...]
    ties_query_key: bool = True


_TINY = VitGanConfig(
    width=64,
    num_heads=4,
    num_blocks=2,
    num_mapping_layers=2,
    head_widths=(24, 12),
    discriminator_widths=(48, 32, 24, 12),
)
CONFIGS: Mapping[tuple[int, str], VitGanConfig] = {
    (32, "paper"): VitGanConfig(
        head_widths=(384, 384),
        discriminator_widths=(512, 512, 256, 128),
    ),
    (64, "paper"): VitGanConfig(
        head_widths=(384, 384, 384),
        discriminator_widths=(512, 512, 512, 512, 512),
    ),
    (128, "paper"): VitGanConfig(
        head_widths=(384, 384, 384, 192),
        discriminator_widths=(512, 512, 512, 512, 512, 256),
    ),
    (256, "paper"): VitGanConfig(
        head_widths=(384, 384, 384, 192, 96),
        discriminator_widths=(512, 512, 512, 512, 512, 256, 128),
    ),
    (32, "tiny"): _TINY,
    (64, "tiny"): replace(_TINY, head_widths=(24, 12, 8), discriminator_widths=(48, 32, 24, 12, 8)),
    (128, "tiny"): replace(_TINY, head_widths=(24, 12, 8, 4), discriminator_widths=(48, 32, 24, 12, 8, 4)),
    (256, "tiny"): replace(_TINY, head_widths=(24, 12, 8, 4, 4), discriminator_widths=(48, 32, 24, 12, 8, 4, 4)),
}


class FourierTokens(nn.Module):
    """One token per point of the grid: sines of a linear layer of its coordinates, which span [-1, 1]."""

    coordinates: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        line = torch.linspace(-1, 1, TOKEN_GRID)
        rows, columns = torch.meshgrid(line, line, indexing="ij")
        self.register_buffer("coordinates", torch.stack([columns, rows], dim=-1).flatten(0, 1), persistent=False)
        self.to_phase = nn.Linear(2, width)  # the bias keeps torch's uniform start
        bound = (9 / 2) ** 0.5
        nn.init.uniform_(self.to_phase.weight, -bound, bound)

    def forward(self) -> Tensor:
        """→ tokens [n, c]."""
        return torch.sin(self.to_phase(self.coordinates))


class SelfModulatedNorm(nn.Module):
    """Layer norm of the tokens whose scale and shift are linear in the style."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-3, elementwise_affine=False)
        self.to_gamma = EqualLinear(width, width)
        self.to_beta = EqualLinear(width, width)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x [b or 1, n, c], style [b, c] → [b, n, c]."""
        gamma, beta = self.to_gamma(style).unsqueeze(1), self.to_beta(style).unsqueeze(1)  # [b, 1, c]
        y: Tensor = self.norm(x) * (1 + gamma) + beta
        return y


def _held(layer: EqualLinear) -> EqualLinear:
    return spectral_norm(layer, keeps_first_norm=True)


class L2Attention(nn.Module):
    """Tokens attend to the tokens near to them; tokens [b, n, c] → tokens [b, n, c].

    The submodule `softmax` returns the attention maps [b, h, n, n]; a forward hook on it reads them.
    """

    def __init__(self, width: int, num_heads: int, *, ties_query_key: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (width // num_heads) ** -0.5
        self.num_projections = 2 if ties_query_key else 3
        self.to_qkv = _held(EqualLinear(width, self.num_projections * width))
        self.to_qkv.bias.requires_grad_(False)  # has none: it stays 0, as in the code
        self.temperature = nn.Parameter(torch.ones(()))
        self.softmax = nn.Softmax(dim=-1)
        self.to_out = _held(EqualLinear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """x [b, n, c]. ‖q_i‖² is the same for all j, so the softmax over j does not see it: it is left out."""
        heads = self.to_qkv(x).unflatten(-1, (self.num_projections, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = heads[0], heads[-2], heads[-1]  # [b, h, n, d] each; tied, q is k
        nearness = 2 * (q @ k.transpose(2, 3)) - k.square().sum(dim=-1).unsqueeze(2)  # ‖q_i‖² - ‖q_i - k_j‖²
        weights = self.softmax(nearness * (self.temperature * self.scale))  # [b, h, n, n]
        y: Tensor = self.to_out((weights @ v).transpose(1, 2).flatten(2))
        return y


class Block(nn.Module):
    """Attention and MLP, each after a norm whose result its residual takes."""

    def __init__(self, config: VitGanConfig) -> None:
        super().__init__()
        width = config.width
        self.norm_attention = SelfModulatedNorm(width)
        self.attention = L2Attention(width, config.num_heads, ties_query_key=config.ties_query_key)
        self.norm_mlp = SelfModulatedNorm(width)
        self.mlp = nn.Sequential(
            _held(EqualLinear(width, 4 * width)),
            nn.SiLU(),
            _held(EqualLinear(4 * width, width)),
        )

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x [b or 1, n, c], style [b, c] → [b, n, c]."""
        x = self.norm_attention(x, style)
        x = self.attention(x) + x
        x = self.norm_mlp(x, style)
        y: Tensor = self.mlp(x) + x
        return y


class Generator(nn.Module):
    """z [b, latent_dim] → images [b, 3, resolution, resolution], no tanh."""

    def __init__(self, config: VitGanConfig) -> None:
        super().__init__()
        width = config.width
        self.mapping = MappingNetwork(width, width, config.num_mapping_layers)
        self.tokens = FourierTokens(width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_blocks))
        self.norm = SelfModulatedNorm(width)
        self.convs = nn.ModuleList()
        width_in, grid = width, TOKEN_GRID
        for width_out in config.head_widths:
            grid *= 2
            self.convs.append(StyledConv(width_in, width_out, width, grid, is_up=True))
            self.convs.append(StyledConv(width_out, width_out, width, grid))
            width_in = width_out
        self.to_rgb = ToRgb(width_in, width)

    def forward(self, z: Tensor) -> Tensor:
        """z [b, latent_dim] → images in the dtype of z."""
        style = self.mapping(z)
        x = self.tokens().unsqueeze(0)  # [1, n, c]
        for block in self.blocks:
            x = block(x, style)
        x = as_image(self.norm(x, style))  # channels-last memory
        for conv in self.convs:
            x = conv(x, style)
        images: Tensor = self.to_rgb(x, style)
        return images.to(z.dtype)


@dataclass(frozen=True, kw_only=True)
class AugmentedConsistencyR1:
    """Non-saturating logistic loss on augmented images only, R1 and bCR in every step; `models._spec.Objective`.

    As in `training/gan/aug_both.py`: real and generated images go through the discriminator in one batch (minibatch std
    sees both), R1 is taken at the real image before its augmentation, and balanced consistency (arXiv 2002.04724)
    compares two augmentations of every image. `models._losses.NonSaturatingR1` differs in all three.

    Attributes:
        r1_weight: of E‖∇ Σ D(T(x))‖², without ½, pixels in [-1, 1].
        bcr_weight: of the mean squared change of a logit between two augmentations, real and generated alike; 0: off.
        augmentations: DiffAugment policy in order, names of `models._augment.AUGMENTATIONS`.
    """

    r1_weight: float
    bcr_weight: float
    augmentations: tuple[str, ...]

    @property
    def period(self) -> int:
        """Every step is alike."""
        return 1

    def discriminator_loss(self, gan: Gan, real: Tensor, z: Tensor, step: int) -> Loss:
        """real [b, 3, h, w], z [b, latent_dim] → parts `real`, `fake` and, where on, `r1` and `bcr`; they add up."""
        del step
        with torch.no_grad():
            fake = gan.generator(z)
        real = real.detach().requires_grad_(self.r1_weight > 0)
        images = torch.cat([real, fake])
        logits = gan.discriminator(diff_augment(images, self.augmentations))
        real_logits, fake_logits = logits.chunk(2)
        parts = {"real": functional.softplus(-real_logits).mean(), "fake": functional.softplus(fake_logits).mean()}
        if self.r1_weight > 0:
            parts["r1"] = self.r1_weight * squared_gradient_norm(real_logits, real)
        if self.bcr_weight > 0:
            again = gan.discriminator(diff_augment(images.detach(), self.augmentations))
            parts["bcr"] = 2 * self.bcr_weight * functional.mse_loss(again, logits)  # a mean of real, one of generated
        return summed(parts)

    def generator_loss(self, gan: Gan, real: Tensor, z: Tensor, step: int) -> Loss:
        """z [b, latent_dim] → part `fake`, the loss itself; neither `real` nor `step` matters."""
        del real, step
        return summed({"fake": functional.softplus(-augmented_logits(gan, z, self.augmentations)).mean()})

    def without_penalty(self) -> AugmentedConsistencyR1:
        """The same losses with R1 off."""
        return replace(self, r1_weight=0.0)


def build(resolution: int, size: str) -> Gan:
    """Both networks, initialised.

    Raises:
        ValueError: there is no configuration for that resolution and size.
    """
    config = _config(resolution, size)
    widths = config.discriminator_widths
    discriminator = ResidualDiscriminator(resolution, lambda grid: widths[grid.bit_length() - 3])  # 4 px: the first
    return Gan(generator=Generator(config), discriminator=discriminator, latent_dim=config.width)


def _config(resolution: int, size: str) -> VitGanConfig:
    return config_for(CONFIGS, "ViTGAN", resolution, size)


_AUTHORS = Recipe(
    num_images=51_200_000,
    batch_size=64,
    generator_lr=1e-3,
    discriminator_lr=1e-3,
    adam_betas=(0.0, 0.99),
    ema_decay=decay_of_half_life(64, 1_000_000),
    objective=AugmentedConsistencyR1(r1_weight=0.2, bcr_weight=1.0, augmentations=("color", "translation", "cutout")),
    source="README.md and configs/gan/stylegan2/c10_style64.gin of the authors' PyTorch code (CIFAR-10; 800,000 steps "
    "of 64 images; EMA with a half-life of 1 M images; R1 0.1/2 on pixels in [0, 1], hence 0.2 here), without its "
    "warm-up of the learning rate over 3000 steps and its flips; EMA from step 0, there from 1 M images on",
)
_TINY_RECIPE = Recipe(
    num_images=100_000,
    batch_size=16,
    generator_lr=1e-2,
    discriminator_lr=3e-3,
    adam_betas=(0.0, 0.99),
    ema_decay=0.98,
    objective=AugmentedConsistencyR1(r1_weight=0.05, bcr_weight=0.0, augmentations=("color",)),
    source="ours, to learn `scenes` on two CPU cores in minutes: small batch, higher learning rates, a short EMA, "
    "weaker R1, no balanced consistency, only the colour augmentation",
)


def recipe(dataset: str, resolution: int, size: str) -> Recipe:
    """The authors' training where they published one; `source` says which values are ours.

    Raises:
        ValueError: there is no configuration for that resolution and size.
    """
    _config(resolution, size)  # raises
    if size == "tiny":
        return _TINY_RECIPE
    if (dataset, resolution) == ("cifar10", 32):
        return _AUTHORS
    note = f"ours: nothing is published in code for {dataset} at {resolution} px, so the values of"
    return replace(_AUTHORS, source=f"{note} {_AUTHORS.source}")


SPEC = GanSpec(
    title="ViTGAN",
    year=2021,
    paper="https://arxiv.org/abs/2107.04589",
    code="https://github.com/mlpc-ucsd/ViTGAN/tree/d57078e49a1f6f8a0588f3a53b26c95c6c12cd1f",
    licence="MIT; its CUDA operators non-commercial (not used)",
    attention="quadratic L2 attention at 64 tokens (G only), O(n²)",
    resolutions={
        32: "paper",
        64: "ours: the authors' tables of widths, which their code runs at 32 px only",
        128: "ours: the authors' tables of widths, which their code runs at 32 px only",
        256: "ours: the authors' tables of widths, which their code runs at 32 px only",
    },
    build=build,
    recipe=recipe,
)
