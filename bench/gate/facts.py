"""What a worker says of a workload before anything is timed, and what two workers' facts say of the comparison.

Two questions need no clock. Did something that can be counted change: parameters, multiply-accumulates, bytes moved,
the most bytes alive at once? Such a count is the same every time, so one more of it is a regression without a doubt and
without a threshold. And is the same thing measured on both sides? Where the batch size of a recipe, the objective, or
the benchmark's own code differs, images per second of one side say nothing of the other, and the comparison is invalid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MIN_BLOCK_S = 0.2  # measurement.md: each block at least this long on a CPU
_LENGTH_MARGIN = 1.1  # blocks vary; most shall be long enough
_PARAMS = "num_params_"  # counted by the gate itself


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Of one workload in one version.

    Attributes:
        workload: its name, `train_step:ladagan`.
        unit: `image` or `token`.
        num_units_per_iteration: units of one iteration, the least that can be timed.
        iteration_s: about how long it takes, from the end of the warm-up.
        warmup_s, is_stationary: how long it was warmed up, and whether it had stopped becoming faster by then.
        measured: what must be equal for two times to be comparable: batch size, resolution, objective, device, …
        exact: counts without noise, per iteration; empty where they were not asked for.
        unknown: count → why it could not be taken.
        counter_code, energy_code: hashes of the version's own code that counts, and that reads meters.
        energy: reading in joules → its provenance label; empty where there is no meter or none was asked for.
    """

    workload: str
    unit: str
    num_units_per_iteration: int
    iteration_s: float
    warmup_s: float
    is_stationary: bool
    measured: Mapping[str, Any]
    exact: Mapping[str, int] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    counter_code: str = ""
    energy: Mapping[str, str] = field(default_factory=dict)
    energy_code: str = ""

    def num_iterations(self, min_block_s: float = MIN_BLOCK_S) -> int:
        """How many make a block; decided on the base, then the same on both sides."""
        return max(1, math.ceil(_LENGTH_MARGIN * min_block_s / self.iteration_s))


class Difference(NamedTuple):
    """A count that changed."""

    name: str
    base: int
    head: int

    @property
    def is_more(self) -> bool:
        """Whether head has more of it: an exact regression."""
        return self.head > self.base


def exact_differences(base: Facts, head: Facts) -> list[Difference]:
    """Counts that both sides have and that differ, in order of name; see `why_not_counted` for those left out."""
    return [
        Difference(name, base.exact[name], head.exact[name])
        for name in sorted(_comparable(base, head))
        if base.exact[name] != head.exact[name]
    ]


def why_not_counted(base: Facts, head: Facts) -> dict[str, str]:
    """Count → why it is not compared, for every count that one side at least should have."""
    reasons = {**head.unknown, **base.unknown}
    for name in sorted({*base.exact, *head.exact} - _comparable(base, head)):
        is_on_both = name in base.exact and name in head.exact
        reasons[name] = (
            "the two versions count by different code" if is_on_both else reasons.get(name, "one side alone has it")
        )
    return reasons


def _comparable(base: Facts, head: Facts) -> set[str]:
    both = set(base.exact) & set(head.exact)
    same_counter = base.counter_code == head.counter_code
    return {name for name in both if same_counter or name.startswith(_PARAMS)}


def what_is_measured_differs(base: Facts, head: Facts) -> list[str]:
    """`batch_size: 32 in base, 16 in head` for each thing that must be equal and is not; empty where all is well.

    A side that has no gate of its own yet has no benchmark code to differ in.
    """
    names = sorted({*base.measured, *head.measured})
    found = [(name, base.measured.get(name), head.measured.get(name)) for name in names]
    differing = [(name, one, other) for name, one, other in found if one != other]
    said = []
    for name, one, other in differing:
        if name != "benchmark_code":
            said.append(f"{name}: {one} in base, {other} in head")
        elif one is not None and other is not None:
            said.append("the benchmark's own code (bench/gate/worker.py, bench/gate/workloads.py)")
    return said


def energy_is_comparable(base: Facts, head: Facts) -> bool:
    """Whether both sides read joules, the same way and by the same code."""
    return bool(base.energy) and base.energy == head.energy and base.energy_code == head.energy_code
