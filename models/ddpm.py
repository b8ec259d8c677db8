"""DDPM: the denoising diffusion model that set the pattern, as a multi-step comparator. Cost and generation only.

Why it exists: a one-step generator should be compared with what it replaces, per image, steps included.

Source: Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models", arXiv 2006.11239, section 4 and appendix B:
35.7 M parameters on CIFAR-10, 114 M on LSUN at 256 px. The authors' code, https://github.com/hojonathanho/diffusion,
was not read; the configurations are those of the released weights as converted for `diffusers` (Apache-2.0),
https://huggingface.co/google/ddpm-cifar10-32 and https://huggingface.co/google/ddpm-bedroom-256, and the networks are
`diffusers.UNet2DModel`. The sampler's variance is theirs too: β at 32 px, β̃ at 256 px. 64 px is what DDIM's authors
(arXiv 2010.02502; MIT) trained on CelebA, widths, blocks, attention, schedule and variance read in
https://github.com/ermongroup/ddim/blob/e8df66cf02e457719930748b5c26e37e3126dfdd/configs/celeba.yml.

A size is a sampler: `paper` takes all 1000 steps as DDPM does, `ddim-N` takes N without noise. Deliberate differences
and the samplers themselves: `models/_diffusion.py`. Training is out of scope: weights are random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from models._diffusion import SAMPLERS, WHY_NOT_TRAINED, Diffusion, config_of, sampler_around, sampling_recipe
from models._spec import Gan, GanSpec

ATTENTION_GRID = 16  # pixels per side where the network attends, and between its two halves


@dataclass(frozen=True, kw_only=True)
class DdpmConfig:
    """The network and process of one resolution.

    Attributes:
        widths: channels per level; each level halves the image but the last.
        num_blocks: residual blocks per level on the way down; one more on the way up.
        num_groups: of the group norms.
        variance: σ² of a step: β (`large`) or β̃ (`small`).
    """

    widths: tuple[int, ...]
    num_blocks: int = 2
    num_groups: int = 32
    variance: Literal["small", "large"] = "small"


PAPER: Mapping[int, DdpmConfig] = {
    32: DdpmConfig(widths=(128, 256, 256, 256), variance="large"),
    64: DdpmConfig(widths=(128, 256, 256, 256, 512), variance="large"),
    128: DdpmConfig(widths=(128, 256, 256, 512, 512)),
    256: DdpmConfig(widths=(128, 128, 256, 256, 512, 512)),
}
TINY: Mapping[int, DdpmConfig] = {
    resolution: DdpmConfig(widths=(*(8,) * num_wide, 16, 32), num_blocks=1, num_groups=4)
    for resolution, num_wide in {32: 1, 64: 2, 128: 3, 256: 4}.items()
}


def unet_settings(resolution: int, config: DdpmConfig) -> dict[str, Any]:
    """What `diffusers.UNet2DModel` is called with."""
    attends = [resolution // 2**level == ATTENTION_GRID for level in range(len(config.widths))]
    return {
        "sample_size": resolution,
        "block_out_channels": config.widths,
        "layers_per_block": config.num_blocks,
        "down_block_types": tuple("AttnDownBlock2D" if each else "DownBlock2D" for each in attends),
        "up_block_types": tuple("AttnUpBlock2D" if each else "UpBlock2D" for each in reversed(attends)),
        "attention_head_dim": None,  # one head
        "norm_num_groups": config.num_groups,
        "norm_eps": 1e-6,
        "downsample_padding": 0,  # one pixel below and on the right, as TensorFlow pads
        "flip_sin_to_cos": False,
        "freq_shift": 1,
    }


def build(resolution: int, size: str) -> Gan:
    """A sampler around a network with random weights; there is no discriminator.

    Raises:
        ValueError: there is no configuration for that resolution and size.
        ModuleNotFoundError: `diffusers` is not installed.
    """
    config = config_of((PAPER, TINY), "DDPM", resolution, size)
    return sampler_around(
        unet_settings(resolution, config), Diffusion(schedule="linear", variance=config.variance), size
    )


SPEC = GanSpec(
    title="DDPM (sampling only)",
    year=2020,
    paper="https://arxiv.org/abs/2006.11239",
    code="https://huggingface.co/google/ddpm-cifar10-32 (converted weights; the authors' own code was not read)",
    licence="Apache-2.0 (the conversion)",
    attention=f"quadratic at {ATTENTION_GRID}×{ATTENTION_GRID}, O(n²), in every step",
    resolutions={
        32: "paper",
        64: "ours: the network of DDIM (arXiv 2010.02502) on CelebA",
        128: "ours: between the authors' 32 and 256 px",
        256: "paper",
    },
    sizes=tuple(SAMPLERS),
    build=build,
    recipe=sampling_recipe,
    why_not_trained=WHY_NOT_TRAINED,
)
