"""CO2 from joules: kg = J / 3.6e6 × PUE × g/kWh / 1000, computed when a report is made and never stored.

Energy of the machine, PUE and grid are stored and shown apart, because only the joules belong to the model: the same
run is ten times as much CO2 in one country as in another. So CO2 always comes from the gross energy, carries its label
(an estimate stays one), its interval and its sensor error, and is unknown with a reason where no grid was given. The
grid figure's own error is in neither.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.notation import rounded
from bench.records import PhaseName, Quantity, unknown
from bench.report.grids import Grid, pue_text
from bench.units import JOULES_PER_KWH

NO_GRID = "no grid given"

_SOURCE = "gross energy × PUE × grid intensity"
_GRAMS_PER_KG = 1e3


@dataclass(frozen=True, kw_only=True)
class Activity:
    """One thing a run spends energy on, and the names of its figures.

    Attributes:
        title: what one unit of `gross` is of.
        amount_title: what `co2` is of.
        prefix: how the names of its parts (`…_gpu_energy_j_per_image`) and its idle power begin.
        gross, net: names of its energy, whole and less idle; J per image, or J.
        co2: name of its CO2.
        co2_unit: `g` or `kg`.
        amount: how many units of `gross` one `co2` stands for.
    """

    title: str
    amount_title: str
    phase: PhaseName
    prefix: str
    gross: str
    net: str
    co2: str
    co2_unit: str
    amount: float


ACTIVITIES = (
    Activity(
        title="generate, per image",
        amount_title="1000 generated images",
        phase="generate",
        prefix="generate",
        gross="generate_energy_j_per_image",
        net="generate_energy_net_j_per_image",
        co2="co2_g_per_1000_images",
        co2_unit="g",
        amount=1000.0,
    ),
    Activity(
        title="training step, per image",
        amount_title="training on 1000 images",
        phase="train_step",
        prefix="train_step",
        gross="train_step_energy_j_per_image",
        net="train_step_energy_net_j_per_image",
        co2="co2_g_per_1000_train_images",
        co2_unit="g",
        amount=1000.0,
    ),
    Activity(
        title="training, whole",
        amount_title="the whole training",
        phase="train",
        prefix="train",
        gross="train_energy_j",
        net="train_energy_net_j",
        co2="co2_kg_train",
        co2_unit="kg",
        amount=1.0,
    ),
)


def co2_of(energy: Quantity, activity: Activity, grid: Grid | None, pue: float) -> Quantity:
    """CO2 of the activity from its gross energy; unknown without a grid or without an energy.

    Args:
        energy: `activity.gross`.
        pue: at least 1 (`checked_pue`).
    """
    if grid is None:
        return unknown(activity.co2_unit, NO_GRID, source=_SOURCE, kind="computed", label="unavailable")
    if energy.value is None:
        return unknown(activity.co2_unit, energy.note, source=_SOURCE, kind="computed", label="unavailable")
    grams_per_unit = _GRAMS_PER_KG if activity.co2_unit == "kg" else 1.0
    factor = activity.amount / JOULES_PER_KWH * pue * grid.g_per_kwh / grams_per_unit
    return scaled(energy, factor, unit=activity.co2_unit, source=f"{_SOURCE}: {pue_text(pue)}, {grid.text()}")


def scaled(energy: Quantity, factor: float, *, unit: str, source: str) -> Quantity:
    """A known energy times a positive number: the interval goes along, label and sensor error (relative) stay."""

    def times(value: float | None) -> float | None:
        return None if value is None else value * factor

    return Quantity(
        value=times(energy.value),
        unit=unit,
        low=times(energy.low),
        high=times(energy.high),
        n=energy.n,
        kind="computed",
        source=source,
        note=energy.note,
        label=energy.label,
        systematic=energy.systematic,
    )


def co2_sentence(energy_j: float | None, grid: Grid | None, pue: float = 1.0) -> str:
    """What a plan says before a run: `about 12 Wh, 0.67 g CO2 (FRA 2023: 56 g/kWh)`.

    Args:
        energy_j: joules of the machine that the run is expected to take, or None where nobody can say.
        pue: named in the sentence where it is not 1.
    """
    if energy_j is None:
        return "energy and CO2 unknown" + (f": {NO_GRID}" if grid is None else "")
    energy = f"about {_prefixed(energy_j / JOULES_PER_KWH * 1e3, 'Wh')}"
    if grid is None:
        return f"{energy}, CO2 unknown: {NO_GRID}"
    beside = "" if pue == 1.0 else f", {pue_text(pue)}"
    return f"{energy}, {_prefixed(energy_j / JOULES_PER_KWH * pue * grid.g_per_kwh, 'g')} CO2 ({grid.text()}{beside})"


def _prefixed(value: float, unit: str) -> str:
    """Two digits, in thousands from 1000 on: `12 Wh`, `1.3 kWh`."""
    return f"{rounded(value / 1e3, 2)} k{unit}" if value >= 995 else f"{rounded(value, 2)} {unit}"
