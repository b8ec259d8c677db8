"""One point of a history as one frozen document, `<results>/gates/history/<id>.json`: of one `bench gate --history`.

What was measured (every block of every restart) and what was said of it then, beside the changes that the whole history
showed at that moment. Later points are compared with the measurements alone, and decide again where it changed. A file
that is removed is a point that never was; nothing else refers to it.

Schema history (the number is `SCHEMA_VERSION`):
    1  first version.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Literal

from pydantic import Field, ValidationError

from bench.errors import RecordError
from bench.gate.decide import Policy, Verdict
from bench.gate.facts import Facts
from bench.gate.outcome import FOLDER as GATES
from bench.gate.outcome import DecisionOutcome, ExactChange, RoundName, RoundOutcome, SideFacts, TimedBlock
from bench.records import Finite, Frozen, Machine, Quantity
from bench.store import write_atomically

SCHEMA_VERSION = 1
FOLDER = f"{GATES}/history"
MIN_RESTARTS = 3
"""Behind a figure: the median of two restarts is thrown by either."""


class PointFacts(SideFacts):
    """What the worker said before anything was timed; see `bench.gate.facts.Facts`."""

    unit: str
    num_units_per_iteration: int
    counter_code: str
    energy_code: str

    def facts(self, workload: str) -> Facts:
        """The same as the gate compares them."""
        return Facts(workload=workload, **self.model_dump())


class Suspects(Frozen):
    """The commits after the last point of a level, up to the first of the next.

    Attributes:
        before, after: full hashes.
        num_commits: reachable from `after` and not from `before`; None where it is not known, and `note` says why.
        subject: of the commit, where it is a single one.
    """

    before: str
    after: str
    num_commits: int | None
    subject: str = ""
    note: str = ""


class ChangeOutcome(Frozen):
    """Two neighbouring levels of a figure; see `bench.gate.change_points`.

    Attributes:
        figure: `time`, or the name of a reading in joules.
        date: of the first commit of the later level, UTC.
        measured: when that point was, UTC.
        ratio: the later level over the earlier one; above 1: slower.
        num_before, num_after: points of the two levels.
        machine: what else differs between the two points: `numpy: 2.3.1 → 2.4.0`.
    """

    figure: str
    date: str
    measured: str
    ratio: Quantity
    num_before: int
    num_after: int
    suspects: Suspects
    machine: tuple[str, ...]


class LevelOutcome(Frozen):
    """The level that a figure was compared with.

    Attributes:
        per_unit: seconds or joules per unit, mean of the logarithms; None where there was none.
        num_points: behind it; `num_earlier` is of all earlier points that could be used.
        newest_id, newest_commit: of the level's newest point; empty where there was none.
    """

    figure: str
    per_unit: Finite | None
    num_points: int
    num_earlier: int
    newest_id: str
    newest_commit: str


class PointWorkload(Frozen):
    """One workload of a point.

    Attributes:
        name, size, resolution: as asked; `num_iterations` is of a block, 0 where nothing was timed.
        facts: None where the worker never said them.
        rounds: `first`, and `confirming` where it was needed; the side of every block is `head`.
        counts_from: the point that the counts were compared with; empty where there was none.
        changes: of the history with this point in it, earliest first.
    """

    name: str
    size: str
    resolution: int | None
    facts: PointFacts | None
    num_iterations: int
    rounds: tuple[RoundOutcome, ...]
    counts_from: str
    exact_changes: tuple[ExactChange, ...]
    not_counted: dict[str, str]
    levels: tuple[LevelOutcome, ...]
    decisions: tuple[DecisionOutcome, ...]
    changes: tuple[ChangeOutcome, ...]

    def restarts(self, figure: str, name: RoundName = "first") -> tuple[float, ...]:
        """The median logarithm per unit of each restart of a round; none where a block lacks the figure."""
        return medians((blocks for each in self.rounds if each.name == name for blocks in each.restarts), figure)

    def figure(self, name: str) -> float | None:
        """What the history keeps of it: the median over the first measurement's restarts, in logarithms."""
        found = self.restarts(name)
        return median(found) if len(found) >= MIN_RESTARTS else None

    def per_unit(self, figure: str) -> float | None:
        """Seconds or joules per unit, from the restarts of both measurements; None where they are too few."""
        found = (*self.restarts(figure), *self.restarts(figure, "confirming"))
        return math.exp(median(found)) if len(found) >= MIN_RESTARTS else None

    def is_called(self, figure: str) -> bool:
        """Whether the figure was called slower or faster than its level."""
        said = {each.verdict for each in self.decisions if each.figure == figure}
        return bool(said & {"regression", "improved"})


def medians(restarts: Iterable[tuple[TimedBlock, ...]], figure: str) -> tuple[float, ...]:
    """The median logarithm per unit of each restart; none where a block lacks the figure."""
    values = [[block.per_unit(figure) for block in blocks] for blocks in restarts]
    if not all(value for each in values for value in each):
        return ()
    return tuple(median(math.log(value) for value in each if value) for each in values)


class PointPlan(Frozen):
    """How the budget was to be spent; `reason` says why there was no room for a measurement."""

    num_restarts: int
    blocks_per_restart: int
    block_s: Finite
    start_s: Finite
    duration_s: Finite
    reason: str = ""


class HistoryPoint(Frozen):
    """One point.

    Attributes:
        started, commit_date: UTC, `2026-01-31T12:00:00`; the date is the committer's.
        duration_s: of all, the checkout left out.
        timed_s, parent_cpu_s: of the measurements, and the processor time that this process used meanwhile.
        fingerprint: of the machine as the workers saw it; only points of the same are compared.
        timing_code: hash of the gate's own code that timed it.
        is_dirty: whether `bench/` or `models/` held changes that the commit has not; then no later point is compared
            with this one.
        asked, commit, code_hash: of what was measured; see `bench.gate.checkout.Version`.
        notes: what a reader should know and what decides nothing.
    """

    schema_version: Literal[1] = 1
    point_id: str
    harness_version: str
    started: str
    duration_s: Finite
    timed_s: Finite
    parent_cpu_s: Finite
    machine: Machine
    fingerprint: str
    device: str
    num_threads: int = Field(ge=1)
    seed: int
    with_energy: bool
    timing_code: str
    asked: str
    commit: str
    commit_date: str
    is_dirty: bool
    code_hash: str
    budget_s: Finite
    min_effect: Finite
    inconclusive: Policy
    notes: tuple[str, ...]
    plan: PointPlan | None
    workloads: tuple[PointWorkload, ...]
    verdict: Verdict
    exit_code: int

    @property
    def place(self) -> tuple[str, str]:
        """Where it stands in a history: by the commit's date, repeats of a commit by when they were measured."""
        return self.commit_date, self.started

    def workload(self, name: str) -> PointWorkload | None:
        """The workload of that name, or None."""
        return next((each for each in self.workloads if each.name == name), None)

    def json_text(self) -> str:
        """Exactly what is stored."""
        return self.model_dump_json(indent=1) + "\n"


def write_point(results: Path, point: HistoryPoint) -> Path:
    """Store it → its path. Raises StorageError."""
    path = results / FOLDER / f"{point.point_id}.json"
    write_atomically(path, point.json_text().encode())
    return path


def read_point(path: Path) -> HistoryPoint:
    """A stored point. Raises RecordError."""
    try:
        return HistoryPoint.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise RecordError(f"'{path}' cannot be read as a point of a history: {first}.") from error


def load_points(results: Path) -> tuple[list[HistoryPoint], list[str]]:
    """Every point that can be read, in the order of the history, and a sentence for each file that cannot."""
    points: list[HistoryPoint] = []
    problems: list[str] = []
    for path in sorted((results / FOLDER).glob("*.json")):
        try:
            points.append(read_point(path))
        except RecordError as error:
            problems.append(f"{str(error)[:-1]}; it is left out, remove it or bring it back.")
    return sorted(points, key=lambda point: point.place), problems
