"""`mode_coverage`: what share of generated `scenes` are scenes, how many of the 1,600 modes they show, and whether left
and right match. Counted with an exact decoder: no network, no reference statistics.

What is counted. The decoder (`bench/datasets/_scene_decoder.py`) reads each image. An object *is there* where its
overlap passes the threshold; an image is *valid* where all three objects are there; it *belongs to a mode* where it is
valid and left and right agree, for an image whose sides differ is none of the 1,600 modes.

How sure it is: `_modes.py` says how for shares, modes covered and divergence. Drift: a total variation distance is by
how much the share of the over-represented levels exceeds what is due, so it has the Wilson interval of that share,
levels and factor taken as found.

Source: ours; counting modes goes back to Metz et al. 2016 (arXiv 1611.02163) and Lin et al. 2018 (arXiv 1712.04086).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from bench.datasets import _scene_decoder as decoder
from bench.datasets import _scene_geometry as geometry
from bench.datasets._spec import Images, OpenDataset
from bench.errors import UsageError
from bench.metrics._modes import distinct_modes_interval, expected_kl, expected_modes, kl_from_uniform, wilson_interval
from bench.metrics._spec import Figure, MetricSpec
from bench.records import Quantity, unknown

NUM_IMAGES = 5000
SOURCE = f"mode_coverage ({geometry.VERSION} decoder)"

_CHANCE = 1 / (geometry.FACTORS["side_shape"] * geometry.FACTORS["side_colour"])
_SIDES = ("left", "centre", "right")


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
        found = distinct_modes_interval(self.mode_counts)
        expected_in_real = expected_modes(self.num_images, geometry.NUM_MODES)
        expected = f"{expected_in_real:.1f} modes are expected in {self.num_images} real images"
        return Quantity(
            value=found.value,
            unit="1",
            low=found.low,
            high=found.high,
            n=self.num_images,
            kind="measured",
            source=SOURCE,
            note=self._note(expected) if found.value else self._note(expected, "no interval follows from none"),
        )

    def _mode_kl(self) -> Quantity:
        num_scenes = int(self.mode_counts.sum())
        if num_scenes == 0:
            return unknown("nat", self._note("no image belongs to a mode, so there is no histogram"), source=SOURCE)
        found = kl_from_uniform(self.mode_counts)
        due = expected_kl(num_scenes, geometry.NUM_MODES)
        bias = f"of {num_scenes} images that belong to a mode; as many real images give {due:.3f}"
        return Quantity(
            value=found.value,
            unit="nat",
            low=found.low,
            high=found.high,
            n=num_scenes,
            kind="measured",
            source=SOURCE,
            note=self._note(
                bias, "too few for an interval" if found.low is None else "the interval leaves that bias out"
            ),
        )

    def _factor_drift(self) -> Quantity:
        if self.num_valid == 0:
            return unknown("1", self._note("no image is valid, so no factor has a distribution"), source=SOURCE)
        drifts = {factor: _total_variation(counts) for factor, counts in self.level_counts.items()}
        factor = max(drifts, key=lambda name: drifts[name])
        counts = self.level_counts[factor]
        is_over = counts * len(counts) > self.num_valid
        due = float(is_over.mean())
        share = wilson_interval(int(counts[is_over].sum()), self.num_valid)
        return Quantity(
            value=drifts[factor],
            unit="1",
            low=min(max(0.0, (share.low or 0.0) - due), drifts[factor]),
            high=max((share.high or 1.0) - due, drifts[factor]),
            n=self.num_valid,
            kind="measured",
            source=SOURCE,
            note=self._note(f"the factor is {factor}; the largest of {len(drifts)}, so above 0 for real images too"),
        )

    def _pair_consistency(self) -> Quantity:
        among = f"{self.num_pairs} of the {self.num_both_sides} images with both side objects match"
        return _share(self.num_pairs, self.num_images, self._note(f"{among}; matching by chance is {_CHANCE:.2f}"))


def _total_variation(counts: NDArray[np.int64]) -> float:
    """Total variation distance from uniform of a histogram that is not empty, in [0, 1)."""
    return float(np.abs(counts / counts.sum() - 1 / len(counts)).sum() / 2)


def _share(num_hits: int, num_trials: int, note: str) -> Quantity:
    share = wilson_interval(num_hits, num_trials)
    return Quantity(
        value=share.value,
        unit="1",
        low=share.low,
        high=share.high,
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
            "decoder": f"{geometry.VERSION}, overlap of coverages",
            "palette_sha256": geometry.palette_hash(),
            "resolution": self.resolution,
            "overlap_threshold": decoder.OVERLAP_THRESHOLDS[self.resolution],
            "num_modes": geometry.NUM_MODES,
            "expected_modes_of_real_images": expected_modes(NUM_IMAGES, geometry.NUM_MODES),
            "expected_mode_kl_of_real_images": expected_kl(NUM_IMAGES, geometry.NUM_MODES),
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
