"""Images per second of one whole optimiser step: discriminator with its penalty, generator, both Adams, EMA.

The batch is prepared beforehand and stays on the device: this is the step, not the data loader; the `train` phase
reports the share of time spent waiting for data.
"""

from __future__ import annotations

from bench.phases._context import Context, Outcome
from bench.phases._energy import energy_protocol, energy_quantities, lengthened, measure_idle, setup_of
from bench.phases._replay import replay, replay_quantities
from bench.phases._roofline import roofline
from bench.phases._windows import TimedWork, drift, measure_throughput, peak_memory, rate, verdict, window_protocol
from bench.training.images import to_networks
from bench.training.step import Trainer


def measure(context: Context) -> Outcome:
    """Quantities `train_images_per_s`, `peak_memory_bytes`, energies, and where the step's time and joules go."""
    question = context.question
    if question.model.spec.why_not_trained:
        return Outcome(status="skipped", reason=question.model.spec.why_not_trained)
    trainer, timed = _step(context)
    setup = setup_of(context)
    preset = lengthened(question.preset, setup)
    idle_before = measure_idle(setup, context, "train_step")
    windows = measure_throughput(timed, preset)
    idle = idle_before + measure_idle(setup, context, "train_step")
    parts = replay(trainer, question, timed, setup)
    throughput = rate(windows, "train_step")
    status, reason = verdict({"train_images_per_s": throughput}, question.preset, [drift(windows, "train_step")])
    shares = roofline(
        "train_step",
        macs=context.cost("macs_step_per_image"),
        num_bytes=context.cost("bytes_step_per_image"),
        images_per_s=throughput,
        precision=question.precision,
        calibration=context.calibration,
    )
    return Outcome(
        status=status,
        reason=reason,
        quantities={
            "train_images_per_s": throughput,
            "peak_memory_bytes": peak_memory(windows),
            **shares.quantities,
            **energy_quantities("train_step", windows + idle, "train_step", setup),
            **replay_quantities(windows + parts, setup, batch_size=question.batch_size),
        },
        protocol={
            **shares.protocol,
            **window_protocol(windows, preset, question.device),
            "batch_size": question.batch_size,
            "energy": energy_protocol(windows, "train_step", setup),
        },
        windows=windows + idle + parts,
    )


def _step(context: Context) -> tuple[Trainer, TimedWork]:
    """A trainer, and its step on one batch that stays on the device."""
    question = context.question
    trainer = Trainer(
        question.build(question.device),
        question.recipe,
        device=question.device,
        precision=question.precision,
        seed=question.spec.seed,
    )
    real = to_networks(question.real_batch(), question.device)
    timed = TimedWork(
        series="train_step",
        work=lambda: trainer.step(real),
        num_units=question.batch_size,
        device=question.device,
        meters=context.meters,
    )
    return trainer, timed
