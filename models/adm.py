"""ADM, the "ablated" diffusion model, in the configurations of ADM-IP, as a multi-step comparator. Sampling only.

Why it exists: LadaGAN's paper prints ADM-IP's cost of *one* denoising step beside one-step generators; an image takes
80 to 1000 of them.

Source: Dhariwal and Nichol, "Diffusion models beat GANs on image synthesis", arXiv 2105.05233, table 1 and appendix I;
Ning et al., "Input perturbation reduces exposure bias in diffusion models" (ADM-IP), arXiv 2301.11706, whose README
lists the arguments for 32, 64 and 128 px:
https://github.com/forever208/DDPM-IP/tree/04e16a54b5fa1628d4ab4bb9871b6877ba077ef6 (built on guided-diffusion, MIT).
256 px is guided-diffusion's LSUN model. The networks are `diffusers.UNet2DModel`; parameters and multiply-accumulates
come out as counted on the official code.

ADM: residual blocks whose second group norm takes scale and shift from the time step, residual blocks for up- and
downsampling, attention at 32, 16 and 8 pixels with 64 channels per head, three more output channels that choose σ
between β̃ and β. Input perturbation changes the training alone, so nothing of it is here.

A size is a sampler: `paper` takes all 1000 steps with noise, `ddim-N` takes N without. ADM-IP's published 80 steps are
80 steps with noise: the same network calls. Deliberate differences and the samplers themselves: `models/_diffusion.py`.
Training is out of scope: weights are random (the authors start with zeros in the last layer of each block).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from models._diffusion import SAMPLERS, WHY_NOT_TRAINED, Diffusion, config_of, sampler_around, sampling_recipe
from models._spec import Gan, GanSpec


@dataclass(frozen=True, kw_only=True)
class AdmConfig:
    """The network and process of one resolution.

    Attributes:
        widths: channels per level; each level halves the image but the last.
        num_blocks: residual blocks per level on the way down; one more on the way up.
        attention_grids: pixels per side of the levels that attend; the middle of the network always does.
        head_width: channels of an attention head.
        num_groups: of the group norms.
        schedule: of β.
    """

    widths: tuple[int, ...]
    num_blocks: int = 3
    attention_grids: tuple[int, ...] = (32, 16, 8)
    head_width: int = 64
    num_groups: int = 32
    schedule: Literal["linear", "cosine"] = "cosine"


PAPER: Mapping[int, AdmConfig] = {
    32: AdmConfig(widths=(128, 256, 256, 256), attention_grids=(16, 8), head_width=32),
    64: AdmConfig(widths=(192, 384, 576, 768)),
    128: AdmConfig(widths=(256, 256, 512, 768, 1024)),
    256: AdmConfig(widths=(256, 256, 512, 512, 1024, 1024), num_blocks=2, schedule="linear"),
}
TINY: Mapping[int, AdmConfig] = {
    resolution: AdmConfig(
        widths=(*(8,) * num_wide, 16, 32), num_blocks=1, attention_grids=(8,), head_width=8, num_groups=4
    )
    for resolution, num_wide in {32: 1, 64: 2, 128: 3, 256: 4}.items()
}


def unet_settings(resolution: int, config: AdmConfig) -> dict[str, Any]:
    """What `diffusers.UNet2DModel` is called with."""
    attends = [resolution // 2**level in config.attention_grids for level in range(len(config.widths))]
    return {
        "sample_size": resolution,
        "out_channels": 6,
        "block_out_channels": config.widths,
        "layers_per_block": config.num_blocks,
        "down_block_types": tuple("AttnDownBlock2D" if each else "ResnetDownsampleBlock2D" for each in attends),
        "up_block_types": tuple("AttnUpBlock2D" if each else "ResnetUpsampleBlock2D" for each in reversed(attends)),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "attention_head_dim": config.head_width,
        "norm_num_groups": config.num_groups,
        "attn_norm_num_groups": config.num_groups,  # left out, the attention in the middle would have no norm
        "resnet_time_scale_shift": "scale_shift",
    }


def build(resolution: int, size: str) -> Gan:
    """A sampler around a network with random weights; there is no discriminator.

    Raises:
        ValueError: there is no configuration for that resolution and size.
        ModuleNotFoundError: `diffusers` is not installed.
    """
    config = config_of((PAPER, TINY), "ADM", resolution, size)
    return sampler_around(
        unet_settings(resolution, config), Diffusion(schedule=config.schedule, variance="learned"), size
    )


SPEC = GanSpec(
    title="ADM (sampling only)",
    year=2021,
    paper="https://arxiv.org/abs/2105.05233",
    code="https://github.com/forever208/DDPM-IP/tree/04e16a54b5fa1628d4ab4bb9871b6877ba077ef6",
    licence="MIT (guided-diffusion)",
    attention="quadratic at 32×32 and below, O(n²), in every step",
    resolutions={32: "paper", 64: "paper", 128: "paper", 256: "paper"},
    sizes=tuple(SAMPLERS),
    build=build,
    recipe=sampling_recipe,
    why_not_trained=WHY_NOT_TRAINED,
)
