"""From words to a settled question: every name looked up, every default taken from the recipe, every limit checked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import psutil

from bench import __version__
from bench.catalog import METRICS, FoundDataset, FoundModel, find_dataset, find_model
from bench.errors import MissingDataError, UsageError
from bench.machine import fingerprint, settle_device
from bench.metrics._spec import MetricSpec
from bench.phases._context import Question
from bench.phases._presets import PRESETS
from bench.records import Machine, Precision, RunSpec
from bench.registry import suggest
from bench.training.distributed import asked_world, own_device
from bench.units import Goal, format_bytes, parse_budget, parse_goal, parse_interval
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
    _check_size(spec, model)
    recipe = model.spec.recipe(dataset.name, resolution, spec.size)
    discriminator = None if spec.discriminator is None else _find_discriminator(spec, model, resolution)
    if discriminator is not None:
        recipe = _paired_recipe(recipe, discriminator, discriminator.spec.recipe(dataset.name, resolution, spec.size))
    device = own_device(settle_device(spec.device))
    spec = spec.model_copy(update={"num_processes": asked_world().size})
    precision = _settle_precision(spec.precision or recipe.precision, device)
    batch_size = spec.batch_size or recipe.batch_size
    check_metrics(spec.metrics, dataset.name)
    train_for = spec.train_for or PRESETS[spec.preset].train_for or f"{recipe.num_images}img"
    _check_step(spec, batch_size, device)
    _check_batch_fits(batch_size, resolution)
    opened = None if spec.no_data else dataset.spec.open(resolution, dataset.path)
    settled = spec.model_copy(
        update={
            "attention": _settle_attention(spec, model),
            "resolution": resolution,
            "batch_size": batch_size,
            "precision": precision,
            "device": device,
            "train_for": train_for,
        }
    )
    question = Question(
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
        budget=parse_budget(train_for),
        evaluate_every=None if spec.eval_every is None else parse_interval(spec.eval_every, "--eval-every"),
        preset=PRESETS[spec.preset],
    )
    return dataclasses.replace(question, goal=_settle_goal(settled, question.metrics()))


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
        "weights": None if spec.weights is None else _hash_of(spec.weights),
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


def _hash_of(weights: str) -> str:
    """SHA-256 of the file that --weights names."""
    try:
        return hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"--weights '{weights}' cannot be read: {error.strerror or error}.") from error


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


def _check_size(spec: RunSpec, model: FoundModel) -> None:
    if spec.size not in model.spec.sizes:
        raise UsageError(f"--size '{spec.size}': {model.name} has {', '.join(model.spec.sizes)}.")


def _check_step(spec: RunSpec, batch_size: int, device: str) -> None:
    """What the step's options ask of the device and of the batch."""
    if spec.capture and device == "cpu":
        raise UsageError("--capture records CUDA graphs, which a CPU does not have; leave it out.")
    if spec.capture and spec.compile:
        raise UsageError("--capture and --compile are two ways to speed up a step; give one of them.")
    if spec.capture and spec.num_processes > 1:
        raise UsageError("--capture and several processes do not go together yet; leave --capture out.")
    num_parts = spec.num_processes * spec.num_accumulation_steps
    if batch_size % num_parts:
        raise UsageError(
            f"--batch-size {batch_size} cannot be shared by {spec.num_processes} processes in "
            f"{spec.num_accumulation_steps} parts each; give a multiple of {num_parts}."
        )


def check_metrics(names: Sequence[str] | None, dataset: str) -> None:
    """Metrics that were asked for by name are known, apply, and can be computed here.

    Raises:
        UsageError: an unknown name, or a metric that does not apply to the data set.
        MissingDataError: its weights are not here.
    """
    for name in names or ():
        metric = METRICS.load(name)
        why_not = metric.why_not(dataset)
        if why_not is not None:
            raise UsageError(f"--metrics {name}: {why_not}")
        why_unavailable = metric.why_unavailable()
        if why_unavailable is not None:
            raise MissingDataError(why_unavailable)


def _settle_goal(spec: RunSpec, metrics: Sequence[MetricSpec]) -> Goal | None:
    """The goal, on a figure that this data set has."""
    if spec.until is None:
        return None
    goal = parse_goal(spec.until)
    figures = {name: figure.better for metric in metrics for name, figure in metric.figures.items()}
    if goal.figure not in figures:
        raise UsageError(f"--until '{spec.until}': {suggest(goal.figure, list(figures))}")
    if (figures[goal.figure] == "lower") != goal.relation.startswith("<") or figures[goal.figure] is None:
        raise UsageError(
            f"--until '{spec.until}': {goal.figure} is better {figures[goal.figure] or 'in no direction'}."
        )
    return goal


def _check_batch_fits(batch_size: int, resolution: int) -> None:
    """A batch whose images alone, as float32, exceed the machine's memory cannot be meant."""
    num_bytes = batch_size * 3 * resolution**2 * 4
    memory_bytes = psutil.virtual_memory().total
    if num_bytes > memory_bytes:
        raise UsageError(
            f"--batch-size {batch_size}: its images alone take {format_bytes(num_bytes)} at {resolution} px, more than "
            f"this machine's {format_bytes(memory_bytes)}."
        )
