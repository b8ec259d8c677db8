"""THE MAIN PATH: `run(spec) -> Record`. A question in, an answer out, on disk phase by phase.

A finished phase is on disk at once; asked again, the runner does what is missing. A failure is a record too.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from types import ModuleType

import torch
from pydantic import JsonValue

from bench import calibration
from bench.catalog import METERS
from bench.errors import BenchError, InterruptedRunError, StorageError, UsageError
from bench.machine import fingerprint, look, set_backend
from bench.meters._spec import Meter
from bench.phases import cost, generate, quality, train, train_step
from bench.phases._context import LOADING, Context, Outcome, Question
from bench.phases._plan import Plan, make_plan
from bench.phases._record import new_record, with_phase
from bench.phases._settle import run_id_of, settle
from bench.records import (
    PHASES,
    Machine,
    PhaseName,
    PhaseResult,
    PhaseStatus,
    Record,
    RunSpec,
)
from bench.store import RunFolder, load_newest, write_atomically
from bench.training.distributed import joined
from bench.training.feed import Loading
from bench.training.log import check_tensorboard
from bench.training.signals import stop_on_signals
from bench.units import parse_interval

_PHASE_MODULES: dict[PhaseName, ModuleType] = {
    "cost": cost,
    "generate": generate,
    "train_step": train_step,
    "train": train,
    "quality": quality,
}
SHARED_PHASES: tuple[PhaseName, ...] = ("train_step", "train")  # by all processes of a job
_TRY_AGAIN: tuple[PhaseStatus, ...] = ("failed", "oom", "timeout")
_NUM_EARLIER_RUNS = 50  # the power of these is what a plan reckons with


def _silent(_: str) -> None:
    """The default of a call from Python."""


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """How this sitting of a run is done; no figure depends on it.

    Attributes:
        checkpoint_every: `5min` or `20kimg`: so much work may be lost.
        logs: optional logs of the training beside its JSONL, from `tensorboard`.
        loading: how the training reads its images.
    """

    checkpoint_every: str = "5min"
    logs: tuple[str, ...] = ()
    loading: Loading = LOADING


def run(
    spec: RunSpec,
    *,
    results: Path | str = "results",
    phases: Sequence[PhaseName] = PHASES,
    fresh: bool = False,
    say: Callable[[str], None] = _silent,
    show_plan: Callable[[Plan], None] | None = None,
    sitting: Sitting = Sitting(),
) -> Record:
    """Answer the question, or what is missing of the answer.

    Several processes started by `torchrun` share the training phases; the first alone does the others and writes.

    Args:
        spec: the question.
        results: folder of all runs; the run's own folder is made in it.
        phases: which phases to do now; the others stay as they are in the record.
        fresh: forget what was measured before.
        say: where sentences for a person go (the plan, the progress of the phases).
        show_plan: takes the plan in place of `say`, to add to its text.
        sitting: how this sitting is done.

    Returns:
        The record as it is on disk. Its status says whether a phase failed; a failed phase does not raise.

    Raises:
        BenchError: the question cannot be asked, or the folder cannot be written.
        InterruptedRunError: a signal asked to stop; what there was is kept.
    """
    question = settle(spec)
    checkpoint_every = parse_interval(sitting.checkpoint_every, "--checkpoint-every")
    if "tensorboard" in sitting.logs:
        check_tensorboard()
    backend = set_backend(question.precision)
    machine = look(question.device)
    with stop_on_signals() as stop, joined(question.device) as world, ExitStack() as opened:
        say = say if world.is_first else _silent
        run_id = world.agreed(run_id_of(question, machine))
        folder = RunFolder(Path(results), run_id)
        # What is there already
        if world.is_first:
            opened.enter_context(folder.locked(say))
        if fresh and world.is_first:
            folder.clear()
        record: Record = world.agreed(folder.read() or new_record(question, run_id, machine=machine, created_at=_now()))
        todo, kept = _split(record, phases)
        earlier_w = _earlier_power_w(Path(results), machine)
        planned = make_plan(question, run_id, todo=todo, kept=kept, earlier_w=earlier_w)
        if world.is_first:
            (show_plan or (lambda each: say(each.text())))(planned)
        peaks = calibration.load(Path(results), machine, question.device)
        meters = opened.enter_context(open_meters(question.device, in_windows=True))
        _check_budget(question, meters)
        # Phase by phase; each is on disk before the next begins
        for name in todo:
            if name in SHARED_PHASES:
                world.wait()
            elif not world.is_first:
                continue
            say(f"{name} …")
            context = Context(
                question=question,
                folder=folder,
                machine=machine,
                meters=meters,
                stretch_meters=partial(open_meters, question.device, in_windows=False),
                calibration=peaks,
                done=record.phases,
                say=say,
                curve=record.curve,
                world=world,
                stop=stop,
                checkpoint_every=checkpoint_every,
                logs=sitting.logs,
                loading=sitting.loading,
            )
            started_at, started = _now(), perf_counter()
            outcome = _attempt(name, context)
            if not world.is_first:
                _check_shared(name, outcome)
                continue
            result = PhaseResult(
                phase=name,
                status=outcome.status,
                reason=outcome.reason,
                started_at=started_at,
                duration_s=perf_counter() - started,
                quantities=outcome.quantities,
                protocol=outcome.protocol | {"backend": backend, "meters": _facts(meters)},
                artifacts=outcome.artifacts,
            )
            record = _stored(folder, record, result, outcome)
            say(f"{name}: {result.status}{f' ({result.reason})' if result.reason else ''}")
            if name in SHARED_PHASES and result.status in _TRY_AGAIN and not world.is_alone:
                break  # the other processes may wait for this one for ever; its end ends them
    return record


def _stored(folder: RunFolder, record: Record, result: PhaseResult, outcome: Outcome) -> Record:
    """The record with that phase in it, on disk with the phase's windows."""
    if outcome.windows:
        windows = folder.write_windows(result.phase, outcome.windows)
        result = result.model_copy(update={"artifacts": result.artifacts | {"windows": windows}})
    record = with_phase(record, result, outcome)
    folder.write(record)
    if result.phase == "train" and result.status == "ok":
        train.clear_checkpoints(folder.path)
    return record


def _check_shared(name: PhaseName, outcome: Outcome) -> None:
    """A phase that failed in one process of several ends the job: the others wait for it. Raises BenchError."""
    if outcome.status in _TRY_AGAIN:
        raise BenchError(f"{name} failed in one of several processes: {outcome.reason}")


def _check_budget(question: Question, meters: dict[str, Meter]) -> None:
    """Joules can only end a training of one process that a meter watches. Raises UsageError."""
    if question.budget.energy_j is None:
        return
    if question.spec.num_processes > 1:
        raise UsageError(f"--train-for {question.spec.train_for}: joules end the training of one process only.")
    if not any(meter.energy_sources() for meter in meters.values()):
        raise UsageError(
            f"--train-for {question.spec.train_for} needs an energy meter and this machine has none "
            "(`bench doctor` says why); give images or time."
        )


def plan(spec: RunSpec, *, results: Path | str = "results", phases: Sequence[PhaseName] = PHASES) -> Plan:
    """What `run` would do, without doing or writing any of it. Raises as `run` does."""
    question = settle(spec)
    machine = look(question.device)
    run_id = run_id_of(question, machine)
    folder = RunFolder(Path(results), run_id)
    record = folder.read()
    todo, kept = _split(record, phases) if record else (list(phases), [])
    earlier_w = _earlier_power_w(Path(results), machine)
    return make_plan(question, run_id, todo=todo, kept=kept, earlier_w=earlier_w)


def _earlier_power_w(results: Path, machine: Machine) -> dict[PhaseName, float]:
    """Phase → median power that recent runs on this very machine drew in it; only phases that any run measured."""
    runs, _ = load_newest(results, _NUM_EARLIER_RUNS)
    own = [run.record for run in runs if fingerprint(run.record.machine) == fingerprint(machine)]
    phases: tuple[PhaseName, ...] = ("generate", "train_step")
    found = {phase: [record.quantity(f"{phase}_power_w") for record in own] for phase in phases}
    known = {phase: [each.value for each in every if each and each.value is not None] for phase, every in found.items()}
    return {phase: median(values) for phase, values in known.items() if values}


@contextmanager
def open_meters(device: str, *, in_windows: bool) -> Iterator[dict[str, Meter]]:
    """Every meter this machine can read, by name: those for windows, or those for long stretches; closed afterwards."""
    specs = {name: METERS.load(name) for name in METERS.names()}
    wanted = {name: spec for name, spec in specs.items() if spec.in_windows == in_windows}
    with ExitStack() as closing:
        meters: dict[str, Meter] = {}
        for name, spec in wanted.items():
            if spec.why_unavailable(device) is None:
                meters[name] = spec.open(device)
                closing.callback(meters[name].close)
        yield meters


def _facts(meters: dict[str, Meter]) -> dict[str, JsonValue]:
    return {name: meter.facts() for name, meter in sorted(meters.items())}


def _split(record: Record, phases: Sequence[PhaseName]) -> tuple[list[PhaseName], list[PhaseName]]:
    """(phases still to do, phases the record already answers) of those asked for, in the order of PHASES."""
    todo: list[PhaseName] = []
    kept: list[PhaseName] = []
    for name in PHASES:
        if name not in phases:
            continue
        done = record.phases.get(name)
        # quality that was skipped because the training was missing is due once the training is there
        is_stale = done is not None and done.status == "skipped" and not record.spec.no_data
        (todo if done is None or done.status in _TRY_AGAIN or is_stale else kept).append(name)
    return todo, kept


def _attempt(name: PhaseName, context: Context) -> Outcome:
    """Run one phase; whatever goes wrong in it becomes its outcome, with the reason."""
    try:
        outcome: Outcome = _PHASE_MODULES[name].measure(context)
    except (StorageError, InterruptedRunError):
        raise  # nothing could be recorded anyway, or nothing is to be; the sentence is for the user
    except BenchError as error:
        outcome = Outcome(status="failed", reason=str(error))
    except Exception as error:  # noqa: BLE001 - the one boundary: a failed run, by a model of any origin, is a record
        batch_size = context.question.batch_size
        if _is_out_of_memory(error):
            outcome = Outcome(
                status="oom", reason=f"out of memory at batch size {batch_size}; try a smaller --batch-size"
            )
        else:
            trace = f"error-{name}.txt"
            write_atomically(context.folder.path / trace, traceback.format_exc().encode())
            summary = (str(error).strip() or "no message").splitlines()[0]
            reason = f"{type(error).__name__}: {summary}"
            outcome = Outcome(status="failed", reason=reason, artifacts={"traceback": trace})
    gc.collect()
    if context.question.device != "cpu":
        torch.cuda.empty_cache()
    return outcome


def _is_out_of_memory(error: Exception) -> bool:
    """CUDA raises its own class; on a CPU torch raises a RuntimeError that says so, NumPy a MemoryError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
