"""From words to a settled question: every name looked up, every default taken from the recipe, every limit checked."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import psutil

from bench import __version__
from bench.catalog import FoundDataset, FoundModel, find_dataset, find_model
from bench.errors import UsageError
from bench.machine import fingerprint, settle_device
from bench.phases._context import PRESETS, Question
from bench.records import Machine, Precision, RunSpec
from bench.units import Budget, format_bytes, parse_budget
from models._spec import Recipe

PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")


def settle(spec: RunSpec) -> Question:
    """Look everything up and fill in the recipe's values.

    Raises:
        UsageError: an unknown name, a size or resolution the model or data set lacks, a precision or device that is
            not there, a budget that cannot be read.
        MissingDataError: the data set's files are not here and `no_data` was not asked for.
    """
    model, dataset = find_model(spec.model), find_dataset(spec.dataset)
    resolution = _settle_resolution(spec, model, dataset)
    if spec.size not in model.spec.sizes:
        raise UsageError(f"--size '{spec.size}': {model.name} has {', '.join(model.spec.sizes)}.")
    attention = _settle_attention(spec, model)
    recipe = model.spec.recipe(dataset.name, resolution, spec.size)
    discriminator = None if spec.discriminator is None else _find_discriminator(spec, model, resolution)
    if discriminator is not None:
        recipe = _paired_recipe(recipe, discriminator, discriminator.spec.recipe(dataset.name, resolution, spec.size))
    device = settle_device(spec.device)
    precision = _settle_precision(spec.precision or recipe.precision, device)
    batch_size = spec.batch_size or recipe.batch_size
    _check_batch_fits(batch_size, resolution)
    budget, train_for = _settle_budget(spec, recipe)
    opened = None if spec.no_data else dataset.spec.open(resolution, dataset.path)
    settled = spec.model_copy(
        update={
            "attention": attention,
            "resolution": resolution,
            "batch_size": batch_size,
            "precision": precision,
            "device": device,
            "train_for": train_for,
        }
    )
    return Question(
        spec=settled,
        resolution=resolution,
        batch_size=batch_size,
        precision=precision,
        device=device,
        model=model,
        discriminator=discriminator,
        recipe=dataclasses.replace(recipe, batch_size=batch_size, precision=precision),
        found_dataset=dataset,
        dataset=opened,
        budget=budget,
        preset=PRESETS[spec.preset],
    )


def run_id_of(question: Question, machine: Machine) -> str:
    """A readable name with a hash of the question, the model's source, the data, the harness and the machine.

    The same command on the same machine gives the same id, so it continues; on another machine, or after the model's
    source changed, it is another run.
    """
    spec = question.spec
    identity = {
        "spec": spec.model_dump(mode="json"),
        "model_source": question.model.source_hash,
        "discriminator_source": None if question.discriminator is None else question.discriminator.source_hash,
        "data": None if question.dataset is None else question.dataset.protocol,
        "harness": __version__,
        "machine": fingerprint(machine),
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
    device = question.device.replace(":", "")
    words = [question.model.name, *([spec.attention] if spec.attention else [])]
    if question.discriminator is not None:
        words.append(f"d-{question.discriminator.name}")
    parts = (*words, spec.size, question.found_dataset.name, str(question.resolution), device, digest)
    return "-".join(parts)


def _settle_attention(spec: RunSpec, model: FoundModel) -> str | None:
    """The operator where it is another than the model's own, else None: the own one by name is the same question."""
    offered = model.spec.attentions
    if spec.attention in {None, next(iter(offered), None)}:
        return None
    if spec.attention not in offered:
        choice = f"{model.name} has {', '.join(offered)}" if offered else f"{model.name} offers no choice"
        raise UsageError(f"--attention '{spec.attention}': {choice}.")
    return spec.attention


def _find_discriminator(spec: RunSpec, model: FoundModel, resolution: int) -> FoundModel:
    """The model whose discriminator is asked for, at the generator's resolution and size."""
    assert spec.discriminator is not None
    other = find_model(spec.discriminator)
    for each in (model, other):
        if each.spec.why_not_trained:
            raise UsageError(f"--discriminator {other.name}: {each.name} is not trained: {each.spec.why_not_trained}.")
    if other.name == model.name:
        raise UsageError(f"--discriminator {other.name} is the model's own; leave the option out.")
    if resolution not in other.spec.resolutions or spec.size not in other.spec.sizes:
        raise UsageError(
            f"--discriminator {other.name} has no size {spec.size} at {resolution} px; it has "
            f"{', '.join(other.spec.sizes)} at {', '.join(str(each) for each in sorted(other.spec.resolutions))} px."
        )
    return other


def _paired_recipe(own: Recipe, discriminator: FoundModel, other: Recipe) -> Recipe:
    """The generator's own optimiser settings with the other model's losses and discriminator settings."""
    return dataclasses.replace(
        own,
        discriminator_lr=other.discriminator_lr,
        objective=other.objective,
        num_discriminator_steps=other.num_discriminator_steps,
        max_gradient_norm=other.max_gradient_norm,
        source=f"{own.source}; discriminator, its learning rate and the losses of {discriminator.name}: {other.source}",
    )


def _settle_resolution(spec: RunSpec, model: FoundModel, dataset: FoundDataset) -> int:
    resolution = spec.resolution or dataset.spec.default_resolution
    for owner, offered in ((model.name, model.spec.resolutions), (dataset.name, dataset.spec.resolutions)):
        if resolution not in offered:
            known = ", ".join(str(each) for each in sorted(offered))
            raise UsageError(f"--resolution {resolution}: {owner} has {known}.")
    return resolution


def _settle_precision(precision: str, device: str) -> Precision:
    for known in PRECISIONS:
        if precision == known:
            if known == "tf32" and device == "cpu":
                raise UsageError("--precision tf32 exists on NVIDIA GPUs only; write fp32 or bf16 for a CPU.")
            return known
    raise UsageError(f"--precision '{precision}' is unknown; write {', '.join(PRECISIONS)}.")


def _settle_budget(spec: RunSpec, recipe: Recipe) -> tuple[Budget, str]:
    """The training budget and its text: as asked, or the preset's, or the recipe's number of images."""
    train_for = spec.train_for or PRESETS[spec.preset].train_for or f"{recipe.num_images}img"
    budget = parse_budget(train_for)
    if budget.energy_j is not None:
        raise UsageError(f"--train-for {train_for}: the trainer cannot stop on joules yet; give images or time.")
    return budget, train_for


def _check_batch_fits(batch_size: int, resolution: int) -> None:
    """A batch whose images alone, as float32, exceed the machine's memory cannot be meant."""
    num_bytes = batch_size * 3 * resolution**2 * 4
    memory_bytes = psutil.virtual_memory().total
    if num_bytes > memory_bytes:
        raise UsageError(
            f"--batch-size {batch_size}: its images alone take {format_bytes(num_bytes)} at {resolution} px, more than "
            f"this machine's {format_bytes(memory_bytes)}."
        )
