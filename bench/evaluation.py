"""`bench evaluate`: any images against any reference, by the metrics and the protocol of the runs.

Why it exists: figures can only be compared where set, split, resize, network and count agree, and most tools agree on
none of it. Here images of any origin (a folder, a ZIP archive, the weights of a run) are scored exactly as the phase
`quality` scores a generator, real images of the train split beside them, and the protocol is kept in the same form.

* Generated images are scored as they are: a size other than the reference's is refused, never resized, because who
  resizes, and how, moves every such figure. Of more images than a metric asks for, a fixed pseudo-random selection is
  taken (a folder may be sorted by class); fewer give a figure its other name, or none with the reason.
* The reference is the data set's `reference` split; of `--real DIR` that is the part which `--dataset folder:DIR` holds
  out, so that the figures are those of a run on that folder, and the rest of it gives the floor.
* The document keeps the hash of the very pixels that were scored. Its seconds are its own and no training's.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Literal

from pydantic import JsonValue, ValidationError

from bench import __version__
from bench.catalog import DATASETS, METRICS, FoundDataset, find_dataset
from bench.datasets._files import FolderImages, ZipImages
from bench.datasets._spec import Images, OpenDataset
from bench.errors import MissingDataError, RecordError, UsageError
from bench.machine import look, set_backend, settle_device
from bench.metrics._spec import MetricSpec
from bench.phases._context import MOST_IMAGES_ON_A_CPU
from bench.phases._image_files import GeneratedImages, images_of_files
from bench.phases._scoring import BATCH_SIZE, GENERATED, Scoring, sampling_seeds
from bench.records import DatasetFacts, Finite, Frozen, Machine, Quantity
from bench.sampling import load_run
from bench.store import RECORD_FILE, StoredRun, find_run, read_record, write_atomically
from bench.training.images import generate

FOLDER = "evaluations"  # in the results folder; deeper than any run, so that no report takes one for a run


class EvaluationQuestion(Frozen):
    """What was asked, settled.

    Attributes:
        generated: a folder, a ZIP archive or a run.
        real: a data set as `--dataset` takes it.
        resolution: pixels per side.
        metrics: names in `bench list metrics`.
    """

    generated: str
    real: str
    resolution: int
    metrics: tuple[str, ...]
    device: str


class Evaluation(Frozen):
    """The answer, kept as `results/evaluations/<id>/record.json`. Figures and protocol have the form of a run's.

    Attributes:
        status: `failed` where a metric asked for by name, or every metric, has no figure; `reason` says why.
        quantities: figures by name; `<name>_real` is what real images of the train split score.
        protocol: as that of the phase `quality`; `scored` says which images these were.
        duration_s: seconds of the whole evaluation.
    """

    schema_version: Literal[1] = 1
    evaluation_id: str
    harness_version: str
    created_at: str
    question: EvaluationQuestion
    machine: Machine
    dataset: DatasetFacts
    status: Literal["ok", "failed"]
    reason: str = ""
    quantities: dict[str, Quantity]
    protocol: dict[str, JsonValue]
    duration_s: Finite


def evaluate(
    generated: str,
    real: str,
    *,
    resolution: int | None = None,
    metrics: Sequence[str] | None = None,
    results: Path | str = "results",
    device: str | None = None,
) -> Evaluation:
    """Score images; nothing is written (`save`).

    Args:
        generated: a folder or ZIP archive of images, a run's folder, or a run's id in `results`.
        real: a data set's name, `folder:PATH`, or a folder.
        resolution: pixels per side; None is that of the generated images.
        metrics: names; None is every metric that applies and can be had; on a CPU without the slow ones.
        device: on which a run's weights generate; files need none.

    Raises:
        UsageError: an unknown name, images of another size, no image at all.
        MissingDataError: the data set, or the weights of a metric asked for by name, are not here.
        BenchError: an image is damaged.
    """
    started, created_at = perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    found = _find_real(real)
    on = settle_device(device)
    chosen = _chosen(metrics, found, on)
    backend = set_backend("fp32")
    source = _open_generated(generated, resolution, Path(results), on)
    dataset = found.spec.open(source.resolution, found.path)
    scoring = Scoring(list(chosen.values()), dataset, source.how)
    figures, pixels_sha256 = _scored(scoring, source)
    reason = _why_no_answer(chosen, figures, is_by_name=metrics is not None)
    question = EvaluationQuestion(
        generated=generated, real=_word(found), resolution=source.resolution, metrics=tuple(chosen), device=on
    )
    scored: dict[str, JsonValue] = {**source.which, "pixels_sha256": pixels_sha256}
    return Evaluation(
        evaluation_id=_id_of(question, scored, scoring.protocol, dataset.protocol),
        harness_version=__version__,
        created_at=created_at,
        question=question,
        machine=look(on),
        dataset=_facts(found, dataset),
        status="failed" if reason else "ok",
        reason=reason,
        quantities=figures,
        protocol=scoring.protocol | {"scored": scored, "backend": backend},
        duration_s=perf_counter() - started,
    )


def save(evaluation: Evaluation, results: Path, out: Path | None = None) -> Path:
    """Write the document to `out`, or under `results` → its path. Raises StorageError."""
    path = out or results / FOLDER / evaluation.evaluation_id / RECORD_FILE
    write_atomically(path, (evaluation.model_dump_json(indent=2) + "\n").encode())
    return path


def read_evaluation(path: Path) -> Evaluation:
    """The stored document. Raises RecordError where it is not one that this version can read."""
    try:
        return Evaluation.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise RecordError(f"'{path}' is not an evaluation this version can read: {error}") from error


def _find_real(word: str) -> FoundDataset:
    """A data set by name, or the folder of that name."""
    is_name = word.partition(":")[0] in DATASETS.names()
    return find_dataset(word if is_name or not Path(word).expanduser().is_dir() else f"folder:{word}")


def _word(found: FoundDataset) -> str:
    """The data set as one would ask for it."""
    return found.name if found.path is None else f"{found.name}:{found.path}"


def _chosen(asked: Sequence[str] | None, found: FoundDataset, device: str) -> dict[str, MetricSpec]:
    """Name → metric. Asked for by name each must apply and be there; else those are taken that do, are, and are not
    too slow for a CPU, as in a run."""
    if asked is None:
        every = {name: METRICS.load(name) for name in METRICS.names()}
        usable = {
            name: each for name, each in every.items() if not (each.why_not(found.name) or each.why_unavailable())
        }
        most = MOST_IMAGES_ON_A_CPU if device == "cpu" else math.inf
        chosen = {name: each for name, each in usable.items() if each.num_images <= most}
        if not chosen:
            raise UsageError(f"--real {found.name}: no metric applies to it.")
        return chosen
    chosen = {}
    for name in (word.strip().replace("_", "-") for word in asked):
        metric = METRICS.load(name)
        reason, lack = metric.why_not(found.name), metric.why_unavailable()
        if reason:
            raise UsageError(f"--metrics {name}: {reason}")
        if lack:
            raise MissingDataError(f"--metrics {name}: {lack}")
        chosen[name] = metric
    return chosen


def _why_no_answer(chosen: dict[str, MetricSpec], figures: dict[str, Quantity], *, is_by_name: bool) -> str:
    """Why a metric that was asked for, or every metric, has no figure; empty where they have."""
    mute = {}
    for name, metric in chosen.items():
        own = [figures[figure] for figure, spec in metric.figures.items() if spec.better is not None]
        if all(figure.value is None for figure in own):
            mute[name] = own[0].note
    if not mute or (not is_by_name and len(mute) < len(chosen)):
        return ""
    return "; ".join(f"{name}: {note}" for name, note in mute.items())


def _open_generated(word: str, resolution: int | None, results: Path, device: str) -> GeneratedImages:
    path = Path(word).expanduser()
    if path.is_dir() and (path / RECORD_FILE).is_file():
        return _of_run(StoredRun(read_record(path / RECORD_FILE), path), resolution, device)
    if path.is_dir():
        return images_of_files(FolderImages(path.absolute()), word, resolution)
    if path.is_file():
        if path.suffix.lower() != ".zip":
            raise UsageError(f"--generated '{word}' is a file and no ZIP archive: give a folder, an archive or a run.")
        return images_of_files(ZipImages(path.absolute()), word, resolution)
    try:
        stored = find_run(results, word)
    except RecordError as error:
        raise UsageError(f"--generated '{word}' is no folder, no ZIP archive and no run: {error}") from error
    return _of_run(stored, resolution, device)


def _of_run(stored: StoredRun, resolution: int | None, device: str) -> GeneratedImages:
    """Images of the run's averaged weights, from the latents that its phase `quality` takes."""
    spec = stored.record.spec
    if spec.resolution is None or resolution not in (None, spec.resolution):
        raise UsageError(f"--resolution {resolution}: the run '{stored.folder.name}' generates {spec.resolution} px.")
    loaded = load_run(stored.folder.parent, stored.folder.name, device=device)
    seed = sampling_seeds(spec.seed, 1)[0]

    def batches(count: int) -> Iterator[Images]:
        return generate(
            loaded.generator,
            latent_dim=loaded.latent_dim,
            seed=seed,
            count=count,
            batch_size=BATCH_SIZE,
            device=device,
        )

    which: dict[str, JsonValue] = {"weights": loaded.facts, "sampling_seeds": [seed], "num_sampling_seeds": 1}
    return GeneratedImages(resolution=spec.resolution, how=GENERATED, which=which, batches=batches)


def _scored(scoring: Scoring, source: GeneratedImages) -> tuple[dict[str, Quantity], str]:
    """(Figures, each with what real images get; SHA-256 of the pixels that were scored)."""
    digest = hashlib.sha256()

    def hashed() -> Iterator[Images]:
        for images in source.batches(scoring.num_images):
            digest.update(images.tobytes())
            yield images

    figures = scoring.of_images(hashed(), "generated images")
    floor = {f"{name}_real": figure for name, figure in scoring.of_real_images().items()}
    return figures | floor, digest.hexdigest()


def _facts(found: FoundDataset, dataset: OpenDataset) -> DatasetFacts:
    spec = found.spec
    return DatasetFacts(title=spec.title, source=spec.source, licence=spec.licence, protocol=dataset.protocol)


def _id_of(question: EvaluationQuestion, *facts: JsonValue) -> str:
    """`samples-scenes-1a2b3c4d`: what was scored against what, and a hash of all that decides the figures."""
    whole = json.dumps([question.resolution, question.metrics, __version__, *facts], sort_keys=True)
    names = [Path(question.generated).name, question.real.partition(":")[0]]
    words = [re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-")[:40] for name in names]
    return "-".join([*filter(None, words), hashlib.sha256(whole.encode()).hexdigest()[:8]])
