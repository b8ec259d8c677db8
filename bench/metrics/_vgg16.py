"""The VGG-16 network of precision and recall: torch-fidelity's extractor, torchvision's ImageNet weights, pinned.

Precision and recall are defined on the second fully connected layer of VGG-16, after its ReLU, 4,096 features
(Kynkäänniemi et al. 2019, https://arxiv.org/abs/1904.06991, § 3.1); torch-fidelity 0.4.0 does the same (`vgg16`,
layer `fc2_relu`): TensorFlow 1's bilinear resize to 224 px, ImageNet mean and deviation. Difference from the paper:
torchvision's weights, where its authors used those of the original release, so the values are torch-fidelity's.
"""

from __future__ import annotations

import functools

from torch import Tensor, nn
from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

from bench.metrics._pinned_weights import PinnedWeights
from bench.metrics._pretrained import PretrainedNetwork, from_torch_fidelity

LAYERS = ("fc2_relu",)
FEATURE_WIDTH = 4096
WEIGHTS = PinnedWeights(
    title="VGG-16 (ImageNet, torchvision)",
    file_name="vgg16-397923af.pth",
    url="https://download.pytorch.org/models/vgg16-397923af.pth",
    sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    variable="BENCH_VGG16_WEIGHTS",
)


def why_unavailable() -> str | None:
    """One sentence where the pinned weights are not here."""
    return WEIGHTS.why_unavailable()


def vgg16() -> PretrainedNetwork:
    """The network, one per process.

    Raises:
        MissingDataError: the weights are not here.
        BenchError: the file is not the pinned one, or torchvision builds another network.
    """
    return _opened(WEIGHTS, str(WEIGHTS.path()))


@functools.lru_cache(maxsize=1)
def _opened(weights: PinnedWeights, path: str) -> PretrainedNetwork:  # noqa: ARG001 (part of the cache's key)
    return PretrainedNetwork(_network(weights.load()), LAYERS, weights)


def _network(state: dict[str, Tensor]) -> nn.Module:
    return from_torch_fidelity(
        lambda file: FeatureExtractorVGG16("vgg16", list(LAYERS), feature_extractor_weights_path=file),
        state,
        "torchvision here builds another VGG-16 than the pinned weights are for.",
    )
