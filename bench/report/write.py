"""`bench report`: everything under `results/` → `results.csv`, `curve.csv`, `report.md` and pictures under `reports/`.

The same records give the same bytes, so that a report under version control changes only when a result does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from bench.report import plots, plots_quality, plots_training
from bench.report.csv_table import curve_csv, results_csv
from bench.report.grids import Grid, checked_pue
from bench.report.markdown import COST_TITLE, CURVE_TITLE, PictureNote, report_markdown
from bench.report.notation import plain
from bench.report.published import reported
from bench.store import load_all, storage_errors, write_atomically

# file name, title, what draws it from all stored runs
_PICTURES = (
    ("throughput", "Throughput", plots.throughput),
    ("quality", CURVE_TITLE, plots_quality.quality_curves),
    ("cost_of_quality", COST_TITLE, plots_quality.cost_of_quality),
    ("loss", "Losses", plots_training.loss),
    ("samples", "Samples", plots_training.samples),
)
_SUFFIXES = ("png", "svg")


@dataclass(frozen=True)
class ReportFiles:
    """What a report consists of; `problems` is one sentence per record, log or image that could not be read."""

    csv: Path
    curve_csv: Path
    markdown: Path
    pictures: tuple[Path, ...]
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
    checked_pue(pue)
    stored, broken = load_all(results)
    records = [run.record for run in stored]
    runs = [replace(run, record=reported(run.record)) for run in stored]
    problems = [plain(problem) for problem in broken]
    notes: list[PictureNote] = []
    pictures: list[Path] = []
    for name, title, draw in _PICTURES:
        with plots.house_style():
            drawing = draw(runs)
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
    csv, curves, markdown = (reports / name for name in ("results.csv", "curve.csv", "report.md"))
    write_atomically(csv, results_csv(records, grid=grid, pue=pue).encode())
    write_atomically(curves, curve_csv(records).encode())
    page = report_markdown(records, notes, problems, grid=grid, pue=pue)
    write_atomically(markdown, page.encode())
    return ReportFiles(csv, curves, markdown, tuple(pictures), tuple(problems))
