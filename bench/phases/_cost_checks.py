"""The MAC count against closed forms worked out on paper and against fvcore, as a table.

`python -m bench.phases._cost_checks` prints it for LadaGAN's generator and for a transformer with softmax attention,
written with torch's fused op and by hand. The tests hold the counter to the same closed forms.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional

from bench.phases._cost_fvcore import compare_with_fvcore
from bench.phases._cost_shapes import shapes_only
from bench.phases._op_counter import OpCounter
from models.ladagan import CONFIGS, NUM_FIRST_TOKENS, SPEC, LadaGanConfig


class SoftmaxTransformer(nn.Module):
    """Tokens [b, n, c] → tokens [b, n, c]: the blocks of a plain transformer, to check counters on.

    Args:
        is_fused: attention by `scaled_dot_product_attention`, else by two matrix products and a softmax.
    """

    def __init__(self, width: int, num_heads: int, num_blocks: int, *, is_fused: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.is_fused = is_fused
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm_attention": nn.LayerNorm(width),
                    "to_qkv": nn.Linear(width, 3 * width),
                    "to_out": nn.Linear(width, width),
                    "norm_mlp": nn.LayerNorm(width),
                    "mlp": nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)),
                }
            )
            for _ in range(num_blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [b, n, c]."""
        for block in self.blocks:
            assert isinstance(block, nn.ModuleDict)
            q, k, v = block["to_qkv"](block["norm_attention"](x)).chunk(3, dim=-1)
            x = x + block["to_out"](self._attend(*(self._split(each) for each in (q, k, v))))
            x = x + block["mlp"](block["norm_mlp"](x))
        return x

    def _split(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        return x.view(b, n, self.num_heads, c // self.num_heads).transpose(1, 2)  # [b, h, n, d]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.is_fused:
            y = functional.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1) @ v
        return y.transpose(1, 2).flatten(2)


def macs_of_transformer(width: int, num_blocks: int, num_tokens: int) -> int:
    """n (4 c² + 8 c²) for the linear layers of a block and 2 n² c for its attention."""
    return num_blocks * (12 * num_tokens * width**2 + 2 * num_tokens**2 * width)


def macs_of_ladagan_generator(config: LadaGanConfig, resolution: int) -> int:
    """Per image. A block on n tokens of width c, MLP m, latent z, h heads:

    attention n (4 c² + h c + c), MLP 2 n c m, and two self-modulations (z c + 2 c²) that see the latent once.
    """
    widths, heads, latent = config.generator_widths, config.num_heads, config.latent_dim
    num_tokens = [NUM_FIRST_TOKENS << 2 * stage for stage in range(len(widths))]  # × 4 from stage to stage
    total: int = latent * NUM_FIRST_TOKENS * widths[0]
    for n, c in zip(num_tokens, widths, strict=True):
        total += n * (4 * c**2 + heads * c + c) + 2 * n * c * config.mlp_width + 2 * (latent * c + 2 * c**2)
    for n, (width_in, width_out) in zip(num_tokens[1:], pairwise(widths), strict=True):
        total += n * 9 * (width_in // 4) * width_out
    width, side = widths[-1], math.isqrt(num_tokens[-1])
    for width_out in config.decoder_widths:
        side *= 2
        total += side**2 * 9 * width * width_out
        width = width_out
    width //= (resolution // side) ** 2  # pixel shuffle where there is no decoder
    return total + resolution**2 * 9 * width * 3


def count_on_shapes(network: nn.Module, example: Tensor) -> int:
    """Our MACs of one forward pass in eval mode, nothing computed."""
    counter = OpCounter()
    with shapes_only(), torch.no_grad(), counter:
        network.eval()(example)
    return counter.tally.num_macs


def table() -> str:
    """Dispatch, fvcore and closed form side by side, with what sets them apart."""
    rows = []
    for resolution in (32, 64, 128):
        config = CONFIGS[resolution, "paper"]
        closed = macs_of_ladagan_generator(config, resolution)
        with torch.device("meta"):
            network = SPEC.build(resolution, "paper").generator
        network = network.to_empty(device="cpu")  # what the weights are makes no difference
        rows.append(_row(f"LadaGAN {resolution} px, G", network, torch.zeros(1, config.latent_dim), closed))
    for is_fused, name in ((False, "by hand"), (True, "fused op")):
        network = SoftmaxTransformer(64, 4, 2, is_fused=is_fused)
        tokens = torch.zeros(1, 256, 64)
        rows.append(_row(f"softmax transformer, {name}", network, tokens, macs_of_transformer(64, 2, 256)))
    head = ["network", "dispatch", "closed form", "fvcore", "its products", "products / dispatch", "why"]
    notes = "fvcore's own total holds norms (4 or 5 per element) and resampling, which are no multiply-accumulates."
    return f"{tabulate(rows, headers=head, intfmt=',', floatfmt='.4f')}\n{notes}"


def _row(name: str, network: nn.Module, example: Tensor, closed: int) -> list[object]:
    ours = count_on_shapes(network, example)
    theirs = compare_with_fvcore(network.eval(), example, ours)
    why = theirs.get("failed") or theirs.get("flag") or ""
    return [name, ours, closed, theirs.get("total"), theirs.get("macs"), theirs.get("ratio"), why]


if __name__ == "__main__":
    print(table())  # noqa: T201 - a table for a person, by `python -m`
