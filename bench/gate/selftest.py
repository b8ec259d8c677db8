"""`bench gate --self-test`: how often the gate on this machine calls a slowdown of known size by its name.

Why it exists: a gate is believed when it finds what was hidden from it, and a formula does not show that. The working
tree is compared with copies of itself in which the train step is slower by a known factor.

How a copy is slowed. Lines are appended to its `bench/training/step.py` that wrap `Trainer.step`: the real step runs,
its duration is read from the clock (on a GPU between two synchronisations), and a loop then waits busily for
(factor - 1) times that duration. So the slowdown is a share of the time that this very step took, whatever the machine
did meanwhile. No tensor operation is added, so parameters, multiply-accumulates, bytes and peak memory stay as they
are and no exact comparison can give the slowdown away; files that say what is measured are not touched. The copy for
1.00 has the same lines, with nothing to wait for.

Only train steps are slowed, so only they are asked for.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from bench.errors import UsageError
from bench.gate.checkout import Version, checked_out, code_hash_of
from bench.gate.decide import EXIT_CODES, Verdict
from bench.gate.gate import compare
from bench.gate.outcome import GateOutcome
from bench.gate.sitting import Question, Surroundings
from bench.notation import UNKNOWN
from bench.units import format_duration

SLOWDOWNS = (1.00, 1.03, 1.05, 1.10, 1.25)
NUM_GATES = 3
SLOWED_FILE = Path("bench/training/step.py")
_SLOWING = """

# --- appended by `bench gate --self-test`
import functools as _functools
from time import perf_counter as _perf_counter

_unslowed_step = Trainer.step


def _synchronised_s(device: str) -> float:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return _perf_counter()


@_functools.wraps(_unslowed_step)
def _slowed_step(self, real):
    started_s = _synchronised_s(self.device)
    losses = _unslowed_step(self, real)
    ended_s = _synchronised_s(self.device)
    until_s = ended_s + {extra!r} * (ended_s - started_s)
    while _perf_counter() < until_s:
        pass
    return losses


Trainer.step = _slowed_step
"""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One gate against a copy that is `slowdown` times as slow."""

    slowdown: float
    outcome: GateOutcome

    @property
    def is_false_alarm(self) -> bool:
        """A regression where nothing was slowed."""
        return self.slowdown == 1 and self.outcome.verdict == "regression"


def self_test(
    question: Question,
    around: Surroundings,
    *,
    slowdowns: Sequence[float] = SLOWDOWNS,
    num_gates: int = NUM_GATES,
    start: Path | None = None,
    keep: Callable[[GateOutcome], object] = lambda _: None,
) -> list[Attempt]:
    """So many gates of each slowdown, in turn, so that a slow hour of the machine meets all of them.

    Args:
        keep: is given each outcome as soon as there is one.

    Raises:
        UsageError: other workloads than train steps, or no gate.
        BenchError: as `bench.gate.gate.gate`.
    """
    if any(each.kind != "train_step" for each in question.workloads) or num_gates < 1:
        raise UsageError("--self-test slows train steps: leave --workloads out, and ask for one gate or more.")
    attempts = []
    with checked_out(base="HEAD", start=start) as both:
        base = replace(both.head, side="base")
        copies = [slowed_copy(both.head, slowdown) for slowdown in slowdowns]
        for index in range(num_gates):
            for slowdown, head in zip(slowdowns, copies, strict=True):
                around.say(f"Gate {index + 1} of {num_gates}, {slowdown:.2f} times as slow")
                outcome = compare(replace(both, base=base, head=head, notes=()), question, around)
                attempts.append(Attempt(slowdown=slowdown, outcome=outcome))
                keep(outcome)
                around.say(f"  {outcome.verdict}, {format_duration(outcome.duration_s)}")
    return attempts


def slowed_copy(version: Version, slowdown: float) -> Version:
    """A copy beside it whose train step takes `slowdown` times as long; goes with the checkouts' folder."""
    folder = version.folder.parent / f"slower-{slowdown:.2f}"
    shutil.copytree(version.folder, folder, symlinks=True)
    file = folder / SLOWED_FILE
    file.write_text(file.read_text(encoding="utf-8") + _SLOWING.format(extra=slowdown - 1), encoding="utf-8")
    asked = f"working tree, train step {slowdown:.2f} times as slow"
    return replace(version, side="head", asked=asked, is_dirty=True, folder=folder, code_hash=code_hash_of(folder))


def self_test_text(attempts: Sequence[Attempt]) -> str:
    """A Markdown table that a terminal shows as well: one line per slowdown."""
    verdicts: tuple[Verdict, ...] = tuple(EXIT_CODES)
    header = ["slowdown", "gates", *verdicts, "found (median)", "would have seen (median)", "a gate took"]
    rows = [header, ["--:"] * len(header)]
    for slowdown in sorted({each.slowdown for each in attempts}):
        outcomes = [each.outcome for each in attempts if each.slowdown == slowdown]
        said = [each.verdict for each in outcomes]
        decisions = [decision for each in outcomes for workload in each.workloads for decision in workload.decisions]
        ratios = [each.ratio.value for each in decisions if each.ratio.value is not None]
        visible = [each.smallest_detectable for each in decisions if each.smallest_detectable is not None]
        rows.append(
            [
                f"{slowdown:.2f}",
                str(len(said)),
                *(str(said.count(verdict)) for verdict in verdicts),
                f"{median(ratios):.3f}" if ratios else UNKNOWN,
                f"{median(visible):.1%}" if visible else UNKNOWN,
                format_duration(median(each.duration_s for each in outcomes)),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"| {' | '.join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))} |" for row in rows
    )
