"""`bench scale` for a terminal: every figure in one table per study, exponents, crossings, and why each curve ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tabulate import tabulate

from bench.notation import UNKNOWN, format_number, format_quantity
from bench.phases._scale_record import STUDIES, ScaleRecord, Study
from bench.records import Quantity
from bench.report.plots_scale import headline
from bench.report.scale_fit import (
    FITTED,
    METRICS,
    Crossing,
    Metric,
    Standing,
    compared,
    comparisons,
    counted_windows,
    curve,
    exponent,
    figure,
)
from bench.units import format_bytes, format_count

_TOLERABLE_SHARE = 0.05  # of disturbed windows: that many cannot move a median out of its interval


def scale_text(record: ScaleRecord) -> str:
    """Every figure of every study, then `scale_summary`."""
    blocks = [_study_table(record, study) for study in STUDIES if any(point.study == study for point in record.points)]
    return "\n\n".join([*blocks, scale_summary(record)])


def scale_summary(record: ScaleRecord) -> str:
    """Exponents, crossings, why each curve ends and what disturbed the windows: what a terminal holds."""
    blocks = [
        headline(record),
        _exponent_table(record),
        _crossing_table(record),
        _ends_table(record),
        _disturbances(record),
    ]
    return "\n\n".join(filter(None, blocks))


def finding(found: Crossing | Standing) -> str:
    """`softmax is cheaper up to 256 tokens, additive from 512 on (about 330)`."""
    if isinstance(found, Crossing):
        about = "" if found.at_tokens is None else f" (about {found.at_tokens:,.0f})"
        below = f"{found.below} is cheaper up to {found.low_tokens:,} tokens"
        return f"{below}, {found.above} from {found.high_tokens:,} on{about}"
    span = f"from {found.low_tokens:,} to {found.high_tokens:,} tokens"
    if found.cheaper is None:
        return f"{' and '.join(found.operators)} cannot be told apart {span}"
    other = next(name for name in found.operators if name != found.cheaper)
    sizes = (
        f"all {found.num_sizes}"
        if found.num_decided == found.num_sizes
        else f"{found.num_decided} of {found.num_sizes}"
    )
    return f"{found.cheaper} is cheaper than {other} at {sizes} sizes {span}, and dearer at none"


def _study_table(record: ScaleRecord, study: Study) -> str:
    points = [point for point in record.points if point.study == study]
    rows = [
        [
            _size(point.num_tokens, point.resolution),
            point.operator,
            format_count(point.num_params),
            format_count(point.macs),
            format_bytes(point.num_bytes),
            format_bytes(point.num_bytes_as_run),
            format_bytes(point.peak_memory_bytes),
            _milliseconds(figure(point, "seconds")),
            format_quantity(point.energy_j_per_image),
        ]
        for point in points
    ]
    header = ["tokens", "operator", "params", "MACs", "bytes", "bytes as run", "memory (est.)", "ms/image", "J/image"]
    return f"{STUDIES[study]}\n{_table(header, rows)}"


def _exponent_table(record: ScaleRecord) -> str:
    rows = []
    for study in FITTED:
        for operator in record.operators:
            points = curve(record, study, operator)
            if not points:
                continue
            found = {metric: exponent(points, metric) for metric in METRICS}
            span = next((each.note for each in found.values() if each.value is not None), found["macs"].note)
            rows.append([study, operator, *(_exponent(each) for each in found.values()), span])
    header = ["study", "operator", *METRICS.values(), "fitted"]
    return f"Exponent in tokens, 95 % interval\n{_table(header, rows)}"


def _crossing_table(record: ScaleRecord) -> str:
    """One row per study and figure, one column per other operator."""
    first, *others = record.operators
    rows = []
    for study in FITTED:
        for metric, title in METRICS.items():
            if any(figure(point, metric).value is not None for point in curve(record, study, first)):
                rows.append([study, title, *(_where_cheaper(record, study, metric, other) for other in others)])
    header = ["study", "figure", *(f"than {name}" for name in others)]
    between_others = [
        [each.study, METRICS[metric], finding(each)]
        for metric in METRICS
        for each in comparisons(record, metric)
        if isinstance(each, Crossing) and first not in {each.below, each.above}
    ]
    tables = [f"Where {first} is cheaper, by tokens\n{_table(header, rows)}"] if others else []
    if between_others:
        heading = "Crossings between the others (pairs that do not cross: scale_crossings.csv)"
        tables.append(f"{heading}\n{_table(['study', 'figure', 'finding'], between_others)}")
    return "\n\n".join(tables)


def _where_cheaper(record: ScaleRecord, study: Study, metric: Metric, other: str) -> str:
    """`from 512 on (≈ 370)`, `up to 64 (≈ 82)`, `throughout`, `at 3 of 9 sizes`, `nowhere` or `not told apart`."""
    curves = curve(record, study, record.operators[0]), curve(record, study, other)
    if not all(curves):
        return UNKNOWN
    found = compared(*curves, metric)
    if isinstance(found, Standing):
        if found.cheaper is None or found.cheaper == other:
            return "not told apart" if found.cheaper is None else "nowhere"
        is_throughout = found.num_decided == found.num_sizes
        return "throughout" if is_throughout else f"at {found.num_decided} of {found.num_sizes} sizes"
    words = []
    for each in found:
        about = "" if each.at_tokens is None else f" (≈ {each.at_tokens:,.0f})"
        words.append(
            f"up to {each.low_tokens:,}{about}" if each.above == other else f"from {each.high_tokens:,} on{about}"
        )
    return "; ".join(words)


def _ends_table(record: ScaleRecord) -> str:
    rows = [
        [end.study, end.operator, end.reason, _size(end.num_tokens, end.resolution), end.detail] for end in record.ends
    ]
    return f"Where each curve ends\n{_table(['study', 'operator', 'ended by', 'not measured from', 'because'], rows)}"


def _disturbances(record: ScaleRecord) -> str:
    windows = [window for point in record.points for window in counted_windows(point)]
    num_disturbed = sum(bool(window.flags) for window in windows)
    if not num_disturbed:
        return ""
    causes = Counter(flag for window in windows for flag in set(window.flags))
    named = "; ".join(f"{flag} ({count})" for flag, count in causes.most_common())
    said = f"{num_disturbed} of {len(windows)} windows were disturbed: {named}"
    remedy = ". Times, and crossings in time, are those of a shared machine: measure again when it is idle"
    return said + (remedy if num_disturbed > _TOLERABLE_SHARE * len(windows) else "")


def _size(num_tokens: int | None, resolution: int | None) -> str:
    """`1,024` or `1,024 (32 px)`."""
    if num_tokens is None:
        return UNKNOWN
    return f"{num_tokens:,}" if resolution is None else f"{num_tokens:,} ({resolution} px)"


def _milliseconds(time_s: Quantity) -> str:
    ends = [None if each is None else 1000 * each for each in (time_s.value, time_s.low, time_s.high)]
    return UNKNOWN if ends[0] is None else format_number(ends[0], ends[1], ends[2])


def _exponent(found: Quantity) -> str:
    if found.value is None or found.low is None or found.high is None:
        return UNKNOWN
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text: str = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
    return text
