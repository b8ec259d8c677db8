"""`bench sample`: images of trained or imported weights, with what is needed to make the same ones again.

Image i is a function of weights, seed and i: its latent is drawn by its index, and the batches are always whole ones of
the same size, so that not even rounding depends on how many images were asked for.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydantic import JsonValue
from torch import nn

from bench import __version__
from bench.attention_maps import attention_maps, attention_sheet
from bench.catalog import MODELS, build_gan, find_model
from bench.datasets._spec import Images
from bench.errors import CheckpointError, UsageError
from bench.machine import set_backend, settle_device
from bench.store import find_run, write_atomically
from bench.training.images import generate, grid_png
from bench.training.randomness import latents
from bench.training.truncation import NUM_MEAN_LATENTS, truncated
from bench.training.weights import load_state, read_tensors

NUM_MAP_IMAGES = 8  # rows of the sheet of attention maps
NUM_GRID_IMAGES = 64  # at most, in grid.png
IMAGES = "images"  # folder of the single ones
BATCH_SIZE = 16
WEIGHTS_FILE = "ema.safetensors"  # of a run's folder


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Which networks the weights belong to; None where the caller does not say.

    Attributes:
        model: name in `bench list models`, or the path of a model file.
        attention: operator of the attention layers; None is the model's own.
    """

    model: str | None = None
    size: str | None = None
    resolution: int | None = None
    attention: str | None = None


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A generator with its weights, in eval mode on its device.

    Attributes:
        facts: where the weights are from, for `samples.json`.
    """

    title: str
    generator: nn.Module
    latent_dim: int
    device: str
    facts: dict[str, JsonValue]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What was written: single images by index, and the sheets made of them."""

    images: tuple[Path, ...]
    grid: Path
    attention: Path | None
    provenance: Path


def load_run(results: Path, run_id: str, *, device: str | None = None) -> Loaded:
    """The averaged generator of a trained run.

    Raises:
        RecordError: there is no such run.
        CheckpointError: its weights are not here or do not fit.
        UsageError: the device is not there.
    """
    stored = find_run(results, run_id)
    path = stored.folder / WEIGHTS_FILE
    if not path.exists():
        raise CheckpointError(
            f"The run '{stored.folder.name}' has no {WEIGHTS_FILE} here: its training has not ended, or the weights "
            "were not copied with the record; ask the run again, or give --weights."
        )
    spec = stored.record.spec
    asked = Configuration(model=spec.model, size=spec.size, resolution=spec.resolution, attention=spec.attention)
    return _load(path, asked, device, run_id=stored.folder.name)


def load_file(path: Path, asked: Configuration, *, device: str | None = None) -> Loaded:
    """The generator of a safetensors file, which is what its header says; `asked` says what the header does not.

    Raises:
        UsageError: neither says which networks these are, they contradict each other, or there is no such network.
        CheckpointError: the file cannot be read or holds other networks.
    """
    return _load(path, asked, device, run_id=None)


def sample(
    loaded: Loaded,
    *,
    num: int,
    out: Path,
    seed: int = 0,
    truncation: float | None = None,
    has_attention_maps: bool = False,
) -> Samples:
    """Write images 0 … num - 1 as `images/000000.png` …, up to 64 of them as `grid.png`, and `samples.json`.

    The single images have a folder of their own, which `bench evaluate --generated` takes as it is.

    Args:
        truncation: ψ from 0 (the mean image) to 1 (none); None is none.
        has_attention_maps: write `attention.png` too, for the first images.

    Raises:
        UsageError: a number out of range, a model without truncation or maps, or a folder with further images.
        StorageError: `out` cannot be written.
    """
    _check(num, truncation, out)
    backend = set_backend("fp32")
    with _truncation(loaded, truncation):
        sheet = _attention_sheet(loaded, seed, min(num, NUM_MAP_IMAGES)) if has_attention_maps else None
        paths: list[Path] = []
        first: list[Images] = []
        for images in _images(loaded, seed, num):
            for image in images:
                paths.append(out / IMAGES / f"{len(paths):06d}.png")
                write_atomically(paths[-1], _png(image))
            first.extend(images[: NUM_GRID_IMAGES - len(first)])
    samples = Samples(
        images=tuple(paths),
        grid=out / "grid.png",
        attention=None if sheet is None else out / "attention.png",
        provenance=out / "samples.json",
    )
    write_atomically(samples.grid, grid_png(np.stack(first)))
    if samples.attention is not None and sheet is not None:
        write_atomically(samples.attention, sheet)
    provenance = _provenance(loaded, num=num, seed=seed, truncation=truncation, backend=backend)
    write_atomically(samples.provenance, (json.dumps(provenance, indent=2) + "\n").encode())
    return samples


def _load(path: Path, asked: Configuration, device: str | None, *, run_id: str | None) -> Loaded:
    settled_device = settle_device(device)
    tensors, header = read_tensors(path)
    model, size, resolution, attention = _settled(path, asked, header)
    found = find_model(model)
    title = f"{found.name} {size} at {resolution} px"
    if size not in found.spec.sizes or resolution not in found.spec.resolutions:
        known = f"sizes {', '.join(found.spec.sizes)} at {', '.join(map(str, found.spec.resolutions))} px"
        raise UsageError(f"There is no {title}: {found.name} has {known}; check --size and --resolution.")
    if attention is not None and attention not in found.spec.attentions:
        known = ", ".join(found.spec.attentions) or "one operator only"
        raise UsageError(f"--attention '{attention}': {found.name} has {known}.")
    gan = build_gan(found, resolution, size, attention)
    load_state(gan.generator, tensors, path)
    facts: dict[str, JsonValue] = {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "run_id": run_id,
        "model": model,
        "size": size,
        "resolution": resolution,
        "attention": attention,
        "model_source_hash": found.source_hash,
        "header": header,
    }
    return Loaded(
        title=title,
        generator=gan.generator.to(settled_device).eval(),
        latent_dim=gan.latent_dim,
        device=settled_device,
        facts=facts,
    )


def _settled(path: Path, asked: Configuration, header: dict[str, JsonValue]) -> tuple[str, str, int, str | None]:
    """(model, size, resolution, attention) as asked or as the header says; both must agree."""
    found: dict[str, str | None] = {}
    for name in (field.name for field in fields(Configuration)):
        wanted, stated = getattr(asked, name), header.get(name)
        if wanted is not None and stated is not None and str(wanted) != str(stated):
            raise UsageError(f"--{name} {wanted}: the header of '{path}' says {stated}.")
        chosen = stated if wanted is None else wanted
        if chosen is None and name != "attention":
            raise UsageError(f"--{name} is needed: the header of '{path}' does not say it.")
        found[name] = None if chosen is None else str(chosen)
    model, resolution = str(found["model"]), str(found["resolution"])
    if asked.model is None and model not in MODELS.names():  # a path in a header is never run
        raise UsageError(f"The header of '{path}' names no model of the zoo ('{model}'); say it with --model.")
    if not resolution.isdecimal():
        raise UsageError(f"The header of '{path}' has no number as its resolution ('{resolution}').")
    return model, str(found["size"]), int(resolution), found["attention"]


def _provenance(
    loaded: Loaded, *, num: int, seed: int, truncation: float | None, backend: dict[str, JsonValue]
) -> dict[str, JsonValue]:
    """All that decides what the images are."""
    return {
        "weights": loaded.facts,
        "num_images": num,
        "seed": seed,
        "truncation": truncation,
        "num_truncation_mean_latents": None if truncation is None else NUM_MEAN_LATENTS,
        "batch_size": BATCH_SIZE,
        "precision": "fp32",
        "device": loaded.device,
        "backend": backend,
        "harness_version": __version__,
        "torch": torch.__version__,
    }


def _check(num: int, truncation: float | None, out: Path) -> None:
    if num < 1:
        raise UsageError(f"--num {num}: at least one image is needed.")
    if truncation is not None and not 0 <= truncation <= 1:
        raise UsageError(f"--truncation {truncation:g}: write a number from 0 (the mean image) to 1 (none).")
    later = sorted(
        path.name for path in (out / IMAGES).glob("[0-9]*.png") if path.stem.isdecimal() and int(path.stem) >= num
    )
    if later:
        raise UsageError(f"--out '{out}' holds {later[0]} of an earlier, longer series; choose another folder.")


def _truncation(loaded: Loaded, psi: float | None) -> AbstractContextManager[None]:
    if psi is None:
        return nullcontext()
    return truncated(loaded.generator, psi, latent_dim=loaded.latent_dim, device=loaded.device, title=loaded.title)


def _images(loaded: Loaded, seed: int, num: int) -> Iterator[Images]:
    """Images 0 … num - 1 in batches; the last batch is computed whole and cut."""
    batches = generate(
        loaded.generator,
        latent_dim=loaded.latent_dim,
        seed=seed,
        count=math.ceil(num / BATCH_SIZE) * BATCH_SIZE,
        batch_size=BATCH_SIZE,
        device=loaded.device,
    )
    for index, images in enumerate(batches):
        yield images[: num - index * BATCH_SIZE]


def _attention_sheet(loaded: Loaded, seed: int, count: int) -> bytes:
    z = latents(seed, 0, count, loaded.latent_dim).to(loaded.device)
    maps = attention_maps(loaded.generator, z)
    return attention_sheet(next(_images(loaded, seed, count)), maps)


def _png(image: Images) -> bytes:
    """uint8 [3, h, w] → one PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(buffer, format="PNG")
    return buffer.getvalue()
