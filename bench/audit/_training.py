"""Rules on the health of a training: did it get its budget, stay finite, learn, and end at its best?

Only figures whose better direction is known are judged. Distances (Fréchet, KID) from the real images say whether a
generator learnt at all; the other figures may move the wrong way for a while. Thresholds are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from bench.audit._evidence import Evidence, Hit, Level, Rule, cannot_check, ends, listed, number
from bench.directions import BETTER
from bench.errors import UsageError
from bench.records import CurvePoint, Quantity
from bench.units import Budget, parse_budget, parse_goal

DISTANCES = ("rfd_", "fid_", "fd_", "kid_")
LARGEST_LOSS = 1e3
MAX_SKIPPED_SHARE = 0.01
MAX_DATA_WAIT_SHARE = 0.1
MAX_OVER_BEST = 1.5
BUDGET_TOLERANCE = 0.001  # a float's rounding; a step more than the budget is no fault


def is_distance(figure: str) -> bool:
    """Whether the figure is a distance from the real images."""
    return figure.startswith(DISTANCES) and BETTER.get(figure) == "lower"


def is_worse(figure: str, found: Quantity, than: Quantity) -> bool:
    """Whether a figure with a direction is worse than another beyond both intervals."""
    (low, high), (other_low, other_high) = ends(found), ends(than)
    return low > other_high if BETTER[figure] == "lower" else high < other_low


def _losses(evidence: Evidence) -> Iterator[Hit]:
    result = evidence.measured("train")
    if result is None:
        return
    for network in ("discriminator", "generator"):
        loss = evidence.value(f"final_loss_{network}")
        if loss is None:
            yield Hit(level="error", detail=f"The last loss of the {network} is not there: no value of it was finite.")
        elif not math.isfinite(loss) or abs(loss) > LARGEST_LOSS:
            yield Hit(level="warning", detail=f"The last loss of the {network} is {loss:.3g}: the training runs away.")


def _nonfinite(evidence: Evidence) -> Iterator[Hit]:
    if evidence.measured("train") is None:
        return
    skipped, shown = evidence.value("num_nonfinite_updates"), evidence.value("num_images_shown")
    if skipped is None:
        yield cannot_check("how many updates were not finite is not stored")
    elif skipped and shown:
        share = skipped * (evidence.record.spec.batch_size or 1) / shown / 2  # two networks are updated in a step
        detail = f"{skipped:.0f} updates, {share:.2%} of all, had a loss or gradient that is not finite."
        yield Hit(level="error" if share > MAX_SKIPPED_SHARE else "warning", detail=detail)


def _budget(evidence: Evidence) -> Iterator[Hit]:
    words = evidence.record.spec.train_for
    if evidence.measured("train") is None:
        return
    if words is None:
        yield cannot_check("the question does not say how long to train")
        return
    try:
        asked, goal = parse_budget(words), evidence.record.spec.until
        is_met = goal is not None and _meets(evidence, goal)
    except UsageError as error:
        yield Hit(level="error", detail=f"The budget or goal of the training cannot be read: {str(error).rstrip('.')}.")
        return
    share = _share_of(asked, evidence)
    if share is None:
        yield cannot_check(f"what the training spent of {words} is not stored")
    elif share < 1 - BUDGET_TOLERANCE and not is_met:
        how = "" if goal is None else f" and {goal} was not met"
        yield Hit(level="error", detail=f"The training ended after {share:.1%} of its budget of {words}{how}.")


def _share_of(asked: Budget, evidence: Evidence) -> float | None:
    """What was spent over what was asked for."""
    pairs = (
        (asked.num_images, "num_images_shown"),
        (asked.duration_s, "train_duration_s"),
        (asked.energy_j, "train_energy_j"),
    )
    wanted, figure = next((budget, name) for budget, name in pairs if budget is not None)
    spent = evidence.value(figure)
    return None if spent is None or wanted is None else spent / wanted


def _meets(evidence: Evidence, goal: str) -> bool:
    """Whether the last point of the curve meets it. Raises UsageError where it cannot be read."""
    parsed = parse_goal(goal)
    last = evidence.record.curve[-1].quantities.get(parsed.figure) if evidence.record.curve else None
    return last is not None and last.value is not None and parsed.is_met(last.value)


def _recipe_budget(evidence: Evidence) -> Iterator[Hit]:
    shown, due = evidence.value("num_images_shown"), number(evidence.record.recipe, "num_images")
    if evidence.measured("train") is None or shown is None:
        return
    if due is None:
        yield cannot_check("the recipe does not say how many images it takes")
    elif shown < due * (1 - BUDGET_TOLERANCE):
        detail = f"The training was shown {shown:.0f} images, {shown / due:.1%} of the {due:.0f} its recipe takes."
        yield Hit(level="warning", detail=detail)


def _worse_than_untrained(evidence: Evidence) -> Iterator[Hit]:
    if evidence.measured("train") is None:
        return
    untrained = _first(evidence)
    worse: dict[str, bool] = {}
    num_judged = 0
    for figure in BETTER:
        found, before = evidence.record.quantity(figure), untrained.get(figure)
        if found is None or found.value is None or before is None or before.value is None:
            continue
        num_judged += 1
        if is_worse(figure, found, before):
            worse[figure] = is_distance(figure)
    if worse:
        level: Level = "error" if any(worse.values()) else "warning"
        detail = f"The trained generator is worse than the untrained one in {listed(worse)}."
        yield Hit(level=level, detail=detail)
    if not num_judged and evidence.measured("quality") is not None:
        yield cannot_check("the untrained generator was not scored")


def _first(evidence: Evidence) -> dict[str, Quantity]:
    """Figures before any training: from the quality phase, or the curve's point at 0 images."""
    quality = evidence.measured("quality")
    found = {} if quality is None else quality.quantities
    named = {figure: found[f"{figure}_untrained"] for figure in BETTER if f"{figure}_untrained" in found}
    curve = evidence.record.curve
    return named or (curve[0].quantities if curve and curve[0].num_images_shown == 0 else {})


def _past_best(evidence: Evidence) -> Iterator[Hit]:
    curve = evidence.record.curve
    for figure in sorted({name for point in curve for name in point.quantities if is_distance(name)}):
        known = [(point, point.quantities[figure]) for point in curve if _is_known(point, figure)]
        if len(known) < 3:
            continue
        (_, last), (point, best) = known[-1], min(known, key=lambda pair: pair[1].value or 0.0)
        if (last.value or 0.0) > MAX_OVER_BEST * (best.value or 0.0) and is_worse(figure, last, best):
            when = f"after {point.num_images_shown} images"
            detail = f"{figure} was {best.value:.3g} {when} and is {last.value:.3g} at the end."
            yield Hit(level="warning", detail=detail)


def _is_known(point: CurvePoint, figure: str) -> bool:
    return figure in point.quantities and point.quantities[figure].value is not None


def _curve(evidence: Evidence) -> Iterator[Hit]:
    curve, shown = evidence.record.curve, evidence.value("num_images_shown")
    quality = evidence.measured("quality")
    if evidence.measured("train") is None or (quality is None and not curve):
        return
    images = [point.num_images_shown for point in curve]
    if len(curve) < 2:
        points = "has no points" if not curve else "has one point"
        yield Hit(level="warning", detail=f"The curve of quality over the training {points}.")
    elif images != sorted(set(images)) or any(
        later.train_duration_s < earlier.train_duration_s for earlier, later in pairwise(curve)
    ):
        yield Hit(level="error", detail="The points of the curve of quality do not follow one another in time.")
    elif shown is not None and images[-1] != shown:
        detail = f"The curve of quality ends at {images[-1]} images, the training at {shown:.0f}."
        yield Hit(level="warning", detail=detail)


def _data_wait(evidence: Evidence) -> Iterator[Hit]:
    if evidence.measured("train") is None:
        return
    share = evidence.value("data_wait_share")
    if share is None:
        yield cannot_check("how long the training waited for data is not stored")
    elif share > MAX_DATA_WAIT_SHARE:
        yield Hit(level="warning", detail=f"The training spent {share:.0%} of its time waiting for data.")


def _resumed(evidence: Evidence) -> Iterator[Hit]:
    times = evidence.value("num_resumes")
    if times:
        lost = "time and joules of work that a kill threw away are not in its sums"
        yield Hit(level="note", detail=f"The training was resumed {times:.0f} times; {lost}.")


_AGAIN = "Train again with a lower learning rate or another seed; the lines before it happened are in train.jsonl."
RULES = {
    "losses": Rule(
        checks="The last losses of both networks are finite and below a thousand.", remedy=_AGAIN, find=_losses
    ),
    "nonfinite_updates": Rule(
        checks="No update was skipped because it was not finite; over 1 % of them is an error.",
        remedy=_AGAIN,
        find=_nonfinite,
    ),
    "budget_reached": Rule(
        checks="The training spent its budget, or met its goal.",
        remedy="Give the same command again, which goes on where it stopped, or measure with --fresh.",
        find=_budget,
    ),
    "recipe_budget": Rule(
        checks="The training was as long as its recipe's.",
        remedy="Leave out --train-for with --preset publish before comparing with published figures.",
        find=_recipe_budget,
    ),
    "worse_than_untrained": Rule(
        checks="No figure of quality is worse than the untrained generator's: no collapse.",
        remedy=_AGAIN,
        find=_worse_than_untrained,
    ),
    "past_its_best": Rule(
        checks="No distance at the end is over 1.5 times the best of the curve.",
        remedy="Stop earlier (--until, or a shorter --train-for), or report the best checkpoint and say so.",
        find=_past_best,
    ),
    "curve": Rule(
        checks="The curve of quality has points in order, up to the end of the training.",
        remedy="Run the quality phase again: remove it from the record, or measure with --fresh.",
        find=_curve,
    ),
    "data_wait": Rule(
        checks="The training waited for data at most a tenth of its time.",
        remedy="Give more readers (--workers) or keep the images in memory (--images-in memory), then train again.",
        find=_data_wait,
    ),
    "resumed": Rule(
        checks="The training ran in one sitting.",
        remedy="Train in one sitting where the whole energy matters, lost work included.",
        find=_resumed,
    ),
}
