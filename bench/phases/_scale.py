"""`bench scale`: how time, bytes, memory and joules of an attention grow with its tokens, and where operators cross.

How. From 64 tokens up, size by size. At one size all operators are measured in rounds: one window of each, in an order
that rotates from round to round, so that what drifts (clock, temperature, neighbours) meets all alike and ratios can be
taken round by round. A window chains enough passes for its least length and is synchronised at its edges only
(`_windows`). The number of rounds is decided once per size from the warm-up, before any round is timed: 12 where the
budget allows, else 9, else 6, the fewest that give a median its 95 % interval; where that does not fit either, the
curve ends and says so. Windows are longer where an energy counter has to tick in them, as far as the budget allows;
what a tick is worth then widens the joules' interval. No curve is extrapolated.

Memory. What a pass needs is added up on shapes before anything is allocated (`_scale_subjects`); a size that would take
more than half of what is free is not tried. A GPU that runs out all the same ends that curve too.

Budget. Studies share what is left by weight. A study spends at most half of its own on one size, and the quick
operators come first: a curve ends where its fewest passes no longer fit what the quicker ones leave; those go on.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from bench import __version__
from bench.errors import UsageError
from bench.machine import fingerprint, look, set_backend, settle_device
from bench.phases._overhead import window_meters
from bench.phases._scale_record import CurveEnd, ScalePoint, ScaleRecord, Study
from bench.phases._scale_study import (
    FREE_MEMORY_SHARE,
    NUM_ROUNDS,
    Clock,
    StudyRun,
    energy_setup,
    wanted_window_s,
)
from bench.phases._scale_subjects import FIRST_TOKENS, ScaleRequest, costs_of, layer
from bench.registry import suggest
from bench.units import format_duration, parse_budget
from models._attention import OPERATORS

_WEIGHTS: dict[Study, float] = {"layer": 3.0, "layer-backward": 3.5, "grown-generator": 2.5, "generator": 1.0}


def scale_request(
    *,
    attention: str | None = None,
    device: str | None = None,
    width: int = 256,
    heads: int = 4,
    max_tokens: int | None = None,
    budget: str = "5min",
) -> ScaleRequest:
    """The command's words → what they stand for.

    Raises:
        UsageError: an unknown operator or device, a width that the heads do not divide, a limit below the first size,
            a budget that is no length of time.
    """
    operators = tuple(OPERATORS) if attention is None else tuple(word.strip() for word in attention.split(","))
    for operator in operators:
        if operator not in OPERATORS:
            raise UsageError(f"--attention: unknown operator '{operator}'. {suggest(operator, tuple(OPERATORS))}")
    if heads < 1 or width < 1 or width % heads:
        raise UsageError(f"--width {width} --heads {heads}: the width must be a multiple of the heads.")
    if max_tokens is not None and max_tokens < FIRST_TOKENS:
        raise UsageError(f"--max-tokens {max_tokens}: the first size has {FIRST_TOKENS}.")
    try:
        budget_s = parse_budget(budget).duration_s
    except UsageError:
        budget_s = None
    if budget_s is None:
        raise UsageError(f"--budget '{budget}' is no length of time: write 90s, 5min or 1h.")
    return ScaleRequest(
        operators=tuple(dict.fromkeys(operators)),
        device=settle_device(device),
        width=width,
        num_heads=heads,
        max_tokens=max_tokens,
        budget_s=budget_s,
    )


def measure_scale(request: ScaleRequest, *, say: Callable[[str], None]) -> ScaleRecord:
    """Measure every study; torch's random state is afterwards as it was.

    Args:
        say: where one sentence per size goes; never called inside a window.
    """
    backend = set_backend("fp32")
    machine = look(request.device)
    meters = window_meters(request.device)
    setup = energy_setup(meters, machine)
    costs_of(layer("additive", FIRST_TOKENS, width=1, num_heads=1, batch_size=1, is_backward=True))  # loads what counts
    clock = Clock(request.budget_s)
    points: list[ScalePoint] = []
    ends: list[CurveEnd] = []
    say(f"Scale on {request.device}: {', '.join(request.operators)}; about {format_duration(request.budget_s)}")
    try:
        weights = [_WEIGHTS[study] for study in request.studies]
        for index, study in enumerate(request.studies):
            study_s = clock.left_s * weights[index] / sum(weights[index:])
            run = StudyRun(request, study, machine=machine, meters=meters, clock=Clock(study_s))
            run.measure(say)
            points += run.points
            ends += run.ends
    finally:
        for meter in meters.values():
            meter.close()
    return ScaleRecord(
        harness_version=__version__,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine,
        fingerprint=fingerprint(machine),
        device=request.device,
        width=request.width,
        num_heads=request.num_heads,
        batch_size=request.batch_size,
        budget_s=request.budget_s,
        operators=request.operators,
        protocol={
            "precision": "fp32",
            "backend": backend,
            "num_rounds": [*NUM_ROUNDS],
            "wanted_window_s": wanted_window_s(setup),
            "free_memory_share": FREE_MEMORY_SHARE,
            "meters": [*sorted(meters)],
            "energy_scope": setup.scope,
            "max_tokens": request.max_tokens,
        },
        points=tuple(points),
        ends=tuple(ends),
    )
