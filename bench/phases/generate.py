"""How fast the trained networks' shape makes images: throughput at the batch size, latency at batch 1, peak memory.

Cold start, what a fresh process pays before its first image, is measured first and reported apart.

Compute does not depend on what the weights are or what the images show, so freshly initialised weights are timed.
"""

from __future__ import annotations

import torch

from bench.phases._cold_start import measure_cold_start
from bench.phases._context import Context, Outcome
from bench.phases._energy import EnergySetup, energy_protocol, energy_quantities, lengthened, measure_idle, setup_of
from bench.phases._presets import Preset
from bench.phases._roofline import roofline
from bench.phases._windows import (
    TimedWork,
    counted,
    drift,
    measure_latency,
    measure_throughput,
    peak_memory,
    rate,
    verdict,
    window_protocol,
)
from bench.records import Quantity, Window, unknown
from bench.stats import quantile_quantity
from bench.training.randomness import latents

_MIN_SAMPLES_FOR_P99 = 300
_ENERGY = "generate_energy_j_per_image"


@torch.no_grad()
def measure(context: Context) -> Outcome:
    """Quantities `generate_images_per_s`, `generate_latency_ms_p50`, `…_p99`, `generate_peak_memory_bytes`, and others.

    The others: `cold_start_…_s` and the energies.
    """
    question = context.question
    cold_start = measure_cold_start(question)
    setup = setup_of(context)
    preset = lengthened(question.preset, setup)
    batches, singles, idle = _windows(context, setup, preset)
    energies = energy_quantities("generate", batches + idle, "generate.batch", setup)
    throughput = rate(batches, "generate.batch")
    status, reason = verdict({"generate_images_per_s": throughput}, question.preset, [drift(batches, "generate.batch")])
    shares = roofline(
        "generate",
        macs=context.cost("macs_generator"),
        num_bytes=context.cost("bytes_generator_per_image"),
        images_per_s=throughput,
        precision=question.precision,
        calibration=context.calibration,
    )
    return Outcome(
        status=status,
        reason=reason,
        quantities={
            "generate_images_per_s": throughput,
            "generate_latency_ms_p50": _latency_ms(singles, 0.5),
            "generate_latency_ms_p99": _latency_ms(singles, 0.99),
            "generate_peak_memory_bytes": peak_memory(batches),
            **per_step(context.cost("num_sampling_steps"), _latency_ms(singles, 0.5), energies[_ENERGY]),
            **cold_start,
            **shares.quantities,
            **energies,
        },
        protocol={
            **shares.protocol,
            **window_protocol(batches + singles, preset, question.device),
            "batch_size": question.batch_size,
            "energy": energy_protocol(batches, "generate.batch", setup),
        },
        windows=batches + singles + idle,
    )


def _windows(context: Context, setup: EnergySetup, preset: Preset) -> tuple[list[Window], list[Window], list[Window]]:
    """Windows of whole batches, of single images, and of idling before and after the batches."""
    question = context.question
    generator, latent_dim = question.build_generator(question.device)
    z_batch = latents(question.spec.seed, 0, question.batch_size, latent_dim).to(question.device)

    def timed(series: str, z: torch.Tensor) -> TimedWork:
        return TimedWork(
            series=series,
            work=lambda: generator(z),
            num_units=len(z),
            device=question.device,
            meters=context.meters,
        )

    device_type = torch.device(question.device).type
    with torch.autocast(device_type, dtype=torch.bfloat16, enabled=question.precision == "bf16"):
        idle = measure_idle(setup, context, "generate.batch")
        batches = measure_throughput(timed("generate.batch", z_batch), preset)
        idle += measure_idle(setup, context, "generate.batch")
        singles = measure_latency(timed("generate.latency", z_batch[:1]), question.preset)
    return batches, singles, idle


def per_step(num_steps: Quantity | None, latency: Quantity, energy: Quantity) -> dict[str, Quantity]:
    """Of a multi-step sampler, latency and joules per image divided by its steps; nothing for one that is called once.

    Args:
        num_steps: `num_sampling_steps` of the cost phase, None where that has not spoken of any.
    """
    if num_steps is None or num_steps.value is None:
        return {}
    return {
        "generate_latency_ms_per_step": _divided(latency, num_steps.value, latency.unit),
        "generate_energy_j_per_step": _divided(energy, num_steps.value, "J"),
    }


def _divided(quantity: Quantity, by: float, unit: str) -> Quantity:
    ends = {"value": quantity.value, "low": quantity.low, "high": quantity.high}
    return quantity.model_copy(
        update={"unit": unit} | {name: None if each is None else each / by for name, each in ends.items()}
    )


def _latency_ms(windows: list[Window], probability: float) -> Quantity:
    """A quantile of single calls in milliseconds; p99 only from 300 samples up."""
    samples_ms = [window.duration_s * 1000 for window in counted(windows, "generate.latency")]
    source = "perf_counter around one synchronised call at batch 1"
    if probability > 0.5 and len(samples_ms) < _MIN_SAMPLES_FOR_P99:
        note = f"needs {_MIN_SAMPLES_FOR_P99} samples, this preset took {len(samples_ms)}"
        return unknown("ms", note, source=source)
    return quantile_quantity(samples_ms, unit="ms", source=source, probability=probability)
