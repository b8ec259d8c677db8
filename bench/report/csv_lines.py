"""Lines of CSV whose strings are inert and whose numbers keep every digit; counts have no `.0`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from bench.notation import csv_text

Cell = str | int | float | bool | None

_LARGEST_EXACT_INTEGER = 2**53


def csv_lines(rows: Iterable[Sequence[Cell]]) -> str:
    """Rows of cells → lines; None is an empty cell, text is never taken for a formula (`csv_text`)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([None if cell is None else _inert(cell) for cell in cells] for cells in rows)
    return text.getvalue()


def _inert(cell: Cell) -> Cell:
    if isinstance(cell, str):
        return csv_text(cell)
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < _LARGEST_EXACT_INTEGER:
        return int(cell)  # 19901647.0 → 19901647
    return cell
