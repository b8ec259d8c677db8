"""Words to records: options become a RunSpec, errors become one sentence, and nothing heavy is imported before it is
needed, so that `bench --help` answers at once.

Exit codes: 0 ok, 1 the answer is "no" (a failed run, missing data), 2 usage, 3 inconclusive, 4 invalid, 75 stopped by
a signal.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench import __version__, cli_audit, cli_data, cli_decide, cli_evaluate, cli_gate, cli_views, cli_weights
from bench import cli_options as options
from bench.cli_views import say
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
    "train_for": "140s",
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


def main(arguments: Sequence[str]) -> int:
    """Run one command → its exit code."""
    try:
        code = app(args=list(arguments), prog_name="bench", standalone_mode=False)
    except BenchError as error:
        say(f"Error: {error}")
        return error.exit_code
    except typer.Exit as leave:
        return leave.exit_code
    except typer.Abort:
        say("Stopped; what was measured is kept, and the same command continues.")
        return 130
    except Exception as error:
        if not hasattr(error, "format_message"):  # not a usage error of the option parser
            raise
        say(f"Error: {error.format_message()}")
        return 2
    return int(code or 0)


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"gan-bench {__version__}")
        raise typer.Exit(0)


@app.command()
def run(  # noqa: PLR0913, PLR0917 - typer turns each into an option
    model: options.Model = None,
    size: options.Size = None,
    attention: options.Attention = None,
    discriminator: options.Discriminator = None,
    dataset: options.Dataset = None,
    resolution: options.Resolution = None,
    batch_size: options.BatchSize = None,
    precision: options.Precision = None,
    device: options.Device = None,
    seed: options.Seed = None,
    train_for: options.TrainFor = None,
    eval_every: options.EvalEvery = None,
    until: options.Until = None,
    metrics: options.Metrics = None,
    weights: options.Weights = None,
    compile_: options.Compile = False,
    capture: options.Capture = False,
    channels_last: options.ChannelsLast = False,
    num_accumulation_steps: options.NumAccumulationSteps = None,
    preset: options.Preset = None,
    phases: options.Phases = None,
    no_data: options.NoData = False,
    tdp_w: options.TdpW = None,
    grid: options.GridCode = None,
    grid_g_per_kwh: options.GridIntensity = None,
    grid_source: options.GridSource = None,
    grid_year: options.GridYear = None,
    pue: options.Pue = 1.0,
    results: options.Results = Path("results"),
    checkpoint_every: options.CheckpointEvery = "5min",
    log: options.Log = None,
    workers: options.Workers = None,
    worker_start: options.WorkerStart = "thread",
    images_in: options.ImagesIn = "auto",
    fresh: options.Fresh = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> int:
    """Measure one model on one data set. With no option at all: the demo (LadaGAN tiny on scenes, 32 px)."""
    spec = _spec(_given(locals()))
    chosen = _phases(phases)

    from bench import runner
    from bench.report.carbon import co2_sentence
    from bench.report.grids import checked_pue, chosen_grid
    from bench.store import RECORD_FILE
    from bench.training.distributed import asked_world
    from bench.training.feed import Loading

    electricity = chosen_grid(code=grid, g_per_kwh=grid_g_per_kwh, source=grid_source, year=grid_year)
    checked_pue(pue)

    def text(plan: Plan) -> str:
        return f"{plan.text()}\n  energy      {co2_sentence(plan.energy_j, electricity, pue)} ({plan.energy_basis})"

    if dry_run:
        typer.echo(text(runner.plan(spec, results=results, phases=chosen)))
        return 0
    loading = Loading(num_workers=1 if workers is None else workers, start_method=worker_start, place=images_in)
    record = runner.run(
        spec,
        results=results,
        phases=chosen,
        fresh=fresh,
        say=say,
        show_plan=lambda plan: say(text(plan)),
        sitting=runner.Sitting(
            checkpoint_every=checkpoint_every,
            logs=() if log is None else (log,),
            loading=loading,
        ),
    )
    if not asked_world().is_first:
        return 0
    folder = results / record.run_id
    if json:
        sys.stdout.write((folder / RECORD_FILE).read_text(encoding="utf-8"))
    else:
        from bench.report.text import terminal_table

        typer.echo(terminal_table([record]))
        typer.echo(f"Record: {folder / RECORD_FILE}   (`bench show {record.run_id}`, `bench report`)")
    return _EXIT_CODES[record.status]


def _given(words: dict[str, Any]) -> dict[str, Any]:
    """Of the command's options those that are part of the question and were given."""
    from bench.records import RunSpec

    named = {name.rstrip("_"): value for name, value in words.items()}  # `compile_` is the option --compile
    if named["metrics"] is not None:
        named["metrics"] = tuple(name.strip().replace("_", "-") for name in named["metrics"].split(","))
    given = {name: named.get(name) for name in RunSpec.model_fields}
    return {name: value for name, value in given.items() if value is not None and value is not False}


def _spec(asked: dict[str, Any]) -> RunSpec:
    """The question. Nothing asked is the demo; a question without a model or a data set is not one."""
    from pydantic import ValidationError

    from bench.records import RunSpec

    if not asked:
        words = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in DEMO.items())
        say(f"No option given, so this is the demo: bench run {words}")
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


app.command(name="list")(cli_views.list_)
app.command(name="import")(cli_weights.import_)
app.add_typer(cli_data.app)
for command in (
    cli_evaluate.evaluate,
    cli_weights.sample,
    cli_views.show,
    cli_views.report,
    cli_decide.compare,
    cli_decide.best,
    cli_audit.audit,
    cli_gate.gate,
    cli_views.doctor,
    cli_views.paper,
    cli_views.scale,
):
    app.command()(command)
