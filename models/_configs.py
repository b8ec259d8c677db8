"""What the configurations and recipes of several models share: the look-up, channels, R1's γ, a half-life.

Why it exists: every model file ends with the same question, "which widths for this resolution and size?", and the
style-based ones take their channels from the same rule.

Sources: the rule of channels is that of Karras et al., arXiv 1710.10196, table 2, in the form of arXiv 1912.04958:
twice the side, half the channels, and never more than a maximum. A moving average whose old share halves every so many
images is how that line of papers states its decay. γ in proportion to the number of pixels is the rule of thumb of
StyleGAN3's documentation, as quoted in https://github.com/NVlabs/stylegan3/issues/71.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

Config = TypeVar("Config")


def config_for(configs: Mapping[tuple[int, str], Config], title: str, resolution: int, size: str) -> Config:
    """The configuration of that resolution and size.

    Raises:
        ValueError: there is none; the message names those that are.
    """
    if (resolution, size) not in configs:
        known = ", ".join(f"{size} at {resolution} px" for resolution, size in configs)
        raise ValueError(f"{title} has no size '{size}' at {resolution} px; known: {known}.")
    return configs[resolution, size]


@dataclass(frozen=True, kw_only=True)
class ChannelRule:
    """Channels at s pixels per side are min(channel_base / s, channel_max)."""

    channel_base: int = 16384
    channel_max: int = 512

    def width_at(self, grid: int) -> int:
        """Channels at `grid` pixels per side."""
        return min(self.channel_base // grid, self.channel_max)


def gamma_by_pixels(resolution: int) -> float:
    """R1's γ where it is 1 at 256 px and proportional to the number of pixels, for want of a published value."""
    return (resolution / 256) ** 2


def decay_of_half_life(batch_size: int, half_life_images: float) -> float:
    """Decay per step of a moving average in which the share of old weights halves every `half_life_images`."""
    decay: float = 0.5 ** (batch_size / half_life_images)
    return decay
