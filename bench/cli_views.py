"""The commands beside `run`: list, show, report, doctor, paper, scale. Heavy imports wait until they are needed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from bench import cli_options as options

_MAX_PROBLEMS = 20


def say(text: str) -> None:
    """To a person, on stderr."""
    typer.echo(text, err=True)


def list_(
    kind: Annotated[Literal["models", "datasets", "meters", "metrics", "runs"], typer.Argument(help="What to list.")],
    results: options.Results = Path("results"),
) -> None:
    """List models, datasets, meters, metrics, or the runs in --results that were written last."""
    if kind == "runs":
        from bench.report.text import newest_runs

        typer.echo(newest_runs(results))
    else:
        from bench import listing

        typer.echo(getattr(listing, kind)())


def show(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run id, or how it begins or ends.")],
    results: options.Results = Path("results"),
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


def report(
    results: options.Results = Path("results"),
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the report goes.")] = Path("reports"),
    grid: options.GridCode = None,
    grid_g_per_kwh: options.GridIntensity = None,
    grid_source: options.GridSource = None,
    grid_year: options.GridYear = None,
    pue: options.Pue = 1.0,
) -> None:
    """Write report.html, report.md, the CSV tables and pictures from the records in --results; CO2 with --grid."""
    from bench.report.grids import chosen_grid
    from bench.report.text import MAX_TERMINAL_RUNS, terminal_table
    from bench.report.write import write_report

    electricity = chosen_grid(code=grid, g_per_kwh=grid_g_per_kwh, source=grid_source, year=grid_year)
    files = write_report(results, out, grid=electricity, pue=pue)
    for problem in files.problems[:_MAX_PROBLEMS]:
        say(f"Skipped: {problem}")
    if len(files.problems) > _MAX_PROBLEMS:
        say(f"Skipped: {len(files.problems) - _MAX_PROBLEMS} more, listed at the end of {files.markdown}.")
    if files.left_out:
        say(files.left_out)
    if len(files.shown) <= MAX_TERMINAL_RUNS:
        typer.echo(terminal_table(files.shown))
    typer.echo("\n".join(str(path) for path in (files.page, files.markdown, *files.tables, *files.pictures)))


def doctor(
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine's matrix products and copies (20 s).")
    ] = False,
    overhead: Annotated[bool, typer.Option("--overhead", help="Measure what measuring costs (2 minutes).")] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:N. Default: the GPU where there is one.")
    ] = None,
    results: options.Results = Path("results"),
) -> None:
    """Say what this machine can and cannot measure, and why."""
    from bench import listing

    if not (calibrate or overhead):
        typer.echo(listing.doctor(device))
    if calibrate:
        typer.echo(listing.calibrate(device, results, say))
    if overhead:
        typer.echo(listing.overhead(device, say))


def paper(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="One model; all without it.")] = None,
) -> None:
    """Show published figures beside ours, with the convention that makes them comparable."""
    from bench.paper import table

    typer.echo(table(model))


def scale(  # noqa: PLR0913, PLR0917 - typer turns each into an option
    attention: Annotated[
        str | None, typer.Option(metavar="A,B", help="Operators, comma-separated. Default: all of them.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:N. Default: the GPU where there is one.")
    ] = None,
    width: Annotated[int, typer.Option(help="Channels of the attention layer.")] = 256,
    heads: Annotated[int, typer.Option(help="Heads of the attention layer.")] = 4,
    max_tokens: Annotated[int | None, typer.Option(help="Stop here. Default: when memory or time ends.")] = None,
    budget: Annotated[str, typer.Option(help="Time for the whole study.")] = "5min",
    results: options.Results = Path("results"),
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the report goes.")] = Path("reports"),
) -> None:
    """Measure how each attention operator grows with its tokens, and where the operators cross."""
    from bench.phases._scale import measure_scale, scale_request
    from bench.phases._scale_record import save
    from bench.report.scale import write_scale_report
    from bench.report.scale_text import scale_summary

    request = scale_request(
        attention=attention, device=device, width=width, heads=heads, max_tokens=max_tokens, budget=budget
    )
    record = measure_scale(request, say=say)
    stored = save(record, results)
    files = write_scale_report(record, out)
    typer.echo(scale_summary(record))
    typer.echo("\n".join(str(path) for path in (stored, *files.tables, *files.pictures)))
