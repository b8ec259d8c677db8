"""The claim that LadaGAN is better than convolutional and transformer GANs: quality after the same budget.

Rules. A rival is a trained one-step model other than LadaGAN, with its own attention and discriminator. It meets
LadaGAN where data, resolution and the metric's whole protocol agree (`compare.comparable_groups`), both or neither are
tiny, and the budget is the same: `--train-for` and `--until` alike, and for a budget of time or joules the machine and
the way of running as well (batch sizes are the recipes'). The metric is `fid_50k`, the paper's; else `rfd_v1`, the
suite's headline.

One training stands with the metric's own interval, which knows nothing of other seeds; three or more seeds of a
question with Student's interval over their last evaluations (`curves`); two have none. Each rival votes: LadaGAN's
figure is better with intervals apart, worse with intervals apart, or `undecided`.

`supported here` needs a convolutional rival and one with attention, and LadaGAN better than every rival; where one kind
is missing that is `cannot be told`. A model is convolutional whose file says `none` of its attention; any other counts
as one with attention.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from bench.compare import comparable_groups, setting_of
from bench.directions import HEADLINE_METRIC
from bench.errors import UsageError
from bench.notation import format_quantity, plain, shortened
from bench.records import Quantity, Record
from bench.report.curves import IMAGES, Configuration, aligned, averages_of, ordered_points
from bench.report.ratios import ratio_of
from bench.report.rows import data_name, model_name
from bench.report.verdict.evidence import (
    PAPER,
    TINY_LIMIT,
    Evidence,
    Outcome,
    Verdict,
    Vote,
    called,
    is_other_model,
    is_tiny,
    is_whole_ladagan,
    left_out,
    newest,
    num_sampling_steps,
    outcome_of,
    share_of_recipe,
    usable,
    with_most_shown,
)
from bench.report.verdict.stability import METRICS_BY_RANK, is_better, separated
from bench.units import parse_budget

_CLAIM = "LadaGAN's images are better than those of convolutional and of transformer GANs."
_SOURCE = f"{PAPER}, abstract: it consistently outperforms both kinds on benchmark data sets at several resolutions"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The seeds of one question, newest first, and what they reached."""

    records: tuple[Record, ...]
    quality: Quantity


@dataclass(frozen=True, kw_only=True)
class Match:
    """LadaGAN beside a rival."""

    metric: str
    own: Trained
    rival: Trained
    vote: Vote


def quality_verdict(records: Sequence[Record]) -> Verdict:
    """The verdict on quality; the rules stand above."""
    own = [record for record in records if is_whole_ladagan(record) and _is_asked(record)]
    rivals = [record for record in records if is_other_model(record) and _is_asked(record)]
    matches = _matches(own, rivals)
    outcome = _outcome(matches)
    return Verdict(
        claim=_CLAIM,
        source=_SOURCE,
        outcome=outcome,
        sentence=_sentence(matches) if matches else f"Not tested here, because {_why_not(own, rivals)}.",
        evidence=with_most_shown([_evidence(match) for match in matches]),
        limits=_limits(matches, [*own, *rivals]),
    )


def is_convolutional(record: Record) -> bool:
    """Whether the model's file says that it has no attention."""
    return record.model.attention.startswith("none")


def _is_asked(record: Record) -> bool:
    """Whether the run was to train a one-step model here."""
    train = record.phases.get("train")
    return num_sampling_steps(record) == 1 and record.spec.weights is None and train is not None


def _matches(own: Sequence[Record], rivals: Sequence[Record]) -> list[Match]:
    found: list[Match] = []
    met: set[tuple[str, str, str]] = set()
    for metric in METRICS_BY_RANK:
        for group in comparable_groups(usable([*own, *rivals], metric), metric):
            for place, members in _by_budget(group).items():
                ours = [record for record in members if is_whole_ladagan(record)]
                theirs: dict[str, list[Record]] = {}
                for record in members:
                    if not is_whole_ladagan(record):
                        theirs.setdefault(model_name(record), []).append(record)
                new = [name for name in sorted(theirs) if ours and (place, data_name(members[0]), name) not in met]
                met |= {(place, data_name(members[0]), name) for name in new}
                found += [_match(metric, ours, theirs[name]) for name in new]
    return found


def _by_budget(group: Sequence[Record]) -> dict[str, list[Record]]:
    places: dict[str, list[Record]] = {}
    for record in group:
        places.setdefault(_budget(record), []).append(record)
    return places


def _budget(record: Record) -> str:
    """What must agree besides the protocol; for a budget of time or joules, machine and way of running."""
    spec = record.spec
    try:
        is_of_images = spec.train_for is not None and parse_budget(spec.train_for).num_images is not None
    except UsageError:  # a record may hold what this version no longer reads
        is_of_images = False
    setting = {} if is_of_images else setting_of(record, "train_images_per_s")
    setting.pop("batch_size", None)
    return json.dumps([is_tiny(record), spec.train_for, spec.until, setting], sort_keys=True)


def _match(metric: str, ours: Sequence[Record], theirs: Sequence[Record]) -> Match:
    own, rival = _trained(ours, metric), _trained(theirs, metric)
    vote: Vote = "undecided"
    if separated(own.quality, rival.quality):
        vote = "supports" if is_better(own.quality, rival.quality, metric) else "contradicts"
    return Match(metric=metric, own=own, rival=rival, vote=vote)


def _trained(records: Sequence[Record], metric: str) -> Trained:
    """All seeds of the question that the newest run asks."""
    ordered = newest(records)
    seeds: dict[int, Record] = {}
    for record in ordered:
        if _question(record) == _question(ordered[0]):
            seeds.setdefault(record.spec.seed, record)
    same = tuple(seeds.values())
    return Trained(records=same, quality=_quality(same, metric))


def _question(record: Record) -> str:
    return record.spec.model_copy(update={"seed": 0}).model_dump_json() + record.model.source_hash


def _quality(records: Sequence[Record], metric: str) -> Quantity:
    """One run's own figure, or the mean of the seeds' last evaluations; without an interval where there is none."""
    first = records[0].quantity(metric)
    assert first is not None
    if len(records) == 1:
        return first
    seeds = Configuration(label="", records=tuple(records), energy_label=None)
    shared, ends = aligned(seeds), tuple(ordered_points(record)[-1:] for record in records)
    averages = averages_of(seeds, metric, IMAGES)
    if not shared or not averages or [[point] for point in shared[-1]] != list(ends):
        return first.model_copy(update={"low": None, "high": None, "note": "its seeds share no last evaluation"})
    last = averages[-1]
    return Quantity(
        value=last.value, unit="1", low=last.low, high=last.high, n=len(records), kind="computed", source=metric
    )


def _outcome(matches: Sequence[Match]) -> Outcome:
    if not matches:
        return "not tested here"
    outcome = outcome_of([match.vote for match in matches])
    kinds = {is_convolutional(match.rival.records[0]) for match in matches}
    return "cannot be told" if outcome == "supported here" and len(kinds) < 2 else outcome


_VOTE_WORDS: dict[Vote, str] = {
    "supports": "LadaGAN's is better",
    "contradicts": "LadaGAN's is worse",
    "undecided": "not told apart",
}


def _sentence(matches: Sequence[Match]) -> str:
    parts = []
    for vote, words in _VOTE_WORDS.items():
        names = [f"{called(match.rival.records[0])} ({match.metric})" for match in matches if match.vote == vote]
        if names:
            parts.append(
                f"{words}: {', '.join(names)}" if vote == "undecided" else f"{words} than that of {', '.join(names)}"
            )
    kinds = {is_convolutional(match.rival.records[0]) for match in matches}
    absent = "GAN with attention" if True in kinds else "convolutional GAN"
    missing = "" if len(kinds) == 2 else f" No {absent} could be compared."
    return f"After the same budget, {'; '.join(parts)}.{missing}"


def _why_not(own: Sequence[Record], rivals: Sequence[Record]) -> str:
    ours, theirs = ([m for m in METRICS_BY_RANK if usable(each, m)] for each in (own, rivals))
    if not ours:
        return "no training of LadaGAN here has a quality that may be ranked"
    if not theirs:
        return "no training of another GAN here has a quality that may be ranked"
    return "no other GAN was trained on the same data, with the same budget, and scored by the same protocol"


def _evidence(match: Match) -> Evidence:
    own, rival = match.own, match.rival
    record = rival.records[0]
    kind = "convolutional" if is_convolutional(record) else f"attention: {shortened(plain(record.model.attention), 60)}"
    ratio = ratio_of(own.quality, rival.quality)
    factor = "" if ratio.value is None else f"; the rival's is {ratio.text()} times LadaGAN's"
    text = (
        f"{shortened(plain(data_name(record)), 50)}, {shortened(plain(record.spec.train_for or '?'), 20)} of training: "
        f"{match.metric} of {called(own.records[0])} {_with_seeds(own)}, of {called(record)} [{kind}] "
        f"{_with_seeds(rival)}: {_VOTE_WORDS[match.vote]}{factor}."
    )
    return Evidence(text=text, run_ids=tuple(each.run_id for each in (*own.records, *rival.records)))


def _with_seeds(trained: Trained) -> str:
    """`0.52(3) (one training)`."""
    count = len(trained.records)
    note = "one training" if count == 1 else f"{count} seeds"
    return f"{format_quantity(trained.quality)} ({note})"


def _limits(matches: Sequence[Match], asked: Sequence[Record]) -> tuple[str, ...]:
    limits = []
    trained = [each for match in matches for each in (match.own, match.rival)]
    if any(is_tiny(each.records[0]) for each in trained):
        limits.append(TINY_LIMIT)
    if any(len(each.records) == 1 for each in trained):
        limits.append("Single trainings: their intervals know nothing of other seeds, which may come out otherwise.")
    if any(match.metric != METRICS_BY_RANK[0] for match in matches):
        limits.append("rfd_v1 is a distance between random features and no FID; the paper's figures are FIDs.")
    if matches:
        limits.append(
            "Kinds are told apart by whether a model's file names attention: a convolutional network with one layer of "
            "it is not counted as convolutional, and is no transformer."
        )
        limits.append(f"The budget is what was asked for here, {_share(trained)}; the order may differ after more.")
    metric = matches[0].metric if matches else HEADLINE_METRIC
    return (*limits, *left_out(asked, metric))


def _share(trained: Sequence[Trained]) -> str:
    """How much of their recipes' length the runs saw."""
    found = [share_of_recipe(record) for each in trained for record in each.records]
    shares = [100 * share for share in found if share is not None]
    if not shares:
        return "an unknown part of the recipes' length"
    return f"{min(shares):.3g} to {max(shares):.3g} % of the recipes' images"
