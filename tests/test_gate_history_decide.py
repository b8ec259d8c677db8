"""The statistics of histories: each rule alone, and the whole against simulated machines whose truth is known.

Shares come with fixed seeds; the slow tests draw more and check every line of the tables in the docstrings.
"""

import math
import subprocess
import sys
from collections import Counter
from functools import cache

import numpy as np
import pytest
from gate_history_noise import DAYS, decided, every_decision, figures, last_decision, values
from ruptures import Pelt

from bench.errors import UsageError
from bench.gate.change_points import LEAST_POINTS, Course, Level, changes, course
from bench.gate.decide import EXIT_CODES
from bench.gate.history_decide import (
    FALSE_ALARMS,
    Figure,
    Reference,
    decide_point,
    needs_confirmation,
    reference_of,
    too_short,
)
from bench.gate.noise import POWER

NOBODY = [False] * 1000


def chance(share, num):
    """Four standard errors of a share of so many."""
    return 4 * math.sqrt(share * (1 - share) / num)


def flat(*levels, num=10, scatter=0.002):
    """Levels of so many points each, whose scatter is no luck: high and low in turn."""
    return [level + scatter * (-1) ** index for level in levels for index in range(num)]


def named(model, *numbers):
    """A generator of its own for each question."""
    return np.random.default_rng([*numbers, *model.encode()])


# --- levels and changes


def test_a_history_that_stands_still_is_one_level():
    found = course(flat(0.5), NOBODY)
    (level,) = found.levels
    assert (level.first, level.end, level.members) == (0, 10, tuple(range(10)))
    assert level.middle == pytest.approx(0.5) and found.num_free == 9
    assert found.scatter == pytest.approx(0.002 * math.sqrt(10 / 9)) and changes(found, 0.03) == ()


def test_a_jump_is_found_where_it_is_with_size_and_interval():
    found = course(flat(0.0, 0.1), NOBODY)
    (change,) = changes(found, 0.03)
    assert (change.first_after, change.num_before, change.num_after) == (10, 10, 10)
    assert change.shift == pytest.approx(0.1) and change.low < 0.1 < change.high
    half_width = 2.101 * found.scatter * math.sqrt(2 / 10)  # Student's t with 18 degrees of freedom
    assert change.high - change.shift == pytest.approx(half_width, rel=1e-3)


def test_slower_and_back_again_are_two_changes():
    found = course([*flat(0.0, num=20), *flat(0.1, num=6), *flat(0.0, num=20)], NOBODY)
    assert [(each.first_after, round(each.shift, 3)) for each in changes(found, 0.03)] == [(20, 0.1), (26, -0.1)]


@pytest.mark.parametrize("num_bad", [1, 2, 3, 4])
def test_fewer_bad_nights_than_a_level_has_are_none(num_bad):
    steady = flat(0.0, num=12)
    assert len(course([*steady, *[0.3] * num_bad, *steady], NOBODY).levels) == 1


def test_a_jump_below_the_minimum_effect_parts_levels_and_is_not_listed():
    found = course(flat(0.0, 0.02), NOBODY)
    assert len(found.levels) == 2 and changes(found, 0.03) == ()
    assert len(changes(found, 0.01)) == 1


def test_a_jump_whose_interval_holds_0_is_not_listed():
    levels = tuple(Level(first=5 * at, end=5 * at + 5, members=(0,) * 5, middle=0.05 * at) for at in (0, 1))
    assert len(changes(Course(levels=levels, scatter=0.01, num_free=8), 0.03)) == 1
    assert changes(Course(levels=levels, scatter=0.1, num_free=8), 0.03) == ()


@pytest.mark.parametrize("num", range(12))
def test_short_histories_and_equal_figures_are_no_trouble(num):
    assert len(course([0.5] * num, NOBODY).levels) == min(num, 1)
    assert sum(len(each.members) for each in course(flat(0.0, num=num), NOBODY).levels) == num


def test_a_point_that_was_called_does_not_count_to_a_level_of_others():
    called = [*NOBODY[:10], True]
    found = course([*flat(0.0), 0.1], called)
    assert found.levels[0].members == tuple(range(10)) and found.levels[0].end == 11
    assert found.scatter == pytest.approx(0.002 * math.sqrt(10 / 9))


def test_points_that_were_called_are_a_level_once_there_are_enough():
    called = [*NOBODY[:10], *[True] * 5]
    found = course([*flat(0.0), *flat(0.1, num=5)], called)
    assert [each.members for each in found.levels] == [tuple(range(10)), tuple(range(10, 15))]
    one_is_not = [*NOBODY[:11], *[True] * 5]  # by chance the first of them was not called
    found = course([*flat(0.0), *flat(0.1, num=6)], one_is_not)
    assert found.levels[1].members == tuple(range(10, 16))


def test_the_search_is_exact_where_pelt_is_not():
    """Should a later version of ruptures mend it, `Pelt` may be used; see the module."""
    assert Pelt(model="l2", min_size=2, jump=1).fit_predict(np.array([0, 1, 0, 0, 1.0]), pen=0.1) == [2, 5]


def test_ruptures_is_imported_without_a_warning_and_without_torch():
    code = "import sys, bench.gate.history_decide, bench.gate.history_text; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


# --- the rule

QUIET = Reference(middle=0.0, num_points=10, newest=9, scatter=0.004, num_free=9)


def point(first, confirming=None):
    """Three starts that agree."""
    return Figure(first=(first,) * 3, confirming=() if confirming is None else (confirming,) * 3)


def test_an_unchanged_point_is_ok_without_a_confirming_measurement():
    assert not needs_confirmation(QUIET, point(0.002))
    found = decide_point(QUIET, point(0.002))
    assert found.verdict == "ok" and "the level of 10 earlier points" in found.reason
    assert found.ratio.value == pytest.approx(math.exp(0.002)) and found.num_restarts == 3
    assert found.ratio.high == pytest.approx(math.exp(0.002 + 2.262 * 0.004 * math.sqrt(1.1)), rel=1e-4)
    assert found.threshold == pytest.approx(0.03) and found.noise_floor == pytest.approx(0.0042, abs=1e-4)
    assert 0.03 < found.smallest_detectable < 0.04 and found.p_value > 0.5


@pytest.mark.parametrize(
    ("first", "confirming", "verdict"),
    [
        (0.10, 0.10, "regression"),
        (-0.10, -0.10, "improved"),
        (0.10, 0.00, "inconclusive"),  # the second does not show it
        (0.10, None, "inconclusive"),
        (0.025, 0.025, "inconclusive"),  # slower, but is it 3 %
        (0.025, 0.000, "ok"),
        (-0.10, 0.00, "ok"),
    ],
)
def test_a_change_has_to_be_shown_twice(first, confirming, verdict):
    assert needs_confirmation(QUIET, point(first))
    found = decide_point(QUIET, point(first, confirming))
    assert found.verdict == verdict and found.reason.endswith(".") and found.reason.count("\n") == 0


def test_the_figure_is_the_median_over_restarts_so_that_one_bad_start_is_nothing():
    assert decide_point(QUIET, Figure(first=(0.0, 0.001, 0.5))).verdict == "ok"
    assert Figure(first=(0.0, 1.0, 2.0), confirming=(5.0, 6.0)).rounds == [1.0, 5.5]


def test_a_history_that_scatters_widely_is_never_ok():
    noisy = Reference(middle=0.0, num_points=10, newest=9, scatter=0.05, num_free=9)
    found = decide_point(noisy, point(0.0))
    assert found.verdict == "inconclusive" and "scatter by 5.1%" in found.reason
    assert found.threshold > 0.2 and found.smallest_detectable > found.threshold


def test_few_points_see_less_than_many():
    seen = [
        decide_point(Reference(middle=0, num_points=num, newest=0, scatter=0.01, num_free=num - 1), point(0.0))
        for num in (5, 10, 40)
    ]
    assert [each.threshold for each in seen] == pytest.approx([0.0818, 0.0461, 0.0341], abs=1e-3)
    assert seen[0].smallest_detectable > seen[1].smallest_detectable > seen[2].smallest_detectable


def test_a_minimum_effect_of_nothing_is_a_wrong_question():
    with pytest.raises(UsageError, match="--min-effect"):
        decide_point(QUIET, point(0.0), min_effect=0.0)


@pytest.mark.parametrize(
    ("num", "words"), [(1, "4 more points are missing"), (4, "1 more point is missing"), (5, "the next one has them")]
)
def test_a_short_history_says_how_many_points_are_missing(num, words):
    assert too_short(num).verdict == "inconclusive" and words in too_short(num).reason


def test_the_reference_is_the_newest_level_of_enough_points():
    assert reference_of(course(flat(0.0, num=LEAST_POINTS - 1), NOBODY), NOBODY) is None
    found = reference_of(course(flat(0.0, 0.1), NOBODY), NOBODY)
    assert found.middle == pytest.approx(0.1) and (found.num_points, found.newest, found.num_free) == (10, 19, 18)


def test_measuring_a_slow_commit_again_and_again_does_not_make_it_good():
    history = course([*flat(0.0), *flat(0.1, num=6)], [*NOBODY[:10], *[True] * 6])
    of_that_commit = [*NOBODY[:10], *[True] * 6]
    assert reference_of(history, of_that_commit).middle == pytest.approx(0.0)
    assert reference_of(history, NOBODY).middle == pytest.approx(0.1)
    alone = course(flat(0.1), NOBODY)
    assert reference_of(alone, [True] * 10).middle == pytest.approx(0.1)  # repeats of one commit may begin a history


# --- simulated machines


@cache
def jumps(model, num_points, num, slowdown=1.0):
    """Histories whose last 5 points are that much slower: shares with a jump, with one listed, listed in its place."""
    rng, counts = named(model, 3, num_points, round(1000 * slowdown)), Counter()
    at = num_points - LEAST_POINTS
    for _ in range(num):
        logs = DAYS[model](rng, num_points) + np.where(np.arange(num_points) >= at, math.log(slowdown), 0)
        found = course(list(logs), NOBODY[:num_points])
        listed = changes(found, 0.03)
        counts["found"] += len(found.levels) > 1
        counts["listed"] += bool(listed)
        counts["in place"] += any(each.first_after == at for each in listed)
        counts["interval holds"] += any(each.low <= math.log(slowdown) <= each.high for each in listed)
    return {name: counts[name] / num for name in ("found", "listed", "in place", "interval holds")}


@pytest.mark.parametrize("num_points", [10, 20, 50])
@pytest.mark.parametrize("model", ["normal", "Student's t, 3 degrees", "Student's t, 2 degrees", "1 bad night in 30"])
def test_a_jump_is_found_by_chance_in_at_most_one_history_in_a_hundred(model, num_points):
    found = jumps(model, num_points, 200)
    assert found["found"] <= 0.01 + chance(0.01, 200) and found["listed"] <= 0.005 + chance(0.005, 200)


def test_five_points_that_are_5_percent_slower_are_a_change_in_the_right_place():
    found = jumps("normal", 25, 100, 1.05)
    assert found["listed"] >= 0.99 and found["in place"] >= 0.95 and found["interval holds"] >= 0.86


def test_neighbours_that_resemble_each_other_show_jumps_that_nobody_made():
    """A limit that the module states, and not a promise."""
    found = jumps("neighbours correlate by 0.7", 50, 50)
    assert found["found"] > 0.5 and found["listed"] < 0.1


@cache
def verdicts(model, num_earlier, num, slowdown=1.0):
    """Of one point that is that much slower than so many earlier ones."""
    rng = named(model, 5, num_earlier, round(1000 * slowdown))
    found = [last_decision(rng, model, num_earlier, slowdown) for _ in range(num)]
    counts = Counter(each.verdict for each in found)
    return {verdict: counts[verdict] / num for verdict in EXIT_CODES}, found


@cache
def nights(model, num, seed=0, num_nights=60):
    """Unchanged code from the first point on: share of each verdict, of all nights with one."""
    rng, counts = named(model, 7, seed), Counter()
    for _ in range(num):
        counts.update(each.verdict for each in every_decision(rng, model, num_nights) if each is not None)
    return {verdict: counts[verdict] / counts.total() for verdict in EXIT_CODES}, counts.total()


@pytest.mark.parametrize(
    "model", ["normal", "normal, 0.3 %", "neighbours correlate by 0.3", "neighbours correlate by 0.7"]
)
def test_a_false_alarm_comes_in_one_night_in_a_thousand(model):
    found, total = nights(model, 12)
    assert found["regression"] <= FALSE_ALARMS + chance(FALSE_ALARMS, total)
    assert found["improved"] <= FALSE_ALARMS + chance(FALSE_ALARMS, total)
    assert found["ok"] >= 0.85


@pytest.mark.parametrize(("model", "num", "slowdown", "least"), [
    ("normal, 0.3 %", 10, 1.05, 0.97), ("normal", 20, 1.05, 0.65), ("normal", 10, 1.1, 0.99), ("normal", 20, 1.25, 1.0),
])  # fmt: skip
def test_slowdowns_are_found(model, num, slowdown, least):
    assert verdicts(model, num, 150, slowdown)[0]["regression"] >= least - chance(least, 150)


@pytest.mark.parametrize("num_earlier", [5, 10, 30])
def test_the_smallest_detectable_slowdown_is_found_in_about_80_percent(num_earlier):
    check_smallest_detectable("normal", num_earlier, 200)


def check_smallest_detectable(model, num_earlier, num, allowed=0.0):
    """Each history is asked about a slowdown of the size that it says itself."""
    rng, seen = named(model, 9, num_earlier), 0
    for _ in range(num):
        *earlier, last = figures(rng, model, num_earlier + 1)
        claimed = math.log1p(decided(earlier, NOBODY[:num_earlier], last).smallest_detectable)
        slower = Figure(
            first=tuple(each + claimed for each in last.first),
            confirming=tuple(each + claimed for each in last.confirming),
        )
        seen += decided(earlier, NOBODY[:num_earlier], slower).verdict == "regression"
    assert abs(seen / num - POWER) <= chance(POWER, num) + allowed, seen / num


def test_the_alarm_lasts_until_the_slow_points_are_a_level_of_their_own():
    rng = named("normal", 11)
    for _ in range(5):
        found = [each and each.verdict for each in every_decision(rng, "normal, 0.3 %", 30, slow_from=20, slowdown=1.1)]
        assert found[:LEAST_POINTS] == [None] * LEAST_POINTS
        assert found[20:25] == ["regression"] * 5 and "regression" not in found[25:]


def test_on_a_shared_machine_a_history_says_nothing():
    found = verdicts("shared machine, 15 %", 20, 60)[0]
    assert found["ok"] == 0 and found["inconclusive"] >= 0.95
    assert verdicts("shared machine, 15 %", 20, 60, 1.1)[0]["regression"] <= 0.05


def test_a_night_that_is_bad_to_its_end_is_an_alarm():
    """A limit that the module states: nothing within one command can tell it from a commit."""
    rng = named("normal", 13)
    *earlier, _ = figures(rng, "normal", 20)
    bad = Figure(first=(values(earlier)[0] + 0.2,) * 3, confirming=(values(earlier)[0] + 0.2,) * 3)
    assert decided(earlier, NOBODY[:19], bad).verdict == "regression"


# --- more of them: the tables of the docstrings

FOUND_AND_LISTED = {  # of 20 points, in per cent
    "normal": (1.0, 0.0),
    "1 bad night in 30": (0.8, 0.1),
    "1 bad night in 12": (2.4, 1.3),
    "Student's t, 2 degrees": (0.6, 0.1),
    "skewed": (2.1, 0.0),
    "neighbours correlate by 0.3": (6.9, 0.0),
    "neighbours correlate by 0.7": (45.0, 0.4),
    "drift of 10 % in 100 points": (17.0, 0.0),
}
FALSE_ALARMS_AND_FOUND = {  # false alarms a night, and 10 % found after 20 nights, in per cent
    "normal, 0.3 %": (0.0, 100.0),
    "normal": (0.05, 100.0),
    "normal, 2 %": (0.05, 77.0),
    "1 bad night in 30": (3.0, 88.0),
    "1 bad night in 12": (7.4, 68.0),
    "Student's t, 3 degrees": (0.85, 95.0),
    "Student's t, 2 degrees": (1.7, 86.0),
    "skewed": (1.2, 100.0),
    "neighbours correlate by 0.3": (0.07, 100.0),
    "neighbours correlate by 0.7": (0.15, 100.0),
    "drift of 10 % in 100 points": (0.45, 100.0),
    "shared machine, 15 %": (0.13, 0.3),
}


def near(seen, stated_percent, num):
    """Whether a share is the stated one within the luck of both simulations."""
    stated = min(max(stated_percent / 100, 1 / num), 1 - 1 / num)
    return abs(seen - stated_percent / 100) <= 1.5 * chance(stated, num)


@pytest.mark.slow
@pytest.mark.parametrize("model", FOUND_AND_LISTED)
def test_jumps_that_are_none_come_as_often_as_stated(model):
    found, listed = FOUND_AND_LISTED[model]
    seen = jumps(model, 20, 2000)
    assert near(seen["found"], found, 2000) and near(seen["listed"], listed, 2000), seen


@pytest.mark.slow
@pytest.mark.parametrize("num_points", [10, 15, 30, 60, 100, 200])
def test_the_penalty_holds_its_share_for_every_length(num_points):
    assert jumps("normal", num_points, 2000)["found"] <= 0.01 + chance(0.01, 2000)


@pytest.mark.slow
@pytest.mark.parametrize("model", FALSE_ALARMS_AND_FOUND)
def test_alarms_and_what_is_found_are_as_often_as_stated(model):
    alarms, finds = FALSE_ALARMS_AND_FOUND[model]
    seen, total = nights(model, 100, seed=1)
    assert near(seen["regression"], alarms, total), seen
    rng = named(model, 15)
    found = [every_decision(rng, model, 21, slow_from=20, slowdown=1.1)[20].verdict for _ in range(200)]
    assert near(found.count("regression") / 200, finds, 200), Counter(found)


@pytest.mark.slow
@pytest.mark.parametrize("num_earlier", [5, 8, 20, 40])
@pytest.mark.parametrize("model", ["normal", "normal, 2 %", "Student's t, 3 degrees"])
def test_the_smallest_detectable_slowdown_holds_for_other_noise_and_counts(model, num_earlier):
    check_smallest_detectable(model, num_earlier, 500, allowed=0.04)
