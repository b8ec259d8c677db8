"""What `report.html` knows of each run: figures with provenance, protocols, findings; written as JSON into the page.

Why it exists: a reader opens any figure and sees how it is known, without a server and without the results folder. Ten
thousand runs do not fit into a page of 2 MB, so texts and protocols that runs share are stored once (`Pool`), and what
a run costs in bytes is known before it is let in (`bench/report/page.py`).

Every figure is written for the reader here, by `format_quantity`; the page only shows that text. It computes one thing
itself, CO2 under another grid, from the raw joules that stand beside the text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.notation import UNKNOWN, format_number, format_quantity, plain, shortened
from bench.records import PhaseResult, Quantity, Record
from bench.report.carbon import ACTIVITIES
from bench.report.published import why_energy_not_publishable
from bench.report.ranking import why_not_ranked
from bench.report.rows import (
    all_quantities,
    data_name,
    machine_text,
    model_name,
    setting_name,
    status_reason,
    why_not_publishable,
    why_unknown,
)
from bench.units import format_duration

if TYPE_CHECKING:
    from bench.audit import AuditFinding

Json = Any  # what json.dumps takes

FIGURE_FIELDS = ("text", "value", "low", "high", "interval", "unit", "n", "kind", "label", "source", "note")
"""Order of a figure's list in the page; `systematic`, `phase`, `unranked` and `unpublished` follow."""
MORE_FIELDS = ("systematic", "phase", "unranked", "unpublished")

_TEXT_CHARS = 600  # of one stored text: a record may hold a traceback
_PROTOCOL_CHARS = 4000  # of one entry of a protocol, as JSON
_ENERGY_ACTIVITY = {name: each for each in ACTIVITIES for name in (each.gross, each.net, each.co2)}


class Pool:
    """Values that several runs share, each stored once and named by its place.

    Attributes:
        values: in the order first met.
        num_bytes: their size as JSON.
    """

    def __init__(self) -> None:
        self.values: list[Json] = []
        self.num_bytes = 0
        self._places: dict[str, int] = {}

    def place(self, value: Json) -> int:
        """Where the value stands; it is added if it is new."""
        text = as_json(value)
        if text not in self._places:
            self._places[text] = len(self.values)
            self.values.append(value)
            self.num_bytes += len(text) + 1
        return self._places[text]


def as_json(document: Json) -> str:
    """Compact ASCII JSON that stays data inside an HTML `script` element: no `<`, `>`, `&` and no line separator."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def clean(text: str, max_chars: int = _TEXT_CHARS) -> str:
    """One printable line of bounded length."""
    return shortened(plain(text[: 2 * max_chars]), max_chars)


def badge_of(findings: Sequence[AuditFinding] | None) -> str:
    """`sound`, `2 warnings`, `1 error`; `not audited` where nobody looked."""
    if findings is None:
        return "not audited"
    for level in ("error", "warning"):
        num_found = sum(found.level == level for found in findings)
        if num_found:
            return f"{num_found} {level}{'s' if num_found > 1 else ''}"
    return "sound"


def run_facts(
    record: Record,
    pool: Pool,
    *,
    short: str,
    columns: Sequence[str],
    findings: Sequence[AuditFinding] | None,
) -> dict[str, Json]:
    """All the page says of one run, but its raw windows.

    Args:
        record: as `reported` gives it.
        pool: takes what runs share.
        short: what the tables call the run.
        columns: figures that the tables show; one that the record lacks is there with the reason.
        findings: of the audit; None where there was none.
    """
    spec, machine = record.spec, record.machine
    dirty = ", with uncommitted changes" if machine.git_dirty else ""
    return {
        "id": clean(record.run_id),
        "short": clean(short),
        "model": clean(model_name(record)),
        "data": clean(data_name(record)),
        "setting": clean(setting_name(record)),
        "machine": pool.place(clean(machine_text(record))),
        "machine_name": "",
        "status": record.status,
        "reason": clean(status_reason(record)),
        "preset": spec.preset,
        "doubt": clean(why_not_publishable(record)),
        "commit": clean(f"{machine.git_commit or 'unknown'}{dirty}"),
        "facts": [[key, pool.place(clean(text))] for key, text in _origin(record).items() if text],
        "phases": {name: _phase(result, pool) for name, result in record.phases.items()},
        "figures": _figures(record, pool, columns),
        "validity": [[found.level, found.rule, pool.place(clean(found.detail))] for found in record.validity],
        "badge": badge_of(findings),
        "audit": [_audit_entry(found, pool) for found in findings or ()],
        "curve": _curve(record),
    }


def _origin(record: Record) -> dict[str, str]:
    """Everything one needs to ask the same question again, and who made what is measured."""
    spec, model, machine, data = record.spec, record.model, record.machine, record.dataset
    asked = {key: fact for key, fact in spec.model_dump().items() if fact is not None}
    return {
        "measured": f"{record.created_at}, bench {record.harness_version}, schema {record.schema_version}",
        "machine": clean(machine_text(record)),
        "question": ", ".join(f"{key} {fact}" for key, fact in asked.items()),
        "model": f"{model.title} ({model.year}), {model.paper}; {model.code}; licence: {model.licence}",
        "model source": model.source_hash,
        "configuration at this resolution": model.configuration,
        "recipe": str(record.recipe.get("source", "no source recorded")),
        "recipe's full length": f"{record.recipe.get('num_images', 'unknown')} images",
        "data": f"{data.title}, {data.source}; licence: {data.licence}",
        "packages": ", ".join(f"{name} {version}" for name, version in machine.packages.items()),
    }


def _phase(result: PhaseResult, pool: Pool) -> list[Json]:
    """[status, reason, duration, {entry of the protocol: place}]."""
    protocol = {clean(key): pool.place(_bounded(fact)) for key, fact in result.protocol.items()}
    return [result.status, clean(result.reason), format_duration(result.duration_s), protocol]


def _bounded(fact: Json) -> Json:
    """The entry, its strings printable; its beginning as text where it is too long for a page."""
    text = fact if isinstance(fact, str) else json.dumps(fact)
    return clean(text, _PROTOCOL_CHARS) if len(text) > _PROTOCOL_CHARS else _inert(fact)


def _inert(fact: Json) -> Json:
    """Without control characters in its strings, and without the NaN and Infinity that JSON does not have."""
    if isinstance(fact, dict):
        return {clean(key): _inert(each) for key, each in fact.items()}
    if isinstance(fact, list):
        return [_inert(each) for each in fact]
    if isinstance(fact, str):
        return clean(fact, _PROTOCOL_CHARS)
    return fact if not isinstance(fact, float) or math.isfinite(fact) else str(fact)


def _figures(record: Record, pool: Pool, columns: Sequence[str]) -> dict[str, list[Json]]:
    """Figure → its list (FIGURE_FIELDS, then MORE_FIELDS)."""
    phase_of = {name: phase for phase in reversed(record.phases) for name in record.phases[phase].quantities}
    entries = {
        name: _entry(record, name, quantity, phase_of[name], pool) for name, quantity in all_quantities(record).items()
    }
    for name in columns:
        if name not in entries:
            note = pool.place(clean(why_unknown(record, name) or "the record has no such figure"))
            entries[name] = [UNKNOWN, *[None] * (FIGURE_FIELDS.index("note") - 1), note]
    return {clean(name): _trimmed(entry) for name, entry in entries.items()}


def _entry(record: Record, name: str, quantity: Quantity, phase: str, pool: Pool) -> list[Json]:
    def shared(text: str | None) -> int | None:
        return pool.place(clean(text)) if text else None

    activity = _ENERGY_ACTIVITY.get(name)
    unranked = why_not_ranked(record, name) if quantity.value is not None else ""
    return [
        clean(format_quantity(quantity)),
        quantity.value,
        quantity.low,
        quantity.high,
        interval_text(quantity),
        shared(quantity.unit),
        quantity.n,
        shared(quantity.kind),
        shared(quantity.label),
        shared(quantity.source),
        shared(quantity.note),
        quantity.systematic,
        shared(phase),
        shared(unranked),
        shared(why_energy_not_publishable(record, activity) if activity and quantity.value is not None else ""),
    ]


def interval_text(quantity: Quantity) -> str | None:
    """`0.0591 to 0.0633`, `exact`, or None where there is no interval."""
    if quantity.low is None or quantity.high is None:
        return None
    if quantity.low == quantity.high:
        return "exact"
    return " to ".join(format_number(end, unit=quantity.unit) for end in (quantity.low, quantity.high))


def _trimmed(entry: list[Json]) -> list[Json]:
    """Without the unknown fields at its end."""
    while entry and entry[-1] is None:
        entry.pop()
    return entry


def _audit_entry(found: AuditFinding, pool: Pool) -> list[Json]:
    return [found.level, clean(found.rule), pool.place(clean(found.detail)), pool.place(clean(found.remedy))]


_MAX_CURVE_POINTS = 24


def _curve(record: Record) -> list[Json]:
    """Points of the training: [images shown, duration, {figure: [text, value]}]; evenly thinned, the last one kept."""
    points = record.curve
    if len(points) > _MAX_CURVE_POINTS:
        step = (len(points) - 1) / (_MAX_CURVE_POINTS - 1)
        points = tuple(points[round(index * step)] for index in range(_MAX_CURVE_POINTS))
    return [
        [point.num_images_shown, format_duration(point.train_duration_s), _curve_figures(point.quantities)]
        for point in points
    ]


def _curve_figures(quantities: Mapping[str, Quantity]) -> dict[str, Json]:
    known = {name: each for name, each in quantities.items() if each.value is not None}
    return {clean(name): [format_quantity(each), float(f"{each.value:.6g}")] for name, each in known.items()}
