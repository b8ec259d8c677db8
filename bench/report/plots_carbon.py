"""CO2 of a run's images and of its training under five grids, from joules that a meter read.

The same joules are ten times as much CO2 in one country as in another, so a single figure would say more of the place
than of the model; five places side by side say both. Energy, PUE and grid stay apart until here (`carbon`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bench.errors import MissingDataError, UsageError
from bench.records import Quantity, Record
from bench.report.carbon import ACTIVITIES, Activity, co2_of
from bench.report.grids import FIVE_GRIDS, Grid, checked_pue, grid_of, pue_text
from bench.report.plots import COLOURS, GREY, MARKERS, Drawing, drawable, named_by_reason, newest, tick_text
from bench.report.published import is_measured, known_energy, why_energy_not_publishable
from bench.report.rows import run_labels
from bench.store import StoredRun

_MAX_ROWS = 40
_MIN_SPAN = 8.0  # the grids alone are a factor of ten apart


def carbon_grids(runs: Sequence[StoredRun], pue: float = 1.0) -> Drawing:
    """A row per run, a panel per activity, a sign per grid.

    Args:
        pue: power usage effectiveness of the place where the machine stands; 1 is the machine alone.

    Raises:
        UsageError: the PUE cannot be.
    """
    checked_pue(pue)
    try:
        grids = [grid_of(code) for code in FIVE_GRIDS]
    except (MissingDataError, UsageError) as error:  # codecarbon's table is gone, or lost a country
        return Drawing(None, str(error))
    labels = dict(zip((run.folder for run in runs), run_labels([run.record for run in runs]), strict=True))
    known = [run for run in runs if any(_measured(run.record, each) for each in ACTIVITIES)]
    not_drawn = _not_drawn(runs, labels)
    if not known:
        return Drawing(
            None,
            "No run has joules that a meter read: `bench doctor` says which meters this machine has, and `bench run` "
            f"reads those there are.{not_drawn}",
        )
    kept, left_out = newest(known, _MAX_ROWS)
    activities = [each for each in ACTIVITIES if any(_measured(run.record, each) for run in kept)]
    figure = Figure(figsize=(4.0 + 3.4 * len(activities), 1.9 + 0.52 * len(kept)), layout="constrained")
    axes = figure.subplots(1, len(activities), sharey=True, squeeze=False)[0]
    for axis, activity in zip(axes, activities, strict=True):
        _panel(axis, [run.record for run in kept], activity, (grids, pue))
        axis.set_title(activity.amount_title)
    axes[0].set_yticks(range(len(kept)), [drawable(labels[run.folder]) for run in kept])
    axes[0].set_ylim(len(kept) - 0.45, -0.55)
    doubts = _doubts(kept, activities, labels)
    _legend(figure, grids, has_hollow=bool(doubts))
    caption = (
        f"Grams or kilograms of CO2-equivalent, {pue_text(pue)}, from the gross joules that a meter read, under the "
        f"yearly average of five grids ({grids[0].source}). Line: the joules' 95 % interval, hidden where it is "
        "narrower than its sign; the error of the sensor and of the grid's figure is not in it. Only the joules "
        "belong to the model and its machine; compare them between rows of the same machine."
    )
    return Drawing(figure, caption + left_out + not_drawn + doubts)


def _measured(record: Record, activity: Activity) -> Quantity | None:
    """The activity's joules where a meter read them and they are above zero."""
    energy = known_energy(record, activity)
    return energy if energy is not None and is_measured(energy) and (energy.value or 0.0) > 0 else None


def _not_drawn(runs: Sequence[StoredRun], labels: dict[Path, str]) -> str:
    """Whose joules are known otherwise than from a meter, and how."""
    named = named_by_reason(
        (labels[run.folder], f"{activity.title}: {energy.label or energy.kind}")
        for run in runs
        for activity in ACTIVITIES
        if (energy := known_energy(run.record, activity)) is not None and not is_measured(energy)
    )
    return f" Not drawn, because no meter read it: {named}." if named else ""


def _doubts(runs: Sequence[StoredRun], activities: Sequence[Activity], labels: dict[Path, str]) -> str:
    """Whose joules were measured and still are not for publication, and why."""
    found: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        for activity in activities:
            why = why_energy_not_publishable(run.record, activity)
            if why and _measured(run.record, activity):
                reason = why.removeprefix("not publishable: ").removesuffix(", not publishable")
                found.setdefault((labels[run.folder], reason), []).append(activity.title)
    named = named_by_reason(
        (label, reason if len(titles) == len(activities) else f"{', '.join(titles)}: {reason}")
        for (label, reason), titles in found.items()
    )
    return f" Hollow: {named}." if named else ""


def _legend(figure: Figure, grids: Sequence[Grid], *, has_hollow: bool) -> None:
    handles = [Line2D([], [], linestyle="none", **_look(index)) for index in range(len(grids))]
    texts = [grid.text() for grid in grids]
    if has_hollow:
        handles.append(Line2D([], [], linestyle="none", marker="o", markerfacecolor="white", markeredgecolor=GREY))
        texts.append("hollow: not publishable")
    figure.legend(handles, texts, loc="outside lower center", ncols=3)


def _look(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def _panel(axis: Axes, records: Sequence[Record], activity: Activity, place: tuple[Sequence[Grid], float]) -> None:
    """Signs one under the other within a row, because two of the grids are nearly alike."""
    grids, pue = place
    values: list[float] = []
    for row, record in enumerate(records):
        energy = _measured(record, activity)
        if energy is None:
            axis.annotate("not measured", (0.02, row), xycoords=("axes fraction", "data"), va="center", color=GREY)
            continue
        is_doubtful = bool(why_energy_not_publishable(record, activity))
        for index, grid in enumerate(grids):
            co2 = co2_of(energy, activity, grid, pue)
            values += [each for each in (co2.low, co2.value, co2.high) if each]
            _draw(axis, row + 0.15 * (index - (len(grids) - 1) / 2), co2, _look(index), is_doubtful=is_doubtful)
        axis.axhline(row + 0.5, color="#DDDDDD", linewidth=0.8)
    low, high = min(values, default=1.0), max(values, default=10.0)
    margin = max(1.4, (_MIN_SPAN / (high / low)) ** 0.5)
    axis.set_xscale("log")
    axis.set_xlim(low / margin, high * margin)
    span = high / low * margin**2
    axis.xaxis.set_major_locator(LogLocator(base=10.0, subs=(1.0, 3.0) if span < 1e3 else (1.0,), numticks=7))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(tick_text))
    axis.grid(visible=False, axis="y")
    axis.set_xlabel(f"{activity.co2_unit} CO2e (log scale)")


def _draw(axis: Axes, height: float, co2: Quantity, look: dict[str, Any], *, is_doubtful: bool) -> None:
    if co2.value is None:
        return
    ends = None if co2.low is None or co2.high is None else [[co2.value - max(co2.low, 0.0)], [co2.high - co2.value]]
    face = "white" if is_doubtful else look["color"]
    axis.errorbar(
        co2.value,
        height,
        xerr=ends,
        fmt=look["marker"],
        color=look["color"],
        markerfacecolor=face,
        markersize=4.5,
        capsize=2,
        linewidth=1.0,
    )
