"""Which curves of quality may stand in one picture or table, and what an evaluation on them had cost by then.

A configuration is a question without its seed, on one kind of hardware and from one version of the code: its seeds are
repeats. Configurations share a group where data set, resolution and the whole quality protocol are equal; a run whose
quality protocol was not recorded stands alone, because nobody can tell what it may be compared with.

Several seeds make one line: their mean, from three on with Student's t interval, and from six on the median with its
exact interval (`bench.stats`), which fewer do not have. Where all values are positive, mean and t interval are those of
the logarithms, as distances between distributions spread in proportion to their size.

Cost is what the record books on training alone, so an evaluation's own seconds and joules are in none of it. Joules
keep their label; where a simulated device had a part in a run, none of its joules is shown (as in `published`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean, median, stdev

from scipy.stats import t as student_t

from bench import compare
from bench.directions import BETTER, HEADLINE_METRIC
from bench.errors import UsageError
from bench.notation import plain, shortened
from bench.records import CurvePoint, Quantity, Record
from bench.report.rows import all_quantities, data_name, is_simulated, machine_name, model_name, short_ids, sort_key
from bench.stats import CONFIDENCE, quantile_quantity
from bench.units import JOULES_PER_KWH, parse_budget

MIN_SEEDS_FOR_MEDIAN = 6
_MAX_LABEL_CHARS = 64
_ALWAYS_NAMED = ("precision", "machine")  # where they vary; the others only where they tell two configurations apart


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Runs that differ in nothing but their seed.

    Attributes:
        label: its name within the group, with `smoke` where it is one.
        records: by seed; each has a curve.
        energy_label: how the joules of its evaluations are known; None where none is known, or not all in one way.
    """

    label: str
    records: tuple[Record, ...]
    energy_label: str | None


@dataclass(frozen=True, kw_only=True)
class Group:
    """Configurations whose quality may be compared.

    Attributes:
        title: data set and resolution, and the protocol's letter where the data set has several.
        metrics: the figures to show: rfd_v1, or where no run has it those with a direction that every evaluation has.
    """

    title: str
    metrics: tuple[str, ...]
    configurations: tuple[Configuration, ...]


@dataclass(frozen=True, kw_only=True)
class Average:
    """All seeds at one evaluation: cost in SI (the seeds' median), value, and 95 % interval where there is one."""

    cost: float
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What quality is set against.

    Attributes:
        amount: SI value at an evaluation, or None where it is unknown.
        units: (SI units in it, its name), from large to small.
    """

    name: str
    amount: Callable[[Configuration, Record, CurvePoint], float | None]
    units: tuple[tuple[float, str], ...]

    def unit_for(self, amounts: Iterable[float]) -> tuple[float, str]:
        """The largest unit in which the largest amount is 2 or more."""
        largest = max(amounts, default=0.0)
        return next((unit for unit in self.units if largest >= 2 * unit[0]), self.units[-1])


def shown_energy(record: Record, energy: Quantity | None) -> Quantity | None:
    """The joules; None where they are unknown, or where a simulated device had a part in the record."""
    if energy is None or energy.value is None:
        return None
    of_curve = [each for point in record.curve for each in (point.train_energy, point.evaluation_energy) if each]
    figures = [*of_curve, *(each for each in all_quantities(record).values() if each.label is not None)]
    return None if any(map(is_simulated, figures)) else energy


def _energy_amount(configuration: Configuration, record: Record, point: CurvePoint) -> float | None:
    energy = shown_energy(record, point.train_energy)
    return None if energy is None or configuration.energy_label is None else energy.value


IMAGES = Cost(name="images shown", amount=lambda _c, _r, point: float(point.num_images_shown), units=((1e3, "kimg"),))
TIME = Cost(
    name="training time",
    amount=lambda _c, _r, point: point.train_duration_s,
    units=((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds")),
)
ENERGY = Cost(
    name="training energy",
    amount=_energy_amount,
    units=((JOULES_PER_KWH, "kWh"), (JOULES_PER_KWH / 1e3, "Wh"), (1.0, "J")),
)
COSTS = (IMAGES, TIME, ENERGY)


def quality_protocol(record: Record) -> str:
    """What decides whether two quality figures may be compared, as text; empty where no quality was measured.

    Where the quality phase has not run, training speaks: its evaluations follow the same protocol.
    """
    found = compare.quality_protocol(record)
    return "" if found is None else json.dumps(found, sort_keys=True)


def value_at(point: CurvePoint, metric: str) -> float | None:
    """The metric's value at an evaluation, or None where it is unknown."""
    quantity = point.quantities.get(metric)
    return None if quantity is None else quantity.value


def ordered_points(record: Record) -> list[CurvePoint]:
    """The record's evaluations by images shown."""
    return sorted(record.curve, key=lambda point: point.num_images_shown)


def groups_of(records: Sequence[Record]) -> list[Group]:
    """All runs that have a curve, in the order of every table; letters are those of the tables of `report.md`."""
    groups: list[Group] = []
    for data, of_data in groupby(sorted(records, key=sort_key), key=data_name):
        members = list(of_data)
        protocols = list(dict.fromkeys(filter(None, map(quality_protocol, members))))
        by_protocol: dict[str, list[Record]] = {}
        for record in (member for member in members if member.curve):
            by_protocol.setdefault(quality_protocol(record) or f"unknown of {record.run_id}", []).append(record)
        for protocol, found in by_protocol.items():
            letter = f"protocol Q{protocols.index(protocol) + 1}" if protocol in protocols else "protocol not recorded"
            is_alone = len(by_protocol) == 1 and len(protocols) < 2
            title = data if is_alone else f"{data}, {letter}"
            groups.append(Group(title=title, metrics=_metrics(found), configurations=configurations_of(found)))
    return groups


def _metrics(records: Sequence[Record]) -> tuple[str, ...]:
    points = [point for record in records for point in record.curve]
    if any(value_at(point, HEADLINE_METRIC) is not None for point in points):
        return (HEADLINE_METRIC,)
    return tuple(name for name in BETTER if all(value_at(point, name) is not None for point in points))


def configurations_of(records: Sequence[Record]) -> tuple[Configuration, ...]:
    """Runs that differ in nothing but their seed, put together, in the order met."""
    found: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        spec = record.spec.model_copy(update={"seed": 0}).model_dump_json()
        key = (spec, machine_name(record), record.model.source_hash, record.harness_version)
        found.setdefault(key, []).append(record)
    seeds = [tuple(sorted(each, key=lambda record: (record.spec.seed, record.run_id))) for each in found.values()]
    labels = _labels([each[0] for each in seeds])
    return tuple(
        Configuration(label=label, records=each, energy_label=_energy_label(each))
        for label, each in zip(labels, seeds, strict=True)
    )


def _energy_label(records: Sequence[Record]) -> str | None:
    """How every known joule of these runs is known, where it is one way."""
    energies = [shown_energy(record, point.train_energy) for record in records for point in record.curve]
    labels = {energy.label or energy.kind for energy in energies if energy is not None}
    return labels.pop() if len(labels) == 1 else None


def _labels(records: Sequence[Record]) -> list[str]:
    """The model and whatever tells the configurations apart; smoke always says so."""
    facets = [_facets(record) for record in records]
    columns = [[model_name(record) for record in records]]
    for name in facets[0]:
        texts = [facet[name] for facet in facets]
        tells_apart = len(set(zip(*columns, texts, strict=True))) > len(set(zip(*columns, strict=True)))
        if tells_apart or (name in _ALWAYS_NAMED and len(set(texts)) > 1):
            columns.append(texts)
    names = [" · ".join(filter(None, parts)) for parts in zip(*columns, strict=True)]
    labels = []
    for record, name, short in zip(records, names, short_ids(records), strict=True):
        end = "" if names.count(name) == 1 else f" · {plain(short)}"
        end += " (smoke)" if record.spec.preset == "smoke" else ""
        labels.append(shortened(plain(name), max(8, _MAX_LABEL_CHARS - len(end))) + end)
    return labels


def _facets(record: Record) -> Mapping[str, str]:
    """What may tell two configurations apart, in words, the most telling first; empty where it is the usual way."""
    spec = record.spec
    return {
        "precision": spec.precision or "",
        "machine": machine_name(record),
        "device": spec.device or "",
        "batch": f"batch {spec.batch_size}",
        "accumulation": f"in {spec.num_accumulation_steps} parts" if spec.num_accumulation_steps > 1 else "",
        "processes": f"{spec.num_processes} processes" if spec.num_processes > 1 else "",
        "compile": "compiled" if spec.compile else "",
        "capture": "captured" if spec.capture else "",
        "channels_last": "channels last" if spec.channels_last else "",
        "train_for": spec.train_for or "",
        "eval_every": f"evaluated every {spec.eval_every}" if spec.eval_every else "",
        "until": f"until {spec.until}" if spec.until else "",
        "preset": "" if spec.preset == "smoke" else spec.preset,
        "source": f"source {record.model.source_hash[:8]}",
        "harness": f"bench {record.harness_version}",
    }


def aligned(configuration: Configuration) -> list[tuple[CurvePoint, ...]]:
    """One tuple per evaluation that every seed has, its points in the order of the records.

    Evaluations that are scheduled by images are matched by images shown, those by the clock or the meter by their
    order. What only some seeds reached is left out: an average over the survivors would be another figure.
    """
    curves = [ordered_points(record) for record in configuration.records]
    if not _is_scheduled_by_images(configuration.records[0]):
        return list(zip(*curves, strict=False))
    by_images = [{point.num_images_shown: point for point in curve} for curve in curves]
    common = sorted(set.intersection(*(set(each) for each in by_images)))
    return [tuple(each[num_images] for each in by_images) for num_images in common]


def _is_scheduled_by_images(record: Record) -> bool:
    schedule = record.spec.eval_every or record.spec.train_for
    if schedule is None:
        return False
    try:
        return parse_budget(schedule).num_images is not None
    except UsageError:  # a record may hold what this version no longer reads; order is then all there is
        return False


def averages_of(configuration: Configuration, metric: str, cost: Cost) -> list[Average]:
    """The configuration's line, by cost; with one seed its own values with the metric's own intervals."""
    found = []
    records = configuration.records
    for points in aligned(configuration):
        amounts = [cost.amount(configuration, record, point) for record, point in zip(records, points, strict=True)]
        known = [amount for amount in amounts if amount is not None]
        values = [value for point in points if (value := value_at(point, metric)) is not None]
        if len(known) < len(records) or len(values) < len(records):
            continue
        if len(records) == 1:
            own = points[0].quantities[metric]
            low, value, high = own.low, values[0], own.high
        else:
            low, value, high = _average(values)
        found.append(Average(cost=median(known), value=value, low=low, high=high))
    return found


def _average(values: Sequence[float]) -> tuple[float | None, float, float | None]:
    """(low, value, high) of two or more seeds."""
    if len(values) >= MIN_SEEDS_FOR_MEDIAN:
        middle = quantile_quantity(values, unit="1", source="seeds")
        return middle.low, median(values), middle.high
    is_log = min(values) > 0
    scaled = [math.log(value) for value in values] if is_log else list(values)
    centre = fmean(scaled)
    if len(values) < 3:
        return None, math.exp(centre) if is_log else centre, None
    quantile = float(student_t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    half_width = quantile * stdev(scaled) / math.sqrt(len(values))
    low, high = centre - half_width, centre + half_width
    return (math.exp(low), math.exp(centre), math.exp(high)) if is_log else (low, centre, high)
