"""The checkpoints of LadaGAN's PyTorch port: names and layouts of `pytorch/model.py`.

Source: https://github.com/milmor/LadaGAN/tree/eb3ed9c53c4f4b2775aaee034d991075f670af0d (MIT; facts were read there, the
code is ours). `train.py` saves a dictionary with the state dicts generator, discriminator, ema and of both optimisers,
and iter, fid and best_fid; `ema` is the one its images and FIDs are made with, and the only one taken here.

Layouts: query, key and value are one layer, in this order along its outputs; positions have a batch axis. The port
makes images of tokens by torch's pixel shuffle, whose channels are (channel, block row, block column); ours are
TensorFlow's (block row, block column, channel). So the last layer before a shuffle has its outputs reordered.

The port cannot build a generator whose convolutions change the width, so it has none with a decoder: 32 and 64 px only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bench.errors import CheckpointError, UsageError
from bench.released._renaming import Foreign, NumImages, Origin
from models.ladagan import FIRST_GRID, LadaGanConfig

_LAST_GRID = 32  # pixels per side of the last stage


def read(path: Path, content: object) -> tuple[Foreign, NumImages]:
    """The averaged generator in what was saved, and how many images it has seen.

    Raises:
        CheckpointError: it is no dictionary with a state dict `ema`.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("ema"), Mapping):
        raise CheckpointError(f"The checkpoint '{path}' lacks 'ema', so it is not one of LadaGAN's PyTorch port.")
    tensors = {name: value for name, value in content["ema"].items() if isinstance(value, Tensor)}
    foreign = Foreign(
        title=f"The checkpoint '{path}'",
        names=frozenset(tensors),
        tensor=lambda name: tensors[name],
    )
    step = content.get("iter")
    steps = f" ({step} steps)" if isinstance(step, int) else ""
    return foreign, NumImages(None, f"the checkpoint says the steps{steps}, not the images in each")


def origins(config: LadaGanConfig, resolution: int) -> dict[str, Origin]:
    """Our names → theirs.

    Raises:
        UsageError: the port cannot build this configuration.
    """
    if config.decoder_widths:
        raise UsageError(
            f"LadaGAN's PyTorch port has no {resolution} px generator; import the TensorFlow checkpoint (its .index)."
        )
    widths = config.generator_widths
    found = {"to_first_tokens.weight": Origin("init.0.weight")}
    for stage, width in enumerate(widths):
        num_tokens = (FIRST_GRID << stage) ** 2
        factor = 2 if stage + 1 < len(widths) else resolution // _LAST_GRID
        found[f"positions.{stage}.weight"] = Origin(f"pos_{num_tokens}", partial(torch.squeeze, dim=0))
        found |= _block(f"blocks.{stage}", f"block_{num_tokens}", partial(_unshuffled, width=width, factor=factor))
        if stage:
            found |= _layer(f"up_convs.{stage - 1}", f"conv_{num_tokens}")
    return found | _layer("to_rgb", "ch_conv")


def _block(ours: str, theirs: str, reorder: Callable[[Tensor], Tensor]) -> dict[str, Origin]:
    """`reorder` the outputs of the block for the depth-to-space that follows."""
    found: dict[str, Origin] = {}
    for our_norm, their_norm in (("norm_attention", "ln_1"), ("norm_mlp", "ln_2")):
        for our_layer, their_layer in (("hidden", "h.0"), ("to_scale", "mlp_gamma"), ("to_shift", "mlp_beta")):
            found |= _layer(f"{ours}.{our_norm}.{our_layer}", f"{theirs}.{their_norm}.{their_layer}")
    for part, our_layer in enumerate(("to_q", "to_k", "to_v")):
        found |= _layer(f"{ours}.attention.{our_layer}", f"{theirs}.attn.to_qkv", partial(_third, part=part))
    found |= _layer(f"{ours}.attention.to_score", f"{theirs}.attn.q_attn")
    found |= _layer(f"{ours}.attention.to_out", f"{theirs}.attn.to_out")
    found |= _layer(f"{ours}.mlp.0", f"{theirs}.mlp.0")
    found |= _layer(f"{ours}.mlp.2", f"{theirs}.mlp.2", reorder)
    return found


def _layer(ours: str, theirs: str, change: Callable[[Tensor], Tensor] = torch.clone) -> dict[str, Origin]:
    return {f"{ours}.{part}": Origin(f"{theirs}.{part}", change) for part in ("weight", "bias")}


def _third(x: Tensor, part: int) -> Tensor:
    """Rows of the first, second or third part."""
    return x.chunk(3)[part]


def _unshuffled(x: Tensor, width: int, factor: int) -> Tensor:
    """Rows (channel, block row, block column) → (block row, block column, channel)."""
    by_channel = x.reshape(width // factor**2, factor**2, *x.shape[1:])
    return by_channel.transpose(0, 1).reshape(x.shape)
