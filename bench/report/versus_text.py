"""`bench compare` in words: the table, what differs, and the sentence one would say, or the whole as a JSON document.

The sentence holds only what may be said: no figure whose interval holds 1, whose settings differ or that may not be
ranked. Those are named after it with the reason, so that silence is never taken for equality.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from pydantic import JsonValue
from tabulate import tabulate

from bench.directions import BETTER
from bench.notation import UNKNOWN, format_quantity, plain, shortened
from bench.records import Quantity, Record
from bench.report.rows import QUALITY_COLUMNS, machine_name, model_name, status_reason
from bench.report.versus import CANNOT_BE_TOLD, HEADLINES, NOT_COMPARABLE, NOT_RANKED, Comparison, Difference, Versus

SITTING = (
    "Intervals are of the windows of one sitting each, taken as independent; another sitting may differ, and another "
    "training seed gives other quality. An interval of quality is the metric's own."
)
SENSOR_SHARED = "Joules: both runs used one board and sensor, so the sensor's own error cancels in their ratio."
SENSOR_APART = "Joules: the runs did not share one sensor, so the errors of both sensors widen the ratio's interval."

# figure → what the sentence calls it, and what it says of B. Ratios of all are B over A.
_SAID: dict[str, tuple[str, str]] = {
    "generate_images_per_s": ("generation speed", "generates {} times as many images per second"),
    "train_images_per_s": ("training speed", "trains on {} times as many images per second"),
    "generate_latency_ms_p50": ("latency", "takes {} times as long for one image"),
    "generate_energy_j_per_image": ("energy of generation", "spends {} times the joules per generated image"),
    "train_step_energy_j_per_image": ("energy of training", "spends {} times the joules per image in training"),
    "train_energy_j": ("energy of the whole training", "spends {} times the joules on the whole training"),
    "generate_peak_memory_bytes": ("memory of generation", "needs {} times the memory to generate"),
    "peak_memory_bytes": ("memory of training", "needs {} times the memory to train"),
    "num_params_generator": ("parameters", "has {} times the parameters in the generator"),
    "macs_generator": ("MACs", "does {} times the MACs per generated image"),
}
_SCORES = tuple(dict.fromkeys((*QUALITY_COLUMNS, *(name for name in BETTER if name.endswith("_50k")))))
_OF_SETTING = tuple(name for name in _SAID if name not in {"num_params_generator", "macs_generator"})
_MAX_NAME_CHARS = 60
_MAX_FACT_CHARS = 60
_MAX_REASON_CHARS = 90


def comparison_text(comparison: Comparison, *, show_all: bool) -> str:
    """Everything `bench compare` prints.

    Args:
        show_all: figures beside the headlines, and every field that differs, in full.
    """
    record_a, record_b = comparison.record_a, comparison.record_b
    shown = [each for each in comparison.figures if show_all or each.name in HEADLINES]
    num_more = len(comparison.figures) - len(shown)
    blocks = [
        [f"A  {_title(record_a)}", f"B  {_title(record_b)}"],
        [_table(shown)] if shown else ["Both runs know no figure in common."],
        [f"{num_more} more figures with --all."] if num_more else [],
        _absent(comparison.absent),
        ["What differs", *_differences(comparison.apart, max_chars=None if show_all else _MAX_FACT_CHARS)],
        ["Notes", *(f"  {note}" for note in notes(comparison))],
        [sentence(comparison)],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _title(record: Record) -> str:
    spec = record.spec
    setting = f"{spec.device} {spec.precision} b{spec.batch_size}, {machine_name(record)}"
    where = f"{spec.dataset} {spec.resolution} px"
    return plain(f"{record.run_id}: {model_name(record)}, {where}, {setting}, {spec.preset}, {record.status}")


def _table(figures: Sequence[Versus]) -> str:
    rows = [
        [
            shortened(plain(each.name), _MAX_NAME_CHARS),
            _cell(each.quantity_a),
            _cell(each.quantity_b),
            "" if each.quantity_a.unit in {"1", "B"} else plain(each.quantity_a.unit),
            each.ratio.text(),
            shortened(plain(f"{each.word}: {each.why}" if each.why else each.word), _MAX_REASON_CHARS),
        ]
        for each in figures
    ]
    header = ["figure", "A", "B", "unit", "B/A (95 %)", "B is"]
    return str(
        tabulate(rows, headers=header, disable_numparse=True, colalign=("left", "right", "right", "left", "left"))
    )


def _cell(quantity: Quantity) -> str:
    return plain(format_quantity(quantity))


def _absent(absent: Mapping[str, str]) -> list[str]:
    """One line per reason why a figure is known of one run only."""
    of_reason: dict[str, list[str]] = {}
    for name, reason in absent.items():
        of_reason.setdefault(reason, []).append(name)
    return [plain(f"{', '.join(names)} {UNKNOWN} in {reason}") for reason, names in of_reason.items()]


def _differences(apart: Mapping[str, Sequence[Difference]], *, max_chars: int | None) -> list[str]:
    if not apart:
        return ["  nothing that was recorded"]
    rows = [
        [kind if not index else "", *(_fact(fact, max_chars) for fact in (each.field, each.of_a, each.of_b))]
        for kind, fields in apart.items()
        for index, each in enumerate(fields)
    ]
    return [f"  {line}" for line in tabulate(rows, tablefmt="plain", disable_numparse=True).splitlines()]


def _fact(fact: JsonValue, max_chars: int | None) -> str:
    text = UNKNOWN if fact is None else plain(fact if isinstance(fact, str) else str(fact))
    return text if max_chars is None else shortened(text, max_chars)


def notes(comparison: Comparison) -> list[str]:
    """What a reader must know of these figures, each said once."""
    found = [SITTING]
    measured = [each for each in comparison.figures if (each.quantity_a.label or "").startswith("measured:")]
    shares = {each.is_sensor_shared for each in measured}
    found += [note for shared, note in ((True, SENSOR_SHARED), (False, SENSOR_APART)) if shared in shares]
    for letter, record in (("A", comparison.record_a), ("B", comparison.record_b)):
        if record.status != "ok":
            found.append(f"{letter} is {record.status}: {status_reason(record)}")
        found += [f"{letter}: {finding.rule}: {finding.detail}" for finding in record.validity]
        found += [f"{letter}: {finding}" for finding in _of_windows(record)]
    return [shortened(plain(note), 4 * _MAX_FACT_CHARS) for note in found]


def _of_windows(record: Record) -> Iterable[str]:
    """What the timed phases saw of each series: that it did not stand still, or that something disturbed it."""
    for result in record.phases.values():
        series = result.protocol.get("series")
        for seen in series.values() if isinstance(series, dict) else ():
            for part in ("stationarity", "disturbances"):
                fact = seen.get(part) if isinstance(seen, dict) else None
                finding = fact.get("finding") if isinstance(fact, dict) else None
                if isinstance(finding, str) and finding and finding not in result.reason:
                    yield f"{result.phase}: {finding}"


def sentence(comparison: Comparison) -> str:
    """What one would say of B against A, and why the rest is not said."""
    record_a, record_b = comparison.record_a, comparison.record_b
    names = [shortened(plain(model_name(record)), _MAX_NAME_CHARS) for record in (record_a, record_b)]
    if names[0] == names[1]:
        names = [f"{name} ({letter})" for name, letter in zip(names, "AB", strict=True)]
    figures = {each.name: each for each in comparison.figures if each.name in (*_SAID, *_SCORES)}
    parts = [_told(figures), *_told_scores(figures)]
    said = "; ".join(part for part in parts if part)
    none = f"No difference between {names[0]} and {names[1]} can be claimed"
    first = f"Compared with {names[0]}, {names[1]} {said}" if said else none
    rest = [*_alike(figures), *(_untold(figures, word) for word in (CANNOT_BE_TOLD, NOT_COMPARABLE, NOT_RANKED))]
    return "; ".join([first, *(part for part in rest if part)]) + "."


def _told(figures: Mapping[str, Versus]) -> str:
    """`generates 1.90 (1.81 to 2.00) times as many images per second on the same machine and setting`."""
    told = [each for each in figures.values() if each.name in _SAID and _is_apart(each)]
    said = {each.name: _SAID[each.name][1].format(each.ratio.text()) for each in told if each.ratio.value is not None}
    of_setting = _joined([text for name, text in said.items() if name in _OF_SETTING])
    counts = _joined([text for name, text in said.items() if name not in _OF_SETTING])
    return "; it ".join(filter(None, [of_setting and f"{of_setting} on the same machine and setting", counts]))


def _told_scores(figures: Mapping[str, Versus]) -> list[str]:
    found = []
    for each in figures.values():
        if each.name in _SCORES and _is_apart(each):
            has_ratio = each.ratio.value is not None and each.ratio.low is not None
            values = f"{_cell(each.quantity_b)} against {_cell(each.quantity_a)}"
            size = f"{each.ratio.text()} times as large" if has_ratio else values
            found.append(f"its {each.name} is {size}, which is {each.word}")
    return found


def _is_apart(each: Versus) -> bool:
    return each.is_told and not each.word.startswith("the same")


def _alike(figures: Mapping[str, Versus]) -> list[str]:
    of_word: dict[str, list[str]] = {}
    for each in figures.values():
        if each.word.startswith("the same"):
            of_word.setdefault(each.word, []).append(_called(each))
    return [f"{_joined(names)} {'is' if len(names) == 1 else 'are'} {word}" for word, names in of_word.items()]


def _untold(figures: Mapping[str, Versus], word: str) -> str:
    """`training speed cannot be compared because batch_size differs`."""
    verb = {CANNOT_BE_TOLD: "cannot be told apart", NOT_COMPARABLE: "cannot be compared", NOT_RANKED: "is not ranked"}
    of_reason: dict[str, list[str]] = {}
    for each in figures.values():
        if each.word == word:
            of_reason.setdefault(each.why, []).append(_called(each))
    said = [
        f"{_joined(names)} {verb[word] if word != NOT_RANKED or len(names) == 1 else 'are not ranked'} because {why}"
        for why, names in of_reason.items()
    ]
    return plain("; ".join(said))


def _called(each: Versus) -> str:
    return _SAID[each.name][0] if each.name in _SAID else each.name


def _joined(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def comparison_document(comparison: Comparison) -> dict[str, JsonValue]:
    """Everything, for programs: figures with ratio and word, what differs, the notes and the sentence."""
    runs: dict[str, JsonValue] = {
        letter: {
            "run_id": record.run_id,
            "model": model_name(record),
            "status": record.status,
            "spec": record.spec.model_dump(mode="json"),
        }
        for letter, record in (("a", comparison.record_a), ("b", comparison.record_b))
    }
    figures: list[JsonValue] = [
        {
            "name": each.name,
            "is_headline": each.name in HEADLINES,
            "a": each.quantity_a.model_dump(mode="json"),
            "b": each.quantity_b.model_dump(mode="json"),
            "ratio": asdict(each.ratio),
            "word": each.word,
            "why": each.why,
            "fields_apart": list(each.apart),
            "is_sensor_shared": each.is_sensor_shared,
        }
        for each in comparison.figures
    ]
    return {
        **runs,
        "figures": figures,
        "absent": dict(comparison.absent),
        "differs": {kind: [asdict(each) for each in fields] for kind, fields in comparison.apart.items()},
        "notes": list(notes(comparison)),
        "sentence": sentence(comparison),
    }
