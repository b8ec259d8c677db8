"""What is asked and what was found: frozen documents, checked when they are made and never repaired.

Storage is SI (s, J, W, B, image) and unrounded. Unknown is `value=None` with a note that says why, never 0.

Schema history (the number is `SCHEMA_VERSION`; one old record per version stays in `tests/records/`):
    1  first version: spec, machine, model, dataset, recipe, phases with their quantities, quality curve.
    2  figures carry a provenance label and the sensor's systematic error; windows carry the counters' raw end points
       and why a reading is missing; the question knows the processor's design power.
    3  the question knows how training is evaluated, stopped, sped up and distributed; points of the curve carry the
       joules so far, and what their evaluation took.
"""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field, JsonValue, model_validator

from bench.quantities import EnergyLabel, Finite, Frozen, Kind, Quantity, unknown

__all__ = ["EnergyLabel", "Finite", "Frozen", "Kind", "Quantity", "unknown"]

SCHEMA_VERSION = 3

PhaseName = Literal["cost", "generate", "train_step", "train", "quality"]
PHASES: tuple[PhaseName, ...] = ("cost", "generate", "train_step", "train", "quality")
Precision = Literal["fp32", "tf32", "bf16"]
PresetName = Literal["smoke", "standard", "publish"]
PhaseStatus = Literal["ok", "skipped", "oom", "failed", "timeout", "invalid", "inconclusive"]
RunStatus = Literal["ok", "incomplete", "oom", "failed", "timeout", "invalid", "inconclusive"]


class RunSpec(Frozen):
    """The question. None means "the recipe's"; the runner settles it once and stores the settled one.

    Attributes:
        model: name in `bench list models`, or the path of a model file.
        dataset: name in `bench list datasets`; `folder:PATH` for a folder of images.
        size: a named size of the model.
        attention: operator in the model's attention layers, where it offers several; None is its own.
        discriminator: another model, whose discriminator and losses this generator is trained with; None is its own.
        resolution: pixels per side; None is the data set's usual one.
        batch_size: images per optimiser step and per generated batch.
        device: a torch device, for example `cpu` or `cuda:0`; None is the GPU where there is one.
        train_for: a budget such as `200kimg`, `5min`, `0.2kWh`; None is the preset's.
        eval_every: quality is measured every so many images or seconds (`50kimg`, `5min`); None is at thirds.
        until: training ends early where this holds, for example `rfd_v1<=0.1`; evaluated at each point of the curve.
        metrics: what quality is measured with; None is every metric that applies and can be had.
        compile: the networks' passes are compiled by torch.
        capture: on CUDA, whole steps are captured as graphs and replayed.
        channels_last: convolutions keep their channels innermost in memory.
        num_accumulation_steps: a batch is worked off in so many parts whose gradients are added.
        num_processes: processes that share a batch, one device each; set by `torchrun`.
        preset: how long and how often to measure.
        no_data: measure cost and speed on random images of the data set's shape; no training, no quality.
        weights: a safetensors file of the generator's weights, trained elsewhere: measured and scored, not trained.
        tdp_w: thermal design power of the processor in watts, as its maker states it: allows an estimate of the energy
            where there is no meter.
    """

    model: str
    dataset: str
    size: str = "paper"
    attention: str | None = None
    discriminator: str | None = None
    resolution: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    precision: Precision | None = None
    device: str | None = None
    seed: int = Field(default=0, ge=0, lt=2**63)
    train_for: str | None = None
    eval_every: str | None = None
    until: str | None = None
    metrics: tuple[str, ...] | None = None
    compile: bool = False
    capture: bool = False
    channels_last: bool = False
    num_accumulation_steps: int = Field(default=1, ge=1)
    num_processes: int = Field(default=1, ge=1)
    preset: PresetName = "standard"
    no_data: bool = False
    weights: str | None = None
    tdp_w: Finite | None = Field(default=None, gt=0)

    @property
    def model_title(self) -> str:
        """The model and what distinguishes it: `ladagan tiny, softmax attention, discriminator of sagan`."""
        size = "" if self.size == "paper" else f" {self.size}"
        attention = "" if self.attention is None else f", {self.attention} attention"
        discriminator = "" if self.discriminator is None else f", discriminator of {self.discriminator}"
        return f"{self.model}{size}{attention}{discriminator}"


class Machine(Frozen):
    """The computer and the software, looked at once. None where this machine does not tell."""

    hostname: str
    os: str
    cpu: str
    num_cpu_cores: int
    memory_bytes: int
    container_cpu_limit: float | None
    container_memory_limit_bytes: int | None
    gpus: tuple[str, ...]
    gpu_memory_bytes: tuple[int, ...]
    gpu_power_limit_w: tuple[float | None, ...]
    driver: str | None
    cuda: str | None
    python: str
    torch: str
    num_torch_threads: int
    packages: dict[str, str]
    git_commit: str | None
    git_dirty: bool | None


class Window(Frozen):
    """One measured stretch of work. All are kept, the warm-up too.

    Attributes:
        series: what was repeated, for example `generate.batch` or `generate.latency`.
        num_units: units of work done (images).
        duration_s: monotonic seconds between the synchronised edges.
        readings: what the meters read over the window, names ending in their units.
        edges: raw values of the counters at the two edges, by counter.
        problems: reading → why it has no value in this window (a reset, a lost GPU, a failed read).
        flags: what disturbed it.
    """

    series: str
    index: int
    is_warmup: bool
    num_units: int
    duration_s: Finite
    readings: dict[str, Finite]
    edges: dict[str, tuple[Finite, Finite]] = Field(default_factory=dict)
    problems: dict[str, str] = Field(default_factory=dict)
    flags: tuple[str, ...] = ()


class PhaseResult(Frozen):
    """What one phase found, or why it did not.

    Attributes:
        quantities: figures by name; a name ends in its unit or is a metric's.
        protocol: how it was measured, enough to do it again and to tell whether two figures may be compared.
        artifacts: files of this phase, relative to the run's folder.
    """

    phase: PhaseName
    status: PhaseStatus
    reason: str = ""
    started_at: str
    duration_s: Finite
    quantities: dict[str, Quantity] = Field(default_factory=dict)
    protocol: dict[str, JsonValue] = Field(default_factory=dict)
    artifacts: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _reasoned(self) -> PhaseResult:
        if self.status != "ok" and not self.reason:
            raise ValueError(f"a phase that is {self.status} says why")
        return self


class CurvePoint(Frozen):
    """Quality at one moment of the training.

    Attributes:
        num_images_shown, train_duration_s, train_energy: spent on training so far, evaluation apart.
        quantities: the metrics' figures there.
        evaluation_duration_s, evaluation_energy: what this evaluation itself took.
    """

    num_images_shown: int
    train_duration_s: Finite
    train_energy: Quantity | None = None
    quantities: dict[str, Quantity]
    evaluation_duration_s: Finite | None = None
    evaluation_energy: Quantity | None = None


class ModelFacts(Frozen):
    """What the model file says of itself, kept so that a report needs neither torch nor the file."""

    title: str
    year: int
    paper: str
    code: str
    licence: str
    attention: str
    configuration: str
    source_hash: str


class DatasetFacts(Frozen):
    """What the data set says of itself; `protocol` is selection, split, preparation and count."""

    title: str
    source: str
    licence: str
    protocol: dict[str, JsonValue]


class Finding(Frozen):
    """A rule about the record's own worth that was not met, with its remedy in `detail`."""

    rule: str
    level: Literal["note", "warning", "error"]
    detail: str


class Record(Frozen):
    """The answer to one RunSpec on one machine. A failed run is a record too."""

    schema_version: Literal[1, 2, 3] = 3
    run_id: str
    harness_version: str
    created_at: str
    spec: RunSpec
    machine: Machine
    model: ModelFacts
    dataset: DatasetFacts
    recipe: dict[str, JsonValue]
    phases: dict[PhaseName, PhaseResult] = Field(default_factory=dict)
    curve: tuple[CurvePoint, ...] = ()
    validity: tuple[Finding, ...] = ()
    status: RunStatus = "incomplete"

    def quantity(self, name: str) -> Quantity | None:
        """The figure of that name from whichever phase found it, or None where no phase speaks of it."""
        for result in self.phases.values():
            if name in result.quantities:
                return result.quantities[name]
        return None


def status_of(phases: dict[PhaseName, PhaseResult]) -> RunStatus:
    """The run's status: the gravest of its phases', `incomplete` while one is missing."""
    found = {result.status for result in phases.values()}
    for status in ("invalid", "failed", "oom", "timeout", "inconclusive"):
        if status in found:
            return status
    return "ok" if set(phases) == set(PHASES) else "incomplete"


if __name__ == "__main__":
    print(json.dumps(Record.model_json_schema(), indent=2))  # noqa: T201 - writes results/record.schema.json
