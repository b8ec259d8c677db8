"""Train to the budget; keep the log, the fixed-latent sample grids, the averaged weights, and snapshots for `quality`.

Snapshots of the averaged generator are taken at 0, ⅓, ⅔ and all of the budget. Quality is measured on them
afterwards, so that evaluation never runs inside the training and its seconds are its own.
"""

from __future__ import annotations

import numpy as np
from pydantic import JsonValue

from bench.errors import BenchError
from bench.phases._context import Context, Outcome, Question
from bench.phases._energy import energy_protocol, measure_idle, setup_of
from bench.phases._train_energy import SERIES, TrainingWatch, train_energy
from bench.records import Quantity
from bench.store import storage_errors, write_atomically
from bench.training.images import generate, grid_png
from bench.training.loop import TrainingTimes, train
from bench.training.step import Trainer
from bench.training.weights import save_weights

NUM_GRID_IMAGES = 64
LOG_FILE = "train.jsonl"
WEIGHTS_FILE = "ema.safetensors"


def measure(context: Context) -> Outcome:
    """Quantities `num_images_shown`, `train_duration_s`, `train_loop_images_per_s`, `data_wait_share`, final losses."""
    question = context.question
    if question.model.spec.why_not_trained:
        return Outcome(status="skipped", reason=question.model.spec.why_not_trained)
    if question.dataset is None:
        return Outcome(status="skipped", reason="--no-data: there are no images to train on")
    trainer = Trainer(
        question.build(question.device),
        question.recipe,
        device=question.device,
        precision=question.precision,
        seed=question.spec.seed,
    )
    context.folder.clear("snapshots", "samples")  # of a training that was killed
    outcome = Outcome(protocol={"sample_latents_seed": question.spec.seed, "num_sample_images": NUM_GRID_IMAGES})
    snapshots: list[JsonValue] = []

    def snapshot(times: TrainingTimes) -> None:
        shown = trainer.num_images_shown
        _save_snapshot(context, trainer, outcome.artifacts)
        snapshots.append({"num_images_shown": shown, "train_duration_s": times.train_s})

    setup = setup_of(context)
    windows = measure_idle(setup, context, SERIES)
    with context.stretch_meters() as beside:
        watch = TrainingWatch(context.meters | beside)
        times = train(
            trainer,
            question.dataset.train,
            budget=question.budget,
            batch_size=question.batch_size,
            log_path=context.folder.path / LOG_FILE,
            snapshot=snapshot,
            watch=watch,
        )
        outcome.windows = windows + watch.windows + measure_idle(setup, context, SERIES)
        energies = train_energy(outcome.windows, setup, context.meters | beside)
        outcome.protocol["meters_of_long_stretches"] = {name: meter.facts() for name, meter in beside.items()}
    last = snapshot_key(trainer.num_images_shown)
    with storage_errors(context.folder.path):
        (context.folder.path / outcome.artifacts[last]).replace(context.folder.path / WEIGHTS_FILE)
    outcome.artifacts |= {"log": LOG_FILE, "ema": WEIGHTS_FILE, last: WEIGHTS_FILE}
    outcome.protocol["snapshots"] = snapshots
    outcome.quantities = _quantities(trainer.num_images_shown, times)
    outcome.quantities |= energies
    outcome.protocol["energy"] = energy_protocol(outcome.windows, SERIES, setup)
    return outcome


def _save_snapshot(context: Context, trainer: Trainer, artifacts: dict[str, str]) -> None:
    """The averaged generator's weights, and its grid of fixed latents, at this moment."""
    question, shown = context.question, trainer.num_images_shown
    weights, samples = f"snapshots/{shown:010d}.safetensors", f"samples/{shown:010d}.png"
    facts = {"run_id": context.folder.path.name, "num_images_shown": str(shown)}
    save_weights(context.folder.path / weights, trainer.ema, facts)
    write_atomically(context.folder.path / samples, _grid(question, trainer))
    artifacts |= {snapshot_key(shown): weights, f"samples_{shown:010d}": samples}


def snapshot_key(num_images_shown: int) -> str:
    """The artifact name of the weights at that many images shown."""
    return f"snapshot_{num_images_shown:010d}"


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


def _quantities(num_images_shown: int, times: TrainingTimes) -> dict[str, Quantity]:
    if not times.train_s:
        raise BenchError("The training budget ended before its first step; give --train-for more.")
    source = "training loop, perf_counter"

    def one(value: float, unit: str) -> Quantity:
        return Quantity(value=value, unit=unit, n=1, kind="measured", source=source)

    losses = {f"final_loss_{name}": one(loss, "1") for name, loss in times.last_losses.items() if "_" not in name}
    return {
        "num_images_shown": one(num_images_shown, "image"),
        "train_duration_s": one(times.train_s, "s"),
        "snapshot_duration_s": one(times.snapshot_s, "s"),
        "train_loop_images_per_s": one(num_images_shown / times.train_s, "image/s"),
        "data_wait_share": one(times.data_wait_s / times.train_s, "1"),
        **losses,
    }
