"""`bench best` in words: one table per group of runs that may be ordered, then why the others are not in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import get_args

from pydantic import JsonValue
from tabulate import tabulate

from bench.errors import UsageError
from bench.notation import format_quantity, plain, shortened
from bench.records import Precision, Record
from bench.registry import suggest
from bench.report.best import NAMES, Answer, Fit, Group, Miss
from bench.report.rows import data_name, machine_name, model_name, short_ids

_MAX_MODEL_CHARS = 40
_MAX_REASON_CHARS = 150
_NUM_NAMED = 5
_LEGEND = "= cannot be told from the first of its table. One sitting per run: another may differ."


def asked_about(
    records: Sequence[Record],
    *,
    dataset: str | None = None,
    resolution: int | None = None,
    device: str | None = None,
    precision: str | None = None,
) -> list[Record]:
    """The runs of that data set, resolution, device (`cuda` is any `cuda:N`) and precision; None is any.

    Raises:
        UsageError: no such precision, or no run is of that data set.
    """
    if precision is not None and precision not in get_args(Precision):
        raise UsageError(f"--precision '{precision}' is unknown. {suggest(precision, get_args(Precision))}")
    known = sorted({record.spec.dataset for record in records})
    if dataset is not None and known and dataset not in known:
        near = plain(shortened(suggest(dataset, known), _MAX_REASON_CHARS))
        raise UsageError(f"--dataset '{dataset}': no run is of it. {near}")
    return [
        record
        for record in records
        if dataset in {None, record.spec.dataset}
        and resolution in {None, record.spec.resolution}
        and device in {None, record.spec.device, (record.spec.device or "").partition(":")[0]}
        and precision in {None, record.spec.precision}
    ]


def answer_text(answer: Answer, records: Sequence[Record], *, num_stored: int, show_all: bool) -> str:
    """Everything `bench best` prints.

    Args:
        records: the runs that were asked about.
        num_stored: how many there are in all.
        show_all: every run that does not fit by name, not the first few of each reason.
    """
    names = dict(zip((record.run_id for record in records), map(plain, short_ids(records)), strict=True))
    num_fits = sum(len(group.fits) for group in answer.groups)
    num_sure = sum(not fit.unsure for group in answer.groups for fit in group.fits)
    budget = ", ".join(limit.text for limit in answer.limits)
    other = "" if len(records) == num_stored else f" ({num_stored - len(records)} others were not asked about)"
    head = f"{num_fits} of {len(records)} runs{other} fit {budget}: {num_sure} surely, {num_fits - num_sure} maybe."
    blocks = [head if num_fits else f"None of {len(records)} runs{other} fits {budget}."]
    blocks += [_group_text(group, answer, names) for group in answer.groups]
    blocks += [_LEGEND] if num_fits else []
    if len(answer.groups) > 1:
        blocks.append("Runs of different tables are not ordered: data, machine, setting or protocol differ.")
    if answer.excluded:
        blocks.append("\n".join(["Not fitting", *_excluded(answer, names, show_all=show_all)]))
    return "\n\n".join(blocks)


def _group_text(group: Group, answer: Answer, names: Mapping[str, str]) -> str:
    spec = group.fits[0].record.spec
    batches = {fit.record.spec.batch_size for fit in group.fits}
    batch = f", batch {spec.batch_size}" if len(batches) == 1 else ""
    title = f"{data_name(group.fits[0].record)}, {spec.device} {spec.precision}{batch}, "
    title += f"{machine_name(group.fits[0].record)}, torch {group.fits[0].record.machine.torch}"
    order = f"by {NAMES.get(group.order, group.order)}" if group.order else "in the order of their ids"
    figures = list(dict.fromkeys((*([group.order] if group.order else []), *(each.figure for each in answer.limits))))
    rows = [_row(fit, figures, names) for fit in group.fits]
    header = ["", "run", "model", *(NAMES.get(figure, figure) for figure in figures), "fits"]
    table = tabulate(rows, headers=header, disable_numparse=True)
    return f"{plain(title)}; {order} ({group.why})\n\n{table}"


def _row(fit: Fit, figures: Sequence[str], names: Mapping[str, str]) -> list[str]:
    return [
        "=" if fit.is_first else "",
        names[fit.record.run_id],
        shortened(plain(model_name(fit.record)), _MAX_MODEL_CHARS),
        *(plain(format_quantity(fit.record.quantity(figure))) for figure in figures),
        f"maybe: {', '.join(fit.unsure)}" if fit.unsure else "surely",
    ]


def _excluded(answer: Answer, names: Mapping[str, str], *, show_all: bool) -> list[str]:
    """One line per set of reasons, the commonest first."""
    of_reasons: dict[tuple[str, ...], list[str]] = {}
    for run_id, misses in answer.excluded.items():
        values = ", ".join(miss.value for miss in misses if miss.value)
        member = f"{names[run_id]} ({values})" if values else names[run_id]
        of_reasons.setdefault(_reasons(misses), []).append(member)
    lines = []
    for reasons, members in sorted(of_reasons.items(), key=lambda item: (-len(item[1]), item[0])):
        shown = members if show_all else members[:_NUM_NAMED]
        more = f" and {len(members) - len(shown)} more (--all)" if len(shown) < len(members) else ""
        said = "; ".join(shortened(plain(reason), _MAX_REASON_CHARS) for reason in reasons)
        lines.append(f"  {len(members)} × {said}: {', '.join(shown)}{more}")
    return lines


def _reasons(misses: Sequence[Miss]) -> tuple[str, ...]:
    """`joules per image, rfd_v1 unknown: the phase generate has not run`: each reason once."""
    found: dict[str, list[str]] = {}
    for miss in misses:
        found.setdefault(miss.reason, []).extend([miss.of] if miss.of else [])
    return tuple(" ".join(filter(None, [", ".join(names), reason])) for reason, names in found.items())


def answer_document(answer: Answer) -> dict[str, JsonValue]:
    """The whole answer for programs: limits in stored units, groups in order, every exclusion with its reasons."""
    return {
        "limits": [
            {"figure": each.figure, "relation": each.goal.relation, "threshold": each.goal.threshold}
            for each in answer.limits
        ],
        "groups": [
            {
                "order": group.order,
                "why": group.why,
                "fits": [_fit_document(fit, group, answer) for fit in group.fits],
            }
            for group in answer.groups
        ],
        "excluded": [
            {"run_id": run_id, "misses": [asdict(miss) for miss in misses]}
            for run_id, misses in answer.excluded.items()
        ],
    }


def _fit_document(fit: Fit, group: Group, answer: Answer) -> dict[str, JsonValue]:
    record = fit.record
    names = dict.fromkeys((*([group.order] if group.order else []), *(each.figure for each in answer.limits)))
    figures: dict[str, JsonValue] = {
        name: None if (quantity := record.quantity(name)) is None else quantity.model_dump(mode="json")
        for name in names
    }
    return {
        "run_id": record.run_id,
        "model": model_name(record),
        "dataset": record.spec.dataset,
        "resolution": record.spec.resolution,
        "device": record.spec.device,
        "precision": record.spec.precision,
        "batch_size": record.spec.batch_size,
        "fits": "maybe" if fit.unsure else "surely",
        "may_miss": list(fit.unsure),
        "is_first": fit.is_first,
        "figures": figures,
    }
