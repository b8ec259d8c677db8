"""Tables for a terminal: what can be asked for (`bench list`), and what this machine can measure (`bench doctor`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tabulate import tabulate

from bench.calibration import calibrate as measure_peaks
from bench.calibration import save
from bench.catalog import DATASETS, METERS, METRICS, MODELS
from bench.errors import BenchError, MissingDataError
from bench.machine import look, settle_device
from bench.meters._spec import EnergySource
from bench.phases._generator_counts import counts
from bench.phases._overhead import measure_overhead, overhead_table
from bench.records import Quantity
from bench.units import format_bytes, format_count
from models._spec import GanSpec


def models() -> str:
    """Every model: title, attention and its cost in tokens, resolutions and whose they are, size, licence."""
    rows = []
    for name in MODELS.names():
        spec = MODELS.load(name)
        resolutions = ", ".join(
            f"{pixels}{'' if origin == 'paper' else '*'}" for pixels, origin in sorted(spec.resolutions.items())
        )
        attention = "\n".join(f"{key}: {kind}" for key, kind in spec.attentions.items()) or spec.attention
        rows.append(
            [
                name,
                f"{spec.title} ({spec.year})",
                attention,
                resolutions,
                *_generator_size(name, spec),
                ", ".join(spec.sizes),
                spec.licence,
            ]
        )
    headers = ["model", "title", "attention", "resolutions", "px", "G params", "G MACs per image", "sizes", "licence"]
    return _table(headers, rows) + "\n* ours, not the authors' configuration; G: generator of size paper at px"


def _generator_size(name: str, spec: GanSpec) -> list[str]:
    """(resolution, parameters, MACs per image) at the smallest resolution whose configuration is the authors'."""
    official = [pixels for pixels, origin in spec.resolutions.items() if origin == "paper"]
    resolution = min(official or spec.resolutions)
    try:
        found = counts(name, spec.sizes[0], resolution)
    except BenchError as error:
        return [str(resolution), "—", f"— ({error})"]
    return [str(resolution), format_count(found["params_generator"]), format_count(found["macs_generator"])]


def datasets() -> str:
    """Every data set: title, resolutions, licence, and whether its files are here."""
    rows = []
    for name in DATASETS.names():
        spec = DATASETS.load(name)
        word = f"{name}:PATH" if spec.takes_path else name
        resolutions = ", ".join(str(pixels) for pixels in spec.resolutions)
        rows.append([word, spec.title, resolutions, spec.licence, "by path" if spec.takes_path else _presence(name)])
    return _table(["data set", "title", "resolutions", "licence", "here"], rows)


def meters(device: str | None = None) -> str:
    """Every meter: what it reads, and why this machine cannot read it where it cannot."""
    settled = settle_device(device)
    rows = []
    for name in METERS.names():
        spec = METERS.load(name)
        rows.append([name, spec.title, ", ".join(spec.readings), spec.why_unavailable(settled) or "usable"])
    return _table(["meter", "title", "readings", "here"], rows)


def energy_sources(device: str) -> str:
    """Every energy that can be read here: its provenance, the counter's period, the sensor's own error."""
    rows = []
    for name in METERS.names():
        spec = METERS.load(name)
        if spec.why_unavailable(device) is None:
            meter = spec.open(device)
            for reading, source in meter.energy_sources().items():
                period = f"{source.period_s * 1000:.3g} ms" if source.period_s else "continuous"
                rows.append([reading, source.label, period, f"± {source.systematic:.0%}", _role(source)])
            meter.close()
    if all(row[-1] == "second opinion" for row in rows):
        rows.append(["(none measured)", "unavailable", "", "", "energy is null; --tdp-w allows an estimate"])
    return _table(["energy", "provenance", "counter period", "sensor error", "role"], rows)


def calibrate(device: str | None, results: Path, say: Callable[[str], None]) -> str:
    """Measure this machine's own peaks and keep them in `results/calibrations` → what was found."""
    calibration = measure_peaks(settle_device(device), say)
    path = save(calibration, results)
    rows = [[f"matrix product, {precision}", _rate(rate)] for precision, rate in calibration.macs_per_s.items()]
    rows.append(["copy, read + written", _rate(calibration.copy_bytes_per_s)])
    kept = f"Kept in {path}; from now on runs here say what share of it they use."
    return f"{_table(['peak', 'rate, 95 % interval'], rows)}\n{kept}"


def overhead(device: str | None, say: Callable[[str], None]) -> str:
    """What the meters and the harness cost, beside this machine's noise."""
    return overhead_table(measure_overhead(settle_device(device), say=say))


def _role(source: EnergySource) -> str:
    return "second opinion" if source.is_cross_check else f"headline, {source.part}"


def _rate(rate: Quantity) -> str:
    """`49.4 [47.8, 50.7] MAC/s`."""
    ends = [None if each is None else each / 1e9 for each in (rate.value, rate.low, rate.high)]
    if ends[0] is None:
        return rate.note
    interval = "" if ends[1] is None or ends[2] is None else f" [{ends[1]:.3g}, {ends[2]:.3g}]"
    return f"{ends[0]:.3g}{interval} G{rate.unit}"


def metrics() -> str:
    """Every metric's figures: unit, which way is better, what it means, how many images its protocol asks for."""
    rows = []
    for name in METRICS.names():
        spec = METRICS.load(name)
        for figure_name, figure in spec.figures.items():
            better = figure.better or "neither"
            rows.append([name, figure_name, figure.unit, better, spec.num_images, figure.meaning])
    table = _table(["metric", "figure", "unit", "better", "images", "meaning"], rows)
    reasons = list(dict.fromkeys(why for name in METRICS.names() if (why := METRICS.load(name).why_unavailable())))
    return "\n".join([table, "", "Not available here:", *(f"* {why}" for why in reasons)]) if reasons else table


def doctor(asked: str | None = None) -> str:
    """The machine, its meters, what cannot be measured here and why, and which data sets are here."""
    device = settle_device(asked)
    machine = look(device)
    gpus = ", ".join(machine.gpus) or "none (torch sees no CUDA device)"
    cpu_limit = "none" if machine.container_cpu_limit is None else f"{machine.container_cpu_limit:g} cores"
    memory_limit = machine.container_memory_limit_bytes
    facts = [
        ["python, torch", f"{machine.python}, {machine.torch} ({machine.num_torch_threads} threads)"],
        ["processor", f"{machine.cpu}, {machine.num_cpu_cores} cores; container limit: {cpu_limit}"],
        ["memory", f"{format_bytes(machine.memory_bytes)}; container limit: {_bytes_or_none(memory_limit)}"],
        ["GPU", gpus],
        [
            "driver, CUDA",
            f"{machine.driver or 'no NVIDIA driver answers'}, torch built for {machine.cuda or 'CPU only'}",
        ],
        ["precisions", "fp32, bf16" + (", tf32" if device != "cpu" else " (tf32 needs an NVIDIA GPU)")],
        ["CO2", "computed when reporting, from measured joules and --grid; no country is ever assumed"],
        ["device used", f"{device} unless --device says otherwise; bf16 supported: {_has_bf16(device)}"],
    ]
    return "\n\n".join([tabulate(facts, tablefmt="plain"), meters(device), energy_sources(device), datasets()])


def _has_bf16(device: str) -> str:
    if device == "cpu":
        return "yes (speed depends on the processor)"
    return "yes" if torch.cuda.is_bf16_supported() else "no"


def _bytes_or_none(num_bytes: int | None) -> str:
    return "none" if num_bytes is None else format_bytes(num_bytes)


def _presence(name: str) -> str:
    spec = DATASETS.load(name)
    try:
        spec.open(spec.default_resolution, None)
    except MissingDataError:
        return "no"
    return "yes"


def _table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text: str = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True, maxcolwidths=44)
    return text
