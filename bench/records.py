"""What is asked and what was found: frozen documents, checked when they are made and never repaired.

Storage is SI (s, J, W, B, image) and unrounded. Unknown is `value=None` with a note that says why, never 0.

Schema history (the number is `SCHEMA_VERSION`; one old record per version stays in `tests/records/`):
    1  first version: spec, machine, model, dataset, recipe, phases with their quantities, quality curve.
    2  figures carry a provenance label and the sensor's systematic error; windows carry the counters' raw end points
       and why a reading is missing; the question knows the processor's design power.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

SCHEMA_VERSION = 2

PhaseName = Literal["cost", "generate", "train_step", "train", "quality"]
PHASES: tuple[PhaseName, ...] = ("cost", "generate", "train_step", "train", "quality")
Precision = Literal["fp32", "tf32", "bf16"]
PresetName = Literal["smoke", "standard", "publish"]
Kind = Literal["measured", "attributed", "estimated", "simulated", "computed"]
EnergyLabel = Literal[
    "measured:nvml-energy-counter",
    "measured:nvml-power-polling",
    "measured:rapl",
    "measured:wall",
    "attributed:replay",
    "estimated:tdp",
    "estimated:codecarbon",
    "unavailable",
    "simulated:fake-nvml",
]
PhaseStatus = Literal["ok", "skipped", "oom", "failed", "timeout", "invalid", "inconclusive"]
RunStatus = Literal["ok", "incomplete", "oom", "failed", "timeout", "invalid", "inconclusive"]


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be finite; unknown is None with a note")
    return value


Finite = Annotated[float, AfterValidator(_finite)]


class Frozen(BaseModel):
    """Base of every document: immutable, no coercion, no unknown field, keyword arguments only."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", protected_namespaces=())


class Quantity(Frozen):
    """One figure.

    Attributes:
        value: the figure in `unit`, or None where it is unknown (then `note` says why).
        unit: SI unit or count, for example `image/s`, `s`, `B`, `MAC`, `1`.
        low, high: ends of the 95 % interval, both or neither.
        n: number of samples behind the value.
        kind: how it is known. An estimate cannot pass for a measurement.
        source: what produced it, for example `perf_counter windows` or `rfd_v1`.
        note: anything a reader must know; required where value is None.
        label: provenance of an energy, and of what is computed from one; None for every other figure.
        systematic: relative error of the sensor itself; repeating does not average it away, the interval is without it.
    """

    value: Finite | None
    unit: str
    low: Finite | None = None
    high: Finite | None = None
    n: int | None = Field(default=None, ge=0)
    kind: Kind
    source: str
    note: str = ""
    label: EnergyLabel | None = None
    systematic: Finite | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Quantity:
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high come together")
        if self.value is None:
            if not self.note or self.low is not None:
                raise ValueError("an unknown quantity has a note that says why, and no interval")
        elif self.low is not None and self.high is not None and not self.low <= self.value <= self.high:
            raise ValueError(f"the interval [{self.low}, {self.high}] does not hold the value {self.value}")
        self._check_label()
        return self

    def _check_label(self) -> None:
        if self.label is None:
            return
        if (self.value is None) != (self.label == "unavailable"):
            raise ValueError("an energy is `unavailable` exactly where its value is None")
        if self.label != "unavailable" and self.kind not in {self.label.split(":")[0], "computed"}:
            raise ValueError(f"a figure of kind {self.kind} cannot carry the label {self.label}")


def unknown(
    unit: str, note: str, *, source: str, kind: Kind = "measured", label: EnergyLabel | None = None
) -> Quantity:
    """A quantity that could not be known, with the reason in one sentence; an energy has the label `unavailable`."""
    return Quantity(value=None, unit=unit, kind=kind, source=source, note=note, label=label)


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
        preset: how long and how often to measure.
        no_data: measure cost and speed on random images of the data set's shape; no training, no quality.
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
    preset: PresetName = "standard"
    no_data: bool = False
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
    edges: dict[str, tuple[Finite, Finite]] = {}
    problems: dict[str, str] = {}
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
    quantities: dict[str, Quantity] = {}
    protocol: dict[str, JsonValue] = {}
    artifacts: dict[str, str] = {}

    @model_validator(mode="after")
    def _reasoned(self) -> PhaseResult:
        if self.status != "ok" and not self.reason:
            raise ValueError(f"a phase that is {self.status} says why")
        return self


class CurvePoint(Frozen):
    """Quality at one moment of the training: images shown and training seconds so far, and the figures there."""

    num_images_shown: int
    train_duration_s: Finite
    quantities: dict[str, Quantity]


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

    schema_version: Literal[1, 2] = 2
    run_id: str
    harness_version: str
    created_at: str
    spec: RunSpec
    machine: Machine
    model: ModelFacts
    dataset: DatasetFacts
    recipe: dict[str, JsonValue]
    phases: dict[PhaseName, PhaseResult] = {}
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
