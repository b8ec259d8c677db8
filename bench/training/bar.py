"""The progress of a training for a person: kimg, images/s, watts, joules so far, time left. Silent in a pipe."""

from __future__ import annotations

from collections.abc import Iterator

from tqdm import tqdm

from bench.units import Budget

_FORM = "{desc} {percentage:3.0f}% |{bar:20}| {n:.1f}/{total:.1f} {unit}, {remaining} left{postfix}"


class ProgressBar:
    """A bar in kimg, seconds or kJ on stderr; the rate is of this sitting, the joules of the whole training."""

    def __init__(self, budget: Budget, num_images_shown: int, train_s: float) -> None:
        self._budget = budget
        self._first = (num_images_shown, train_s)
        tqdm.monitor_interval = 0  # no thread of ours beside the training
        self._bar: tqdm[Iterator[None]] = tqdm(
            total=self._size(),
            unit=self._unit(),
            desc="train",
            bar_format=_FORM,
            disable=None,
            leave=False,
            mininterval=0.5,
            initial=0,
        )

    def show(self, num_images_shown: int, train_s: float, energy_j: float | None) -> None:
        """Move to there; `energy_j` is None where no meter tells."""
        images, seconds = num_images_shown - self._first[0], train_s - self._first[1]
        words = [f"{num_images_shown / 1000:.1f} kimg", f"{images / seconds:.0f} images/s" if seconds else ""]
        if energy_j:
            words.append(f"{energy_j / train_s:.0f} W, {energy_j / 1000:.1f} kJ")
        self._bar.set_postfix_str(", ".join(word for word in words if word), refresh=False)
        done = {"kimg": num_images_shown / 1000, "s": train_s, "kJ": (energy_j or 0) / 1000}[self._unit()]
        self._bar.update(min(done, self._bar.total) - self._bar.n)

    def _unit(self) -> str:
        if self._budget.num_images is not None:
            return "kimg"
        return "s" if self._budget.duration_s is not None else "kJ"

    def _size(self) -> float:
        budget = self._budget
        return (budget.num_images or 0) / 1000 or budget.duration_s or (budget.energy_j or 0) / 1000

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
