"""The DINOv2 network of `fd_dinov2_50k`: a vision transformer ViT-L/14 with the published weights, pinned by SHA-256.

It exists because torch-fidelity's own extractor (`dinov2-vit-l-14`, version 0.4.0) fetches the network's *code* with
torch hub and refuses a file of weights. The network is written here from the paper (Oquab et al. 2023,
https://arxiv.org/abs/2304.07193; blocks of Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929) with the
tensor names of the published file; it gives the outputs of https://github.com/facebookresearch/dinov2 at commit
b8931f7 (`dinov2/models/vision_transformer.py`, hub entry `dinov2_vitl14`), which a test pins. The resize and the
normalisation are torch-fidelity's: TensorFlow 1's bilinear to 224 px, ImageNet mean and deviation.

Feature: the class token after the last norm, 1,024 wide. Stein et al. 2023 (https://arxiv.org/abs/2306.04675) found
distances in it to follow people's judgement closest. Difference: their code resizes with an antialiased bicubic filter,
so their figures and these are on different scales.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from bench.errors import BenchError
from bench.metrics._pinned_weights import PinnedWeights
from bench.metrics._pretrained import PretrainedNetwork

LAYERS = ("dinov2",)
FEATURE_WIDTH = 1024
WEIGHTS = PinnedWeights(
    title="DINOv2 ViT-L/14",
    file_name="dinov2_vitl14_pretrain.pth",
    url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    sha256="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    variable="BENCH_DINOV2_WEIGHTS",
)

_INPUT_PX = 224
_PATCH_PX = 14
_TRAINED_GRID = 37  # patches per side at the 518 px that the position embeddings were trained for
_GRID_OFFSET = 0.1  # the published code adds it to the scale, and so moves every sample a little
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


class _Scale(nn.Module):
    """LayerScale: one learned factor per channel (Touvron et al. 2021, https://arxiv.org/abs/2103.17239, eq. 4)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class _Attention(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, width = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*qkv.unbind(0))  # [b, heads, n, width / heads]
        result: Tensor = self.proj(mixed.transpose(1, 2).reshape(b, n, width))
        return result


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return result


class _Block(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = _Attention(width, num_heads)
        self.ls1 = _Scale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = _Mlp(width)
        self.ls2 = _Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        result: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return result


class _Patches(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, _PATCH_PX, stride=_PATCH_PX)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.proj(x).flatten(2).transpose(1, 2)  # [b, n, width]
        return result


class VisionTransformer(nn.Module):
    """Normalised images [b, 3, h, w], sides multiples of 14 → class token [b, width]. The defaults are ViT-L/14."""

    def __init__(self, *, width: int = FEATURE_WIDTH, num_blocks: int = 24, num_heads: int = 16) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + _TRAINED_GRID**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # in the file; training alone uses it
        self.patch_embed = _Patches(width)
        self.blocks = nn.ModuleList([_Block(width, num_heads) for _ in range(num_blocks)])
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (side // _PATCH_PX for side in x.shape[2:])
        tokens = self.patch_embed(x)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], dim=1)
        tokens = tokens + self._positions(rows, columns)
        for block in self.blocks:
            tokens = block(tokens)
        result: Tensor = self.norm(tokens)[:, 0]
        return result

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Position embeddings of a grid of that size, [1, 1 + rows · columns, width]."""
        width = self.pos_embed.shape[-1]
        grid = self.pos_embed[:, 1:].view(1, _TRAINED_GRID, _TRAINED_GRID, width).permute(0, 3, 1, 2)
        scales = ((rows + _GRID_OFFSET) / _TRAINED_GRID, (columns + _GRID_OFFSET) / _TRAINED_GRID)
        grid = functional.interpolate(grid, scale_factor=scales, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


class DinoFeatures(nn.Module):
    """uint8 [b, 3, h, w] → a tuple of the class token [b, width], prepared as torch-fidelity does."""

    def __init__(self, transformer: VisionTransformer) -> None:
        super().__init__()
        self.transformer = transformer
        self.register_buffer("mean", 255 * torch.tensor(_MEAN).view(3, 1, 1))
        self.register_buffer("deviation", 255 * torch.tensor(_DEVIATION).view(3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor]:
        x = interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(_INPUT_PX, _INPUT_PX), align_corners=False)
        return (self.transformer((x - self.mean) / self.deviation),)


def why_unavailable() -> str | None:
    """One sentence where the pinned weights are not here."""
    return WEIGHTS.why_unavailable()


def dinov2() -> PretrainedNetwork:
    """The network, one per process.

    Raises:
        MissingDataError: the weights are not here.
        BenchError: the file is not the pinned one.
    """
    return _opened(WEIGHTS, str(WEIGHTS.path()))


@functools.lru_cache(maxsize=1)
def _opened(weights: PinnedWeights, path: str) -> PretrainedNetwork:  # noqa: ARG001 (part of the cache's key)
    return PretrainedNetwork(DinoFeatures(filled(weights.load())), LAYERS, weights)


def filled(state: dict[str, Tensor]) -> VisionTransformer:
    """A ViT-L/14 of those tensors; it never has others. Raises BenchError where they are another network's."""
    with torch.device("meta"):
        transformer = VisionTransformer()
    try:
        transformer.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise BenchError("The tensors of the DINOv2 weights are not those of a ViT-L/14 without registers.") from error
    return transformer
