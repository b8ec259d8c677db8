"""Score the averaged generator with every metric that applies, beside what real images and the untrained one score.

Each snapshot of the training is scored, which gives quality over images shown. Images are generated in float32 from
latents that depend on the index alone, rounded to uint8, and passed once to all metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import cast

from pydantic import JsonValue
from torch import nn
from tqdm import tqdm

from bench.datasets._spec import Images, OpenDataset
from bench.errors import BenchError
from bench.metrics._spec import MetricSpec, PreparedMetric
from bench.phases._context import Context, Outcome
from bench.phases.train import snapshot_key
from bench.records import CurvePoint, PhaseResult, Quantity
from bench.training.images import generate
from bench.training.randomness import derive_seed, fixed_selection
from bench.training.weights import load_weights

BATCH_SIZE = 250


def measure(context: Context) -> Outcome:
    """Every metric's figures, each also as `<name>_real` (train images, the floor) and `<name>_untrained`."""
    question = context.question
    if question.dataset is None:
        return Outcome(status="skipped", reason="--no-data: there are no real images to compare with")
    trained = context.done.get("train")
    if trained is None or trained.status != "ok":
        return Outcome(status="skipped", reason="there are no trained weights: the train phase is missing or failed")
    metrics = question.metrics()
    if not metrics:
        return Outcome(status="skipped", reason=f"no metric applies to '{question.found_dataset.name}'")
    scoring = _Scoring(metrics, question.dataset)
    outcome = Outcome(protocol=scoring.protocol)
    real = scoring.score(_real_images(question.dataset, scoring.num_images), "real images")
    outcome.quantities |= {f"{name}_real": figure for name, figure in real.items()}
    started = perf_counter()
    network = question.build_generator(question.device)
    for shown, train_duration_s, weights in _snapshots(trained):
        images = _generated_images(context, network, weights, scoring.num_images)
        figures = scoring.score(images, f"{shown} images shown")
        point = CurvePoint(num_images_shown=shown, train_duration_s=train_duration_s, quantities=figures)
        outcome.curve.append(point)
    outcome.protocol["score_duration_s"] = perf_counter() - started
    first, last = outcome.curve[0], outcome.curve[-1]
    if first.num_images_shown == 0:
        outcome.quantities |= {f"{name}_untrained": figure for name, figure in first.quantities.items()}
    outcome.quantities |= last.quantities
    return outcome


class _Scoring:
    """All metrics of a run with their references prepared."""

    def __init__(self, metrics: list[MetricSpec], dataset: OpenDataset) -> None:
        self._metrics: list[tuple[MetricSpec, PreparedMetric]] = [(each, each.prepare(dataset)) for each in metrics]
        self.num_images = max(metric.num_images for metric in metrics)
        self.protocol: dict[str, JsonValue] = {
            "generated": {"precision": "fp32", "weights": "EMA", "mode": "eval", "quantisation": "round to uint8"},
            "real": {"split": "train", "selection": "fixed pseudo-random", "count": self.num_images},
            **{metric.title: prepared.protocol for metric, prepared in self._metrics},
        }

    def score(self, batches: Iterable[Images], title: str) -> dict[str, Quantity]:
        """One pass over the images; each metric sees the first `num_images` of its protocol."""
        scorers = [(metric.num_images, prepared.scorer()) for metric, prepared in self._metrics]
        num_seen = 0
        tqdm.monitor_interval = 0  # no thread of ours
        for images in tqdm(batches, desc=f"quality of {title}", unit="batch", disable=None, leave=False):
            for wanted, scorer in scorers:
                if num_seen < wanted:
                    scorer.update(images[: wanted - num_seen])
            num_seen += len(images)
        figures: dict[str, Quantity] = {}
        for _, scorer in scorers:
            figures |= scorer.figures()
        return figures


def _real_images(dataset: OpenDataset, count: int) -> Iterator[Images]:
    indices = fixed_selection(len(dataset.train), count)
    for start in range(0, len(indices), BATCH_SIZE):
        yield dataset.train.read(indices[start : start + BATCH_SIZE])


def _snapshots(trained: PhaseResult) -> list[tuple[int, float, str]]:
    """(images shown, training seconds, weights file) of each snapshot, in order."""
    points = cast("list[dict[str, float]]", trained.protocol["snapshots"])
    return [
        (shown, float(point["train_duration_s"]), trained.artifacts[snapshot_key(shown)])
        for point in points
        for shown in [int(point["num_images_shown"])]
    ]


def _generated_images(context: Context, network: tuple[nn.Module, int], weights: str, count: int) -> Iterator[Images]:
    """Images of the generator with those weights."""
    question = context.question
    generator, latent_dim = network
    load_weights(context.folder.path / weights, generator)
    for images in generate(
        generator,
        latent_dim=latent_dim,
        seed=derive_seed(question.spec.seed, "quality"),
        count=count,
        batch_size=BATCH_SIZE,
        device=question.device,
    ):
        if images.shape[1:] != (3, question.resolution, question.resolution):
            raise BenchError(
                f"The generator gives images of shape {images.shape[1:]}, not {question.resolution} px RGB."
            )
        yield images
