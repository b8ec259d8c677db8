"""`bench report`: everything under `results/` → CSV tables, `report.md` and pictures under `reports/`.

The same records give the same bytes, so that a report under version control changes only when a result does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.records import Record
from bench.report import plots, plots_quality, plots_training
from bench.report.csv_long import LongTable
from bench.report.csv_table import ResultsTable
from bench.report.grids import Grid, checked_pue
from bench.report.markdown import COST_TITLE, CURVE_TITLE, PictureNote, report_markdown
from bench.report.notation import plain
from bench.report.survey import survey
from bench.store import storage_errors, write_atomically

# file name, title, what draws it from all stored runs
_PICTURES = (
    ("throughput", "Throughput", plots.throughput),
    ("quality", CURVE_TITLE, plots_quality.quality_curves),
    ("cost_of_quality", COST_TITLE, plots_quality.cost_of_quality),
    ("loss", "Losses", plots_training.loss),
    ("samples", "Samples", plots_training.samples),
)
_SUFFIXES = ("png", "svg")


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """What a report consists of.

    Attributes:
        tables: the CSV files; every run is in them.
        shown: the runs of the Markdown and the pictures.
        left_out: a sentence where those are not all.
        problems: one sentence per record, log or image that could not be read.
    """

    tables: tuple[Path, ...]
    markdown: Path
    pictures: tuple[Path, ...]
    shown: tuple[Record, ...]
    left_out: str
    problems: tuple[str, ...]


def write_report(results: Path, reports: Path, *, grid: Grid | None = None, pue: float = 1.0) -> ReportFiles:
    """Make the report of all runs in `results`; a picture without data is removed and the report says why.

    Args:
        grid: what a kilowatt-hour stands for (`chosen_grid`); None leaves CO2 unknown.
        pue: power usage effectiveness of the place where the machine stands; 1 is the machine alone.

    Raises:
        UsageError: the PUE cannot be.
        StorageError: `reports` cannot be written.
    """
    found = survey(results, grid=grid, pue=checked_pue(pue))
    problems = list(found.problems)
    tables: dict[str, ResultsTable | LongTable] = {
        "results.csv": found.results,
        "curve.csv": found.curve,
        "measurements.csv": found.measurements,
    }
    for name, table in tables.items():
        write_atomically(reports / name, table.text().encode())
    notes: list[PictureNote] = []
    pictures: list[Path] = []
    for name, title, draw in _PICTURES:
        with plots.house_style():
            drawing = draw(found.shown)
            files = plots.encoded(drawing.figure) if drawing.figure is not None else {}
        for suffix in _SUFFIXES:
            path = reports / f"{name}.{suffix}"
            if suffix in files:
                write_atomically(path, files[suffix])
                pictures.append(path)
            else:
                with storage_errors(path):
                    path.unlink(missing_ok=True)
        notes.append(PictureNote(title, f"{name}.png" if files else None, drawing.caption))
        problems += map(plain, drawing.problems)
    records = [run.record for run in found.shown]
    page = report_markdown(records, notes, problems, grid=grid, pue=pue, left_out=found.left_out)
    write_atomically(reports / "report.md", page.encode())
    return ReportFiles(
        tables=tuple(reports / name for name in tables),
        markdown=reports / "report.md",
        pictures=tuple(pictures),
        shown=tuple(records),
        left_out=found.left_out,
        problems=tuple(problems),
    )
