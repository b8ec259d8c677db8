"""Words to records: options become a RunSpec, errors become one sentence, and nothing heavy is imported before it is
needed, so that `bench --help` answers at once.

Exit codes: 0 ok, 1 the answer is "no" (a failed run, missing data), 2 usage, 3 inconclusive, 4 invalid.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bench import __version__
from bench.errors import BenchError, UsageError

if TYPE_CHECKING:
    from bench.phases._plan import Plan
    from bench.records import PhaseName, RunSpec

DEMO: dict[str, Any] = {
    "model": "ladagan",
    "size": "tiny",
    "dataset": "scenes",
    "resolution": 32,
    "preset": "smoke",
    "train_for": "150s",
}
_EXIT_CODES = {"ok": 0, "incomplete": 0, "failed": 1, "oom": 1, "timeout": 1, "inconclusive": 3, "invalid": 4}

app = typer.Typer(
    name="bench",
    help="What a GAN costs, and what it gives.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# Where the electricity comes from: CO2 is computed when it is shown, never stored
GridCode = Annotated[
    str | None, typer.Option("--grid", metavar="FRA", help="Country of the electricity, as a three-letter code.")
]
GridIntensity = Annotated[float | None, typer.Option("--grid-g-per-kwh", help="Own figure in place of --grid.")]
GridSource = Annotated[str | None, typer.Option("--grid-source", help="Where the own figure is from.")]
GridYear = Annotated[int | None, typer.Option("--grid-year", help="Year the own figure is for.")]
Pue = Annotated[float, typer.Option("--pue", help="Power usage effectiveness; 1 is the machine alone.")]
Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Folder of all runs.")]


def main(arguments: Sequence[str]) -> int:
    """Run one command → its exit code."""
    try:
        code = app(args=list(arguments), prog_name="bench", standalone_mode=False)
    except BenchError as error:
        _say(f"Error: {error}")
        return error.exit_code
    except typer.Exit as leave:
        return leave.exit_code
    except typer.Abort:
        _say("Stopped; what was measured is kept, and the same command continues.")
        return 130
    except Exception as error:
        if not hasattr(error, "format_message"):  # not a usage error of the option parser
            raise
        _say(f"Error: {error.format_message()}")
        return 2
    return int(code or 0)


def _say(text: str) -> None:
    """To a person, on stderr."""
    typer.echo(text, err=True)


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"gan-bench {__version__}")
        raise typer.Exit(0)


@app.command()
def run(  # noqa: PLR0913, PLR0917 - typer turns each into an option
    model: Annotated[
        str | None, typer.Option(help="A name in `bench list models`, or a file such as my_gan.py.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Named size of the model: paper (default) or tiny.")] = None,
    dataset: Annotated[str | None, typer.Option(help="A name in `bench list datasets`, or folder:PATH.")] = None,
    resolution: Annotated[int | None, typer.Option(help="Pixels per side. Default: the data set's usual one.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step. Default: the recipe's.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, tf32 or bf16. Default: the recipe's.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:N. Default: the GPU where there is one.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random. Default: 0.")] = None,
    train_for: Annotated[
        str | None,
        typer.Option(help="200kimg, 5min or 0.2kWh. Default by preset: 10 s, 5 min, the recipe's images."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="How long to measure: smoke, standard (default) or publish.")
    ] = None,
    phases: Annotated[
        str | None, typer.Option(help="Comma-separated: cost,generate,train_step,train,quality. Default: all.")
    ] = None,
    no_data: Annotated[
        bool, typer.Option("--no-data", help="Cost and speed on random images; no training, no quality.")
    ] = False,
    tdp_w: Annotated[
        float | None, typer.Option(help="Design power of the processor: allows an estimate where there is no meter.")
    ] = None,
    grid: GridCode = None,
    grid_g_per_kwh: GridIntensity = None,
    grid_source: GridSource = None,
    grid_year: GridYear = None,
    pue: Pue = 1.0,
    results: Results = Path("results"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what was measured before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print exactly the stored record on stdout.")] = False,
) -> int:
    """Measure one model on one data set. With no option at all: the demo (LadaGAN tiny on scenes, 32 px)."""
    asked = {
        "model": model,
        "size": size,
        "dataset": dataset,
        "resolution": resolution,
        "batch_size": batch_size,
        "precision": precision,
        "device": device,
        "seed": seed,
        "train_for": train_for,
        "preset": preset,
        "no_data": no_data or None,
        "tdp_w": tdp_w,
    }
    spec = _spec({name: value for name, value in asked.items() if value is not None})
    chosen = _phases(phases)

    from bench import runner
    from bench.report.carbon import co2_sentence
    from bench.report.grids import checked_pue, chosen_grid
    from bench.store import RECORD_FILE

    electricity = chosen_grid(code=grid, g_per_kwh=grid_g_per_kwh, source=grid_source, year=grid_year)
    checked_pue(pue)

    def text(plan: Plan) -> str:
        return f"{plan.text()}\n  energy      {co2_sentence(plan.energy_j, electricity, pue)} ({plan.energy_basis})"

    if dry_run:
        typer.echo(text(runner.plan(spec, results=results, phases=chosen)))
        return 0
    record = runner.run(
        spec, results=results, phases=chosen, fresh=fresh, say=_say, show_plan=lambda plan: _say(text(plan))
    )
    folder = results / record.run_id
    if json:
        sys.stdout.write((folder / RECORD_FILE).read_text(encoding="utf-8"))
    else:
        from bench.report.text import terminal_table

        typer.echo(terminal_table([record]))
        typer.echo(f"Record: {folder / RECORD_FILE}   (`bench show {record.run_id}`, `bench report`)")
    return _EXIT_CODES[record.status]


def _spec(asked: dict[str, Any]) -> RunSpec:
    """The question. Nothing asked is the demo; a question without a model or a data set is not one."""
    from pydantic import ValidationError

    from bench.records import RunSpec

    if not asked:
        words = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in DEMO.items())
        _say(f"No option given, so this is the demo: bench run {words}")
        asked = DEMO
    for name in ("model", "dataset"):
        if name not in asked:
            raise UsageError(
                f"--{name} is missing; `bench list {name}s` shows the choices (no option at all is the demo)."
            )
    try:
        return RunSpec(**asked)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0])
        message = f"--{option.replace('_', '-')} {asked[option]}: {first['msg'][0].lower()}{first['msg'][1:]}."
        raise UsageError(message) from error


def _phases(text: str | None) -> tuple[PhaseName, ...]:
    from bench.records import PHASES
    from bench.registry import suggest

    if text is None:
        return PHASES
    words = [word.strip().replace("-", "_") for word in text.split(",")]
    for word in words:
        if word not in PHASES:
            raise UsageError(f"--phases: unknown phase '{word}'. {suggest(word, PHASES)}")
    return tuple(name for name in PHASES if name in words)


@app.command(name="list")
def list_(
    kind: Annotated[Literal["models", "datasets", "meters", "metrics"], typer.Argument(help="What to list.")],
) -> None:
    """List models, datasets, meters or metrics."""
    from bench import listing

    typer.echo(getattr(listing, kind)())


@app.command()
def show(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run id, or how it begins or ends.")],
    results: Results = Path("results"),
    json: Annotated[bool, typer.Option("--json", help="Print exactly the stored record.")] = False,
) -> None:
    """Show one run: every figure with its interval, how it is known, and what is missing."""
    from bench.report.text import show_run
    from bench.store import RECORD_FILE, find_run

    stored = find_run(results, run_id)
    if json:
        sys.stdout.write((stored.folder / RECORD_FILE).read_text(encoding="utf-8"))
    else:
        typer.echo(show_run(stored))


@app.command()
def report(
    results: Results = Path("results"),
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the report goes.")] = Path("reports"),
    grid: GridCode = None,
    grid_g_per_kwh: GridIntensity = None,
    grid_source: GridSource = None,
    grid_year: GridYear = None,
    pue: Pue = 1.0,
) -> None:
    """Write results.csv, report.md and the pictures from the records in --results; CO2 with --grid."""
    from bench.report.grids import chosen_grid
    from bench.report.text import terminal_table
    from bench.report.write import write_report
    from bench.store import load_all

    electricity = chosen_grid(code=grid, g_per_kwh=grid_g_per_kwh, source=grid_source, year=grid_year)
    files = write_report(results, out, grid=electricity, pue=pue)
    for problem in files.problems:
        _say(f"Skipped: {problem}")
    runs, _ = load_all(results)
    typer.echo(terminal_table([run.record for run in runs]))
    typer.echo("\n".join(str(path) for path in (files.csv, files.markdown, *files.pictures)))


@app.command()
def doctor(
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine's matrix products and copies (20 s).")
    ] = False,
    overhead: Annotated[bool, typer.Option("--overhead", help="Measure what measuring costs (2 minutes).")] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:N. Default: the GPU where there is one.")
    ] = None,
    results: Results = Path("results"),
) -> None:
    """Say what this machine can and cannot measure, and why."""
    from bench import listing

    if not (calibrate or overhead):
        typer.echo(listing.doctor(device))
    if calibrate:
        typer.echo(listing.calibrate(device, results, _say))
    if overhead:
        typer.echo(listing.overhead(device, _say))
