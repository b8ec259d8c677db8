"""`fd_dinov2_50k`: Fréchet distance in DINOv2 features, of 50,000 generated from 50,000 real images.

Proposed by Stein et al. 2023 (https://arxiv.org/abs/2306.04675), who found it to follow people's judgement where the
Inception distance does not. The name pins the protocol: ViT-L/14 with the published weights pinned by SHA-256, class
token of 1,024, torch-fidelity's resize to 224 px (`bench/metrics/_dinov2.py`; Stein et al. resize otherwise, so that
their figures are on another scale), counts, real images and estimator as in `fid_50k`. Other counts are
`fd_dinov2_biased`, and below 2,048 there is none. Without the pinned weights there is no value.
"""

from __future__ import annotations

from bench.datasets._spec import OpenDataset
from bench.metrics import _frechet_50k as frechet_50k
from bench.metrics._dinov2 import dinov2, why_unavailable
from bench.metrics._frechet_50k import Names, PreparedFrechet
from bench.metrics._spec import Figure, MetricSpec, why_not_random

_NAMES = Names(
    source="fd_dinov2_50k",
    full="fd_dinov2_50k",
    biased="fd_dinov2_biased",
    infinity="fd_dinov2_infinity",
    floor="fd_dinov2_floor",
)
_FEATURES = "DINOv2 ViT-L/14, TensorFlow 1 bilinear resize to 224 px"


def _prepare(dataset: OpenDataset) -> PreparedFrechet:
    network = dinov2()
    return frechet_50k.prepare(network, network.real_images(dataset), _NAMES, _FEATURES)


METRIC = MetricSpec(
    title="Fréchet distance in DINOv2 features",
    figures={
        "fd_dinov2_50k": Figure(
            unit="1", better="lower", meaning="distance of 50,000 generated from 50,000 train images in DINOv2 features"
        ),
        "fd_dinov2_biased": Figure(
            unit="1",
            better="lower",
            meaning="the same from other counts, which makes it larger; compare at equal counts only",
        ),
        "fd_dinov2_infinity": Figure(
            unit="1", better="lower", meaning="extrapolated to infinitely many generated images; real ones held fixed"
        ),
        "fd_dinov2_floor": Figure(
            unit="1", better=None, meaning="the same distance between two disjoint halves of the real images"
        ),
    },
    num_images=frechet_50k.NUM_IMAGES,
    why_not=why_not_random,
    prepare=_prepare,
    why_unavailable=why_unavailable,
)
