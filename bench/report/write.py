"""`bench report`: everything under `results/` → `results.csv`, `report.md` and pictures under `reports/`.

The same records give the same bytes, so that a report under version control changes only when a result does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.report import plots, plots_training
from bench.report.csv_table import results_csv
from bench.report.markdown import PictureNote, report_markdown
from bench.report.notation import plain
from bench.store import load_all, storage_errors, write_atomically

# file name, title, what draws it from all stored runs
_PICTURES = (
    ("throughput", "Throughput", plots.throughput),
    ("quality", "Quality while training", plots.quality),
    ("loss", "Losses", plots_training.loss),
    ("samples", "Samples", plots_training.samples),
)
_SUFFIXES = ("png", "svg")


@dataclass(frozen=True)
class ReportFiles:
    """What a report consists of; `problems` is one sentence per record, log or image that could not be read."""

    csv: Path
    markdown: Path
    pictures: tuple[Path, ...]
    problems: tuple[str, ...]


def write_report(results: Path, reports: Path) -> ReportFiles:
    """Make the report of all runs in `results`; a picture without data is removed and the report says why.

    Raises:
        StorageError: `reports` cannot be written.
    """
    runs, broken = load_all(results)
    records = [run.record for run in runs]
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
    csv, markdown = reports / "results.csv", reports / "report.md"
    write_atomically(csv, results_csv(records).encode())
    write_atomically(markdown, report_markdown(records, notes, problems).encode())
    return ReportFiles(csv, markdown, tuple(pictures), tuple(problems))
