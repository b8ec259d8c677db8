"""The layers of StyleGAN2 in plain PyTorch: one implementation for every model of the zoo that is built on them.

Why it exists: StyleGAN2, GANformer, Styleformer, StyleSwin and ViTGAN share these layers; the reference code wraps them
in CUDA extensions under a non-commercial licence. Nothing here was taken from it; each derivative of each layer exists.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", arXiv 1912.04958, section 2.2 (weight
demodulation, equations 1 to 3), figure 2d (where bias and noise go), figure 7 and appendix B; and what that paper takes
over: equalised learning rate, pixel norm, minibatch standard deviation from arXiv 1710.10196 (sections 4.1, 4.2 and 3),
mapping network, its learning rate and noise from arXiv 1812.04948. Counts: reference/models.md.

The API, images being [b, c, h, w] and styles [b, style_width]:

* `EqualLinear(in, out, lr_multiplier=, bias_init=, is_activated=)`, `EqualConv(in, out, kernel_size, ...)` with
  `is_down=True` for low-pass and stride 2: weights are drawn from N(0, 1) and scaled at run time.
* `activate(x)` = √2 · leaky_relu(x, 0.2); `pixel_norm(x)`; `MappingNetwork(latent_dim, style_width, num_layers)`.
* `modulated_conv(x, weight, scale, ...)`: the function, in two forms that are equal; `ModulatedConv(in, out,
  kernel_size, style_width, is_up=, is_demodulated=)`: weight and affine layer around it.
* `StyleNoise(resolution)`: noise to be added, one value per pixel, drawn anew in training and constant in eval mode.
* `StyledConv(in, out, style_width, resolution, is_up=)`: modulated 3×3 convolution, noise, bias, activation.
* `ToRgb(in, style_width)`: `to_rgb(x, style, skip)` adds to the skip image, which it upsamples first.
* `MinibatchStd(group_size)`, `ResidualDown(in, out)`, `DiscriminatorHead(c)`, `ResidualDiscriminator(resolution,
  width_at)`: figure 7's residual discriminator and its parts.

Deliberate differences from the papers:
* √2 of the activation is multiplied into the weights and biases before it, which is the same and saves a pass.
* Where a group size does not divide the batch, minibatch std uses the greatest common divisor.
* No truncation trick, and no running mean of styles for it: every metric here is without truncation.
Convolutions run in channels-last memory. Filtered resampling is in `models._fir`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from models._fir import FirBlur, FirDownsample, FirUpsample

SQRT_2 = math.sqrt(2.0)
LEAK = 0.2
FIRST_GRID = 4  # pixels per side where generators start and discriminators end
EPS = 1e-8


def activate(x: Tensor) -> Tensor:
    """√2 · leaky ReLU, which keeps the variance of a unit normal input near 1."""
    return functional.leaky_relu(x, LEAK) * SQRT_2


def pixel_norm(x: Tensor) -> Tensor:
    """Divide each vector [b, c, ...] by its root mean square over dim 1 (arXiv 1710.10196, section 4.2)."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + EPS)


class EqualLinear(nn.Module):
    """Linear layer with equalised learning rate: the weight is N(0, 1) and scaled by 1/√c_in at run time.

    Args:
        lr_multiplier: the layer learns that many times as fast as others; its weights are stored larger instead.
        bias_init: what the bias starts at, as it is applied.
        is_activated: whether `activate` follows.
    """

    def __init__(
        self,
        width_in: int,
        width_out: int,
        *,
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
        is_activated: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width_out, width_in) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((width_out,), bias_init / lr_multiplier))
        self.is_activated = is_activated
        self.bias_gain = lr_multiplier * (SQRT_2 if is_activated else 1.0)
        self.weight_gain = self.bias_gain / math.sqrt(width_in)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., c_in] → [..., c_out]."""
        y = functional.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)
        return functional.leaky_relu(y, LEAK) if self.is_activated else y


class EqualConv(nn.Module):
    """Convolution with equalised learning rate and `same` padding.

    Args:
        kernel_size: odd; a down-sampling convolution takes 1 or 3.
        has_bias: whether one bias per channel is added.
        is_activated: whether `activate` follows.
        is_down: low-pass filter and halve the grid.
    """

    def __init__(
        self,
        width_in: int,
        width_out: int,
        kernel_size: int,
        *,
        has_bias: bool = True,
        is_activated: bool = False,
        is_down: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width_out, width_in, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(width_out)) if has_bias else None
        self.is_activated = is_activated
        self.bias_gain = SQRT_2 if is_activated else 1.0
        self.weight_gain = self.bias_gain / math.sqrt(width_in * kernel_size**2)
        self.filter: nn.Module = nn.Identity()
        self.padding, self.stride = kernel_size // 2, 1
        if is_down:
            self.filter = FirDownsample() if kernel_size == 1 else FirBlur(padding=2)
            self.padding, self.stride = 0, 1 if kernel_size == 1 else 2

    def forward(self, x: Tensor) -> Tensor:
        """x [b, c_in, h, w] → [b, c_out, h, w], or [b, c_out, h / 2, w / 2]."""
        bias = None if self.bias is None else self.bias * self.bias_gain
        y = functional.conv2d(
            self.filter(x), self.weight * self.weight_gain, bias, stride=self.stride, padding=self.padding
        )
        return functional.leaky_relu(y, LEAK) if self.is_activated else y


class MappingNetwork(nn.Module):
    """z → pixel norm → fully connected, activated layers that learn slowly → style.

    Args:
        latent_dim, style_width: of z and of the style, which is the width of the hidden layers too.
        num_layers: 8 in the papers.
        lr_multiplier: of all layers (0.01: arXiv 1812.04948, appendix C).
    """

    def __init__(self, latent_dim: int, style_width: int, num_layers: int = 8, lr_multiplier: float = 0.01) -> None:
        super().__init__()
        widths = (latent_dim, *[style_width] * num_layers)
        self.layers = nn.Sequential(
            *(
                EqualLinear(width_in, width_out, lr_multiplier=lr_multiplier, is_activated=True)
                for width_in, width_out in pairwise(widths)
            )
        )

    def forward(self, z: Tensor) -> Tensor:
        """z [b, latent_dim] → style [b, style_width]."""
        style: Tensor = self.layers(pixel_norm(z))
        return style


def modulated_conv(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    *,
    is_demodulated: bool = True,
    is_transposed: bool = False,
    gain: float = 1.0,
    is_grouped: bool = False,
) -> Tensor:
    """Convolution whose weights are modulated per image and demodulated: equations 1 and 3 of arXiv 1912.04958.

    Two forms, equal up to rounding (tested). *Grouped*: w'' of every image is made and one convolution with b groups
    runs, as in the paper. *Scaled* (the default): because convolution is linear, scaling channels before and after
    one convolution of the whole batch is the same. On a CPU core it takes a third of the time at 8×8 × 512 channels,
    a sixth of it for second derivatives, and as long at 128×128 × 64.

    Args:
        x: [b, c_in, h, w].
        weight: [c_out, c_in, k, k] from N(0, 1); the scaling by 1/√(c_in k²) happens here.
        scale: [b, c_in], the s of equation 1.
        is_transposed: stride-2 transposed convolution without padding: h → 2 h + 1 for k = 3.
        gain: multiplies the result.

    Returns: [b, c_out, h, w] or, transposed, [b, c_out, 2 h - 2 + k, 2 w - 2 + k].
    """
    scale = scale * (1 / math.sqrt(weight[0].numel()))
    inverse_norm = None
    if is_demodulated:
        squares = weight.square().sum(dim=(2, 3))  # [c_out, c_in]
        inverse_norm = torch.rsqrt(scale.square() @ squares.T + EPS) * gain  # (3) [b, c_out]
    else:
        scale = scale * gain
    if is_grouped:
        return _conv_in_groups(x, weight, scale, inverse_norm, is_transposed)
    y = _conv(x * scale.to(x.dtype)[:, :, None, None], weight, is_transposed)  # (1)
    return y if inverse_norm is None else y * inverse_norm.to(y.dtype)[:, :, None, None]


def _conv(x: Tensor, weight: Tensor, is_transposed: bool, groups: int = 1) -> Tensor:
    """weight [c_out, c_in, k, k], or with groups [g · c_out, c_in, k, k], transposed [g · c_in, c_out, k, k]."""
    if is_transposed:
        weight = weight.transpose(0, 1) if groups == 1 else weight
        return functional.conv_transpose2d(x, weight, stride=2, groups=groups)
    return functional.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=groups)


def _conv_in_groups(x: Tensor, weight: Tensor, scale: Tensor, norm: Tensor | None, is_transposed: bool) -> Tensor:
    weights = weight * scale[:, None, :, None, None]  # (1) [b, c_out, c_in, k, k]
    if norm is not None:
        weights = weights * norm[:, :, None, None, None]
    weights = weights.transpose(1, 2) if is_transposed else weights
    b = x.shape[0]
    y = _conv(x.reshape(1, -1, *x.shape[2:]), weights.flatten(0, 1), is_transposed, groups=b)
    return y.reshape(b, weight.shape[0], *y.shape[2:])


class ModulatedConv(nn.Module):
    """`modulated_conv` with its weight and the affine layer A that makes scales of a style (biases start at 1).

    Args:
        kernel_size: odd; 3 where `is_up`.
        is_up: doubles the grid: transposed convolution, then low-pass filter.
        is_demodulated: off for layers that make colours.
        gain: multiplies the result.
    """

    def __init__(
        self,
        width_in: int,
        width_out: int,
        kernel_size: int,
        style_width: int,
        *,
        is_up: bool = False,
        is_demodulated: bool = True,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.to_scale = EqualLinear(style_width, width_in, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(width_out, width_in, kernel_size, kernel_size))
        self.is_up, self.is_demodulated, self.gain = is_up, is_demodulated, gain
        self.blur = FirBlur(padding=1, gain=4.0) if is_up else nn.Identity()

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x [b, c_in, h, w], style [b, style_width] → [b, c_out, h, w], or [b, c_out, 2 h, 2 w]."""
        settings = {"is_demodulated": self.is_demodulated, "is_transposed": self.is_up}
        y: Tensor = self.blur(modulated_conv(x, self.weight, self.to_scale(style), gain=self.gain, **settings))
        return y


class StyleNoise(nn.Module):
    """Normal noise, one value per pixel, times a learned strength that starts at 0.

    Drawn per image in training; in eval mode one stored pattern for every image, so that an image depends on z alone.
    """

    constant: Tensor

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("constant", torch.randn(1, 1, resolution, resolution))

    def forward(self, x: Tensor) -> Tensor:
        """x [b, c, h, w] → noise [b or 1, 1, h, w] to be added to it."""
        if self.training:
            noise = torch.randn(x.shape[0], 1, *x.shape[2:], dtype=x.dtype, device=x.device)
        else:
            noise = self.constant.to(x.dtype)
        return noise * self.strength.to(x.dtype)


def activated_with_noise(y: Tensor, noise: StyleNoise, bias: Tensor, gain: float) -> Tensor:
    """`gain` × an image [b, c, h, w] → noise and bias [c], times `gain`, are added, then leaky ReLU (figure 2d)."""
    y = y + noise(y) * gain + (bias * gain).to(y.dtype)[:, None, None]
    return functional.leaky_relu(y, LEAK)


class StyledConv(nn.Module):
    """Modulated 3×3 convolution, then noise, bias and activation outside of the style's reach (figure 2d).

    `resolution` is pixels per side of the result, which is multiplied by `gain`.
    """

    def __init__(
        self,
        width_in: int,
        width_out: int,
        style_width: int,
        resolution: int,
        *,
        is_up: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.gain = SQRT_2 * gain
        self.conv = ModulatedConv(width_in, width_out, 3, style_width, is_up=is_up, gain=self.gain)
        self.noise = StyleNoise(resolution)
        self.bias = nn.Parameter(torch.zeros(width_out))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x [b, c_in, h, w], style [b, style_width] → [b, c_out, resolution, resolution]."""
        return self.finish(self.conv(x, style))

    def finish(self, y: Tensor) -> Tensor:
        """`self.gain` × the convolved image → noise and bias added, activated."""
        return activated_with_noise(y, self.noise, self.bias, self.gain)


class ToRgb(nn.Module):
    """Modulated 1×1 convolution to colours, without demodulation, added to the image so far (figure 7b)."""

    def __init__(self, width_in: int, style_width: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(width_in, 3, 1, style_width, is_demodulated=False)
        self.bias = nn.Parameter(torch.zeros(3))
        self.upsample = FirUpsample()

    def forward(self, x: Tensor, style: Tensor, skip: Tensor | None = None) -> Tensor:
        """x [b, c_in, h, w], style [b, style_width], skip [b, 3, h / 2, w / 2] or None → image [b, 3, h, w]."""
        image: Tensor = self.conv(x, style) + self.bias[:, None, None]
        return image if skip is None else image + self.upsample(skip)


class MinibatchStd(nn.Module):
    """One more channel: how much the images of a group differ, averaged over channels and pixels.

    Group j of b / group_size has the images j, j + b / group_size, …; the mean square deviation is the biased one.
    """

    def __init__(self, group_size: int = 4) -> None:
        super().__init__()
        self.group_size = group_size

    def forward(self, x: Tensor) -> Tensor:
        """x [b, c, h, w] → [b, c + 1, h, w]."""
        b, _, h, w = x.shape
        group_size = math.gcd(b, self.group_size)
        groups = x.float().reshape(group_size, b // group_size, *x.shape[1:])
        deviation = (groups.var(dim=0, correction=0) + EPS).sqrt().mean(dim=(1, 2, 3))  # [b / g]
        channel = deviation.to(x.dtype).repeat(group_size)[:, None, None, None].expand(b, 1, h, w)
        return torch.cat([x, channel], dim=1)


class ResidualDown(nn.Module):
    """Two 3×3 convolutions, the second halving the grid, beside a 1×1 one (figure 7c)."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv = EqualConv(width_in, width_in, 3, is_activated=True)
        self.down = EqualConv(width_in, width_out, 3, is_activated=True, is_down=True)
        self.skip = EqualConv(width_in, width_out, 1, has_bias=False, is_down=True)

    def forward(self, x: Tensor) -> Tensor:
        """x [b, c_in, h, w] → [b, c_out, h / 2, w / 2]; the sum's variance is that of its parts."""
        y: Tensor = self.down(self.conv(x)) + self.skip(x)
        return y / SQRT_2


class DiscriminatorHead(nn.Module):
    """4×4 features → minibatch std → 3×3 convolution → two linear layers → one logit."""

    def __init__(self, width: int, group_size: int = 4) -> None:
        super().__init__()
        self.minibatch_std = MinibatchStd(group_size)
        self.conv = EqualConv(width + 1, width, 3, is_activated=True)
        self.hidden = EqualLinear(width * FIRST_GRID**2, width, is_activated=True)
        self.to_logit = EqualLinear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [b, c, 4, 4] → logits [b, 1]."""
        y: Tensor = self.to_logit(self.hidden(self.conv(self.minibatch_std(x)).flatten(1)))
        return y


class ResidualDiscriminator(nn.Module):
    """The residual discriminator of StyleGAN2: images [b, 3, resolution, resolution] → logits [b, 1].

    Args:
        resolution: a power of 2, at least 8.
        width_at: pixels per side → channels.
        group_size: of minibatch std.
    """

    def __init__(self, resolution: int, width_at: Callable[[int], int], group_size: int = 4) -> None:
        super().__init__()
        grids = grids_to(resolution)[::-1]
        self.from_rgb = EqualConv(3, width_at(resolution), 1, is_activated=True)
        self.blocks = nn.Sequential(*(ResidualDown(width_at(grid), width_at(half)) for grid, half in pairwise(grids)))
        self.head = DiscriminatorHead(width_at(FIRST_GRID), group_size)

    def forward(self, x: Tensor) -> Tensor:
        """Images [b, 3, h, w] → logits [b, 1] in the dtype of the images."""
        logits: Tensor = self.head(self.blocks(self.from_rgb(x.contiguous(memory_format=torch.channels_last))))
        return logits.to(x.dtype)


def grids_to(resolution: int) -> Sequence[int]:
    """4, 8, … up to the resolution, in pixels per side.

    Raises:
        ValueError: the resolution is no power of 2, or below 8.
    """
    if resolution < 2 * FIRST_GRID or resolution.bit_count() != 1:
        raise ValueError(f"{resolution} px is not a power of 2 from {2 * FIRST_GRID} up.")
    return [1 << exponent for exponent in range(FIRST_GRID.bit_length() - 1, resolution.bit_length())]
