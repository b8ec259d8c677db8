"""The Inception network of FID, KID and the Inception score: torch-fidelity's, with weights pinned by SHA-256.

It is the network of the TensorFlow archive `inception-2015-12-05` that Heusel et al. 2017 used
(https://arxiv.org/abs/1706.08500), in torch-fidelity's port (`inception-v3-compat`, version 0.4.0,
https://github.com/toshas/torch-fidelity): TensorFlow 1's bilinear resize to 299 px without antialiasing,
(x - 128) / 128, average pools that leave padding out. Layers: the 2,048 pooled features, and the 1,008 logits without
their bias, which is what the Inception score of the original code takes.

Difference: torch-fidelity's own loader is handed tensors that were checked here (`bench/metrics/_pinned_weights.py`),
never a file. Nothing here draws random weights; a figure from an untrained Inception cannot be had.
"""

from __future__ import annotations

import functools

from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from bench.metrics._pinned_weights import PinnedWeights
from bench.metrics._pretrained import PretrainedNetwork, from_torch_fidelity

LAYERS = ("2048", "logits_unbiased")
FEATURE_WIDTH = 2048
NUM_CLASSES = 1008
WEIGHTS = PinnedWeights(
    title="Inception (2015-12-05)",
    file_name="weights-inception-2015-12-05-6726825d.pth",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    variable="BENCH_INCEPTION_WEIGHTS",
)


def why_unavailable() -> str | None:
    """One sentence where the pinned weights are not here."""
    return WEIGHTS.why_unavailable()


def inception() -> PretrainedNetwork:
    """The network, one per process, so that its metrics share a pass.

    Raises:
        MissingDataError: the weights are not here.
        BenchError: the file is not the pinned one, or this torch-fidelity builds another network.
    """
    return _opened(WEIGHTS, str(WEIGHTS.path()))


@functools.lru_cache(maxsize=1)
def _opened(weights: PinnedWeights, path: str) -> PretrainedNetwork:  # noqa: ARG001 (part of the cache's key)
    return PretrainedNetwork(_network(weights.load()), LAYERS, weights)


def _network(state: dict[str, Tensor]) -> nn.Module:
    return from_torch_fidelity(
        lambda file: FeatureExtractorInceptionV3(
            "inception-v3-compat", list(LAYERS), feature_extractor_weights_path=file
        ),
        state,
        "torch-fidelity here builds another Inception than the pinned weights are for; install version 0.4.0.",
    )
