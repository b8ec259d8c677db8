"""The roofline: what each run's generation and training step reach of what their machine can do at best.

Williams, Waterman & Patterson, Communications of the ACM 52(4), 2009, https://doi.org/10.1145/1498765.1498785. Below
stands the intensity, MACs per byte moved; at the side MACs per second; the roof is the smaller of the measured rate of
matrix products and intensity times the measured rate of copying (`bench/calibration.py`).

Differences from the paper: MACs instead of FLOPs, peaks measured instead of computed, and bytes that are unfused
traffic (every operation's tensors in and out) instead of what went to memory, so that a point can lie above the slope.

The two rates are read from the phase's own protocol, where they were written when the run was measured: the stored
calibration may be another day's, and reading it would need torch.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from pydantic import JsonValue

from bench.compare import MACHINE_FIELDS
from bench.notation import format_number, plain, shortened
from bench.records import PhaseName, Record
from bench.report.plots import COLOURS, GREY, MARKERS, Drawing, drawable, named_by_reason, newest, tick_text
from bench.report.rows import machine_name, run_labels, why_unknown
from bench.store import StoredRun

# phase, its name in the picture, images per second, MACs per image, bytes per image
_PHASES: tuple[tuple[PhaseName, str, str, str, str], ...] = (
    ("generate", "generating (filled)", "generate_images_per_s", "macs_generator", "bytes_generator_per_image"),
    ("train_step", "training step (hollow)", "train_images_per_s", "macs_step_per_image", "bytes_step_per_image"),
)
_NOT_CALIBRATED = "not calibrated when it was measured: run `bench doctor --calibrate`, then its `bench run --fresh`"
_MAX_PANELS = 6
_MAX_RUNS = 24  # of one panel
_TITLE_CHARS = 100
_LEGEND_CHARS = 45
_LARGEST = 1e30
_MARGIN = 2.0  # room around the outermost points, as a factor


@dataclass(frozen=True, kw_only=True)
class Roof:
    """One calibration: MAC/s, B/s, when."""

    macs_per_s: float
    copy_bytes_per_s: float
    measured_at: str


@dataclass(frozen=True, kw_only=True)
class Point:
    """One phase of one run: MAC/B, and MAC/s with the ends of its 95 % interval (the value twice where it has none)."""

    phase: PhaseName
    intensity: float
    macs_per_s: tuple[float, float, float]
    roof: Roof


@dataclass(frozen=True, kw_only=True)
class _Panel:
    title: str
    points_of: list[tuple[StoredRun, list[Point]]]
    note: str = ""


def roofline(runs: Sequence[StoredRun]) -> Drawing:
    """A panel per machine, precision and number of threads, with the roofs of that machine."""
    labels = run_labels([run.record for run in runs])
    groups: dict[tuple[str, ...], list[tuple[StoredRun, list[Point]]]] = {}
    reasons: list[tuple[str, str]] = []
    for run, label in zip(runs, labels, strict=True):
        found = [point_of(run.record, phase) for phase, *_ in _PHASES]
        points = [each for each in found if isinstance(each, Point)]
        if points:
            groups.setdefault(_setting(run.record), []).append((run, points))
        why = dict.fromkeys(each for each in found if isinstance(each, str))
        reasons += [(label, "; ".join(why))] if why else []
    not_drawn = f" Points not drawn: {named_by_reason(reasons)}." if reasons else ""
    if not groups:
        return Drawing(
            None,
            "No run has counted MACs and bytes, a measured throughput and the rates of its machine: run "
            f"`bench doctor --calibrate`, then `bench run` with --fresh.{not_drawn}",
        )
    panels = _panels(list(groups.values()))
    more = f" {len(panels) - _MAX_PANELS} more panels are not drawn." if len(panels) > _MAX_PANELS else ""
    panels = panels[:_MAX_PANELS]
    heights = [max(3.8, 1.1 + 0.36 * len(panel.points_of)) for panel in panels]
    figure = Figure(figsize=(11.0, 0.2 + sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    styles: dict[str, int] = {}  # a label has one colour and one marker in all panels
    for axis, panel in zip(axes, panels, strict=True):
        _draw(axis, panel, styles)
    caption = (
        "Multiply-accumulates per second over multiply-accumulates per byte, both axes logarithmic. Grey: what a "
        "matrix product (flat) and a copy (slope) reach on the same machine with that precision and number of threads, "
        "medians. Vertical lines: the 95 % interval of the throughput, hidden where it is narrower than its sign; "
        "counts are exact. Bytes are unfused traffic (every operation's tensors in and out), so a point can lie "
        "above the slope."
    )
    notes = "".join(panel.note for panel in panels)
    return Drawing(figure, caption + notes + more + not_drawn)


def point_of(record: Record, phase: PhaseName) -> Point | str:
    """Where the phase stands in the roofline, or why it does not."""
    _, _, rate_name, macs_name, bytes_name = next(each for each in _PHASES if each[0] == phase)
    result = record.phases.get(phase)
    rate = record.quantity(rate_name)
    if result is None or rate is None or rate.value is None:
        return why_unknown(record, rate_name) or f"the phase {phase} has no throughput"
    macs, num_bytes = (_positive(record, name) for name in (macs_name, bytes_name))
    if macs is None or num_bytes is None:
        return f"{macs_name} or {bytes_name} was not counted: run its phase cost"
    roof = roof_of(result.protocol.get("roofs"))
    if isinstance(roof, str):
        return roof
    low, high = (rate.value, rate.value) if rate.low is None or rate.high is None else (rate.low, rate.high)
    rates = (macs * rate.value, macs * max(low, 0.0), macs * high)
    if not all(map(_is_drawable, (macs / num_bytes, rates[0], rates[2]))):
        return f"its {macs_name}, {bytes_name} and {rate_name} are no figures of a machine"
    return Point(phase=phase, intensity=macs / num_bytes, macs_per_s=rates, roof=roof)


def roof_of(facts: JsonValue) -> Roof | str:
    """The two rates in a phase's protocol, or why there are none."""
    if not isinstance(facts, dict):
        return _NOT_CALIBRATED
    found = [facts.get(name) for name in ("macs_per_s", "copy_bytes_per_s")]
    numbers = [each for each in found if isinstance(each, int | float) and not isinstance(each, bool)]
    numbers = [each for each in numbers if _is_drawable(each)]
    if len(numbers) < 2:
        return f"the calibration has no rate for {plain(str(facts.get('precision')))}: run `bench doctor --calibrate`"
    return Roof(
        macs_per_s=float(numbers[0]),
        copy_bytes_per_s=float(numbers[1]),
        measured_at=plain(str(facts.get("measured_at"))),
    )


def _is_drawable(number: float) -> bool:
    """On a logarithmic axis, whatever a stranger's record holds."""
    return 1 / _LARGEST < number < _LARGEST


def _positive(record: Record, name: str) -> float | None:
    quantity = record.quantity(name)
    return None if quantity is None or quantity.value is None or quantity.value <= 0 else quantity.value


def _setting(record: Record) -> tuple[str, ...]:
    """What two runs share under one roof."""
    machine = [str(getattr(record.machine, name)) for name in MACHINE_FIELDS]
    return (str(record.spec.device), str(record.spec.precision), *machine)


def _panels(groups: Sequence[list[tuple[StoredRun, list[Point]]]]) -> list[_Panel]:
    titles = [_title(group[0][0].record) for group in groups]
    panels = []
    for group, title in zip(groups, titles, strict=True):
        kept, left_out = newest([run for run, _ in group], _MAX_RUNS)
        machine = group[0][0].record.machine
        full = title if titles.count(title) == 1 else f"{title}, host {machine.hostname}, torch {machine.torch}"
        points_of: dict[Path, list[Point]] = {run.folder: points for run, points in group}
        panels.append(
            _Panel(
                title=shortened(plain(full), _TITLE_CHARS),
                points_of=[(run, points_of[run.folder]) for run in kept],
                note=f" {shortened(plain(full), _TITLE_CHARS)}:{left_out}" if left_out else "",
            )
        )
    return panels


def _title(record: Record) -> str:
    """`Two-core CPU · cpu · fp32 · 1 thread`."""
    num_threads = record.machine.num_torch_threads
    threads = f" · {num_threads} thread{'s' * (num_threads != 1)}" if record.spec.device == "cpu" else ""
    return f"{machine_name(record)} · {record.spec.device} · {record.spec.precision}{threads}"


def _draw(axis: Axes, panel: _Panel, styles: dict[str, int]) -> None:
    points = [point for _, each in panel.points_of for point in each]
    roofs = sorted({point.roof for point in points}, key=lambda roof: (roof.measured_at, roof.macs_per_s))[::-1]
    ridges = [roof.macs_per_s / roof.copy_bytes_per_s for roof in roofs]
    intensities = [*(point.intensity for point in points), *ridges]
    rates = [rate for point in points for rate in point.macs_per_s if rate > 0]
    rates += [roof.macs_per_s for roof in roofs]
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlim(min(intensities) / _MARGIN, max(intensities) * _MARGIN)
    axis.set_ylim(min(rates) / 1e9 / _MARGIN, max(rates) / 1e9 * _MARGIN)
    entries: list[tuple[Artist, str]] = [_draw_roof(axis, roof, index) for index, roof in enumerate(roofs)]
    for phase, title, *_ in _PHASES:
        face = "black" if phase == "generate" else "white"
        sign = Line2D([], [], linestyle="none", marker="o", markerfacecolor=face, markeredgecolor="black")
        entries.append((sign, title))
    labels = run_labels([run.record for run, _ in panel.points_of])
    for (_, found), label in zip(panel.points_of, labels, strict=True):
        index = styles.setdefault(label, len(styles))
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        for point in found:
            _draw_point(axis, point, colour, marker)
        entries.append((Line2D([], [], linestyle="none", marker=marker, color=colour), label))
    for side in (axis.xaxis, axis.yaxis):
        _log_ticks(axis, side is axis.xaxis)
        side.set_major_formatter(FuncFormatter(tick_text))
    axis.set_xlabel("intensity (MAC per byte moved, log scale)")
    axis.set_ylabel("GMAC/s (log scale)")
    axis.set_title(drawable(panel.title), loc="left")
    texts = [textwrap.fill(drawable(label), _LEGEND_CHARS) for _, label in entries]
    handles = [handle for handle, _ in entries]
    axis.legend(handles, texts, loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0.0, fontsize=8)


def _draw_roof(axis: Axes, roof: Roof, index: int) -> tuple[Artist, str]:
    """The newest solid, older ones dashed → its entry in the legend."""
    low, high = axis.get_xlim()
    ridge = roof.macs_per_s / roof.copy_bytes_per_s
    xs = [low, ridge, high]
    ys = [min(roof.macs_per_s, roof.copy_bytes_per_s * x) / 1e9 for x in xs]
    look: dict[str, Any] = {
        "color": GREY,
        "linestyle": "-" if index == 0 else "--",
        "linewidth": 2.2 if index == 0 else 1.2,
    }
    axis.plot(xs, ys, **look)
    compute, copy = (format_number(rate / 1e9) for rate in (roof.macs_per_s, roof.copy_bytes_per_s))
    when = "" if index == 0 else f" (older, {roof.measured_at[:10]})"
    return Line2D([], [], **look), f"roofs: matrix product {compute}\xa0GMAC/s, copy\xa0{copy}\xa0GB/s{when}"


def _draw_point(axis: Axes, point: Point, colour: str, marker: str) -> None:
    value, low, high = (rate / 1e9 for rate in point.macs_per_s)
    axis.errorbar(
        point.intensity,
        value,
        yerr=[[value - low], [high - value]],
        fmt=marker,
        color=colour,
        markerfacecolor=colour if point.phase == "generate" else "white",
        markersize=6.5,
        markeredgewidth=1.4,
        capsize=3,
        linewidth=1.2,
    )


def _log_ticks(axis: Axes, is_x: bool) -> None:
    """As many plain numbers as fit."""
    low, high = axis.get_xlim() if is_x else axis.get_ylim()
    subs = (1.0, 2.0, 5.0) if high / low < 2e2 else (1.0, 3.0) if high / low < 2e3 else (1.0,)
    side = axis.xaxis if is_x else axis.yaxis
    side.set_major_locator(LogLocator(base=10.0, subs=subs))
    side.set_minor_locator(NullLocator())
