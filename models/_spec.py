"""The contract between a model file and the harness.

A model supplies two networks and two loss functions. Optimiser steps, EMA, precision and distribution live once, in
`bench/training`, so that a difference between two rows is the model and never the script.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Gan:
    """Two networks, freshly initialised from torch's global random generator, on torch's default device.

    Attributes:
        generator: z [b, latent_dim] float32 → images [b, 3, h, w], nominally in [-1, 1].
        discriminator: images [b, 3, h, w] → logits [b, ...]; more than one logit per image is allowed.
        latent_dim: width of z; z ~ N(0, I).
    """

    generator: nn.Module
    discriminator: nn.Module
    latent_dim: int


class Loss(NamedTuple):
    """A scalar to minimise and its parts, all tensors, so that nothing is synchronised to be logged."""

    total: Tensor
    parts: dict[str, Tensor]


class Objective(Protocol):
    """The two loss functions of a model, penalties and augmentation included.

    An implementation is a frozen dataclass of plain scalars and strings, so that a record can keep it. Both draw
    their randomness from torch's global generators, which the trainer has seeded for the step. The generator's
    forward pass is theirs too: `discriminator_loss` takes it without gradient. Running means (of path lengths, say) are
    buffers of a network, never attributes of the objective.

    `step` counts optimiser steps from 0: a penalty that is taken every k-th step is due where `step % k == 0`.
    """

    @property
    def period(self) -> int:
        """Steps after which the pattern of penalties repeats; 1 where every step is alike."""
        ...

    def discriminator_loss(self, gan: Gan, real: Tensor, z: Tensor, step: int) -> Loss:
        """real [b, 3, h, w] in [-1, 1] and z [b, latent_dim] → what the discriminator minimises."""
        ...

    def generator_loss(self, gan: Gan, real: Tensor, z: Tensor, step: int) -> Loss:
        """z [b, latent_dim] → what the generator minimises; `real` is for relativistic losses, most ignore it."""
        ...

    def without_penalty(self) -> Objective:
        """The same losses without the gradient penalty, to measure what it costs; itself where there is none."""
        ...


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the authors train the model on one data set. Plain values: a record keeps every one of them.

    Attributes:
        num_images: images shown to the discriminator by the end of the training (`--preset publish` trains this long).
        batch_size: images per optimiser step.
        precision: `fp32`, `tf32` or `bf16`.
        generator_lr, discriminator_lr, adam_betas, adam_eps: Adam's settings.
        ema_decay: per step, from step 0 on; parameters and buffers.
        num_discriminator_steps: discriminator updates, each on a batch of its own, per generator update.
        max_gradient_norm: of all gradients of one network together, clipped before its update; None clips nothing.
        objective: the two losses.
        source: where these values are written down, and which of them are ours.
    """

    num_images: int
    batch_size: int
    precision: str = "fp32"
    generator_lr: float
    discriminator_lr: float
    adam_betas: tuple[float, float]
    adam_eps: float = 1e-8
    ema_decay: float
    num_discriminator_steps: int = 1
    max_gradient_norm: float | None = None
    objective: Objective
    source: str


class NoDiscriminator(nn.Module):
    """In place of a discriminator, for a generator that is sampled here and not trained."""

    def forward(self, _: Tensor) -> Tensor:
        """Always raises RuntimeError."""
        raise RuntimeError("This model has no discriminator: it is sampled here and not trained.")


@dataclass(frozen=True)
class NotTrained:
    """In place of losses; implements `Objective` by refusing."""

    @property
    def period(self) -> int:
        """1."""
        return 1

    def discriminator_loss(self, gan: Gan, real: Tensor, z: Tensor, step: int) -> Loss:
        """Always raises RuntimeError."""
        del gan, real, z, step
        raise RuntimeError("This model is sampled here and not trained.")

    def generator_loss(self, gan: Gan, real: Tensor, z: Tensor, step: int) -> Loss:
        """Always raises RuntimeError."""
        del gan, real, z, step
        raise RuntimeError("This model is sampled here and not trained.")

    def without_penalty(self) -> NotTrained:
        """Itself."""
        return self


@dataclass(frozen=True, kw_only=True)
class GanSpec:
    """What a model file ends with.

    Attributes:
        title, year, paper, code, licence: who made it, where to read it, the reference code with its commit, and the
            licence of that code.
        attention: class and cost in tokens n, for example `additive, O(n)`.
        resolutions: pixels per side → where that configuration comes from (`paper`, or `ours: …`).
        sizes: named sizes; `paper` is the default and `tiny` trains on two CPU cores.
        attentions: operators that `--attention` chooses from → class and cost in tokens, the default first; empty where
            there is one only, which `attention` names.
        build: (resolution, size) → networks, with a third argument, the operator's name, where `attentions` is not
            empty. Must work under `torch.device("meta")`. A generator that calls a network several times per image has
            `num_steps` and `one_step(x)`.
        why_not_trained: for a model that is only sampled here, the reason; its phases are cost and generate.
        recipe: (dataset name, resolution, size) → how to train it there.
    """

    title: str
    year: int
    paper: str
    code: str
    licence: str
    attention: str
    resolutions: Mapping[int, str]
    sizes: tuple[str, ...] = field(default=("paper", "tiny"))
    attentions: Mapping[str, str] = field(default_factory=dict)
    why_not_trained: str = ""
    build: Callable[..., Gan]
    recipe: Callable[[str, int, str], Recipe]
