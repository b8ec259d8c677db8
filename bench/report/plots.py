"""How every picture looks and is saved, and the one of throughput.

The same records give the same bytes: matplotlib's defaults instead of the user's settings, a fixed salt for SVG ids, no
date. Colours are Okabe and Ito's, told apart by people who see colour differently
(https://jfly.uni-koeln.de/color/); a marker says the same once more.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bench.notation import format_quantity, plain, shortened
from bench.records import Quantity
from bench.report.rows import run_labels, sort_key
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
_MAX_BARS = 40
_MAX_NAMED = 6
_REASON_CHARS = 160


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


def named_by_reason(reasons: Iterable[tuple[str, str]]) -> str:
    """`a, b (why); c (why)`: who has no place in a picture and why, of many the first few.

    Args:
        reasons: (name, reason); both may be a stranger's words.
    """
    names_of: dict[str, list[str]] = defaultdict(list)
    for name, reason in reasons:
        names_of[shortened(plain(reason), _REASON_CHARS)].append(name)
    texts = []
    for reason, names in names_of.items():
        more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
        texts.append(f"{', '.join(names[:_MAX_NAMED])}{more} ({reason})")
    return "; ".join(texts)


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
        _log_ticks(axis)
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


def _is_known(quantity: Quantity | None) -> bool:
    return quantity is not None and quantity.value is not None


def _error(quantity: Quantity) -> list[list[float]] | None:
    """Distances from the value to the ends of its interval as errorbar wants them, or None where it has none."""
    if quantity.value is None or quantity.low is None or quantity.high is None:
        return None
    return [[quantity.value - quantity.low], [quantity.high - quantity.value]]


def _log_ticks(axis: Axes) -> None:
    """Plain numbers on a log x axis; the wider the range, the fewer per decade, so that they do not touch."""
    low, high = axis.get_xlim()
    subs = (1.0, 3.0) if high / low < 2e3 else (1.0,)
    axis.xaxis.set_major_locator(LogLocator(base=10.0, subs=subs))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(tick_text))
