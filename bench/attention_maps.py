"""LadaGAN's additive attention maps as pictures: where the tokens lie that stand for all others.

Why it exists: the operator keeps one weight α per token and head (equation (2) of `models/_attention.py`), so a whole
layer can be looked at; the paper shows such maps for one head while the training goes on. Here every head of every
block is shown beside the image.

Source: arXiv 2401.09596; `tensorflow/model.py` returns the same α of its three blocks:
https://github.com/milmor/LadaGAN/tree/eb3ed9c53c4f4b2775aaee034d991075f670af0d
Difference: the authors' scale is not known; here a map's colours run from 0 to its own largest α, which is written over
it as a multiple of the even share 1 / n, because α falls with the number of tokens n.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from bench.datasets._spec import Images
from bench.errors import UsageError

_SOFTMAX = ".attention.token_softmax"
_PANEL_INCHES = 1.15
_DPI = 110
_OPACITY = 0.72  # of a map over its image, which is shown in grey below it


@torch.no_grad()
def attention_maps(generator: nn.Module, z: Tensor) -> dict[str, Tensor]:
    """z [b, latent_dim] → block name → α [b, h, side, side] on the CPU, in the order of the blocks; each sums to 1.

    Raises:
        UsageError: the generator has no additive attention.
    """
    layers = {name: module for name, module in generator.named_modules() if name.endswith(_SOFTMAX)}
    if not layers:
        raise UsageError(
            "--attention-maps: this generator has no additive attention, and only its maps can be drawn; leave the "
            "option out."
        )
    found: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(_keep(found, name.removesuffix(_SOFTMAX))) for name, module in layers.items()
    ]
    try:
        generator(z)
    finally:
        for handle in handles:
            handle.remove()
    return found


def attention_sheet(images: Images, maps: dict[str, Tensor]) -> bytes:
    """One PNG: a row per image, the image first and then every block's heads over it.

    Args:
        images: uint8 [b, 3, h, w].
        maps: of the same images, as `attention_maps` gives them.
    """
    heads = [(alpha, head) for alpha in maps.values() for head in range(alpha.shape[1])]
    num_rows, num_columns = len(images), 1 + len(heads)
    with mpl.rc_context():
        mpl.rcdefaults()  # the same maps give the same picture, whatever the user's settings
        figure = Figure(figsize=(_PANEL_INCHES * num_columns, (_PANEL_INCHES + 0.17) * num_rows + 0.45), dpi=_DPI)
        figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
        axes = figure.subplots(num_rows, num_columns, squeeze=False)
        for row, image in enumerate(images):
            _bare(axes[row, 0], f"image {row}")
            axes[row, 0].imshow(image.transpose(1, 2, 0), interpolation="nearest")
            for axis, (alpha, head) in zip(axes[row, 1:], heads, strict=True):
                _draw(axis, image, alpha[row, head])
        for axis, (alpha, head) in zip(axes[0, 1:], heads, strict=True):
            side = alpha.shape[-1]
            axis.set_title(f"{side} × {side} tokens\nhead {head}\n{axis.get_title()}", fontsize=7, pad=2)
        figure.supxlabel(
            "Colour: the token's weight α, black for 0, yellow for the map's largest; the number is that largest α, "
            "1 being the even share.",
            fontsize=7,
        )
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _keep(found: dict[str, Tensor], name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    """A forward hook that keeps α [b, h, n] as a grid of tokens."""

    def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], alpha: Tensor) -> None:
        side = math.isqrt(alpha.shape[-1])
        found[name] = alpha.float().cpu().reshape(*alpha.shape[:2], side, side)

    return hook


def _draw(axis: Axes, image: Images, alpha: Tensor) -> None:
    """α [side, side] over the image [3, h, w], each token as large as the pixels it stands for."""
    h, w = image.shape[1:]
    weights = alpha.numpy()
    _bare(axis, f"{weights.max() * weights.size:.3g} ×")
    axis.imshow(np.asarray(image, dtype=np.float32).mean(axis=0), cmap="gray", vmin=0, vmax=255)
    axis.imshow(
        weights,
        cmap="inferno",
        vmin=0.0,
        vmax=float(weights.max()),
        alpha=_OPACITY,
        extent=(-0.5, w - 0.5, h - 0.5, -0.5),
        interpolation="bilinear",
    )


def _bare(axis: Axes, title: str) -> None:
    axis.set_axis_off()
    axis.set_title(title, fontsize=7, pad=2)
