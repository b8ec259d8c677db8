"""What `fid_50k` and `fd_dinov2_50k` share: the Fréchet distance in a pretrained network's features, with its bounds.

Both give four figures: the distance of 50,000 generated images from the real ones; under another name the distance from
other counts, whose upward bias makes it comparable at equal counts only; the distance extrapolated to infinitely many
generated images (`bench/metrics/_fid_infinity.py`); and the floor, the distance between two disjoint halves of the
real images. Fewer images than twice the width of the features, on either side, have no distance: the covariance would
be mostly bias. Mean and covariance are gathered in ten groups by content, batch by batch, in float64
(`bench/metrics/_frechet.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import JsonValue

from bench.datasets._spec import Images
from bench.metrics._fid_infinity import SET_SIZES, extrapolate
from bench.metrics._frechet import NUM_GROUPS, ContentGroups, FrechetReference, GroupedMoments, estimate_distance
from bench.metrics._pretrained import PretrainedNetwork, RealImages, content_digests
from bench.records import Quantity, unknown

NUM_IMAGES = 50_000
_MIN_COUNT_OVER_WIDTH = 2


@dataclass(frozen=True, kw_only=True)
class Names:
    """How a metric calls its four figures, and itself in `source`."""

    source: str
    full: str
    biased: str
    infinity: str
    floor: str


class FrechetScorer:
    """Keeps the moments of ten groups of images.

    Args:
        network: the pretrained one.
        real: the real side.
        reference: its decomposed statistics, None where there are too few real images.
        names: of the figures.
    """

    def __init__(
        self, network: PretrainedNetwork, real: RealImages, reference: FrechetReference | None, names: Names
    ) -> None:
        self._network = network
        self._real = real
        self._reference = reference
        self._names = names
        self._moments = GroupedMoments()
        self._groups = ContentGroups()
        self._num_copies = 0

    def update(self, images: Images) -> None:
        """images: uint8 [n, 3, h, w]."""
        features = self._network.features_of(images)[self._network.layers[0]]
        self._moments.add(features, self._groups.deal(images))
        self._num_copies += sum(digest in self._real.digests for digest in content_digests(images))

    def figures(self) -> dict[str, Quantity]:
        """The four figures; of the two names of the distance one has the value, the other says why not."""
        names, reference = self._names, self._reference
        width, num_real = self._real.features.shape[1], len(self._real.features)
        counts = f"{self._moments.count} generated and {num_real} real images"
        few = _MIN_COUNT_OVER_WIDTH * width
        if reference is None or self._moments.count < few:
            reason = f"{counts} are too few: {few} of each, twice the width of the features, are needed"
            missing = {name: self._unknown(reason) for name in (names.full, names.biased, names.infinity)}
            return {**missing, names.floor: self._floor()}
        is_full = self._moments.count == num_real == NUM_IMAGES
        value = self._distance(reference, "" if is_full else f"from {counts}: comparable only at the same counts")
        name, other = (names.full, names.biased) if is_full else (names.biased, names.full)
        reason = f"{names.full} takes {NUM_IMAGES} images of each, there are {counts}; {name} has the value"
        return {
            name: value,
            other: self._unknown(reason),
            names.infinity: self._at_infinity(reference, few),
            names.floor: self._floor(),
        }

    def _unknown(self, reason: str) -> Quantity:
        return unknown("1", reason, source=self._names.source)

    def _distance(self, reference: FrechetReference, note: str) -> Quantity:
        found = estimate_distance(reference, self._moments)
        notes = [note, "the interval is for the generated images, the real ones held fixed"]
        if self._num_copies:
            notes.append(
                f"{self._num_copies} of the images are, bit by bit, among the real ones they are compared with"
            )
        return Quantity(
            value=found.value,
            unit="1",
            low=found.low,
            high=found.high,
            n=found.n,
            kind="measured",
            source=self._names.source,
            note="; ".join(filter(None, notes)),
        )

    def _at_infinity(self, reference: FrechetReference, few: int) -> Quantity:
        groups = self._moments.by_group()
        smallest = self._moments.count * min(SET_SIZES) // max(SET_SIZES)
        if smallest < few or len(groups) < NUM_GROUPS:
            reason = f"the line's smallest sets would have {smallest} images of the {few} that a distance takes"
            return self._unknown(reason)
        line = extrapolate(reference, groups)
        sizes = ", ".join(f"{count:.0f}" for count in line.counts)
        return Quantity(
            value=line.intercept,
            unit="1",
            low=line.intercept - line.reach,
            high=line.intercept + line.reach,
            n=self._moments.count,
            kind="estimated",
            source=self._names.source,
            note=f"line through the distance against 1/N at N = {sizes}: standard error {line.standard_error:.3g}, "
            f"R² {line.r_squared:.5f}",
        )

    def _floor(self) -> Quantity:
        count = len(self._real.features)
        if self._real.floor is None or self._reference is None:
            return self._unknown(f"{count} real images are too few for two halves")
        return Quantity(
            value=self._real.floor,
            unit="1",
            n=count,
            kind="measured",
            source=self._names.source,
            note=f"between two disjoint halves of {count} real images, so with about twice the bias of the distance",
        )


@dataclass(frozen=True, kw_only=True)
class PreparedFrechet:
    """The network and the statistics of the real images.

    Attributes:
        network: the pretrained one.
        real: the real side.
        reference: decomposed, None where there are fewer real images than twice the width.
        names: of the figures.
        features: the network and its preparation, in words.
    """

    network: PretrainedNetwork
    real: RealImages
    reference: FrechetReference | None
    names: Names
    features: str

    @property
    def protocol(self) -> dict[str, JsonValue]:
        """Everything that decides the values."""
        return {
            "metric": self.names.source,
            "features": self.features,
            "layer": self.network.layers[0],
            **self.network.protocol(self.real),
            "num_images": NUM_IMAGES,
            "statistics": "float64",
            "estimator": f"Fréchet distance, plug-in; 95 % interval: jackknife over {NUM_GROUPS} groups by content",
            "infinity": f"least squares against 1/N, sets of {list(SET_SIZES)} of {NUM_GROUPS} groups",
        }

    def scorer(self) -> FrechetScorer:
        """A fresh scorer."""
        return FrechetScorer(self.network, self.real, self.reference, self.names)


def prepare(network: PretrainedNetwork, real: RealImages, names: Names, features: str) -> PreparedFrechet:
    """The real side decomposed."""
    is_enough = len(real.features) >= _MIN_COUNT_OVER_WIDTH * real.features.shape[1]
    reference = FrechetReference(real.moments) if is_enough and real.moments is not None else None
    return PreparedFrechet(network=network, real=real, reference=reference, names=names, features=features)
