"""The integrators against known truth (hypothesis), and proof that these checks can fail: each mutant is caught."""

import math
import random
import sys
import types
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bench.meters import _integrators

# A check takes the module to test as its first argument, so that mutants pass through the same checks.

_FAST = settings(max_examples=40, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
_advances = st.lists(st.integers(1, 499), min_size=1, max_size=12)
_watts = st.floats(0.5, 2000)
_steps_s = st.lists(st.floats(0.01, 0.9), min_size=1, max_size=12)


def filled(integrator, reads):
    for time_s, value in reads:
        integrator.add(time_s, value)
    return integrator.result()


def refused(figure, *words):
    """No number, and a reason that holds the words."""
    assert figure.value is None
    assert all(word in figure.reason for word in words), figure.reason


def check_wraps_give_the_true_sum(module):
    @_FAST
    @given(start=st.integers(0, 999), advances=_advances)
    def holds(start, advances):
        totals = [start + sum(advances[:i]) for i in range(len(advances) + 1)]
        reads = [(i * 20.0, total % 1000) for i, total in enumerate(totals)]
        assert filled(module.WrappingCounter(1000), reads).value == sum(advances)

    holds()


def check_a_skipped_wrap_never_gives_a_number(module):
    @_FAST
    @given(gap_s=st.floats(30.01, 1e5), at=st.integers(0, 2))
    def holds(gap_s, at):
        gaps_s = [10.0, 10.0, 10.0]
        gaps_s[at] = gap_s
        reads = [(sum(gaps_s[:i]), 100.0 * i) for i in range(4)]
        refused(filled(module.WrappingCounter(1e9), reads), "skipped wrap")

    holds()
    assert filled(module.WrappingCounter(1e9), [(0, 0), (30.0, 5)]).value == 5


def check_a_reset_never_gives_a_number(module):
    @_FAST
    @given(before=st.integers(1, 10**9), after=st.integers(0, 10**9), rest=_advances)
    def rising(before, after, rest):
        values = [before, before + 1, min(after, before), *(before + 1 + sum(rest[:i]) for i in range(len(rest)))]
        refused(filled(module.RisingCounter(0.5), list(enumerate(values))), "reset")

    @_FAST
    @given(before=st.integers(2, 499), after=st.integers(0, 499))
    def wrapping(before, after):
        reads = [(0.0, before), (10.0, min(after, before - 1)), (20.0, before + 1)]
        refused(filled(module.WrappingCounter(1000), reads), "reset")

    rising()
    wrapping()


def check_windows_add_up(module):
    @_FAST
    @given(steps_s=_steps_s, watts=st.lists(_watts, min_size=13, max_size=13), data=st.data())
    def holds(steps_s, watts, data):
        cut = data.draw(st.integers(0, len(steps_s)))
        times_s = [sum(steps_s[:i]) for i in range(len(steps_s) + 1)]
        energy = [1000.0 * (i + 1) + watts[i] for i in range(len(times_s))]
        for make, values in (
            (module.PowerIntegral, watts),
            (lambda: module.RisingCounter(0.001), sorted(energy)),
            (lambda: module.WrappingCounter(1e6), sorted(energy)),
        ):
            reads = list(zip(times_s, values, strict=False))
            whole = filled(make(), reads).value
            parts = [filled(make(), part) for part in (reads[: cut + 1], reads[cut:]) if len(part) > 1]
            assert sum(part.value for part in parts) == pytest.approx(whole, rel=1e-9)

    holds()


def check_constant_power_is_exact(module):
    @_FAST
    @given(watts=_watts, steps_s=_steps_s)
    def holds(watts, steps_s):
        reads = [(100 + sum(steps_s[:i]), watts) for i in range(len(steps_s) + 1)]
        assert filled(module.PowerIntegral(), reads).value == pytest.approx(watts * sum(steps_s), rel=1e-9)

    holds()
    ramp = [(i / 10, 10.0 + i) for i in range(11)]
    assert filled(module.PowerIntegral(), ramp).value == pytest.approx(15)


def check_a_failed_read_never_gives_a_number(module):
    @_FAST
    @given(at=st.integers(0, 4))
    def holds(at):
        for make in (
            module.PowerIntegral,
            lambda: module.RisingCounter(0.1),
            lambda: module.WrappingCounter(10**6),
        ):
            integrator = make()
            for i in range(5):
                integrator.add(i * 0.5, None if i == at else 100.0 * (i + 1), "lost it")
            refused(integrator.result(), "lost it")

    holds()
    samples = [(i * 0.01, None if i == 50 else float(i // 5)) for i in range(100)]
    refused(module.counter_period_s(samples), "failed")


def check_what_stands_still_never_gives_a_number(module):
    refused(filled(module.RisingCounter(0.1), [(0, 7), (5, 7)]), "frozen", "5.000 s")
    refused(filled(module.RisingCounter(0.1), [(0, 7), (0.1001, 7)]), "frozen")
    refused(filled(module.RisingCounter(0.1), [(0, 7), (0.05, 7)]), "shorter than the counter's update period")
    refused(filled(module.RisingCounter(0.1), [(0, 1), (9, 7), (19, 7), (29, 9)]), "frozen", "10.000 s")
    assert filled(module.RisingCounter(0.1), [(0, 1), (9, 7), (9.05, 7)]).value == 6
    refused(filled(module.WrappingCounter(1000), [(0, 7), (5, 7)]), "frozen")
    refused(filled(module.PowerIntegral(), [(0, 50), (0.1, 0.0), (0.2, 50)]), "0.0 W")
    refused(filled(module.PowerIntegral(), [(0, 50), (0.1, -1.0), (0.2, 50)]), "W on a working device")
    for make in (module.PowerIntegral, lambda: module.RisingCounter(0.1), lambda: module.WrappingCounter(1000)):
        refused(filled(make(), []), "no time passed")
        refused(filled(make(), [(3.0, 5)]), "no time passed")
        refused(filled(make(), [(3.0, 5), (2.0, 6)]), "clock went back")


def check_what_no_sensor_reads_never_gives_a_number(module):
    refused(filled(module.WrappingCounter(1000), [(0, 10), (1, 1001), (2, 20)]), "outside its range")
    refused(filled(module.WrappingCounter(1000), [(0, -1), (1, 10)]), "outside its range")
    refused(filled(module.RisingCounter(0.1), [(0, -5), (1, 10)]), "below zero")
    refused(filled(module.PowerIntegral(), [(0, 50), (1.01, 50)]), "no power sample")


def check_the_first_reason_is_kept(module):
    counter = module.RisingCounter(0.1)
    counter.fail("first")
    counter.add(0, 5)
    counter.add(1, 4)
    counter.fail("third")
    assert counter.result().reason == "first"


def check_the_stated_error_holds_the_truth(module):
    rng = random.Random(7)
    shares = []
    for _ in range(4000):
        period_s, power_w = rng.choice((0.02, 0.1, 0.5)), rng.uniform(5, 700)
        first_s = rng.uniform(0, 5)
        last_s = first_s + rng.choice((0.2, 0.51, 1.0, 3.0, 60.0)) * rng.uniform(0.9, 1.1)
        num_updates = math.floor(last_s / period_s) - math.floor(first_s / period_s)
        if num_updates == 0:
            continue
        energy_j = power_w * num_updates * period_s
        error_j = module.counter_error_j(energy_j, last_s - first_s, period_s)
        shares.append(abs(energy_j - power_w * (last_s - first_s)) / error_j)
    assert 0.95 < max(shares) <= 1, "holds the truth every time, and is no wider than it has to be"
    assert module.counter_error_j(100, 5, 0, 0.5) == 0.5
    assert module.counter_error_j(100, 5, 1, 0.5) == pytest.approx(100.5 / 5 + 0.5)


def check_the_period_is_the_median_gap(module):
    for period_s in (0.02, 0.1, 0.5):
        samples = [(i * 0.001, float(math.floor((i * 0.001 + 0.0077) / period_s))) for i in range(3000)]
        assert module.counter_period_s(samples).value == pytest.approx(period_s, abs=0.0011)
    late = [(i * 0.001, float(i // 20 if i < 500 else (i - 200) // 20)) for i in range(700, 1500)]
    assert module.counter_period_s(late).value == pytest.approx(0.02, abs=0.001)
    uneven = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.0), (3.3, 5.0), (9.0, 6.0)]
    assert module.counter_period_s(uneven).value == 1.0
    refused(module.counter_period_s([]), "frozen")
    refused(module.counter_period_s([(i * 0.1, 5.0) for i in range(30)]), "frozen", "2.9 s")
    refused(module.counter_period_s([(i * 0.1, float(i > 4)) for i in range(30)]), "only once")
    refused(module.counter_period_s([(0, 5.0), (1, 6.0), (2, 1.0), (3, 2.0)]), "reset")


CHECKS = [
    check_wraps_give_the_true_sum,
    check_a_skipped_wrap_never_gives_a_number,
    check_a_reset_never_gives_a_number,
    check_windows_add_up,
    check_constant_power_is_exact,
    check_a_failed_read_never_gives_a_number,
    check_what_stands_still_never_gives_a_number,
    check_what_no_sensor_reads_never_gives_a_number,
    check_the_first_reason_is_kept,
    check_the_stated_error_holds_the_truth,
    check_the_period_is_the_median_gap,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_the_integrators_keep_what_they_promise(check):
    check(_integrators)


MUTANTS = {
    "the wrap term is dropped": ("advance += self._max_range", "advance += 0"),
    "the wrap is always added": ("if advance < 0:\n            advance", "if True:\n            advance"),
    "the edges of a counter are swapped": ("return value - previous", "return previous - value"),
    "the edges of a wrapping counter are swapped": ("advance = value - previous", "advance = previous - value"),
    "a failed read is ignored": ("            self.fail(reason)\n            return", "            return"),
    "a failed read counts as zero": (
        "            self.fail(reason)\n            return",
        "            value = self._last[1] if self._last else 1.0",
    ),
    "a failed poll is ignored": ("if any(value is None for _, value in samples):", "if False:"),
    "a reset is ignored": ("if value < previous:", "if False:"),
    "a reset is taken for a wrap": ("if advance > self._max_range / 2:", "if False:"),
    "a reset during the polls is ignored": ("if any(later < earlier", "if False and any(later < earlier"),
    "a frozen stretch is ignored": ("elif value == previous and", "elif False and"),
    "a frozen counter gives zero": ("if not self._total > 0:", "if False:"),
    "frozen and too short are mixed up": ("if duration_s > self._period_s:", "if duration_s < self._period_s:"),
    "a skipped wrap is ignored": ("MAX_RAPL_GAP_S = 30.0", "MAX_RAPL_GAP_S = 1e9"),
    "a hole in the samples is ignored": ("MAX_POWER_GAP_S = 1.0", "MAX_POWER_GAP_S = 1e9"),
    "the left rectangle is taken for the trapezoid": ("(previous + value) / 2", "previous"),
    "the trapezoid is not halved": ("(previous + value) / 2", "(previous + value)"),
    "the last interval only is kept": ("self._total += self._step", "self._total = self._step"),
    "power of zero is accepted": ("if value > 0 else", "if value >= 0 else"),
    "values out of range are accepted": ("if fault := self._why_impossible(value):", "if fault := '':"),
    "a clock that goes back is accepted": ("elif time_s < self._last[0]:", "elif False:"),
    "one read is enough": ("or self._last[0] == self._first_s:", "or False:"),
    "the last reason is kept": ("self._fault = self._fault or reason", "self._fault = reason"),
    "faults are forgotten": ("self._fault = self._fault or reason", "pass"),
    "the error is half as wide": ("/ num_updates + resolution_j", "/ num_updates / 2 + resolution_j"),
    "the error counts one update too many": ("max(1, math.floor(", "max(1, math.ceil("),
    "the error forgets the resolution": ("/ num_updates + resolution_j", "/ num_updates"),
    "the period is the shortest gap": ("statistics.median(b - a", "min(b - a"),
    "the period is the longest gap": ("statistics.median(b - a", "max(b - a"),
    "the period is the mean gap": ("statistics.median(b - a", "statistics.fmean(b - a"),
    "one change is enough for a period": ("if len(changes_s) < 2:", "if False:"),
}


def mutated(find, replace):
    """The integrators with one piece of their source replaced, as a module."""
    source = Path(_integrators.__file__).read_text(encoding="utf-8")
    assert source.count(find) == 1, f"{find!r} is {source.count(find)} times in the source"
    module = types.ModuleType("bench.meters._mutant")
    with pytest.MonkeyPatch.context() as patch:  # dataclasses look their module up in sys.modules
        patch.setitem(sys.modules, module.__name__, module)
        exec(compile(source.replace(find, replace), "mutant", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_of_the_integrators_is_caught(name):
    module = mutated(*MUTANTS[name])
    caught = []
    for check in reversed(CHECKS):  # the plain checks are the quick ones
        try:
            check(module)
        except (AssertionError, LookupError, TypeError, ValueError) as error:
            caught.append(f"{check.__name__}: {type(error).__name__}")
            break
    assert caught, f"no check notices that {name}"
