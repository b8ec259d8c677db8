"""Truncation: fewer, more typical images, by moving the mapped latents towards their mean.

w' = mean + psi (w - mean). Source: Karras et al., arXiv 1812.04948, appendix B. Differences: the mean is taken over
NUM_MEAN_LATENTS mapped latents of a fixed seed, not kept while training, because not every model keeps it; and all
layers are truncated. In a model with several mapped vectors per image (GANformer) each has a mean of its own.

The models know nothing of it: hooks stand behind those children of a generator that are called `mapping` (or
`…_mapping`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bench.errors import UsageError
from bench.training.randomness import derive_seed, latents

NUM_MEAN_LATENTS = 10_000
_MEAN_BATCH_SIZE = 1000


@contextmanager
def truncated(generator: nn.Module, psi: float, *, latent_dim: int, device: str, title: str) -> Iterator[None]:
    """Inside, every mapped latent w of the generator, which must be in eval mode, becomes mean + psi (w - mean).

    Args:
        title: what a message calls the model.

    Raises:
        UsageError: the generator has no mapping network.
    """
    mappings = [module for name, module in generator.named_children() if name.split("_")[-1] == "mapping"]
    if not mappings:
        raise UsageError(
            f"--truncation: {title} has no mapping network whose styles could be truncated; leave the option out."
        )
    means = _mapped_means(mappings, generator, latent_dim, device)
    handles = [module.register_forward_hook(_towards(mean, psi)) for module, mean in zip(mappings, means, strict=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _AllMappedError(Exception):
    """Leaves a generator's forward pass once every mapping network has run: the image is not needed."""


@torch.no_grad()
def _mapped_means(mappings: list[nn.Module], generator: nn.Module, latent_dim: int, device: str) -> list[Tensor]:
    """The mean output of each mapping network, without its batch axis."""
    sums: dict[nn.Module, Tensor] = {}
    outputs: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs[module] = output.double().sum(dim=0)
        if len(outputs) == len(mappings):
            raise _AllMappedError

    handles = [module.register_forward_hook(keep) for module in mappings]
    seed = derive_seed(0, "truncation")
    try:
        for start in range(0, NUM_MEAN_LATENTS, _MEAN_BATCH_SIZE):
            outputs.clear()
            try:
                generator(latents(seed, start, _MEAN_BATCH_SIZE, latent_dim).to(device))
            except _AllMappedError:
                sums = {module: sums.get(module, 0) + output for module, output in outputs.items()}
    finally:
        for handle in handles:
            handle.remove()
    return [(sums[module] / NUM_MEAN_LATENTS).float() for module in mappings]


def _towards(mean: Tensor, psi: float) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """A forward hook that replaces a mapping network's output."""

    def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return mean + psi * (output - mean)

    return hook
