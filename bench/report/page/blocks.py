"""The parts of `report.html` between its tables, as HTML: headline, samples, plots, verdict, audit, machines, origins.

Each function takes what was found and returns markup in which every string from a record is escaped. Where there is
nothing to show, the part says why.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from bench.errors import BenchError
from bench.notation import UNKNOWN
from bench.records import Record
from bench.report.grids import FIVE_GRIDS, Grid, grid_of
from bench.report.page.data import FIGURE_FIELDS, Json, Pool, clean
from bench.report.page.headline import caveats, counts, glance, status_counts
from bench.report.page.samples import Shown

if TYPE_CHECKING:
    from bench.audit import AuditFinding
    from bench.report.verdict import Verdict

_MAX_REASONS = 60
_MAX_NAMED = 6
_MAX_DETAILS = 2
_NOTE = FIGURE_FIELDS.index("note")


def _text(text: object, max_chars: int = 600) -> str:
    return escape(clean(str(text), max_chars))


def _prose(text: object, max_chars: int = 1200) -> str:
    """Text in which `words between backticks` are code."""
    return re.sub(r"`([^`<>]+)`", r"<code>\1</code>", _text(text, max_chars))


def _run(run_id: str, label: str = "") -> str:
    """A run's name; the script makes it open the run."""
    return f'<span data-run="{_text(run_id)}">{_text(label or run_id)}</span>'


def _list(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def headline_html(
    records: Sequence[Record],
    shown: Sequence[Record],
    findings: Mapping[str, Sequence[AuditFinding]],
    problems: Sequence[str],
    num_runs: int,
) -> str:
    """Tiles, statuses, who is best, and what to keep in mind.

    Args:
        records: all that were read, for the counts.
        shown: those in the tables, for the comparison.
        num_runs: how many are stored.
    """
    tiles = "".join(f"<div><dt>{word}</dt><dd>{number}</dd></div>" for number, word in counts(records, num_runs))
    statuses = "".join(
        f'<li class="s-{status}"><b>{number:,}</b> {status}</li>' for status, number in status_counts(records)
    )
    models = {record.run_id: record.spec.model_title for record in shown}
    cards = "".join(_glance_card(card, models) for card in glance(shown))
    notes = _list(map(_prose, caveats(records, findings, problems)))
    return (
        f'<dl class="tiles">{tiles}</dl><ul class="statuses" aria-label="Runs by status">{statuses}</ul>'
        f'<div class="cards glance">{cards}</div><div class="caveats"><h3>Keep in mind</h3>{notes}</div>'
    )


def _glance_card(card: Mapping[str, Json], models: Mapping[str, str]) -> str:
    who = ", ".join(_run(run_id, models[run_id]) for run_id in card["runs"])
    best = f'<p class="who">{who}</p><p class="value">{_text(card["value"])}</p>' if who else ""
    empty = "" if who else ' class="nobody"'
    return f"<article{empty}><h3>{card['title']}</h3>{best}<p>{_text(card['sentence'])}</p></article>"


def samples_html(samples: Sequence[Shown], num_left_out: int, facts: Sequence[Json]) -> str:
    """Samples of the models side by side."""
    if not samples:
        return "<p>No run here has a sample grid that could be shown.</p>"
    shown_ids = {fact["id"] for fact in facts}
    figures = []
    for each in samples:
        record = each.run.record if each.run else None
        smoke = '<span class="chip">smoke</span>' if record and record.spec.preset == "smoke" else ""
        name = _text(each.title, 80)
        if record is not None and clean(record.run_id) in shown_ids:
            name = _run(record.run_id, each.title)
        data = f"{record.spec.dataset} {record.spec.resolution} px" if record else ""
        figures.append(
            f'<figure><img src="{each.uri}" width="{each.width}" height="{each.height}" alt="Images that '
            f'{_text(each.title, 80)} made of {_text(data, 60)}"><figcaption><b>{name}</b> {smoke}'
            f"<small>{_text(data, 60)}</small><small>{_text(each.caption)}</small></figcaption></figure>"
        )
    more = f" {num_left_out} more runs have grids, in their folders." if num_left_out else ""
    return (
        f"<p>The first images of each run's last grid, from the same fixed latents, not selected.{more}</p>"
        f'<div class="samples">{"".join(figures)}</div>'
    )


def pictures_html(pictures: Sequence[Shown]) -> str:
    """The plots; one without data is a line that says why."""
    drawn = []
    for each in pictures:
        title, caption = _text(each.title), _text(each.caption, 1500)
        size = f' width="{each.width}" height="{each.height}"' if each.width else ""
        image = f'<img src="{each.uri}"{size} alt="Plot: {title}. {caption}">' if each.uri else ""
        kind = "plot" if image else "plot none"
        words = f"<figcaption>{_prose(each.caption, 1500)}</figcaption>"
        drawn.append(f'<figure class="{kind}"><h3>{title}</h3>{image}{words}</figure>')
    return "".join(drawn) or "<p>No plot was drawn.</p>"


def verdicts_html(verdicts: Sequence[Verdict]) -> str:
    """The claims of the authors, each with its outcome and the evidence in these records."""
    cards = []
    for each in verdicts:
        evidence = _list(
            f"{_prose(found.text)} {', '.join(map(_run, found.run_ids[:_MAX_NAMED]))}{_more(len(found.run_ids))}"
            for found in each.evidence
        )
        limits = f"<h4>What it does not say</h4>{_list(map(_prose, each.limits))}" if each.limits else ""
        found = f"<h4>Evidence</h4>{evidence}" if each.evidence else ""
        behind = f"<details><summary>Evidence and limits</summary>{found}{limits}</details>" if found + limits else ""
        cards.append(
            f'<article class="verdict"><h3>{_prose(each.claim)}</h3>'
            f'<p class="outcome {_kind(each.outcome)}">{_text(each.outcome)}</p>'
            f"<p>{_prose(each.sentence)}</p>{behind}<p class='source'>Claimed in: {_text(each.source)}</p></article>"
        )
    return "".join(cards) or "<p>No claim was tested.</p>"


def _kind(outcome: str) -> str:
    """`supported here` → `o-supported`: what the style sheet colours; the words say it too."""
    return f"o-{outcome.split(maxsplit=1)[0]}"


def _more(num_runs: int) -> str:
    return f" and {num_runs - _MAX_NAMED} more" if num_runs > _MAX_NAMED else ""


def audit_html(facts: Sequence[Json], pool: Pool) -> str:
    """Each broken rule once, with its remedy, what was found and the runs it holds for; errors first."""
    found: dict[tuple[str, str, str], list[tuple[Json, str]]] = defaultdict(list)
    for fact in facts:
        for level, rule, detail, remedy in fact["audit"]:
            found[level, rule, pool.values[remedy]].append((fact, pool.values[detail]))
    if not found:
        audited = any(fact["badge"] != "not audited" for fact in facts)
        return "<p>No rule was broken.</p>" if audited else "<p>These runs were not audited: run bench audit.</p>"
    order = ["error", "warning", "note"]
    rows = []
    for key in sorted(found, key=lambda each: (order.index(each[0]), each))[:_MAX_REASONS]:
        level, rule, remedy = key
        details = list(dict.fromkeys(detail for _, detail in found[key]))
        more = f"<br>… and {len(details) - _MAX_DETAILS} more" if len(details) > _MAX_DETAILS else ""
        runs = {fact["id"]: _run(fact["id"], f"{fact['model']} {fact['short']}") for fact, _ in found[key]}
        rows.append(
            f'<tr><td class="b-{level[:5]}">{level}</td><td>{_text(rule)}</td>'
            f"<td>{'<br>'.join(map(_prose, details[:_MAX_DETAILS]))}{more}</td><td>{_prose(remedy)}</td>"
            f"<td>{', '.join(list(runs.values())[:_MAX_NAMED])}{_more(len(runs))}</td></tr>"
        )
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("level", "rule", "what was found", "remedy", "runs"))
    left_out = len(found) - len(rows)
    more = f"<p>{left_out} more findings: bench audit shows them.</p>" if left_out else ""
    return (
        '<div class="scroll words" tabindex="0" role="region" aria-label="Audit"><table><thead><tr>'
        f"{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{more}"
    )


def unknown_html(facts: Sequence[Json], columns: Sequence[str], pool: Pool) -> str:
    """One line per reason why figures are unknown, with the figures and how many runs it holds for."""
    reasons: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for fact in facts:
        missing: dict[int, list[str]] = defaultdict(list)
        for figure in columns:
            entry = fact["figures"][clean(figure)]
            if entry[0] == UNKNOWN and len(entry) > _NOTE and entry[_NOTE] is not None:
                missing[entry[_NOTE]].append(clean(figure, 60))
        for place, figures in missing.items():
            reasons[pool.values[place], *figures].append(fact["short"])
    lines = []
    for (reason, *figures), runs in list(reasons.items())[:_MAX_REASONS]:
        names = ", ".join(dict.fromkeys(figures))
        lines.append(f"<b>{_prose(reason)}</b><br>{_text(names)} of {_text(', '.join(runs[:4]))}{_count(len(runs))}")
    if len(reasons) > _MAX_REASONS:
        lines.append(f"{len(reasons) - _MAX_REASONS} more reasons: measurements.csv has all.")
    return _list(lines) if lines else "<p>Every figure in the tables is known.</p>"


def _count(num_runs: int) -> str:
    return f" and {num_runs - 4} more runs" if num_runs > 4 else ""


def machines_html(facts: Sequence[Json], pool: Pool) -> str:
    """The machines by their letters; the script and the rows name them alike."""
    return "".join(
        f"<dt>{fact['machine_name']}</dt><dd>{escape(pool.values[fact['machine']])}</dd>"
        for fact in {fact["machine"]: fact for fact in facts}.values()
    )


def origins_html(facts: Sequence[Json]) -> str:
    """Where each row is from, in one line each; the rest is behind it."""
    rows = "".join(
        f'<tr><th scope="row">{_run(fact["id"], fact["model"])}</th><td>{escape(fact["id"])}</td>'
        f"<td>{escape(fact['setting'])}</td><td>{escape(fact['commit'])}</td></tr>"
        for fact in facts
    )
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("model", "run", "setting", "commit"))
    return (
        '<div class="scroll words" tabindex="0" role="region" aria-label="Where each row is from"><table><thead><tr>'
        f"{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def grid_options(grid: Grid | None) -> str:
    """The choices of the grid: none, the five, and the one of this report; `data-g` is its grams per kWh."""
    try:
        five = [grid_of(code) for code in FIVE_GRIDS]
    except BenchError:  # another codecarbon may lack the table; the report's own grid stands without it
        five = []
    own = [] if grid is None or grid in five else [grid]
    options = ['<option value="">no grid</option>']
    for each in [*own, *five]:
        selected = " selected" if each == grid else ""
        options.append(
            f'<option value="{_text(each.region)}" data-g="{each.g_per_kwh!r}" data-text="{_text(each.text())}" '
            f'title="{_text(each.source)}"{selected}>{_text(each.text())}</option>'
        )
    return "".join(options)
