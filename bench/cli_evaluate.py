"""The command `evaluate`: images of any tool, scored with the protocol of the runs. Heavy imports wait."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench import cli_options as options
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.evaluation import Evaluation


def evaluate(  # noqa: PLR0913, PLR0917 - typer turns each into an option
    generated: Annotated[
        str, typer.Option("--generated", metavar="DIR|RUN", help="A folder or ZIP archive of images, or a run.")
    ],
    real: Annotated[
        str, typer.Option("--real", metavar="DATASET|DIR", help="A name in `bench list datasets`, or a folder.")
    ],
    resolution: Annotated[int | None, typer.Option(help="Pixels per side. Default: the generated images'.")] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="A,B", help="Names in `bench list metrics`. Default: all that apply.")
    ] = None,
    device: options.Device = None,
    results: options.Results = Path("results"),
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where the record goes. Default: in --results.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print exactly the stored record on stdout.")] = False,
) -> None:
    """Score any images, of any tool or of a run, against real ones; figures are those a run would give them."""
    from bench import evaluation

    asked = None if metrics is None else metrics.split(",")
    found = evaluation.evaluate(generated, real, resolution=resolution, metrics=asked, results=results, device=device)
    path = evaluation.save(found, results, out)
    if json:
        sys.stdout.write(path.read_text(encoding="utf-8"))
    else:
        typer.echo(_table(found))
        typer.echo(f"Record: {path}")
    if found.status == "failed":
        raise BenchError(f"There is no figure. {found.reason}.")


def _table(found: Evaluation) -> str:
    """One row per figure: its value, what real images get, or why it is unknown."""
    from tabulate import tabulate

    from bench.notation import UNKNOWN, format_quantity, plain

    own = {name: figure for name, figure in found.quantities.items() if not name.endswith("_real")}
    rows = [
        [name, format_quantity(figure), format_quantity(found.quantities.get(f"{name}_real")), figure.unit]
        for name, figure in own.items()
    ]
    notes = [f"{name} {UNKNOWN}: {plain(figure.note)}" for name, figure in own.items() if figure.value is None]
    question = found.question
    title = plain(f"{question.generated} against {question.real}, {question.resolution} px")
    table = tabulate(rows, headers=["figure", "value", "real images", "unit"], disable_numparse=True)
    return "\n".join([title, "", table, *notes])
