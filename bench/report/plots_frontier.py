"""The picture of quality against joules per image against latency, with the Pareto frontier and how sure it is.

A row of three panels per group of runs that may be ranked together, and below it a table that names the numbers in the
panels. Which runs those are and what a probability is: `frontier` and `membership`. A candidate is told by its number
and its marker's shape; the fill says how likely it is on that panel's frontier, from white to blue, which is a scale of
grey as well. Labels are put where they cover least: a fixed list of places around each marker, nearest first.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from bench.compare import Better
from bench.notation import UNKNOWN, format_quantity, shortened
from bench.records import Quantity
from bench.report.energy_to_quality import NO_METER
from bench.report.frontier import (
    ENERGY,
    LATENCY,
    SPACES,
    Candidate,
    FrontierGroup,
    FrontierRow,
    frontier_groups,
    reasons_left_out,
)
from bench.report.label_places import Labelled, place_labels
from bench.report.membership import NUM_DRAWS, Membership, undominated
from bench.report.plots import GREY, MARKERS, Drawing, drawable, tick_text
from bench.store import StoredRun

_MAX_GROUPS = 3
_MAX_CANDIDATES = 12
_MAX_REASONS = 4
_WIDTH_INCHES = 13.0
_PANEL_INCHES = 3.5
_LINE_INCHES = 0.21
_LOG_RANGE = 4.0  # further apart than this, a linear axis presses the frontier into its corner
_MARGIN = 0.14  # of an axis, on either side of the values, for labels and the word `better`
_NAME_CHARS = 74
_FULL = (0.0, 0.447, 0.698)  # the house's blue
_HARDLY = "<1 %"
_TITLES = {ENERGY: "J per image", LATENCY: "latency at batch 1 (ms)"}
_COLUMNS = (0.455, 0.55, 0.645, 0.74, 0.835, 0.925, 1.0)  # right edges of the table's columns, in widths
_HEADINGS = ("J per image", "latency (ms)", "quality, J", "quality, ms", "J, ms", "all three")  # after the quality
# Panel: (figure on x, figure on y), by their places in a group's figures.
_PANELS = ((1, 0), (2, 0), (2, 1))


@dataclass(frozen=True)
class _Spot:
    """A candidate in a panel."""

    number: int
    x: Quantity
    y: Quantity
    membership: Membership

    @property
    def at(self) -> tuple[float, float]:
        """The values, which are known."""
        assert self.x.value is not None
        assert self.y.value is not None
        return self.x.value, self.y.value


def frontier(runs: Sequence[StoredRun]) -> Drawing:
    """Three panels for each of the largest groups, with the table that names their candidates."""
    groups, left_out = frontier_groups(runs)
    reasons = _left_out_text(left_out)
    if not groups:
        return Drawing(None, f"A frontier needs two runs that may be ranked against each other.{reasons}")
    drawn, others = groups[:_MAX_GROUPS], [group.title for group in groups[_MAX_GROUPS:]]
    more = " and others" if len(others) > _MAX_REASONS else ""
    not_drawn = f" Not drawn: {', '.join(others[:_MAX_REASONS])}{more}." if others else ""
    kept = [_likeliest(group) for group in drawn]
    heights = [inches for each in kept for inches in (_PANEL_INCHES, _LINE_INCHES * (len(each) + 3))]
    figure = Figure(figsize=(_WIDTH_INCHES, 0.2 + sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(heights), 3, height_ratios=heights)
    labelled: list[tuple[Axes, list[_Spot], tuple[Better, Better]]] = []
    for index, (group, candidates) in enumerate(zip(drawn, kept, strict=True)):
        axes = [figure.add_subplot(grid[2 * index, column]) for column in range(3)]
        for axis, (across, up) in zip(axes, _PANELS, strict=True):
            spots = _panel(axis, group, candidates, across, up)
            labelled.append((axis, spots, (group.better[across], group.better[up])))
        axes[0].set_title(drawable(group.title), loc="left")
        _table(figure.add_subplot(grid[2 * index + 1, :]), group, candidates)
    figure.draw_without_rendering()  # labels are placed in points, so the panels must have their size
    for axis, spots, better in labelled:
        _label(axis, spots, better)
    problems = tuple(problem for group in drawn for problem in group.problems)
    return Drawing(figure, _caption(drawn, kept) + not_drawn + reasons, problems)


def percent(membership: Membership | None) -> str:
    """`97 %`; the ends say no more than the draws do: `<1 %`, `>99 %`."""
    if membership is None:
        return UNKNOWN
    share = 100 * membership.probability
    return _HARDLY if share < 1 else ">99 %" if share > 99 else f"{share:.0f} %"


def _likeliest(group: FrontierGroup) -> list[Candidate]:
    """At most twelve, in the group's order: those with the highest probability in any of its frontiers."""
    by_chance = sorted(group.candidates, key=lambda each: -max(each.found[space].probability for space in each.found))
    return [each for each in group.candidates if any(each is one for one in by_chance[:_MAX_CANDIDATES])]


def _panel(axis: Axes, group: FrontierGroup, candidates: Sequence[Candidate], across: int, up: int) -> list[_Spot]:
    """Markers, error bars and the staircase of one panel → what is to be labelled."""
    space = tuple(sorted((across, up)))
    for name, place in (("x", across), ("y", up)):
        axis.set(**{f"{name}label": _title(group, place)})
    spots = [
        _Spot(number, x, y, each.found[space])
        for number, each in enumerate(candidates, start=1)
        if space in each.found and (x := each.values[across]) is not None and (y := each.values[up]) is not None
    ]
    if not spots:
        _say_why_empty(axis, group)
        return []
    _scale(axis, "x", [spot.x for spot in spots])
    _scale(axis, "y", [spot.y for spot in spots])
    for spot in spots:
        _draw(axis, spot)
    _say_better(axis, group.better[across] == "higher", group.better[up] == "higher")
    return spots


def _say_better(axis: Axes, is_right: bool, is_top: bool) -> None:
    arrow = {(False, False): "↙", (False, True): "↖", (True, False): "↘", (True, True): "↗"}[is_right, is_top]
    axis.annotate(
        f"better {arrow}" if is_right else f"{arrow} better",
        (0.985 if is_right else 0.015, 0.98 if is_top else 0.02),
        xycoords="axes fraction",
        ha="right" if is_right else "left",
        va="top" if is_top else "bottom",
        fontsize=8,
        color=GREY,
    )


def _title(group: FrontierGroup, place: int) -> str:
    figure = group.figures[place]
    units = {quantity.unit for each in group.candidates if (quantity := each.values[place]) is not None} - {"1"}
    name = _TITLES.get(figure, f"{figure} ({', '.join(sorted(units))})" if units else figure)
    return f"{name}, {group.better[place]} is better"


def _say_why_empty(axis: Axes, group: FrontierGroup) -> None:
    reasons = sorted({why for each in group.candidates if (why := each.reasons.get(ENERGY))})
    is_unknown = all(" is not known (" in why for why in reasons)
    lines = [NO_METER]
    if not is_unknown:
        lines = ["no joules here may be ranked:", *textwrap.wrap(shortened(reasons[0], 120), 44)]
    text = "\n".join(map(drawable, lines))
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)
    axis.annotate(text, (0.5, 0.5), xycoords="axes fraction", ha="center", va="center", color=GREY)


def _scale(axis: Axes, name: str, quantities: Sequence[Quantity]) -> None:
    """Linear or logarithmic, with room for all intervals that are not far wider than the values are apart."""
    values = [quantity.value for quantity in quantities if quantity.value is not None]
    lows = [quantity.value if quantity.low is None else quantity.low for quantity in quantities]
    highs = [quantity.value if quantity.high is None else quantity.high for quantity in quantities]
    is_log = min(values) > 0 and max(values) > _LOG_RANGE * min(values)
    bottom, top = min(values), max(values)
    ends = [each for each in (*lows, *highs) if each is not None and (each > 0 or not is_log)]
    if is_log:
        bottom, top = (math.log10(each) for each in (bottom, top))
        ends = [math.log10(each) for each in ends]
    span = (top - bottom) or abs(top) * 0.1 or 1.0
    bottom, top = max(min(ends, default=bottom), bottom - span), min(max(ends, default=top), top + span)
    margin = ((top - bottom) or span) * _MARGIN
    limits = (bottom - margin, top + margin)
    of_axis = axis.xaxis if name == "x" else axis.yaxis
    if is_log:
        axis.set(**{f"{name}scale": "log", f"{name}lim": (10 ** limits[0], 10 ** limits[1])})
        axis.set(**{f"{name}label": f"{of_axis.get_label_text()} (log scale)"})
        decades = limits[1] - limits[0]
        subs = (1.0, 2.0, 5.0) if decades < 2 else (1.0, 3.0) if decades < 3 else (1.0,)
        of_axis.set_major_locator(LogLocator(base=10.0, subs=subs))
        of_axis.set_minor_locator(NullLocator())
    else:
        axis.set(**{f"{name}lim": limits})
        of_axis.set_major_locator(MaxNLocator(5))
    of_axis.set_major_formatter(FuncFormatter(tick_text))


def _staircase(axis: Axes, spots: Sequence[_Spot], better: Sequence[Better]) -> list[tuple[float, float]]:
    """Through the points that none dominates as measured, and on to the edges: what lies beyond is worse → corners."""
    points = [spot.at for spot in spots]
    members = [point for point, is_member in zip(points, undominated(points, better), strict=True) if is_member]
    members.sort(reverse=better[0] == "higher")  # from the best on x to the worst
    far_x = axis.get_xlim()[1 if better[0] == "lower" else 0]
    far_y = axis.get_ylim()[1 if better[1] == "lower" else 0]
    corners = [(members[0][0], far_y)]
    for x, y in members:
        corners += [(x, corners[-1][1]), (x, y)]
    corners.append((far_x, members[-1][1]))
    xs, ys = zip(*corners, strict=True)
    axis.plot(xs, ys, color="black", linewidth=1.0, linestyle="--", zorder=1.5)
    return corners


def _draw(axis: Axes, spot: _Spot) -> None:
    x, y = spot.at
    axis.errorbar(x, y, xerr=_error(spot.x), yerr=_error(spot.y), fmt="none", ecolor=GREY, elinewidth=1.0, capsize=2.5)
    axis.plot(x, y, **_look(spot.number, spot.membership), zorder=3)


def _look(number: int, membership: Membership | None) -> dict[str, Any]:
    share = 0.0 if membership is None else membership.probability
    face = tuple(1 - share * (1 - channel) for channel in _FULL)
    shape = {"marker": MARKERS[(number - 1) % len(MARKERS)], "markersize": 7.5, "linestyle": "none"}
    return {**shape, "markerfacecolor": face, "markeredgecolor": "black", "markeredgewidth": 0.9}


def _error(quantity: Quantity) -> list[list[float]] | None:
    """Distances from the value to the ends of its interval, or None where it has none."""
    if quantity.value is None or quantity.low is None or quantity.high is None:
        return None
    return [[quantity.value - quantity.low], [quantity.high - quantity.value]]


def _label(axis: Axes, spots: Sequence[_Spot], better: Sequence[Better]) -> None:
    """The staircase, and number and probability at each marker; the numbers alone where there is no room for both."""
    if not spots:
        return
    corners = _staircase(axis, spots, better)
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    points = []
    for spot in spots:
        x, y = spot.at
        low_x, high_x = (x if end is None else min(max(end, left), right) for end in (spot.x.low, spot.x.high))
        low_y, high_y = (y if end is None else min(max(end, bottom), top) for end in (spot.y.low, spot.y.high))
        texts = (f"{spot.number}: {percent(spot.membership)}", str(spot.number))
        points.append(Labelled(at=(x, y), ends=(low_x, low_y, high_x, high_y), texts=texts))
    is_right, is_top = (each == "higher" for each in better)
    word = (0.82 * is_right, 0.91 * is_top, 0.82 * is_right + 0.18, 0.91 * is_top + 0.09)
    place_labels(axis, points, lines=corners, kept_free=[word])


def _table(axis: Axes, group: FrontierGroup, candidates: Sequence[Candidate]) -> None:
    """What the numbers are: name, figures with their intervals, probability in each frontier."""
    axis.set(xlim=(0.0, 1.0), ylim=(len(candidates) + 0.6, -1.6))
    axis.axis("off")
    style: dict[str, Any] = {"fontsize": 8, "va": "center"}
    for right, heading in zip(_COLUMNS, (group.figures[0], *_HEADINGS), strict=True):
        axis.text(right, 0, drawable(shortened(heading, 18)), ha="right", color=GREY, **style)
    axis.text(_COLUMNS[-1], -1, "probability of being on the frontier of", ha="right", color=GREY, **style)
    for number, each in enumerate(candidates, start=1):
        axis.plot(0.028, number, **_look(number, each.found[each.space]))
        axis.text(0.014, number, str(number), ha="right", **style)
        axis.text(0.045, number, drawable(shortened(each.label, _NAME_CHARS)), **style)
        cells = [*map(format_quantity, each.values), *(percent(each.found.get(space)) for space in SPACES)]
        for right, cell in zip(_COLUMNS, cells, strict=True):
            axis.text(right, number, cell, ha="right", **style)


def _caption(groups: Sequence[FrontierGroup], kept: Sequence[Sequence[Candidate]]) -> str:
    text = (
        "Runs that agree in protocol, machine and setting, and are fit to be ranked. Bars: 95 % intervals. Dashed "
        "steps: the frontier of the values as measured. Fill (white is none, blue is certain), and per cent where "
        "there is room: the probability of being on that panel's frontier, from "
        f"{NUM_DRAWS:,} bootstrap draws (error up to 0.8 points). With one seed quality's interval knows nothing of "
        "other trainings."
    )
    for group, candidates in zip(groups, kept, strict=True):
        points = {
            figure: [str(number) for number, each in enumerate(candidates, 1) if _is_point(each.values[place])]
            for place, figure in enumerate(group.figures)
        }
        text += "".join(
            f" {group.title}: {figure} of {', '.join(numbers)} has no interval and is taken as a point."
            for figure, numbers in points.items()
            if numbers
        )
        num_left = len(group.candidates) - len(candidates)
        text += f" {group.title}: {num_left} more candidates are not drawn." if num_left else ""
    return text


def _is_point(quantity: Quantity | None) -> bool:
    return quantity is not None and quantity.low is None


def _left_out_text(rows: Sequence[FrontierRow]) -> str:
    reasons = reasons_left_out(rows)
    more = f"; and {len(reasons) - _MAX_REASONS} more reasons" if len(reasons) > _MAX_REASONS else ""
    return f" Left out: {'; '.join(reasons[:_MAX_REASONS])}{more}." if reasons else ""
