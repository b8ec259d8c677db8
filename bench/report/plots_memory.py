"""Peak memory against batch size: what generating and a training step need, one line per configuration.

A configuration is a question without its batch size, on one machine. Seed, budget and metrics are left out of it too:
they change no tensor's size. A batch that did not fit is drawn as well, at the top: it is the answer one looks for.

On a CPU the figure is the resident set of the whole process, interpreter and libraries included
(`bench/meters/memory.py`), so machines have rows of their own.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from bench.compare import setting_of
from bench.notation import plain, shortened
from bench.records import PhaseName, Record
from bench.report.plots import COLOURS, MARKERS, Drawing, drawable, tick_text
from bench.report.rows import machine_name, run_labels, sort_key
from bench.store import StoredRun
from bench.units import BYTES_PER_GIB

_PANELS: tuple[tuple[PhaseName, str, str], ...] = (
    ("generate", "Generating", "generate_peak_memory_bytes"),
    ("train_step", "Training step", "peak_memory_bytes"),
)
_NO_TENSOR: dict[str, object] = {  # parts of the question that change no tensor's size
    "seed": 0,
    "train_for": None,
    "eval_every": None,
    "until": None,
    "metrics": None,
    "tdp_w": None,
}
_MAX_ROWS = 6
_MAX_LINES = 12
_MAX_TICKS = 9
_TITLE_CHARS = 100
_LEGEND_CHARS = 40
_FEWEST_BATCH_SIZES = 2
_OUT_OF_MEMORY: dict[str, Any] = {
    "linestyle": "none",
    "markerfacecolor": "white",
    "markersize": 7,
    "markeredgewidth": 1.6,
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One configuration: its name, and its runs, by batch size."""

    label: str
    records: tuple[Record, ...]


def memory_against_batch(runs: Sequence[StoredRun]) -> Drawing:
    """Two panels per machine; only configurations measured with two batch sizes or more."""
    machines: dict[str, dict[str, list[Record]]] = {}
    for record in sorted((run.record for run in runs), key=sort_key):
        if record.spec.batch_size is not None and any(_says_something(record, phase) for phase, *_ in _PANELS):
            machines.setdefault(_machine(record), {}).setdefault(_configuration(record), []).append(record)
    num_all = sum(len(each) for each in machines.values())
    rows = [lines for each in machines.values() if (lines := _lines(list(each.values())))]
    if not rows:
        return Drawing(
            None,
            "No configuration was measured with two batch sizes: repeat a `bench run` with another --batch-size and "
            "everything else as it was.",
        )
    num_alone = num_all - sum(len(lines) for lines in rows)
    more = f" {len(rows) - _MAX_ROWS} more machines are not drawn." if len(rows) > _MAX_ROWS else ""
    rows = rows[:_MAX_ROWS]
    kept = [_newest(lines) for lines in rows]
    heights = [max(3.2, 1.0 + 0.36 * len(lines)) for lines in kept]
    figure = Figure(figsize=(12.0, 0.2 + sum(heights)), layout="constrained")
    panels = figure.subplots(len(rows), 2, squeeze=False, height_ratios=heights)
    styles: dict[str, int] = {}  # a label has one colour and one marker in all rows
    for axes, lines, all_lines in zip(panels, kept, rows, strict=True):
        _row(list(axes), lines, styles)
        if len(lines) < len(all_lines):
            more += f" {_title(lines[0].records[0])}: the {len(lines)} newest of {len(all_lines)} configurations."
    if num_alone:
        s = "s" * (num_alone != 1)
        more += f" Not drawn: {num_alone} configuration{s} with one batch size."
    caption = (
        "The highest memory of all windows, so without an interval. A line joins the highest run of each batch size; "
        "other runs are small signs, and a hollow sign hung from the top is a batch that ran out of memory. On a GPU: "
        "bytes held by tensors. On a CPU: the resident set of the whole process, interpreter, libraries and what "
        "earlier phases left included, so an upper bound. Compare within one row."
    )
    return Drawing(figure, caption + more)


def _says_something(record: Record, phase: PhaseName) -> bool:
    return _peak_gib(record, phase) is not None or _is_out_of_memory(record, phase)


def _peak_gib(record: Record, phase: PhaseName) -> float | None:
    result = record.phases.get(phase)
    name = next(name for each, _, name in _PANELS if each == phase)
    quantity = None if result is None else result.quantities.get(name)
    return None if quantity is None or quantity.value is None else quantity.value / BYTES_PER_GIB


def _is_out_of_memory(record: Record, phase: PhaseName) -> bool:
    result = record.phases.get(phase)
    return result is not None and result.status == "oom"


def _machine(record: Record) -> str:
    return json.dumps([setting_of(record, "peak_memory_bytes")["machine"], record.spec.device], sort_keys=True)


def _configuration(record: Record) -> str:
    return _without_batch(record).spec.model_dump_json() + record.model.source_hash + record.harness_version


def _without_batch(record: Record) -> Record:
    spec = record.spec.model_copy(update={**_NO_TENSOR, "batch_size": None})
    return record.model_copy(update={"spec": spec})


def _lines(configurations: Sequence[list[Record]]) -> list[Line]:
    """Those with two batch sizes of which at least one figure is known, named so that they can be told apart."""
    found = [each for each in configurations if len({record.spec.batch_size for record in each}) >= _FEWEST_BATCH_SIZES]
    known = [each for each in found if any(_peak_gib(record, phase) for record in each for phase, *_ in _PANELS)]
    labels = run_labels([_without_batch(each[0]) for each in known])
    ways = [_way(each[0]) for each in known]
    return [
        Line(
            label=f"{label} · {way}" if way and len(set(ways)) > 1 else label,
            records=tuple(sorted(each, key=lambda record: record.spec.batch_size or 0)),
        )
        for label, way, each in zip(labels, ways, known, strict=True)
    ]


def _way(record: Record) -> str:
    """How it was run, where that is not the usual way."""
    spec = record.spec
    found = {
        "compiled": spec.compile,
        "captured": spec.capture,
        "channels last": spec.channels_last,
        f"in {spec.num_accumulation_steps} parts": spec.num_accumulation_steps > 1,
        f"{spec.num_processes} processes": spec.num_processes > 1,
    }
    return ", ".join(text for text, holds in found.items() if holds)


def _newest(lines: Sequence[Line]) -> list[Line]:
    by_age = sorted(lines, key=lambda line: max(record.created_at for record in line.records))
    kept = by_age[-_MAX_LINES:]
    return [line for line in lines if any(line is each for each in kept)]


def _title(record: Record) -> str:
    is_cpu = record.spec.device == "cpu"
    what = "resident set of the whole process" if is_cpu else "held by tensors"
    num_threads = record.machine.num_torch_threads
    threads = f", {num_threads} thread{'s' * (num_threads != 1)}" if is_cpu else ""
    return f"{shortened(plain(machine_name(record)), _TITLE_CHARS)} ({record.spec.device}{threads}): {what}"


def _row(axes: list[Axes], lines: Sequence[Line], styles: dict[str, int]) -> None:
    looks = [_look(styles.setdefault(line.label, len(styles))) for line in lines]
    sizes = sorted({record.spec.batch_size or 0 for line in lines for record in line.records})
    for axis, (phase, title, _) in zip(axes, _PANELS, strict=True):
        highest = max((gib for line in lines for each in line.records if (gib := _peak_gib(each, phase))), default=0.0)
        for line, look in zip(lines, looks, strict=True):
            _draw(axis, line, phase, look)
        _draw_out_of_memory(axis, lines, phase, looks)
        if not highest and not any(_is_out_of_memory(each, phase) for line in lines for each in line.records):
            axis.annotate("not known", (0.5, 0.5), xycoords="axes fraction", ha="center", va="center")
        axis.set_xscale("log", base=2)
        axis.set_xlim(sizes[0] / 1.25, sizes[-1] * 1.25)
        axis.xaxis.set_major_locator(FixedLocator(sizes[:: -(-len(sizes) // _MAX_TICKS)]))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(tick_text))
        axis.set_ylim(0.0, (highest or 1.0) * 1.2)
        axis.yaxis.set_major_locator(MaxNLocator(6))
        axis.yaxis.set_major_formatter(FuncFormatter(tick_text))
        axis.set_xlabel("batch size (images, log scale)")
        axis.set_ylabel(f"{title.lower()}: peak (GiB)")
    axes[0].set_title(drawable(_title(lines[0].records[0])), loc="left")
    handles: list[Artist] = [Line2D([], [], **look) for look in looks]
    texts = [textwrap.fill(drawable(line.label), _LEGEND_CHARS) for line in lines]
    if any(_is_out_of_memory(each, phase) for line in lines for each in line.records for phase, *_ in _PANELS):
        handles.append(Line2D([], [], color="black", **_OUT_OF_MEMORY, marker="o"))
        texts.append("hollow, hung from the top: out of memory")
    axes[-1].legend(handles, texts, loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0.0, fontsize=8)


def _look(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "linewidth": 1.4}


def _draw(axis: Axes, line: Line, phase: PhaseName, look: dict[str, Any]) -> None:
    peaks: dict[int, list[float]] = {}
    for record in line.records:
        gib = _peak_gib(record, phase)
        if gib is not None:
            peaks.setdefault(record.spec.batch_size or 0, []).append(gib)
    axis.plot(list(peaks), [max(found) for found in peaks.values()], **look)
    lower = [(size, gib) for size, found in peaks.items() for gib in sorted(found)[:-1]]
    axis.plot(
        [size for size, _ in lower], [gib for _, gib in lower], **{**look, "linestyle": "none", "markersize": 3.5}
    )


def _draw_out_of_memory(axis: Axes, lines: Sequence[Line], phase: PhaseName, looks: Sequence[dict[str, Any]]) -> None:
    """One below the other, because several configurations may fail at one batch size."""
    num_at: dict[int, int] = {}
    for line, look in zip(lines, looks, strict=True):
        sizes = {record.spec.batch_size or 0 for record in line.records if _is_out_of_memory(record, phase)}
        for size in sorted(sizes):
            height = 0.97 - 0.055 * num_at.get(size, 0)
            num_at[size] = num_at.get(size, 0) + 1
            axis.plot(size, height, transform=axis.get_xaxis_transform(), **{**look, **_OUT_OF_MEMORY})
