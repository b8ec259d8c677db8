"""What the gate times: a train step, a generation, an attention layer, reading batches. Runs in the worker only.

This file is always the running gate's own, loaded by its path, while `bench` and `models` are those of the version
under test; so both sides are timed by the same lines. What it needs of a version is therefore kept small:

    bench.catalog            find_model, build_gan, DATASETS
    bench.machine            set_backend
    bench.training.step      Trainer(gan, recipe, device=, precision=, seed=), .step, .period, .gan
    bench.training.images    to_networks
    bench.training.randomness  training_order
    models._spec             resolutions, recipe, and of a Recipe: batch_size, precision, num_discriminator_steps,
                             max_gradient_norm, objective
    models._attention        build_attention, OPERATORS
    if there                 bench.phases._op_counter.OpCounter and bench.phases._scale_subjects.LiveBytes, which count

One iteration is what repeats: of a train step a whole period of lazy penalties and discriminator updates, so every
block holds the same work. Networks see random images, because compute does not depend on what images show. The exact
counts are taken from one real iteration under dispatch modes, once, on objects of their own.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import inspect
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.catalog import DATASETS, build_gan, find_model
from bench.errors import UsageError
from bench.machine import set_backend
from bench.training.images import to_networks
from bench.training.randomness import training_order
from bench.training.step import Trainer
from models._attention import OPERATORS, build_attention

try:  # a version without them is timed all the same
    from bench.phases._op_counter import OpCounter
    from bench.phases._scale_subjects import LiveBytes
except ImportError as error:
    OpCounter = LiveBytes = None  # type: ignore[assignment,misc]
    _WHY_UNCOUNTED = f"this version has no counter ({error})"

# 1024 tokens, LadaGAN's longest: at 256, linformer has nothing to shorten and is plain softmax.
ATTENTION_BATCH_SIZE, ATTENTION_NUM_TOKENS, ATTENTION_WIDTH, ATTENTION_NUM_HEADS = 2, 1024, 256, 4
DATA_BATCH_SIZE = 64
Asked = dict[str, Any]
Work = Callable[[int], object]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a worker measures; see `lane.Setting`."""

    device: str
    num_threads: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A workload that is ready to run.

    Attributes:
        work: index of the iteration → does it; what an index means never changes.
        unit: what is counted, `image` or `token`.
        num_units: units per iteration.
        measured: everything that must be equal on both sides for their times to be comparable. Plain values.
        num_params: by network; exact.
        forwards: networks with an example of their input, to be counted apart.
    """

    work: Work
    unit: str
    num_units: int
    measured: dict[str, object]
    num_params: dict[str, int] = field(default_factory=dict)
    forwards: dict[str, tuple[nn.Module, Tensor]] = field(default_factory=dict)


def prepare(asked: Asked, setting: Setting) -> Prepared:
    """Build it, seeded alike on both sides.

    Raises:
        BenchError: this version does not know the model, the size, the operator or the data set.
    """
    random.seed(setting.seed)
    np.random.seed(setting.seed)  # noqa: NPY002 - a version may draw from the global generator; both draw alike
    torch.manual_seed(setting.seed)
    return KINDS[asked["kind"]](asked, setting)


@dataclass(frozen=True, kw_only=True)
class _Settled:
    """A model's workload with every default filled in."""

    model: Any
    recipe: Any
    resolution: int
    batch_size: int
    precision: Any
    measured: dict[str, object]


def _train_step(asked: Asked, setting: Setting) -> Prepared:
    settled = _settle(asked, setting)
    recipe, batch_size, resolution = settled.recipe, settled.batch_size, settled.resolution
    if settled.model.spec.why_not_trained:
        raise UsageError(f"{settled.model.name} has no train step: {settled.model.spec.why_not_trained}.")
    gan = build_gan(settled.model, resolution, asked["size"], asked["attention"])
    trainer = Trainer(gan, recipe, device=setting.device, precision=settled.precision, seed=setting.seed)
    real = torch.rand(batch_size, 3, resolution, resolution).mul_(2).sub_(1).to(setting.device)
    z = torch.randn(batch_size, gan.latent_dim).to(setting.device)
    networks = {"generator": trainer.gan.generator, "discriminator": trainer.gan.discriminator}
    num_steps = trainer.period

    def work(_: int) -> None:
        for _ in range(num_steps):
            trainer.step(real)

    of_the_step = {
        "num_steps_per_iteration": num_steps,
        "num_discriminator_steps": recipe.num_discriminator_steps,
        "max_gradient_norm": recipe.max_gradient_norm,
        "objective": repr(recipe.objective),
    }
    return Prepared(
        work=work,
        unit="image",
        num_units=num_steps * batch_size,
        measured=settled.measured | of_the_step,
        num_params={name: _num_params(network) for name, network in networks.items()},
        forwards={"generator": (networks["generator"], z), "discriminator": (networks["discriminator"], real)},
    )


def _generate(asked: Asked, setting: Setting) -> Prepared:
    settled = _settle(asked, setting)
    gan = build_gan(settled.model, settled.resolution, asked["size"], asked["attention"])
    generator = gan.generator.to(setting.device).eval()
    z = torch.randn(settled.batch_size, gan.latent_dim).to(setting.device)
    device_type, is_bf16 = torch.device(setting.device).type, settled.precision == "bf16"

    def work(_: int) -> None:
        with torch.no_grad(), torch.autocast(device_type, torch.bfloat16, enabled=is_bf16):
            generator(z)

    return Prepared(
        work=work,
        unit="image",
        num_units=settled.batch_size,
        measured=settled.measured,
        num_params={"generator": _num_params(generator)},
    )


def _settle(asked: Asked, setting: Setting) -> _Settled:
    model = find_model(asked["subject"])
    resolution = asked["resolution"] or min(model.spec.resolutions)
    if resolution not in model.spec.resolutions or asked["size"] not in model.spec.sizes:
        sides, sizes = ", ".join(map(str, sorted(model.spec.resolutions))), ", ".join(model.spec.sizes)
        raise UsageError(f"{model.name} has no size {asked['size']} at {resolution} px; it has {sizes} at {sides} px.")
    if asked["attention"] and asked["attention"] not in model.spec.attentions:
        raise UsageError(f"{model.name} offers no attention '{asked['attention']}'.")
    recipe = model.spec.recipe(asked["dataset"], resolution, asked["size"])
    precision: Any = asked["precision"] or (recipe.precision if setting.device != "cpu" else "fp32")
    set_backend(precision)
    batch_size = asked["batch_size"] or recipe.batch_size
    measured = {"resolution": resolution, "batch_size": batch_size, "precision": precision}
    return _Settled(
        model=model,
        recipe=recipe,
        resolution=resolution,
        batch_size=batch_size,
        precision=precision,
        measured=_measured(asked, setting) | measured,
    )


def _attention(asked: Asked, setting: Setting) -> Prepared:
    operator = asked["subject"]
    if operator not in OPERATORS:
        raise UsageError(f"There is no attention operator '{operator}'; known: {', '.join(OPERATORS)}.")
    batch_size = asked["batch_size"] or ATTENTION_BATCH_SIZE
    side = int(ATTENTION_NUM_TOKENS**0.5)
    set_backend("fp32")
    layer = build_attention(operator, ATTENTION_WIDTH, ATTENTION_NUM_HEADS, (side, side), is_fused=True)
    layer = layer.to(setting.device)
    shape = (batch_size, ATTENTION_NUM_TOKENS, ATTENTION_WIDTH)
    x = torch.randn(shape).to(setting.device).requires_grad_()
    gradient = torch.randn(shape).to(setting.device)
    inputs = (x, *layer.parameters())

    def work(_: int) -> object:
        return torch.autograd.grad(layer(x), inputs, gradient)

    return Prepared(
        work=work,
        unit="token",
        num_units=batch_size * ATTENTION_NUM_TOKENS,
        measured=_measured(asked, setting)
        | {"shape": list(shape), "num_heads": ATTENTION_NUM_HEADS, "batch_size": batch_size, "precision": "fp32"},
        num_params={"layer": _num_params(layer)},
    )


def _data(asked: Asked, setting: Setting) -> Prepared:
    name, _, path = asked["subject"].partition(":")
    spec = DATASETS.load(name)
    resolution = asked["resolution"] or min(spec.resolutions)
    opened = spec.open(resolution, path or None)
    batch_size = asked["batch_size"] or DATA_BATCH_SIZE
    images = opened.train

    def work(index: int) -> Tensor:
        indices = training_order(len(images), setting.seed, index * batch_size, batch_size)
        return to_networks(images.read(indices), setting.device)

    measured = {"resolution": resolution, "batch_size": batch_size, "num_images": len(images)}
    protocol = hashlib.sha256(repr(sorted(opened.protocol.items())).encode()).hexdigest()
    return Prepared(
        work=work,
        unit="image",
        num_units=batch_size,
        measured=_measured(asked, setting) | measured | {"dataset_protocol": protocol},
    )


KINDS: dict[str, Callable[[Asked, Setting], Prepared]] = {
    "train_step": _train_step,
    "generate": _generate,
    "attention": _attention,
    "data": _data,
}


def _measured(asked: Asked, setting: Setting) -> dict[str, object]:
    """What every workload is measured with."""
    words = {name: asked[name] for name in ("kind", "subject", "size", "dataset", "attention")}
    return words | vars(setting) | {"torch": torch.__version__}


def _num_params(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def counts(asked: Asked, setting: Setting) -> tuple[dict[str, int], dict[str, str]]:
    """(count → value, count → why it is unknown) of one iteration: MACs, bytes, and the most bytes alive at once.

    Peak memory is that of the tensors torch's operations made and that lived together, parameters included; a kernel's
    own workspace is not in it. Unlike an allocator's figure it is the same every time.
    """
    names = ("macs_per_iteration", "bytes_per_iteration", "peak_memory_bytes")
    if asked["kind"] == "data":
        return {}, {}
    if OpCounter is None:
        return {}, dict.fromkeys(names, _WHY_UNCOUNTED)
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()  # a collection in between would free what lies in cycles, earlier on one side than on the other
    try:
        with LiveBytes() as alive:
            prepared = prepare(asked, setting)
            prepared.work(0)  # optimisers make their state
            alive.restart()
            with OpCounter() as counter:
                prepared.work(1)
        values = (counter.tally.num_macs, counter.tally.num_bytes, alive.peak_bytes)
        found = dict(zip(names, values, strict=True))
        for name, (network, example) in prepared.forwards.items():
            with torch.no_grad(), OpCounter() as counter:
                network.eval()(example)
            found[f"macs_{name}"] = counter.tally.num_macs
    finally:
        if was_enabled:
            gc.enable()
    return found, {}


def counter_hash() -> str:
    """Of the version's own counting code: counts by different code are not compared."""
    if OpCounter is None:
        return ""
    modules = (inspect.getmodule(OpCounter), sys.modules["bench.phases._cost_ops"])
    texts = [*(inspect.getsource(module) for module in modules if module is not None), inspect.getsource(LiveBytes)]
    return hash_of(texts)


def hash_of(sources: list[str]) -> str:
    """Of programs, comments and layout left out."""
    return hashlib.sha256("\0".join(ast.dump(ast.parse(source)) for source in sources).encode()).hexdigest()
