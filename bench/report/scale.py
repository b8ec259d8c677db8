"""`bench scale` for readers: CSV for a spreadsheet, a text and a picture; from the stored document alone.

`scale.csv` has one row per study, operator and size; `scale_exponents.csv` one per curve and figure;
`scale_crossings.csv` one per pair of operators and figure, whether they cross or not. Nothing is rounded there; an
unknown figure is an empty cell with its reason in `note`. `scale.txt` is what a terminal shows, all tables in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bench.notation import csv_text
from bench.phases._scale_record import ScalePoint, ScaleRecord
from bench.report.plots import encoded, house_style
from bench.report.plots_scale import scale_drawing
from bench.report.scale_fit import FITTED, METRICS, Crossing, comparisons, counted_windows, curve, exponent, figure
from bench.report.scale_text import finding, scale_text
from bench.store import write_atomically

Cell = str | int | float | None


@dataclass(frozen=True)
class ScaleFiles:
    """What a scale report consists of."""

    tables: tuple[Path, ...]
    pictures: tuple[Path, ...]


def write_scale_report(record: ScaleRecord, out: Path) -> ScaleFiles:
    """Write `scale.{csv,txt,png,svg}`, `scale_exponents.csv` and `scale_crossings.csv`.

    Raises:
        StorageError: `out` cannot be written.
    """
    tables = {
        "scale.csv": _csv(point_rows(record)),
        "scale_exponents.csv": _csv(exponent_rows(record)),
        "scale_crossings.csv": _csv(crossing_rows(record)),
        "scale.txt": scale_text(record) + "\n",
    }
    for name, text in tables.items():
        write_atomically(out / name, text.encode())
    with house_style():
        drawing = scale_drawing(record)
        pictures = {} if drawing.figure is None else encoded(drawing.figure)
    for suffix, content in pictures.items():
        write_atomically(out / f"scale.{suffix}", content)
    return ScaleFiles(tuple(out / name for name in tables), tuple(out / f"scale.{suffix}" for suffix in pictures))


def point_rows(record: ScaleRecord) -> list[dict[str, Cell]]:
    """Rows of `scale.csv`."""
    return [_point_row(point) for point in record.points]


def _point_row(point: ScalePoint) -> dict[str, Cell]:
    time_s, energy_j = figure(point, "seconds"), point.energy_j_per_image
    windows = counted_windows(point)
    return {
        "study": point.study,
        "operator": point.operator,
        "num_tokens": point.num_tokens,
        "resolution": point.resolution,
        "num_params": point.num_params,
        "macs": point.macs,
        "bytes": point.num_bytes,
        "bytes_as_run": point.num_bytes_as_run,
        "peak_memory_bytes_estimated": point.peak_memory_bytes,
        "seconds_per_image": time_s.value,
        "seconds_per_image_low": time_s.low,
        "seconds_per_image_high": time_s.high,
        "energy_j_per_image": energy_j.value,
        "energy_j_per_image_low": energy_j.low,
        "energy_j_per_image_high": energy_j.high,
        "energy_label": energy_j.label,
        "num_rounds": len(windows),
        "num_disturbed_rounds": sum(bool(window.flags) for window in windows),
        "note": energy_j.note,
    }


def exponent_rows(record: ScaleRecord) -> list[dict[str, Cell]]:
    """Rows of `scale_exponents.csv`."""
    rows = []
    for study in FITTED:
        for operator in record.operators:
            for metric in METRICS:
                found = exponent(curve(record, study, operator), metric)
                rows.append(
                    {
                        "study": study,
                        "operator": operator,
                        "figure": metric,
                        "exponent": found.value,
                        "exponent_low": found.low,
                        "exponent_high": found.high,
                        "num_sizes": found.n,
                        "note": found.note,
                    }
                )
    return rows


def crossing_rows(record: ScaleRecord) -> list[dict[str, Cell]]:
    """Rows of `scale_crossings.csv`; of a pair that does not cross, `finding` says who is cheaper."""
    rows: list[dict[str, Cell]] = []
    for metric in METRICS:
        for found in comparisons(record, metric):
            crosses = isinstance(found, Crossing)
            pair = (found.below, found.above) if isinstance(found, Crossing) else found.operators
            rows.append(
                {
                    "study": found.study,
                    "figure": metric,
                    "first": pair[0],
                    "second": pair[1],
                    "finding": finding(found),
                    "crosses": int(crosses),
                    "between_low_tokens": found.low_tokens if crosses else None,
                    "between_high_tokens": found.high_tokens if crosses else None,
                    "at_tokens": found.at_tokens if isinstance(found, Crossing) else None,
                }
            )
    return rows


def _csv(rows: Sequence[dict[str, Cell]]) -> str:
    cells = [{name: csv_text(cell) if isinstance(cell, str) else cell for name, cell in row.items()} for row in rows]
    return pd.DataFrame(cells, dtype=object).to_csv(index=False, lineterminator="\n")
