"""Words to records: options become a RunSpec, errors become one sentence, and nothing heavy is imported before it is
needed, so that `bench --help` answers at once.

Exit codes: 0 ok, 1 the answer is "no" (a failed run, missing data), 2 usage, 3 inconclusive, 4 invalid.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench import __version__, cli_views
from bench.cli_views import GridCode, GridIntensity, GridSource, GridYear, Pue, Results, say
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
    model: Annotated[
        str | None, typer.Option(help="A name in `bench list models`, or a file such as my_gan.py.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Named size of the model: paper (default) or tiny.")] = None,
    attention: Annotated[
        str | None, typer.Option(help="Operator of the attention layers, where the model offers several.")
    ] = None,
    discriminator: Annotated[
        str | None, typer.Option(help="Train with the discriminator and losses of this other model.")
    ] = None,
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
        "attention": attention,
        "discriminator": discriminator,
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
        spec, results=results, phases=chosen, fresh=fresh, say=say, show_plan=lambda plan: say(text(plan))
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
for command in (cli_views.show, cli_views.report, cli_views.doctor, cli_views.paper, cli_views.scale):
    app.command()(command)
