"""Images per second of one whole optimiser step: discriminator with its penalty, generator, both Adams, EMA.

The batch is prepared beforehand and stays on the device: this is the step, not the data loader; the `train` phase
reports the share of time spent waiting for data. Of several processes the throughput is the whole batch's.
"""

from __future__ import annotations

from bench.phases._context import Context, Outcome
from bench.phases._energy import energy_protocol, energy_quantities, lengthened, measure_idle, setup_of
from bench.phases._job_energy import whose
from bench.phases._replay import replay, replay_quantities
from bench.phases._roofline import roofline
from bench.phases._shared_windows import SharedWork
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
    if isinstance(timed, SharedWork):
        if not context.world.is_first:
            timed.follow()
            return Outcome()
        windows = measure_throughput(timed, preset)
        timed.release()
        idle, parts = [], []  # of one process alone they would not be the job's
    else:
        idle = measure_idle(setup, context, "train_step")
        windows = measure_throughput(timed, preset)
        idle += measure_idle(setup, context, "train_step")
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
            **(replay_quantities(windows + parts, setup, batch_size=question.batch_size) if parts else {}),
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
    trainer = question.trainer(context.world)
    share = question.real_batch()[context.world.share_of(question.batch_size)]
    real = to_networks(share, question.device)
    timed = TimedWork(
        series="train_step",
        work=lambda: trainer.step(real),
        num_units=question.batch_size,
        device=question.device,
        meters=context.meters,
    )
    if context.world.is_alone:
        return trainer, timed
    own = whose(context.machine, context.meters)
    return trainer, SharedWork(**vars(timed), world=context.world, own=own)
