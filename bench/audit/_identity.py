"""Rules on who measured what: the code, the machine, the clock, the run's own name and status.

The record knows the commit and the machine as they were when it was made. A later sitting of the same run adds phases
and tells neither, so what is seen is what each phase notes of its settings and meters, and the time between phases.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise

from pydantic import JsonValue

from bench.audit._evidence import Evidence, Hit, Rule, cannot_check, fact, listed, number
from bench.audit._quality import SHA256
from bench.records import PHASES, Quantity, status_of

CLOCK_SLACK_S = 2.0  # stamps are cut to seconds
LONGEST_PAUSE_S = 3600.0  # ours
_QUIETER = "Measure again with --fresh on a quiet machine; until then the wider interval is the figure's."
_GRAVE = ("failed", "oom", "timeout", "invalid")


def _preset(evidence: Evidence) -> Iterator[Hit]:
    if evidence.record.spec.preset == "smoke":
        yield Hit(level="warning", detail="The preset smoke measures too briefly for figures to be published.")


def _dirty_tree(evidence: Evidence) -> Iterator[Hit]:
    machine = evidence.record.machine
    if machine.git_dirty:
        yield Hit(
            level="warning", detail="The code had changes that were not committed, so nobody can measure it again."
        )
    elif machine.git_commit is None or machine.git_dirty is None:
        yield cannot_check("the code was no checkout, so there is no commit")


def _source_hash(evidence: Evidence) -> Iterator[Hit]:
    found = evidence.record.model.source_hash
    if not found:
        yield Hit(level="error", detail="The record has no hash of the model's source.")
    elif not SHA256.fullmatch(found):
        yield Hit(level="warning", detail=f"The hash of the model's source, '{found[:20]}', is no SHA-256.")


def _run_id(evidence: Evidence) -> Iterator[Hit]:
    spec, run_id = evidence.record.spec, evidence.record.run_id
    device = (spec.device or "").replace(":", "")
    end = rf"-{re.escape(spec.size)}-.+-{spec.resolution}-{re.escape(device)}-[0-9a-f]{{10}}"
    if not re.search(end + r"\Z", run_id):
        words = f"{spec.size}, {spec.resolution} px, {spec.device}"
        yield Hit(level="warning", detail=f"The run's id is not one that bench gives to its question ({words}).")


def _simulated(evidence: Evidence) -> Iterator[Hit]:
    found = [
        name
        for result in evidence.record.phases.values()
        for name, quantity in result.quantities.items()
        if _is_simulated(quantity)
    ]
    if found:
        yield Hit(level="error", detail=f"A device that does not exist gave {listed(found)}.")


def _is_simulated(quantity: Quantity) -> bool:
    return quantity.kind == "simulated" or (quantity.label or "").startswith("simulated:")


def _phase_status(evidence: Evidence) -> Iterator[Hit]:
    for name, result in evidence.record.phases.items():
        reason = result.reason.rstrip(".")
        if result.status in _GRAVE:
            yield Hit(level="error", detail=f"The phase {name} is {result.status}: {reason}.")
        elif result.status == "inconclusive":
            yield Hit(level="warning", detail=f"The phase {name} is inconclusive: {reason}.", remedy=_QUIETER)
        elif result.status == "skipped":
            yield Hit(level="note", detail=f"The phase {name} was skipped: {reason}.")
    missing = [name for name in PHASES if name not in evidence.record.phases]
    if missing:
        remedy = "Issue the same command again: it does what is missing."
        yield Hit(level="warning", detail=f"The run is incomplete: no {listed(missing)}.", remedy=remedy)


def _status_agrees(evidence: Evidence) -> Iterator[Hit]:
    record = evidence.record
    due = status_of(record.phases)
    if record.status != due:
        yield Hit(level="error", detail=f"The run is called {record.status}, its phases say {due}.")


def _one_setting(evidence: Evidence) -> Iterator[Hit]:
    record = evidence.record
    phases = {name: result.protocol for name, result in record.phases.items() if result.quantities}
    backends = {name: each["backend"] for name, each in phases.items() if "backend" in each}
    silent = [name for name in phases if name not in backends]
    if silent:
        yield cannot_check(f"{listed(silent)} {'do' if len(silent) > 1 else 'does'} not say how torch was set")
    for what, found in (
        ("torch's settings", backends),
        ("meters or boards", {name: _meters(each.get("meters")) for name, each in phases.items() if "meters" in each}),
    ):
        texts = {name: json.dumps(each, sort_keys=True) for name, each in found.items()}
        odd = [name for name, text in texts.items() if text != next(iter(texts.values()))]
        if odd:
            detail = f"{next(iter(texts))} was measured with other {what} than {listed(odd)}."
            yield Hit(level="error", detail=detail)
    threads = {number(each, "num_threads") for each in backends.values()} - {None}
    if threads - {float(record.machine.num_torch_threads)}:
        found_threads = listed(f"{each:.0f}" for each in sorted(filter(None, threads)))
        detail = f"The machine is said to use {record.machine.num_torch_threads} threads, phases used {found_threads}."
        yield Hit(level="error", detail=detail)
    if (record.spec.device or "").startswith("cuda") and not record.machine.gpus:
        yield Hit(level="error", detail=f"The run is on {record.spec.device}, and the machine has no GPU.")


def _meters(facts: JsonValue) -> JsonValue:
    """What of the meters stays the same from one sitting to the next: names, driver, boards, processors."""
    if not isinstance(facts, dict):
        return facts
    kept: dict[str, JsonValue] = {}
    for name, each in facts.items():
        boards = fact(each, "boards")
        own = {key: fact(each, key) for key in ("driver", "label", "num_cpus")}
        uuids: list[JsonValue] = [*sorted(boards)] if isinstance(boards, dict) else []
        kept[name] = {**own, "boards": uuids}
    return kept


def _clock(evidence: Evidence) -> Iterator[Hit]:
    record = evidence.record
    try:
        created = _moment(record.created_at)
        spans = sorted((_moment(result.started_at), result.duration_s, name) for name, result in record.phases.items())
    except ValueError:
        yield Hit(level="error", detail="A moment in the record is no ISO 8601 time.")
        return
    early = [name for started, _, name in spans if (created - started).total_seconds() > CLOCK_SLACK_S]
    if early:
        yield Hit(level="error", detail=f"{listed(early)} began before the record was made.")
    pauses: list[str] = []
    for (started, duration_s, name), (next_started, _, next_name) in pairwise(spans):
        pause_s = (next_started - started).total_seconds() - duration_s
        if pause_s < -CLOCK_SLACK_S:
            yield Hit(level="error", detail=f"{next_name} began {-pause_s:.0f} s before {name} had ended.")
        if pause_s > LONGEST_PAUSE_S:
            pauses.append(f"{next_name} {pause_s / 3600:.1f} h after {name}")
    if pauses:
        detail = f"Phases are of several sittings ({listed(pauses)}), and the code is known of the first alone."
        yield Hit(level="note", detail=detail)
    train, spent_s = record.phases.get("train"), evidence.value("train_duration_s")
    if train is None or spent_s is None or evidence.value("num_resumes"):
        return
    if spent_s > train.duration_s + CLOCK_SLACK_S:
        detail = f"The training is said to take {spent_s:.0f} s of a phase that took {train.duration_s:.0f} s."
        yield Hit(level="error", detail=detail)


def _moment(text: str) -> datetime:
    """An ISO 8601 time; without a zone it is UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


_FRESH = "Measure the whole run again in one sitting (--fresh)."
RULES = {
    "preset": Rule(
        checks="The run was not measured with the preset smoke.",
        remedy="Measure with --preset standard or publish.",
        find=_preset,
    ),
    "dirty_tree": Rule(
        checks="The code was a clean checkout of a commit.",
        remedy="Commit the changes and measure again (--fresh).",
        find=_dirty_tree,
    ),
    "source_hash": Rule(checks="The record holds the SHA-256 of the model's source.", remedy=_FRESH, find=_source_hash),
    "run_id": Rule(
        checks="The run's id has the words of its question and a hash of ten digits.",
        remedy="Restore the record from where it was measured: its id or its question was changed.",
        find=_run_id,
    ),
    "simulated": Rule(
        checks="No figure comes from a simulated device.",
        remedy="Measure on a real device; keep such records out of results.",
        find=_simulated,
    ),
    "phase_status": Rule(
        checks="All five phases ran and are ok.",
        remedy="Remove the reason given and issue the same command again: it does what is missing or failed.",
        find=_phase_status,
    ),
    "status_agrees": Rule(
        checks="The run's status follows from its phases'.",
        remedy="Restore the record from where it was measured: it was changed by hand.",
        find=_status_agrees,
    ),
    "one_setting": Rule(
        checks="All phases were measured with the same settings of torch, the same meters, boards and threads.",
        remedy=_FRESH,
        find=_one_setting,
    ),
    "clock": Rule(
        checks="Phases follow one another in time, after the record was made, within an hour of each other.",
        remedy=_FRESH,
        find=_clock,
    ),
}
