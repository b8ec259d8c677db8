"""The contract between a quality metric and the harness.

The harness makes one pass over the images and feeds each batch to every scorer, so that nothing but statistics stays in
memory. It feeds real images of the train split to the same scorers, which is how each figure gets the value that real
images get beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import JsonValue

from bench.datasets._spec import Images, OpenDataset
from bench.records import Quantity


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number a metric gives. `better` is None where neither direction is."""

    unit: str
    better: Literal["higher", "lower"] | None
    meaning: str


class Scorer(Protocol):
    """Accumulates statistics of one set of images. Its figures depend neither on batch size nor on order of batches."""

    def update(self, images: Images) -> None:
        """images: uint8 [n, 3, h, w]."""
        ...

    def figures(self) -> dict[str, Quantity]:
        """The figures of everything seen so far; a figure that cannot be had is null with a note."""
        ...


class PreparedMetric(Protocol):
    """A metric with the statistics of its reference computed."""

    @property
    def protocol(self) -> dict[str, JsonValue]:
        """Everything that decides the value: features, weights hash, counts, estimator, reference."""
        ...

    def scorer(self) -> Scorer:
        """A fresh scorer."""
        ...


def _always_available() -> str | None:
    return None


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """What a metric file ends with.

    Attributes:
        title: for people.
        figures: name → what it is. Names are unique over all metrics.
        num_images: generated images the protocol asks for.
        why_not: data set name → why it does not apply there in one sentence, or None where it does.
        prepare: opened data set → PreparedMetric; does the work on the reference. Raises MissingDataError where a file
            it needs is not here, and BenchError.
        why_unavailable: why this machine cannot compute it in one sentence, for example because pretrained weights are
            missing, or None. Such a metric is listed and left out; asked for by name it is an error.
    """

    title: str
    figures: Mapping[str, Figure]
    num_images: int
    why_not: Callable[[str], str | None]
    prepare: Callable[[OpenDataset], PreparedMetric]
    why_unavailable: Callable[[], str | None] = _always_available


def why_not_random(dataset: str) -> str | None:
    """`why_not` of a metric that measures any images but random ones."""
    return "Random images have no quality to measure." if dataset == "synthetic" else None
