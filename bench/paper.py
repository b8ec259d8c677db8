"""`bench paper`: published figures beside ours, with the convention that makes them comparable.

The published ones stand in `published.csv`, as printed, each with its source. Parameters and multiply-accumulates are
counted here, on shapes; a figure is reproduced where ours, rounded or truncated to the digits that were printed, reads
the same. Published FIDs are shown as published: their protocols differ, and training for weeks is not attempted here.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

from tabulate import tabulate

from bench.errors import BenchError
from bench.phases._generator_counts import counts
from bench.units import format_count

PUBLISHED = Path(__file__).with_name("published.csv")
AS_PUBLISHED = "as published, protocols differ"
_FACTORS: Mapping[str, float] = {"M": 1e6, "B": 1e9}
_CLOSE = 0.02


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One published figure.

    Attributes:
        figure: `params_generator`, `macs_generator`, `macs_step_conv_linear` (one denoising step, attention's products
            left out) or `fid`.
        published: as printed.
        convention: what the printed figure counts.
        why_different: why ours differs where it does; empty where nobody expects it to.
    """

    model: str
    size: str
    resolution: int
    dataset: str
    figure: str
    published: str
    convention: str
    why_different: str
    source: str


def published_rows() -> list[PublishedRow]:
    """All of `published.csv`."""
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        return [PublishedRow(resolution=int(row.pop("resolution")), **row) for row in csv.DictReader(file)]


def table(model: str | None = None) -> str:
    """Every published figure, or one model's, with ours, the deviation and the status."""
    rows = []
    for row in published_rows():
        if model is None or row.model == model:
            ours, deviation, status = judge(row)
            rows.append(
                [
                    row.model,
                    row.resolution,
                    row.figure,
                    row.published,
                    ours,
                    deviation,
                    status,
                    row.convention,
                    row.source,
                ]
            )
    if not rows:
        raise BenchError(f"Nothing is published here for '{model}'; `bench paper` without a name shows all there is.")
    headers = ["model", "px", "figure", "published", "ours", "deviation", "status", "convention", "source"]
    text: str = tabulate(
        rows, headers=headers, tablefmt="simple", disable_numparse=True, maxcolwidths=[None] * 6 + [30] * 3
    )
    return text


def judge(row: PublishedRow) -> tuple[str, str, str]:
    """(ours as text, deviation as text, status) of one figure."""
    if row.figure == "fid":
        return "—", "—", f"not attempted: {AS_PUBLISHED}"
    try:
        ours = counts(row.model, row.size, row.resolution)[row.figure]
    except BenchError as error:
        return "—", "—", f"not counted: {error}"
    published = float(row.published[:-1]) * _FACTORS[row.published[-1]]
    deviation = ours / published - 1
    return format_count(ours), f"{deviation:+.1%}", _status(row, ours, deviation)


def _status(row: PublishedRow, ours: float, deviation: float) -> str:
    if reads_the_same(ours, row.published):
        return "reproduced"
    if row.why_different:
        return f"differs: {row.why_different}"
    return "differs, unexplained" if abs(deviation) > _CLOSE else "differs in the last digit, unexplained"


def reads_the_same(ours: float, published: str) -> bool:
    """Whether `ours`, truncated or rounded to the digits of `published` (`0.7B`, `24M`), is that text."""
    digits, factor = published[:-1], _FACTORS[published[-1]]
    unit = Decimal(1).scaleb(-len(digits.partition(".")[2]))
    scaled = Decimal(ours) / Decimal(factor)
    truncated = Decimal(math.floor(scaled / unit)) * unit
    return Decimal(digits) in {truncated, scaled.quantize(unit, ROUND_HALF_UP)}
