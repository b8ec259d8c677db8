"""LadaGAN's released TensorFlow checkpoints: names and layouts of `tensorflow/model.py`.

Source: https://github.com/milmor/LadaGAN/tree/eb3ed9c53c4f4b2775aaee034d991075f670af0d (MIT; facts were read there, the
code is ours). `trainer.py` saves a `tf.train.Checkpoint` with the objects generator, ema_generator, discriminator, both
optimisers and the variables n_images, fid and best_fid; `ema_generator` is the one its images and FIDs are made with,
and the only one taken here. A variable's name is the path of attributes to it; a Keras `Sequential` numbers those of
its layers that have weights.

Layouts: a dense kernel is [in, out] and a convolution's [h, w, in, out]; ours are [out, in] and [out, in, h, w].
Depth-to-space has the same channel order on both sides. Keras' batch norm has no step count; ours, which nothing reads
because the momentum is fixed, stays 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bench.errors import CheckpointError
from bench.released._renaming import Foreign, NumImages, Origin
from bench.released._tensor_bundle import TensorBundle
from models.ladagan import FIRST_GRID, LadaGanConfig

_OBJECT = "ema_generator/"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_NUM_IMAGES = f"n_images{_VALUE}"


def read(bundle: TensorBundle) -> Foreign:
    """The averaged generator of a checkpoint.

    Raises:
        CheckpointError: it has no averaged generator.
    """
    names = frozenset(name for name in bundle.names() if name.startswith(_OBJECT))
    if not names:
        raise CheckpointError(f"The checkpoint '{bundle.index}' lacks 'ema_generator', so it is not one of LadaGAN's.")
    return Foreign(
        title=f"The checkpoint '{bundle.index}'",
        names=names,
        tensor=lambda name: torch.from_numpy(bundle.tensor(name).copy()),
    )


def num_images(bundle: TensorBundle) -> NumImages:
    """How many images the released model has seen, as the checkpoint says."""
    if _NUM_IMAGES not in bundle.names():
        return NumImages(None, "the checkpoint has no n_images")
    return NumImages(int(bundle.tensor(_NUM_IMAGES).item()), "the checkpoint's n_images")


def origins(config: LadaGanConfig) -> dict[str, Origin]:
    """Our names → theirs."""
    found = {
        "to_first_tokens.weight": _variable("init/layer_with_weights-0/kernel", Tensor.t),
        **_convolution("to_rgb", "ch_conv"),
    }
    for stage in range(len(config.generator_widths)):
        side = FIRST_GRID << stage
        found[f"positions.{stage}.weight"] = _variable(f"pos_emb_{side}/position_embedding/embeddings")
        found |= _block(f"blocks.{stage}", f"block_{side}")
        if stage:
            found |= _convolution(f"up_convs.{stage - 1}", f"conv_{side // 2}")
    for index in range(len(config.decoder_widths)):  # ours: upsampling, convolution, batch norm, activation
        found |= _convolution(f"decoder.{4 * index + 1}", f"dec/layer_with_weights-{2 * index}")
        found |= _batch_norm(f"decoder.{4 * index + 2}", f"dec/layer_with_weights-{2 * index + 1}")
    return found


def _block(ours: str, theirs: str) -> dict[str, Origin]:
    found: dict[str, Origin] = {}
    for our_norm, their_norm in (("norm_attention", "norm1"), ("norm_mlp", "norm2")):
        for our_layer, their_layer in (("hidden", "h"), ("to_scale", "gamma"), ("to_shift", "beta")):
            found |= _dense(f"{ours}.{our_norm}.{our_layer}", f"{theirs}/{their_norm}/{their_layer}")
    attention = {"to_q": "wq", "to_k": "wk", "to_v": "wv", "to_score": "q_attn", "to_out": "to_out"}
    for our_layer, their_layer in attention.items():
        found |= _dense(f"{ours}.attention.{our_layer}", f"{theirs}/attn/{their_layer}")
    found |= _dense(f"{ours}.mlp.0", f"{theirs}/mlp/layer_with_weights-0")
    found |= _dense(f"{ours}.mlp.2", f"{theirs}/mlp/layer_with_weights-1")
    return found


def _dense(ours: str, theirs: str) -> dict[str, Origin]:
    return {f"{ours}.weight": _variable(f"{theirs}/kernel", Tensor.t), f"{ours}.bias": _variable(f"{theirs}/bias")}


def _convolution(ours: str, theirs: str) -> dict[str, Origin]:
    to_ours = partial(torch.permute, dims=(3, 2, 0, 1))
    return {f"{ours}.weight": _variable(f"{theirs}/kernel", to_ours), f"{ours}.bias": _variable(f"{theirs}/bias")}


def _batch_norm(ours: str, theirs: str) -> dict[str, Origin]:
    attributes = {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    }
    return {f"{ours}.{our}": _variable(f"{theirs}/{their}") for our, their in attributes.items()}


def _variable(path: str, change: Callable[[Tensor], Tensor] = torch.clone) -> Origin:
    return Origin(f"{_OBJECT}{path}{_VALUE}", change)
