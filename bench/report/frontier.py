"""Quality, joules per image and latency of the runs that may be ranked together, and how surely each is the best trade.

Which runs may share a frontier, what a candidate is and what its figures are; the statistics are in `membership`, the
picture in `plots_frontier`.

A run is a candidate where its quality and its latency at batch 1 may be ranked (`why_not_ranked`); its joules per
generated image take part where they may, too, and are of a metered measurement that is for publication. A frontier
holds candidates that agree in everything that decides these figures (`compare.deciding`): data set, protocol, machine,
software, way of running and, where joules are known, batch size. Every other run is listed with the reason.

The seeds of one configuration are one candidate. Quality is rfd_v1, or where a run has none that may be ranked, the
first figure with a direction that may. The interval of a single seed's quality is the metric's own and knows nothing of
other trainings, so it makes the memberships surer than they are; several seeds do not have this fault.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.compare import Better, deciding
from bench.directions import BETTER, BETTER_COST, HEADLINE_METRIC
from bench.notation import plain, shortened
from bench.records import Quantity, Record
from bench.report.curves import Configuration, configurations_of
from bench.report.membership import Evidence, Membership, memberships, seeds_quantity
from bench.report.ranking import why_not_ranked
from bench.report.rows import data_name, machine_name, model_name, sort_key, why_unknown
from bench.store import RunFolder, StoredRun

ENERGY = "generate_energy_j_per_image"
LATENCY = "generate_latency_ms_p50"

QUALITY_ENERGY, QUALITY_LATENCY, ENERGY_LATENCY, ALL = (0, 1), (0, 2), (1, 2), (0, 1, 2)
"""Frontiers, by the places of their figures in `FrontierGroup.figures`."""
SPACES = (QUALITY_ENERGY, QUALITY_LATENCY, ENERGY_LATENCY, ALL)

ALONE = "no other run agrees with it in protocol, machine and setting"

_LATENCY_SERIES = "generate.latency"
_REASON_CHARS = 140
_SAME = 1e-9  # a median of windows further from the stored figure than this share is of other windows


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One configuration of a group.

    Attributes:
        values: its quality, joules per image and latency; None where a figure takes no part.
        reasons: why not, by figure.
        found: its membership in each of SPACES that it has a part in.
    """

    label: str
    run_ids: tuple[str, ...]
    values: tuple[Quantity | None, ...]
    reasons: Mapping[str, str]
    found: Mapping[tuple[int, ...], Membership]

    @property
    def space(self) -> tuple[int, ...]:
        """The widest space it has a part in."""
        return ALL if ALL in self.found else QUALITY_LATENCY


@dataclass(frozen=True, kw_only=True)
class FrontierGroup:
    """Candidates that may be ranked together; `figures` are the names of quality, energy and latency.

    Attributes:
        problems: one sentence per file of raw windows that could not be used; the interval was, in its place.
    """

    title: str
    figures: tuple[str, str, str]
    better: tuple[Better, Better, Better]
    candidates: tuple[Candidate, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FrontierRow:
    """One line of the table.

    Attributes:
        group: title of the frontier; data set and resolution of a run that is on none.
        figures: names of the three objectives.
        values: their figures; None where unknown or not to be ranked.
        membership: in the frontier of `space`; None where the run is no candidate.
        space: names of the objectives that this frontier has.
        reason: why it is no candidate; or, of one, why an objective takes no part. Empty where neither is so.
    """

    group: str
    label: str
    run_ids: tuple[str, ...]
    figures: tuple[str, str, str]
    values: tuple[Quantity | None, ...]
    membership: Membership | None
    space: tuple[str, ...]
    reason: str


def frontier_rows(runs: Sequence[StoredRun]) -> list[FrontierRow]:
    """The candidates of every frontier, largest first, then everything that is on none.

    Args:
        runs: as a report may show them (`published.reported`).
    """
    groups, left_out = frontier_groups(runs)
    rows = [_row(group, candidate) for group in groups for candidate in group.candidates]
    return [*rows, *left_out]


def frontier_groups(runs: Sequence[StoredRun]) -> tuple[list[FrontierGroup], list[FrontierRow]]:
    """Groups of two candidates and more, largest first, and a row for each run or configuration that is in none."""
    folders = {run.record.run_id: run.folder for run in runs}
    left_out: list[FrontierRow] = []
    by_setting: dict[str, list[Record]] = {}
    for record in sorted((run.record for run in runs), key=sort_key):
        metric, reason = _metric_of(record)
        if reason:
            left_out.append(_row_left_out(record, metric, reason))
        else:
            key = [metric, deciding(record, metric), deciding(record, LATENCY)]
            by_setting.setdefault(json.dumps(key, sort_keys=True), []).append(record)
    parts = [part for members in by_setting.values() for part in _by_energy_setting(members)]
    groups = [_group(part, title, folders) for part, title in zip(parts, _titles(parts), strict=True)]
    for group in groups:
        if len(group.candidates) < 2:
            left_out += [_row(group, each, alone=True) for each in group.candidates]
    found = [group for group in groups if len(group.candidates) > 1]
    return sorted(found, key=lambda group: -len(group.candidates)), left_out


def reasons_left_out(rows: Sequence[FrontierRow]) -> list[str]:
    """`3 runs: smoke, not publishable`, the commonest first."""
    counts = Counter[str]()
    for row in rows:
        counts[row.reason] += len(row.run_ids)
    return [f"{count} run{'s' if count > 1 else ''}: {reason}" for reason, count in counts.most_common()]


def why_not_on_frontier(record: Record, figure: str) -> str:
    """Why that figure may not place the run on a frontier, in a few words; empty where it may."""
    reason = why_not_ranked(record, figure)
    if reason == "not known":
        reason = f"{figure} is not known ({why_unknown(record, figure) or 'no reason recorded'})"
    elif reason and "not publishable" not in reason:
        reason = f"{figure}: {reason}"
    elif not reason and figure == ENERGY:
        facts = record.phases["generate"].protocol.get("energy")
        if not isinstance(facts, dict) or facts.get("publishable") is not True:
            why = facts.get("why_not_publishable") if isinstance(facts, dict) else None
            reason = f"{figure}: not publishable, {why or 'the record does not say how it was measured'}"
    return shortened(plain(reason), _REASON_CHARS)


def _metric_of(record: Record) -> tuple[str, str]:
    """(the quality figure of a run, why the run is no candidate)."""
    metric = next((name for name in BETTER if not why_not_ranked(record, name)), HEADLINE_METRIC)
    reason = why_not_on_frontier(record, metric) or why_not_on_frontier(record, LATENCY)
    if not reason and deciding(record, metric) is None:
        reason = f"the protocol of {metric} was not recorded"
    return metric, reason


def _by_energy_setting(records: Sequence[Record]) -> list[list[Record]]:
    """One part, unless the joules were measured in several settings; then one for each, and one for those without."""
    parts: dict[str, list[Record]] = {}
    for record in records:
        is_known = not why_not_on_frontier(record, ENERGY)
        key = json.dumps(deciding(record, ENERGY), sort_keys=True) if is_known else ""
        parts.setdefault(key, []).append(record)
    return list(parts.values()) if len(set(parts) - {""}) > 1 else [list(records)]


def _titles(parts: Sequence[Sequence[Record]]) -> list[str]:
    """Data, machine and precision, and a number where several groups have these in common."""
    titles = []
    for part in parts:
        spec = part[0].spec
        titles.append(plain(f"{data_name(part[0])} · {machine_name(part[0])} · {spec.precision or '?'}"))
    seen = Counter[str]()
    numbered = []
    for title in titles:
        seen[title] += 1
        several = f" · setting {seen[title]} of {titles.count(title)}" if titles.count(title) > 1 else ""
        numbered.append(shortened(title, 90) + several)
    return numbered


def _group(records: Sequence[Record], title: str, folders: Mapping[str, Path]) -> FrontierGroup:
    metric, _ = _metric_of(records[0])
    figures = (metric, ENERGY, LATENCY)
    better = (BETTER[metric], BETTER_COST[ENERGY], BETTER_COST[LATENCY])
    configurations = configurations_of(records)
    problems: list[str] = []
    evidence = [_evidence(each, figures, better, folders, problems) for each in configurations]
    found = memberships(evidence, SPACES)
    candidates = []
    for configuration, known, spaces in zip(configurations, evidence, found, strict=True):
        seeds = configuration.records
        label = configuration.label + (f", n={len(seeds)} seeds" if len(seeds) > 1 else "")
        reasons = {name: why for name in figures for seed in seeds if (why := why_not_on_frontier(seed, name))}
        values = tuple(None if each is None else each.quantity for each in known)
        run_ids = tuple(seed.run_id for seed in seeds)
        candidates.append(Candidate(label=label, run_ids=run_ids, values=values, reasons=reasons, found=spaces))
    return FrontierGroup(
        title=title, figures=figures, better=better, candidates=tuple(candidates), problems=tuple(problems)
    )


def _evidence(
    configuration: Configuration,
    figures: Sequence[str],
    better: Sequence[Better],
    folders: Mapping[str, Path],
    problems: list[str],
) -> list[Evidence | None]:
    """What is known of each objective; None where a seed lacks it."""
    seeds = configuration.records
    found: list[Evidence | None] = []
    for figure, direction in zip(figures, better, strict=True):
        quantities = [seed.quantity(figure) for seed in seeds if not why_not_on_frontier(seed, figure)]
        known = [each for each in quantities if each is not None and each.value is not None]
        if len(known) < len(seeds):
            found.append(None)
        elif len(seeds) > 1:
            values = tuple(each.value for each in known if each.value is not None)
            found.append(Evidence(quantity=seeds_quantity(known), better=direction, seeds=values))
        else:
            windows = _windows_ms(seeds[0], folders[seeds[0].run_id], problems) if figure == LATENCY else ()
            found.append(Evidence(quantity=known[0], better=direction, windows=windows))
    return found


def _windows_ms(record: Record, folder: Path, problems: list[str]) -> tuple[float, ...]:
    """The single calls whose median the latency is; none where they are not stored or are not those."""
    latency = record.quantity(LATENCY)
    assert latency is not None
    assert latency.value is not None
    try:
        windows = RunFolder(folder.parent, folder.name).read_windows("generate")
    except (OSError, ValueError):
        problems.append(f"the raw windows in '{folder}' cannot be read: the frontier uses the latency's interval.")
        return ()
    counted = [each for each in windows if each.series == _LATENCY_SERIES and not each.is_warmup]
    samples = tuple(each.duration_s * 1000 for each in counted)
    if not samples or latency.low is None:
        return ()
    if not math.isclose(median(samples), latency.value, rel_tol=_SAME):
        problems.append(f"the raw windows in '{folder}' do not give its latency: the frontier uses the interval.")
        return ()
    return samples


def _row(group: FrontierGroup, candidate: Candidate, *, alone: bool = False) -> FrontierRow:
    unknown = "; ".join(candidate.reasons.values())
    return FrontierRow(
        group=group.title,
        label=candidate.label,
        run_ids=candidate.run_ids,
        figures=group.figures,
        values=candidate.values,
        membership=None if alone else candidate.found[candidate.space],
        space=() if alone else tuple(group.figures[axis] for axis in candidate.space),
        reason=ALONE if alone else unknown,
    )


def _row_left_out(record: Record, metric: str, reason: str) -> FrontierRow:
    return FrontierRow(
        group=plain(data_name(record)),
        label=shortened(plain(model_name(record)), 64),
        run_ids=(record.run_id,),
        figures=(metric, ENERGY, LATENCY),
        values=(None, None, None),
        membership=None,
        space=(),
        reason=reason,
    )
