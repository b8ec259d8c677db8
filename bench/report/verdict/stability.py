"""The claim that linear attention in both networks trains stably: what the trainings among these records went through.

Rules. Every training of LadaGAN with its own attention and discriminator that is no smoke run has a health:

* `failed`: it diverged, or its last evaluation is worse than its first (intervals apart).
* `doubtful`: updates were not finite and were skipped, the last evaluation is worse than the best one, or is not better
  than the first (intervals apart).
* `healthy`: none of that. `unknown`: it was not evaluated twice, or skipped updates or final losses are not known.

A training that ended early for a reason of its machine's is left out.

From that follows the outcome:

* healthy ones beside failed or doubtful ones: `mixed`.
* failed ones and none healthy: `contradicted here` from MIN_SEEDS seeds of one question on, else `cannot be told`.
* all healthy: `supported here` where one question has MIN_SEEDS seeds that all went through the whole length of their
  recipe; else `cannot be told`. One training, or a short one, shows that it can go well and not that it does.
* only doubtful or unknown: `cannot be told`. No training: `not tested here`.

The controlled comparison is the same question with softmax attention. It has no vote, as the claim is about LadaGAN;
but where it is as healthy these records do not say that linear attention is the reason, and the limits say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.directions import BETTER, HEADLINE_METRIC
from bench.notation import format_quantity, plain, shortened
from bench.records import CurvePoint, Quantity, Record
from bench.report.curves import ordered_points
from bench.report.ranking import why_not_ranked
from bench.report.ratios import interval_of
from bench.report.verdict.evidence import (
    LADAGAN,
    PAPER,
    TINY_LIMIT,
    Evidence,
    Outcome,
    Verdict,
    called,
    is_tiny,
    is_whole_ladagan,
    listed,
    newest,
    share_of_recipe,
    with_most_shown,
)

MIN_SEEDS = 3
METRICS_BY_RANK = ("fid_50k", HEADLINE_METRIC)  # the paper's metric, and the one that every run of this suite has

Health = Literal["healthy", "doubtful", "failed", "unknown"]

_REASON_CHARS = 160
_CLAIM = "Linear additive attention in both networks overcomes the training instability of transformer GANs."
_SOURCE = f"{PAPER}, abstract: Ladaformer blocks in generator and discriminator overcome the usual instabilities"


@dataclass(frozen=True, kw_only=True)
class Course:
    """How one training went; `share` is its part of the recipe's length, None where that is unknown."""

    record: Record
    health: Health
    why: str
    share: float | None


def stability_verdict(records: Sequence[Record]) -> Verdict:
    """The verdict on stable training; the rules stand above."""
    trainings = [record for record in records if record.spec.model == LADAGAN and _was_trained(record)]
    own = [record for record in trainings if is_whole_ladagan(record)]
    courses = [course_of(record) for record in newest(own) if not _why_left_out(record)]
    twins = _twins(courses, trainings)
    outcome = _outcome(courses)
    return Verdict(
        claim=_CLAIM,
        source=_SOURCE,
        outcome=outcome,
        sentence=_sentence(courses, outcome, has_any=bool(own)),
        evidence=with_most_shown([*map(_evidence, courses), *(_twin_evidence(*pair) for pair in twins)]),
        limits=_limits(courses, [twin for _, twin in twins], own),
    )


def course_of(record: Record) -> Course:
    """Health of a training, with the reason."""
    health, why = _health(record)
    return Course(record=record, health=health, why=why, share=share_of_recipe(record))


def separated(a: Quantity, b: Quantity) -> bool:
    """Whether both have an interval and the two are apart."""
    ends_a, ends_b = interval_of(a), interval_of(b)
    return ends_a is not None and ends_b is not None and (ends_a[0] > ends_b[1] or ends_b[0] > ends_a[1])


def is_better(a: Quantity, b: Quantity, metric: str) -> bool:
    """Whether a's value is better than b's, whatever their intervals."""
    assert a.value is not None
    assert b.value is not None
    return a.value < b.value if BETTER[metric] == "lower" else a.value > b.value


def _was_trained(record: Record) -> bool:
    train = record.phases.get("train")
    return train is not None and train.status != "skipped"


def _diverged(record: Record) -> bool:
    train = record.phases.get("train")
    return train is not None and train.status == "failed" and "diverged" in train.reason


def _why_left_out(record: Record) -> str:
    if record.spec.preset == "smoke":
        return "smoke"
    return "" if _diverged(record) else why_not_ranked(record, "num_images_shown")


def _health(record: Record) -> tuple[Health, str]:
    train = record.phases["train"]
    if _diverged(record):
        return "failed", shortened(plain(train.reason), _REASON_CHARS)
    metric, found = _scored(record)
    if len(found) < 2:
        return "unknown", "its quality was not evaluated twice"
    first, last = found[0], found[-1]
    best = min(found, key=lambda each: (each.value or 0.0) * (1 if BETTER[metric] == "lower" else -1))
    course = f"{metric} {format_quantity(first)} at the start, {format_quantity(last)} at the end"
    if separated(first, last) and is_better(first, last, metric):
        return "failed", f"{course}: worse"
    quantities = record.phases["train"].quantities
    skipped = quantities.get("num_nonfinite_updates")
    doubts = [f"updates skipped: {format_quantity(skipped)}"] if skipped and skipped.value else []
    if separated(best, last) and is_better(best, last, metric):
        doubts.append(f"it was better on the way ({format_quantity(best)})")
    if not separated(first, last):
        doubts.append("the two are not apart")
    if doubts:
        return "doubtful", f"{course}; {'; '.join(doubts)}"
    told = [skipped, *(quantities.get(f"final_loss_{network}") for network in ("generator", "discriminator"))]
    if any(each is None or each.value is None for each in told):
        return "unknown", f"{course}; the record does not tell whether updates were skipped or losses stayed finite"
    return "healthy", f"{course}; no update was skipped and the final losses are finite"


def _scored(record: Record) -> tuple[str, list[Quantity]]:
    """The first metric that was found twice or more, by images shown."""
    points = ordered_points(record)
    for metric in METRICS_BY_RANK:
        found = [each for point in points if (each := _known(point, metric)) is not None]
        if len(found) >= 2:
            return metric, found
    return HEADLINE_METRIC, []


def _known(point: CurvePoint, metric: str) -> Quantity | None:
    quantity = point.quantities.get(metric)
    return None if quantity is None or quantity.value is None else quantity


def _outcome(courses: Sequence[Course]) -> Outcome:
    counts = Counter(course.health for course in courses)
    if not courses:
        return "not tested here"
    if counts["healthy"] and counts["failed"] + counts["doubtful"]:
        return "mixed"
    if counts["failed"]:
        failed = [course for course in courses if course.health == "failed"]
        return "contradicted here" if _most_seeds(failed) >= MIN_SEEDS else "cannot be told"
    whole = [course for course in courses if course.health == "healthy" and (course.share or 0.0) >= 1]
    return "supported here" if _most_seeds(whole) >= MIN_SEEDS else "cannot be told"


def _most_seeds(courses: Sequence[Course]) -> int:
    """The most seeds that any one question has."""
    seeds: dict[str, set[int]] = {}
    for course in courses:
        seeds.setdefault(_question(course.record), set()).add(course.record.spec.seed)
    return max((len(each) for each in seeds.values()), default=0)


def _question(record: Record, **changes: object) -> str:
    """What was asked, whatever the seed."""
    spec = record.spec.model_copy(update={"seed": 0, **changes})
    return f"{spec.model_dump_json()} {record.model.source_hash}"


def _twins(courses: Sequence[Course], trainings: Sequence[Record]) -> list[tuple[Course, Course]]:
    """Each training beside the newest one that asks the same of softmax attention, seed included."""
    softmax: dict[tuple[str, int], Record] = {}
    for record in newest(trainings):
        if record.spec.attention == "softmax" and not _why_left_out(record):
            softmax.setdefault((_question(record, attention=None, discriminator=None), record.spec.seed), record)
    found = []
    for course in courses:
        key = (_question(course.record, attention=None, discriminator=None), course.record.spec.seed)
        if key in softmax:
            found.append((course, course_of(softmax[key])))
    return found


def _evidence(course: Course) -> Evidence:
    spec = course.record.spec
    length = "of unknown length" if course.share is None else f"{100 * course.share:.3g} % of its recipe's images"
    told = f"{called(course.record)} on {shortened(plain(spec.dataset), 40)}, {spec.resolution} px, seed {spec.seed}"
    return Evidence(text=f"{told}, {length}: {course.health}: {course.why}.", run_ids=(course.record.run_id,))


def _twin_evidence(own: Course, twin: Course) -> Evidence:
    text = f"The same training with softmax attention (seed {twin.record.spec.seed}): {twin.health}: {twin.why}."
    return Evidence(text=text, run_ids=(own.record.run_id, twin.record.run_id))


def _sentence(courses: Sequence[Course], outcome: Outcome, *, has_any: bool) -> str:
    if not courses:
        why = (
            "every training of LadaGAN here is a smoke run or may not be ranked"
            if has_any
            else "no run here trained LadaGAN"
        )
        return f"Not tested here, because {why}."
    counts = Counter(course.health for course in courses)
    parts = [f"{count} {health}" for health, count in sorted(counts.items())]
    said = f"{len(courses)} training{'s' if len(courses) > 1 else ''} of LadaGAN: {', '.join(parts)}."
    if outcome != "cannot be told":
        return said
    whole = sum((course.share or 0.0) >= 1 for course in courses)
    need = f"a verdict needs {MIN_SEEDS} seeds of one question, healthy ones over the whole length of their recipe"
    return f"{said} Over the whole length of their recipe went {whole}; {need}."


def _limits(courses: Sequence[Course], twins: Sequence[Course], own: Sequence[Record]) -> tuple[str, ...]:
    found = []
    if any(is_tiny(course.record) for course in courses):
        found.append(TINY_LIMIT)
    short = [course for course in courses if course.share is not None and course.share < 1]
    if short:
        longest = max(course.share or 0.0 for course in short)
        found.append(
            f"{len(short)} ended before their recipe's length; the longest of these saw {100 * longest:.3g} % of it."
        )
    if courses and not twins:
        found.append("No training of the same question with softmax attention is here to compare with.")
    if twins and all(twin.health == "healthy" for twin in twins):
        found.append(
            "The same networks with softmax attention trained as healthily, so these records do not say that linear "
            "attention is the reason."
        )
    reasons = Counter(why for record in own if (why := _why_left_out(record)))
    if reasons:
        found.append(f"Left out: {listed([f'{count} × {why}' for why, count in sorted(reasons.items())])}.")
    return tuple(found)
