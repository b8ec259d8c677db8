"""Workers of the gate whose times are simulated, and a clock that moves only while they work."""

import math
import random
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.gate.checkout import Checkouts, Version
from bench.gate.facts import Facts
from bench.gate.gate import compare
from bench.gate.lane import Block, LaneError
from bench.gate.question import Setting, Workload
from bench.gate.sitting import Question, Surroundings

START_S, WARMUP_S, ITERATION_S = 2.0, 0.5, 0.05
UNIT_COUNTS = {"num_params_generator": 1000, "macs_per_iteration": 5000, "bytes_per_iteration": 100_000}


def version(side):
    return Version(
        side=side, asked=f"the {side}", commit=side[0] * 40, is_dirty=False, folder=Path(side), code_hash=side
    )


BOTH = Checkouts(base=version("base"), head=version("head"))
TRAIN = Workload(kind="train_step", subject="ladagan")
GENERATE = Workload(kind="generate", subject="ladagan")


@dataclass
class Machine:
    """What the simulated workers do, and what was done to them.

    Attributes:
        slowdown: of the head, by workload.
        facts: changes to what a side says, by side and workload.
        fails: (side, workload, command) → the LaneError's failure; a command is `start`, `prepare` or `block`.
        starts_differ: spread of the logarithms of what a start draws.
        slower_starts_s: how much longer every start after the first takes.
        joules: watts of a side's energy reading; None where there is no meter.
    """

    slowdown: dict = field(default_factory=dict)
    noise: float = 0.01
    facts: dict = field(default_factory=dict)
    fails: dict = field(default_factory=dict)
    joules: dict | None = None
    starts_differ: float = 0.0
    slower_starts_s: float = 0.0
    now_s: float = 0.0
    num_started: int = 0
    num_running: int = 0
    num_counted: int = 0
    blocks: list = field(default_factory=list)
    said: list = field(default_factory=list)
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def lane(self, side, _folder, _setting):
        return FakeLane(self, side)

    @property
    def around(self):
        return Surroundings(
            new_lane=self.lane, clock=lambda: self.now_s, say=self.said.append, progress=self.said.append
        )

    def gate(self, workloads=(TRAIN,), budget_s=120.0, **options):
        question = Question(workloads=tuple(workloads), budget_s=budget_s, setting=Setting(device="cpu"), **options)
        return compare(BOTH, question, self.around)


class FakeLane:
    """One worker; its block takes noise × slowdown × iterations."""

    def __init__(self, machine, side):
        self.machine = machine
        self.side = side

    def __enter__(self):
        self.machine.num_started += 1
        self.machine.num_running += 1
        self.start_noise = self.machine.rng.gauss(0, self.machine.starts_differ)
        return self

    def __exit__(self, *stopped):
        self.machine.num_running -= 1

    def _fail(self, workload, command):
        failure = self.machine.fails.get((self.side, workload, command))
        if failure == "stopped":
            raise KeyboardInterrupt
        if failure:
            raise LaneError(f"{self.side} has a {failure} in {workload}.", side=self.side, failure=failure)

    def wait_until_ready(self):
        later_s = self.machine.slower_starts_s / 2 if self.machine.num_started > 2 else 0.0
        self.machine.now_s += START_S / 2 + later_s
        self._fail("", "start")

    def prepare(self, workload, *, with_counts=False):
        self._fail(workload.name, "prepare")
        self.machine.now_s += WARMUP_S
        self.machine.num_counted += with_counts
        meter = {} if self.machine.joules is None else {"cpu_energy_j": "measured:rapl"}
        plain = Facts(
            workload=workload.name,
            unit="image",
            num_units_per_iteration=16,
            iteration_s=ITERATION_S,
            warmup_s=WARMUP_S,
            is_stationary=True,
            measured={"batch_size": 16},
            exact=UNIT_COUNTS if with_counts else {},
            counter_code="a",
            energy=meter,
            energy_code="m" if meter else "",
        )
        return replace(plain, **self.machine.facts.get((self.side, workload.name), {}))

    def block(self, workload, num_iterations, *, timeout_s):
        assert timeout_s >= 30
        self._fail(workload.name, "block")
        machine = self.machine
        slowdown = machine.slowdown.get(workload.name, 1.0) if self.side == "head" else 1.0
        duration_s = (
            num_iterations * ITERATION_S * slowdown * math.exp(machine.rng.gauss(0, machine.noise) + self.start_noise)
        )
        machine.now_s += duration_s
        machine.blocks.append((self.side, workload.name))
        readings = {}
        if machine.joules is not None and machine.joules[self.side.split()[-1]] is not None:
            readings = {"cpu_energy_j": machine.joules[self.side.split()[-1]] * duration_s}
        return Block(
            duration_s=duration_s,
            num_units=16 * num_iterations,
            cpu_s=duration_s,
            num_preemptions=0,
            readings=readings,
            problems={} if readings or machine.joules is None else {"cpu_energy_j": "the counter was reset"},
        )
