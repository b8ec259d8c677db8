"""`bench import`: a file its authors released → safetensors in our names, with what is known of it in the header.

The layout is recognised by content: TensorFlow's checkpoint index by its last eight bytes, a file of `torch.save` by
its first four. LadaGAN is the only model whose released weights have a layout that is known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.errors import CheckpointError, UsageError
from bench.released import ladagan_tensorflow, ladagan_torch
from bench.released._renaming import Foreign, NumImages, Origin, renamed
from bench.released._tensor_bundle import TensorBundle, file_sha256
from bench.released._torch_file import ZIP_MAGIC, read_torch_file
from bench.released._wire import TABLE_MAGIC
from bench.training.weights import save_weights
from models import ladagan

_PICKLE_MAGIC = b"\x80"
_MODEL = "ladagan"


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What was written.

    Attributes:
        layout: whose file it was, for example `TensorFlow checkpoint`.
        num_images: images the released model has seen; None where the file does not say, and why in `note`.
        num_tensors: tensors in the written file.
    """

    path: Path
    layout: str
    num_images: int | None
    note: str
    num_tensors: int


@dataclass(frozen=True, kw_only=True)
class _Released:
    """A released file that was recognised."""

    layout: str
    foreign: Foreign
    origins: Mapping[str, Origin]
    num_images: NumImages
    sha256: Mapping[str, str]


def import_weights(path: Path, *, model: str, resolution: int, size: str, out: Path) -> Imported:
    """Read the authors' averaged generator at `path` and write it to `out`.

    Raises:
        UsageError: another model than ladagan, or a configuration it does not have.
        CheckpointError: not such a file, truncated, damaged, of another version or model, or with a pickle payload.
        StorageError: `out` cannot be written.
    """
    if model != _MODEL:
        raise UsageError(f"--model '{model}': released weights are read for {_MODEL} only.")
    config = ladagan.CONFIGS.get((resolution, size))
    if config is None:
        known = ", ".join(f"{each} at {at_px} px" for at_px, each in sorted(ladagan.CONFIGS))
        raise UsageError(f"--size {size} --resolution {resolution}: {_MODEL} has {known}.")
    released = _read(path, config, resolution)
    with torch.device("cpu"):
        generator = ladagan.build(resolution, size).generator
    what = f"{_MODEL} {size} at {resolution} px"
    generator.load_state_dict(renamed(released.foreign, released.origins, generator.state_dict(), what))
    facts = {
        "model": _MODEL,
        "size": size,
        "resolution": resolution,
        "attention": config.attention,
        "weights": "the authors' averaged generator (EMA)",
        "layout": released.layout,
        "num_images_shown": released.num_images.value,
        "num_images_note": released.num_images.note,
        "official_code": ladagan.SPEC.code,
        "source_sha256": dict(released.sha256),
    }
    save_weights(out, generator, facts)
    return Imported(
        path=out,
        layout=released.layout,
        num_images=released.num_images.value,
        note=released.num_images.note,
        num_tensors=len(generator.state_dict()),
    )


def _read(path: Path, config: ladagan.LadaGanConfig, resolution: int) -> _Released:
    first, last = _ends(path)
    if last == TABLE_MAGIC:
        bundle = TensorBundle(path)
        return _Released(
            layout="TensorFlow checkpoint",
            foreign=ladagan_tensorflow.read(bundle),
            origins=ladagan_tensorflow.origins(config),
            num_images=ladagan_tensorflow.num_images(bundle),
            sha256=bundle.sha256(),
        )
    if first.startswith(ZIP_MAGIC):
        foreign, num_images = ladagan_torch.read(path, read_torch_file(path))
        return _Released(
            layout="checkpoint of the PyTorch port",
            foreign=foreign,
            origins=ladagan_torch.origins(config, resolution),
            num_images=num_images,
            sha256={path.name: file_sha256(path)},
        )
    if first.startswith(_PICKLE_MAGIC):
        raise CheckpointError(f"'{path}' is a bare pickle, which would run code when loaded, so it is refused.")
    if path.suffix == ".index":
        raise CheckpointError(f"The checkpoint index '{path}' has no end: it is truncated or not one; fetch it again.")
    raise CheckpointError(
        f"'{path}' is not a checkpoint that is known here: give TensorFlow's file that ends in .index, or the port's "
        "file that ends in .pt."
    )


def _ends(path: Path) -> tuple[bytes, bytes]:
    """The first and the last eight bytes."""
    try:
        with path.open("rb") as file:
            first = file.read(8)
            file.seek(max(0, path.stat().st_size - 8))
            return first, file.read(8)
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read: {error.strerror or error}.") from error
