"""Where a training step's time and joules go: one bar per run, its parts, and what the parts miss or count twice.

Each part was replayed by itself (`bench/phases/_replay.py`), so its figures are attributed and need not add up to the
step; the difference is drawn as a piece of its own, left of zero where the parts count something twice. Reading a batch
is replayed too and is no part of the step, so it has a thin bar of its own.

The names of the parts are written down here once more, because the file that measures them needs torch; a test
compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.notation import format_quantity
from bench.records import Quantity, Record
from bench.report.carbon import scaled
from bench.report.energy_to_quality import NO_METER
from bench.report.plots import COLOURS, GREY, Drawing, drawable, named_by_reason, newest, tick_text
from bench.report.rows import run_labels, why_unknown
from bench.store import StoredRun

# part → how it is called, its colour, its hatching; in the order of the step
PARTS: dict[str, tuple[str, str, str]] = {
    "generator_forward": ("generator forward (fakes)", COLOURS[5], ""),
    "discriminator": ("discriminator, forward and backward", COLOURS[0], "///"),
    "penalty": ("penalty", COLOURS[2], "\\\\\\"),
    "generator": ("generator, forward and backward", COLOURS[1], "..."),
    "optimiser": ("optimiser", COLOURS[4], "xxx"),
    "ema": ("moving average", COLOURS[6], ""),
}
DATA = "data"  # replayed, but no part of the measured step

_MAX_BARS = 40
_MIN_WRITTEN_SHARE = 0.06  # a narrower piece has no room for its number
_LARGEST_SHARE = 1e3  # a record with more than this is damaged
_FARTHEST = (-1.0, 2.0)  # shares beyond are cut off: they would press every other bar flat
_RESIDUAL_LOOK: dict[str, Any] = {"facecolor": "white", "edgecolor": GREY, "hatch": "||||", "linewidth": 0.8}
_DATA_LOOK: dict[str, Any] = {"facecolor": "#BBBBBB", "edgecolor": "#BBBBBB", "linewidth": 0.8}
_ROOM_FOR_TEXT = {"boxstyle": "square,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.9}


@dataclass(frozen=True, kw_only=True)
class Split:
    """One step in shares of the whole, which is 1.

    Attributes:
        parts: part → share; a penalty may be below zero, being a difference.
        residual: whole less parts: value, low, high; low and high are the value where there is no interval.
        data: share that reading a batch would add; None where it is unknown.
        whole: the whole step as it was measured, for the reader; empty where it is unknown.
    """

    parts: dict[str, float]
    residual: tuple[float, float, float]
    data: float | None
    whole: str


def step_parts(runs: Sequence[StoredRun]) -> Drawing:
    """Time and joules of one training step by part, one row per run, as shares of the whole step."""
    known = [run for run in runs if isinstance(split_of(run.record, "ms"), Split)]
    if not known:
        return Drawing(
            None,
            "No run has the replayed parts of a training step: `bench run` measures them in its phase train_step, in "
            "one process alone.",
        )
    kept, left_out = newest(known, _MAX_BARS)
    records = [run.record for run in kept]
    labels = [drawable(label) for label in run_labels(records)]
    times, joules = ([split_of(record, unit) for record in records] for unit in ("ms", "energy_j"))
    has_joules = any(isinstance(each, Split) for each in joules)
    figure = Figure(figsize=(13.0, 2.3 + 0.42 * len(kept)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True, width_ratios=(1.0, 1.0 if has_joules else 0.35))
    _panel(axes[0], times)
    axes[0].set_title("Time")
    axes[1].set_title("Joules")
    if has_joules:
        _panel(axes[1], joules)
    else:
        axes[1].set_xticks([])
        axes[1].grid(visible=False)
        axes[1].annotate(NO_METER, (0.5, 0.5), xycoords="axes fraction", ha="center", va="center", color=GREY)
    axes[0].set_yticks(range(len(kept)), labels)
    axes[0].set_ylim(len(kept) - 0.4, -0.6)
    handles = _legend_entries()
    figure.legend(handles, [str(each.get_label()) for each in handles], loc="outside lower center", ncols=4)
    return Drawing(figure, _caption(times + joules) + left_out + _why_no_joules(records, labels, joules))


def split_of(record: Record, unit: str) -> Split | str:
    """How the record's step splits, or why that is not known.

    Args:
        unit: `ms` or `energy_j`, the end of the figures' names.
    """
    result = record.phases.get("train_step")
    found = {} if result is None else result.quantities
    residual = found.get(f"step_residual_{unit}")
    if residual is None or residual.value is None:
        whole_name = "train_images_per_s" if unit == "ms" else "train_step_energy_j_per_image"
        note = residual.note if residual is not None else why_unknown(record, whole_name)
        return note or "its parts were not replayed"
    values = {part: quantity.value for part in PARTS if (quantity := found.get(f"step_{part}_{unit}")) is not None}
    amounts = {part: value for part, value in values.items() if value is not None}
    whole = sum(amounts.values()) + residual.value
    low = residual.value if residual.low is None else residual.low
    high = residual.value if residual.high is None else residual.high
    is_step = whole > 0 and max(map(abs, (*amounts.values(), low, high))) < _LARGEST_SHARE * whole
    if set(amounts) != set(PARTS) or not is_step:
        return "its parts and their residual do not make a step"
    data = found.get(f"step_{DATA}_{unit}")
    return Split(
        parts={part: amount / whole for part, amount in amounts.items()},
        residual=(residual.value / whole, low / whole, high / whole),
        data=None if data is None or data.value is None else data.value / whole,
        whole=_whole_ms(record) if unit == "ms" else _whole_joules(record),
    )


def _whole_ms(record: Record) -> str:
    """`104.1(2) ms`: one step from the measured images per second."""
    rate, batch_size = record.quantity("train_images_per_s"), record.spec.batch_size
    if rate is None or not rate.value or rate.value < 0 or batch_size is None:
        return ""
    low, high = (None if not end or end < 0 else 1e3 * batch_size / end for end in (rate.high, rate.low))
    if low is None or high is None:
        low = high = None
    value = 1e3 * batch_size / rate.value
    step = Quantity(value=value, unit="ms", low=low, high=high, kind=rate.kind, source=rate.source)
    return f"{format_quantity(step)} ms"


def _whole_joules(record: Record) -> str:
    """`52.3(4) J`: one step from the joules per image; marked where they were not measured."""
    energy, batch_size = record.quantity("train_step_energy_j_per_image"), record.spec.batch_size
    if energy is None or energy.value is None or batch_size is None:
        return ""
    step = scaled(energy, float(batch_size), unit="J", source=energy.source)
    number, bracket, mark = format_quantity(step).partition(" [")
    return f"{number} J{bracket}{mark}"


def _panel(axis: Axes, splits: Sequence[Split | str]) -> None:
    for row, split in enumerate(splits):
        if isinstance(split, str):
            axis.annotate("not known", (2.0, row), va="center", color=GREY)
            continue
        _bar(axis, row, split)
        axis.annotate(split.whole, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axis.axvline(100.0, color="black", linewidth=1.4)
    axis.axvline(0.0, color="black", linewidth=0.6)
    spans = [_span(split) for split in splits if isinstance(split, Split)]
    left = max(_FARTHEST[0], min([0.0, *(low for low, _ in spans)]))
    right = min(_FARTHEST[1], max([1.0, *(high for _, high in spans)]))
    axis.set_xlim(100 * left - 3.0, 100 * right + 4.0)
    axis.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
    axis.xaxis.set_major_formatter(FuncFormatter(tick_text))
    axis.set_xlabel("% of the whole step (attributed by replay)")
    axis.grid(visible=False, axis="y")


def _bar(axis: Axes, row: int, split: Split) -> None:
    """The pieces end to end, those below zero to the left of it; the residual last, with its interval."""
    right = left = 0.0
    for part, share in split.parts.items():
        _, colour, hatch = PARTS[part]
        start = 100 * (right if share >= 0 else left)
        axis.barh(row, 100 * share, left=start, height=0.56, color=colour, edgecolor="white", hatch=hatch, linewidth=0)
        _write_share(axis, row, start, share)
        right, left = right + max(share, 0.0), left + min(share, 0.0)
    value, low, high = split.residual
    start = right if value >= 0 else left
    axis.barh(row, 100 * value, left=100 * start, height=0.56, **_RESIDUAL_LOOK)
    if high > low:
        ends = [[100 * (value - low)], [100 * (high - value)]]
        axis.errorbar(100 * (start + value), row - 0.36, xerr=ends, fmt="none", ecolor="black", capsize=2, linewidth=1)
    if split.data is not None:
        axis.barh(row + 0.37, 100 * split.data, height=0.1, **_DATA_LOOK)


def _write_share(axis: Axes, row: int, start: float, share: float) -> None:
    if abs(share) >= _MIN_WRITTEN_SHARE:
        middle = start + 50 * share
        axis.text(middle, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7.5, bbox=_ROOM_FOR_TEXT)


def _span(split: Split) -> tuple[float, float]:
    """Where the row begins and ends, its residual's interval included."""
    right = sum(share for share in split.parts.values() if share > 0)
    left = sum(share for share in split.parts.values() if share < 0)
    value, low, high = split.residual
    start = right if value >= 0 else left
    return min(left, start + low), max(right, start + high, split.data or 0.0)


def _legend_entries() -> list[Artist]:
    entries: list[Artist] = [
        Patch(facecolor=colour, edgecolor="white", hatch=hatch, linewidth=0, label=title)
        for title, colour, hatch in PARTS.values()
    ]
    return [
        *entries,
        Patch(**_RESIDUAL_LOOK, label="residual: the whole less its parts"),
        Line2D([], [], color="black", marker="|", linewidth=1.0, label="95 % interval of the residual"),
        Patch(**_DATA_LOOK, label="reading a batch, not in the step"),
        Line2D([], [], color="black", linewidth=1.4, label="the whole step, 100 %"),
    ]


def _caption(splits: Sequence[Split | str]) -> str:
    spans = [_span(split) for split in splits if isinstance(split, Split)]
    is_cut = any(low < _FARTHEST[0] or high > _FARTHEST[1] for low, high in spans)
    return (
        "One training step by part, as a share of the whole step as it was measured (the line at 100 %, its figure and "
        "95 % interval at the right). Attributed, not measured: each part was repeated alone, so caches are warmer and "
        "nothing overlaps, and the parts need not add up. The residual is what they miss or, left of zero, count "
        "twice; the line above a bar is its interval, which takes every part at its far end."
        + (" What goes beyond the axis is cut off." if is_cut else "")
    )


def _why_no_joules(records: Sequence[Record], labels: Sequence[str], joules: Sequence[Split | str]) -> str:
    missing = [(label, each) for label, each in zip(labels, joules, strict=True) if isinstance(each, str)]
    estimated = [
        label
        for record, label, each in zip(records, labels, joules, strict=True)
        if isinstance(each, Split) and _is_estimated(record)
    ]
    texts = [f" Joules not known: {named_by_reason(missing)}."] if missing else []
    if estimated:
        texts.append(
            f" Joules estimated, not read from a meter: {named_by_reason((each, 'no meter') for each in estimated)}."
        )
    return "".join(texts)


def _is_estimated(record: Record) -> bool:
    energy = record.quantity("train_step_energy_j_per_image")
    return energy is not None and (energy.label or "").startswith("estimated")
