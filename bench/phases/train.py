"""Train to the budget or the goal; keep the log, the sample grids, the averaged weights, and quality on the way.

Unless evaluations are asked for, snapshots of the averaged generator are taken at 0, ⅓, ⅔ and all of the budget, and
the phase `quality` scores them afterwards. With `--eval-every` or `--until` each evaluation is scored where it falls.
Either way an evaluation's seconds and joules are its own and not the training's.

A training that was stopped or killed goes on from its last checkpoint, and ends where it would have ended.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import JsonValue
from torch import Tensor

from bench.phases._context import Context, Outcome, Question
from bench.phases._energy import energy_protocol, measure_idle, setup_of
from bench.phases._job_energy import job_energy, whose
from bench.phases._scoring import Scoring
from bench.phases._train_energy import (
    BUDGET_STRETCH_S,
    SERIES,
    STRETCH_S,
    TrainingWatch,
    evaluation_energy,
    train_energy,
)
from bench.phases._train_record import DIVERGED_FILE, Kept, quantities
from bench.records import CurvePoint, Quantity
from bench.store import storage_errors, write_atomically
from bench.training.checkpoint import BEST_FILE, Checkpoints, try_to_save
from bench.training.feed import open_feed
from bench.training.images import generate, grid_png
from bench.training.log import JsonLines, Sink, TensorBoard
from bench.training.loop import Hooks, Loop, Pace, Progress
from bench.training.step import Trainer
from bench.training.weights import save_weights, write_tensors

NUM_GRID_IMAGES = 64
LOG_FILE = "train.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
WEIGHTS_FILE = "ema.safetensors"
CHECKPOINTS = "checkpoints"


def measure(context: Context) -> Outcome:
    """Quantities `num_images_shown`, `train_duration_s`, `train_loop_images_per_s`, `data_wait_share`, final losses."""
    question = context.question
    if question.model.spec.why_not_trained:
        return Outcome(status="skipped", reason=question.model.spec.why_not_trained)
    if question.spec.weights is not None:
        return Outcome(status="skipped", reason="--weights: the generator was trained elsewhere")
    if question.dataset is None:
        return Outcome(status="skipped", reason="--no-data: there are no images to train on")
    with context.stretch_meters() as beside:
        return _Training(context, beside).run()


class _Training:
    """One sitting of the phase: what the loop calls, and what it all adds up to."""

    def __init__(self, context: Context, beside: dict[str, Any]) -> None:
        question = context.question
        assert question.dataset is not None
        self._context, self._question, self._beside = context, question, beside
        self._trainer = question.trainer(context.world)
        self._checkpoints = Checkpoints(context.folder.path / CHECKPOINTS, context.folder.path.name)
        self._kept = self._resumed()
        self._setup = setup_of(context)
        self._watch = TrainingWatch(
            context.meters,
            beside,
            self._setup,
            stretch_s=STRETCH_S if question.budget.energy_j is None else BUDGET_STRETCH_S,
            windows=context.folder.read_windows(self._windows_name)[: self._kept.num_windows],
        )
        is_scored = question.scores_while_training and context.world.is_first
        self._scoring = Scoring(question.metrics(), question.dataset, meters=context.meters) if is_scored else None

    def run(self) -> Outcome:
        """Train; the record's part of it."""
        context, question, trainer = self._context, self._question, self._trainer
        assert question.dataset is not None
        if not trainer.num_images_shown:
            self._watch.windows += measure_idle(self._setup, context, SERIES)
        feed = open_feed(
            question.dataset.train,
            seed=question.spec.seed,
            batch_size=question.batch_size,
            position=trainer.num_images_shown,
            device=question.device,
            world=context.world,
            loading=context.loading,
        )
        sinks = self._sinks()
        pace = Pace(
            budget=question.budget,
            evaluate_every=question.evaluate_every or Pace.thirds(question.budget),
            checkpoint_every=context.checkpoint_every,
        )
        hooks = Hooks(
            evaluate=self._evaluate,
            checkpoint=self._checkpoint,
            diverged=self._dump,
            sinks=sinks,
            watch=self._watch,
            stop=context.stop,
        )
        try:
            with context.stop.deferred():
                progress = Loop(trainer, feed, pace, self._kept.progress, hooks).run()
        finally:
            feed.close()
            for sink in sinks:
                sink.close()
        return self._outcome(progress)

    def _evaluate(self, progress: Progress) -> bool:
        """A snapshot: grid and weights, its figures where they are wanted → whether the goal is met."""
        energy = self._energy()
        is_met = self._keep_snapshot(progress, energy) if self._context.world.is_first else False
        return bool(self._context.world.agreed(is_met))

    def _keep_snapshot(self, progress: Progress, energy: Quantity) -> bool:
        shown, question = self._trainer.num_images_shown, self._question
        samples = f"samples/{shown:010d}.png"
        write_atomically(self._context.folder.path / samples, _grid(question, self._trainer))
        self._kept.artifacts[f"samples_{shown:010d}"] = samples
        if self._scoring is None:
            weights = f"snapshots/{shown:010d}.safetensors"
            save_weights(self._context.folder.path / weights, self._trainer.ema, self._facts())
            self._kept.artifacts[snapshot_key(shown)] = weights
            self._kept.add_snapshot(shown, progress.train_s, energy)
            return False
        figures: dict[str, Quantity] = {}
        scoring = self._scoring

        def score() -> None:
            figures.update(
                scoring.of_generator(question, self._trainer.ema, self._trainer.gan.latent_dim, f"{shown} images shown")
            )

        window = self._watch.evaluation(score)
        point = CurvePoint(
            num_images_shown=shown,
            train_duration_s=progress.train_s,
            train_energy=energy,
            quantities=figures,
            evaluation_duration_s=window.duration_s,
            evaluation_energy=evaluation_energy(window, self._setup),
        )
        self._say_point(point)
        if self._kept.add_point(point, question.followed_figure):
            self._save_best(point)
        goal = question.goal
        reached = None if goal is None else figures[goal.figure].value
        return goal is not None and reached is not None and shown > 0 and goal.is_met(reached)

    def _checkpoint(self, progress: Progress) -> None:
        """Windows first, then the state that says how many of them are its own."""
        self._context.folder.write_windows(self._windows_name, self._watch.windows)
        if self._context.world.is_first:
            problem = try_to_save(self._checkpoints, self._trainer, self._memory(progress))
            if problem:
                self._context.say(problem)
        self._context.world.wait()

    def _save_best(self, point: CurvePoint) -> None:
        self._kept.artifacts["best"] = f"{CHECKPOINTS}/{BEST_FILE}"
        self._checkpoints.save_best(self._trainer, {"curve_point": point.model_dump(mode="json")})

    def _dump(self, progress: Progress, batch: Tensor) -> None:
        """The state after the last good update, and the batch at which the loop looked."""
        if self._context.world.is_first:
            write_tensors(
                self._context.folder.path / DIVERGED_FILE,
                {"batch": batch, **{f"ema.{name}": each for name, each in self._trainer.ema.state_dict().items()}},
                {"progress": progress.as_json(), **self._facts()},
            )

    def _memory(self, progress: Progress) -> dict[str, Any]:
        return self._kept.as_json(progress, num_windows=len(self._watch.windows))

    def _resumed(self) -> Kept:
        """What earlier sittings kept, with the trainer restored; nothing at the start."""
        context = self._context
        memory, problems = self._checkpoints.load_latest(self._trainer)
        for problem in problems:
            context.say(f"Passed over: {problem}")
        context.world.wait()
        if memory is None:
            if context.world.is_first:
                context.folder.clear("snapshots", "samples", LOG_FILE)  # of a training killed before a checkpoint
            return Kept()
        shown = self._trainer.num_images_shown
        context.say(f"train: going on after {shown} images")
        return Kept.from_json(memory, shown)

    def _sinks(self) -> list[Sink]:
        if not self._context.world.is_first:
            return []
        folder, shown = self._context.folder.path, self._trainer.num_images_shown
        sinks: list[Sink] = [JsonLines(folder / LOG_FILE, shown)]
        if "tensorboard" in self._context.logs:
            sinks.append(TensorBoard(folder / TENSORBOARD_FOLDER, shown))
        return sinks

    def _outcome(self, progress: Progress) -> Outcome:
        context, trainer, kept = self._context, self._trainer, self._kept
        self._watch.windows += measure_idle(self._setup, context, SERIES)
        energies = train_energy(self._watch.windows, self._setup, self._beside)
        if not context.world.is_alone:
            energies["train_energy_j"] = self._energy()
        if context.world.is_first:
            self._keep_weights()
        outcome = Outcome(windows=self._watch.windows, curve=kept.curve, artifacts=kept.artifacts | {"log": LOG_FILE})
        outcome.quantities = quantities(trainer, progress, kept) | energies
        outcome.findings = kept.findings(progress)
        outcome.protocol = {
            "sample_latents_seed": self._question.spec.seed,
            "num_sample_images": NUM_GRID_IMAGES,
            "snapshots": kept.snapshots,
            "resumed_after_images": list(kept.resumed_after),
            "num_processes": context.world.size,
            "loading": dataclasses.asdict(context.loading),
            "meters_of_long_stretches": {name: meter.facts() for name, meter in self._beside.items()},
            "energy": energy_protocol(self._watch.windows, SERIES, self._setup),
        }
        if self._scoring is not None:
            outcome.protocol["quality"] = self._scoring.protocol
        return outcome

    def _keep_weights(self) -> None:
        """The last snapshot's weights become the run's; scored snapshots keep none of their own."""
        folder, key = self._context.folder.path, snapshot_key(self._trainer.num_images_shown)
        if key in self._kept.artifacts:
            with storage_errors(folder):
                (folder / self._kept.artifacts[key]).replace(folder / WEIGHTS_FILE)
            self._kept.artifacts[key] = WEIGHTS_FILE
        else:
            save_weights(folder / WEIGHTS_FILE, self._trainer.ema, self._facts())
        self._kept.artifacts["ema"] = WEIGHTS_FILE

    def _energy(self) -> Quantity:
        own = whose(self._context.machine, self._context.meters)
        return job_energy(self._watch.windows, self._setup, self._context.world, own)

    def _facts(self) -> dict[str, JsonValue]:
        """What a weights file says of itself."""
        spec = self._question.spec
        return {
            "run_id": self._context.folder.path.name,
            "num_images_shown": self._trainer.num_images_shown,
            "model": spec.model,
            "size": spec.size,
            "attention": spec.attention,
            "resolution": self._question.resolution,
        }

    def _say_point(self, point: CurvePoint) -> None:
        name = self._question.followed_figure.name
        value = point.quantities[name].value
        shown = "unknown" if value is None else f"{value:.4g}"
        self._context.say(f"  {point.num_images_shown / 1000:.1f} kimg, {point.train_duration_s:.0f} s: {name} {shown}")

    @property
    def _windows_name(self) -> str:
        return f"{SERIES}.part{self._context.world.rank}"


def snapshot_key(num_images_shown: int) -> str:
    """The artifact name of the weights at that many images shown."""
    return f"snapshot_{num_images_shown:010d}"


def clear_checkpoints(folder: Path) -> None:
    """Remove what only an unfinished training needs; the best one stays."""
    with storage_errors(folder):
        for path in (folder / CHECKPOINTS).glob("[0-9]*.safetensors"):
            path.unlink()
        for path in (folder / "windows").glob(f"{SERIES}.part*"):
            path.unlink()


def _grid(question: Question, trainer: Trainer) -> bytes:
    batches = generate(
        trainer.ema,
        latent_dim=trainer.gan.latent_dim,
        seed=question.spec.seed,
        count=NUM_GRID_IMAGES,
        batch_size=min(question.batch_size, NUM_GRID_IMAGES),
        device=question.device,
    )
    return grid_png(np.concatenate(list(batches)))
