"""Which stored points a new one may be compared with: the same machine, the same thing measured, on its own line.

Why it exists: a time is comparable with one from last month only if nothing but the code has changed in between. What
must be equal is compared and named where it differs; nothing is converted or forgiven.

Machine: `bench.machine.fingerprint` (host, processor, cores, GPUs, Python, torch) with the threads that the workers
had, not this process; the device and the container's share of the processor; of a GPU also the driver, CUDA and the
power limit. Other software (the system, numpy) may change, or an update would end every history: a change that comes
with it names it.

Thing measured: what the worker says of it (batch size, objective, …), whether meters were read beside it, and the code
that timed it, which is the running gate's. The measured version's own benchmark code is not asked: it is not run.

Order: by the committer's date, which follows the history of the code even where old commits are measured afterwards;
points of one commit are repeats, by the time they were measured, and say what scatter is.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.gate.change_points import Course, course
from bench.gate.facts import Facts
from bench.gate.history_commits import Line
from bench.gate.history_decide import Reference, reference_of
from bench.gate.history_point import HistoryPoint, PointFacts, PointWorkload
from bench.gate.outcome import TIME
from bench.machine import fingerprint
from bench.records import Machine

_TIMING_FILES = ("worker.py", "workloads.py")


@dataclass(frozen=True, kw_only=True)
class Here:
    """The machine as the workers of the new point see it, and how they measure."""

    machine: Machine
    device: str
    num_threads: int
    with_energy: bool
    timing_code: str

    @property
    def fingerprint(self) -> str:
        """Equal for two points of the same machine."""
        known = [fingerprint(self._seen_by_workers), *map(repr, sorted(self.identity.items()))]
        return hashlib.sha256("\0".join(known).encode()).hexdigest()

    @property
    def identity(self) -> dict[str, Any]:
        """What must be equal, by the name that messages use."""
        machine = self.machine
        found: dict[str, Any] = {
            "host": machine.hostname,
            "processor": machine.cpu,
            "cores": machine.num_cpu_cores,
            "container's cores": machine.container_cpu_limit,
            "device": self.device,
            "threads of a worker": self.num_threads,
            "Python": machine.python,
            "torch": machine.torch,
            "GPUs": machine.gpus,
        }
        if self.device == "cpu":
            return found
        return found | {"driver": machine.driver, "CUDA": machine.cuda, "power limit in W": machine.gpu_power_limit_w}

    @property
    def _seen_by_workers(self) -> Machine:
        return self.machine.model_copy(update={"num_torch_threads": self.num_threads})


def timing_code() -> str:
    """Hash of the gate's own code that times, comments and layout left out."""
    files = [Path(__file__).with_name(name) for name in _TIMING_FILES]
    texts = [ast.dump(ast.parse(file.read_text(encoding="utf-8"))) for file in files]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """`torch: 2.14.0 there, 2.15.0 here; …` for each name whose values differ; empty where all are equal."""
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    return "; ".join(f"{name}: {there.get(name)} there, {here.get(name)} here" for name in names)


def software_changes(before: Machine, after: Machine) -> tuple[str, ...]:
    """`numpy: 2.3.1 → 2.4.0` for what may differ within a history and does."""
    one, other = ({"system": each.os, **each.packages} for each in (before, after))
    return tuple(
        f"{name}: {one.get(name)} → {other.get(name)}" for name in {**one, **other} if one.get(name) != other.get(name)
    )


@dataclass(frozen=True, kw_only=True)
class Series:
    """The earlier figures of one workload, in the order of the history.

    Attributes:
        values: logarithms per unit.
        is_called: whether a point was called slower or faster than its level.
        is_own: whether a point is of the very commit that is measured now.
    """

    figure: str
    points: tuple[HistoryPoint, ...]
    values: tuple[float, ...]
    is_called: tuple[bool, ...]
    is_own: tuple[bool, ...]

    @cached_property
    def course(self) -> Course:
        """Its levels."""
        return course(self.values, self.is_called)

    @cached_property
    def reference(self) -> Reference | None:
        """What a new point is compared with; None where there is no level of enough points."""
        return reference_of(self.course, self.is_own)

    def with_point(self, point: HistoryPoint, value: float, *, is_called: bool) -> Series:
        """The same with the new point at its end."""
        return Series(
            figure=self.figure,
            points=(*self.points, point),
            values=(*self.values, value),
            is_called=(*self.is_called, is_called),
            is_own=(*self.is_own, True),
        )


class Past:
    """The stored points, sorted out for one new point.

    Attributes:
        points: those of this machine on the measured version's own line, in the order of the history.
        why_refused: a sentence where there are points and none is of this machine; else empty.
        notes: what was left out.
    """

    def __init__(self, stored: Sequence[HistoryPoint], here: Here, line: Line) -> None:
        self._here = here
        self._line = line
        clean = [point for point in stored if not point.is_dirty]
        same = [point for point in clean if point.fingerprint == here.fingerprint]
        self.why_refused = _why_refused(clean, here) if clean and not same else ""
        kinships = [line.kinship(point.commit) for point in same]
        later = [
            kinship == "unknown" and point.commit_date > line.date
            for point, kinship in zip(same, kinships, strict=True)
        ]
        is_off = [kinship == "other" or late for kinship, late in zip(kinships, later, strict=True)]
        self.points = tuple(point for point, off in zip(same, is_off, strict=True) if not off)
        counts = {
            "hold uncommitted changes and are left out": len(stored) - len(clean),
            "are of another machine and are left out": len(clean) - len(same) if same else 0,
            "are of commits that this version does not contain (another branch, or amended) and are left out": sum(
                is_off
            ),
            "are of commits unknown to this clone and stand where their dates put them": kinships.count("unknown")
            - sum(later),
        }
        self.notes = tuple(f"Earlier points that {what}: {count}." for what, count in counts.items() if count)

    def of(self, workload: str, facts: Facts) -> tuple[list[HistoryPoint], str]:
        """(points that measured the same, what is said of those that did not; empty where there are none)."""
        measured = _measured(facts.measured, self._here.timing_code, self._here.with_energy)
        same, other, said = [], 0, ""
        for point in self.points:
            found = point.workload(workload)
            if found is None or found.facts is None:
                continue
            there = _measured(found.facts.measured, point.timing_code, point.with_energy)
            if differs := differences(there, measured):
                other, said = other + 1, differs
            else:
                same.append(point)
        return same, f"{other} earlier point{'s' if other > 1 else ''} measured something else: {said}" if other else ""

    def series(self, figure: str, workload: str, facts: Facts, points: Sequence[HistoryPoint]) -> Series:
        """The figures of those points; joules only where they were read the same way."""
        found: list[tuple[HistoryPoint, PointWorkload, float]] = []
        for point in points:
            each = point.workload(workload)
            value = each.figure(figure) if each else None
            if each is None or each.facts is None or value is None:
                continue
            if figure == TIME or _meter(figure, each.facts) == _meter(figure, facts):
                found.append((point, each, value))
        return Series(
            figure=figure,
            points=tuple(point for point, _, _ in found),
            values=tuple(value for _, _, value in found),
            is_called=tuple(each.is_called(figure) for _, each, _ in found),
            is_own=tuple(self._line.kinship(point.commit) == "own" for point, _, _ in found),
        )

    def newest_of_another_commit(self, points: Sequence[HistoryPoint]) -> HistoryPoint | None:
        """What counts are compared with; the newest at all where every point is of the measured commit."""
        others = [point for point in points if self._line.kinship(point.commit) != "own"]
        found = others or list(points)
        return found[-1] if found else None


def _measured(said: Mapping[str, Any], timing: str, with_energy: bool) -> dict[str, Any]:
    """What must be equal for two figures to be comparable; see the module."""
    own = {"benchmark_code"}
    return {name: value for name, value in said.items() if name not in own} | {
        "the gate's own code": timing[:12],
        "meters beside it": with_energy,
    }


def _meter(figure: str, facts: Facts | PointFacts) -> tuple[str | None, str]:
    """How joules are read, and by which code."""
    return facts.energy.get(figure), facts.energy_code


def _why_refused(others: Sequence[HistoryPoint], here: Here) -> str:
    newest = max(others, key=lambda point: point.started)
    there = Here(
        machine=newest.machine,
        device=newest.device,
        num_threads=newest.num_threads,
        with_energy=newest.with_energy,
        timing_code=newest.timing_code,
    )
    differs = differences(there.identity, here.identity) or "by the fingerprint of an earlier version of the gate"
    points = f"{len(others)} point{'s' if len(others) > 1 else ''}"
    return (
        f"The history has {points} of another machine and none of this one ({differs}): points of this machine begin a "
        "history of their own, repeat the command for more; or compare two versions side by side, without --history."
    )
