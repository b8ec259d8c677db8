"""The first screen of `report.html`: what was measured, who is best where that can be said, and what to keep in mind.

Why it exists: a reader decides in the first minute. What decides belongs there, and so does what forbids deciding: no
energy meter, smoke runs, one seed, figures that may not be compared.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bench.compare import comparable_groups, leaders
from bench.directions import BETTER, DIRECTIONS
from bench.notation import format_quantity
from bench.records import Record
from bench.report.carbon import ACTIVITIES
from bench.report.page.data import Json
from bench.report.published import is_measured, known_energy
from bench.report.ranking import why_not_ranked
from bench.report.rows import data_name, machine_name, machine_text, model_name, why_not_publishable

if TYPE_CHECKING:
    from bench.audit import AuditFinding

# figure, what being the best at it means
_GLANCE = (
    ("rfd_v1", "Best quality"),
    ("generate_images_per_s", "Fastest generating"),
    ("generate_latency_ms_p50", "Lowest latency"),
    ("train_images_per_s", "Fastest training step"),
    ("generate_energy_j_per_image", "Least energy to generate"),
    ("train_step_energy_j_per_image", "Least energy to train"),
)
_STATUS_ORDER = ("ok", "inconclusive", "incomplete", "timeout", "oom", "failed", "invalid")
_MAX_TIED = 4


def counts(records: Sequence[Record], num_runs: int) -> list[tuple[str, str]]:
    """(number, of what) for the row of tiles."""
    found = (
        (num_runs, "run"),
        (len({record.spec.model for record in records}), "model"),
        (len({data_name(record) for record in records}), "data set"),
        (len({machine_text(record) for record in records}), "machine"),
        (sum(not why_not_publishable(record) for record in records), "publishable run"),
    )
    return [(f"{num:,}", word if num == 1 else f"{word}s") for num, word in found]


def status_counts(records: Sequence[Record]) -> list[tuple[str, int]]:
    """Status → how many runs, the good one first."""
    found = Counter[str](record.status for record in records)
    return [(status, found[status]) for status in _STATUS_ORDER if found[status]]


def glance(records: Sequence[Record]) -> list[dict[str, Json]]:
    """For each headline figure who is best among how many, or why nobody is: `title`, `runs`, `value`, `sentence`."""
    return [_leader(records, figure, title) for figure, title in _GLANCE]


def _leader(records: Sequence[Record], figure: str, title: str) -> dict[str, Json]:
    eligible = [record for record in records if not why_not_ranked(record, figure)]
    groups = [group for group in comparable_groups(eligible, figure) if len(group) > 1]
    card: dict[str, Json] = {"title": title, "figure": figure, "runs": [], "value": "", "sentence": ""}
    if not groups:
        return card | {"sentence": _why_nobody(records, eligible, figure)}
    group = max(groups, key=len)
    direction = DIRECTIONS[figure]
    best_ids = leaders(group, figure, direction)
    best = [record for record in group if record.run_id in best_ids]
    if not best:
        return card | {"sentence": "No figure of the comparable runs was measured."}
    best.sort(key=lambda record: _value(record, figure), reverse=direction == "higher")
    value = f"{format_quantity(best[0].quantity(figure))} {_unit(best[0], figure)}".rstrip()
    tied = f"{len(best)} runs whose 95 % intervals overlap share the place, best" if len(best) > 1 else "Best"
    batch = "batch 1" if "latency" in figure else f"batch {best[0].spec.batch_size}"
    where = data_name(best[0]) if figure in BETTER else f"{machine_name(best[0])}, {batch}"
    more = "; the table has other groups, too" if len(groups) > 1 else ""
    sentence = f"{tied} of {len(group)} comparable runs: {where}{more}."
    return card | {"runs": [record.run_id for record in best[:_MAX_TIED]], "value": value, "sentence": sentence}


def _why_nobody(records: Sequence[Record], eligible: Sequence[Record], figure: str) -> str:
    if eligible:
        number = "One run has" if len(eligible) == 1 else f"{len(eligible)} runs have"
        return f"Nobody: {number} a figure that may be ranked, and none has another to be compared with."
    reasons = Counter(why_not_ranked(record, figure) for record in records)
    common = reasons.most_common(1)
    return f"Nobody: {common[0][0]} ({common[0][1]} of {len(records)} runs)." if common else "No runs yet."


def _value(record: Record, figure: str) -> float:
    quantity = record.quantity(figure)
    assert quantity is not None  # comparable_groups keeps the known ones
    assert quantity.value is not None
    return quantity.value


def _unit(record: Record, figure: str) -> str:
    quantity = record.quantity(figure)
    return "" if quantity is None or quantity.unit in ("1", "B") else quantity.unit


def caveats(
    records: Sequence[Record], findings: Mapping[str, Sequence[AuditFinding]], problems: Sequence[str]
) -> list[str]:
    """What forbids, or limits, a conclusion; the gravest first."""
    num_runs = len(records)
    if not num_runs:
        return ["There is no run to report; `bench run` makes one."]

    def some(num: int, words: str) -> str:
        if not num:
            return ""
        return f"{'All' if num == num_runs else f'{num} of'} {num_runs} runs {words}"

    no_energy = not any(known_energy(record, activity) for record in records for activity in ACTIVITIES)
    no_meter = not any(_has_measured_energy(record) for record in records)
    cpu_only = sum(not (record.spec.device or "").startswith("cuda") for record in records)
    seeds: dict[tuple[str, str, str | None], set[int]] = defaultdict(set)
    for record in records:
        seeds[model_name(record), data_name(record), record.spec.train_for].add(record.spec.seed)
    num_errors = sum(any(each.level == "error" for each in findings.get(record.run_id, ())) for record in records)
    found = [
        "No energy meter could be read: every energy and every CO2 is unknown, and nothing is ranked by either."
        if no_energy
        else "No energy here was measured by a meter: estimates are marked, have one digit at best and rank nothing."
        if no_meter
        else "",
        some(
            sum(record.spec.preset == "smoke" for record in records),
            "are smoke runs: they show that it works, no more.",
        ),
        some(
            sum(record.status == "inconclusive" for record in records), "are inconclusive: an interval stayed too wide."
        ),
        some(sum(record.status in ("failed", "oom", "timeout", "invalid") for record in records), "did not succeed."),
        some(num_errors, "have an error in their audit."),
        some(cpu_only, "are on a processor: speeds say nothing about a GPU."),
        "Every configuration was trained with one seed: intervals know nothing of other trainings."
        if max(map(len, seeds.values())) == 1
        else "",
        some(sum(bool(record.machine.git_dirty) for record in records), "were made with uncommitted changes."),
        "The end of the page lists what could not be read." if problems else "",
    ]
    return [sentence for sentence in found if sentence]


def _has_measured_energy(record: Record) -> bool:
    energies = (known_energy(record, activity) for activity in ACTIVITIES)
    return any(energy is not None and is_measured(energy) for energy in energies)
