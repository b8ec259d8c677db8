"""`results.csv`: one row per run, unrounded, for spreadsheets and pandas.

A column is named after its quantity, with the ends of the 95 % interval in `NAME_low` and `NAME_high`. An unknown
figure is an empty cell and its reason is in `notes`; one that was not measured or computed is named in `kinds`.

An energy and a CO2 also have `NAME_label`, how it is known, and `NAME_systematic`, the sensor's relative error, which
is not in the interval. `PHASE_energy_publishable` is apart from `publishable`, which speaks of the run: a run may be
sound and its windows too short for joules. CO2 is computed for the report, under the grid and PUE that stand in the
same row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.notation import provenance_mark
from bench.records import Quantity, Record
from bench.report.carbon import ACTIVITIES
from bench.report.csv_lines import Cell, csv_lines
from bench.report.grids import Grid
from bench.report.published import known_energy, why_energy_not_publishable
from bench.report.rows import (
    CO2_COLUMNS,
    ENERGY_COLUMNS,
    HEADLINE_COLUMNS,
    all_quantities,
    skipped_phases,
    sort_key,
    status_reason,
    why_not_publishable,
    why_unknown,
)

_QUESTION_COLUMNS = (
    "run_id",
    "model",
    "size",
    "dataset",
    "resolution",
    "device",
    "precision",
    "batch_size",
    "seed",
    "preset",
    "publishable",
    "status",
    "status_reason",
)
_WORTH_COLUMNS = tuple(f"{activity.phase}_energy_publishable" for activity in ACTIVITIES)
_GRID_COLUMNS = ("grid_region", "grid_g_per_kwh", "grid_year", "grid_source", "pue")
# Fields of the question, each its own column.
_TRAINING_COLUMNS = (
    "eval_every",
    "until",
    "compile",
    "capture",
    "channels_last",
    "num_accumulation_steps",
    "num_processes",
)
_ORIGIN_COLUMNS = (
    "attention",
    "discriminator",
    *_TRAINING_COLUMNS,
    "cpu",
    "gpus",
    "torch",
    "harness_version",
    "model_source_hash",
    "created_at",
)
_TEXT_COLUMNS = ("kinds", "notes")
# What follows a figure's name in its further columns.
_ENDS = ("_low", "_high")
_ENERGY_ENDS = (*_ENDS, "_label", "_systematic")
_ALWAYS_LABELLED = (*ENERGY_COLUMNS, *CO2_COLUMNS)


class ResultsTable:
    """`results.csv`, filled record by record: only the cells are kept.

    Args:
        grid: what a kilowatt-hour stands for; None leaves CO2 and the grid's columns empty.
        pue: power usage effectiveness, at least 1 (`checked_pue`).
    """

    def __init__(self, grid: Grid | None = None, pue: float = 1.0) -> None:
        self._grid_cells = _grid_cells(grid, pue)
        self._rows: list[_Row] = []

    def add(self, record: Record) -> None:
        """A run, as a report may show it (`published.reported` with the same grid and PUE)."""
        found = all_quantities(record)
        cells = _question_cells(record) | _worth_cells(record) | self._grid_cells | _origin_cells(record)
        figures = {name: (each.value, each.low, each.high, each.label, each.systematic) for name, each in found.items()}
        texts: dict[str, Cell] = {"kinds": _kinds(found), "notes": _notes(record, found)}
        self._rows.append(_Row(key=sort_key(record), cells=cells | texts, figures=figures))

    def text(self) -> str:
        """All runs in the order of every table as CSV with a header line; the header alone where there are none."""
        others = {name for row in self._rows for name in row.figures} - set(HEADLINE_COLUMNS)
        labelled = {name for row in self._rows for name, figure in row.figures.items() if figure[3] is not None}
        ends_of = {
            name: _ENERGY_ENDS if name in labelled or name in _ALWAYS_LABELLED else _ENDS
            for name in (*HEADLINE_COLUMNS, *sorted(others))
        }
        columns = _quantity_columns(ends_of)
        of_figures = [f"{column}{end}" for name, column in columns.items() for end in ("", *ends_of[name])]
        header = [*_QUESTION_COLUMNS, *of_figures, *_WORTH_COLUMNS, *_GRID_COLUMNS, *_ORIGIN_COLUMNS, *_TEXT_COLUMNS]
        lines: list[list[Cell]] = [list(header)]
        for row in sorted(self._rows, key=lambda row: row.key):
            of_row = row.cells | {
                f"{columns[name]}{end}": cell
                for name, figure in row.figures.items()
                for end, cell in zip(("", *_ENERGY_ENDS), figure, strict=True)
            }
            lines.append([of_row.get(name) for name in header])
        return csv_lines(lines)


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One run: its place, its cells, and of each figure value, low, high, label and systematic."""

    key: tuple[str, int, str, str, str]
    cells: dict[str, Cell]
    figures: Mapping[str, tuple[Cell, ...]]


def _question_cells(record: Record) -> dict[str, Cell]:
    spec = record.spec
    cells: tuple[Cell, ...] = (
        record.run_id,
        spec.model,
        spec.size,
        spec.dataset,
        spec.resolution,
        spec.device,
        spec.precision,
        spec.batch_size,
        spec.seed,
        spec.preset,
        not why_not_publishable(record),
        record.status,
        status_reason(record),
    )
    return dict(zip(_QUESTION_COLUMNS, cells, strict=True))


def _origin_cells(record: Record) -> dict[str, Cell]:
    machine = record.machine
    cells: tuple[Cell, ...] = (
        record.spec.attention,
        record.spec.discriminator,
        *(getattr(record.spec, name) for name in _TRAINING_COLUMNS),
        machine.cpu,
        "; ".join(machine.gpus),
        machine.torch,
        record.harness_version,
        record.model.source_hash,
        record.created_at,
    )
    return dict(zip(_ORIGIN_COLUMNS, cells, strict=True))


def _worth_cells(record: Record) -> dict[str, Cell]:
    """Whether each energy may be published; empty where it is unknown."""
    answers = [
        None if known_energy(record, activity) is None else not why_energy_not_publishable(record, activity)
        for activity in ACTIVITIES
    ]
    return dict(zip(_WORTH_COLUMNS, answers, strict=True))


def _grid_cells(grid: Grid | None, pue: float) -> dict[str, Cell]:
    cells: tuple[Cell, ...] = (None,) * len(_GRID_COLUMNS)
    if grid is not None:
        cells = (grid.region, grid.g_per_kwh, grid.year, grid.source, pue)
    return dict(zip(_GRID_COLUMNS, cells, strict=True))


def _quantity_columns(ends_of: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Quantity → its column. A name that is another column's already gets the prefix `quantity:`, and loses nothing."""
    taken = {*_QUESTION_COLUMNS, *_WORTH_COLUMNS, *_GRID_COLUMNS, *_ORIGIN_COLUMNS, *_TEXT_COLUMNS}
    taken |= {f"{name}{end}" for name, ends in ends_of.items() for end in ends}
    return {name: f"quantity:{name}" if name in taken else name for name in ends_of}


def _kinds(found: dict[str, Quantity]) -> str:
    return "; ".join(f"{name}: {mark}" for name, figure in found.items() if (mark := provenance_mark(figure)))


def _notes(record: Record, found: dict[str, Quantity]) -> str:
    """`name: reason` of every figure that is unknown or not to be published, and of every phase that was skipped."""
    names = dict.fromkeys([*HEADLINE_COLUMNS, *found])
    reasons = {name: why_unknown(record, name) for name in names}
    notes = [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]
    doubts = {activity.gross: why_energy_not_publishable(record, activity) for activity in ACTIVITIES}
    notes += [f"{name}: {doubt}" for name, doubt in doubts.items() if doubt]
    notes += [f"{phase}: skipped: {reason}" for phase, reason in skipped_phases(record).items()]
    return "; ".join(notes)
