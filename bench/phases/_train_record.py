"""What the training phase remembers from one sitting to the next, and what the record says of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from bench.errors import BenchError
from bench.phases._context import FollowedFigure
from bench.records import CurvePoint, Finding, Quantity
from bench.training.loop import Progress
from bench.training.step import Trainer

DIVERGED_FILE = "diverged.safetensors"
_SOURCE = "training loop, perf_counter"


@dataclass(kw_only=True)
class Kept:
    """Artifacts, snapshots and curve so far.

    Attributes:
        snapshots: of a training whose quality is scored afterwards: images, seconds, joules.
        curve: of a training that is scored as it goes.
        resumed_after: images shown at each resume.
        num_windows: how many of the stored windows belong to the checkpoint.
        best: the best value so far of the figure that is followed.
    """

    progress: Progress = field(default_factory=Progress)
    artifacts: dict[str, str] = field(default_factory=dict)
    snapshots: list[JsonValue] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)
    resumed_after: list[int] = field(default_factory=list)
    num_windows: int = 0
    best: float | None = None

    def as_json(self, progress: Progress, *, num_windows: int) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "progress": progress.as_json(),
            "artifacts": self.artifacts,
            "snapshots": self.snapshots,
            "curve": [point.model_dump(mode="json") for point in self.curve],
            "resumed_after": self.resumed_after,
            "num_windows": num_windows,
            "best": self.best,
        }

    @staticmethod
    def from_json(memory: dict[str, Any], num_images_shown: int) -> Kept:
        """Back from a checkpoint, after which the training goes on."""
        return Kept(
            progress=Progress(**memory["progress"]),
            artifacts=memory["artifacts"],
            snapshots=memory["snapshots"],
            curve=[CurvePoint.model_validate(point) for point in memory["curve"]],
            resumed_after=[*memory["resumed_after"], num_images_shown],
            num_windows=memory["num_windows"],
            best=memory["best"],
        )

    def add_snapshot(self, num_images_shown: int, train_s: float, energy: Quantity) -> None:
        """One more, not scored yet."""
        self.snapshots.append(
            {
                "num_images_shown": num_images_shown,
                "train_duration_s": train_s,
                "train_energy": energy.model_dump(mode="json"),
            }
        )

    def add_point(self, point: CurvePoint, followed: FollowedFigure) -> bool:
        """One more, scored → whether it is the best so far."""
        self.curve.append(point)
        value = point.quantities[followed.name].value
        if value is None or (self.best is not None and not followed.is_better(value, self.best)):
            return False
        self.best = value
        return True

    def findings(self, progress: Progress) -> list[Finding]:
        """What a reader must know of the training's worth."""
        found = [
            Finding(
                rule="nonfinite_updates",
                level="warning",
                detail=f"{count} updates of the {network} were not finite and were not applied",
            )
            for network, count in progress.num_nonfinite.items()
            if count
        ]
        if self.resumed_after:
            detail = (
                f"the training was resumed {len(self.resumed_after)} times; time and joules of work that a kill threw "
                "away are not in its sums"
            )
            found.append(Finding(rule="resumed", level="note", detail=detail))
        return found


def quantities(trainer: Trainer, progress: Progress, kept: Kept) -> dict[str, Quantity]:
    """Images, seconds and final losses. Raises BenchError where not one step was done."""
    if not progress.train_s:
        raise BenchError("The training budget ended before its first step; give --train-for more.")

    def one(value: float, unit: str) -> Quantity:
        return Quantity(value=value, unit=unit, n=1, kind="measured", source=_SOURCE)

    losses = {
        f"final_loss_{name}": one(loss, "1")
        for name, loss in progress.last_losses.items()
        if "_" not in name and loss is not None
    }
    shown = trainer.num_images_shown
    return {
        "num_images_shown": one(shown, "image"),
        "train_duration_s": one(progress.train_s, "s"),
        "evaluation_duration_s": one(progress.evaluation_s, "s"),
        "checkpoint_duration_s": one(progress.checkpoint_s, "s"),
        "train_loop_images_per_s": one(shown / progress.train_s, "image/s"),
        "data_wait_share": one(progress.data_wait_s / progress.train_s, "1"),
        "num_nonfinite_updates": one(sum(progress.num_nonfinite.values()), "1"),
        "num_resumes": one(len(kept.resumed_after), "1"),
        **losses,
    }
