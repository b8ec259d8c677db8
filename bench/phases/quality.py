"""Score the averaged generator with every metric that applies, beside what real images and the untrained one score.

Each snapshot of the training is scored, which gives quality over images shown; a training that was asked to evaluate as
it went has its curve already. Images are generated in float32 from latents that depend on the index alone, rounded to
uint8, and passed once to all metrics.
"""

from __future__ import annotations

from time import perf_counter
from typing import cast

from bench.phases._context import Context, Outcome
from bench.phases._scoring import Scoring
from bench.phases.train import WEIGHTS_FILE, snapshot_key
from bench.records import CurvePoint, PhaseResult, Quantity
from bench.training.weights import load_weights


def measure(context: Context) -> Outcome:
    """Every metric's figures, each also as `<name>_real` (train images, the floor) and `<name>_untrained`."""
    question = context.question
    if question.dataset is None:
        return Outcome(status="skipped", reason="--no-data: there are no real images to compare with")
    trained = context.done.get("train")
    has_weights = question.spec.weights is not None
    if not has_weights and (trained is None or trained.status != "ok"):
        return Outcome(status="skipped", reason="there are no trained weights: the train phase is missing or failed")
    metrics = question.metrics()
    if not metrics:
        return Outcome(status="skipped", reason=f"no metric applies to '{question.found_dataset.name}'")
    scoring = Scoring(metrics, question.dataset)
    outcome = Outcome(protocol=scoring.protocol)
    outcome.quantities |= {f"{name}_real": figure for name, figure in scoring.of_real_images().items()}
    started = perf_counter()
    if has_weights:
        generator, latent_dim = question.build_generator(question.device)
        outcome.quantities |= scoring.of_generator(question, generator, latent_dim, "the given weights")
    else:
        assert trained is not None
        outcome.curve = list(context.curve) or _scored_snapshots(context, scoring, trained)
        first, last = outcome.curve[0], outcome.curve[-1]
        if first.num_images_shown == 0:
            outcome.quantities |= {f"{name}_untrained": figure for name, figure in first.quantities.items()}
        outcome.quantities |= last.quantities
    outcome.protocol["score_duration_s"] = perf_counter() - started
    return outcome


def _scored_snapshots(context: Context, scoring: Scoring, trained: PhaseResult) -> list[CurvePoint]:
    """One point for each snapshot that the training kept, in order."""
    question = context.question
    generator, latent_dim = question.build_generator(question.device)
    curve = []
    for kept in cast("list[dict[str, float | dict[str, object]]]", trained.protocol["snapshots"]):
        shown = int(cast("float", kept["num_images_shown"]))
        load_weights(context.folder.path / trained.artifacts.get(snapshot_key(shown), WEIGHTS_FILE), generator)
        started = perf_counter()
        figures = scoring.of_generator(question, generator, latent_dim, f"{shown} images shown")
        curve.append(
            CurvePoint(
                num_images_shown=shown,
                train_duration_s=float(cast("float", kept["train_duration_s"])),
                train_energy=Quantity.model_validate(kept["train_energy"]),
                quantities=figures,
                evaluation_duration_s=perf_counter() - started,
            )
        )
    return curve
