"""`--capture`: on CUDA, whole updates are captured as graphs and replayed, the gradient penalty included.

**Not validated on hardware**: written from the documentation on a machine without a GPU; the tests marked `gpu` have
not run yet.

Why it exists: at 32 and 64 px the GPU finishes a kernel sooner than Python can launch the next one. A CUDA graph
launches all kernels of an update (loss, penalty, backward pass, optimiser, moving average) at once.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs, "whole-network capture". What it asks for:

* Fixed memory: images are copied into one static buffer; gradients, losses and everything between live in a memory pool
  that all graphs share. That is safe because graphs never run at the same time and nothing in the pool outlives its
  update: the losses are copied out, and weights, optimiser and moving average were allocated outside before.
* Warm-up on a side stream: the first NUM_WARM_UP_VISITS of each kind of update run eagerly there. They are ordinary
  steps of the training, so nothing has to be put back. Then one visit captures, and it and all later ones replay.
* Random numbers: torch's CUDA generator is registered with every capture, so a graph takes its seed and offset when it
  is replayed. Seeding itself cannot be captured: it comes before each update, and the draws are the eager ones.
* No synchronisation and no reading of values inside; Adam with `capturable=True`.

Python does not run in a replay, so what an update does must depend on the step only through `step % objective.period`:
there is one graph per network and value of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from bench.errors import BenchError, UsageError
from models._spec import Recipe

NUM_WARM_UP_VISITS = 3  # as in the documentation's example

Update = Callable[[Tensor, int], dict[str, Tensor]]  # (real [b, 3, h, w], step) → losses


class Capturable(Protocol):
    """What a trainer offers to be captured: updates that neither synchronise nor seed, and the seeding beside them."""

    device: str
    recipe: Recipe
    generator_optimiser: torch.optim.Adam
    discriminator_optimiser: torch.optim.Adam

    def seed_update(self, network: str) -> None:
        """Reseed torch for the coming update of `discriminator` or `generator`."""
        ...

    def discriminator_update(self, real: Tensor, step: int) -> dict[str, Tensor]:
        """Loss, backward pass and optimiser of the discriminator."""
        ...

    def generator_update(self, real: Tensor, step: int) -> dict[str, Tensor]:
        """Loss, backward pass, optimiser and moving average of the generator."""
        ...


class CapturedStep:
    """Both updates of a trainer, replayed from CUDA graphs.

    Args:
        trainer: its optimisers become capturable; its own update methods stay as they are.

    Raises:
        UsageError: the trainer is not on a CUDA device.
    """

    def __init__(self, trainer: Capturable) -> None:
        if torch.device(trainer.device).type != "cuda":
            raise UsageError(f"--capture needs a CUDA device and this run is on {trainer.device}; leave --capture out.")
        for optimiser in (trainer.discriminator_optimiser, trainer.generator_optimiser):
            for group in optimiser.param_groups:
                group["capturable"] = True
        self._trainer = trainer
        self._side_stream = torch.cuda.Stream(trainer.device)  # type: ignore[no-untyped-call]
        self.forget()

    def forget(self) -> None:
        """Drop all graphs and warm up again: after weights or optimiser states were replaced, as a checkpoint does."""
        self._num_visits: Counter[tuple[str, int]] = Counter()
        self._graphs: dict[tuple[str, int], _Graph] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._real: Tensor | None = None

    def discriminator_update(self, real: Tensor, step: int) -> dict[str, Tensor]:
        """As the trainer's, seeding included; real [b, 3, h, w] of one shape for good → losses, copies of their own.

        Raises:
            BenchError: the update cannot be captured, or the images have another shape than before.
        """
        return self._update("discriminator", self._trainer.discriminator_update, real, step)

    def generator_update(self, real: Tensor, step: int) -> dict[str, Tensor]:
        """As the trainer's, seeding included; see `discriminator_update`."""
        return self._update("generator", self._trainer.generator_update, real, step)

    def _update(self, network: str, update: Update, real: Tensor, step: int) -> dict[str, Tensor]:
        phase = step % self._trainer.recipe.objective.period
        key = (network, phase)
        static = self._filled(real)
        self._num_visits[key] += 1
        if self._num_visits[key] <= NUM_WARM_UP_VISITS:
            self._trainer.seed_update(network)
            return self._aside(update, static, phase)
        if key not in self._graphs:
            self._graphs[key] = self._captured(network, update, static, phase)
        self._trainer.seed_update(network)
        return self._graphs[key].replay()

    def _filled(self, real: Tensor) -> Tensor:
        """The static buffer, holding `real`."""
        if self._real is None:
            self._real = torch.empty_like(real)
        if self._real.shape != real.shape:
            raise BenchError(
                f"--capture was started with batches {tuple(self._real.shape)} and got {tuple(real.shape)}; "
                "give batches of one size, or leave --capture out."
            )
        return self._real.copy_(real)

    def _aside(self, update: Update, real: Tensor, step: int) -> dict[str, Tensor]:
        """One eager update on the side stream, ordered after what came before and before what comes next."""
        current = torch.cuda.current_stream(real.device)
        self._side_stream.wait_stream(current)
        with torch.cuda.stream(self._side_stream):
            losses = update(real, step)
        current.wait_stream(self._side_stream)
        for loss in losses.values():
            loss.record_stream(current)
        return losses

    def _captured(self, network: str, update: Update, real: Tensor, step: int) -> _Graph:
        """One update as a graph; nothing is computed yet."""
        graph = torch.cuda.CUDAGraph()
        self._trainer.generator_optimiser.zero_grad(set_to_none=True)  # gradients are to be born inside the pool
        self._trainer.discriminator_optimiser.zero_grad(set_to_none=True)
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._side_stream):
                losses = update(real, step)
                stacked = torch.stack([loss.float() for loss in losses.values()])
        except RuntimeError as error:
            first_line = str(error).strip().partition("\n")[0]
            raise BenchError(
                f"The {network}'s update of this model cannot be captured as a CUDA graph ({first_line}); "
                "leave --capture out."
            ) from error
        return _Graph(graph, tuple(losses), stacked)


class _Graph:
    """A captured update and where it leaves its losses."""

    def __init__(self, graph: torch.cuda.CUDAGraph, names: tuple[str, ...], losses: Tensor) -> None:
        self._graph, self._names, self._losses = graph, names, losses

    def replay(self) -> dict[str, Tensor]:
        """Run the update → its losses, in memory that the next replay leaves alone."""
        self._graph.replay()
        return dict(zip(self._names, self._losses.clone().unbind(), strict=True))
