"""The claim that additive attention costs O(n): what `bench scale` and the counts of the runs say of it.

Rules. Votes are cast by the exponents of one attention layer, forward and with its backward pass, in MACs, in time and,
where they were measured, in joules (`scale_fit.exponent`):

* `supports`: additive attention's interval is not above 1 (its lower end is at most 1 + TOLERANCE) and excludes 2, and,
  where softmax attention was measured beside it, softmax's interval lies above it. The last part is what keeps sizes
  from supporting anything at which even softmax grows like n.
* `contradicts`: the interval lies above 1.
* `undecided`: it holds both 1 and 2, or the two operators' intervals overlap.

Where no time and no joules decide, the claim `cannot be told`: counts are known from the formula and need no
measurement. O(n) is an upper bound, so an exponent below 1 is no contradiction. Networks do not vote, because most of
their cost is not attention; what the choice of attention changes in them stands beside it, for and against.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from bench.notation import format_quantity, plain, shortened
from bench.phases._scale_record import STUDIES, ScaleRecord, Study
from bench.records import Quantity, Record
from bench.report.ratios import ratio_of
from bench.report.scale_fit import METRICS, Metric, compared, counted_windows, curve, exponent
from bench.report.scale_text import finding
from bench.report.verdict.evidence import (
    LADAGAN,
    PAPER,
    Evidence,
    Outcome,
    Verdict,
    Vote,
    called,
    is_ladagan,
    newest,
    outcome_of,
    usable,
    with_most_shown,
)
from bench.units import format_count

TOLERANCE = 0.02  # an exponent of exact counts is 1 but for what the least squares leave
ADDITIVE, SOFTMAX = "additive", "softmax"

_LAYERS: tuple[Study, ...] = ("layer", "layer-backward")
_SHOWN: tuple[Metric, ...] = ("macs", "bytes_as_run", "seconds", "joules")
_VOTING: tuple[Metric, ...] = ("macs", "seconds", "joules")
_TOLERABLE_SHARE = 0.05
_OF_SIZES = (
    "An exponent describes the sizes it was fitted to and says nothing of others; softmax's stays below 2 while the "
    "layer's linear maps, which grow like n, take a part of the work. The two operators' curves end at different sizes."
)
_OF_LAYERS = (
    "The claim is about attention. Most of the cost of LadaGAN's networks is elsewhere, so an O(n) layer does not make "
    "the whole network cheaper by the same factor."
)
_CLAIM = (
    "LadaGAN's additive attention takes work in proportion to the number of tokens n, O(n), where dot-product "
    "attention takes O(n²)."
)
_SOURCE = f"{PAPER}, abstract: a linear mechanism with one attention vector per head, in place of quadratic attention"


def attention_verdict(records: Sequence[Record], scales: Sequence[ScaleRecord]) -> Verdict:
    """The verdict on O(n); the rules stand above."""
    votes = {
        (index, study, metric): vote
        for index, scale in enumerate(scales)
        for study in _LAYERS
        for metric in _VOTING
        if (vote := growth_vote(*(_exponent(scale, study, name, metric) for name in (ADDITIVE, SOFTMAX)))) is not None
    }
    evidence = [each for scale in scales for each in _of_scale(scale)] + _of_runs(records)
    return Verdict(
        claim=_CLAIM,
        source=_SOURCE,
        outcome=_outcome(votes),
        sentence=_sentence(votes, scales),
        evidence=with_most_shown(evidence),
        limits=_limits(scales),
    )


def _outcome(votes: Mapping[tuple[int, Study, Metric], Vote]) -> Outcome:
    if not votes:
        return "not tested here"
    timed = {vote for (_, _, metric), vote in votes.items() if metric != "macs"}
    return "cannot be told" if timed <= {"undecided"} else outcome_of(list(votes.values()))


def growth_vote(additive: Quantity, softmax: Quantity) -> Vote | None:
    """The vote of one exponent; None where it is unknown or has no interval, or is of estimated joules."""
    if additive.low is None or additive.high is None:
        return None
    if additive.low > 1 + TOLERANCE:
        return "contradicts"
    if additive.high >= 2:
        return "undecided"
    is_told_apart = softmax.low is None or softmax.low > additive.high
    return "supports" if is_told_apart else "undecided"


def _exponent(scale: ScaleRecord, study: Study, operator: str, metric: Metric) -> Quantity:
    """Of joules that were measured only: an estimate is time multiplied by a constant and would vote twice."""
    points = curve(scale, study, operator)
    if metric == "joules":
        points = [each for each in points if (each.energy_j_per_image.label or "measured").startswith("measured")]
    return exponent(points, metric)


def _sentence(votes: Mapping[tuple[int, Study, Metric], Vote], scales: Sequence[ScaleRecord]) -> str:
    if not votes:
        why = "no `bench scale` measurement is among these records" if not scales else "its sizes are too few for a fit"
        return f"Not tested here, because {why}."
    parts = []
    for (index, study, metric), vote in sorted(votes.items(), key=lambda item: (item[0][0], _VOTING.index(item[0][2]))):
        ours, theirs = (exponent_text(_exponent(scales[index], study, name, metric)) for name in (ADDITIVE, SOFTMAX))
        parts.append(f"{METRICS[metric]} {_PASSES[study]}: {ours}, softmax {theirs}{_VOTE_WORDS[vote]}")
    missing = "" if any(metric != "macs" for _, _, metric in votes) else " No time was measured, so nothing decides."
    disturbed = " ".join(_disturbed(scale) for scale in scales if _disturbed(scale))
    return f"Exponent of n in one attention layer: {'; '.join(parts)}.{missing}{' ' if disturbed else ''}{disturbed}"


_PASSES: dict[Study, str] = {"layer": "forward", "layer-backward": "with the backward pass"}
_VOTE_WORDS: dict[Vote, str] = {
    "supports": "",
    "contradicts": " (above 1)",
    "undecided": " (n and n², or the two operators, are not told apart)",
}


def exponent_text(found: Quantity) -> str:
    """`1.16 (0.92 to 1.39)`; `1.00` where the fit leaves less than half a hundredth."""
    if found.value is None or found.low is None or found.high is None:
        return "unknown" if found.value is None else format_quantity(found)
    is_exact = found.high - found.value < 0.005
    return f"{found.value:.2f}" + ("" if is_exact else f" ({found.low:.2f} to {found.high:.2f})")


def _disturbed(scale: ScaleRecord) -> str:
    windows = [window for point in scale.points for window in counted_windows(point)]
    num_disturbed = sum(bool(window.flags) for window in windows)
    if num_disturbed <= _TOLERABLE_SHARE * len(windows):
        return ""
    return f"{num_disturbed} of the {len(windows)} timed windows were disturbed by other work."


def _of_scale(scale: ScaleRecord) -> list[Evidence]:
    """Exponents and crossings of each study that has both operators, then the published generator."""
    found = []
    for study in (*_LAYERS, "grown-generator"):
        curves = [curve(scale, study, name) for name in (ADDITIVE, SOFTMAX)]
        if curves[0]:
            found.append(Evidence(text=f"{_of(scale, study)}: exponents of n: {_exponents(scale, study)}."))
        if all(curves) and {point.num_tokens for point in curves[0]} & {point.num_tokens for point in curves[1]}:
            found.append(Evidence(text=f"{_of(scale, study)}: {'; '.join(_standings(scale, study))}."))
    return found + _published(scale)


def _of(scale: ScaleRecord, study: Study) -> str:
    processor = shortened(plain(", ".join(scale.machine.gpus) or scale.machine.cpu), 40)
    return f"`bench scale` on {plain(scale.device)} ({processor}), width {scale.width}, {STUDIES[study]}"


def _exponents(scale: ScaleRecord, study: Study) -> str:
    words = []
    for name in (ADDITIVE, SOFTMAX):
        found = {metric: _exponent(scale, study, name, metric) for metric in _SHOWN}
        known = [f"{METRICS[metric]} {exponent_text(each)}" for metric, each in found.items() if each.value is not None]
        span = next((each.note for each in found.values() if each.value is not None), "")
        if known:
            words.append(f"{name} {span}: {', '.join(known)}")
    return "; ".join(words) or "too few sizes for any"


def _standings(scale: ScaleRecord, study: Study) -> Iterable[str]:
    for metric in _SHOWN:
        answer = compared(curve(scale, study, ADDITIVE), curve(scale, study, SOFTMAX), metric)
        answers = answer if isinstance(answer, list) else [answer]
        if metric != "joules" or any(each.energy_j_per_image.value for each in curve(scale, study, ADDITIVE)):
            yield from (f"{METRICS[metric]}: {finding(each)}" for each in answers)


def _published(scale: ScaleRecord) -> list[Evidence]:
    """What the choice of attention changes in the whole generator, by resolution."""
    found = []
    theirs = {point.resolution: point for point in curve(scale, "generator", SOFTMAX)}
    for point in curve(scale, "generator", ADDITIVE):
        other = theirs.get(point.resolution)
        if other is not None:
            text = (
                f"LadaGAN's whole generator as published at {point.resolution} px: {format_count(point.macs)} MACs "
                f"with additive attention, {format_count(other.macs)} with softmax, "
                f"{other.macs / point.macs:.3g} times as many"
            )
            found.append(Evidence(text=f"{text} (counted from shapes)."))
    return found


def _of_runs(records: Sequence[Record]) -> list[Evidence]:
    """Counts of whole generators: with another attention, and at another resolution."""
    counted = newest(usable((each for each in records if each.spec.model == LADAGAN), "macs_generator"))
    found: dict[tuple[str, str | None, int], Record] = {}
    for record in counted:
        attention = None if is_ladagan(record) else record.spec.attention
        found.setdefault((record.spec.size, attention, record.spec.resolution or 0), record)
    evidence = []
    for (size, attention, resolution), record in sorted(found.items(), key=lambda item: (item[0][0], item[0][2])):
        softmax = found.get((size, SOFTMAX, resolution))
        if attention is None and softmax is not None:
            evidence.append(_swap(record, softmax))
    own = sorted((key[0], key[2]) for key in found if key[1] is None)
    for (size, low), (other_size, high) in combinations(own, 2):
        if size == other_size:
            evidence.append(_two_resolutions(found[size, None, low], found[size, None, high]))
    return evidence


def _swap(own: Record, softmax: Record) -> Evidence:
    ours, theirs = own.quantity("macs_generator"), softmax.quantity("macs_generator")
    assert ours is not None
    assert theirs is not None
    text = (
        f"The whole generator of {called(own)} at {own.spec.resolution} px: {format_quantity(ours)} MACs, and "
        f"{format_quantity(theirs)} with softmax attention, {ratio_of(ours, theirs).text()} times as many."
    )
    return Evidence(text=text, run_ids=(own.run_id, softmax.run_id))


def _two_resolutions(small: Record, large: Record) -> Evidence:
    before, after = small.quantity("macs_generator"), large.quantity("macs_generator")
    assert before is not None
    assert after is not None
    num_pixels = [(record.spec.resolution or 1) ** 2 for record in (small, large)]
    text = (
        f"The whole generator of {called(small)}: {format_quantity(before)} MACs at {small.spec.resolution} px, "
        f"{format_quantity(after)} at {large.spec.resolution} px: {ratio_of(before, after).text()} times as many for "
        f"{num_pixels[1] / num_pixels[0]:.3g} times the pixels; layers and widths differ between the two."
    )
    return Evidence(text=text, run_ids=(small.run_id, large.run_id))


def _limits(scales: Sequence[ScaleRecord]) -> tuple[str, ...]:
    if not scales:
        return ()
    found = [_OF_SIZES, _OF_LAYERS]
    for scale in scales:
        if _disturbed(scale):
            found.append(
                "Disturbed windows widen the intervals of the times and may shift them: measure when it is idle."
            )
        if not any(each.energy_j_per_image.value for each in scale.points):
            found.append("No joules: `bench scale` had no energy meter, so growth in energy is not tested.")
        if not any(point.operator == SOFTMAX for point in scale.points):
            found.append(
                "Softmax attention was not measured beside it, so the sizes may be too small to tell n from n²."
            )
    return tuple(dict.fromkeys(found))
