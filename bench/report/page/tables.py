"""The comparison tables of `report.html`, as HTML that stands without JavaScript; the script makes them sort and open.

A table puts numbers side by side and a reader ranks what stands side by side. So every cell knows with which others it
may be compared (`bench/compare.py`), says so by a letter where they are not all comparable, and is bold only where it
is the best of those, together with all whose interval reaches it. A run's leading cells repeat in each table: it is
read alone, filtered and printed alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from bench.compare import COMPANIONS, comparable_groups, deciding, differences
from bench.directions import DIRECTIONS
from bench.notation import UNKNOWN, format_quantity
from bench.records import Record
from bench.report.carbon import ACTIVITIES
from bench.report.comparable import best_runs
from bench.report.page.data import Json, clean
from bench.report.rows import COST_COLUMNS, QUALITY_COLUMNS, SPEED_COLUMNS

_BUDGET_COLUMNS = ("num_images_shown", "train_duration_s")
_TITLES = {
    "num_params_generator": "generator parameters",
    "num_params_discriminator": "discriminator parameters",
    "macs_generator": "generator MACs",
    "macs_discriminator": "discriminator MACs",
    "generate_images_per_s": "generating",
    "generate_latency_ms_p50": "median latency",
    "train_images_per_s": "training step",
    "peak_memory_bytes": "peak memory",
    "num_images_shown": "images shown",
    "train_duration_s": "trained for",
    **{activity.gross: "gross" for activity in ACTIVITIES},
    **{activity.net: "net of idle" for activity in ACTIVITIES},
    **{activity.co2: "CO2" for activity in ACTIVITIES},
}
_LEAD = ("model", "setting", "machine")  # columns before the figures
_SPENT_UNITS = ("s", "J", "W", "B")  # what the quality phase took is no quality
_MAX_LISTED_FIELDS = 12


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table.

    Attributes:
        groups: (title, figures) of neighbouring columns; one with an empty title where they have no heading.
    """

    name: str
    title: str
    groups: Sequence[tuple[str, Sequence[str]]]

    @property
    def figures(self) -> tuple[str, ...]:
        """All columns' figures, from left to right."""
        return tuple(figure for _, figures in self.groups for figure in figures)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """With what each figure of the shown runs may be compared.

    Attributes:
        group: figure → run id → number of its group; only where the figure is known.
        differ: figure → the fields in which its groups differ; empty where all may be compared.
        best: (run id, figure) that are the best of their group.
    """

    group: Mapping[str, Mapping[str, int]]
    differ: Mapping[str, Sequence[str]]
    best: frozenset[tuple[str, str]] = field(default_factory=frozenset)


def tables_of(records: Sequence[Record]) -> tuple[Table, ...]:
    """Cost and speed, quality, energy."""
    activities = [(each.title, (each.gross, each.net, each.co2)) for each in ACTIVITIES]
    budget = ("what it was trained for", _BUDGET_COLUMNS)
    quality = ("quality", quality_columns(records))
    return (
        Table(
            name="cost", title="Cost and speed", groups=(("counts", COST_COLUMNS), ("time and memory", SPEED_COLUMNS))
        ),
        Table(name="quality", title="Quality", groups=(budget, quality)),
        Table(name="energy", title="Energy and CO2", groups=activities),
    )


def quality_columns(records: Sequence[Record]) -> tuple[str, ...]:
    """The scores of the quality phase, the headline ones first, without those that stand beside another."""
    phases = [record.phases["quality"] for record in records if "quality" in record.phases]
    found = {name for phase in phases for name, each in phase.quantities.items() if each.unit not in _SPENT_UNITS}
    own = {name for name in found if not any(name.removesuffix(end) in found - {name} for end in COMPANIONS)}
    headline = [name for name in QUALITY_COLUMNS if name in own] or [QUALITY_COLUMNS[0]]
    return (*headline, *sorted(own - set(headline)))


def comparison_of(records: Sequence[Record], figures: Sequence[str]) -> Comparison:
    """Groups and leaders of each figure; counts, budgets and what has no direction have no best."""
    group: dict[str, dict[str, int]] = {}
    differ: dict[str, list[str]] = {}
    best: set[tuple[str, str]] = set()
    for figure in figures:
        if figure in _BUDGET_COLUMNS:
            continue
        groups = comparable_groups(records, figure)
        group[figure] = {record.run_id: index for index, members in enumerate(groups) for record in members}
        fields = differences([deciding(members[0], figure) for members in groups]) if len(groups) > 1 else []
        more = [f"{len(fields) - _MAX_LISTED_FIELDS} more"] if len(fields) > _MAX_LISTED_FIELDS else []
        differ[figure] = [clean(name, 80) for name in fields[:_MAX_LISTED_FIELDS]] + more
        best |= {(run_id, figure) for run_id in best_runs(records, figure)}
    for activity in ACTIVITIES:  # CO2 is its gross energy times numbers that are the same for all
        group[activity.co2], differ[activity.co2] = group.get(activity.gross, {}), differ.get(activity.gross, [])
    return Comparison(group=group, differ=differ, best=frozenset(best))


def letter(index: int) -> str:
    """a … z, then a27, a28, …, as in `report.md`."""
    return chr(ord("a") + index) if index < 26 else f"a{index + 1}"


def figure_title(figure: str) -> str:
    """What a column is called: words where there are some, else the figure's name."""
    return _TITLES.get(figure, clean(figure, 60))


def table_html(table: Table, records: Sequence[Record], facts: Sequence[Json], comparison: Comparison) -> str:
    """The table with its caption; row i is `records[i]`, whose facts the page has at the same place."""
    units = {figure: _unit(records, figure) for figure in table.figures}
    wide = [(title, len(figures)) for title, figures in table.groups]
    above = "".join(f'<th scope="colgroup" colspan="{num}">{escape(title)}</th>' for title, num in wide)
    lead = "".join(f'<th scope="col" data-k="{name}">{name}</th>' for name in _LEAD)
    heads = "".join(_head(figure, units[figure]) for figure in table.figures)
    ends = '<th scope="col" data-k="status">status</th><th scope="col" data-k="badge">audit</th>'
    body = "\n".join(
        row_html(table, index, record, fact, comparison)
        for index, (record, fact) in enumerate(zip(records, facts, strict=True))
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{table.title}"><table data-table="{table.name}">'
        f'<caption class="quiet">{table.title}</caption><thead><tr class="above"><td colspan="{len(_LEAD)}">'
        f'</td>{above}<td colspan="2"></td></tr><tr>{lead}{heads}{ends}</tr>'
        f"</thead><tbody>\n{body}\n</tbody></table></div>"
    )


def row_html(table: Table, index: int, record: Record, fact: Json, comparison: Comparison) -> str:
    """One `tr`."""
    doubt = "smoke" if fact["preset"] == "smoke" else "not publishable" if fact["doubt"] else ""
    chip = f' <span class="chip">{doubt}</span>' if doubt else ""
    ours = " · ours" if record.model.configuration.startswith("ours") else ""
    run = f"<b>{escape(fact['model'])}</b>{chip}<small>{escape(fact['short'])}{ours}</small>"
    lead = f'<td class="t">{escape(fact["data"])}<small>{escape(fact["setting"])}</small></td>'
    lead += f'<td class="t">{fact["machine_name"]}</td>'
    cells = "".join(_cell(record, fact, figure, comparison) for figure in table.figures)
    badge = f'<td class="t b-{fact["badge"].split()[-1][:5]}">{fact["badge"]}</td>'
    ends = f'<td class="t s-{fact["status"]}">{fact["status"]}</td>{badge}'
    return f'<tr data-r="{index}"><th scope="row">{run}</th>{lead}{cells}{ends}</tr>'


def _head(figure: str, unit: str) -> str:
    better = DIRECTIONS.get(figure)
    arrow = {"lower": " ↓", "higher": " ↑"}.get(better or "", "")
    title = f' title="{escape(clean(figure))}{f": {better} is better" if better else ""}"'
    words = escape(figure_title(figure)).replace("_", "_<wbr>")
    return f'<th scope="col" data-f="{escape(clean(figure))}"{title}>{words}<small>{escape(unit)}{arrow}</small></th>'


def _cell(record: Record, fact: Json, figure: str, comparison: Comparison) -> str:
    """The figure as `format_quantity` wrote it, bold where it is the best, its letter, and what stands beside it."""
    entry = fact["figures"][clean(figure)]
    text = escape(entry[0])
    if entry[0] == UNKNOWN:
        return f'<td class="u">{text}</td>'
    if (record.run_id, figure) in comparison.best:
        text = f"<b>{text}</b>"
    if comparison.differ.get(figure):
        text += f"<i>{{{letter(comparison.group[figure][record.run_id])}}}</i>"
    beside = _beside(record, figure)
    return f"<td>{text}{f'<small>{escape(beside)}</small>' if beside else ''}</td>"


def _beside(record: Record, figure: str) -> str:
    """`4.2× the floor`: a distance as a multiple of what real images get; a count as a share of it."""
    quantity, real = record.quantity(figure), record.quantity(f"{figure}_real")
    if quantity is None or real is None or quantity.value is None or not real.value:
        return ""
    if figure.startswith("rfd"):
        return f"{quantity.value / real.value:.3g}× the floor"
    return f"real {format_quantity(real)}"


def _unit(records: Sequence[Record], figure: str) -> str:
    """`image/s`; several where the records disagree; nothing for counts, and for bytes, whose cells carry theirs."""
    found = [quantity.unit for record in records if (quantity := record.quantity(figure)) is not None]
    units = sorted({unit for unit in found if unit not in ("1", "B")})
    unit = clean(", ".join(units), 40)
    per = {each.co2: f" per {each.amount:.0f} images" for each in ACTIVITIES if each.amount > 1}.get(figure, "")
    return unit + per if unit else unit
