"""Images through every metric that applies to the data set, in one pass. Used while training, after it, and by
`bench evaluate`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from pydantic import JsonValue
from torch import nn
from tqdm import tqdm

from bench.datasets._spec import Images, OpenDataset
from bench.errors import BenchError
from bench.meters._spec import Meter
from bench.metrics._spec import MetricSpec, PreparedMetric
from bench.phases._context import Question
from bench.records import Quantity
from bench.training.images import generate
from bench.training.randomness import derive_seed, fixed_selection

BATCH_SIZE = 250
NUM_SAMPLING_SEEDS = 3  # of a run that may be published
GENERATED: dict[str, JsonValue] = {
    "precision": "fp32",
    "weights": "EMA",
    "mode": "eval",
    "quantisation": "round to uint8",
}


class Scoring:
    """All metrics of a run with their references prepared.

    Args:
        metrics: at least one.
        generated: how the scored images are made, for the protocol.
        meters: those that watch the scoring; told between batches, so that a counter that wraps is read in time.
    """

    def __init__(
        self,
        metrics: Sequence[MetricSpec],
        dataset: OpenDataset,
        generated: dict[str, JsonValue] = GENERATED,
        *,
        meters: Mapping[str, Meter] = MappingProxyType({}),
    ) -> None:
        self._meters = meters
        self._dataset = dataset
        self._metrics: list[tuple[MetricSpec, PreparedMetric]] = [(each, each.prepare(dataset)) for each in metrics]
        self.num_images = max(metric.num_images for metric in metrics)
        self.protocol: dict[str, JsonValue] = {
            "generated": generated,
            "real": {"split": "train", "selection": "fixed pseudo-random", "count": self.num_images},
            # `figures` lets bench.compare tell which protocol a figure follows
            **{metric.title: prepared.protocol | {"figures": [*metric.figures]} for metric, prepared in self._metrics},
        }

    def of_generator(
        self, question: Question, generator: nn.Module, latent_dim: int, title: str, sampling_seed: int | None = None
    ) -> dict[str, Quantity]:
        """Figures of a generator in eval mode; its images depend on the seed and their index alone.

        Args:
            sampling_seed: of the latents; None is the first of the run's.
        """
        seed = sampling_seeds(question.spec.seed, 1)[0] if sampling_seed is None else sampling_seed
        return self.of_images(_generated(question, generator, latent_dim, self.num_images, seed), title)

    def of_real_images(self) -> dict[str, Quantity]:
        """Figures of as many images of the train split: what a perfect generator would get."""
        return self.of_images(_real(self._dataset, self.num_images), "real images")

    def of_images(self, batches: Iterable[Images], title: str) -> dict[str, Quantity]:
        """One pass over the images; each metric sees the first `num_images` of its protocol."""
        scorers = [(metric.num_images, prepared.scorer()) for metric, prepared in self._metrics]
        num_seen = 0
        tqdm.monitor_interval = 0  # no thread of ours
        for images in tqdm(batches, desc=f"quality of {title}", unit="batch", disable=None, leave=False):
            for wanted, scorer in scorers:
                if num_seen < wanted:
                    scorer.update(images[: wanted - num_seen])
            num_seen += len(images)
            for meter in self._meters.values():
                meter.tick()
        figures: dict[str, Quantity] = {}
        for _, scorer in scorers:
            figures |= scorer.figures()
        return figures


def sampling_seeds(seed: int, count: int) -> list[int]:
    """The seeds of the latents that quality is measured on, from the run's seed."""
    return [derive_seed(seed, "quality", position) for position in range(count)]


def _real(dataset: OpenDataset, count: int) -> Iterator[Images]:
    indices = fixed_selection(len(dataset.train), count)
    for start in range(0, len(indices), BATCH_SIZE):
        yield dataset.train.read(indices[start : start + BATCH_SIZE])


def _generated(question: Question, generator: nn.Module, latent_dim: int, count: int, seed: int) -> Iterator[Images]:
    for images in generate(
        generator,
        latent_dim=latent_dim,
        seed=seed,
        count=count,
        batch_size=BATCH_SIZE,
        device=question.device,
    ):
        if images.shape[1:] != (3, question.resolution, question.resolution):
            raise BenchError(
                f"The generator gives images of shape {images.shape[1:]}, not {question.resolution} px RGB."
            )
        yield images
