"""What a stored run is to a reader: its place in a table, its name in a picture, its worth, why a figure is missing.

Every table and picture takes these answers from here, so that they agree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

from bench.notation import plain, shortened
from bench.records import PhaseName, Quantity, Record
from bench.report.carbon import ACTIVITIES
from bench.units import format_bytes

COST_COLUMNS = ("num_params_generator", "num_params_discriminator", "macs_generator", "macs_discriminator")
SPEED_COLUMNS = ("generate_images_per_s", "generate_latency_ms_p50", "train_images_per_s", "peak_memory_bytes")
QUALITY_COLUMNS = ("rfd_v1", "modes_covered", "pair_consistency")
ENERGY_COLUMNS = tuple(name for activity in ACTIVITIES for name in (activity.gross, activity.net))
CO2_COLUMNS = tuple(activity.co2 for activity in ACTIVITIES)
HEADLINE_COLUMNS = (*COST_COLUMNS, *SPEED_COLUMNS, *ENERGY_COLUMNS, *CO2_COLUMNS, *QUALITY_COLUMNS)
# Which phase answers for a headline figure that is missing.
_PHASE_OF: dict[str, PhaseName] = {
    **dict.fromkeys(COST_COLUMNS, "cost"),
    "generate_images_per_s": "generate",
    "generate_latency_ms_p50": "generate",
    "generate_peak_memory_bytes": "generate",
    "train_images_per_s": "train_step",
    "peak_memory_bytes": "train_step",
    "num_images_shown": "train",
    "train_duration_s": "train",
    **{name: activity.phase for activity in ACTIVITIES for name in (activity.gross, activity.net, activity.co2)},
}
_MIN_ID_CHARS = 8


def sort_key(record: Record) -> tuple[str, int, str, str, str]:
    """Order of every table: data set, resolution, model, size, run id. It is no ranking."""
    spec = record.spec
    return spec.dataset, spec.resolution or 0, spec.model, spec.size, record.run_id


def data_name(record: Record) -> str:
    """`scenes 32 px`."""
    return f"{record.spec.dataset} {record.spec.resolution or '?'} px"


def model_name(record: Record) -> str:
    """`ladagan`, or `ladagan tiny` where it is not the paper's size."""
    return record.spec.model_title


def setting_name(record: Record) -> str:
    """`cpu · fp32 · batch 32 · seed 0`."""
    spec = record.spec
    return f"{spec.device or '?'} · {spec.precision or '?'} · batch {spec.batch_size or '?'} · seed {spec.seed}"


def machine_name(record: Record) -> str:
    """The accelerator where there is one, else the processor."""
    gpus, cpu = record.machine.gpus, record.machine.cpu
    used = gpus if (record.spec.device or "").startswith("cuda") else ()
    return ", ".join(used) or cpu


def machine_text(record: Record) -> str:
    """The hardware and the software of a run; two runs with the same text were made on the same machine."""
    machine = record.machine
    num_cores = machine.container_cpu_limit or machine.num_cpu_cores
    memory_bytes = machine.container_memory_limit_bytes or machine.memory_bytes
    gpus = [
        f"{name} ({format_bytes(num_bytes)}, {'unknown power limit' if limit_w is None else f'{limit_w:g} W'})"
        for name, num_bytes, limit_w in zip(
            machine.gpus, machine.gpu_memory_bytes, machine.gpu_power_limit_w, strict=False
        )
    ]
    parts = [
        f"{machine.hostname}: {machine.cpu}, {num_cores:g} cores, {format_bytes(memory_bytes)}",
        ", ".join(gpus) or "no GPU",
        machine.os,
        f"driver {machine.driver}, CUDA {machine.cuda}" if machine.gpus else "",
        f"Python {machine.python}, torch {machine.torch}, {machine.num_torch_threads} threads",
    ]
    return "; ".join(filter(None, parts))


def short_ids(records: Sequence[Record]) -> list[str]:
    """The ends of the run ids, at least eight characters, as many as tell them apart; `bench show` takes them."""
    ids = [record.run_id for record in records]
    longest = max((len(run_id) for run_id in ids), default=0)
    for num_chars in range(_MIN_ID_CHARS, longest):
        shorts = [run_id[-num_chars:] for run_id in ids]
        if len(set(shorts)) == len(set(ids)):
            return shorts
    return ids


# A facet that matters to a comparison is named wherever it varies; the others only where they tell two runs apart.
_FACETS: tuple[tuple[Callable[[Record], str], bool], ...] = (
    (data_name, True),
    (lambda record: record.spec.device or "", True),
    (lambda record: record.spec.precision or "", True),
    (lambda record: f"batch {record.spec.batch_size}", False),
    (lambda record: f"seed {record.spec.seed}", False),
    (lambda record: record.spec.train_for or "", False),
)


def run_labels(records: Sequence[Record], max_chars: int = 44) -> list[str]:
    """A name for each run in a picture: the model and whatever tells the runs apart; smoke runs always say so."""
    columns = [[model_name(record) for record in records]]
    for facet, always in _FACETS:
        texts = [facet(record) for record in records]
        varies = len(set(texts)) > 1
        num_told_apart = len(set(zip(*columns, strict=True)))
        if varies and (always or len(set(zip(*columns, texts, strict=True))) > num_told_apart):
            columns.append(texts)
    names = [" · ".join(filter(None, parts)) for parts in zip(*columns, strict=True)]
    ends = [" (smoke)" if record.spec.preset == "smoke" else "" for record in records]
    found = []
    labels = [shortened(plain(name), max_chars - len(end)) + end for name, end in zip(names, ends, strict=True)]
    for index, short in enumerate(short_ids(records)):
        if names.count(names[index]) > 1 or labels.count(labels[index]) > 1:  # alike, or made alike by cutting
            end = f" · {plain(short)[-_MIN_ID_CHARS:]}{ends[index]}"
            found.append(shortened(plain(names[index]), max_chars - len(end)) + end)
        else:
            found.append(labels[index])
    return found


def status_reason(record: Record) -> str:
    """Why the run is not ok, phase by phase; empty where it is."""
    if record.status == "ok":
        return ""
    reasons = [
        f"{name}: {result.reason}"
        for name, result in record.phases.items()
        if result.status not in ("ok", "skipped") and result.reason
    ]
    return "; ".join(reasons) or "not all phases have run"


def skipped_phases(record: Record) -> dict[str, str]:
    """Phase → why it was skipped."""
    return {name: result.reason for name, result in record.phases.items() if result.status == "skipped"}


def why_not_publishable(record: Record) -> str:
    """Why the figures of this run are not for publication, in a few words; empty where they are."""
    if record.spec.preset != "smoke" and record.status != "ok":
        return f"{record.status}, not publishable"
    return doubt(record, {finding.rule for finding in record.validity if finding.level == "error"})


def doubt(record: Record, errors: Collection[str]) -> str:
    """What speaks against measured figures, whatever their phase says of itself.

    Args:
        errors: the rules whose errors concern them.
    """
    if record.spec.preset == "smoke":
        return "smoke, not publishable"
    if errors:
        return f"not publishable: {', '.join(sorted(errors))}"
    simulated = sorted(name for name, quantity in all_quantities(record).items() if is_simulated(quantity))
    return f"not publishable: simulated {', '.join(simulated)}" if simulated else ""


def all_quantities(record: Record) -> dict[str, Quantity]:
    """Every figure of a run by name; the earlier phase speaks where two use one name, as in `Record.quantity`."""
    found: dict[str, Quantity] = {}
    for result in record.phases.values():
        for name, quantity in result.quantities.items():
            found.setdefault(name, quantity)
    return found


def why_unknown(record: Record, name: str) -> str | None:
    """Why a headline or quality figure is missing, in one sentence, or None where it is known."""
    quantity = record.quantity(name)
    if quantity is not None:
        return quantity.note if quantity.value is None else None
    phase = _PHASE_OF.get(name, "quality")
    result = record.phases.get(phase)
    if result is None:
        return f"the phase {phase} has not run"
    if result.status != "ok":
        return f"the phase {phase} is {result.status}: {result.reason}"
    if name in ENERGY_COLUMNS and record.schema_version == 1:
        return "measured by a version of bench that read no energy"
    return f"the phase {phase} gives no such figure here"


def grouped_reasons(records: Sequence[Record], figures: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """One line per reason why a figure is unknown, with the figures and the runs it holds for.

    Args:
        names: run id → what the table calls the run.
    """
    figures_of: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record in records:
        for figure in figures:
            reason = why_unknown(record, figure)
            if reason is not None:
                figures_of[names[record.run_id], reason].append(figure)
    runs_of: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for (run, reason), missing in figures_of.items():
        runs_of[reason, tuple(missing)].append(run)
    return [f"{', '.join(missing)} of {', '.join(runs)}: {reason}" for (reason, missing), runs in runs_of.items()]


def is_simulated(figure: Quantity) -> bool:
    """Whether a device that does not exist, such as the tests' NVML, had a part in the figure."""
    return figure.kind == "simulated" or (figure.label or "").startswith("simulated:")
