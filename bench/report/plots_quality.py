"""Two pictures of quality against what it took: the curves, and the cost of reaching a quality.

Both have three panels side by side: images shown, seconds of training, joules of training. A panel without joules says
so in words, and joules that were not measured are drawn dashed and named in the legend. What a line and a band are with
how many seeds is in `curves`; what a bracket is, in `energy_to_quality`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from bench.directions import BETTER
from bench.report.curves import (
    COSTS,
    ENERGY,
    MIN_SEEDS_FOR_MEDIAN,
    Configuration,
    Cost,
    Group,
    averages_of,
    groups_of,
    ordered_points,
    value_at,
)
from bench.report.energy_to_quality import NO_METER, Summary, Threshold, summary, thresholds_of
from bench.report.plots import COLOURS, GREY, MARKERS, Drawing, drawable, tick_text
from bench.store import StoredRun

_MAX_ROWS = 6
_MAX_CONFIGURATIONS = 12
_LEGEND_CHARS = 36
_WIDTH_INCHES = 13.0
_LOG_RANGE = 30.0  # costs further apart than this do not fit on a linear axis
_FAR = 10.0  # what real images get is not drawn this many times beyond the curves: it would press them flat


def quality_curves(runs: Sequence[StoredRun]) -> Drawing:
    """Quality against images, time and energy; a row of three panels per group and metric."""
    groups = groups_of([run.record for run in runs])
    rows = [(group, metric) for group in groups for metric in group.metrics]
    if not rows:
        return Drawing(None, "No run has a curve of a quality that all its evaluations know.")
    notes = [f" {group.title}: no figure that every evaluation has." for group in groups if not group.metrics]
    notes += [f" {len(rows) - _MAX_ROWS} more rows are not drawn."] if len(rows) > _MAX_ROWS else []
    rows = rows[:_MAX_ROWS]
    kept = [_newest(group) for group, _ in rows]
    heights = [_height(2.7, len(configurations) + 1) for configurations, _ in kept]
    figure = Figure(figsize=(_WIDTH_INCHES, 0.3 + sum(heights)), layout="constrained")
    panels = figure.subplots(len(rows), 3, squeeze=False, sharey="row", height_ratios=heights)
    styles: dict[str, int] = {}  # a label has one colour and one marker in all rows
    for axes, (group, metric), (configurations, left_out) in zip(panels, rows, kept, strict=True):
        notes += [f" {group.title}:{left_out}"] if left_out else []
        _curve_row(list(axes), configurations, metric, styles)
        axes[0].set_title(drawable(group.title), loc="left")
    caption = (
        "Quality against images shown, training time and training energy; what the evaluations took is in none of "
        "them. Band: with one seed the metric's own 95 % interval, with two none (thin: each seed, thick: their mean), "
        f"with three and more that of the mean, from {MIN_SEEDS_FOR_MEDIAN} seeds on that of the median. Grey dashes: "
        "what real images get. Compare within one row, and time and energy only between like machines."
    )
    return Drawing(figure, caption + "".join(dict.fromkeys(notes)))


def cost_of_quality(runs: Sequence[StoredRun]) -> Drawing:
    """What it took to reach each threshold, a row of three panels per group."""
    rows = [(each, found) for each in groups_of([run.record for run in runs]) if (found := thresholds_of(each))]
    if not rows:
        return Drawing(None, "No run has a curve whose quality came to a threshold.")
    notes = [f" {len(rows) - _MAX_ROWS} more groups are not drawn."] if len(rows) > _MAX_ROWS else []
    rows = rows[:_MAX_ROWS]
    kept = [_newest(group) for group, _ in rows]
    num_lines = [len(found) * (len(each) + 1) for (_, found), (each, _) in zip(rows, kept, strict=True)]
    heights = [
        _height(1.0 + 0.17 * count, len(configurations))
        for count, (configurations, _) in zip(num_lines, kept, strict=True)
    ]
    figure = Figure(figsize=(_WIDTH_INCHES, 0.3 + sum(heights)), layout="constrained")
    panels = figure.subplots(len(rows), 3, squeeze=False, sharey="row", height_ratios=heights)
    styles: dict[str, int] = {}
    for axes, (group, thresholds), (configurations, left_out) in zip(panels, rows, kept, strict=True):
        notes += [f" {group.title}:{left_out}"] if left_out else []
        _cost_row(list(axes), configurations, thresholds, styles)
        axes[0].set_title(drawable(group.title), loc="left")
    caption = (
        "What training had taken when an evaluation first found the quality; further left is cheaper. With one seed "
        "the line is the bracket since the evaluation before, which holds what was needed; with several the sign is "
        "their median and the line their range. Hollow, with an arrow: not reached by then, or only a lower "
        "bound is known."
    )
    return Drawing(figure, caption + "".join(notes))


def _height(panel_inches: float, num_entries: int) -> float:
    """Inches of a row: what its panels want, or its legend."""
    return max(panel_inches, 0.9 + 0.42 * num_entries)


def _newest(group: Group) -> tuple[list[Configuration], str]:
    """At most twelve configurations, the newest, in table order; and a sentence where older ones were left out."""
    by_age = sorted(group.configurations, key=lambda each: max(record.created_at for record in each.records))
    kept = by_age[-_MAX_CONFIGURATIONS:]
    left_out = f" the {len(kept)} newest of {len(by_age)} configurations." if len(kept) < len(by_age) else ""
    return [each for each in group.configurations if any(each is one for one in kept)], left_out


def _curve_row(axes: list[Axes], configurations: Sequence[Configuration], metric: str, styles: dict[str, int]) -> None:
    points = [point for each in configurations for record in each.records for point in record.curve]
    values = [value for point in points if (value := value_at(point, metric)) is not None]
    floors = sorted({float(f"{value:.3g}") for each in configurations if (value := _floor(each, metric)) is not None})
    is_log = min([*values, *floors]) > 0
    near = [floor for floor in floors if not is_log or min(values) / _FAR <= floor <= _FAR * max(values)]
    axes[0].set_yscale("log" if is_log else "linear")
    for axis, cost in zip(axes, COSTS, strict=True):
        amounts = [amount for each in configurations for amount in _amounts(each, cost)]
        factor = _cost_axis(axis, cost, amounts)
        for configuration in configurations:
            _draw_line(axis, configuration, metric, (cost, factor), styles)
        for floor in near if amounts else ():
            axis.axhline(floor, color=GREY, linestyle="--", linewidth=1.2)
        if not amounts:
            _say_nothing_known(axis)
    if is_log:
        _log_limits(axes[0], [*values, *near])
    else:
        axes[0].yaxis.set_major_formatter(FuncFormatter(tick_text))
    axes[0].set_ylabel(f"{metric}{' (log scale)' if is_log else ''}\n{BETTER[metric]} is better")
    entries = [_legend_entry(each, styles) for each in configurations]
    if floors:
        real = Line2D([], [], color=GREY, linestyle="--", linewidth=1.2)
        where = "" if near else " (off the axis)"
        entries.append((real, f"real images: {', '.join(f'{floor:g}' for floor in floors)}{where}"))
    _legend(axes[-1], entries)


def _amounts(configuration: Configuration, cost: Cost) -> list[float]:
    found = [cost.amount(configuration, record, point) for record in configuration.records for point in record.curve]
    return [amount for amount in found if amount is not None]


def _floor(configuration: Configuration, metric: str) -> float | None:
    quantity = configuration.records[0].quantity(f"{metric}_real")
    return None if quantity is None else quantity.value


def _cost_axis(axis: Axes, cost: Cost, amounts: Sequence[float]) -> float:
    """Name the axis in the unit that suits the amounts → SI units in it."""
    factor, unit = cost.unit_for(amounts)
    axis.set_xlabel(f"{cost.name} ({unit})" if amounts else cost.name)
    axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axis.xaxis.set_major_formatter(FuncFormatter(tick_text))
    return factor


def _draw_line(
    axis: Axes, configuration: Configuration, metric: str, scale: tuple[Cost, float], styles: dict[str, int]
) -> None:
    cost, factor = scale
    look = _look(configuration, styles)
    colour = look["color"]
    for record in configuration.records if len(configuration.records) > 1 else ():
        places = [(cost.amount(configuration, record, each), value_at(each, metric)) for each in ordered_points(record)]
        known = [(amount / factor, value) for amount, value in places if amount is not None and value is not None]
        axis.plot([x for x, _ in known], [y for _, y in known], color=colour, linewidth=0.8, alpha=0.65)
    averages = averages_of(configuration, metric, cost)
    is_dashed = cost is ENERGY and not _is_measured(configuration)
    xs = [each.cost / factor for each in averages]
    axis.plot(xs, [each.value for each in averages], linestyle="--" if is_dashed else "-", **look)
    band = [
        (x, each.low, each.high)
        for x, each in zip(xs, averages, strict=True)
        if each.low is not None and each.high is not None
    ]
    at, lows, highs = np.array(band).reshape(-1, 3).T
    if len(band) > 1:
        axis.fill_between(at, lows, highs, color=colour, alpha=0.18, linewidth=0)
    elif band:  # a band of one place has no width
        axis.vlines(at, lows, highs, color=colour, alpha=0.5, linewidth=3)


def _is_measured(configuration: Configuration) -> bool:
    return (configuration.energy_label or "").startswith("measured")


def _look(configuration: Configuration, styles: dict[str, int]) -> dict[str, Any]:
    index = styles.setdefault(configuration.label, len(styles))
    marker = MARKERS[index % len(MARKERS)]
    return {"color": COLOURS[index % len(COLOURS)], "marker": marker, "markersize": 4.5, "linewidth": 1.6}


def _legend_entry(configuration: Configuration, styles: dict[str, int]) -> tuple[Artist, str]:
    num_seeds = len(configuration.records)
    label = configuration.label + (f", n={num_seeds} seeds" if num_seeds > 1 else "")
    if configuration.energy_label is not None and not _is_measured(configuration):
        label += f" · energy {configuration.energy_label.split(':')[0]}, not measured"
    return Line2D([], [], **_look(configuration, styles)), label


def _legend(axis: Axes, entries: Sequence[tuple[Artist, str]]) -> None:
    """At the right of a row, its labels wrapped."""
    labels = [textwrap.fill(drawable(label), _LEGEND_CHARS) for _, label in entries]
    handles = [handle for handle, _ in entries]
    axis.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0.0, fontsize=8)


def _say_nothing_known(axis: Axes) -> None:
    axis.set_xticks([])
    axis.grid(visible=False)
    axis.annotate(NO_METER, (0.5, 0.5), xycoords="axes fraction", ha="center", va="center", color=GREY)


def _log_limits(axis: Axes, values: Sequence[float]) -> None:
    """Room above and below, and plain numbers; the wider the range, the fewer, so that they do not touch."""
    low, high = min(values), max(values)
    margin = max(2.0, (high / low) ** 1.1) / (high / low)
    axis.set_ylim(low / margin**0.5, high * margin**0.5)
    subs = (1.0, 2.0, 5.0) if high / low < 300 else (1.0, 3.0) if high / low < 2e3 else (1.0,)
    axis.yaxis.set_major_locator(LogLocator(base=10.0, subs=subs))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(tick_text))


def _cost_row(
    axes: list[Axes], configurations: Sequence[Configuration], thresholds: Sequence[Threshold], styles: dict[str, int]
) -> None:
    step = len(configurations) + 1
    for axis, cost in zip(axes, COSTS, strict=True):
        found = [
            (number * step + place, configuration, each)
            for number, threshold in enumerate(thresholds)
            for place, configuration in enumerate(configurations)
            if (each := summary(configuration, threshold, cost)) is not None and each.amount is not None
        ]
        ends = [end for _, _, each in found for end in (each.low, each.amount, each.high) if end]
        factor = _cost_axis(axis, cost, ends)
        if not ends:
            _say_nothing_known(axis)
            continue
        if max(ends) > _LOG_RANGE * min(ends):
            axis.set_xscale("log")
            axis.set_xlabel(f"{axis.get_xlabel()}, log scale")
            axis.set_xlim(min(ends) / factor / 1.5, max(ends) / factor * 1.8)
            axis.xaxis.set_major_locator(LogLocator(base=10.0, numticks=6))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_formatter(FuncFormatter(tick_text))
        else:
            axis.set_xlim(0.0, max(ends) / factor * (1.12 if cost is not ENERGY else 1.3))  # room for a word
        for number in range(1, len(thresholds)):
            axis.axhline(number * step - 1, color="#DDDDDD", linewidth=0.8)
        for place, configuration, each in found:
            _draw_summary(axis, place, each, factor, _look(configuration, styles))
            if cost is ENERGY and not _is_measured(configuration):
                end = (max(each.amount or 0.0, each.high or 0.0) / factor, place)
                axis.annotate(
                    (configuration.energy_label or "").split(":")[0],
                    end,
                    (22, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=7,
                )
    middles = [number * step + (len(configurations) - 1) / 2 for number in range(len(thresholds))]
    axes[0].set_yticks(middles, [threshold.text for threshold in thresholds])
    axes[0].set_ylim(len(thresholds) * step - 0.5, -1.5)
    for axis in axes:
        axis.grid(visible=False, axis="y")
    _legend(axes[-1], [_legend_entry(each, styles) for each in configurations])


def _draw_summary(axis: Axes, place: int, found: Summary, factor: float, look: dict[str, Any]) -> None:
    if found.amount is None or found.low is None or found.high is None:
        return
    is_bound = found.is_bound or not found.num_reached
    left = axis.get_xlim()[0]
    amount = max(found.amount / factor, left)
    axis.hlines(
        place, max(found.low / factor, left), found.high / factor, color=look["color"], linewidth=1.4, alpha=0.6
    )
    face = "white" if is_bound else look["color"]
    axis.plot([amount], [place], **look, markerfacecolor=face, linestyle="none", clip_on=False)
    if is_bound or found.is_high_bound:
        arrow = {"arrowstyle": "<-", "color": look["color"], "linewidth": 1.2, "shrinkA": 0, "shrinkB": 3}
        axis.annotate("", (found.high / factor, place), (20, 0), textcoords="offset points", arrowprops=arrow)
