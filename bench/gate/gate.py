"""THE MAIN PATH of `bench gate`: two versions → rounds of blocks → a verdict with everything it rests on. Read first.

1. Both versions are checked out (`checkout`), a worker is started for each (`lane`), and each workload is prepared once
   with counts. Where what is measured differs the workload is invalid; where a count grew it is a regression. Neither
   needs a clock, and such a workload is not timed (`case`).
2. Rounds: base against base, head against base, and once more for whatever the first round left open (`decide`). A
   round is several restarts: fresh processes, warmed up, then blocks in ABBA order (`pairs`). Nobody else works while
   a block runs: the other worker and this process wait in the kernel, and nothing is printed.
3. `decide`, `decide_all`; the whole is one document (`outcome`).

Counts. All of them count: parameters and multiply-accumulates from the first one more, bytes moved and peak memory
where they grow by more than `case.COUNT_SLACK`, because one more logged scalar is not a regression. A smaller count is
shown and is no improvement by itself: a narrower layer is another model, and what it saves shows in the time.

Budget. It bounds everything from the checkout on. The plan is made for 95 % of what the opening has left over;
each restart then gets an equal share of the time that is really left. It ends between two fours of blocks when its
share is used up and it has the pairs without which nothing is decided. When it ends does not depend on which side was
faster. Only a worker that hangs can exceed the budget.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import __version__
from bench.errors import UsageError
from bench.gate.case import Case
from bench.gate.checkout import Checkouts, Version, checked_out
from bench.gate.decide import Verdict, decide_all, exit_code, invalid
from bench.gate.lane import LaneError
from bench.gate.outcome import GateOutcome, GateVersion, WorkloadOutcome
from bench.gate.question import Workload, parse_workload
from bench.gate.sitting import Question, Sitting, Surroundings
from bench.machine import look

DEFAULT_SUBJECTS = {"attention": "additive", "data": "scenes"}


def asked_workloads(models: Sequence[str], words: Sequence[str], **options: Any) -> tuple[Workload, ...]:
    """`train_step` and `generate` once per model, `attention` and `data` once; `kind:subject` as it stands.

    Args:
        options: the other attributes of a `Workload`, such as size and resolution.

    Raises:
        UsageError: no workload, or a word that is none.
    """
    found: dict[str, Workload] = {}
    for word in words:
        subjects = [DEFAULT_SUBJECTS[word]] if word in DEFAULT_SUBJECTS else models
        for named in [word] if ":" in word else [f"{word}:{subject}" for subject in subjects]:
            found[named] = parse_workload(named, **options)
    if not found:
        raise UsageError("There is nothing to time: give --models and --workloads.")
    return tuple(found.values())


def gate(
    question: Question,
    around: Surroundings,
    *,
    base: str | None = None,
    head: str | None = None,
    start: Path | None = None,
) -> GateOutcome:
    """Check both versions out and compare them; base, head and start as in `bench.gate.checkout.checked_out`.

    Raises:
        UsageError: a workload that neither version knows, a wrong number, an unknown ref.
        GateError: there is nothing to compare, see `checked_out`.
        InterruptedRunError: stopped; worktrees and processes are gone.
    """
    began_s = around.clock()
    with checked_out(base=base, head=head, start=start) as both:
        return compare(both, question, around, began_s=began_s)


def compare(both: Checkouts, question: Question, around: Surroundings, *, began_s: float | None = None) -> GateOutcome:
    """The comparison of two folders. A worker that fails makes what is still open invalid."""
    started, began_s = datetime.now(UTC), around.clock() if began_s is None else began_s
    cases = [Case(each) for each in question.workloads]
    sitting = Sitting(both, question, around, began_s + question.budget_s)
    around.say(f"Comparing {both.head} with {both.base} ({both.base.asked}).")
    try:
        start_s = sitting.open(cases)
        still_open = [case for case in cases if case.settled is None]
        if still_open:
            sitting.plan(still_open, start_s)
            sitting.run_rounds([case for case in still_open if case.settled is None])
    except LaneError as error:
        for case in cases:
            case.settled = case.settled or invalid(str(error))
    workloads, verdict = _decided(cases, question.min_effect)
    setting, device = question.setting, question.setting.device or "cpu"
    return GateOutcome(
        gate_id=_gate_id(started, both),
        harness_version=__version__,
        started=started.strftime("%Y-%m-%dT%H:%M:%S"),
        duration_s=around.clock() - began_s,
        timed_s=sitting.timed_s,
        parent_cpu_s=sitting.parent_cpu_s,
        machine=look(device),
        device=device,
        num_threads=setting.num_threads,
        seed=setting.seed,
        budget_s=question.budget_s,
        min_effect=question.min_effect,
        inconclusive=question.inconclusive,
        base=_version(both.base),
        head=_version(both.head),
        notes=_notes(both, question, cases),
        plan=sitting.planned,
        workloads=workloads,
        verdict=verdict,
        exit_code=exit_code(verdict, inconclusive=question.inconclusive),
    )


def _decided(cases: Sequence[Case], min_effect: float) -> tuple[tuple[WorkloadOutcome, ...], Verdict]:
    """Each workload with its decisions, after Benjamini-Hochberg over all figures of all of them."""
    alone = [case.decisions(min_effect) for case in cases]
    named = {f"{index} {figure}": each for index, found in enumerate(alone) for figure, each in found.items()}
    decided, verdict = decide_all(named)
    return tuple(
        case.outcome({figure: decided[f"{index} {figure}"] for figure in alone[index]})
        for index, case in enumerate(cases)
    ), verdict


def _version(version: Version) -> GateVersion:
    return GateVersion(
        asked=version.asked, commit=version.commit, is_dirty=version.is_dirty, code_hash=version.code_hash
    )


def _gate_id(started: datetime, both: Checkouts) -> str:
    """`20260131-120000-3f2a9c`: no two alike."""
    digest = hashlib.sha256(f"{started.isoformat()} {both.base.code_hash} {both.head.code_hash}".encode())
    return f"{started:%Y%m%d-%H%M%S}-{digest.hexdigest()[:6]}"


def _notes(both: Checkouts, question: Question, cases: Sequence[Case]) -> tuple[str, ...]:
    """What decides nothing and should be known."""
    notes = [f"{note}." for note in both.notes]
    if both.is_same_code:
        notes.append("Base and head are byte for byte the same code: every change found here is the machine's.")
    for case in cases:
        if case.base is None or case.head is None:
            continue
        for side, facts in (("base", case.base), ("head", case.head)):
            if not facts.is_stationary:
                notes.append(f"{case.workload.name}: {side} was still becoming faster when its warm-up was cut short.")
        if question.setting.with_energy and len(case.figures) == 1:
            has_none = not case.base.energy and not case.head.energy
            why = "this machine has no meter that can be read" if has_none else "the two sides read meters differently"
            notes.append(f"{case.workload.name}: joules were not compared, {why}.")
    return tuple(notes)
