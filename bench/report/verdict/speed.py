"""The claim of 10 to 100 times faster inference than multi-step models: ratios of latency and throughput.

A multi-step model is one whose record says that an image takes several calls of the network (`num_sampling_steps`).

Rules. Latency at batch 1 and images per second vote, each pair by its interval (`evidence.py`): `supports` where
LadaGAN is at least AT_LEAST times as fast, `contradicts` where it is less, `undecided` where the interval holds that or
there is none. Latency has no batch size to agree on. Throughput at two batch sizes is shown and does not vote: a larger
batch may suit one of the two better. A ratio above 100 supports the claim too; it is then more than was claimed.

Joules per image and MACs of a whole image stand beside it without a vote: the claim is about time.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.compare import Better
from bench.directions import BETTER_COST
from bench.notation import format_quantity
from bench.records import Quantity, Record
from bench.report.verdict.evidence import (
    CODE,
    PAPER,
    TINY_LIMIT,
    Evidence,
    Pair,
    Verdict,
    Vote,
    called,
    is_ladagan,
    is_tiny,
    left_out,
    num_sampling_steps,
    outcome_of,
    pairs,
    usable,
    vote_of,
    where,
    why_no_pair,
    with_most_shown,
)

AT_LEAST = 10.0
AT_MOST_CLAIMED = 100.0

_VOTING = ("generate_latency_ms_p50", "generate_images_per_s")
_BESIDE = ("generate_energy_j_per_image", "macs_generator")
_WORDS = {
    "generate_latency_ms_p50": "latency at batch 1",
    "generate_images_per_s": "throughput",
    "generate_energy_j_per_image": "energy",
    "macs_generator": "work per image, counted",
}
_CLAIM = "LadaGAN generates images 10 to 100 times as fast as multi-step models such as diffusion models."
_SOURCE = (
    f"{PAPER}, abstract: competitive with multi-step models with orders of magnitude less computation. The abstract "
    f"and {CODE}, give no factor of time; 10 to 100 is how the claim is tested here"
)


def speed_verdict(records: Sequence[Record]) -> Verdict:
    """The verdict on inference speed; the rules stand above."""
    own = [record for record in records if is_ladagan(record)]
    others = [record for record in records if num_sampling_steps(record) > 1]
    found = [pair for figure in (*_VOTING, *_BESIDE) for pair in pairs(own, others, figure, _better(figure))]
    votes = [(pair, vote_of(pair.advantage, AT_LEAST)) for pair in found if pair.figure in _VOTING and pair.is_deciding]
    outcome = outcome_of([vote for _, vote in votes]) if votes else "not tested here"
    return Verdict(
        claim=_CLAIM,
        source=_SOURCE,
        outcome=outcome,
        sentence=_tally(votes) if votes else f"Not tested here, because {_why_not(own, others, found)}.",
        evidence=with_most_shown([_evidence(pair) for pair in found]),
        limits=_limits([pair for pair, _ in votes], found, [*own, *others]),
    )


def _better(figure: str) -> Better:
    return BETTER_COST[figure]


def _tally(votes: Sequence[tuple[Pair, Vote]]) -> str:
    of_each = {
        "supports": f"at least {AT_LEAST:.0f} times",
        "contradicts": f"less than {AT_LEAST:.0f} times",
        "undecided": f"not surely more or less than {AT_LEAST:.0f} times",
    }
    parts = [
        f"{sum(vote == each for _, vote in votes)} find it {words} as fast"
        for each, words in of_each.items()
        if any(vote == each for _, vote in votes)
    ]
    ratios = sorted(pair.advantage.value for pair, _ in votes if pair.advantage.value is not None)
    span = f" The ratios go from {ratios[0]:.3g} to {ratios[-1]:.3g}." if len(ratios) > 1 else ""
    num_above = sum(pair.advantage.low is not None and pair.advantage.low > AT_MOST_CLAIMED for pair, _ in votes)
    above = (
        f" {num_above} of them {'is' if num_above == 1 else 'are'} above {AT_MOST_CLAIMED:.0f}." if num_above else ""
    )
    models = sorted({called(pair.other) for pair, _ in votes})
    many = f"{len(votes)} comparison{'s' if len(votes) > 1 else ''}"
    return f"Of {many} of LadaGAN with {', '.join(models)}, {', '.join(parts)}.{span}{above}"


def _why_not(own: Sequence[Record], others: Sequence[Record], found: Sequence[Pair]) -> str:
    if any(pair.figure in _VOTING for pair in found):
        return "throughput was only measured at different batch sizes, and no latency"
    if not others:
        return "no run here is of a multi-step model"
    ours, theirs = ([figure for figure in _VOTING if usable(each, figure)] for each in (own, others))
    both = [figure for figure in ours if figure in theirs]
    if both:
        return why_no_pair(own, others, both[0])
    who = "LadaGAN" if not ours else "a multi-step model" if not theirs else "both"
    return f"no run of {who} has a speed that may be ranked"


def _evidence(pair: Pair) -> Evidence:
    ours, theirs = pair.own.quantity(pair.figure), pair.other.quantity(pair.figure)
    steps = num_sampling_steps(pair.other)
    factor = pair.advantage
    each = "" if factor.value is None else f"; each of its {steps} steps {factor.value / steps:.3g} times"
    how = (
        ""
        if pair.is_deciding
        else f" Batch sizes {pair.own.spec.batch_size} and {pair.other.spec.batch_size}: no vote."
    )
    text = (
        f"{_WORDS[pair.figure]}, {where(pair.own)}: {called(pair.own)} {_with_unit(ours)}, {called(pair.other)} "
        f"{_with_unit(theirs)}: {factor.text()} times LadaGAN's{each}.{how}"
    )
    if pair.figure == "generate_images_per_s":
        text = (
            f"{_WORDS[pair.figure]}, {where(pair.own)}: {called(pair.own)} {_with_unit(ours)}, {called(pair.other)} "
            f"{_with_unit(theirs)}: LadaGAN's is {factor.text()} times the other's.{how}"
        )
    return Evidence(text=text, run_ids=pair.run_ids)


def _with_unit(quantity: Quantity | None) -> str:
    unit = "" if quantity is None else f" {quantity.unit}"
    return f"{format_quantity(quantity)}{unit}"


def _limits(voting: Sequence[Pair], found: Sequence[Pair], asked: Sequence[Record]) -> tuple[str, ...]:
    limits = []
    if any(is_tiny(pair.own) for pair in voting):
        limits.append(TINY_LIMIT)
    if voting:
        limits.append(
            "Speed alone: the multi-step models have random weights here, so nothing is said of the quality that their "
            "steps buy. Steps decide the ratio; the paper's comparison takes 80."
        )
    if voting and not any(pair.figure == "generate_energy_j_per_image" for pair in found):
        limits.append("No joules per image of both are here, so their energy is not compared.")
    return (*limits, *(line for figure in _VOTING for line in left_out(asked, figure)))
