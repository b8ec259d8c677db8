"""Two runs against each other: each figure's ratio and what may be said of it, and what differs between the runs.

Why it exists: two numbers side by side are read as a verdict. So a figure is called faster, cheaper or better only
where both may be ranked (`why_not_ranked`), everything that decides it besides the model agrees (`bench.compare`),
and the ratio's interval leaves 1 out (`ratios`). Whatever may not be ranked is shown all the same, with the reason.

Besides what `bench.compare` asks: joules are compared only where the same kind of meter read them; totals of a training
(seconds, joules, images) only where data set and budget agree; and a share of a phase's time or rate is a figure of its
machine and setting, though it has no unit as scores have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from bench.compare import base_of, disagreement, protocol_of
from bench.directions import BETTER, BETTER_COST
from bench.errors import RecordError
from bench.records import PhaseName, Quantity, Record
from bench.report.ranking import why_not_ranked
from bench.report.ratios import SAME_WITHIN, Ratio, ratio_of
from bench.report.rows import COST_COLUMNS, ENERGY_COLUMNS, QUALITY_COLUMNS, SPEED_COLUMNS, all_quantities, why_unknown
from bench.store import RECORD_FILE, find_run, read_record

HEADLINES = tuple(
    dict.fromkeys(
        (*SPEED_COLUMNS, "generate_peak_memory_bytes", *ENERGY_COLUMNS, *COST_COLUMNS, *QUALITY_COLUMNS, *BETTER)
    )
)
"""Figures shown without `--all`, in this order."""

NOT_COMPARABLE = "not comparable"
NOT_RANKED = "not ranked"
CANNOT_BE_TOLD = "cannot be told"

_BUDGET_FIELDS = ("dataset", "train_for", "eval_every", "until")
# What a phase notes of how it was measured; the rest of its protocol is what it saw, and differs between any two runs.
_METHOD = ("warmup_s", "min_window_s", "target_half_width", "stop_rule", "convention", "loading")
_TOTAL_UNITS = ("s", "J", "image")


@dataclass(frozen=True, kw_only=True)
class Versus:
    """One figure of two runs.

    Attributes:
        ratio: B over A.
        word: faster, slower, cheaper, costlier, better, worse, more, less (B against A), the same, the same within
            5 %, cannot be told, not ranked, not comparable.
        why: the reason of the last three words; empty for the others.
        apart: fields in which what decides the figure differs; not empty exactly where it is not comparable.
        is_sensor_shared: for an energy, whether one sensor read both, so that its own error cancels; else None.
    """

    name: str
    quantity_a: Quantity
    quantity_b: Quantity
    ratio: Ratio
    word: str
    why: str
    apart: tuple[str, ...]
    is_sensor_shared: bool | None

    @property
    def is_told(self) -> bool:
        """Whether the two may be said to differ, or to be the same, in this figure."""
        return self.word not in {NOT_COMPARABLE, NOT_RANKED, CANNOT_BE_TOLD}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One field in which two runs differ; None where a run does not have it."""

    field: str
    of_a: JsonValue
    of_b: JsonValue


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs against each other.

    Attributes:
        figures: those whose value both know, the headlines first.
        absent: headline figures that one of them knows → why the other does not.
        apart: code, machine, versions, question, data, protocol, recipe → the fields that differ.
    """

    record_a: Record
    record_b: Record
    figures: tuple[Versus, ...]
    absent: Mapping[str, str]
    apart: Mapping[str, tuple[Difference, ...]]


def run_at(results: Path, run: str) -> Record:
    """The record of a run id in `results`, or at the path of a run's folder or of its record.json.

    Raises:
        RecordError: no run, several runs, or a record that cannot be read.
    """
    path = Path(run)
    if path.is_file():
        return read_record(path)
    if (path / RECORD_FILE).is_file():
        return read_record(path / RECORD_FILE)
    if len(path.parts) > 1:
        raise RecordError(f"There is no run at '{run}': name a run's folder, its {RECORD_FILE}, or a run id.")
    return find_run(results, run).record


def compare_runs(record_a: Record, record_b: Record) -> Comparison:
    """Everything that can be said of B against A."""
    of_a, of_b = all_quantities(record_a), all_quantities(record_b)
    known_a, known_b = _known(of_a), _known(of_b)
    both = [name for name in (*HEADLINES, *known_a) if name in known_a and name in known_b]
    same_unit = [name for name in dict.fromkeys(both) if of_a[name].unit == of_b[name].unit]
    absent = {
        name: f"{letter}: {why_unknown(record, name)}"
        for name in HEADLINES
        for letter, record, own, other in (("A", record_a, known_a, known_b), ("B", record_b, known_b, known_a))
        if name in other and name not in own
    }
    units = {name: (of_a[name].unit, of_b[name].unit) for name in dict.fromkeys(both) if name not in same_unit}
    absent |= {name: f"A in {unit_a} and in B in {unit_b}: no ratio" for name, (unit_a, unit_b) in units.items()}
    return Comparison(
        record_a=record_a,
        record_b=record_b,
        figures=tuple(_versus(record_a, record_b, name) for name in same_unit),
        absent=absent,
        apart=what_differs(record_a, record_b),
    )


def _known(quantities: Mapping[str, Quantity]) -> list[str]:
    return [name for name, quantity in quantities.items() if quantity.value is not None]


def _versus(record_a: Record, record_b: Record, name: str) -> Versus:
    quantity_a, quantity_b = (_of(record, name) for record in (record_a, record_b))
    apart = tuple(fields_apart(record_a, record_b, name))
    is_energy = not {quantity_a.label, quantity_b.label} <= {None}
    is_shared = is_energy and _is_same_board(record_a, record_b) and quantity_a.label == quantity_b.label
    ratio = ratio_of(quantity_a, quantity_b, is_sensor_shared=is_shared or not is_energy)
    word, why = _word(name, quantity_a.unit, ratio)
    unranked = _unranked(why_not_ranked(record_a, name), why_not_ranked(record_b, name))
    if unranked:
        word, why = NOT_RANKED, " and ".join(unranked)
    if apart:
        verb = "differs" if len(apart) == 1 else "differ"
        word, why = NOT_COMPARABLE, " and ".join([f"{', '.join(apart)} {verb}", *unranked])
    return Versus(
        name=name,
        quantity_a=quantity_a,
        quantity_b=quantity_b,
        ratio=ratio,
        word=word,
        why=why,
        apart=apart,
        is_sensor_shared=is_shared if is_energy else None,
    )


def _unranked(reason_a: str, reason_b: str) -> list[str]:
    """`both are smoke, not publishable`, `in A the phase generate is failed`."""
    if reason_a == reason_b and reason_a:
        return [f"in both {reason_a}" if reason_a.startswith("the ") else f"both are {reason_a}"]
    reasons = [(run, reason) for run, reason in (("A", reason_a), ("B", reason_b)) if reason]
    return [f"in {run} {reason}" if reason.startswith("the ") else f"{run} is {reason}" for run, reason in reasons]


def _of(record: Record, name: str) -> Quantity:
    quantity = record.quantity(name)
    assert quantity is not None
    return quantity


def _is_same_board(record_a: Record, record_b: Record) -> bool:
    machines = [(record.machine.hostname, record.machine.gpus, record.spec.device) for record in (record_a, record_b)]
    return machines[0] == machines[1]


def fields_apart(record_a: Record, record_b: Record, name: str) -> list[str]:
    """The fields that decide this figure besides the model and in which the runs differ; empty: it may be compared."""
    found = disagreement(record_a, record_b, name)
    quantities = _of(record_a, name), _of(record_b, name)
    if quantities[0].label != quantities[1].label:
        found.append("label of the energy")
    in_train = any(
        name in record.phases["train"].quantities for record in (record_a, record_b) if "train" in record.phases
    )
    if in_train and quantities[0].unit in _TOTAL_UNITS:
        specs = (record_a.spec, record_b.spec)
        found += [field for field in _BUDGET_FIELDS if getattr(specs[0], field) != getattr(specs[1], field)]
    return found


def _phase_of(record: Record, name: str) -> str | None:
    return next((phase for phase, result in record.phases.items() if name in result.quantities), None)


def _word(name: str, unit: str, ratio: Ratio) -> tuple[str, str]:
    """What the ratio says in the figure's own words, and why it says nothing."""
    if ratio.order == "unknown":
        return CANNOT_BE_TOLD, ratio.why
    if ratio.order == "same":
        return "the same", ""
    if ratio.order == "alike":
        return f"the same within {SAME_WITHIN:.0%}".replace("%", " %"), ""
    more, less = _merit(name, unit)
    return (more if ratio.order == "more" else less), ""


def _merit(name: str, unit: str) -> tuple[str, str]:
    """What more of the figure is, and less of it."""
    if name in BETTER:
        return ("worse", "better") if BETTER[name] == "lower" else ("better", "worse")
    if unit == "image/s":
        return "faster", "slower"
    if "latency" in name or name.startswith("cold_start"):
        return "slower", "faster"
    if name in BETTER_COST or unit in {"J", "J/image", "MAC"}:
        return "costlier", "cheaper"
    return "more", "less"


def what_differs(record_a: Record, record_b: Record) -> dict[str, tuple[Difference, ...]]:
    """Everything but figures in which the two runs differ, by kind; a kind without a difference is left out."""
    quality = [all_quantities(record) for record in (record_a, record_b)]
    scores = [name for name in quality[0] if name in quality[1] and base_of(name) in BETTER]
    phases = [phase for phase in record_a.phases if phase in record_b.phases]
    documents = [_facts(record, scores, phases) for record in (record_a, record_b)]
    found: dict[str, tuple[Difference, ...]] = {}
    for kind, facts_a in documents[0].items():
        of_a, of_b = _flat(facts_a), _flat(documents[1][kind])
        fields = [field for field in dict.fromkeys((*of_a, *of_b)) if of_a.get(field) != of_b.get(field)]
        if fields:
            found[kind] = tuple(Difference(field=each, of_a=of_a.get(each), of_b=of_b.get(each)) for each in fields)
    return found


def _facts(record: Record, scores: Sequence[str], phases: Sequence[PhaseName]) -> dict[str, JsonValue]:
    """What is known of a run besides its figures, by kind; of the protocols those of these scores and phases."""
    machine = record.machine.model_dump(mode="json")
    code = {
        "git_commit": machine.pop("git_commit"),
        "git_dirty": machine.pop("git_dirty"),
        "harness_version": record.harness_version,
        "model source": record.model.source_hash,
    }
    versions = {name: machine.pop(name) for name in ("python", "torch", "cuda", "driver", "packages")}
    protocols = {phase: record.phases[phase].protocol for phase in phases}
    methods: dict[str, JsonValue] = {
        phase: {name: fact for name, fact in protocol.items() if name in _METHOD}
        for phase, protocol in protocols.items()
    }
    backends = [fact for protocol in protocols.values() if isinstance(fact := protocol.get("backend"), dict)]
    methods["backend"] = {name: fact for backend in backends for name, fact in backend.items()}
    for figure in scores:
        found = protocol_of(record, figure) or {}
        methods |= {name: found[name] for name in ("generated", "real") if name in found}
        metrics = found.get("metrics")
        methods |= metrics if isinstance(metrics, dict) else {}
    return {
        "code": code,
        "machine": machine,
        "versions": versions,
        "question": record.spec.model_dump(mode="json"),
        "data": record.dataset.protocol,
        "protocol": methods,
        "recipe": record.recipe,
    }


def _flat(fact: JsonValue, path: str = "") -> dict[str, JsonValue]:
    """Dotted path → leaf; an empty object is a leaf."""
    if not isinstance(fact, dict) or not fact:
        return {path: fact}
    found: dict[str, JsonValue] = {}
    for name, each in fact.items():
        found |= _flat(each, f"{path}.{name}" if path else name)
    return found
