"""Histories of simulated workers: each commit is a night, and a machine of `gate_lanes` measures its head alone."""

import math
import random
from dataclasses import dataclass, field
from pathlib import Path

from gate_lanes import TRAIN, Machine, version

from bench.gate.history import point_of
from bench.gate.history_commits import Alone
from bench.gate.history_point import Suspects, write_point
from bench.gate.question import Setting
from bench.gate.sitting import Question


def commit(number):
    """The commit of that night."""
    return f"{number:040x}"


@dataclass
class FakeLine:
    """A straight line of commits, one a day; those in `others` lie beside it, those in `unknown` nobody knows."""

    number: int
    others: frozenset = frozenset()
    unknown: frozenset = frozenset()

    @property
    def date(self):
        return f"2026-{1 + self.number // 28:02}-{1 + self.number % 28:02}T12:00:00"

    def kinship(self, asked):
        number = int(asked, 16)
        if number in self.others or number > self.number:
            return "other"
        if number in self.unknown:
            return "unknown"
        return "own" if number == self.number else "past"

    def suspects(self, before, after):
        num = int(after.commit, 16) - int(before.commit, 16)
        return Suspects(before=before.commit, after=after.commit, num_commits=num, subject="Slow it down" * (num == 1))


@dataclass
class Nights:
    """A machine, its results folder, and how fast the code of each commit is.

    Attributes:
        day: spread of the logarithms of what a night is like.
    """

    results: Path
    day: float = 0.003
    rng: random.Random = field(default_factory=lambda: random.Random(2))

    def measure(self, number, slowdown=1.0, *, is_dirty=False, line=None, workloads=(TRAIN,), **options):
        """A point, stored; options are of the machine and of the question."""
        of_machine = {name: options.pop(name) for name in ("noise", "facts", "fails", "joules") if name in options}
        night = math.exp(self.rng.gauss(0, self.day))
        slowdowns = slowdown if isinstance(slowdown, dict) else {each.name: slowdown for each in workloads}
        machine = Machine(slowdown={name: night * each for name, each in slowdowns.items()}, **of_machine)
        machine.rng.seed(self.rng.random())
        setting = options.pop("setting", Setting(device="cpu"))
        budget_s = options.pop("budget_s", 120.0)
        question = Question(workloads=tuple(workloads), budget_s=budget_s, setting=setting, **options)
        head = version("head")
        fields = vars(head) | {"commit": commit(number), "is_dirty": is_dirty, "code_hash": f"code {number}"}
        alone = Alone(version=type(head)(**fields), line=line or FakeLine(number))
        self.machine = machine
        point = point_of(alone, question, machine.around, results=self.results)
        write_point(self.results, point)
        return point

    def many(self, numbers, slowdown=1.0, **options):
        """Points of those commits."""
        return [self.measure(number, slowdown, **options) for number in numbers]
