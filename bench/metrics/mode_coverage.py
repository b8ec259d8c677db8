"""`mode_coverage`: what share of generated `scenes` are scenes, how many of the 1,600 modes they show, and whether left
and right match. Counted with an exact decoder: no network, no reference statistics.

What is counted. The decoder (`bench/datasets/_scene_decoder.py`) reads each image. An object *is there* where its
overlap passes the threshold; an image is *valid* where all three objects are there; it *belongs to a mode* where it is
valid and left and right agree, for an image whose sides differ is none of the 1,600 modes.

How sure it is. Shares: Wilson 1927. Modes covered: the variance S·(1 - S/S_est) of the number of species in a sample
(Colwell, Mao, Chang, Ecology 85(10), 2004), S_est being Chao's estimate from the modes seen once and twice (Chao 1984,
bias-corrected form), at most 1,600. Divergence: the jackknife that leaves out one image, whose variance errs upwards
(Efron, Stein, Annals of Statistics 9(3), 1981); it speaks of the spread and not of the bias of the plug-in estimate,
which real images share at the same count and the note gives exactly. Drift: a total variation distance is by how much
the share of the over-represented levels exceeds what is due, so it has the Wilson interval of that share, levels and
factor taken as found.

Source: ours; counting modes goes back to Metz et al. 2016 (arXiv 1611.02163) and Lin et al. 2018 (arXiv 1712.04086).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from scipy import stats

from bench.datasets import _scene_decoder as decoder
from bench.datasets import _scene_geometry as geometry
from bench.datasets._spec import Images, OpenDataset
from bench.errors import UsageError
from bench.metrics._spec import Figure, MetricSpec
from bench.records import Quantity, unknown

NUM_IMAGES = 5000
SOURCE = f"mode_coverage ({geometry.VERSION} decoder)"

_NORMAL_97_5 = 1.959963984540054  # two-sided 95 %
_FEWEST_FOR_JACKKNIFE = 100  # with fewer of 1,600 modes hardly any comes twice, and the jackknife sees no spread
_CHANCE = 1 / (geometry.FACTORS["side_shape"] * geometry.FACTORS["side_colour"])
_SIDES = ("left", "centre", "right")


def expected_modes(num_images: int) -> float:
    """Distinct modes expected in that many real images: 1600·(1 - (1 - 1/1600)^n)."""
    return geometry.NUM_MODES * (1 - (1 - 1 / geometry.NUM_MODES) ** num_images)


def expected_kl(num_images: int) -> float:
    """Plug-in divergence from uniform expected in that many real images (n > 0), in nats; it is all bias."""
    counts = np.arange(1, num_images + 1)
    shares = counts / num_images
    weights = stats.binom.pmf(counts, num_images, 1 / geometry.NUM_MODES)
    return math.log(geometry.NUM_MODES) + geometry.NUM_MODES * float(np.sum(weights * shares * np.log(shares)))


def _no_levels() -> dict[str, NDArray[np.int64]]:
    levels = {"wall": geometry.FACTORS["wall"]}
    for side in _SIDES:
        levels |= {f"{side} shape": len(geometry.SHAPES), f"{side} colour": len(geometry.COLOURS)}
    return {factor: np.zeros(num_levels, np.int64) for factor, num_levels in levels.items()}


@dataclass(kw_only=True)
class ModeScorer:
    """Counts; integers only, so that neither batch size nor order can matter.

    Attributes:
        resolution: pixels per side of every image.
        num_images, num_valid: images seen, and those with all three objects.
        num_both_sides: images whose left and right objects are there; num_pairs: those of them that match.
        mode_counts: images by mode, [1600].
        level_counts: valid images by level of each factor, left and right apart.
    """

    resolution: int
    num_images: int = 0
    num_valid: int = 0
    num_both_sides: int = 0
    num_pairs: int = 0
    mode_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(geometry.NUM_MODES, np.int64))
    level_counts: dict[str, NDArray[np.int64]] = field(default_factory=_no_levels)

    def update(self, images: Images) -> None:
        """images: uint8 [n, 3, h, w].

        Raises:
            UsageError: another resolution than the one prepared for.
        """
        if images.shape[-1] != self.resolution:
            raise UsageError(f"mode_coverage was prepared for {self.resolution} pixels, not {images.shape[-1]}.")
        read = decoder.decode(images)
        is_valid, has_sides = read.is_valid, read.is_object[:, 0] & read.is_object[:, 2]
        self.num_images += len(images)
        self.num_valid += int(is_valid.sum())
        self.num_both_sides += int(has_sides.sum())
        self.num_pairs += int((has_sides & read.is_pair).sum())
        self.mode_counts += np.bincount(read.mode[is_valid & read.is_pair], minlength=geometry.NUM_MODES)
        levels = {"wall": read.wall}
        for position, side in enumerate(_SIDES):
            levels |= {f"{side} shape": read.shapes[:, position], f"{side} colour": read.colours[:, position]}
        for factor, level in levels.items():
            self.level_counts[factor] += np.bincount(level[is_valid], minlength=len(self.level_counts[factor]))

    def figures(self) -> dict[str, Quantity]:
        """The five figures of everything seen so far."""
        if self.num_images == 0:
            return {
                name: unknown(figure.unit, "no image was scored", source=SOURCE)
                for name, figure in METRIC.figures.items()
            }
        return {
            "validity": _share(self.num_valid, self.num_images, self._note()),
            "modes_covered": self._modes_covered(),
            "mode_kl": self._mode_kl(),
            "factor_drift": self._factor_drift(),
            "pair_consistency": self._pair_consistency(),
        }

    def _note(self, *parts: str) -> str:
        few = f"n = {self.num_images} images, the protocol asks for {NUM_IMAGES}"
        return "; ".join([*parts, few] if self.num_images < NUM_IMAGES else parts)

    def _modes_covered(self) -> Quantity:
        counts = self.mode_counts
        num_modes, once, twice = int(np.sum(counts > 0)), int(np.sum(counts == 1)), int(np.sum(counts == 2))
        expected = f"{expected_modes(self.num_images):.1f} modes are expected in {self.num_images} real images"
        low = high = None
        if num_modes:
            estimate = min(geometry.NUM_MODES, num_modes + once * (once - 1) / (2 * (twice + 1)))
            margin = _NORMAL_97_5 * math.sqrt(num_modes * (1 - num_modes / estimate))
            low, high = max(0.0, num_modes - margin), min(float(geometry.NUM_MODES), num_modes + margin)
        return Quantity(
            value=float(num_modes),
            unit="1",
            low=low,
            high=high,
            n=self.num_images,
            kind="measured",
            source=SOURCE,
            note=self._note(expected) if num_modes else self._note(expected, "no interval follows from none"),
        )

    def _mode_kl(self) -> Quantity:
        num_scenes = int(self.mode_counts.sum())
        if num_scenes == 0:
            return unknown("nat", self._note("no image belongs to a mode, so there is no histogram"), source=SOURCE)
        largest = math.log(geometry.NUM_MODES)
        value = min(max(0.0, largest - _entropy(self.mode_counts)), largest)
        margin = _NORMAL_97_5 * _entropy_deviation(self.mode_counts) if num_scenes >= _FEWEST_FOR_JACKKNIFE else None
        bias = f"of {num_scenes} images that belong to a mode; as many real images give {expected_kl(num_scenes):.3f}"
        return Quantity(
            value=value,
            unit="nat",
            low=None if margin is None else max(0.0, value - margin),
            high=None if margin is None else min(largest, value + margin),
            n=num_scenes,
            kind="measured",
            source=SOURCE,
            note=self._note(bias, "too few for an interval" if margin is None else "the interval leaves that bias out"),
        )

    def _factor_drift(self) -> Quantity:
        if self.num_valid == 0:
            return unknown("1", self._note("no image is valid, so no factor has a distribution"), source=SOURCE)
        drifts = {factor: _total_variation(counts) for factor, counts in self.level_counts.items()}
        factor = max(drifts, key=lambda name: drifts[name])
        counts = self.level_counts[factor]
        is_over = counts * len(counts) > self.num_valid
        due = float(is_over.mean())
        low, high = _wilson(int(counts[is_over].sum()), self.num_valid)
        return Quantity(
            value=drifts[factor],
            unit="1",
            low=min(max(0.0, low - due), drifts[factor]),
            high=max(high - due, drifts[factor]),
            n=self.num_valid,
            kind="measured",
            source=SOURCE,
            note=self._note(f"the factor is {factor}; the largest of {len(drifts)}, so above 0 for real images too"),
        )

    def _pair_consistency(self) -> Quantity:
        among = f"{self.num_pairs} of the {self.num_both_sides} images with both side objects match"
        return _share(self.num_pairs, self.num_images, self._note(f"{among}; matching by chance is {_CHANCE:.2f}"))


def _entropy(counts: NDArray[np.int64]) -> float:
    """Plug-in entropy in nats of a histogram that is not empty: ln N - Σ c·ln c / N."""
    seen = counts[counts > 0]
    return math.log(seen.sum()) - float(np.sum(seen * np.log(seen))) / float(seen.sum())


def _entropy_deviation(counts: NDArray[np.int64]) -> float:
    """Jackknife standard deviation of the plug-in entropy; images of one mode leave the same entropy behind.

    Without one image of a mode seen c times, Σ c·ln c is less by c·ln c - (c - 1)·ln(c - 1).
    """
    seen = counts[counts > 0]
    num_images = int(seen.sum())
    loss = seen * np.log(seen) - (seen - 1) * np.log(np.maximum(seen - 1, 1))
    mean = float(np.sum(seen * loss)) / num_images
    return math.sqrt(float(np.sum(seen * (loss - mean) ** 2)) / num_images / (num_images - 1))


def _total_variation(counts: NDArray[np.int64]) -> float:
    """Total variation distance from uniform of a histogram that is not empty, in [0, 1)."""
    return float(np.abs(counts / counts.sum() - 1 / len(counts)).sum() / 2)


def _wilson(num_hits: int, num_trials: int) -> tuple[float, float]:
    interval = stats.binomtest(num_hits, num_trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def _share(num_hits: int, num_trials: int, note: str) -> Quantity:
    value = num_hits / num_trials
    low, high = _wilson(num_hits, num_trials)
    return Quantity(
        value=value,
        unit="1",
        low=min(low, value),  # they hold the value but for the last bit
        high=max(high, value),
        n=num_trials,
        kind="measured",
        source=SOURCE,
        note=note,
    )


@dataclass(frozen=True, kw_only=True)
class PreparedModeCoverage:
    """The metric at one resolution; there is nothing to compute beforehand."""

    resolution: int

    @property
    def protocol(self) -> dict[str, JsonValue]:
        """Everything that decides the values."""
        return {
            "metric": "mode_coverage",
            "num_images": NUM_IMAGES,
            "decoder": f"{geometry.VERSION}, dead zone {decoder.DEAD_ZONE}",
            "palette_sha256": geometry.palette_hash(),
            "resolution": self.resolution,
            "overlap_threshold": decoder.OVERLAP_THRESHOLDS[self.resolution],
            "num_modes": geometry.NUM_MODES,
            "expected_modes_of_real_images": expected_modes(NUM_IMAGES),
            "expected_mode_kl_of_real_images": expected_kl(NUM_IMAGES),
            "mode": "valid image whose left and right objects agree",
            "estimators": "plug-in; intervals 95 %: Wilson, Colwell et al. 2004 with Chao1, jackknife",
        }

    def scorer(self) -> ModeScorer:
        """A fresh scorer."""
        return ModeScorer(resolution=self.resolution)


def _prepare(dataset: OpenDataset) -> PreparedModeCoverage:
    if dataset.protocol.get("version") != geometry.VERSION:
        raise UsageError(f"mode_coverage decodes {geometry.VERSION} only, not {dataset.protocol.get('version')}.")
    resolution = dataset.protocol["resolution"]
    assert isinstance(resolution, int)
    return PreparedModeCoverage(resolution=resolution)


def _why_not(dataset: str) -> str | None:
    return None if dataset == "scenes" else "mode_coverage decodes the factors of scenes, which other data sets lack."


METRIC = MetricSpec(
    title="Modes of scenes: valid images, modes covered, divergence from uniform, matching pairs",
    figures={
        "validity": Figure(unit="1", better="higher", meaning="share of images in which all three objects are there"),
        "modes_covered": Figure(
            unit="1", better="higher", meaning="distinct modes, of 1,600, among valid images whose sides match"
        ),
        "mode_kl": Figure(
            unit="nat",
            better="lower",
            meaning="divergence from uniform of the modes of valid images whose sides match; plug-in, biased upwards",
        ),
        "factor_drift": Figure(
            unit="1",
            better="lower",
            meaning="largest total variation distance from uniform of one factor's levels among valid images",
        ),
        "pair_consistency": Figure(
            unit="1",
            better="higher",
            meaning="share of all images whose left and right objects are both there and alike in shape and colour; "
            "blobs give 0, sides that ignore each other 0.05",
        ),
    },
    num_images=NUM_IMAGES,
    why_not=_why_not,
    prepare=_prepare,
)
