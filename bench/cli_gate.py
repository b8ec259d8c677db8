"""The command `gate`: is the head slower than the base. Heavy imports wait."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from bench import cli_options as options
from bench.cli_views import say

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.gate.outcome import GateOutcome
    from bench.gate.sitting import Question, Surroundings

Written = TypeVar("Written")


Base = Annotated[str | None, typer.Option(metavar="REF", help="Default: where head left the main branch.")]
Head = Annotated[str | None, typer.Option(metavar="REF", help="Default: the working tree as it is.")]
Models = Annotated[str, typer.Option(metavar="A,B", help="Names in `bench list models`.")]
Workloads = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="train_step,generate (the default),attention,data; attention:NAME, data:NAME."),
]
Size = Annotated[str, typer.Option(help="Named size of the models.")]
Resolution = Annotated[int | None, typer.Option(help="Pixels per side. Default: the model's smallest.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. Default: the GPU where there is one.")]
Budget = Annotated[str, typer.Option(metavar="6min", help="For all; with --self-test for each gate.")]
MinEffect = Annotated[str, typer.Option(metavar="3%", help="The slowdown worth stopping a change for.")]
Inconclusive = Annotated[Literal["report", "pass", "fail"], typer.Option(help="Exit code of that verdict: 3, 0 or 1.")]
Energy = Annotated[bool, typer.Option("--energy", help="Compare joules too, where there is a meter.")]
Json = Annotated[bool, typer.Option("--json", help="Print exactly the stored document on stdout.")]
Markdown = Annotated[Path | None, typer.Option(metavar="FILE", help="For a comment or a job summary.")]
Junit = Annotated[Path | None, typer.Option(metavar="FILE", help="JUnit XML.")]
Export = Annotated[
    str | None, typer.Option(metavar="FORMAT=FILE,...", help="Formats: github-action-benchmark, bencher.")
]
SelfTest = Annotated[
    bool, typer.Option("--self-test", help="Slow a copy's train step by known factors; report what was found.")
]
History = Annotated[
    bool, typer.Option("--history", help="Measure the head alone; compare with this machine's earlier points.")
]
NumGates = Annotated[int | None, typer.Option(min=1, help="With --self-test: gates per factor. Default: 3.")]


def gate(  # noqa: PLR0913, PLR0917 - typer turns each into an option
    base: Base = None,
    head: Head = None,
    models: Models = "ladagan",
    workloads: Workloads = None,
    size: Size = "tiny",
    resolution: Resolution = None,
    device: Device = None,
    budget: Budget = "6min",
    min_effect: MinEffect = "3%",
    inconclusive: Inconclusive = "report",
    energy: Energy = False,
    json: Json = False,
    markdown: Markdown = None,
    junit: Junit = None,
    export: Export = None,
    results: options.Results = Path("results"),
    self_test: SelfTest = False,
    num_gates: NumGates = None,
    history: History = False,
) -> int:
    """Time two versions side by side: 0 ok or improved, 1 regression, 3 inconclusive, 4 invalid."""
    of_two = {"base": base, "self_test": self_test, "junit": junit, "export": export} if history else {}
    _check_together(self_test, (base, head, markdown, junit, export, json), num_gates, of_two)

    from bench.cli_gate_history import measured
    from bench.gate.exports import parse_exports
    from bench.gate.gate import asked_workloads
    from bench.gate.question import Setting
    from bench.gate.sitting import Question, Surroundings
    from bench.machine import settle_device

    exports = parse_exports(export) if export is not None else {}
    kinds = workloads or ("train_step" if self_test else "train_step,generate")
    question = Question(
        workloads=asked_workloads(_words(models), _words(kinds), size=size, resolution=resolution),
        budget_s=_budget_s(budget),
        min_effect=_share(min_effect),
        inconclusive=inconclusive,
        setting=Setting(device=settle_device(device), with_energy=energy),
    )
    around = Surroundings(say=say, progress=say if sys.stderr.isatty() else _silent)
    if history:
        return measured(question, around, head=head, results=results, json=json, markdown=markdown)
    if self_test:
        return _self_test(question, around, num_gates, results)
    outcome, path = _kept(question, around, base, head, results)
    _write_files(outcome, markdown, junit, exports)
    _show(outcome, path, json)
    return outcome.exit_code


def _check_together(
    is_self_test: bool, of_a_gate: tuple[object, ...], num_gates: int | None, beside_history: Mapping[str, object]
) -> None:
    from bench.errors import UsageError

    if given := [f"--{name.replace('_', '-')}" for name, value in beside_history.items() if value]:
        raise UsageError(
            "--history measures one version and compares it with this machine's earlier points: leave "
            f"{' and '.join(given)} out, or leave --history out to compare two versions side by side."
        )
    if is_self_test and any(of_a_gate):
        raise UsageError(
            "--self-test compares the working tree with copies of itself and prints one table: leave --base, --head, "
            "--markdown, --junit, --export and --json out."
        )
    if num_gates is not None and not is_self_test:
        raise UsageError("--num-gates belongs to --self-test.")


def _kept(
    question: Question, around: Surroundings, base: str | None, head: str | None, results: Path
) -> tuple[GateOutcome, Path]:
    """The gate's document and where it is stored."""
    from bench.gate.gate import gate as run_gate
    from bench.gate.outcome import write_gate

    outcome = run_gate(question, around, base=base, head=head)
    return outcome, written(lambda: write_gate(results, outcome))


def _show(outcome: GateOutcome, path: Path, as_json: bool) -> None:
    from bench.gate.text import gate_text

    if as_json:
        sys.stdout.write(outcome.json_text())
    else:
        typer.echo(gate_text(outcome))
        typer.echo(f"Everything it rests on: {path}")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _silent(_: str) -> None:
    """Nobody watches: nothing is drawn."""


def _budget_s(text: str) -> float:
    from bench.errors import UsageError
    from bench.units import parse_budget

    duration_s = parse_budget(text, "--budget").duration_s
    if duration_s is None:
        raise UsageError(f"--budget '{text}' must be a time, such as 2min.")
    return duration_s


def _share(text: str) -> float:
    """`3%` or `0.03` → 0.03."""
    from bench.errors import UsageError

    number = text.strip().removesuffix("%")
    try:
        share = float(number) / (100 if number != text.strip() else 1)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise UsageError(f"--min-effect '{text}' is no slowdown to look for: write a share such as 3% or 0.03.")
    return share


def _self_test(question: Question, around: Surroundings, num_gates: int | None, results: Path) -> int:
    """1 where a gate called a regression what was not slowed."""
    from bench.gate.outcome import write_gate
    from bench.gate.selftest import NUM_GATES, self_test, self_test_text

    attempts = self_test(
        question,
        around,
        num_gates=num_gates or NUM_GATES,
        keep=lambda outcome: written(lambda: write_gate(results, outcome)),
    )
    typer.echo(self_test_text(attempts))
    typer.echo(f"Each gate's blocks: {results / 'gates'}")
    return int(any(each.is_false_alarm for each in attempts))


def _write_files(outcome: GateOutcome, markdown: Path | None, junit: Path | None, exports: dict[str, Path]) -> None:
    from bench.gate.exports import EXPORTS, junit_xml
    from bench.gate.text import gate_markdown
    from bench.store import write_atomically

    texts = {path: EXPORTS[name](outcome) for name, path in exports.items()}
    if markdown is not None:
        texts[markdown] = gate_markdown(outcome)
    if junit is not None:
        texts[junit] = junit_xml(outcome)
    for path, text in texts.items():
        written(lambda path=path, text=text: write_atomically(path, text.encode()))  # type: ignore[misc]


def written(write: Callable[[], Written]) -> Written:
    """A file that cannot be written is not a regression, so not exit code 1."""
    from bench.errors import StorageError
    from bench.gate.checkout import GateError

    try:
        return write()
    except StorageError as error:
        raise GateError(str(error)) from error
