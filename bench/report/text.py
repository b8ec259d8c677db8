"""What a terminal shows: one table of all runs (`bench report`) and one run in full (`bench show RUN`).

Plain text without colour, so that it can be piped; strings from records are stripped of control characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bench.notation import format_number, format_quantity, plain, provenance_mark, shortened
from bench.records import PhaseResult, Quantity, Record
from bench.report.rows import model_name, short_ids, sort_key, status_reason
from bench.store import StoredRun, load_newest
from bench.units import format_bytes, format_duration

# heading, quantity: what a hundred and twenty columns hold besides the run, its data, its setting and its status.
_FIGURES = (
    ("generate/s", "generate_images_per_s"),
    ("train/s", "train_images_per_s"),
    ("rfd_v1", "rfd_v1"),
    ("modes", "modes_covered"),
)
_MODEL_CHARS = 17
_DATA_CHARS = 17
_SETTING_CHARS = 18
_REASON_CHARS = 110
MAX_TERMINAL_RUNS = 60


def terminal_table(records: Sequence[Record]) -> str:
    """One line per run, sorted by data set, resolution and model; reasons of runs that are not ok below it."""
    records = sorted(records, key=sort_key)
    if not records:
        return "No runs yet. `bench run` makes one."
    shorts = short_ids(records)
    figures = [(heading, name) for heading, name in _FIGURES if any(record.quantity(name) for record in records)]
    header = ["run", "model", "data", "setting", *(heading for heading, _ in figures), "status"]
    rows = []
    for record, short in zip(records, shorts, strict=True):
        spec = record.spec
        setting = f"{spec.device or '?'} {spec.precision or '?'} b{spec.batch_size or '?'}"
        smoke = ", smoke" if spec.preset == "smoke" else ""
        rows.append(
            [
                plain(short),
                shortened(plain(model_name(record)), _MODEL_CHARS),
                shortened(plain(f"{spec.dataset} {spec.resolution or '?'}"), _DATA_CHARS),
                shortened(plain(setting), _SETTING_CHARS),
                *(format_quantity(record.quantity(name)) for _, name in figures),
                f"{record.status}{smoke}",
            ]
        )
    lines = _aligned([header, *rows], num_left=4)
    lines.insert(1, "─" * max(map(len, lines)))
    for record, short in zip(records, shorts, strict=True):
        if record.status != "ok":
            lines.append(shortened(plain(f"{short} {record.status}: {status_reason(record)}"), _REASON_CHARS))
    lines.append("")
    lines.append("12.34(5): the last digits are uncertain by the number in parentheses (95 %). /s: images per second.")
    if any(record.spec.preset == "smoke" for record in records):
        lines.append("smoke: measured too briefly to be published.")
    return "\n".join(lines)


def newest_runs(results: Path) -> str:
    """The runs that were written last, as a table, and how many there are; reads no more than it shows."""
    runs, num_records = load_newest(results, MAX_TERMINAL_RUNS)
    table = terminal_table([run.record for run in runs])
    if num_records <= len(runs):
        return table
    unread = f"The {len(runs)} readable runs that were written last, of {num_records} records in {results}."
    return f"{table}\n{plain(unread)}"


def show_run(stored: StoredRun) -> str:
    """One run in full: the question, the machine, every figure with interval, kind, source and note, what failed."""
    record = stored.record
    blocks = [
        [f"Run {record.run_id}", *_pairs(_run_facts(stored))],
        ["Question", *_pairs(record.spec.model_dump())],
        ["Machine", *_pairs(_machine_facts(record))],
        ["Model", *_pairs(record.model.model_dump())],
        ["Data set", *_pairs(record.dataset.model_dump())],
        ["Recipe", *_pairs(record.recipe)],
        *(_phase_block(result) for result in record.phases.values()),
        _curve_block(record),
        ["Findings", *(f"  {finding.level}: {finding.rule}: {finding.detail}" for finding in record.validity)],
    ]
    return "\n\n".join("\n".join(plain(line) for line in block) for block in blocks if len(block) > 1)


def _run_facts(stored: StoredRun) -> dict[str, object]:
    record = stored.record
    reason = status_reason(record)
    return {
        "status": f"{record.status}: {reason}" if reason else record.status,
        "created": record.created_at,
        "harness": record.harness_version,
        "folder": str(stored.folder),
    }


def _machine_facts(record: Record) -> dict[str, object]:
    machine = record.machine
    facts = machine.model_dump()
    facts["memory_bytes"] = format_bytes(machine.memory_bytes)
    if machine.container_memory_limit_bytes is not None:
        facts["container_memory_limit_bytes"] = format_bytes(machine.container_memory_limit_bytes)
    facts["gpu_memory_bytes"] = [format_bytes(num_bytes) for num_bytes in machine.gpu_memory_bytes]
    return facts


def _phase_block(result: PhaseResult) -> list[str]:
    status = result.status if result.status == "ok" else f"{result.status}: {result.reason}"
    block = [f"Phase {result.phase}: {status} ({format_duration(result.duration_s)})"]
    block += _aligned([_quantity_cells(name, quantity) for name, quantity in result.quantities.items()], num_left=1)
    if result.protocol:
        block += ["  protocol", *(f"  {line}" for line in _pairs(result.protocol))]
    if result.artifacts:
        block += ["  files", *(f"  {line}" for line in _pairs(result.artifacts))]
    return block if result.quantities else [*block, "  no figures"]


def _quantity_cells(name: str, quantity: Quantity) -> list[str]:
    """name, value, then unit, interval, count, kind, source and note as one cell that may be long."""
    interval = ""
    if quantity.low is not None and quantity.high is not None:
        low, high = (format_number(end, unit=quantity.unit) for end in (quantity.low, quantity.high))
        interval = f"[{low}, {high}]" if quantity.low < quantity.high else f"exactly {quantity.value:.17g}"
    value = format_quantity(quantity)
    value = value.removesuffix(f" [{provenance_mark(quantity)}]")
    count = "" if quantity.n is None else f"n={quantity.n}"
    unit = "" if quantity.unit in ("1", "B") else quantity.unit  # bytes carry their prefix and unit already
    sensor = "" if quantity.systematic is None else f"± {100 * quantity.systematic:.2g} % by the sensor itself"
    note = f"({quantity.note})" if quantity.note else ""
    words = (unit, interval, sensor, count, quantity.label or quantity.kind, f"from {quantity.source}", note)
    return [f"  {plain(name)}", value, plain(" ".join(filter(None, words)))]


def _curve_block(record: Record) -> list[str]:
    block = ["Quality while training"]
    for point in record.curve:
        figures = ", ".join(f"{name} {format_quantity(quantity)}" for name, quantity in point.quantities.items())
        block.append(f"  {point.num_images_shown} images, {format_duration(point.train_duration_s)}: {figures}")
    return block


def _pairs(facts: Mapping[str, object]) -> list[str]:
    """`  name  value` per fact; what is neither text nor None is written as JSON."""
    texts = {
        name: "not known" if fact is None else fact if isinstance(fact, str) else json.dumps(fact, ensure_ascii=False)
        for name, fact in facts.items()
    }
    return _aligned([[f"  {name}", text] for name, text in texts.items()], num_left=2)


def _aligned(rows: Iterable[Sequence[str]], *, num_left: int) -> list[str]:
    """Rows of cells → lines; the first `num_left` columns and the last are flush left, the others flush right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if index < num_left or index == len(row) - 1 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
