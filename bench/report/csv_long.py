"""Long tables for pandas and spreadsheets: `measurements.csv`, a row per figure; `curve.csv`, one per evaluation and
metric. Unrounded; an unknown figure has an empty value and its reason in `note`.

`provenance` is how a figure is known: the label of an energy and of what follows from one (`measured:nvml-energy-
counter`), else its kind (`measured`, `computed`, …). `ranked` says whether a table or picture may rank it, and
`why_not_ranked` why not.

In `curve.csv` images, seconds and joules are training's alone; what the evaluation itself took is in its own columns.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.records import CurvePoint, Quantity, Record
from bench.report.csv_lines import Cell, csv_lines
from bench.report.curves import ordered_points, shown_energy
from bench.report.ranking import why_each_is_not_ranked
from bench.report.rows import sort_key

_MEASUREMENT_COLUMNS = (
    "run_id",
    "model_title",
    "dataset",
    "resolution",
    "device",
    "precision",
    "batch_size",
    "seed",
    "preset",
    "phase",
    "figure",
    "value",
    "low",
    "high",
    "unit",
    "n",
    "provenance",
    "systematic",
    "source",
    "note",
    "ranked",
    "why_not_ranked",
)
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


class LongTable:
    """A table with several rows per run, filled record by record: only the text is kept.

    Args:
        header: names of the columns.
        rows_of: a run, as a report may show it (`published.reported`) → its rows.
    """

    def __init__(self, header: tuple[str, ...], rows_of: Callable[[Record], list[tuple[Cell, ...]]]) -> None:
        self._header = header
        self._rows_of = rows_of
        self._blocks: list[tuple[tuple[str, int, str, str, str], str]] = []

    def add(self, record: Record) -> None:
        """The rows of one run."""
        self._blocks.append((sort_key(record), csv_lines(self._rows_of(record))))

    def text(self) -> str:
        """All runs in the order of every table as CSV with a header line."""
        blocks = sorted(self._blocks, key=lambda block: block[0])
        return csv_lines([self._header]) + "".join(text for _, text in blocks)


def measurements_table() -> LongTable:
    """`measurements.csv`, empty."""
    return LongTable(_MEASUREMENT_COLUMNS, _measurements_of)


def curve_table() -> LongTable:
    """`curve.csv`, empty; an evaluation without figures keeps a row."""
    return LongTable(_CURVE_COLUMNS, _evaluations_of)


def _measurements_of(record: Record) -> list[tuple[Cell, ...]]:
    spec = record.spec
    asked = (
        record.run_id,
        spec.model_title,
        spec.dataset,
        spec.resolution,
        spec.device,
        spec.precision,
        spec.batch_size,
        spec.seed,
        spec.preset,
    )
    doubts = why_each_is_not_ranked(record)
    return [
        (*asked, phase, name, *_measured(figure), not doubts[name], doubts[name])
        for phase, result in record.phases.items()
        for name, figure in result.quantities.items()
    ]


def _measured(figure: Quantity) -> tuple[Cell, ...]:
    """From `value` to `note`."""
    return (
        figure.value,
        figure.low,
        figure.high,
        figure.unit,
        figure.n,
        figure.label or figure.kind,
        figure.systematic,
        figure.source,
        figure.note,
    )


def _evaluations_of(record: Record) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for point in ordered_points(record):
        before, after = _spent(record, point)
        named = list(point.quantities.items())
        rows += [
            (*before, name, each.value, each.low, each.high, *after, each.kind, each.note) for name, each in named
        ] or [(*before, None, None, None, None, *after, None, None)]
    return rows


def _spent(record: Record, point: CurvePoint) -> tuple[tuple[Cell, ...], tuple[Cell, ...]]:
    """Whose evaluation it is and what training had spent; what the evaluation took.

    Joules beside a simulated device are empty, as in every table.
    """
    spec = record.spec
    training, evaluation = (shown_energy(record, energy) for energy in (point.train_energy, point.evaluation_energy))
    before = (
        record.run_id,
        spec.model_title,
        spec.dataset,
        spec.resolution,
        spec.seed,
        point.num_images_shown,
        point.train_duration_s,
        *((None,) * 4 if training is None else (training.value, training.low, training.high, training.label)),
    )
    of_evaluation = (None, None) if evaluation is None else (evaluation.value, evaluation.label)
    return before, (point.evaluation_duration_s, *of_evaluation)
