"""Whether two figures may be compared, and if not, in which fields of their protocols or settings they differ.

Why it exists: "FID 4.9" means nothing without set, split, crop, resize, count and network, and tables that rank such
numbers against each other are the field's commonest mistake. Two figures are ranked here only if everything that
decides their value is equal: the data set (name, resolution, protocol), how the images were generated, and the metric's
own protocol. What was scored (weights, seeds), who scored it (machine, meters) and what it cost are no part of it.

A count (parameters, MACs, bytes) depends on the image's side alone. Time, energy and memory depend on the machine, the
software and the way of running as well, and, but for latency at batch 1, on the batch size.

Records written before a metric's protocol listed its figures do not say whose protocol is whose; then all their
metrics' protocols must agree. Nothing here imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

from pydantic import JsonValue

from bench.directions import BETTER
from bench.records import Quantity, Record

Better = Literal["higher", "lower"]

NOT_PROTOCOL = ("backend", "meters", "score_duration_s", "scored")
"""What the quality phase notes beside its protocols: it decides no pixel and no score."""

COMPANIONS = ("_real", "_untrained", "_seed_spread")
"""Endings of the figures that stand beside a metric's own and follow its protocol."""

WAYS_OF_RUNNING = (
    "device",
    "precision",
    "compile",
    "capture",
    "channels_last",
    "num_accumulation_steps",
    "num_processes",
)
"""Fields of the question that change speed, energy and memory and are no part of the model."""

MACHINE_FIELDS = ("hostname", "cpu", "gpus", "gpu_power_limit_w", "num_torch_threads", "driver", "cuda", "torch")
"""Fields of the machine that two figures of speed, energy or memory must share."""

FIGURES = "figures"
"""Key under which a metric's protocol lists the figures it speaks of."""


def deciding(record: Record, figure: str) -> dict[str, JsonValue] | None:
    """Everything besides the model that decides the figure: a quality figure's protocol, or else its setting.

    None where nobody recorded it, so that the figure may be compared with nothing.
    """
    phase = next((name for name, result in record.phases.items() if figure in result.quantities), None)
    if phase in (None, "quality") or base_of(figure) in BETTER:
        return protocol_of(record, figure)
    return {"resolution": record.spec.resolution} if phase == "cost" else setting_of(record, figure)


def setting_of(record: Record, figure: str) -> dict[str, JsonValue]:
    """Everything besides the model that decides a figure of time, energy or memory.

    The data set is no part of it: compute does not depend on what the images show.
    """
    spec, machine = record.spec, record.machine
    ways = {name: getattr(spec, name) for name in WAYS_OF_RUNNING}
    hardware = {name: _json(getattr(machine, name)) for name in MACHINE_FIELDS}
    batch: dict[str, JsonValue] = {} if "latency" in figure else {"batch_size": spec.batch_size}
    return {"resolution": spec.resolution, **batch, **ways, "machine": hardware}


def protocol_of(record: Record, metric: str) -> dict[str, JsonValue] | None:
    """Everything that decides the value of that figure, `data`, `generated` and `metrics`; None where no phase says it.

    Where the quality phase has not run, training speaks: its evaluations follow the same protocol.
    """
    found = _found(record)
    if found is None:
        return None
    base = base_of(metric)
    metrics = {key: fact for key, fact in found.items() if key not in (*NOT_PROTOCOL, "generated", "real")}
    own = {key: fact for key, fact in metrics.items() if base in _figures_of(fact)} or metrics
    data: dict[str, JsonValue] = {"name": record.spec.dataset.partition(":")[0], "resolution": record.spec.resolution}
    data |= {key: fact for key, fact in record.dataset.protocol.items() if not _is_of_preparation(key, fact)}
    whole: dict[str, JsonValue] = {
        "data": data,
        "generated": found.get("generated"),
        "metrics": {key: _without_figures(fact) for key, fact in own.items()},
    }
    return whole | ({"real": found.get("real")} if metric.endswith("_real") else {})


def quality_protocol(record: Record) -> dict[str, JsonValue] | None:
    """The protocols of all of a record's quality figures together; None where no quality was measured."""
    found = _found(record)
    if found is None:
        return None
    metrics = {key: _without_figures(fact) for key, fact in found.items() if key not in NOT_PROTOCOL}
    return {"metrics": metrics, "data": record.dataset.protocol}


def base_of(figure: str) -> str:
    """The metric's own figure that a companion stands beside: `rfd_v1_real` → `rfd_v1`."""
    ending = next((each for each in COMPANIONS if figure.endswith(each)), "")
    return figure.removesuffix(ending)


def disagreement(record_a: Record, record_b: Record, metric: str) -> list[str]:
    """Dotted names of the fields in which a figure's protocols or settings differ; empty where it may be compared."""
    found = [deciding(record, metric) for record in (record_a, record_b)]
    missing = [record.run_id for record, each in zip((record_a, record_b), found, strict=True) if each is None]
    if missing:
        return [f"protocol (not recorded in {', '.join(missing)})"]
    return differences(found)


def differences(documents: Sequence[JsonValue], path: str = "") -> list[str]:
    """Dotted paths of the values in which JSON documents differ."""
    if all(document == documents[0] for document in documents[1:]):
        return []
    branches = [document for document in documents if isinstance(document, dict)]
    if len(branches) < len(documents):
        return [path or "document"]
    keys = dict.fromkeys(key for branch in branches for key in branch)
    found = [differences([branch.get(key) for branch in branches], f"{path}.{key}") for key in keys]
    return [name.removeprefix(".") for names in found for name in names]


def comparable_groups(records: Sequence[Record], metric: str) -> list[list[Record]]:
    """The records whose figure is known, parted so that in a part all that decides it agrees; in the order met.

    A record whose protocol is not recorded is alone: nobody can tell what it may be compared with.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        if _known(record, metric) is not None:
            protocol = deciding(record, metric)
            text = f"unknown of {record.run_id}" if protocol is None else json.dumps(protocol, sort_keys=True)
            groups.setdefault(text, []).append(record)
    return list(groups.values())


def leaders(records: Sequence[Record], metric: str, better: Better) -> set[str]:
    """Run ids of the best, within each group of agreeing protocols that holds two runs or more.

    Every run whose 95 % interval reaches the best one's shares the place: the figures cannot tell them apart. Where the
    best is a measurement without an interval nobody leads. The interval is the metric's own and knows nothing of other
    training seeds.
    """
    found: set[str] = set()
    for group in comparable_groups(records, metric):
        figures = {record.run_id: figure for record in group if (figure := _known(record, metric)) is not None}
        if len(figures) < 2 or any(figure.kind not in ("measured", "computed") for figure in figures.values()):
            continue
        best = max(figures.values(), key=lambda figure: _goodness(figure, better))
        if best.kind == "measured" and best.low is None:  # a single reading: nobody knows what another would give
            continue
        found |= {run_id for run_id, figure in figures.items() if _reaches(figure, best)}
    return found


def _found(record: Record) -> dict[str, JsonValue] | None:
    quality, train = record.phases.get("quality"), record.phases.get("train")
    if quality and quality.quantities:
        return quality.protocol
    of_training = train.protocol.get("quality") if train else None
    return of_training if isinstance(of_training, dict) else None


def _figures_of(fact: JsonValue) -> list[JsonValue]:
    listed = fact.get(FIGURES) if isinstance(fact, dict) else None
    return listed if isinstance(listed, list) else []


def _is_of_preparation(key: str, fact: JsonValue) -> bool:
    """Said by prepared data sets alone. Preparing changes no pixel, and a metric hashes the reference's pixels itself;
    entries that had to be left out do matter."""
    return key == "pixels_sha256" or (key == "num_corrupt_entries" and fact == 0)


def _without_figures(fact: JsonValue) -> JsonValue:
    """Older records have no such list; the protocol is the same."""
    return {key: each for key, each in fact.items() if key != FIGURES} if isinstance(fact, dict) else fact


def _json(fact: object) -> JsonValue:
    """Tuples as JSON has them."""
    document: JsonValue = json.loads(json.dumps(fact))
    return document


def _known(record: Record, metric: str) -> Quantity | None:
    figure = record.quantity(metric)
    return None if figure is None or figure.value is None else figure


def _goodness(figure: Quantity, better: Better) -> float:
    assert figure.value is not None
    return figure.value if better == "higher" else -figure.value


def _reaches(figure: Quantity, best: Quantity) -> bool:
    """Whether the intervals overlap; a figure without one is a point."""
    (low_a, high_a), (low_b, high_b) = _ends(figure), _ends(best)
    return low_a <= high_b and low_b <= high_a


def _ends(figure: Quantity) -> tuple[float, float]:
    assert figure.value is not None
    if figure.low is None or figure.high is None:
        return figure.value, figure.value
    return figure.low, figure.high
