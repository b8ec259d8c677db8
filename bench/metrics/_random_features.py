"""The random convolution network of `rfd_v1`, drawn from a fixed seed and checked before every use.

A feature extractor that silently changes is the classic way to a wrong distance: an untrained network of the usual kind
gives almost 0 for anything. So the weights and the output on a fixed image are compared with constants of this file,
and float32 with float64.

Idea: distances on features of untrained networks, Lee et al. 2022, https://arxiv.org/abs/2208.09218. The network
is ours:
* Input: uint8 RGB at its own resolution h = w ≥ 16, x / 127.5 - 1.
* Four stages of 32, 64, 128, 256 filters of 3×3: edges repeated, convolution, ReLU. A filter is drawn from the standard
  normal distribution, made zero-mean and unit-norm over all its weights, and scaled by √2, so that the second moment
  survives the ReLU; no bias. Weights are rounded to multiples of 2^-20, so that they are the same on every machine.
* Between stages: average pooling, by two, except that stage 1 is pooled to at most 32×32. So up to 64 pixels this is
  the plain cascade; above, stage 1 sees the native pixels (blur, noise, grid artefacts) and stages 2 to 4 see the same
  share of the picture at every resolution, and the cost grows slowly. Sizes that do not divide use adaptive bins.
* Features, d = 1264: mean and standard deviation over positions of each stage's map before it is pooled (960); layout,
  as 4×4 averages of the first 16 maps of stage 1 (256) and of the colours (48). Zero-mean filters are blind to flat
  brightness, the colours see it; they are halved, for at full size they hold most of the variance and drown the rest.
* The forward pass is float32 on the CPU, whatever device generated the images.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bench.datasets._spec import Images
from bench.errors import BenchError

FEATURE_WIDTH = 1264
SEED = 2208
WEIGHTS_SHA256 = "e9216eea236128ca11d396b5b9190ff20d97b90a8334de5df818a0a265010883"
OUTPUT_SHA256 = "46b81cecc23d4b69a4a2676ee76859bce33b93413df0edbdfee9913e040c9502"

_STAGE_WIDTHS = (32, 64, 128, 256)
_MAX_GRID_PX = 32
_LAYOUT_CELLS = 4
_NUM_LAYOUT_MAPS = 16
_LAYOUT_COLOUR_SCALE = 0.5
_MIN_RESOLUTION = 16
_BATCH_SIZE = 64
_WEIGHT_STEP = 2.0**-20
_OUTPUT_STEP = 1e-6
_MAX_FLOAT32_ERROR = 1e-4


def draw_filters() -> list[Tensor]:
    """The filters of the four stages, float64 [out, in, 3, 3]."""
    draw = np.random.RandomState(SEED)  # its stream is frozen by NumPy; Generator's is not
    filters, num_inputs = [], 3
    for width in _STAGE_WIDTHS:
        weights = draw.standard_normal((width, num_inputs * 9))
        weights -= weights.mean(axis=1, keepdims=True)
        weights *= np.sqrt(2) / np.linalg.norm(weights, axis=1, keepdims=True)
        rounded = np.rint(weights / _WEIGHT_STEP) * _WEIGHT_STEP  # exact in float32: below 2, 21 bits
        filters.append(torch.from_numpy(rounded.reshape(width, num_inputs, 3, 3)))
        num_inputs = width
    return filters


class RandomFeatures(nn.Module):
    """images uint8 [b, 3, h, w] → features [b, 1264] in the dtype of the filters.

    Args:
        filters: of the four stages, see `draw_filters`.
    """

    def __init__(self, filters: list[Tensor]) -> None:
        super().__init__()
        self.filters = filters

    def forward(self, images: Tensor) -> Tensor:
        x = images.to(self.filters[0].dtype) / 127.5 - 1.0
        layout = [_LAYOUT_COLOUR_SCALE * functional.adaptive_avg_pool2d(x, _LAYOUT_CELLS)]
        moments = []
        for stage, weights in enumerate(self.filters):
            x = functional.conv2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), weights).relu_()
            variance, mean = torch.var_mean(x, dim=(2, 3), correction=0)  # [b, c]
            moments += [mean, variance.sqrt()]
            if stage == 0:
                layout.append(functional.adaptive_avg_pool2d(x[:, :_NUM_LAYOUT_MAPS], _LAYOUT_CELLS))
            x = functional.adaptive_avg_pool2d(x, min(x.shape[-1] // 2, _MAX_GRID_PX))
        return torch.cat([*moments, *(block.flatten(1) for block in layout)], dim=1)


def checked_features() -> RandomFeatures:
    """The network in float32, after its weights and its output on a fixed image were found to be the pinned ones.

    Raises:
        BenchError: the weights or the output differ, so that a value would not be rfd_v1.
    """
    filters = draw_filters()
    weights = np.concatenate([np.rint(stage.numpy() / _WEIGHT_STEP).ravel() for stage in filters])
    _require("weights", weights, WEIGHTS_SHA256)
    image = torch.from_numpy(_fixed_image()[None])
    network = RandomFeatures([stage.float() for stage in filters])
    with torch.inference_mode():
        exact, output = RandomFeatures(filters)(image), network(image)
    _require("output on the fixed image", np.rint(exact.numpy() / _OUTPUT_STEP), OUTPUT_SHA256)
    error = float((output.double() - exact).abs().max())
    if not error < _MAX_FLOAT32_ERROR:
        raise BenchError(
            f"rfd_v1: float32 features are off by {error:.1e} on this machine, more than {_MAX_FLOAT32_ERROR}; "
            "its CPU convolutions run in a lower precision: switch that off in torch."
        )
    return network


def _require(what: str, integers: NDArray[np.float64], expected: str) -> None:
    found = hashlib.sha256(integers.astype("<i8").tobytes()).hexdigest()
    if found != expected:
        raise BenchError(
            f"rfd_v1: the {what} of the random network have SHA-256 {found[:12]}…, not {expected[:12]}…; this "
            "installation of numpy or torch computes another metric, so no value is given: use the pinned versions."
        )


def _fixed_image() -> Images:
    """uint8 [3, 128, 128]: ramps that wrap around. A flat image would not do, zero-mean filters answer it with zero."""
    rows, columns = np.mgrid[0:128, 0:128]
    return np.stack([3 * rows + 5 * columns, 7 * rows + 2 * columns, rows * columns]).astype(np.uint8)


def features_of(network: RandomFeatures, images: Images) -> NDArray[np.float32]:
    """uint8 [n, 3, h, w] → float32 [n, 1264]. Raises BenchError for images of another kind."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < _MIN_RESOLUTION:
        raise BenchError(
            f"rfd_v1 takes uint8 images [n, 3, h, w] of {_MIN_RESOLUTION} pixels or more per side, not {images.dtype} "
            f"{list(images.shape)}."
        )
    with torch.inference_mode():
        batches = [network(batch) for batch in torch.split(torch.from_numpy(images), _BATCH_SIZE)]
    return torch.cat(batches).numpy()
