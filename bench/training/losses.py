"""Losses between two looks, and the guard against those that are no longer finite.

Everything stays on the device and is read once per look, because reading forces a synchronisation, which would spoil
the speed that is reported. A mean is over the finite values; how many updates were not applied because of the others is
counted by the trainer and read in the same breath.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.errors import BenchError
from bench.training.step import Trainer

MAX_NONFINITE_IN_A_ROW = 10  # ours: one bad batch passes, a training that has diverged does not come back


class DivergedError(BenchError):
    """Too many updates in a row were not finite; the weights are those before the first of them."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was read.

    Attributes:
        means: of each loss over the steps since the last look; None where none of them was finite.
        num_nonfinite: updates not applied since the training began, by network.
    """

    means: dict[str, float | None]
    num_nonfinite: dict[str, int]


class LossMeans:
    """Sums losses on the device until the next look."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.num_steps = 0
        self._sums: dict[tuple[str, ...], Tensor] = {}  # names of a step's losses → [2, names]: sums, finite values

    def add(self, losses: dict[str, Tensor]) -> None:
        """Take one step's losses; a penalty or the generator's update may be due in some steps only."""
        names, values = tuple(losses), torch.stack([loss.float() for loss in losses.values()])
        is_finite = torch.isfinite(values)
        pair = torch.stack([torch.where(is_finite, values, 0.0), is_finite.float()])
        self._sums[names] = self._sums[names] + pair if names in self._sums else pair
        self.num_steps += 1

    def look(self) -> Look:
        """Means since the last look, over all processes; synchronises, and starts again.

        Raises:
            DivergedError: MAX_NONFINITE_IN_A_ROW updates in a row of one network were not applied.
        """
        every = self._trainer.world.summed_(torch.cat(list(self._sums.values()), dim=1)).tolist()
        totals: dict[str, tuple[float, float]] = {}
        for name, total, count in zip((name for names in self._sums for name in names), *every, strict=True):
            before = totals.get(name, (0.0, 0.0))
            totals[name] = (before[0] + total, before[1] + count)
        means = {name: total / count if count else None for name, (total, count) in totals.items()}
        self.num_steps, self._sums = 0, {}
        skipped = dict(zip(("discriminator", "generator"), self._trainer.num_nonfinite.int().tolist(), strict=True))
        if self._trainer.num_nonfinite_in_a_row.max() >= MAX_NONFINITE_IN_A_ROW:
            raise DivergedError(
                f"The training diverged: {MAX_NONFINITE_IN_A_ROW} updates in a row had a loss or gradient that is not "
                f"finite, up to image {self._trainer.num_images_shown}; train.jsonl holds the steps before."
            )
        return Look(means=means, num_nonfinite=skipped)
