"""The claim of much less energy to train: measured joules per training image, at the same machine and setting.

Rules. A rival is any other model that was trained here. `train_energy_j_per_image` (of the whole training) and
`train_step_energy_j_per_image` (of an optimiser step) vote where a meter read both, in the same way, on the same
machine with the same batch size: `supports` where LadaGAN takes at most 1/MUCH of the rival's joules, `contradicts`
where it takes more than that, `undecided` where the interval holds it. MUCH is ours; the paper gives no number. Joules
estimated from a design power rank nothing and do not vote.

Without measured joules the claim is `not tested here`. What there is stands beside it and is not called energy: MACs of
a whole optimiser step per image, and training images per second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench.compare import Better
from bench.notation import format_quantity, plain, shortened
from bench.records import Record
from bench.report.verdict.evidence import (
    CODE,
    PAPER,
    TINY_LIMIT,
    Evidence,
    Pair,
    Verdict,
    Vote,
    called,
    is_other_model,
    is_tiny,
    is_whole_ladagan,
    left_out,
    num_sampling_steps,
    outcome_of,
    pairs,
    usable,
    vote_of,
    where,
    why_no_pair,
    why_not_used,
    with_most_shown,
)

MUCH = 2.0

_VOTING = ("train_energy_j_per_image", "train_step_energy_j_per_image")
_BESIDE: dict[str, tuple[Better, str]] = {
    "macs_step_per_image": ("lower", "MACs of a whole optimiser step per image, which are no energy"),
    "train_images_per_s": ("higher", "training images per second, which are no energy"),
}
_REASON_CHARS = 200
_CLAIM = "LadaGAN takes much less energy to train than the models it is compared with."
_SOURCE = (
    f"{PAPER}, abstract: others' computation raises the carbon footprint of training, LadaGAN is significantly more "
    f"efficient; and {CODE}: under 40 hours on one RTX 3080 Ti for CIFAR-10 and for CelebA, where ADM-IP had 2 and 16 "
    "V100. No joules are given there"
)


def energy_verdict(records: Sequence[Record]) -> Verdict:
    """The verdict on training energy; the rules stand above."""
    trained = [record for record in records if record.spec.weights is None and num_sampling_steps(record) == 1]
    own = [record for record in trained if is_whole_ladagan(record)]
    others = [record for record in trained if is_other_model(record)]
    found = [pair for figure in _VOTING for pair in pairs(own, others, figure, "lower")]
    votes = [(pair, vote_of(pair.advantage, MUCH)) for pair in found if pair.is_deciding]
    beside = [pair for figure, (better, _) in _BESIDE.items() for pair in pairs(own, others, figure, better)]
    return Verdict(
        claim=_CLAIM,
        source=_SOURCE,
        outcome=outcome_of([vote for _, vote in votes]) if votes else "not tested here",
        sentence=_tally(votes) if votes else _why_not(own, others, found, beside),
        evidence=with_most_shown([*map(_joules, found), *map(_no_energy, beside)]),
        limits=_limits(votes, [*found, *beside], [*own, *others]),
    )


def _tally(votes: Sequence[tuple[Pair, Vote]]) -> str:
    words: dict[Vote, str] = {
        "supports": f"at least {MUCH:g} times LadaGAN's joules per training image",
        "contradicts": f"less than {MUCH:g} times",
        "undecided": f"not surely more or less than {MUCH:g} times",
    }
    parts = []
    for each, said in words.items():
        names = sorted({called(pair.other) for pair, vote in votes if vote == each})
        if names:
            parts.append(f"{', '.join(names)} {'takes' if len(names) == 1 else 'take'} {said}")
    return f"With measured joules at the same setting, {'; '.join(parts)}."


def _why_not(own: Sequence[Record], others: Sequence[Record], found: Sequence[Pair], beside: Sequence[Pair]) -> str:
    instead = " What the records do have, work and time, is below; it is no energy." if beside else ""
    return f"Not tested here, because {_reason(own, others, found)}.{instead}"


def _reason(own: Sequence[Record], others: Sequence[Record], found: Sequence[Pair]) -> str:
    if found:
        return "the measured joules are of different batch sizes"
    if not own or not others:
        return f"no run here trains {'another model' if own else 'LadaGAN'}"
    known = [[figure for figure in _VOTING if usable(records, figure)] for records in (own, others)]
    both = [figure for figure in known[0] if figure in known[1]]
    if both:
        return why_no_pair(own, others, both[0])
    if any(known):
        missing = others if known[0] else own
        return f"{'no other model' if known[0] else 'LadaGAN'} has such joules: {_most_common_reason(missing)}"
    return f"no run has measured joules of training: {_most_common_reason([*own, *others])}"


def _most_common_reason(records: Sequence[Record]) -> str:
    """Why the joules are unknown or may not be ranked, as most records say it."""
    reasons: Counter[str] = Counter()
    for record in records:
        for figure in _VOTING:
            quantity = record.quantity(figure)
            if quantity is not None:
                reasons[quantity.note if quantity.value is None else why_not_used(record, figure)] += 1
    if not reasons:
        return "none was trained with a version that reads energy"
    most = max(reasons.values())
    return shortened(plain(min(reason for reason, count in reasons.items() if count == most)), _REASON_CHARS)


def _joules(pair: Pair) -> Evidence:
    what = "the whole training" if pair.figure == "train_energy_j_per_image" else "an optimiser step"
    quantity = pair.own.quantity(pair.figure)
    label = quantity.label if quantity and quantity.label else "no label"
    factor = f"the other takes {pair.advantage.text()} times LadaGAN's"
    text = f"joules per image of {what} ({label}), {_side_by_side(pair)}: {factor}.{_batches(pair)}"
    return Evidence(text=text, run_ids=pair.run_ids)


def _no_energy(pair: Pair) -> Evidence:
    """Work and speed, each as a plain ratio: a reader sees at once whose is the larger."""
    words = _BESIDE[pair.figure][1]
    factor = f"the other takes {pair.advantage.text()} times LadaGAN's"
    if pair.figure == "train_images_per_s":
        factor = f"LadaGAN's are {pair.advantage.text()} times the other's"
    return Evidence(text=f"{words}, {_side_by_side(pair)}: {factor}.{_batches(pair)}", run_ids=pair.run_ids)


def _batches(pair: Pair) -> str:
    batches = f"{pair.own.spec.batch_size} and {pair.other.spec.batch_size}"
    return "" if pair.is_deciding else f" Batch sizes {batches}: no vote."


def _side_by_side(pair: Pair) -> str:
    ours, theirs = (format_quantity(record.quantity(pair.figure)) for record in (pair.own, pair.other))
    return f"{where(pair.own)}: {called(pair.own)} {ours}, {called(pair.other)} {theirs}"


def _limits(votes: Sequence[tuple[Pair, Vote]], found: Sequence[Pair], asked: Sequence[Record]) -> tuple[str, ...]:
    limits = []
    if any(is_tiny(pair.own) for pair in found):
        limits.append(TINY_LIMIT)
    if votes:
        limits.append(
            "Joules per training image, not joules to a quality: how many images a model needs is in the table of what "
            "it took to reach one. 'Much' is taken as half or less."
        )
    limits.append("Multi-step models are not trained by this suite, so the authors' comparison with them is not made.")
    if not votes:
        return tuple(limits)
    return (*limits, *(line for figure in _VOTING for line in left_out(asked, figure)))
