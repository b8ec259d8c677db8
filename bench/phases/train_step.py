"""Images per second of one whole optimiser step: discriminator with its penalty, generator, both Adams, EMA.

The batch is prepared beforehand and stays on the device: this is the step, not the data loader; the `train` phase
reports the share of time spent waiting for data.
"""

from __future__ import annotations

from bench.phases._context import Context, Outcome
from bench.phases._windows import TimedWork, measure_throughput, peak_memory, rate, verdict, window_protocol
from bench.training.images import to_networks
from bench.training.step import Trainer


def measure(context: Context) -> Outcome:
    """Quantities `train_images_per_s` and `peak_memory_bytes`."""
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
    windows = measure_throughput(timed, question.preset)
    throughput = rate(windows, "train_step")
    status, reason = verdict({"train_images_per_s": throughput}, question.preset)
    return Outcome(
        status=status,
        reason=reason,
        quantities={"train_images_per_s": throughput, "peak_memory_bytes": peak_memory(windows)},
        protocol=window_protocol(windows, question.preset) | {"batch_size": question.batch_size},
        windows=windows,
    )
