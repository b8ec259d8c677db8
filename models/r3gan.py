"""R3GAN: a modern convolutional network in both roles, no normalisation, no attention, and a loss that needs no tricks.

Why it exists: the modern convolutional reference, beside StyleGAN2 as the older one.

Source: Huang, Gokaslan, Kuleshov and Tompkin, "The GAN is dead; long live the GAN! A modern GAN baseline", arXiv
2501.05441, sections 3 and 4 (config E). Its code, https://github.com/brownvc/R3GAN, has no licence and was not read:
this is written from the paper, and what the paper leaves open was settled by the parameter counts of the released
models (reference/models.md), which come out exactly:

* A stage is a transition and two residual blocks. The transition to another width is a 1×1 convolution without bias on
  the smaller grid's side of the resampling, which is a low-pass filter [1, 3, 3, 1] (bilinear interpolation).
* A block is the inverted bottleneck of ResNeXt: 1×1 to twice the width, 3×3 in groups of 16 channels, 1×1 back; bias
  and leaky ReLU 0.2 after the first two, nothing after the last, nothing on the shortcut.
* The generator starts from a learned 4×4 basis, its channels scaled by a linear map of z; the discriminator ends with a
  4×4 depthwise convolution and a linear map to one logit; neither has biases. A 1×1 convolution goes to and from RGB.
* Fix-up initialisation (Zhang et al., arXiv 1901.09321): with L blocks the first two convolutions of each are drawn
  from He's normal distribution times L^(-1/4), the last is zero; every bias is zero.

Deliberate differences: the low-pass filter has no multiplications with the zeros it puts between pixels, so the
generator counts 0.24 % fewer multiply-accumulates than the official code; the schedules of learning rate, Adam's β₂
and moving average are not followed (see `recipe`), the one of γ is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models._configs import config_for, decay_of_half_life
from models._fir import FirDownsample, FirUpsample
from models._relativistic import RelativisticPairing
from models._spec import Gan, GanSpec, Recipe
from models._stylegan_layers import FIRST_GRID, LEAK

LATENT_DIM = 64


@dataclass(frozen=True, kw_only=True)
class R3GanConfig:
    """All widths of one (resolution, size); both networks have the same, in opposite order.

    Attributes:
        widths: channels of the stages at 4, 8, 16, … pixels.
        num_blocks: residual blocks per stage.
        group_width: channels that a 3×3 convolution mixes.
        expansion: width inside a block over the width outside.
    """

    widths: tuple[int, ...]
    num_blocks: int = 2
    group_width: int = 16
    expansion: int = 2


def _tiny(*widths: int) -> R3GanConfig:
    return R3GanConfig(widths=widths, num_blocks=1, group_width=8)


CONFIGS: Mapping[tuple[int, str], R3GanConfig] = {
    (32, "paper"): R3GanConfig(widths=(768, 768, 768, 768)),
    (64, "paper"): R3GanConfig(widths=(768, 768, 768, 768, 384)),
    (128, "paper"): R3GanConfig(widths=(768, 768, 768, 768, 384, 192)),
    (256, "paper"): R3GanConfig(widths=(768, 768, 768, 768, 384, 192, 96)),
    (32, "tiny"): _tiny(96, 64, 32, 16),
    (64, "tiny"): _tiny(96, 64, 32, 16, 16),
    (128, "tiny"): _tiny(96, 64, 32, 16, 16, 8),
    (256, "tiny"): _tiny(96, 64, 32, 16, 16, 8, 4),
}


class BiasedLeakyRelu(nn.Module):
    """Adds one number per channel, then leaky ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """x [b, c, h, w] → [b, c, h, w]."""
        return nn.functional.leaky_relu(x + self.bias[:, None, None], LEAK)


class ResidualBlock(nn.Module):
    """1×1 up, 3×3 in groups, 1×1 down, and the shortcut; the identity at the start."""

    def __init__(self, width: int, config: R3GanConfig) -> None:
        super().__init__()
        inner = width * config.expansion
        self.to_inner = nn.Conv2d(width, inner, 1, bias=False)
        self.activation_1 = BiasedLeakyRelu(inner)
        self.mix = nn.Conv2d(inner, inner, 3, padding=1, groups=inner // config.group_width, bias=False)
        self.activation_2 = BiasedLeakyRelu(inner)
        self.to_outer = nn.Conv2d(inner, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [b, c, h, w] → [b, c, h, w]."""
        y = self.activation_1(self.to_inner(x))
        y = self.activation_2(self.mix(y))
        return torch.add(x, self.to_outer(y))


class GenerativeBasis(nn.Module):
    """A learned 4×4 image whose channels z scales."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.empty(width, FIRST_GRID, FIRST_GRID))
        self.to_scale = nn.Linear(LATENT_DIM, width, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """z [b, latent_dim] → [b, c, 4, 4]."""
        return torch.mul(self.basis, self.to_scale(z)[:, :, None, None])


class DiscriminativeBasis(nn.Module):
    """One 4×4 filter per channel over the whole 4×4 image, then a weighted sum of the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.filters = nn.Conv2d(width, width, FIRST_GRID, groups=width, bias=False)
        self.to_logit = nn.Linear(width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [b, c, 4, 4] → logits [b, 1]."""
        logits: Tensor = self.to_logit(self.filters(x).flatten(1))
        return logits


class Generator(nn.Module):
    """z [b, 64] → images [b, 3, resolution, resolution], no tanh."""

    def __init__(self, config: R3GanConfig) -> None:
        super().__init__()
        widths = config.widths
        self.stages = nn.ModuleList()
        for stage, width in enumerate(widths):
            first = GenerativeBasis(width) if stage == 0 else _transition_up(widths[stage - 1], width)
            self.stages.append(nn.Sequential(first, *_blocks(width, config)))
        self.to_rgb = nn.Conv2d(widths[-1], 3, 1, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """z [b, latent_dim] → images in the dtype of z."""
        x = z
        for stage in self.stages:
            x = stage(x)
        images: Tensor = self.to_rgb(x)
        return images.to(z.dtype)


class Discriminator(nn.Module):
    """Images [b, 3, resolution, resolution] → logits [b, 1]."""

    def __init__(self, config: R3GanConfig) -> None:
        super().__init__()
        widths = config.widths[::-1]
        self.from_rgb = nn.Conv2d(3, widths[0], 1, bias=False)
        self.stages = nn.ModuleList()
        for stage, width in enumerate(widths):
            is_last = stage == len(widths) - 1
            last = DiscriminativeBasis(width) if is_last else _transition_down(width, widths[stage + 1])
            self.stages.append(nn.Sequential(*_blocks(width, config), last))

    def forward(self, x: Tensor) -> Tensor:
        """Images [b, 3, h, w] → logits [b, 1] in the dtype of the images."""
        y = self.from_rgb(x.contiguous(memory_format=torch.channels_last))
        for stage in self.stages:
            y = stage(y)
        logits: Tensor = y
        return logits.to(x.dtype)


def _blocks(width: int, config: R3GanConfig) -> list[ResidualBlock]:
    return [ResidualBlock(width, config) for _ in range(config.num_blocks)]


def _transition_up(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(*_change_of_width(width_in, width_out), FirUpsample())


def _transition_down(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(FirDownsample(), *_change_of_width(width_in, width_out))


def _change_of_width(width_in: int, width_out: int) -> list[nn.Module]:
    return [] if width_in == width_out else [nn.Conv2d(width_in, width_out, 1, bias=False)]


def build(resolution: int, size: str) -> Gan:
    """Both networks, by fix-up initialised.

    Raises:
        ValueError: there is no configuration for that resolution and size.
    """
    config = _config(resolution, size)
    generator, discriminator = Generator(config), Discriminator(config)
    for network in (generator, discriminator):
        _initialise(network)
    return Gan(generator=generator, discriminator=discriminator, latent_dim=LATENT_DIM)


def _config(resolution: int, size: str) -> R3GanConfig:
    return config_for(CONFIGS, "R3GAN", resolution, size)


def _initialise(network: nn.Module) -> None:
    """Normal weights of variance 1 / fan-in; in blocks fix-up with He's gain; the generator's basis N(0, 1)."""
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        if isinstance(module, GenerativeBasis):
            nn.init.normal_(module.basis)
    gain = nn.init.calculate_gain("leaky_relu", LEAK) * len(blocks) ** -0.25  # m = 3 layers: L^(-1 / (2 m - 2))
    for block in blocks:
        for convolution in (block.to_inner, block.mix):
            with torch.no_grad():
                convolution.weight.mul_(gain)
        nn.init.zeros_(block.to_outer.weight)


# The README was read in a fork, https://github.com/rahim-xelpmoc/R3GAN at 07188c19260c9fbf1fabaff8e87ae3eb1186e947.
_SOURCE = (
    "arXiv 2501.05441, {name}. Verified: batch size and that images are augmented{conditional} (commands of the "
    "authors' README){num_images}. From memory of the paper's table of hyper-parameters, not verified: γ {gammas} "
    "along a cosine while the first {burn_in} images are shown; learning rate 5e-5, Adam's β₂ 0.99 and an EMA "
    "half-life of {half_life} images, where the authors' schedules end. Ours: those three from the start; DiffAugment "
    "in place of the authors' augmentation, whose strength is not known here"
)


@dataclass(frozen=True, kw_only=True)
class _Published:
    """A row of the paper's table; image counts in millions, `num_images_m` None where it is not known here."""

    name: str
    batch_size: int
    gammas: tuple[float, float]
    burn_in_m: float
    half_life_m: float
    num_images_m: float | None = None
    is_conditional: bool = False

    def recipe(self) -> Recipe:
        """As far as constants can say it."""
        first_gamma, gamma = self.gammas
        return Recipe(
            num_images=round((self.num_images_m or 25) * 1e6),
            batch_size=self.batch_size,
            generator_lr=5e-5,
            discriminator_lr=5e-5,
            adam_betas=(0.0, 0.99),
            ema_decay=decay_of_half_life(self.batch_size, self.half_life_m * 1e6),
            objective=RelativisticPairing(
                gamma=gamma,
                first_gamma=first_gamma,
                num_burn_in_steps=round(self.burn_in_m * 1e6 / self.batch_size),
                augmentations=("color", "translation", "cutout"),
            ),
            source=_SOURCE.format(
                name=self.name,
                gammas=f"{first_gamma:g} to {gamma:g}",
                burn_in=f"{self.burn_in_m:g} M",
                half_life=f"{self.half_life_m:g} M",
                conditional=" and classes given, which ours are not" if self.is_conditional else "",
                num_images=(
                    "; number of images, 25 M, is ours, as StyleGAN2 is trained"
                    if self.num_images_m is None
                    else "; number of images (the paper's table 9 as quoted in https://github.com/brownvc/R3GAN/issues/18)"
                ),
            ),
        )


_CIFAR = _Published(
    name="CIFAR-10",
    batch_size=512,
    gammas=(0.05, 0.005),
    burn_in_m=20,
    half_life_m=5,
    num_images_m=250,
    is_conditional=True,
)
_FFHQ_64 = _Published(name="FFHQ-64", batch_size=256, gammas=(2, 0.2), burn_in_m=2, half_life_m=0.5)
_FFHQ_256 = _Published(name="FFHQ-256", batch_size=256, gammas=(150, 15), burn_in_m=10, half_life_m=0.5)
_NEAREST = {32: _CIFAR, 64: _FFHQ_64, 128: _FFHQ_256, 256: _FFHQ_256}
_TINY_RECIPE = Recipe(
    num_images=100_000,
    batch_size=16,
    generator_lr=2e-3,
    discriminator_lr=2e-3,
    adam_betas=(0.0, 0.99),
    ema_decay=0.98,
    objective=RelativisticPairing(gamma=20),
    source="ours, to learn `scenes` on two CPU cores in minutes: small batch, higher learning rates, short EMA, a "
    "large γ without a schedule, no augmentation",
)


def recipe(dataset: str, resolution: int, size: str) -> Recipe:
    """The authors' training of the nearest data set they trained on; `source` says which values are ours.

    Raises:
        ValueError: there is no configuration for that resolution and size.
    """
    _config(resolution, size)  # raises
    if size == "tiny":
        return _TINY_RECIPE
    found = _NEAREST[resolution].recipe()
    if (dataset, resolution) != ("cifar10", 32):
        note = (
            f"ours: nothing of the paper is on {dataset} at {resolution} px; the values of {_NEAREST[resolution].name}"
        )
        return replace(found, source=f"{note} ({found.source})")
    return found


SPEC = GanSpec(
    title="R3GAN",
    year=2025,
    paper="https://arxiv.org/abs/2501.05441",
    code="https://github.com/brownvc/R3GAN (not read: no licence)",
    licence="none given",
    attention="none (convolutions), O(n)",
    resolutions={
        32: "paper",
        64: "paper",
        128: "ours: the 256 px widths without the last stage",
        256: "paper",
    },
    build=build,
    recipe=recipe,
)
