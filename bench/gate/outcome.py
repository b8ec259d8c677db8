"""What a gate asked, saw and said, as one frozen document: `<results>/gates/<id>.json`.

Why it stands apart from `gate.py`, which measures: tables, Markdown and exports are made from the document alone, on
any computer and without torch. Everything raw is kept, every block among it, so that a verdict can be decided again.

Schema history (the number is `SCHEMA_VERSION`):
    1  first version.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue, ValidationError

from bench.errors import RecordError
from bench.gate.decide import Policy, Verdict
from bench.gate.pairs import Side
from bench.records import Finite, Frozen, Machine, Quantity
from bench.stats import quantile_quantity
from bench.store import write_atomically

SCHEMA_VERSION = 1
FOLDER = "gates"
TIME = "time"

RoundName = Literal["base against base", "first", "confirming"]


class GateVersion(Frozen):
    """One side; see `bench.gate.checkout.Version`."""

    asked: str
    commit: str
    is_dirty: bool
    code_hash: str


class TimedBlock(Frozen):
    """One timed block; see `bench.gate.lane.Block`. In `base against base` the head is the base once more."""

    side: Side
    duration_s: Finite = Field(gt=0)
    num_units: int = Field(gt=0)
    cpu_s: Finite
    num_preemptions: int
    readings: dict[str, Finite]
    problems: dict[str, str]

    def per_unit(self, figure: str) -> float | None:
        """Seconds per unit for `time`, else joules per unit of that reading; None where it is missing."""
        total = self.duration_s if figure == TIME else self.readings.get(figure)
        return None if total is None else total / self.num_units


class RoundOutcome(Frozen):
    """A round of one workload: the blocks of each restart in the order they ran; a restart without any is left out."""

    name: RoundName
    restarts: tuple[tuple[TimedBlock, ...], ...]


class ExactChange(Frozen):
    """A count that differs; it is a regression where head has more, beyond the slack that `bench.gate.gate` states."""

    name: str
    base: int
    head: int
    is_regression: bool

    @property
    def ratio(self) -> float | None:
        """Head over base; None where base has none."""
        return self.head / self.base if self.base else None


class SideFacts(Frozen):
    """What a worker said before anything was timed; see `bench.gate.facts.Facts`."""

    iteration_s: Finite
    warmup_s: Finite
    is_stationary: bool
    measured: dict[str, JsonValue]
    exact: dict[str, int]
    unknown: dict[str, str]
    energy: dict[str, str]


class DecisionOutcome(Frozen):
    """What is said of one figure of a workload; see `bench.gate.decide.Decision`.

    Attributes:
        figure: `time`, the name of a reading in joules, or `counts` where those decided alone.
    """

    figure: str
    verdict: Verdict
    reason: str
    ratio: Quantity
    p_value: Finite | None
    adjusted_p_value: Finite | None
    threshold: Finite | None
    noise_floor: Finite | None
    smallest_detectable: Finite | None
    num_pairs: int
    num_restarts: int


class WorkloadOutcome(Frozen):
    """One workload: what was asked of it, what each side said, every block, and what was decided.

    Attributes:
        name: `train_step:ladagan`.
        unit: `image` or `token`; empty where no side could say it.
        num_iterations: of a block; 0 where nothing was timed.
    """

    name: str
    size: str
    resolution: int | None
    unit: str
    num_iterations: int
    base: SideFacts | None
    head: SideFacts | None
    exact_changes: tuple[ExactChange, ...]
    not_counted: dict[str, str]
    rounds: tuple[RoundOutcome, ...]
    decisions: tuple[DecisionOutcome, ...]

    def per_unit(self, figure: str, side: Side) -> Quantity:
        """Median of a side's blocks in the rounds that judge, with its interval; the machine's own noise is in it."""
        blocks = [block for each in self.rounds if each.name != "base against base" for block in chained(each.restarts)]
        values = [value for block in blocks if block.side == side and (value := block.per_unit(figure)) is not None]
        unit = f"{'s' if figure == TIME else 'J'}/{self.unit or 'unit'}"
        return quantile_quantity(values, unit=unit, source="blocks of the gate")


class PlanOutcome(Frozen):
    """How the budget was to be spent; `reason` says why there was no room for a round that can decide."""

    num_restarts: int
    pairs_per_restart: int
    block_s: Finite
    start_s: Finite
    duration_s: Finite
    reason: str


class GateOutcome(Frozen):
    """One gate.

    Attributes:
        started: UTC, `2026-01-31T12:00:00`.
        duration_s: of all, the checkouts left out.
        timed_s, parent_cpu_s: of the rounds, and the processor time that this process itself used meanwhile.
        num_threads, seed, device: how the workers measured.
        notes: what a reader should know and what decides nothing.
    """

    schema_version: Literal[1] = 1
    gate_id: str
    harness_version: str
    started: str
    duration_s: Finite
    timed_s: Finite
    parent_cpu_s: Finite
    machine: Machine
    device: str
    num_threads: int
    seed: int
    budget_s: Finite
    min_effect: Finite
    inconclusive: Policy
    base: GateVersion
    head: GateVersion
    notes: tuple[str, ...]
    plan: PlanOutcome | None
    workloads: tuple[WorkloadOutcome, ...]
    verdict: Verdict
    exit_code: int

    def json_text(self) -> str:
        """Exactly what is stored."""
        return self.model_dump_json(indent=1) + "\n"


def chained(restarts: Iterable[tuple[TimedBlock, ...]]) -> list[TimedBlock]:
    """All blocks, restart after restart."""
    return [block for blocks in restarts for block in blocks]


def write_gate(results: Path, outcome: GateOutcome) -> Path:
    """Store it → its path. Raises StorageError."""
    path = results / FOLDER / f"{outcome.gate_id}.json"
    write_atomically(path, outcome.json_text().encode())
    return path


def read_gate(path: Path) -> GateOutcome:
    """A stored gate. Raises RecordError."""
    try:
        return GateOutcome.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise RecordError(f"'{path}' cannot be read as a gate: {first}.") from error
