"""Rules on what disturbed the windows: clocks held down, others on the GPU or the processor, any other flag.

The flags are the meters' own (`bench/meters/_nvml_state.py`, `bench/meters/clock.py`), counted from the raw windows, or
from the protocol where those are not here. That a throughput is an error from half of its windows on is ours: its
median is then a disturbed window. A GPU that others use is an error at once, because its joules are charged for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bench.audit._evidence import THROUGHPUT, Disturbed, Evidence, Hit, Level, Rule, cannot_check, listed

_HELD_BACK = ("throttled: ", "power cap: ", "power limit changed", "SM clock changed", "CPU frequency changed", "quota")
_ON_GPU, _ON_CPU = "other processes on the GPU", ("other processes on the processor", "stolen by the hypervisor")


def _held_back(evidence: Evidence) -> Iterator[Hit]:
    def is_grave(each: Disturbed, flag: str, count: int) -> bool:
        return "power cap: " not in flag and _is_most(each, count)

    yield from _hits(evidence, lambda flag: any(cause in flag for cause in _HELD_BACK), is_grave)
    yield from _nobody_looked(evidence)


def _other_processes(evidence: Evidence) -> Iterator[Hit]:
    on_cpu = evidence.record.spec.device == "cpu"

    def is_grave(each: Disturbed, flag: str, count: int) -> bool:
        return _ON_GPU in flag or (on_cpu and _is_most(each, count))

    yield from _hits(evidence, lambda flag: _ON_GPU in flag or any(own in flag for own in _ON_CPU), is_grave)
    yield from _nobody_looked(evidence)


def _disturbed(evidence: Evidence) -> Iterator[Hit]:
    known = (*_HELD_BACK, _ON_GPU, *_ON_CPU)
    yield from _hits(evidence, lambda flag: not any(cause in flag for cause in known), lambda *_: False)


def _hits(
    evidence: Evidence, is_meant: Callable[[str], bool], is_grave: Callable[[Disturbed, str, int], bool]
) -> Iterator[Hit]:
    """One finding per phase: the flags that are meant, each with its series and how many windows carry it."""
    said: dict[str, list[str]] = {}
    grave: set[str] = set()
    for each in evidence.disturbed():
        for flag, count in sorted(each.flags.items()):
            if is_meant(flag):
                said.setdefault(each.phase, []).append(f"{count} of {each.num_windows} of {each.series} ({flag})")
                grave |= {each.phase} if is_grave(each, flag, count) else set()
    for phase, parts in said.items():
        level: Level = "error" if phase in grave else "warning"
        yield Hit(level=level, detail=f"Windows were disturbed: {listed(parts)}.")


def _is_most(each: Disturbed, count: int) -> bool:
    """More than half of the windows that a throughput is the median of."""
    return each.series in {series for _, series, _ in THROUGHPUT} and 2 * count > each.num_windows


def _nobody_looked(evidence: Evidence) -> Iterator[Hit]:
    """A timed phase of which neither windows nor protocol say what disturbed it."""
    seen = {each.phase for each in evidence.disturbed()}
    unseen = [phase for phase, _, _ in THROUGHPUT if evidence.measured(phase) is not None and phase not in seen]
    if unseen:
        yield cannot_check(f"neither windows nor protocol of {listed(unseen)} say what disturbed them")


_QUIET = "Stop what else runs on the machine and measure again (--fresh)."
RULES = {
    "throttled": Rule(
        checks="No window's clocks were held down, no power limit moved, no CPU quota held the process back.",
        remedy="Improve the cooling or lower the power limit until clocks hold, lift the quota, and measure again.",
        find=_held_back,
    ),
    "other_processes": Rule(
        checks="Nobody else used the GPU, nor much of the processor, during the windows.",
        remedy=_QUIET,
        find=_other_processes,
    ),
    "disturbed": Rule(
        checks="Windows carry no other flag.",
        remedy=_QUIET.replace("Stop", "Look into the flag, stop"),
        find=_disturbed,
    ),
}
