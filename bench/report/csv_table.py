"""`results.csv`: one row per run, unrounded, for a spreadsheet or pandas.

A column is named after its quantity, with the ends of the 95 % interval in `NAME_low` and `NAME_high`. An unknown
figure is an empty cell and its reason is in `notes`; one that was not measured or computed is named in `kinds`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bench.records import Quantity, Record
from bench.report.notation import UNMARKED_KINDS, csv_text
from bench.report.rows import (
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
_ORIGIN_COLUMNS = ("cpu", "gpus", "torch", "harness_version", "model_source_hash", "created_at")
_TEXT_COLUMNS = ("kinds", "notes")

Cell = str | int | float | bool | None


def results_csv(records: Sequence[Record]) -> str:
    """All runs as CSV text with a header line; the header alone where there are no runs."""
    records = sorted(records, key=sort_key)
    figures = [all_quantities(record) for record in records]
    others = sorted({name for found in figures for name in found} - set(HEADLINE_COLUMNS))
    columns = _quantity_columns([*HEADLINE_COLUMNS, *others])
    rows = []
    for record, found in zip(records, figures, strict=True):
        cells: dict[str, Cell] = {**_question_cells(record)}
        for name, column in columns.items():
            cells |= _quantity_cells(column, found.get(name))
        rows.append(cells | _origin_cells(record) | {"kinds": _kinds(found), "notes": _notes(record, found)})
    ends = [f"{column}{end}" for column in columns.values() for end in ("", "_low", "_high")]
    header = [*_QUESTION_COLUMNS, *ends, *_ORIGIN_COLUMNS, *_TEXT_COLUMNS]
    cells_of_rows = [
        [csv_text(cell) if isinstance(cell := row[name], str) else cell for name in header] for row in rows
    ]
    frame = pd.DataFrame(cells_of_rows, columns=[csv_text(name) for name in header], dtype=object)
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
        machine.cpu,
        "; ".join(machine.gpus),
        machine.torch,
        record.harness_version,
        record.model.source_hash,
        record.created_at,
    )
    return dict(zip(_ORIGIN_COLUMNS, cells, strict=True))


def _quantity_columns(names: Sequence[str]) -> dict[str, str]:
    """Quantity → its column. A name that is another column's already gets the prefix `quantity:`, and loses nothing."""
    taken = {*_QUESTION_COLUMNS, *_ORIGIN_COLUMNS, *_TEXT_COLUMNS}
    taken |= {f"{name}_{end}" for name in names for end in ("low", "high")}
    return {name: f"quantity:{name}" if name in taken else name for name in names}


def _quantity_cells(column: str, quantity: Quantity | None) -> dict[str, Cell]:
    ends = (None, None, None) if quantity is None else (quantity.value, quantity.low, quantity.high)
    return dict(zip((column, f"{column}_low", f"{column}_high"), map(_number, ends), strict=True))


def _number(value: float | None) -> float | int | None:
    """Counts without `.0`: 19901647.0 → 19901647."""
    if value is not None and value.is_integer() and abs(value) < _LARGEST_EXACT_INTEGER:
        return int(value)
    return value


def _kinds(found: dict[str, Quantity]) -> str:
    return "; ".join(f"{name}: {figure.kind}" for name, figure in found.items() if figure.kind not in UNMARKED_KINDS)


def _notes(record: Record, found: dict[str, Quantity]) -> str:
    """`name: reason` of every figure that is unknown, and `phase: reason` of every phase that was skipped."""
    names = dict.fromkeys([*HEADLINE_COLUMNS, *found])
    reasons = {name: why_unknown(record, name) for name in names}
    notes = [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]
    notes += [f"{phase}: skipped: {reason}" for phase, reason in skipped_phases(record).items()]
    return "; ".join(notes)
