"""What of a record a report may show: no figure of a simulated device, and CO2 beside each energy it follows from.

Every table and picture starts from `reported(record)`, so that none of them can publish what another refuses. The
stored record is left as it is: it keeps what was simulated (`bench show` marks it) and never holds CO2.
"""

from __future__ import annotations

from bench.records import EnergyLabel, PhaseName, PhaseResult, Quantity, Record, unknown
from bench.report.carbon import ACTIVITIES, Activity, co2_of
from bench.report.grids import Grid
from bench.report.rows import all_quantities, is_simulated, why_not_publishable, why_unknown

SIMULATED = "simulated, not published"

_ENERGY_UNITS = ("J", "J/image", "W")


def reported(record: Record, grid: Grid | None = None, pue: float = 1.0) -> Record:
    """A copy of the record as a report may show it.

    Args:
        grid: what a kilowatt-hour stands for; None leaves CO2 unknown.
        pue: power usage effectiveness, at least 1 (`checked_pue`).
    """
    has_simulated_energy = any(
        is_simulated(figure) and _speaks_of_energy(name, figure) for name, figure in all_quantities(record).items()
    )
    phases: dict[PhaseName, PhaseResult] = {}
    for phase, result in record.phases.items():
        shown = {name: _shown(name, figure, has_simulated_energy) for name, figure in result.quantities.items()}
        for activity in (each for each in ACTIVITIES if each.phase == phase):
            energy = shown.get(activity.gross) or _absent(record, activity)
            shown[activity.co2] = co2_of(energy, activity, grid, pue)
        phases[phase] = result.model_copy(update={"quantities": shown})
    curve = tuple(
        point.model_copy(update={"quantities": {name: _shown(name, each) for name, each in point.quantities.items()}})
        for point in record.curve
    )
    return record.model_copy(update={"phases": phases, "curve": curve})


def known_energy(record: Record, activity: Activity) -> Quantity | None:
    """The activity's gross energy where it is known, else None."""
    energy = record.quantity(activity.gross)
    return None if energy is None or energy.value is None else energy


def is_measured(energy: Quantity) -> bool:
    """Whether a meter read it, as opposed to an estimate or an attribution."""
    return (energy.label or "").startswith("measured:")


def why_energy_not_publishable(record: Record, activity: Activity) -> str:
    """Why a known energy is not for publication, in a few words; empty where it is, or where there is none."""
    energy = known_energy(record, activity)
    if energy is None:
        return ""
    if not is_measured(energy):
        return f"not publishable: not measured ({energy.label or 'no label'})"
    of_run = why_not_publishable(record)
    if of_run:
        return of_run
    facts = record.phases[activity.phase].protocol.get("energy") if activity.phase in record.phases else None
    if not isinstance(facts, dict) or not isinstance(facts.get("publishable"), bool):
        return "not publishable: the record does not say how the energy was measured"
    return (
        "" if facts["publishable"] else f"not publishable: {facts.get('why_not_publishable') or 'no reason recorded'}"
    )


def _absent(record: Record, activity: Activity) -> Quantity:
    reason = why_unknown(record, activity.gross) or "the record has no such energy"
    return unknown("J", reason, source="record", label="unavailable")


def _speaks_of_energy(name: str, figure: Quantity) -> bool:
    """A gap between two meters has no unit, but comes from their joules."""
    return figure.label is not None or figure.unit in _ENERGY_UNITS or name.endswith("_gap")


def _shown(name: str, figure: Quantity, has_simulated_energy: bool = False) -> Quantity:
    """The figure, or an unknown one in its place where it was simulated.

    A run with one simulated energy had a simulated device: none of its energies is shown, however it is labelled.
    """
    if figure.value is None:
        return figure
    if is_simulated(figure):
        return _withheld(figure, SIMULATED).model_copy(update={"kind": "simulated"})
    if has_simulated_energy and _speaks_of_energy(name, figure):
        return _withheld(figure, "measured beside a simulated device, not published")
    return figure


def _withheld(figure: Quantity, reason: str) -> Quantity:
    label: EnergyLabel | None = None if figure.label is None else "unavailable"
    return unknown(figure.unit, reason, source=figure.source, kind=figure.kind, label=label)
