"""Score the averaged generator with every metric that applies, beside what real images and the untrained one score.

Each snapshot of the training is scored, which gives quality over images shown; a training that was asked to evaluate as
it went has its curve already. Images are generated in float32 from latents that depend on the index alone, rounded to
uint8, and passed once to all metrics.

The final generator is scored on three sets of latents, because one set's luck is part of every such figure: the value
is that of the first set, `<figure>_seed_spread` the largest minus the smallest of the three. The preset `smoke` takes
one set, and its protocol says so. The spread knows nothing of other trainings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import cast

from pydantic import JsonValue

from bench.metrics._spec import MetricSpec
from bench.phases._context import Context, Outcome
from bench.phases._energy import setup_of
from bench.phases._scoring import NUM_SAMPLING_SEEDS, Scoring, sampling_seeds
from bench.phases._train_energy import TrainingWatch, evaluation_energy
from bench.phases.train import WEIGHTS_FILE, snapshot_key
from bench.records import CurvePoint, PhaseResult, Quantity, unknown
from bench.training.weights import load_weights


def measure(context: Context) -> Outcome:
    """Every metric's figures, each also as `<name>_real` (train images, the floor), `<name>_untrained` and
    `<name>_seed_spread`."""
    question = context.question
    if question.dataset is None:
        return Outcome(status="skipped", reason="--no-data: there are no real images to compare with")
    trained = context.done.get("train")
    if question.spec.weights is None and (trained is None or trained.status != "ok"):
        return Outcome(status="skipped", reason="there are no trained weights: the train phase is missing or failed")
    metrics = question.metrics()
    if not metrics:
        return Outcome(status="skipped", reason=f"no metric applies to '{question.found_dataset.name}'")
    scoring = Scoring(metrics, question.dataset, meters=context.meters)
    outcome = Outcome(protocol=scoring.protocol)
    setup = setup_of(context)
    watch = TrainingWatch(context.meters, {}, setup)
    window = watch.evaluation(lambda: _score(context, scoring, metrics, outcome))
    outcome.windows = watch.windows
    outcome.quantities |= {
        "quality_duration_s": Quantity(
            value=window.duration_s, unit="s", n=1, kind="measured", source="perf_counter over all scored sets"
        ),
        "quality_energy_j": evaluation_energy(window, setup),
    }
    return outcome


def _score(context: Context, scoring: Scoring, metrics: Sequence[MetricSpec], outcome: Outcome) -> None:
    """Real images, every point of the curve, the last one with more sampling seeds."""
    question, trained = context.question, context.done.get("train")
    outcome.quantities |= {f"{name}_real": figure for name, figure in scoring.of_real_images().items()}
    if question.spec.weights is not None:
        generator, latent_dim = question.build_generator(question.device)
        final = scoring.of_generator(question, generator, latent_dim, "the given weights")
    else:
        assert trained is not None
        outcome.curve = list(context.curve) or _scored_snapshots(context, scoring, trained)
        first, last = outcome.curve[0], outcome.curve[-1]
        if first.num_images_shown == 0:
            outcome.quantities |= {f"{name}_untrained": figure for name, figure in first.quantities.items()}
        final = last.quantities
    weights = Path(question.spec.weights or context.folder.path / WEIGHTS_FILE)
    outcome.quantities |= final | _seed_spreads(context, scoring, metrics, final, weights)
    outcome.protocol["scored"] = _scored(context, weights)


def _seeds(context: Context) -> list[int]:
    question = context.question
    return sampling_seeds(question.spec.seed, NUM_SAMPLING_SEEDS if question.preset.is_publishable else 1)


def _scored(context: Context, weights: Path) -> dict[str, JsonValue]:
    """What was scored: no part of what makes two figures comparable."""
    seeds = _seeds(context)
    one = f"preset {context.question.spec.preset}: one set of latents, so no spread"
    return {
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None,
        "num_sampling_seeds": len(seeds),
        "sampling_seeds": list(seeds),
        "seed_spread": one if len(seeds) == 1 else "largest minus smallest; the values are those of the first seed",
    }


def _seed_spreads(
    context: Context, scoring: Scoring, metrics: Sequence[MetricSpec], final: dict[str, Quantity], weights: Path
) -> dict[str, Quantity]:
    """`<name>_seed_spread` of every known figure with a direction; none with the preset `smoke`."""
    question, others = context.question, _seeds(context)[1:]
    directed = [name for metric in metrics for name, each in metric.figures.items() if each.better is not None]
    names = [name for name in directed if final[name].value is not None]
    if not others:
        return {}
    if not weights.is_file():
        reason = f"the final weights '{weights.name}' are no longer here to generate more images"
        return {f"{name}_seed_spread": unknown(final[name].unit, reason, source=final[name].source) for name in names}
    generator, latent_dim = question.build_generator(question.device)
    load_weights(weights, generator)
    sets = [final] + [
        scoring.of_generator(question, generator, latent_dim, f"sampling seed {position}", seed)
        for position, seed in enumerate(others, start=2)
    ]
    return {f"{name}_seed_spread": _spread([figures[name] for figures in sets]) for name in names}


def _spread(figures: Sequence[Quantity]) -> Quantity:
    """Largest minus smallest of the same figure on several sets of latents."""
    unit, source = figures[0].unit, figures[0].source
    values = [figure.value for figure in figures if figure.value is not None]
    if len(values) < len(figures):
        return unknown(unit, "not every sampling seed gave a value", source=source, kind="computed")
    note = "largest minus smallest over the sampling seeds; the same weights"
    return Quantity(
        value=max(values) - min(values), unit=unit, n=len(values), kind="computed", source=source, note=note
    )


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
