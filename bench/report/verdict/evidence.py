"""What a verdict on one of the authors' claims is made of, and the rules that all five share.

Why it exists: a claim is decided by rules on records and never by hand, so the same rules must hold for each.

* A figure counts only where `why_not_ranked` has nothing against it: no smoke run, no failed phase, no estimate,
  no simulated device; and joules only where the record calls their measurement publishable. What is left out is said.
* LadaGAN is the model `ladagan` with its own attention. It is set beside another model only where everything that
  decides the figure agrees (`compare.deciding`: machine, software, way of running, resolution) and where both or
  neither have the size `tiny`, which is this suite's own and no published network. A pair whose batch sizes differ is
  shown and decides nothing. Joules are compared only where they are known in the same way and of the same parts.
* Where one question was asked more than once, the newest answer speaks.
* The evidence votes. One voice in all votes decides, no vote that could be cast is `cannot be told`, and votes that
  disagree, be it only in certainty, are `mixed`.

Ratios and their intervals: `bench/report/ratios.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from bench.compare import Better, deciding, differences
from bench.notation import plain, shortened
from bench.records import Record
from bench.report.ranking import why_not_ranked
from bench.report.ratios import Ratio, ratio_of
from bench.report.rows import model_name

Outcome = Literal["supported here", "contradicted here", "mixed", "cannot be told", "not tested here"]
Vote = Literal["supports", "contradicts", "undecided"]

LADAGAN = "ladagan"
PAPER = "arXiv 2401.09596v5"
CODE = "the README of the authors' code, https://github.com/milmor/LadaGAN"
TINY_LIMIT = (
    "Networks of size tiny were compared. That size is this suite's own; the outcome says nothing of the published "
    "networks."
)

_NAME_CHARS = 60
_REASON_CHARS = 120
_MAX_EVIDENCE = 24


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One sentence with its figures and intervals, and the runs it is from; none where a `bench scale` says it."""

    text: str
    run_ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What these records say of one claim.

    Attributes:
        claim: in our words.
        source: where the authors say it.
        sentence: the outcome in one sentence, no stronger than its evidence.
        evidence: what was found, for and against.
        limits: what the outcome does not say.
    """

    claim: str
    source: str
    outcome: Outcome
    sentence: str
    evidence: tuple[Evidence, ...]
    limits: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """LadaGAN beside another model.

    Attributes:
        advantage: how many times better LadaGAN's figure is; below 1 it is worse.
        is_deciding: all that decides the figure agrees, the batch size too.
    """

    figure: str
    own: Record
    other: Record
    advantage: Ratio
    is_deciding: bool

    @property
    def run_ids(self) -> tuple[str, ...]:
        """Both runs."""
        return self.own.run_id, self.other.run_id


def is_ladagan(record: Record) -> bool:
    """LadaGAN's generator with its own attention, whatever it was trained against."""
    return record.spec.model == LADAGAN and record.spec.attention in (None, "additive")


def is_whole_ladagan(record: Record) -> bool:
    """The same with its own discriminator."""
    return is_ladagan(record) and record.spec.discriminator in (None, LADAGAN)


def is_other_model(record: Record) -> bool:
    """A model as its authors have it: own attention, own discriminator, and not LadaGAN."""
    spec = record.spec
    return spec.model != LADAGAN and spec.attention is None and spec.discriminator is None


def is_tiny(record: Record) -> bool:
    """Whether it is a network of this suite's own small size."""
    return record.spec.size == "tiny"


def num_sampling_steps(record: Record) -> int:
    """Calls of the network per image; 1 where the record does not speak of any."""
    steps = record.quantity("num_sampling_steps")
    return 1 if steps is None or steps.value is None else max(1, round(steps.value))


def share_of_recipe(record: Record) -> float | None:
    """Images shown as a part of the recipe's length; None where one of the two is unknown."""
    shown, whole = record.quantity("num_images_shown"), record.recipe.get("num_images")
    if shown is None or shown.value is None or not isinstance(whole, int | float) or whole <= 0:
        return None
    return shown.value / whole


def called(record: Record) -> str:
    """What a sentence calls the run: `ddpm ddim-50 (50 steps)`."""
    steps = num_sampling_steps(record)
    return shortened(plain(model_name(record)), _NAME_CHARS) + (f" ({steps} steps)" if steps > 1 else "")


def why_not_used(record: Record, figure: str) -> str:
    """Why this figure may decide nothing, in a few words; empty where it may."""
    of_figure = why_not_ranked(record, figure)
    facts = _energy_facts(record, figure)
    if of_figure or facts is None or facts.get("publishable") is True:
        return of_figure
    return f"joules not publishable: {facts.get('why_not_publishable') or 'how they were measured is not recorded'}"


def usable(records: Iterable[Record], figure: str) -> list[Record]:
    """Those whose figure may decide."""
    return [record for record in records if not why_not_used(record, figure)]


def left_out(records: Iterable[Record], figure: str) -> list[str]:
    """One sentence on the runs whose figure may not be ranked, or none."""
    found = Counter((called(record), why_not_used(record, figure)) for record in records)
    parts = [
        f"{count} × {name} ({shortened(plain(why), _REASON_CHARS)})"
        for (name, why), count in sorted(found.items())
        if why
    ]
    return [f"Left out for {figure}: {listed(parts)}."] if parts else []


def listed(parts: Sequence[str], most: int = 8) -> str:
    """`a, b and 3 more`."""
    shown = ", ".join(parts[:most])
    return shown if len(parts) <= most else f"{shown} and {len(parts) - most} more"


def newest(records: Iterable[Record]) -> list[Record]:
    """The newest first; equal times in the order of run ids."""
    return sorted(records, key=lambda record: (record.created_at, record.run_id), reverse=True)


def pairs(own: Sequence[Record], others: Sequence[Record], figure: str, better: Better) -> list[Pair]:
    """LadaGAN's newest beside the newest of each other model, at each place where both have the figure."""
    places: dict[str, list[Record]] = {}
    for record in newest(usable(own, figure)):
        places.setdefault(_place(record, figure), []).append(record)
    rivals: dict[tuple[str, str], list[Record]] = {}
    for record in newest(usable(others, figure)):
        rivals.setdefault((_place(record, figure), model_name(record)), []).append(record)
    found = []
    for (place, _), members in sorted(rivals.items(), key=lambda item: (item[0][1], item[0][0])):
        both = [(a, b) for b in members for a in places.get(place, ())]
        if both:
            found.append(_pair(*next((pair for pair in both if _agree(*pair, figure)), both[0]), figure, better))
    return found


def why_no_pair(own: Sequence[Record], others: Sequence[Record], figure: str) -> str:
    """Why nothing could be set side by side although both have the figure: the fields in which the newest differ."""
    a, b = newest(usable(own, figure))[0], newest(usable(others, figure))[0]
    fields = differences([deciding(a, figure), deciding(b, figure)])
    fields += [] if is_tiny(a) == is_tiny(b) else ["size (only one of them is tiny)"]
    fields += [] if _origin(a, figure) == _origin(b, figure) else ["how or of which parts the joules are known"]
    return f"{called(a)} and {called(b)} differ in {', '.join(fields)}"


def outcome_of(votes: Sequence[Vote]) -> Outcome:
    """One voice decides; nobody could tell, or several voices, do not."""
    if set(votes) == {"supports"}:
        return "supported here"
    if set(votes) == {"contradicts"}:
        return "contradicted here"
    return "cannot be told" if set(votes) <= {"undecided"} else "mixed"


def vote_of(advantage: Ratio, at_least: float) -> Vote:
    """Whether the whole interval is at or above the threshold, below it, or holds it; none decides nothing."""
    if advantage.low is None or advantage.high is None:
        return "undecided"
    if advantage.low >= at_least:
        return "supports"
    return "contradicts" if advantage.high < at_least else "undecided"


def with_most_shown(evidence: Sequence[Evidence]) -> tuple[Evidence, ...]:
    """The first ones, and how many are not shown; all of them have voted."""
    num_more = len(evidence) - _MAX_EVIDENCE
    more = Evidence(text=f"{num_more} further findings of these kinds counted too and are not listed here.")
    return (*evidence[:_MAX_EVIDENCE], more) if num_more > 0 else tuple(evidence)


def where(record: Record) -> str:
    """`32 px, cpu, fp32`."""
    spec = record.spec
    return plain(shortened(f"{spec.resolution or '?'} px, {spec.device or '?'}, {spec.precision or '?'}", _NAME_CHARS))


def _place(record: Record, figure: str) -> str:
    """What two runs must share to stand side by side, without the batch size."""
    facts = {key: fact for key, fact in (deciding(record, figure) or {}).items() if key != "batch_size"}
    return json.dumps([facts, is_tiny(record), _origin(record, figure)], sort_keys=True)


def _origin(record: Record, figure: str) -> list[JsonValue]:
    """Of joules: how they are known, and of which parts of the machine; nothing for any other figure."""
    quantity, facts = record.quantity(figure), _energy_facts(record, figure)
    return [] if quantity is None or facts is None else [quantity.label, facts.get("scope")]


def _energy_facts(record: Record, figure: str) -> dict[str, JsonValue] | None:
    """What the record says of how the joules were measured; None for a figure that is no energy."""
    for result in record.phases.values():
        if figure in result.quantities:
            facts = result.protocol.get("energy")
            return None if result.quantities[figure].label is None else facts if isinstance(facts, dict) else {}
    return None


def _agree(a: Record, b: Record, figure: str) -> bool:
    return deciding(a, figure) == deciding(b, figure)


def _pair(own: Record, other: Record, figure: str, better: Better) -> Pair:
    ours, theirs = own.quantity(figure), other.quantity(figure)
    assert ours is not None
    assert theirs is not None
    advantage = ratio_of(ours, theirs) if better == "lower" else ratio_of(theirs, ours)
    return Pair(figure=figure, own=own, other=other, advantage=advantage, is_deciding=_agree(own, other, figure))
