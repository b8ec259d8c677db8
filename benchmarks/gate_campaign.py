"""Many gates in a row on this machine: how often each verdict comes where the truth is known.

Why it exists: issue 8 asks whether `bench gate` cries wolf (head = base, quiet and beside a busy neighbour) and whether
it finds what is there (a train step slowed by a known factor, as `bench gate --self-test` slows it). Parts are run in
the order given, and every gate's document is kept, so a campaign that is stopped loses nothing:

    python benchmarks/gate_campaign.py equal:12 loaded:4 1.10:12 1.05:6 --budget 2min --out campaign

`equal` compares HEAD with HEAD; `loaded` does the same while another process keeps one core busy for half of the time,
in spells of 0.1 to 3 s drawn at random, so that they fall on blocks of either side by chance. A number is a slowdown.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from bench.gate.decide import EXIT_CODES
from bench.gate.gate import asked_workloads, gate
from bench.gate.outcome import GateOutcome, write_gate
from bench.gate.question import Setting
from bench.gate.selftest import self_test
from bench.gate.sitting import Question, Surroundings
from bench.units import parse_budget

_NEIGHBOUR = """
import random, time
while True:
    spell_s = random.uniform(0.1, 3.0)
    until_s = time.perf_counter() + spell_s
    while time.perf_counter() < until_s:
        pass
    time.sleep(spell_s)
"""


def main() -> None:
    """Run the parts, print a line a gate and a table."""
    options = _options()
    budget_s = parse_budget(options.budget, "--budget").duration_s
    assert budget_s is not None
    workloads = asked_workloads(["ladagan"], options.workloads.split(","))
    question = Question(workloads=workloads, budget_s=budget_s, setting=Setting(device="cpu"))
    found: dict[str, list[GateOutcome]] = defaultdict(list)
    for name, num_gates in options.parts:
        for outcome in _gates(name, num_gates, question, partial(write_gate, options.out / name)):
            found[name].append(outcome)
            _say(f"{name} {len(found[name])} of {num_gates}: {_line(outcome)}")
    _say(_table(found))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("parts", nargs="+", type=_part, metavar="equal|loaded|FACTOR:NUM_GATES")
    parser.add_argument("--budget", default="2min")
    parser.add_argument("--workloads", default="train_step", help="of the parts equal and loaded")
    parser.add_argument("--out", type=Path, default=Path("campaign"))
    return parser.parse_args()


def _part(text: str) -> tuple[str, int]:
    name, _, number = text.partition(":")
    if name not in {"equal", "loaded"}:
        float(name)
    return name, int(number)


def _gates(
    name: str, num_gates: int, question: Question, keep: Callable[[GateOutcome], object]
) -> Iterator[GateOutcome]:
    """One outcome after the other, each kept as soon as it is there."""
    for _ in range(num_gates):
        if name in {"equal", "loaded"}:
            with _neighbour(is_there=name == "loaded"):
                outcome = gate(question, Surroundings(), base="HEAD", head="HEAD")
            keep(outcome)
        else:
            outcome = self_test(question, Surroundings(), slowdowns=[float(name)], num_gates=1, keep=keep)[0].outcome
        yield outcome


@contextmanager
def _neighbour(*, is_there: bool) -> Iterator[None]:
    """A process that keeps one core busy for half of the time."""
    if not is_there:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", _NEIGHBOUR]) as process:
        try:
            yield
        finally:
            process.kill()


def _line(outcome: GateOutcome) -> str:
    said = []
    for each in outcome.workloads:
        for decision in each.decisions:
            ratio = decision.ratio
            figures = (
                "no ratio"
                if ratio.value is None or ratio.low is None or ratio.high is None
                else f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
            )
            seen = (
                "" if decision.smallest_detectable is None else f", would have seen {decision.smallest_detectable:.1%}"
            )
            said.append(f"{each.name} {decision.verdict} {figures}{seen}, {decision.num_pairs} pairs")
    whole = f"{outcome.verdict}, {outcome.duration_s:.0f} s, parent {outcome.parent_cpu_s:.2f} s of CPU"
    return f"{whole}; {'; '.join(said)}"


def _table(found: dict[str, list[GateOutcome]]) -> str:
    rows = [f"part | gates | {' | '.join(EXIT_CODES)} | ratio (median, range) | would have seen | minutes a gate"]
    for name, outcomes in found.items():
        said = [each.verdict for each in outcomes]
        decisions = [one for outcome in outcomes for each in outcome.workloads for one in each.decisions]
        ratios = [each.ratio.value for each in decisions if each.ratio.value is not None]
        seen = [each.smallest_detectable for each in decisions if each.smallest_detectable is not None]
        minutes = median(each.duration_s for each in outcomes) / 60
        counts = " | ".join(str(said.count(verdict)) for verdict in EXIT_CODES)
        middle = f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})" if ratios else "none"
        visible = f"{median(seen):.1%} ({min(seen):.1%} to {max(seen):.1%})" if seen else "none"
        rows.append(f"{name} | {len(said)} | {counts} | {middle} | {visible} | {minutes:.1f}")
    return "\n".join(rows)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a script that prints


if __name__ == "__main__":
    main()
