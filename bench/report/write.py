"""`bench report`: everything under `results/` → `report.html`, `report.md`, CSV tables and pictures under `reports/`.

The same records give the same bytes, so that a report under version control changes only when a result does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.notation import plain
from bench.phases._scale_record import ScaleRecord, load_every
from bench.records import Record
from bench.report import (
    plots,
    plots_carbon,
    plots_frontier,
    plots_memory,
    plots_operators,
    plots_parts,
    plots_quality,
    plots_roofline,
    plots_training,
)
from bench.report.frontier import frontier_rows
from bench.report.grids import Grid, checked_pue
from bench.report.markdown import COST_TITLE, CURVE_TITLE, FRONTIER_TITLE, Judgement, PictureNote, report_markdown
from bench.report.page import PagePicture, html_page
from bench.report.plots import Drawing
from bench.report.survey import survey
from bench.report.verdict import verdicts
from bench.store import StoredRun, storage_errors, write_atomically


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
    page: Path
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
    scales, broken_scales = load_every(results)
    problems = [*found.problems, *map(plain, broken_scales)]
    for name, table in found.tables.items():
        write_atomically(reports / name, table.text().encode())
    pictures, undrawn = _drawn(found.shown, scales, pue)
    problems += undrawn
    drawn = [path for picture in pictures for path in _written(picture, reports)]
    records = [run.record for run in found.shown]
    judgement = Judgement(
        findings=found.findings,
        verdicts=verdicts(found.shown, list(scales.values())),
        frontier=frontier_rows(found.shown),
    )
    notes = [PictureNote(each.title, f"{each.name}.png" if each.png else None, each.caption) for each in pictures]
    text = report_markdown(records, notes, problems, judgement=judgement, grid=grid, pue=pue, left_out=found.left_out)
    write_atomically(reports / "report.md", text.encode())
    page = html_page(
        found.shown,
        pictures=pictures,
        verdicts=judgement.verdicts,
        findings=judgement.findings,
        problems=problems,
        grid=grid,
        pue=pue,
        num_runs=found.num_runs,
    )
    write_atomically(reports / "report.html", page.encode())
    return ReportFiles(
        tables=tuple(reports / name for name in found.tables),
        page=reports / "report.html",
        markdown=reports / "report.md",
        pictures=tuple(drawn),
        shown=tuple(records),
        left_out=found.left_out,
        problems=tuple(problems),
    )


def _drawn(
    runs: Sequence[StoredRun], scales: Mapping[str, ScaleRecord], pue: float
) -> tuple[list[PagePicture], list[str]]:
    """All pictures as bytes, and one sentence for each file that could not be read for one."""
    pictures: list[PagePicture] = []
    problems: list[str] = []
    for name, title, draw in _pictures(runs, scales, pue):
        with plots.house_style():
            drawing = draw()
            files = plots.encoded(drawing.figure) if drawing.figure is not None else {}
        pictures.append(PagePicture(name=name, title=title, caption=drawing.caption, **files))
        problems += map(plain, drawing.problems)
    return pictures, problems


def _written(picture: PagePicture, reports: Path) -> list[Path]:
    """The files of a picture; one of an older report is removed where there is nothing to draw now."""
    paths = []
    for suffix, content in (("png", picture.png), ("svg", picture.svg)):
        path = reports / f"{picture.name}.{suffix}"
        if content is not None:
            write_atomically(path, content)
            paths.append(path)
        else:
            with storage_errors(path):
                path.unlink(missing_ok=True)
    return paths


def _pictures(
    runs: Sequence[StoredRun], scales: Mapping[str, ScaleRecord], pue: float
) -> list[tuple[str, str, Callable[[], Drawing]]]:
    """File name, title and what draws it."""
    return [
        ("frontier", FRONTIER_TITLE, partial(plots_frontier.frontier, runs)),
        ("throughput", "Throughput", partial(plots.throughput, runs)),
        ("quality", CURVE_TITLE, partial(plots_quality.quality_curves, runs)),
        ("cost_of_quality", COST_TITLE, partial(plots_quality.cost_of_quality, runs)),
        ("samples", "Samples", partial(plots_training.samples, runs)),
        ("step_parts", "Where a step's time and joules go", partial(plots_parts.step_parts, runs)),
        ("roofline", "Roofline", partial(plots_roofline.roofline, runs)),
        ("memory", "Memory against batch size", partial(plots_memory.memory_against_batch, runs)),
        ("operators", "Attention operators over tokens", partial(plots_operators.operators, scales)),
        ("carbon", "CO2 under five grids", partial(plots_carbon.carbon_grids, runs, pue)),
        ("loss", "Losses", partial(plots_training.loss, runs)),
    ]
