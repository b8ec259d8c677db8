"""How every picture looks and is saved, and the two that are drawn from records alone: throughput and quality.

The same records give the same bytes: matplotlib's defaults instead of the user's settings, a fixed salt for SVG ids, no
date. Colours are Okabe and Ito's, told apart by people who see colour differently
(https://jfly.uni-koeln.de/color/); a marker says the same once more.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import Container
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bench.records import CurvePoint, Quantity
from bench.report.notation import format_quantity, plain, shortened
from bench.report.rows import data_name, run_labels, sort_key
from bench.store import StoredRun

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")  # 7 and 11 share no factor: 77 different pairs
GREY = "#666666"

_FONT = "DejaVu Sans"  # comes with matplotlib, so a picture does not depend on the computer's fonts
_STYLE: dict[Any, Any] = {  # matplotlib types the keys from 3.11 on, as a closed list
    "font.family": _FONT,
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.constrained_layout.h_pad": 0.09,
    "figure.constrained_layout.w_pad": 0.07,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.dpi": 130.0,
    "svg.hashsalt": "gan-bench",
    "text.parse_math": False,  # a $ in a model's name is a $
}
_LOG_RANGE = 30.0  # figures further apart than this do not fit on a linear axis
_MAX_TITLE_CHARS = 60
_MAX_BARS = 40
_MAX_CURVES = 12
_MAX_DATA_SETS = 6


@dataclass(frozen=True)
class Drawing:
    """A picture, or None with the reason in `caption`; `problems` are files that could not be read for it."""

    figure: Figure | None
    caption: str
    problems: tuple[str, ...] = ()


@contextmanager
def house_style() -> Iterator[None]:
    """Matplotlib's defaults and ours on top, whatever the user's own settings are; they come back afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def encoded(figure: Figure) -> dict[str, bytes]:
    """The figure as `png` and as `svg`, without a date and without the version that drew it."""
    found = {}
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, metadata=metadata)
        found[suffix] = buffer.getvalue()
    return found


def drawable(label: str) -> str:
    """A label the font can draw: signs it lacks become �, a leading _ does not hide it."""
    known = get_font(findfont(_FONT)).get_charmap()
    text = "".join(sign if ord(sign) in known else "�" for sign in label)
    return f" {text}" if text.startswith("_") else text


def newest(runs: Sequence[StoredRun], limit: int) -> tuple[list[StoredRun], str]:
    """At most `limit` runs in table order, and a sentence where older ones were left out."""
    kept = sorted(runs, key=lambda run: (run.record.created_at, run.record.run_id))[-limit:]
    left_out = f" The {len(kept)} newest of {len(runs)} runs." if len(kept) < len(runs) else ""
    return sorted(kept, key=lambda run: sort_key(run.record)), left_out


def tick_text(value: float, _position: int = 0) -> str:
    """An axis number as a person writes it: `12,000`, `0.05`."""
    return f"{value:,.10g}"


def throughput(runs: Sequence[StoredRun]) -> Drawing:
    """Images per second when generating and when training, one row per run, with the 95 % interval."""
    panels = (("generate_images_per_s", "Generating", COLOURS[0]), ("train_images_per_s", "Training step", COLOURS[1]))
    known = [run for run in runs if any(_is_known(run.record.quantity(name)) for name, _, _ in panels)]
    if not known:
        return Drawing(None, "No run has a measured throughput.")
    kept, left_out = newest(known, _MAX_BARS)
    labels = [drawable(label) for label in run_labels([run.record for run in kept])]
    figure = Figure(figsize=(10.0, 1.5 + 0.32 * len(kept)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (name, title, colour) in zip(axes, panels, strict=True):
        _throughput_panel(axis, [run.record.quantity(name) for run in kept], colour)
        axis.set_title(title)
    axes[0].set_yticks(range(len(kept)), labels)
    axes[0].set_ylim(len(kept) - 0.4, -0.6)
    caption = "Images per second, further right is faster. An interval (95 %) narrower than its dot is hidden by it."
    return Drawing(figure, caption + left_out)


def _throughput_panel(axis: Axes, quantities: Sequence[Quantity | None], colour: str) -> None:
    """One dot per row with its interval and its figure beside it; a row without a figure says so."""
    known = [quantity for quantity in quantities if _is_known(quantity)]
    values = [quantity.value for quantity in known if quantity is not None and quantity.value is not None]
    is_log = bool(values) and min(values) > 0 and max(values) > _LOG_RANGE * min(values)
    largest, smallest = max(values, default=1.0), min(values, default=1.0)
    if is_log:
        axis.set_xscale("log")
        span = largest / smallest
        axis.set_xlim(smallest / span**0.08, largest * span**0.4)
        _log_ticks(axis, "x")
    else:
        axis.set_xlim(0.0, (largest or 1.0) * 1.4)
        axis.xaxis.set_major_formatter(FuncFormatter(tick_text))
    for row, quantity in enumerate(quantities):
        if quantity is None or quantity.value is None:
            axis.annotate("not known", (0.02, row), xycoords=("axes fraction", "data"), va="center", color=GREY)
            continue
        right = quantity.value if quantity.high is None else quantity.high
        axis.errorbar(quantity.value, row, xerr=_error(quantity), fmt="o", color=colour, capsize=3, markersize=5)
        text = format_quantity(quantity)
        axis.annotate(text, (right, row), xytext=(7, 0), textcoords="offset points", va="center", fontsize=8)
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("images per second" + (" (log scale)" if is_log else ""))


def quality(runs: Sequence[StoredRun]) -> Drawing:
    """rfd_v1 over images shown, one panel per data set and resolution, with what real images get as a dashed line."""
    known = sorted((run for run in runs if _curve(run)), key=lambda run: sort_key(run.record))
    if not known:
        return Drawing(None, "No run has an rfd_v1 curve: quality was not measured while training.")
    groups = [list(group) for _, group in groupby(known, key=lambda run: data_name(run.record))]
    num_left_out = max(0, len(groups) - _MAX_DATA_SETS)
    groups = groups[:_MAX_DATA_SETS]
    figure = Figure(figsize=(9.0, 0.3 + 3.3 * len(groups)), layout="constrained")
    notes: list[str] = []
    styles: dict[str, int] = {}  # a label has one colour and one marker in all panels
    for axis, group in zip(figure.subplots(len(groups), 1, squeeze=False)[:, 0], groups, strict=True):
        kept, left_out = newest(group, _MAX_CURVES)
        _quality_panel(axis, kept, styles)
        data = data_name(group[0].record)
        axis.set_title(drawable(shortened(plain(data), _MAX_TITLE_CHARS)))
        notes += [f" {data}:{left_out}"] if left_out else []
    notes += [f" {num_left_out} more data sets are not drawn."] if num_left_out else []
    caption = (
        "Random-feature distance rfd_v1 over images shown; lower is better. Dashed: what real images get, the floor."
        " Compare within one panel only."
    )
    return Drawing(figure, caption + "".join(notes))


def _quality_panel(axis: Axes, runs: Sequence[StoredRun], styles: dict[str, int]) -> None:
    handles: list[Artist | Container] = []
    limits: list[float] = []
    labels = [drawable(label) for label in run_labels([run.record for run in runs])]
    for run, label in zip(runs, tuple(labels), strict=True):
        points = _curve(run)
        index = styles.setdefault(label, len(styles))
        values = [value for _, quantity in points if (value := quantity.value) is not None]
        errors = [_error(quantity) or [[0.0], [0.0]] for _, quantity in points]
        handles.append(
            axis.errorbar(
                [point.num_images_shown / 1e3 for point, _ in points],
                values,
                yerr=[[error[side][0] for error in errors] for side in (0, 1)],
                color=COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                markersize=5,
                linewidth=1.4,
                capsize=2,
            )
        )
        limits += values
    floors = {float(f"{value:.3g}") for run in runs if (value := _floor(run)) is not None}
    for floor in sorted(floors):
        handles.append(axis.axhline(floor, color=GREY, linestyle="--", linewidth=1.2))
        labels.append(f"real images: {floor:g}")
        limits.append(floor)
    axis.set_yscale("log")
    middle, span = math.sqrt(min(limits) * max(limits)), max(4.0, max(limits) / min(limits) * 1.5)
    axis.set_ylim(middle / math.sqrt(span), middle * math.sqrt(span))
    _log_ticks(axis, "y")
    axis.xaxis.set_major_formatter(FuncFormatter(tick_text))
    axis.set_xlabel("images shown (kimg)")
    axis.set_ylabel("rfd_v1 (log scale)")
    axis.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, fontsize=8)


def _curve(run: StoredRun) -> list[tuple[CurvePoint, Quantity]]:
    """The points a log axis can show, in order of images shown."""
    points = sorted(run.record.curve, key=lambda point: point.num_images_shown)
    found = [(point, point.quantities["rfd_v1"]) for point in points if "rfd_v1" in point.quantities]
    return [(point, quantity) for point, quantity in found if quantity.value is not None and quantity.value > 0]


def _floor(run: StoredRun) -> float | None:
    quantity = run.record.quantity("rfd_v1_real")
    return quantity.value if quantity is not None and quantity.value is not None and quantity.value > 0 else None


def _is_known(quantity: Quantity | None) -> bool:
    return quantity is not None and quantity.value is not None


def _error(quantity: Quantity) -> list[list[float]] | None:
    """Distances from the value to the ends of its interval as errorbar wants them, or None where it has none."""
    if quantity.value is None or quantity.low is None or quantity.high is None:
        return None
    return [[quantity.value - quantity.low], [quantity.high - quantity.value]]


def _log_ticks(axis: Axes, which: str) -> None:
    """Plain numbers on a log axis; the wider the range, the fewer per decade, so that they do not touch."""
    low, high = axis.get_xlim() if which == "x" else axis.get_ylim()
    few: tuple[float, ...] = (1.0, 2.0, 5.0) if which == "y" else (1.0, 3.0)
    subs = few if high / low < 2e3 else (1.0,)
    side = axis.xaxis if which == "x" else axis.yaxis
    side.set_major_locator(LogLocator(base=10.0, subs=subs))
    side.set_minor_locator(NullLocator())
    side.set_major_formatter(FuncFormatter(tick_text))
