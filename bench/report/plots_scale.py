"""The picture of `bench scale`: MACs, bytes, time, memory and joules over tokens, a row per study, a line per operator.

Both axes are logarithmic, so a power law is a straight line and its exponent the slope. Time has its 95 % interval.
Dashed beside the bytes: the same pass as it was run, with a fused softmax. An open circle on a time panel is where the
first operator crosses another. Joules have a column where a meter, or an estimate from the design power, gave
any; without one the caption says why. The picture's look and its determinism are those of `plots`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from bench.notation import plain, shortened
from bench.phases._scale_record import STUDIES, ScalePoint, ScaleRecord, Study
from bench.records import Quantity
from bench.report.plots import COLOURS, GREY, MARKERS, Drawing, drawable, tick_text
from bench.report.published import SIMULATED
from bench.report.rows import is_simulated
from bench.report.scale_fit import FITTED, compared, curve, exponent, figure

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_MAX_TICKS = 8
_REASON_CHARS = 160
_ROWS: dict[Study, str] = {
    "layer": "one layer,\nforward",
    "layer-backward": "one layer,\nforward and backward",
    "grown-generator": "grown generator,\none image",
    "generator": "published generator,\none image",
}
_CAPTION = (
    "Bytes: every operation's tensors in and out, a softmax as two products; dashed: as it was run, with a fused "
    "softmax as one operation.\nBeside names: the fitted exponent of time with its 95 % interval. "
    "Circles: where the first operator's time crosses another's."
)
_COLUMNS = ("multiply-accumulates", "bytes moved", "time per image (ms)", "peak memory, estimated (bytes)")


def scale_drawing(record: ScaleRecord) -> Drawing:
    """All studies that have points; None with the reason where there are none."""
    studies = [study for study in STUDIES if any(point.study == study for point in record.points)]
    if not studies:
        return Drawing(None, "No size of any study was measured.")
    labels = sorted({energy.label or energy.kind for point in record.points if (energy := shown_joules(point))})
    columns = (*_COLUMNS, f"joules per image\n({', '.join(labels)})") if labels else _COLUMNS
    canvas = Figure(figsize=(2.5 + 3.0 * len(columns), 1.0 + 3.0 * len(studies)), layout="constrained")
    grid = canvas.subplots(len(studies), len(columns), squeeze=False)
    for row, study in zip(grid, studies, strict=True):
        _study_row(record, study, row)
    for axis, title in zip(grid[0], columns, strict=True):
        axis.set_title(title)
    canvas.suptitle(drawable(headline(record)), fontsize=10)
    caption = _CAPTION if labels else f"{_CAPTION}\nJoules: {drawable(_why_no_joules(record))}."
    canvas.supxlabel(caption, fontsize=8.5)
    return Drawing(canvas, caption.replace("\n", " "))


def shown_joules(point: ScalePoint) -> Quantity | None:
    """The point's energy where it is known and no device was simulated."""
    energy = figure(point, "joules")
    return None if energy.value is None or is_simulated(energy) else energy


def _why_no_joules(record: ScaleRecord) -> str:
    energies = [figure(point, "joules") for point in record.points]
    reasons = {energy.note if energy.value is None else SIMULATED for energy in energies}
    return shortened(plain("; ".join(sorted(reasons))), _REASON_CHARS)


def headline(record: ScaleRecord) -> str:
    """What was measured and where, in one line."""
    machine = record.machine
    is_cpu = record.device == "cpu"
    num_threads = machine.num_torch_threads
    place = f"{machine.cpu}, {num_threads} thread{'s' * (num_threads != 1)}" if is_cpu else ", ".join(machine.gpus)
    layer = f"layer of {record.width} channels, {record.num_heads} heads"
    return f"{record.device} ({place}), torch {machine.torch}, fp32, {record.batch_size} image per pass; {layer}"


def _study_row(record: ScaleRecord, study: Study, axes: Sequence[Axes]) -> None:
    is_by_tokens = study in FITTED
    labels = []
    for index, operator in enumerate(record.operators):
        points = curve(record, study, operator)
        if not points:
            continue
        _line(axes[0], index, points, [point.macs for point in points])
        _line(axes[1], index, points, [point.num_bytes for point in points])
        if any(point.num_bytes_as_run != point.num_bytes for point in points):
            _line(axes[1], index, points, [point.num_bytes_as_run for point in points], is_dashed=True)
        _times(axes[2], index, points)
        _line(axes[3], index, points, [point.peak_memory_bytes for point in points])
        if len(axes) > len(_COLUMNS):
            _joules(axes[4], index, points)
        labels.append(drawable(f"{operator}{_slope(points) if is_by_tokens else ''}"))
    sizes = sorted({_size(point) for point in record.points if point.study == study})
    for axis, text in zip(axes, (_count_text, _count_text, tick_text, _count_text, tick_text), strict=False):
        _log_axes(axis, sizes, text)
        axis.set_xlabel("tokens" if is_by_tokens else "pixels per side")
    if is_by_tokens:
        _circles(record, study, axes[2])
    axes[0].set_ylabel(_ROWS[study])
    axes[-1].legend(axes[0].get_lines(), labels, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)


def _size(point: ScalePoint) -> int:
    """What stands on the axis: tokens, or pixels where every point has 1024 tokens."""
    return point.num_tokens if point.study in FITTED or point.resolution is None else point.resolution


def _line(
    axis: Axes, index: int, points: Sequence[ScalePoint], values: Sequence[float], *, is_dashed: bool = False
) -> None:
    axis.plot(
        [_size(point) for point in points],
        values,
        color=COLOURS[index % len(COLOURS)],
        marker=MARKERS[index % len(MARKERS)],
        markersize=2.5 if is_dashed else 4.5,
        linewidth=1.0 if is_dashed else 1.4,
        linestyle="--" if is_dashed else "-",
    )


def _times(axis: Axes, index: int, points: Sequence[ScalePoint]) -> None:
    """Medians in milliseconds with their intervals."""
    found = [figure(point, "seconds") for point in points]
    values = [1000 * (each.value or 0.0) for each in found]
    _line(axis, index, points, values)
    _intervals(axis, index, points, [(each, 1000.0) for each in found])


def _joules(axis: Axes, index: int, points: Sequence[ScalePoint]) -> None:
    """Joules per image with their intervals, where they are known."""
    known = [(point, energy) for point in points if (energy := shown_joules(point))]
    drawn, energies = [point for point, _ in known], [energy for _, energy in known]
    _line(axis, index, drawn, [energy.value or 0.0 for energy in energies])
    _intervals(axis, index, drawn, [(energy, 1.0) for energy in energies])


def _intervals(axis: Axes, index: int, points: Sequence[ScalePoint], found: Sequence[tuple[Quantity, float]]) -> None:
    """95 % intervals of (figure, its factor on the axis)."""
    values = [factor * (each.value or 0.0) for each, factor in found]
    lows = [
        value if each.low is None else factor * each.low for value, (each, factor) in zip(values, found, strict=True)
    ]
    highs = [
        value if each.high is None else factor * each.high for value, (each, factor) in zip(values, found, strict=True)
    ]
    errors = np.abs(np.array([lows, highs]).reshape(2, -1) - np.array(values))
    colour = COLOURS[index % len(COLOURS)]
    x = [_size(point) for point in points]
    axis.errorbar(x, values, yerr=errors, fmt="none", ecolor=colour, capsize=2, linewidth=1.0)


def _slope(points: Sequence[ScalePoint]) -> str:
    """The fitted exponent of time, to stand beside a name."""
    found = exponent(points, "seconds")
    if found.value is None or found.low is None or found.high is None:
        return ""
    return f"  {found.value:.2f} ± {found.high - found.value:.2f}"


def _circles(record: ScaleRecord, study: Study, axis: Axes) -> None:
    """Open circles where the first operator's time crosses another's."""
    first, *others = (points for name in record.operators if (points := curve(record, study, name)))
    sizes = [point.num_tokens for point in first]
    times_ms = [1000 * (figure(point, "seconds").value or 0.0) for point in first]
    for other in others:
        found = compared(first, other, "seconds")
        for crossing in found if isinstance(found, list) else ():
            if crossing.at_tokens is not None:
                height_ms = float(np.exp(np.interp(np.log(crossing.at_tokens), np.log(sizes), np.log(times_ms))))
                axis.plot(crossing.at_tokens, height_ms, "o", markersize=9, fillstyle="none", color=GREY)


def _log_axes(axis: Axes, sizes: Sequence[int], text: Callable[[float, int], str]) -> None:
    """Powers of two below, as many as fit; plain numbers at the side."""
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    step = -(-len(sizes) // _MAX_TICKS)
    axis.xaxis.set_major_locator(FixedLocator(sizes[::step]))
    axis.xaxis.set_major_formatter(FuncFormatter(_short_text))
    axis.xaxis.set_minor_locator(NullLocator())
    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(base=10.0, subs=(1.0,) if high / low > 50 else (1.0, 2.0, 5.0)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(text))


def _short_text(value: float, _position: int = 0) -> str:
    """Token counts: 512, 4k, 64k, 1M."""
    for factor, prefix in ((2**20, "M"), (2**10, "k")):
        if value >= factor:
            return f"{value / factor:g}{prefix}"
    return f"{value:g}"


def _count_text(value: float, _position: int = 0) -> str:
    """10 M, 200 k."""
    factor, prefix = next(each for each in _PREFIXES if value >= each[0] or each[0] == 1.0)
    return f"{value / factor:g} {prefix}".rstrip()
