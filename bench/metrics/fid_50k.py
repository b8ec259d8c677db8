"""`fid_50k`: Fréchet Inception distance of 50,000 generated images from 50,000 real images of the train split.

Heusel et al. 2017, https://arxiv.org/abs/1706.08500, eq. 6. The name pins the protocol:
* torch-fidelity 0.4.0's Inception (`inception-v3-compat`) with the weights of 2015-12-05, pinned by SHA-256, pooled
  2,048 features, TensorFlow 1's bilinear resize to 299 px (`bench/metrics/_inception.py`). Without the weights there is
  no value, and never one from other weights.
* 50,000 generated images, rounded to uint8, against 50,000 images of the train split (a fixed pseudo-random selection
  where it has more). Other counts on either side are `fid_biased`, and below 4,096 there is none.
* float64 statistics and distance, jackknife interval; the extrapolation to infinitely many generated images is
  `fid_infinity`, two halves of the real images against each other are `fid_floor` (`bench/metrics/_frechet_50k.py`).

FIDs in papers follow other protocols (other Inception weights, crops, counts, unrounded images) and are not compared
with this one.
"""

from __future__ import annotations

from bench.datasets._spec import OpenDataset
from bench.metrics import _frechet_50k as frechet_50k
from bench.metrics._frechet_50k import Names, PreparedFrechet
from bench.metrics._inception import inception, why_unavailable
from bench.metrics._spec import Figure, MetricSpec, why_not_random

_NAMES = Names(source="fid_50k", full="fid_50k", biased="fid_biased", infinity="fid_infinity", floor="fid_floor")
_FEATURES = "torch-fidelity inception-v3-compat, TensorFlow 1 bilinear resize to 299 px"


def _prepare(dataset: OpenDataset) -> PreparedFrechet:
    network = inception()
    return frechet_50k.prepare(network, network.real_images(dataset), _NAMES, _FEATURES)


METRIC = MetricSpec(
    title="Fréchet Inception distance",
    figures={
        "fid_50k": Figure(
            unit="1",
            better="lower",
            meaning="distance of 50,000 generated from 50,000 train images in Inception features",
        ),
        "fid_biased": Figure(
            unit="1",
            better="lower",
            meaning="the same from other counts, which makes it larger; compare at equal counts only",
        ),
        "fid_infinity": Figure(
            unit="1", better="lower", meaning="extrapolated to infinitely many generated images; real ones held fixed"
        ),
        "fid_floor": Figure(
            unit="1", better=None, meaning="the same distance between two disjoint halves of the real images"
        ),
    },
    num_images=frechet_50k.NUM_IMAGES,
    why_not=why_not_random,
    prepare=_prepare,
    why_unavailable=why_unavailable,
)
