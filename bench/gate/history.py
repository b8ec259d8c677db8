"""THE MAIN PATH of `bench gate --history`: one version → a point → its verdict against this machine's earlier points.

For a machine that is one's own and stays as it is; on any other the scatter from run to run hides what is asked for,
and side by side (`bench.gate.gate`) is the way. Read first.

1. The version is checked out (`history_commits`) and prepared once with counts, in a process of its own.
2. The stored points that it may be compared with are sorted out (`history_past`). Points of another machine are
   refused: where there are no others the verdict is invalid. Where all points of a workload measured something else,
   that workload is invalid. Either way the point is measured and kept: it begins a history of its own.
3. It is measured, in several fresh processes (`history_sitting`), and what the first measurement left open
   (`history_decide`) once more, in fresh processes again.
4. `decide_all`; the changes of the whole history, this point in it, with their suspects; one document
   (`history_point`).

Counts are compared with the newest earlier point of another commit: against points of the commit itself, measuring it
twice would make any count good. A count that grew is a regression without a doubt, and the time is measured all the
same, because later points need it.

Uncommitted changes. A point of them gets its verdict and is stored, marked; no later point is compared with it, because
nobody can have that version again. Changes outside of `bench/` and `models/` are none: they are not measured.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import __version__
from bench.gate.case import inconclusive
from bench.gate.decide import Decision, Verdict, decide_all, exit_code, invalid
from bench.gate.history_case import PointCase, change_outcomes
from bench.gate.history_commits import TIME_FORMAT, Alone, alone
from bench.gate.history_past import Here, Past, timing_code
from bench.gate.history_point import ChangeOutcome, HistoryPoint, load_points
from bench.gate.history_sitting import PointSitting
from bench.gate.lane import LaneError
from bench.gate.outcome import TIME
from bench.gate.sitting import Question, Surroundings
from bench.machine import look


def history_gate(
    question: Question, around: Surroundings, *, results: Path, head: str | None = None, start: Path | None = None
) -> HistoryPoint:
    """Check a version out, measure it, and compare it with the points under `results`; does not store it.

    Args:
        head, start: as `bench.gate.history_commits.alone`.

    Raises:
        UsageError: a workload that the version does not know, a wrong number, an unknown ref.
        GateError: there is no version to measure, see `alone`.
        InterruptedRunError: stopped; worktree and processes are gone.
    """
    began_s = around.clock()
    with alone(head=head, start=start) as version:
        return point_of(version, question, around, results=results, began_s=began_s)


def point_of(
    measured: Alone, question: Question, around: Surroundings, *, results: Path, began_s: float | None = None
) -> HistoryPoint:
    """The point of a folder. A worker that fails makes what is still open invalid."""
    started, began_s = datetime.now(UTC), around.clock() if began_s is None else began_s
    here = _here(question)
    stored, problems = load_points(results)
    past = Past(stored, here, measured.line)
    cases = [PointCase(each, is_kept=not measured.version.is_dirty) for each in question.workloads]
    sitting = PointSitting(measured.version, question, around, began_s + question.budget_s)
    earlier = f"{len(past.points)} earlier point{'' if len(past.points) == 1 else 's'}"
    around.say(f"Measuring {measured.version}; this machine's history has {earlier}.")
    try:
        sitting.open(cases)
        for case in cases:
            case.compare_with(past)
        _measure(sitting, cases, question.min_effect)
    except LaneError as error:
        for case in cases:
            case.settled = case.settled or invalid(str(error))
    decided, verdict = _decided(cases, question.min_effect)
    point = HistoryPoint(
        point_id=_point_id(started, measured.version.code_hash),
        started=started.strftime(TIME_FORMAT),
        duration_s=around.clock() - began_s,
        timed_s=sitting.timed_s,
        parent_cpu_s=sitting.parent_cpu_s,
        plan=sitting.planned,
        notes=(*problems, *past.notes, *_notes(measured, cases, decided, question.min_effect)),
        workloads=tuple(case.outcome(each, ()) for case, each in zip(cases, decided, strict=True)),
        verdict=verdict,
        exit_code=exit_code(verdict, inconclusive=question.inconclusive),
        **_asked(question, here, measured),
    )
    return _with_changes(point, cases, measured)


def _here(question: Question) -> Here:
    setting, device = question.setting, question.setting.device or "cpu"
    return Here(
        machine=look(device),
        device=device,
        num_threads=setting.num_threads,
        with_energy=setting.with_energy,
        timing_code=timing_code(),
    )


def _measure(sitting: PointSitting, cases: Sequence[PointCase], min_effect: float) -> None:
    plan = sitting.plan(cases)
    if plan.reason:
        for case in cases:
            case.settled = case.settled or inconclusive(f"Nothing was timed, because {plan.reason}: raise --budget.")
        return
    sitting.measure("first", cases)
    sitting.measure("confirming", [case for case in cases if case.needs_confirmation(min_effect)])


def _decided(cases: Sequence[PointCase], min_effect: float) -> tuple[list[dict[str, Decision]], Verdict]:
    """Each workload's decisions, after Benjamini-Hochberg over all figures of all of them, and the whole's verdict."""
    by_case = [case.decisions(min_effect) for case in cases]
    named = {f"{index} {figure}": each for index, found in enumerate(by_case) for figure, each in found.items()}
    decided, verdict = decide_all(named)
    return [{figure: decided[f"{index} {figure}"] for figure in found} for index, found in enumerate(by_case)], verdict


def _asked(question: Question, here: Here, measured: Alone) -> dict[str, Any]:
    """What the document says of the question, the machine and the version."""
    version = measured.version
    return {
        "harness_version": __version__,
        **vars(here),
        "fingerprint": here.fingerprint,
        "seed": question.setting.seed,
        "asked": version.asked,
        "commit": version.commit,
        "commit_date": measured.line.date,
        "is_dirty": version.is_dirty,
        "code_hash": version.code_hash,
        "budget_s": question.budget_s,
        "min_effect": question.min_effect,
        "inconclusive": question.inconclusive,
    }


def _with_changes(point: HistoryPoint, cases: Sequence[PointCase], measured: Alone) -> HistoryPoint:
    """The same with the changes of every workload's history, this point in it unless it holds uncommitted changes."""
    workloads = []
    for case, workload in zip(cases, point.workloads, strict=True):
        found: list[ChangeOutcome] = []
        for figure, series in case.series.items():
            value, whole = workload.figure(figure), series
            if value is not None and not point.is_dirty:
                whole = series.with_point(point, value, is_called=workload.is_called(figure))
            found += change_outcomes(whole, measured.line, point.min_effect)
        workloads.append(workload.model_copy(update={"changes": tuple(found)}))
    return point.model_copy(update={"workloads": tuple(workloads)})


def _point_id(started: datetime, code_hash: str) -> str:
    """`20260131-120000-3f2a9c`: no two alike."""
    digest = hashlib.sha256(f"history {started.isoformat()} {code_hash}".encode())
    return f"{started:%Y%m%d-%H%M%S}-{digest.hexdigest()[:6]}"


def _notes(
    measured: Alone, cases: Sequence[PointCase], decided: Sequence[dict[str, Decision]], min_effect: float
) -> list[str]:
    """What decides nothing and should be known."""
    notes = [note for case in cases for note in case.notes]
    if measured.version.is_dirty:
        notes.append("bench/ or models/ hold uncommitted changes: no later point will be compared with this one.")
    for case, found in zip(cases, decided, strict=True):
        series = case.series.get(TIME)
        if series is None or series.reference is None:
            continue
        name, creep = case.workload.name, series.reference.middle - series.course.levels[0].middle
        if creep >= math.log1p(min_effect):
            since = f"the first level's, of {series.points[0].commit_date[:10]}"
            notes.append(f"{name}: the level compared with is {math.expm1(creep):.1%} above {since}.")
        if found[TIME].verdict == "regression":
            base = series.points[series.reference.newest].commit[:10]
            notes.append(f"{name}: whether it is the code or the machine's day, `bench gate --base {base}` tells.")
    return notes
