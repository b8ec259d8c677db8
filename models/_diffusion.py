"""Multi-step generation: a denoising network by the `diffusers` package, called once per step of DDPM or DDIM.

Why it exists: DDPM and ADM are the multi-step comparators of the one-step generators of this zoo. What they have in
common stands here: noise schedules, samplers, where the noise comes from, and the adapter to `diffusers`.

Sources: DDPM, Ho et al., arXiv 2006.11239, algorithm 2; cosine schedule and learned variance, Nichol and Dhariwal,
arXiv 2102.09672, equations 17 and 15; DDIM, Song et al., arXiv 2010.02502, equation 12 with σ = 0; which of the 1000
time steps are taken where fewer are asked for, and the clipping: guided-diffusion, in the copy that ADM-IP uses (facts
were read there), https://github.com/forever208/DDPM-IP/tree/04e16a54b5fa1628d4ab4bb9871b6877ba077ef6/guided_diffusion.
With ā the cumulative product of 1 - β, ε the network's output, and ' marking what comes after the step (ā' = 1 after
the last):

    (1)  x₀ = clip(x / √ā - √(1 / ā - 1) ε)                            the image as guessed, within [-1, 1]
    (2)  x' = (√ā' - k) x₀ + k x / √ā,   k = √(1 - ā') / √(1 / ā - 1)     DDIM; (1) was solved for ε
    (3)  x' = (√ā' β x₀ + √(ā / ā') (1 - ā') x) / (1 - ā) + σ n        DDPM; β = 1 - ā / ā', n ~ N(0, I)
    (4)  σ² = β, or β̃ = β (1 - ā') / (1 - ā), or exp(v log β + (1 - v) log β̃) with v by the network

Why the samplers are not those of `diffusers`: a generator of this bench gives the same image for the same z in any
batch, runs on shapes alone and never waits for the device. There, noise comes from one generator per batch, and
DDIM's "linspace" steps are taken for evenly spaced ones. The tests hold both against each other.

Deliberate differences: the noise of (3) is computed from z (`gaussian_noise`), which so determines the image; both
samplers clip, the DDIM paper's code does not. Weights are random, as torch initialises layers: cost and generation are
measured, training is out of scope.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import mul
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from models._spec import Gan, NoDiscriminator, NotTrained, Recipe

Config = TypeVar("Config")

WHY_NOT_TRAINED = (
    "multi-step models have random weights here: their cost and speed are measured, training is out of scope"
)
NUM_TRAIN_STEPS = 1000
NOISE_BLOCK = 2**20  # noise values computed at once: those of many steps for a small batch, of one step for a large one


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Which sampler, and how many of the 1000 time steps it takes."""

    kind: Literal["ddpm", "ddim"]
    num_steps: int


SAMPLERS: Mapping[str, Sampler] = {
    "paper": Sampler(kind="ddpm", num_steps=NUM_TRAIN_STEPS),
    "ddim-250": Sampler(kind="ddim", num_steps=250),
    "ddim-80": Sampler(kind="ddim", num_steps=80),
    "ddim-50": Sampler(kind="ddim", num_steps=50),
    "ddim-10": Sampler(kind="ddim", num_steps=10),
    "tiny": Sampler(kind="ddim", num_steps=10),
}


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """The process a network was made for.

    Attributes:
        schedule: of β over the 1000 time steps.
        variance: σ² of a DDPM step: β̃, β, or learned, and then the network has three output channels more.
    """

    schedule: Literal["linear", "cosine"]
    variance: Literal["small", "large", "learned"]


class Step(NamedTuple):
    """Coefficients of one step: x₀ = clip(x_to_x0 · x - noise_to_x0 · ε), x' = x0_gain · x₀ + x_gain · x + σ n.

    `log_variances` are the lowest and highest log σ²; None where no noise is added.
    """

    time_step: int
    x_to_x0: float
    noise_to_x0: float
    x0_gain: float
    x_gain: float
    log_variances: tuple[float, float] | None


def betas(schedule: str) -> list[float]:
    """β at the 1000 time steps of the training."""
    if schedule == "linear":
        return [1e-4 + (0.02 - 1e-4) * t / (NUM_TRAIN_STEPS - 1) for t in range(NUM_TRAIN_STEPS)]
    curve = [math.cos((t / NUM_TRAIN_STEPS + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(NUM_TRAIN_STEPS + 1)]
    return [min(1 - after / before, 0.999) for before, after in pairwise(curve)]


def time_steps(num_steps: int) -> list[int]:
    """The time steps taken, from noise to image: spread evenly from 999 to 0, both included."""
    stride = (NUM_TRAIN_STEPS - 1) / (num_steps - 1)
    return [round(index * stride) for index in reversed(range(num_steps))]


def plan(taken: Sequence[int], kind: str, diffusion: Diffusion) -> list[Step]:
    """Coefficients of every step through the given time steps, which fall."""
    alpha_bars = list(accumulate((1 - beta for beta in betas(diffusion.schedule)), mul))
    along = [*(alpha_bars[t] for t in taken), 1.0]
    step_of = _ddim_step if kind == "ddim" else _ddpm_step
    return [step_of(t, now, after, diffusion) for t, (now, after) in zip(taken, pairwise(along), strict=True)]


def _ddim_step(time_step: int, now: float, after: float, diffusion: Diffusion) -> Step:
    """`now` and `after` are ā before and after the step."""
    del diffusion
    x_to_x0, noise_to_x0 = math.sqrt(1 / now), math.sqrt(1 / now - 1)  # (1)
    k = math.sqrt(1 - after) / noise_to_x0
    return Step(time_step, x_to_x0, noise_to_x0, math.sqrt(after) - k, k * x_to_x0, None)  # (2)


def _ddpm_step(time_step: int, now: float, after: float, diffusion: Diffusion) -> Step:
    """`now` and `after` are ā before and after the step."""
    beta = 1 - now / after
    x0_gain = math.sqrt(after) * beta / (1 - now)  # (3)
    x_gain = math.sqrt(now / after) * (1 - after) / (1 - now)  # (3)
    log_variances = None
    if after < 1:
        low, high = math.log(beta * (1 - after) / (1 - now)), math.log(beta)  # (4)
        log_variances = {"small": (low, low), "large": (high, high), "learned": (low, high)}[diffusion.variance]
    return Step(time_step, math.sqrt(1 / now), math.sqrt(1 / now - 1), x0_gain, x_gain, log_variances)


class DenoisingStep(nn.Module):
    """One step of a sampler: one call of the network and the update of the image. It is what a figure per step means.

    Args:
        unet: `diffusers.UNet2DModel` with 3 output channels, or 6 with a learned variance.
        steps: coefficients, from noise to image.
    """

    time_steps: Tensor

    def __init__(self, unet: nn.Module, steps: Sequence[Step]) -> None:
        super().__init__()
        self.unet = unet
        self.steps = tuple(steps)
        taken = torch.tensor([step.time_step for step in steps])
        self.register_buffer("time_steps", taken, persistent=False)  # on the device, so that no step copies its own

    def forward(self, x: Tensor, index: int = 0, noise: Tensor | None = None) -> Tensor:
        """The image after step `index`, counted from 0, of those taken.

        Args:
            x: [b, 3, h, w], the noisy image before the step.
            index: which step.
            noise: n of equation (3), like `x`; left out, none is added, which changes no multiply-accumulate.

        Returns:
            [b, 3, h, w] in the dtype of x.
        """
        step = self.steps[index]
        output = self.unet(x, self.time_steps[index], return_dict=False)[0].to(x.dtype)
        epsilon = output[:, :3]
        x0 = (step.x_to_x0 * x - step.noise_to_x0 * epsilon).clamp(-1, 1)  # (1)
        x = step.x0_gain * x0 + step.x_gain * x  # (2), (3)
        if noise is None or step.log_variances is None:
            return x
        low, high = step.log_variances
        if output.shape[1] == 3:
            return torch.add(x, noise, alpha=math.exp(low / 2))
        share = (output[:, 3:] + 1) / 2
        return torch.addcmul(x, noise, torch.exp((share * (high - low) + low) / 2))  # (4)


class MultiStepGenerator(nn.Module):
    """z [b, 3 · r · r], the initial noise → images [b, 3, r, r] in [-1, 1], by `num_steps` calls of the network.

    Attributes:
        num_steps: network calls per image; a figure per step is the one per image divided by it.
        one_step: what is called that often; `one_step(x, index)` alone is `1 / num_steps` of the multiply-accumulates.
    """

    def __init__(self, one_step: DenoisingStep, resolution: int) -> None:
        super().__init__()
        self.one_step = one_step
        self.num_steps = len(one_step.steps)
        self.resolution = resolution

    def forward(self, z: Tensor) -> Tensor:
        """z [b, 3 · r · r] → images in the dtype of z."""
        x = z.reshape(-1, 3, self.resolution, self.resolution)
        for index, noise in enumerate(self._noises(z)):
            x = self.one_step(x, index, noise)
        return x

    def _noises(self, z: Tensor) -> Iterator[Tensor | None]:
        """The noise of each step, [b, 3, r, r]; None for all of them where the sampler is deterministic."""
        if all(step.log_variances is None for step in self.one_step.steps):
            yield from (None for _ in range(self.num_steps))
            return
        keys, b = latent_keys(z), z.shape[0]
        block = max(1, NOISE_BLOCK // z.numel())
        for first in range(0, self.num_steps, block):
            num_steps = min(block, self.num_steps - first)
            noise = gaussian_noise(keys, first, num_steps, z.shape[1]).to(z.dtype)
            yield from noise.reshape(num_steps, b, 3, self.resolution, self.resolution)


def latent_keys(z: Tensor) -> Tensor:
    """One 64-bit number per image, a hash of the bits of z [b, n]: [b] int64."""
    bits = z.float().contiguous().view(torch.int32).long()
    return _mixed(bits + _GOLDEN * torch.arange(1, z.shape[1] + 1, device=z.device)).sum(dim=1)


def gaussian_noise(keys: Tensor, first: int, num_steps: int, num_values: int) -> Tensor:
    """Standard normal noise of the steps from `first` on, which is the same in whatever blocks it is computed.

    The generator is SplitMix64 (Steele et al., OOPSLA 2014), seeded with an image's key; step and pixel count its
    draws. Each draw's two halves make two normal values (Box and Muller, 1958). All of it is arithmetic on the device.

    Args:
        keys: [b] int64.
        first, num_steps: the steps.
        num_values: per image and step; even.

    Returns:
        [num_steps, b, num_values] float32.
    """
    half = num_values // 2
    draws = torch.arange(first * half + 1, (first + num_steps) * half + 1, device=keys.device).view(num_steps, 1, half)
    words = _mixed(keys[:, None] + _GOLDEN * draws)  # [num_steps, b, half]
    radius = (-2 * torch.log(((words >> 32 & _LOW_32_BITS).float() + 0.5) * 2**-32)).sqrt()
    angle = (words & _LOW_32_BITS).float() * (2 * math.pi * 2**-32)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=2)


_LOW_32_BITS = 2**32 - 1
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # as signed numbers: torch's int64 wraps around


def _mixed(words: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 of any shape; a shift of a signed number is masked to bring in zeros."""
    words = (words ^ (words >> 30 & 2**34 - 1)) * (0xBF58476D1CE4E5B9 - 2**64)
    words = (words ^ (words >> 27 & 2**37 - 1)) * (0x94D049BB133111EB - 2**64)
    return words ^ (words >> 31 & 2**33 - 1)


def make_generator(unet: Mapping[str, Any], diffusion: Diffusion, sampler: Sampler) -> MultiStepGenerator:
    """A network by `diffusers.UNet2DModel` with those settings, and a sampler around it.

    Raises:
        ModuleNotFoundError: `diffusers` is not installed; the message says how to install it.
    """
    steps = plan(time_steps(sampler.num_steps), sampler.kind, diffusion)
    return MultiStepGenerator(DenoisingStep(_diffusers().UNet2DModel(**unet), steps), unet["sample_size"])


def config_of(
    configs: tuple[Mapping[int, Config], Mapping[int, Config]], title: str, resolution: int, size: str
) -> Config:
    """The network of that resolution, from the first table, or from the second where the size is `tiny`.

    Raises:
        ValueError: there is no such resolution, or no such sampler.
    """
    paper, tiny = configs
    if resolution not in paper or size not in SAMPLERS:
        known = f"{', '.join(SAMPLERS)} at {', '.join(map(str, paper))} px"
        raise ValueError(f"{title} has no size '{size}' at {resolution} px; known: {known}.")
    return (tiny if size == "tiny" else paper)[resolution]


def sampler_around(unet: Mapping[str, Any], diffusion: Diffusion, size: str) -> Gan:
    """A network by `diffusers.UNet2DModel` with those settings in the sampler that the size names.

    Raises:
        ModuleNotFoundError: `diffusers` is not installed.
    """
    generator = make_generator(unet, diffusion, SAMPLERS[size])
    return Gan(generator=generator, discriminator=NoDiscriminator(), latent_dim=3 * unet["sample_size"] ** 2)


def _diffusers() -> Any:
    """The optional package, imported when a network is built and not before: listing the models does without it."""
    try:
        return importlib.import_module("diffusers")
    except ModuleNotFoundError as error:
        if error.name != "diffusers":
            raise
        message = "The multi-step models need the package diffusers: pip install gan-bench[diffusion]."
        raise ModuleNotFoundError(message, name="diffusers") from error


def sampling_recipe(dataset: str, resolution: int, size: str) -> Recipe:
    """Batch size and precision to sample with; there is nothing to train with."""
    del dataset, resolution, size
    return Recipe(
        num_images=1,
        batch_size=16,
        generator_lr=0.0,
        discriminator_lr=0.0,
        adam_betas=(0.0, 0.0),
        ema_decay=0.0,
        objective=NotTrained(),
        source=f"ours: sampled in batches of 16; {WHY_NOT_TRAINED}",
    )
