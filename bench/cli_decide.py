"""The commands `compare` and `best`: which of two runs, and which of all fits a budget. Heavy imports wait."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from bench import cli_options as options
from bench.cli_views import say


def compare(
    run_a: Annotated[str, typer.Argument(metavar="A", help="A run id, or the path of a run's folder or record.json.")],
    run_b: Annotated[str, typer.Argument(metavar="B", help="As A; ratios are B over A.")],
    results: options.Results = Path("results"),
    show_all: Annotated[bool, typer.Option("--all", help="Every figure, not the headlines alone.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the whole comparison as JSON on stdout.")] = False,
) -> None:
    """Compare two runs: each figure's ratio with its interval, what differs, and the sentence one would say."""
    from bench.errors import UsageError
    from bench.report.versus import compare_runs, run_at
    from bench.report.versus_text import comparison_document, comparison_text

    record_a, record_b = run_at(results, run_a), run_at(results, run_b)
    if record_a == record_b:
        raise UsageError(f"A and B are the same run, {record_a.run_id}: name two.")
    comparison = compare_runs(record_a, record_b)
    if json:
        sys.stdout.write(json_module.dumps(comparison_document(comparison), indent=2, allow_nan=False) + "\n")
    else:
        typer.echo(comparison_text(comparison, show_all=show_all))


def best(  # noqa: PLR0913, PLR0917 - typer turns each into an option
    latency_ms: Annotated[float | None, typer.Option(help="At most so long for one image (p50, batch 1).")] = None,
    energy_j: Annotated[float | None, typer.Option(help="At most so many joules per generated image.")] = None,
    quality: Annotated[
        list[str] | None, typer.Option(metavar="LIMIT", help="For example rfd_v1<=0.2; may be given several times.")
    ] = None,
    memory_gib: Annotated[float | None, typer.Option(help="At most so much memory while generating.")] = None,
    images_per_s: Annotated[float | None, typer.Option(help="At least so many generated images per second.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only runs on this data set.")] = None,
    resolution: Annotated[int | None, typer.Option(help="Only runs at so many pixels per side.")] = None,
    device: Annotated[str | None, typer.Option(help="Only runs on cpu, cuda or cuda:N.")] = None,
    precision: Annotated[str | None, typer.Option(help="Only runs in fp32, tf32 or bf16.")] = None,
    by: Annotated[
        Literal["energy", "latency", "throughput", "memory", "macs", "quality"] | None,
        typer.Option(help="Order. Default: joules per image where all have them, else latency, else MACs."),
    ] = None,
    results: options.Results = Path("results"),
    show_all: Annotated[bool, typer.Option("--all", help="Name every run that does not fit.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON on stdout.")] = False,
) -> None:
    """Say which runs fit a budget, cheapest first, and why the others do not; exit code 1 where none does."""
    from bench.report.best import best_of, limits_of
    from bench.report.best_text import answer_document, answer_text, asked_about
    from bench.store import load_all

    limits = limits_of(
        latency_ms=latency_ms,
        energy_j=energy_j,
        memory_gib=memory_gib,
        images_per_s=images_per_s,
        quality=quality or (),
    )
    stored, problems = load_all(results)
    for problem in problems:
        say(f"Skipped: {problem}")
    records = asked_about(
        [run.record for run in stored], dataset=dataset, resolution=resolution, device=device, precision=precision
    )
    answer = best_of(records, limits, by)
    if json:
        sys.stdout.write(json_module.dumps(answer_document(answer), indent=2, allow_nan=False) + "\n")
    else:
        typer.echo(answer_text(answer, records, num_stored=len(stored), show_all=show_all))
    if not answer.groups:
        raise typer.Exit(1)
