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
    recipe = model.spec.recipe(dataset.name, resolution, spec.size)
    device = settle_device(spec.device)
    precision = _settle_precision(spec.precision or recipe.precision, device)
    batch_size = spec.batch_size or recipe.batch_size
    _check_batch_fits(batch_size, resolution)
    budget, train_for = _settle_budget(spec, recipe)
    opened = None if spec.no_data else dataset.spec.open(resolution, dataset.path)
    settled = spec.model_copy(
        update={
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
        "data": None if question.dataset is None else question.dataset.protocol,
        "harness": __version__,
        "machine": fingerprint(machine),
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
    device = question.device.replace(":", "")
    parts = (question.model.name, spec.size, question.found_dataset.name, str(question.resolution), device, digest)
    return "-".join(parts)


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
        raise UsageError(
            f"--train-for {train_for} needs an energy meter, and this version has none; give images or time."
        )
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
