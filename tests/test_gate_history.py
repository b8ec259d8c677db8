"""`bench gate --history` on simulated workers and a simulated clock, and the command around it."""

import json
import re

import pytest
from gate_history_points import FakeLine, Nights, commit
from gate_lanes import GENERATE, TRAIN, UNIT_COUNTS

from bench import cli_gate
from bench.errors import RecordError, UsageError
from bench.gate import history_past
from bench.gate.checkout import GateError
from bench.gate.history_past import Here, differences, software_changes, timing_code
from bench.gate.history_point import FOLDER, load_points, read_point, write_point
from bench.gate.history_sitting import plan_points
from bench.gate.question import Setting


@pytest.fixture
def nights(tmp_path):
    """A machine without a history."""
    return Nights(tmp_path / "results")


@pytest.fixture
def settled(nights):
    """One with eight points of eight commits."""
    nights.many(range(8))
    return nights


def only(point):
    """The one decision of the one workload."""
    (workload,) = point.workloads
    (decision,) = workload.decisions
    return decision


def rewritten(nights, **changes):
    """Every stored point changed, as another machine or another version would have written it."""
    points, problems = load_points(nights.results)
    assert problems == []
    for point in points:
        write_point(nights.results, point.model_copy(update=changes))


# --- verdicts


def test_a_history_begins_with_points_that_decide_nothing_and_says_how_many_are_missing(nights):
    points = nights.many(range(6))
    assert [each.exit_code for each in points] == [3, 3, 3, 3, 3, 0]
    assert [re.search(r"(\d) more|the next one", only(each).reason)[0] for each in points[:5]] == [
        "4 more", "3 more", "2 more", "1 more", "the next one",
    ]  # fmt: skip
    assert only(points[5]).verdict == "ok" and "the level of 5 earlier points" in only(points[5]).reason
    assert len(list((nights.results / FOLDER).iterdir())) == 6


def test_an_unchanged_point_is_measured_once_in_fresh_processes(settled):
    point = settled.measure(8)
    machine = settled.machine
    assert (point.verdict, point.exit_code) == ("ok", 0)
    (workload,) = point.workloads
    assert [each.name for each in workload.rounds] == ["first"] and len(workload.rounds[0].restarts) == 5
    assert machine.num_started == 6 and machine.num_running == 0 and machine.num_counted == 1
    assert {side for side, _ in machine.blocks} == {"head"}
    assert sum(map(len, workload.rounds[0].restarts)) == len(machine.blocks)
    (level,) = workload.levels
    assert (level.num_points, level.num_earlier, level.newest_commit) == (8, 8, commit(7))
    assert workload.changes == () and workload.exact_changes == () and workload.counts_from == level.newest_id


def test_a_slow_commit_is_confirmed_in_processes_of_its_own(settled):
    point = settled.measure(8, 1.10)
    assert (point.verdict, point.exit_code) == ("regression", 1)
    assert only(point).ratio.value == pytest.approx(1.10, abs=0.02) and only(point).num_restarts == 10
    assert [each.name for each in point.workloads[0].rounds] == ["first", "confirming"]
    assert settled.machine.num_started == 11
    assert f"`bench gate --base {commit(7)[:10]}` tells" in point.notes[0]


def test_a_faster_commit_is_improved_and_passes(settled):
    point = settled.measure(8, 0.85)
    assert (point.verdict, point.exit_code) == ("improved", 0)


def test_only_the_workload_that_needs_it_is_confirmed(nights):
    nights.many(range(7), workloads=[TRAIN, GENERATE])
    slow = {TRAIN.name: 1.0, GENERATE.name: 1.2}
    point = nights.measure(7, slow, workloads=[TRAIN, GENERATE])
    assert [each.decisions[0].verdict for each in point.workloads] == ["ok", "regression"]
    assert [len(each.rounds) for each in point.workloads] == [1, 2] and point.verdict == "regression"
    assert all(each.decisions[0].adjusted_p_value is not None for each in point.workloads)


@pytest.mark.parametrize(("policy", "code"), [("report", 3), ("pass", 0), ("fail", 1)])
def test_the_policy_says_what_inconclusive_means(nights, policy, code):
    point = nights.measure(0, inconclusive=policy)
    assert (point.verdict, point.exit_code) == ("inconclusive", code)


def test_a_history_that_is_too_noisy_names_the_point_that_makes_it_most_so(tmp_path):
    noisy = Nights(tmp_path, day=0.06)
    points = noisy.many(range(7))
    point = noisy.measure(7, 1.02)
    assert point.verdict == "inconclusive" and "too much to tell" in only(point).reason
    named = re.search(r"The furthest from its level is (\S+) \([+-]\d+\.\d%\); a point is one file", only(point).reason)
    assert named[1] in {each.point_id for each in points}


def test_a_slow_commit_stays_slow_until_five_points_say_so_and_the_change_is_listed_with_its_suspects(settled):
    points = settled.many(range(8, 14), 1.10)
    assert [each.verdict for each in points] == ["regression"] * 5 + ["ok"]
    assert [len(each.workloads[0].changes) for each in points] == [0, 0, 0, 0, 1, 1]
    (change,) = points[-1].workloads[0].changes
    assert (change.num_before, change.num_after) == (8, 6) and change.ratio.value == pytest.approx(1.10, abs=0.01)
    assert change.ratio.low > 1.08 and change.ratio.high < 1.12 and change.date == FakeLine(8).date
    assert (change.suspects.before, change.suspects.after) == (commit(7), commit(8))
    assert (change.suspects.num_commits, change.suspects.subject) == (1, "Slow it down")
    assert points[-1].workloads[0].levels[0].num_points == 5 and "above the first level's" in points[-1].notes[0]


def test_measuring_a_slow_commit_again_does_not_make_it_good(settled):
    points = [settled.measure(8, 1.10) for _ in range(7)]
    assert {each.verdict for each in points} == {"regression"}
    assert points[-1].workloads[0].changes[0].num_after == 7  # and yet the change is listed


def test_repeats_of_one_commit_may_begin_a_history(nights):
    points = [nights.measure(0) for _ in range(6)]
    assert [each.verdict for each in points] == ["inconclusive"] * 5 + ["ok"]


def test_an_old_commit_that_is_measured_today_stands_in_its_place(settled):
    settled.many(range(20, 26), 1.2)
    old = settled.measure(10)
    assert old.verdict == "ok" and old.workloads[0].levels[0].num_earlier == 8  # the later commits are not its past
    newest = settled.measure(26, 1.2)
    (change,) = newest.workloads[0].changes
    assert (change.num_before, change.num_after, change.date) == (9, 7, FakeLine(20).date)
    assert (change.suspects.before, change.suspects.num_commits) == (commit(10), 10)


# --- counts


def counted(**changes):
    return {("head", TRAIN.name): {"exact": UNIT_COUNTS | changes}}


def test_one_parameter_more_is_a_regression_however_often_it_is_measured_and_is_timed_all_the_same(settled):
    more = counted(num_params_generator=1001)
    for _ in range(2):
        point = settled.measure(8, facts=more)
        counts, time = point.workloads[0].decisions
        assert (counts.figure, counts.verdict, time.verdict) == ("counts", "regression", "ok")
        assert "num_params_generator +1." in counts.reason and point.exit_code == 1
        assert settled.machine.blocks != []
    assert settled.measure(9, facts=more).verdict == "ok"  # the next commit has no more of it


def test_counts_by_other_code_are_not_compared_and_that_is_said(settled):
    point = settled.measure(8, facts={("head", TRAIN.name): {"counter_code": "b"}})
    assert point.verdict == "ok" and "count by different code" in point.workloads[0].not_counted["macs_per_iteration"]


# --- what is refused and left out


def test_points_of_another_machine_are_refused_by_name_and_a_history_of_its_own_begins(settled):
    machine = load_points(settled.results)[0][0].machine.model_copy(update={"torch": "2.14.0", "hostname": "elsewhere"})
    there = Here(machine=machine, device="cpu", num_threads=1, with_energy=False, timing_code=timing_code())
    rewritten(settled, machine=machine, fingerprint=there.fingerprint)
    point = settled.measure(8, 1.5)
    assert (point.verdict, point.exit_code) == ("invalid", 4)
    reason = only(point).reason
    assert "The history has 8 points of another machine and none of this one (host: elsewhere there," in reason
    assert "torch: 2.14.0 there, 2." in reason and "side by side" in reason and reason.count(". ") == 0
    assert point.workloads[0].levels[0].num_earlier == 0 and len(point.workloads[0].rounds) == 1
    again = settled.measure(9)
    assert again.exit_code == 3 and "3 more points are missing" in only(again).reason
    assert "Earlier points that are of another machine and are left out: 8." in again.notes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"torch": "2.14.0"}, "torch: 2.14.0 there"),
        ({"python": "3.10.1"}, "Python: 3.10.1 there"),
        ({"cpu": "another"}, "processor: another there"),
        ({"container_cpu_limit": 1.5}, "container's cores: 1.5 there"),
    ],
)
def test_what_makes_another_machine(settled, changes, words):
    machine = load_points(settled.results)[0][0].machine
    one, other = (
        Here(machine=each, device="cpu", num_threads=1, with_energy=False, timing_code="")
        for each in (machine.model_copy(update=changes), machine)
    )
    assert one.fingerprint != other.fingerprint and words in differences(one.identity, other.identity)


def test_of_a_gpu_driver_cuda_and_power_limit_make_the_machine_and_of_a_processor_they_do_not(settled):
    machine = load_points(settled.results)[0][0].machine
    capped = machine.model_copy(update={"driver": "600", "gpu_power_limit_w": (300.0,)})
    for device, are_alike in (("cuda:0", False), ("cpu", True)):
        one, other = (
            Here(machine=each, device=device, num_threads=1, with_energy=False, timing_code="")
            for each in (machine, capped)
        )
        assert (one.fingerprint == other.fingerprint) is are_alike


def test_threads_of_the_workers_count_and_those_of_this_process_do_not(settled):
    machine = load_points(settled.results)[0][0].machine
    plain = {"device": "cpu", "with_energy": False, "timing_code": ""}
    one = Here(machine=machine, num_threads=1, **plain)
    busy = Here(machine=machine.model_copy(update={"num_torch_threads": 64}), num_threads=1, **plain)
    two = Here(machine=machine, num_threads=2, **plain)
    assert one.fingerprint == busy.fingerprint != two.fingerprint


def test_software_that_may_change_is_named_beside_a_change(settled):
    points, _ = load_points(settled.results)
    machine = points[0].machine
    older = machine.model_copy(update={"packages": machine.packages | {"numpy": "1.0"}, "os": "Linux-1"})
    assert software_changes(older, machine) == (
        f"system: Linux-1 → {machine.os}",
        f"numpy: 1.0 → {machine.packages['numpy']}",
    )
    rewritten(settled, machine=older)
    changed = settled.many(range(8, 13), 1.2)[-1].workloads[0].changes[0]
    assert f"numpy: 1.0 → {machine.packages['numpy']}" in changed.machine


def test_uncommitted_changes_get_a_verdict_and_no_later_point_is_compared_with_them(settled):
    dirty = settled.measure(8, 1.2, is_dirty=True)
    assert dirty.verdict == "regression" and dirty.is_dirty and "uncommitted changes" in dirty.notes[0]
    point = settled.measure(9)
    assert point.verdict == "ok" and point.workloads[0].levels[0].num_earlier == 8
    assert "Earlier points that hold uncommitted changes and are left out: 1." in point.notes


def test_a_dirty_point_is_no_part_of_the_changes_and_brings_no_history_nearer(settled, tmp_path):
    for number in range(8, 12):
        settled.measure(number, 1.2)
    assert settled.measure(12, 1.2, is_dirty=True).workloads[0].changes == ()
    assert len(settled.measure(12, 1.2).workloads[0].changes) == 1
    fresh = Nights(tmp_path / "fresh")
    assert "5 more points" in only(fresh.measure(0, is_dirty=True)).reason
    assert fresh.measure(1).verdict == "inconclusive"  # and not invalid: there is no history yet


def test_another_batch_size_is_invalid_once_and_then_a_history_of_its_own(settled):
    smaller = {("head", TRAIN.name): {"measured": {"batch_size": 8}}}
    first = settled.measure(8, facts=smaller)
    assert (first.verdict, first.exit_code) == ("invalid", 4)
    assert "8 earlier points measured something else: batch_size: 16 there, 8 here;" in only(first).reason
    assert first.workloads[0].exact_changes == ()
    second = settled.measure(9, facts=smaller)
    assert second.exit_code == 3 and any(
        "batch_size: 16 there, 8 here; they are left out" in each for each in second.notes
    )
    settled.many(range(10, 13), facts=smaller)
    assert settled.measure(13, facts=smaller).verdict == "ok"
    assert settled.measure(14).workloads[0].levels[0].num_points == 8


def test_a_worker_that_times_by_other_code_begins_a_history_and_the_versions_own_code_does_not(settled, monkeypatch):
    own = {("head", TRAIN.name): {"measured": {"batch_size": 16, "benchmark_code": "another"}}}
    assert settled.measure(8, facts=own).verdict == "ok"
    monkeypatch.setattr(history_past, "_TIMING_FILES", ("pairs.py",))
    point = settled.measure(9)
    assert point.verdict == "invalid" and "the gate's own code:" in only(point).reason


def test_points_of_other_branches_are_left_out_and_those_of_unknown_commits_are_not(settled):
    settled.many([8, 9], 1.5)
    line = FakeLine(10, others=frozenset({8, 9}), unknown=frozenset({2, 3}))
    point = settled.measure(10, line=line)
    assert point.verdict == "ok" and point.workloads[0].levels[0].num_earlier == 8
    assert any("does not contain (another branch, or amended) and are left out: 2." in each for each in point.notes)
    assert any("unknown to this clone and stand where their dates put them: 2." in each for each in point.notes)


def test_a_broken_file_is_named_and_left_out(settled):
    broken, newer = ((settled.results / FOLDER / name) for name in ("a.json", "b.json"))
    broken.write_text('{"schema_version": 1')
    newer.write_text(next((settled.results / FOLDER).glob("2*.json")).read_text().replace(": 1,", ": 9,", 1))
    point = settled.measure(8)
    assert point.verdict == "ok" and point.workloads[0].levels[0].num_earlier == 8
    for note, path in zip(point.notes[:2], (broken, newer), strict=True):
        assert note.startswith(f"'{path}' cannot be read as a point of a history: ") and note.endswith("bring it back.")
    with pytest.raises(RecordError):
        read_point(settled.results / FOLDER / "none.json")


# --- workers that fail


@pytest.mark.parametrize("failure", ["crash", "hang", "out of memory"])
@pytest.mark.parametrize("command", ["prepare", "block"])
def test_a_worker_that_fails_is_invalid_with_its_sentence_and_its_point_is_no_reference(settled, failure, command):
    point = settled.measure(8, fails={("head", TRAIN.name, command): failure})
    assert (point.verdict, point.exit_code) == ("invalid", 4)
    assert only(point).reason == f"head has a {failure} in train_step:ladagan." and settled.machine.num_running == 0
    assert settled.measure(9).workloads[0].levels[0].num_earlier == 8


def test_a_version_that_cannot_be_loaded_is_invalid(settled):
    point = settled.measure(8, fails={("head", "", "start"): "start"})
    assert point.exit_code == 4 and point.workloads[0].facts is None


def test_a_workload_that_the_version_does_not_know_is_a_wrong_question(nights):
    with pytest.raises(UsageError):
        nights.measure(0, fails={("head", TRAIN.name, "prepare"): "refused"})
    assert nights.machine.num_running == 0


def test_an_exception_ends_the_worker(nights):
    with pytest.raises(KeyboardInterrupt):
        nights.measure(0, fails={("head", TRAIN.name, "block"): "stopped"})
    assert nights.machine.num_running == 0 and not nights.results.exists()


# --- budget and energy


@pytest.mark.parametrize("budget_s", [60.0, 120.0, 360.0])
@pytest.mark.parametrize("slowdown", [1.0, 1.08, 2.5])
def test_the_budget_bounds_all(settled, budget_s, slowdown):
    point = settled.measure(8, slowdown, budget_s=budget_s)
    assert settled.machine.now_s <= budget_s + 0.25 * slowdown
    assert point.duration_s == pytest.approx(settled.machine.now_s)
    assert point.verdict == ("ok" if slowdown == 1.0 else "regression")


def test_a_budget_without_room_is_inconclusive_at_once_and_says_how_much_it_takes(settled):
    point = settled.measure(8, budget_s=12.0)
    assert point.exit_code == 3 and settled.machine.blocks == []
    assert re.search(
        r"of the budget are left, and 3 starts with 4 blocks each .* need \d+ s: raise --budget", only(point).reason
    )
    assert settled.measure(9).workloads[0].levels[0].num_earlier == 8  # it is no point


def test_a_short_budget_takes_fewer_restarts_before_it_gives_up():
    plans = [plan_points(budget_s, block_s=0.25, start_s=2.0) for budget_s in (15, 20, 40, 400)]
    assert [(each.num_restarts, each.blocks_per_restart) for each in plans] == [(0, 0), (3, 5), (5, 8), (5, 20)]
    assert all(each.duration_s <= budget_s for each, budget_s in zip(plans[1:], (20, 40, 400), strict=True))


def test_joules_have_a_history_beside_time(nights):
    metered = Setting(device="cpu", with_energy=True)
    nights.many(range(6), joules={"head": 30.0}, setting=metered, budget_s=900)
    point = nights.measure(6, joules={"head": 36.0}, setting=metered, budget_s=900)
    time, joules = point.workloads[0].decisions
    assert (time.figure, time.verdict, joules.figure, joules.verdict) == ("time", "ok", "cpu_energy_j", "regression")
    assert joules.ratio.value == pytest.approx(1.2, abs=0.03) and point.workloads[0].num_iterations * 0.05 >= 2.0
    without = nights.measure(7)
    assert without.verdict == "invalid" and "meters beside it: True there, False here" in only(without).reason


def test_a_block_without_its_joules_makes_that_figure_invalid_with_the_meters_reason(nights):
    point = nights.measure(0, joules={"head": None}, setting=Setting(device="cpu", with_energy=True), budget_s=900)
    time, joules = point.workloads[0].decisions
    assert (time.verdict, joules.verdict) == ("inconclusive", "invalid") and "the counter was reset" in joules.reason


# --- the document and the command


def test_everything_is_in_the_document_and_comes_back(settled):
    point = settled.measure(8, 1.1)
    path = settled.results / FOLDER / f"{point.point_id}.json"
    assert path.read_text() == point.json_text() and read_point(path) == point
    assert sum(len(blocks) for each in point.workloads[0].rounds for blocks in each.restarts) == len(
        settled.machine.blocks
    )
    assert (point.commit, point.commit_date, point.is_dirty) == (commit(8), FakeLine(8).date, False)


@pytest.fixture
def command(monkeypatch, tmp_path):
    """The command on simulated workers and commits, one more each time; what it compares with lies elsewhere."""
    nights = Nights(tmp_path / "measured")
    numbers = iter(range(100))

    def measured(question, around, *, results, head):
        slowdown = 1.2 if head == "slow" else 1.0
        options = {"budget_s": question.budget_s, "inconclusive": question.inconclusive}
        return nights.measure(next(numbers), slowdown, workloads=question.workloads, **options)

    monkeypatch.setattr("bench.gate.history.history_gate", measured)
    asked = {"history": True, "workloads": "train_step", "device": "cpu", "results": tmp_path / "results"}
    return lambda **options: cli_gate.gate(**asked | options)


def test_the_command_stores_says_and_gives_the_exit_code(command, tmp_path, capsys):
    assert [command() for _ in range(6)] == [3, 3, 3, 3, 3, 0]
    text = capsys.readouterr().out
    assert "1 more point is missing" in text and "ok: No slowdown. (exit code 0)" in text and "This point: " in text
    assert command(head="slow", json=True, markdown=tmp_path / "deep" / "a.md") == 1
    printed = capsys.readouterr().out
    stored = tmp_path / "results" / FOLDER / f"{json.loads(printed)['point_id']}.json"
    assert printed == stored.read_text() and json.loads(printed)["verdict"] == "regression"
    assert "bench gate --history: regression" in (tmp_path / "deep" / "a.md").read_text()
    assert command(inconclusive="fail") == 0  # a decided point is not concerned


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base": "HEAD"}, "leave --base out"),
        ({"self_test": True}, "leave --self-test out"),
        ({"junit": "a.xml", "export": "bencher=a"}, "leave --junit and --export out"),
        ({"num_gates": 2}, "--num-gates belongs to --self-test"),
        ({"budget": "3kimg"}, "--budget '3kimg' must be a time"),
    ],
)
def test_what_does_not_go_with_a_history_is_one_sentence(options, words):
    with pytest.raises(UsageError) as caught:
        cli_gate.gate(history=True, **options)
    assert words in str(caught.value) and caught.value.exit_code == 2


def test_a_point_that_cannot_be_stored_is_not_a_regression(command, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GateError) as caught:
        command(results=tmp_path / "file" / "below")
    assert caught.value.exit_code == 4
