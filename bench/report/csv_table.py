"""`results.csv`: one row per run; `curve.csv`: one per evaluation and metric. Unrounded, for spreadsheets and pandas.

A column is named after its quantity, with the ends of the 95 % interval in `NAME_low` and `NAME_high`. An unknown
figure is an empty cell and its reason is in `notes`; one that was not measured or computed is named in `kinds`.

An energy and a CO2 also have `NAME_label`, how it is known, and `NAME_systematic`, the sensor's relative error, which
is not in the interval. `PHASE_energy_publishable` is apart from `publishable`, which speaks of the run: a run may be
sound and its windows too short for joules. CO2 is computed here, under the grid and PUE that stand in the same row.

In `curve.csv` images, seconds and joules are training's alone; what the evaluation itself took is in its own columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from bench.records import CurvePoint, Quantity, Record
from bench.report.carbon import ACTIVITIES
from bench.report.curves import ordered_points, shown_energy
from bench.report.grids import Grid
from bench.report.notation import csv_text, provenance_mark
from bench.report.published import known_energy, reported, why_energy_not_publishable
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

_LARGEST_EXACT_INTEGER = 2**53

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
_CURVE_COLUMNS = (
    "run_id",
    "model_title",
    "dataset",
    "resolution",
    "seed",
    "num_images_shown",
    "train_duration_s",
    "train_energy_j",
    "train_energy_j_low",
    "train_energy_j_high",
    "train_energy_j_label",
    "metric",
    "value",
    "low",
    "high",
    "evaluation_duration_s",
    "evaluation_energy_j",
    "evaluation_energy_j_label",
    "kind",
    "note",
)
# What follows a figure's name in its further columns.
_ENDS = ("_low", "_high")
_ENERGY_ENDS = (*_ENDS, "_label", "_systematic")
_ALWAYS_LABELLED = (*ENERGY_COLUMNS, *CO2_COLUMNS)

Cell = str | int | float | bool | None


def results_csv(records: Sequence[Record], *, grid: Grid | None = None, pue: float = 1.0) -> str:
    """All runs as CSV text with a header line; the header alone where there are no runs.

    Args:
        grid: what a kilowatt-hour stands for; None leaves CO2 and the grid's columns empty.
        pue: power usage effectiveness, at least 1 (`checked_pue`).
    """
    records = sorted((reported(record, grid, pue) for record in records), key=sort_key)
    figures = [all_quantities(record) for record in records]
    others = sorted({name for found in figures for name in found} - set(HEADLINE_COLUMNS))
    labelled = {name for found in figures for name, figure in found.items() if figure.label is not None}
    ends_of = {
        name: _ENERGY_ENDS if name in labelled or name in _ALWAYS_LABELLED else _ENDS
        for name in (*HEADLINE_COLUMNS, *others)
    }
    columns = _quantity_columns(ends_of)
    rows = []
    for record, found in zip(records, figures, strict=True):
        cells: dict[str, Cell] = {**_question_cells(record)}
        for name, column in columns.items():
            cells |= _quantity_cells(column, found.get(name))
        cells |= _worth_cells(record) | _grid_cells(grid, pue) | _origin_cells(record)
        rows.append(cells | {"kinds": _kinds(found), "notes": _notes(record, found)})
    of_figures = [f"{column}{end}" for name, column in columns.items() for end in ("", *ends_of[name])]
    header = [*_QUESTION_COLUMNS, *of_figures, *_WORTH_COLUMNS, *_GRID_COLUMNS, *_ORIGIN_COLUMNS, *_TEXT_COLUMNS]
    return _csv(header, rows)


def curve_csv(records: Sequence[Record]) -> str:
    """Every metric of every evaluation as CSV text with a header line; an evaluation without figures keeps a row."""
    rows: list[dict[str, Cell]] = []
    for record in sorted((reported(record) for record in records), key=sort_key):
        for point in ordered_points(record):
            spent = _spent_cells(record, point)
            rows += [
                spent
                | {
                    "metric": name,
                    "value": _number(figure.value),
                    "low": _number(figure.low),
                    "high": _number(figure.high),
                    "kind": figure.kind,
                    "note": figure.note,
                }
                for name, figure in point.quantities.items()
            ] or [spent]
    return _csv(_CURVE_COLUMNS, rows)


def _spent_cells(record: Record, point: CurvePoint) -> dict[str, Cell]:
    """Whose evaluation it is and what was spent; joules beside a simulated device are empty, as in every table."""
    training, evaluation = (shown_energy(record, energy) for energy in (point.train_energy, point.evaluation_energy))
    return {
        "run_id": record.run_id,
        "model_title": record.spec.model_title,
        "dataset": record.spec.dataset,
        "resolution": record.spec.resolution,
        "seed": record.spec.seed,
        "num_images_shown": point.num_images_shown,
        "train_duration_s": _number(point.train_duration_s),
        "train_energy_j": None if training is None else _number(training.value),
        "train_energy_j_low": None if training is None else _number(training.low),
        "train_energy_j_high": None if training is None else _number(training.high),
        "train_energy_j_label": None if training is None else training.label,
        "evaluation_duration_s": _number(point.evaluation_duration_s),
        "evaluation_energy_j": None if evaluation is None else _number(evaluation.value),
        "evaluation_energy_j_label": None if evaluation is None else evaluation.label,
    }


def _csv(header: Sequence[str], rows: Sequence[Mapping[str, Cell]]) -> str:
    """Rows by column name → CSV text whose strings are inert; a column that a row lacks is empty."""
    cells = [[csv_text(cell) if isinstance(cell := row.get(name), str) else cell for name in header] for row in rows]
    frame = pd.DataFrame(cells, columns=[csv_text(name) for name in header], dtype=object)
    return frame.to_csv(index=False, lineterminator="\n")


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
        cells = (grid.region, _number(grid.g_per_kwh), grid.year, grid.source, _number(pue))
    return dict(zip(_GRID_COLUMNS, cells, strict=True))


def _quantity_columns(ends_of: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Quantity → its column. A name that is another column's already gets the prefix `quantity:`, and loses nothing."""
    taken = {*_QUESTION_COLUMNS, *_WORTH_COLUMNS, *_GRID_COLUMNS, *_ORIGIN_COLUMNS, *_TEXT_COLUMNS}
    taken |= {f"{name}{end}" for name, ends in ends_of.items() for end in ends}
    return {name: f"quantity:{name}" if name in taken else name for name in ends_of}


def _quantity_cells(column: str, quantity: Quantity | None) -> dict[str, Cell]:
    if quantity is None:
        return dict.fromkeys([column, *(f"{column}{end}" for end in _ENERGY_ENDS)])
    return {
        column: _number(quantity.value),
        f"{column}_low": _number(quantity.low),
        f"{column}_high": _number(quantity.high),
        f"{column}_label": quantity.label,
        f"{column}_systematic": _number(quantity.systematic),
    }


def _number(value: float | None) -> float | int | None:
    """Counts without `.0`: 19901647.0 → 19901647."""
    if value is not None and value.is_integer() and abs(value) < _LARGEST_EXACT_INTEGER:
        return int(value)
    return value


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
