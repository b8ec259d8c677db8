"""The section "Energy and CO2" of `report.md`: joules with how they are known, CO2, and the same joules elsewhere.

Rows keep the order of every other table and no figure is singled out: joules of two machines, or an estimate and a
measurement, are not to be ranked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.errors import BenchError
from bench.notation import (
    UNKNOWN,
    format_quantity,
    markdown_bullets,
    markdown_table,
    markdown_text,
    provenance_mark,
    shortened,
)
from bench.records import Quantity, Record
from bench.report.carbon import ACTIVITIES, Activity, co2_of
from bench.report.grids import FIVE_GRIDS, Grid, grid_of, pue_text
from bench.report.published import is_measured, known_energy, why_energy_not_publishable
from bench.report.rows import CO2_COLUMNS, ENERGY_COLUMNS, data_name, grouped_reasons, model_name

_CELL_CHARS = 110
_HOW_TO_READ = """\
* **gross** is what the parts named under *scope* took while the work ran: the headline. **net** is gross less the power
  of the idle machine, measured before and after.
* The digits in parentheses hold the repeats and the counter's ticks (95 %). The **sensor** itself may be wrong by the
  share beside it; repeating does not change that, so it is not in the parentheses. It largely cancels between two
  models on one board, and not between two machines.
* **known by** says how: `measured:…`, `attributed:…` or `estimated:…`. `estimated:tdp` has one digit, is time
  multiplied by a constant, and ranks nothing.
* CO2 is the gross energy × PUE × the grid's g CO2-equivalent per kWh. The grid figure's own error is not in it.
"""
# heading, middle of the figure's name
_PARTS = (("GPU", "gpu"), ("processor", "cpu"), ("memory", "dram"))


def energy_blocks(
    records: Sequence[Record], names: dict[str, str], machines: Sequence[str], grid: Grid | None, pue: float
) -> list[str]:
    """The section's paragraphs and tables as Markdown, without its heading.

    Args:
        records: as `reported` gives them, in table order.
        names: run id → what the report calls the run.
        machines: the letter of each record's machine.
        grid: None leaves CO2 unknown.
        pue: power usage effectiveness.
    """
    blocks = [_HOW_TO_READ.rstrip(), _grid_sentence(grid, pue)]
    if not records:
        return [*blocks, "No runs yet."]
    header = ["run", "model", "data", "machine", "energy of", "known by", "scope", "gross (J)", "net (J)", "sensor"]
    rows = []
    for record, machine in zip(records, machines, strict=True):
        first = [names[record.run_id], model_name(record), data_name(record), machine]
        known = [activity for activity in ACTIVITIES if known_energy(record, activity)]
        rows += [[*first, *_energy_cells(record, activity)] for activity in known]
        rows += [] if known else [[*first, *[UNKNOWN] * 8]]
    rows = [[markdown_text(cell) for cell in row] for row in rows]
    blocks.append(markdown_table([*header, "CO2", "publishable"], rows, num_left=7))
    reasons = grouped_reasons(records, [*ENERGY_COLUMNS, *CO2_COLUMNS], names)
    if reasons:
        blocks.append(f"Not known:\n\n{markdown_bullets(map(markdown_text, reasons))}")
    return [*blocks, *_parts(records, names), *_five_grids(records, names, pue)]


def _grid_sentence(grid: Grid | None, pue: float) -> str:
    if grid is None:
        return "CO2 is unknown here: no grid given. `bench report --grid FRA` (or another country) adds it."
    return markdown_text(f"Grid of this report: {grid.text()}; source: {grid.source}; {pue_text(pue)}.")


def _energy_cells(record: Record, activity: Activity) -> list[str]:
    """From `energy of` to `publishable`, for an activity whose gross energy is known."""
    energy, co2 = known_energy(record, activity), record.quantity(activity.co2)
    assert energy is not None
    facts = record.phases[activity.phase].protocol.get("energy") if activity.phase in record.phases else None
    scope = str(facts.get("scope") or UNKNOWN) if isinstance(facts, dict) else UNKNOWN
    return [
        activity.title,
        energy.label or "not said",
        shortened(scope, _CELL_CHARS),
        format_quantity(energy),
        format_quantity(record.quantity(activity.net)),
        UNKNOWN if energy.systematic is None else f"± {100 * energy.systematic:.2g} %",
        _co2_cell(co2, activity),
        shortened(why_energy_not_publishable(record, activity) or "yes", _CELL_CHARS),
    ]


def _co2_cell(co2: Quantity | None, activity: Activity) -> str:
    """`0.716(3) g per 1000 images`."""
    if co2 is None or co2.value is None:
        return UNKNOWN
    return _with_unit(co2, co2.unit + (f" per {activity.amount:.0f} images" if activity.amount > 1 else ""))


def _with_unit(figure: Quantity, unit: str) -> str:
    """`≈0.7 g [estimated]`: the unit stands before the mark."""
    mark = f" [{provenance_mark(figure)}]" if provenance_mark(figure) else ""
    return f"{format_quantity(figure).removesuffix(mark)} {unit}{mark}"


def _parts(records: Sequence[Record], names: dict[str, str]) -> list[str]:
    """Whose joules they are, and what a second meter says: both are shown, none is picked."""
    rows = []
    for record in records:
        for activity in ACTIVITIES:
            result = record.phases.get(activity.phase)
            found = {} if result is None else result.quantities
            part_names = [activity.gross.replace("_energy", f"_{part}_energy") for _, part in _PARTS]
            idle_w = found.get(f"{activity.prefix}_idle_power_w") or found.get("idle_power_w")
            figures = [*(found.get(name) for name in part_names), idle_w]
            second = _second_meters(found)
            if second or any(figure is not None and figure.value is not None for figure in figures):
                rows.append([names[record.run_id], activity.title, *map(format_quantity, figures), second or UNKNOWN])
    if not rows:
        return []
    header = ["run", "energy of", *(f"{title} (J)" for title, _ in _PARTS), "idle (W)", "second meter, gap to ours"]
    cells = [[markdown_text(cell) for cell in row] for row in rows]
    return ["Its parts, and the second meter where there is one:", markdown_table(header, cells, num_left=2)]


def _second_meters(found: Mapping[str, Quantity]) -> str:
    """`codecarbon_gpu 905000 J [estimated], +0.8 %`; a gap that is unknown says why."""
    texts = []
    for name, figure in found.items():
        meter = name.removesuffix("_energy_j")
        gap = found.get(f"{meter}_gap")
        if gap is not None and meter != name and figure.value is not None:
            beside = f"{100 * gap.value:+.2g} %" if gap.value is not None else shortened(gap.note, _CELL_CHARS)
            texts.append(f"{meter} {_with_unit(figure, 'J')}, {beside}")
    return "; ".join(texts)


def _five_grids(records: Sequence[Record], names: dict[str, str], pue: float) -> list[str]:
    """The CO2 of every measured energy under five grids, or why there is no such table."""
    measured = [
        (record, activity, energy)
        for record in records
        for activity in ACTIVITIES
        if (energy := known_energy(record, activity)) is not None and is_measured(energy)
    ]
    if not measured:
        return ["No run has a measured energy, so there are no joules to put under five grids."]
    try:
        grids = [grid_of(code) for code in FIVE_GRIDS]
    except BenchError as error:  # another codecarbon may lack the table; the rest of the report stands without it
        return [markdown_text(f"The same joules under five grids cannot be shown: {error}")]
    rows = []
    for record, activity, energy in measured:
        run = names[record.run_id] + (" (not publishable)" if why_energy_not_publishable(record, activity) else "")
        co2 = [co2_of(energy, activity, grid, pue) for grid in grids]
        rows.append([run, model_name(record), activity.amount_title, *(f"{format_quantity(g)} {g.unit}" for g in co2)])
    header = ["run", "model", "CO2 of", *(f"{grid.region} {grid.year}, {grid.g_per_kwh:.0f} g/kWh" for grid in grids)]
    cells = [[markdown_text(cell) for cell in row] for row in rows]
    sentence = (
        f"The same joules under five grids ({grids[0].source}; {pue_text(pue)}). The model is the same in every "
        "column, which is why joules are the figure to compare models by:"
    )
    return [markdown_text(sentence), markdown_table(header, cells, num_left=3)]
