"""Rules on quality figures and counts: enough images, a floor, hashes of what decides them, nothing too good.

Thresholds: 1 % between two counters of MACs is METHODS.md's; the others are ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import JsonValue

from bench.audit._evidence import Evidence, Hit, Level, Rule, cannot_check, ends, fact, listed, number
from bench.audit._training import is_distance
from bench.directions import BETTER
from bench.records import PhaseName

SHA256 = re.compile(r"[0-9a-f]{64}")
COPIES = "are, bit by bit, among the real ones"
"""What a metric's note says of generated images that it found among the real ones."""

MIN_COUNTED_SHARE = 0.99
# Renamed figures: the metric's own name belongs to the full count of images.
_FEWER = ("_biased", "_fewer")
_NOT_METRICS = ("generated", "real", "scored", "score_duration_s", "backend", "meters")
_REQUIRED: dict[PhaseName, tuple[str, ...]] = {
    "cost": ("convention", "cross_check", "backend", "meters"),
    "generate": ("warmup_s", "min_window_s", "num_windows", "stop_rule", "series", "energy", "backend", "meters"),
    "train_step": ("warmup_s", "min_window_s", "num_windows", "stop_rule", "series", "energy", "backend", "meters"),
    "train": ("snapshots", "resumed_after_images", "loading", "energy", "backend", "meters"),
    "quality": ("generated", "real", "scored", "backend", "meters"),
}


def _protocol(evidence: Evidence) -> dict[str, JsonValue]:
    """The quality phase's, or that of the evaluations inside the training; empty where quality was not measured."""
    quality, train = evidence.measured("quality"), evidence.measured("train")
    if quality is not None:
        return quality.protocol
    of_training = None if train is None else train.protocol.get("quality")
    return of_training if isinstance(of_training, dict) else {}


def _metrics(evidence: Evidence) -> dict[str, dict[str, JsonValue]]:
    """Metric → its protocol."""
    found = {key: each for key, each in _protocol(evidence).items() if key not in _NOT_METRICS}
    return {str(each.get("metric", key)): each for key, each in found.items() if isinstance(each, dict)}


def _protocol_complete(evidence: Evidence) -> Iterator[Hit]:
    missing: list[str] = []
    for phase, names in _REQUIRED.items():
        result = evidence.measured(phase)
        missing += [] if result is None else [f"{phase}.{name}" for name in names if name not in result.protocol]
    if missing and evidence.record.schema_version < 3:
        yield cannot_check(f"records of schema {evidence.record.schema_version} do not say {listed(missing)}")
    elif missing:
        yield Hit(level="warning", detail=f"The protocol does not say {listed(missing)}.")
    if evidence.measured("quality") is not None and not evidence.record.dataset.protocol:
        yield Hit(level="error", detail="The record does not say which images of the data set were used.")
    if evidence.measured("train") is not None and not evidence.record.recipe:
        yield Hit(level="error", detail="The record does not hold the recipe of its training.")


def _hashes(evidence: Evidence) -> Iterator[Hit]:
    if evidence.measured("quality") is None:
        return
    metrics = _metrics(evidence)
    if not metrics:
        yield Hit(level="error", detail="The quality phase has figures, and the protocol of none of its metrics.")
    for metric, protocol in metrics.items():
        named = {key: each for key, each in protocol.items() if key.endswith("sha256")}
        broken = [key for key, each in named.items() if not (isinstance(each, str) and SHA256.fullmatch(each))]
        has_weights = any(key.startswith(("weights", "feature")) for key in protocol)
        has_reference = any(key.startswith(("reference", "num_re", "real_")) for key in protocol)
        missing = [
            what
            for what, is_due, keys in (
                ("weights", has_weights, ("weights_sha256",)),
                ("reference", has_reference, ("reference_sha256", "real_sha256")),
            )
            if is_due and not any(key in named for key in keys)
        ]
        if broken:
            yield Hit(level="error", detail=f"{listed(broken)} of {metric} is no SHA-256.")
        if missing or not named:
            what = " and ".join(missing) or "what decides its value"
            yield Hit(level="error", detail=f"The protocol of {metric} has no hash of its {what}.")


def _num_images(evidence: Evidence) -> Iterator[Hit]:
    protocol = _protocol(evidence)
    num_real = number(protocol, "real", "count")
    for metric, own in _metrics(evidence).items():
        wanted = number(own, "num_images")
        if wanted is None:
            yield cannot_check(f"the protocol of {metric} does not say how many images it takes")
            continue
        figures = own.get("figures")
        names = [str(name) for name in figures] if isinstance(figures, list) else [metric]
        counts = [
            each.n for name in names if (each := evidence.record.quantity(name)) is not None and each.n is not None
        ]
        if counts and max(counts) < wanted:
            detail = f"{metric} was measured on {max(counts)} generated images, its protocol takes {wanted:.0f}."
            yield Hit(level="warning", detail=detail)
        if num_real is not None and num_real < wanted:
            detail = f"{metric} has a floor of {num_real:.0f} real images, its protocol takes {wanted:.0f}."
            yield Hit(level="warning", detail=detail)
    fewer = [name for name in BETTER if name.endswith(_FEWER) and evidence.value(name) is not None]
    if fewer:
        yield Hit(
            level="warning", detail=f"Too few images gave {listed(fewer)} in the place of the metric's own figure."
        )


def _real_floor(evidence: Evidence) -> Iterator[Hit]:
    if evidence.measured("quality") is None:
        return
    known = [name for name in BETTER if evidence.value(name) is not None]
    missing = [name for name in known if evidence.value(f"{name}_real") is None]
    if missing:
        yield Hit(level="warning", detail=f"Nobody scored real images by {listed(missing)}, so its floor is unknown.")


def _too_good(evidence: Evidence) -> Iterator[Hit]:
    quality = evidence.measured("quality")
    if quality is None:
        return
    for name in filter(is_distance, BETTER):
        found, real = quality.quantities.get(name), quality.quantities.get(f"{name}_real")
        if found is None or real is None or found.value is None or real.value is None:
            continue
        if ends(found)[1] < ends(real)[0]:
            detail = f"{name} is {found.value:.3g}, below the {real.value:.3g} of real images: that cannot be."
            yield Hit(level="error", detail=detail)
    copied = [
        name for name, figure in quality.quantities.items() if COPIES in figure.note and not name.endswith("_real")
    ]
    if copied:
        yield Hit(level="error", detail=f"Some generated images are copies of real ones, as {listed(copied)} saw.")


def _intervals(evidence: Evidence) -> Iterator[Hit]:
    known = {name: evidence.record.quantity(name) for name in BETTER if evidence.value(name) is not None}
    bare = [name for name, figure in known.items() if figure is not None and figure.low is None]
    if bare:
        yield Hit(level="note", detail=f"There is no interval of {listed(bare)}, so it ranks as a point.")


def _sampling_seeds(evidence: Evidence) -> Iterator[Hit]:
    if evidence.measured("quality") is None or evidence.record.spec.preset == "smoke":
        return
    spreads = [name for name in BETTER if evidence.value(f"{name}_seed_spread") is not None]
    known = [name for name in BETTER if evidence.value(name) is not None]
    if known and not spreads:
        detail = f"{listed(known)} come from one set of latents, so the luck of that set is unknown."
        yield Hit(level="warning", detail=detail)


def _macs(evidence: Evidence) -> Iterator[Hit]:
    cost = evidence.measured("cost")
    if cost is None:
        return
    if not isinstance(cost.protocol.get("cross_check"), dict):
        yield cannot_check("the MACs were counted by one tool only")
        return
    for network in ("generator", "discriminator"):
        flag, failed = (fact(cost.protocol, "cross_check", network, key) for key in ("flag", "failed"))
        if isinstance(failed, str):
            yield Hit(level="note", detail=f"The MACs of the {network} have no second count: {failed.rstrip('.')}.")
        elif isinstance(flag, str) and flag:
            level: Level = (
                "note" if "no formula" in flag else "warning"
            )  # the other tool's known gap is no doubt about ours
            yield Hit(level=level, detail=f"Two counts of the {network}'s MACs differ: {flag.rstrip('.')}.")


def _ops(evidence: Evidence) -> Iterator[Hit]:
    cost = evidence.measured("cost")
    if cost is None:
        return
    share = evidence.value("counted_op_share")
    if share is None:
        yield cannot_check("what share of a step's operators was counted is not known")
    elif share < MIN_COUNTED_SHARE:
        uncounted = cost.protocol.get("uncounted_ops_step")
        names = f": {listed(uncounted)} are missing" if isinstance(uncounted, dict) and uncounted else ""
        yield Hit(level="warning", detail=f"Only {share:.1%} of a step's operators could be counted{names}.")


_SCORE_AGAIN = "Score again with this version of bench (`bench evaluate`, or the run with --fresh)."
RULES = {
    "protocol_complete": Rule(
        checks="Each phase says how it was measured, and the record holds recipe and data set's protocol.",
        remedy="Measure again with this version of bench (--fresh).",
        find=_protocol_complete,
    ),
    "protocol_hashes": Rule(
        checks="Each metric's protocol holds SHA-256 hashes of its weights and its reference.",
        remedy=_SCORE_AGAIN,
        find=_hashes,
    ),
    "num_images": Rule(
        checks="Each metric saw as many images as its protocol takes, and its floor as many real ones.",
        remedy="Take a larger data set for this metric, or leave the figure out of comparisons.",
        find=_num_images,
    ),
    "real_floor": Rule(
        checks="Each figure of quality stands beside what real images score.", remedy=_SCORE_AGAIN, find=_real_floor
    ),
    "too_good": Rule(
        checks="No distance is below that of real images, and no generated image is a copy.",
        remedy="Look at the samples and at the reference: the images are memorised or the reference is another.",
        find=_too_good,
    ),
    "quality_interval": Rule(
        checks="Figures of quality have an interval.",
        remedy="Read the figure's own note (`bench show RUN`), which says why; more images may give one.",
        find=_intervals,
    ),
    "sampling_seeds": Rule(
        checks="Quality was measured on more than one set of latents.",
        remedy="Keep ema.safetensors and score again with --preset standard or publish.",
        find=_sampling_seeds,
    ),
    "macs_cross_check": Rule(
        checks="A second tool's count of MACs agrees to 1 %.",
        remedy="Compare both counts per operator (`python -m bench.phases._cost_checks`) before using either.",
        find=_macs,
    ),
    "ops_counted": Rule(
        checks="At least 99 % of a step's operators were counted.",
        remedy="Give the operators a formula in bench/phases/_cost_ops.py and count again.",
        find=_ops,
    ),
}
