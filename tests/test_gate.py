"""The gate's main path on simulated workers and a simulated clock, the command around it, and once the real thing."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from gate_lanes import BOTH, GENERATE, TRAIN, UNIT_COUNTS, Machine

from bench import cli_gate
from bench.errors import RecordError, UsageError
from bench.gate import selftest
from bench.gate.checkout import GateError
from bench.gate.gate import asked_workloads
from bench.gate.gate import gate as run_gate
from bench.gate.outcome import read_gate, write_gate
from bench.gate.pairs import Plan
from bench.gate.question import Setting
from bench.gate.selftest import Attempt, self_test, self_test_text, slowed_copy
from bench.gate.sitting import Question, Surroundings

ROOT = Path(__file__).resolve().parent.parent
NAMES = (TRAIN.name, GENERATE.name)


def rounds_of(outcome, index=0):
    return {each.name: each for each in outcome.workloads[index].rounds}


def only(outcome):
    """The one decision of the one workload."""
    (workload,) = outcome.workloads
    (decision,) = workload.decisions
    return decision


# --- verdicts


def test_equal_versions_are_ok_without_a_confirming_round():
    machine = Machine()
    outcome = machine.gate()
    assert (outcome.verdict, outcome.exit_code) == ("ok", 0)
    assert list(rounds_of(outcome)) == ["base against base", "first"]
    num_restarts = outcome.plan.num_restarts
    assert only(outcome).num_pairs >= 12 and only(outcome).num_restarts == num_restarts >= 2
    assert 0 < only(outcome).smallest_detectable < 0.1
    assert machine.num_started == 2 * (1 + 2 * num_restarts) and machine.num_running == 0
    assert machine.num_counted == 2


def test_a_true_slowdown_is_confirmed_in_processes_of_its_own():
    machine = Machine(slowdown={TRAIN.name: 1.10})
    outcome = machine.gate()
    assert (outcome.verdict, outcome.exit_code) == ("regression", 1)
    assert only(outcome).ratio.value == pytest.approx(1.10, abs=0.01)
    assert list(rounds_of(outcome)) == ["base against base", "first", "confirming"]
    assert machine.num_started == 2 * (1 + 3 * outcome.plan.num_restarts)


def test_a_speed_up_is_improved_and_passes():
    outcome = Machine(slowdown={TRAIN.name: 0.85}).gate()
    assert (outcome.verdict, outcome.exit_code) == ("improved", 0)


def test_only_the_workload_that_needs_it_is_confirmed():
    outcome = Machine(slowdown={GENERATE.name: 1.2}).gate([TRAIN, GENERATE], budget_s=240)
    assert [each.decisions[0].verdict for each in outcome.workloads] == ["ok", "regression"]
    assert "confirming" not in rounds_of(outcome, 0) and "confirming" in rounds_of(outcome, 1)
    assert outcome.verdict == "regression"
    assert all(each.decisions[0].adjusted_p_value is not None for each in outcome.workloads)


def test_blocks_take_turns_in_fours_and_the_null_round_is_base_alone():
    machine = Machine()
    outcome = machine.gate()
    sides = [side for side, _ in machine.blocks]
    num_null = sum(len(blocks) for blocks in rounds_of(outcome)["base against base"].restarts)
    assert set(sides[:num_null]) == {"base", "second base"} and set(sides[num_null:]) == {"base", "head"}
    for each in rounds_of(outcome).values():
        for blocks in each.restarts:
            fours = [
                "".join(block.side[0] for block in blocks[first : first + 4]) for first in range(0, len(blocks), 4)
            ]
            assert set(fours) <= {"bhhb", "hbbh"}


@pytest.mark.parametrize(("policy", "code"), [("report", 3), ("pass", 0), ("fail", 1)])
def test_a_machine_that_is_too_noisy_is_inconclusive_and_the_policy_says_what_that_means(policy, code):
    outcome = Machine(noise=0.6).gate(inconclusive=policy)
    assert (outcome.verdict, outcome.exit_code) == ("inconclusive", code)


def test_no_false_alarm_in_many_gates_of_equal_versions():
    verdicts = []
    for seed in range(40):
        machine = Machine(noise=0.04, starts_differ=0.005)
        machine.rng.seed(seed)
        verdicts.append(machine.gate().verdict)
    assert "regression" not in verdicts and verdicts.count("ok") >= 20


# --- counts


def counted(**changes):
    return {("head", TRAIN.name): {"exact": UNIT_COUNTS | changes}}


def test_one_parameter_more_is_a_regression_and_nothing_is_timed():
    machine = Machine(facts=counted(num_params_generator=1001))
    outcome = machine.gate()
    assert (outcome.verdict, outcome.exit_code) == ("regression", 1)
    assert only(outcome).figure == "counts" and "num_params_generator +1." in only(outcome).reason
    assert machine.blocks == [] and machine.num_started == 2 and outcome.plan is None


def test_a_count_that_shrinks_is_shown_and_decides_nothing():
    outcome = Machine(facts=counted(macs_per_iteration=4000)).gate()
    assert outcome.verdict == "ok"
    (change,) = outcome.workloads[0].exact_changes
    assert (change.base, change.head, change.is_regression) == (5000, 4000, False)


@pytest.mark.parametrize(("num_bytes", "verdict"), [(100_099, "ok"), (100_101, "regression")])
def test_bytes_count_from_a_thousandth_on(num_bytes, verdict):
    outcome = Machine(facts=counted(bytes_per_iteration=num_bytes)).gate()
    assert outcome.verdict == verdict and len(outcome.workloads[0].exact_changes) == 1


def test_a_regression_by_count_leaves_other_workloads_to_the_clock():
    machine = Machine(facts=counted(macs_per_iteration=5001))
    outcome = machine.gate([TRAIN, GENERATE])
    assert [each.decisions[0].verdict for each in outcome.workloads] == ["regression", "ok"]
    assert {name for _, name in machine.blocks} == {GENERATE.name}


# --- invalid


def test_another_batch_size_is_invalid_with_the_reason_even_where_counts_grew():
    changes = {"measured": {"batch_size": 8}, "exact": UNIT_COUNTS | {"macs_per_iteration": 9000}}
    machine = Machine(facts={("head", TRAIN.name): changes})
    outcome = machine.gate()
    assert (outcome.verdict, outcome.exit_code) == ("invalid", 4)
    assert "batch_size: 16 in base, 8 in head" in only(outcome).reason and machine.blocks == []
    assert outcome.workloads[0].exact_changes == ()  # they would mean nothing


@pytest.mark.parametrize("side", ["base", "head"])
@pytest.mark.parametrize("failure", ["crash", "hang", "out of memory"])
@pytest.mark.parametrize("command", ["prepare", "block"])
def test_a_worker_that_fails_is_invalid_with_its_sentence_and_nobody_is_left(side, failure, command):
    machine = Machine(fails={(side, TRAIN.name, command): failure})
    outcome = machine.gate()
    assert (outcome.verdict, outcome.exit_code) == ("invalid", 4)
    assert only(outcome).reason == f"{side} has a {failure} in train_step:ladagan."
    assert machine.num_running == 0


def test_a_version_that_cannot_be_loaded_is_invalid():
    machine = Machine(fails={("head", "", "start"): "start"})
    assert machine.gate().exit_code == 4 and machine.num_running == 0


def test_a_workload_that_one_side_alone_knows_is_invalid_and_one_that_none_knows_a_wrong_question():
    machine = Machine(fails={("base", TRAIN.name, "prepare"): "refused"})
    outcome = machine.gate([TRAIN, GENERATE])
    assert [each.decisions[0].verdict for each in outcome.workloads] == ["invalid", "ok"]
    assert outcome.exit_code == 4 and "Only one side" in outcome.workloads[0].decisions[0].reason
    machine.fails["head", TRAIN.name, "prepare"] = "refused"
    with pytest.raises(UsageError):
        machine.gate()
    assert machine.num_running == 0


def test_a_regression_by_count_stands_where_a_worker_fails_later():
    machine = Machine(facts=counted(macs_per_iteration=5001), fails={("head", GENERATE.name, "block"): "crash"})
    outcome = machine.gate([TRAIN, GENERATE])
    assert [each.decisions[0].verdict for each in outcome.workloads] == ["regression", "invalid"]
    assert outcome.exit_code == 1


def test_an_exception_ends_every_worker():
    machine = Machine(fails={("head", TRAIN.name, "block"): "stopped"})
    with pytest.raises(KeyboardInterrupt):
        machine.gate()
    assert machine.num_running == 0 and machine.num_started > 2


# --- budget


@pytest.mark.parametrize("budget_s", [90.0, 120.0, 200.0, 360.0])
@pytest.mark.parametrize("slowdown", [1.0, 1.08, 2.5])
def test_the_budget_bounds_all_even_where_the_head_is_much_slower_than_planned(budget_s, slowdown):
    machine = Machine(slowdown={TRAIN.name: slowdown}, noise=0.05)
    outcome = machine.gate(budget_s=budget_s)
    assert machine.now_s <= budget_s + 4 * 0.25 * slowdown
    assert outcome.duration_s == pytest.approx(machine.now_s)
    assert outcome.verdict != ("regression" if slowdown == 1.0 else "ok")
    assert outcome.verdict == "regression" or slowdown < 2


def test_starts_that_take_longer_than_the_first_one_take_from_the_confirming_round_first():
    machine = Machine(slower_starts_s=4.0)
    outcome = machine.gate(budget_s=90.0)
    assert machine.now_s <= 91 and outcome.verdict == "ok"
    assert only(outcome).num_pairs >= 12


def test_a_budget_without_room_is_inconclusive_at_once_and_says_how_much_it_takes():
    machine = Machine()
    outcome = machine.gate(budget_s=20.0)
    assert (outcome.verdict, outcome.exit_code) == ("inconclusive", 3)
    assert re.search(
        r"\d+ s of the budget are left and 12 pairs a round need \d+ s: raise --budget", only(outcome).reason
    )
    assert machine.blocks == []


def test_the_plan_is_said_before_anything_is_timed():
    machine = Machine()
    machine.gate()
    assert machine.said[0].startswith("Comparing head hhhhhhhhhh with base bbbbbbbbbb")
    assert re.match(r"Plan: rounds of \d restarts with \d+ pairs of blocks each", machine.said[1])
    assert machine.said[2].startswith("base against base: restart 1 of")


def test_more_time_gives_more_pairs():
    assert only(Machine().gate(budget_s=80)).num_pairs < only(Machine().gate(budget_s=200)).num_pairs <= 60


# --- energy


def test_joules_are_compared_beside_time():
    machine = Machine(joules={"base": 30.0, "head": 36.0})
    outcome = machine.gate(budget_s=900)
    time, joules = outcome.workloads[0].decisions
    assert (time.figure, time.verdict) == ("time", "ok")
    assert (joules.figure, joules.verdict) == ("cpu_energy_j", "regression")
    assert joules.ratio.value == pytest.approx(1.2, abs=0.01)
    assert outcome.workloads[0].num_iterations * 0.05 >= 2.0  # longer blocks for a counter that ticks


def test_a_block_without_its_joules_makes_that_figure_invalid_with_the_meters_reason():
    outcome = Machine(joules={"base": 30.0, "head": None}).gate(budget_s=900)
    time, joules = outcome.workloads[0].decisions
    assert (time.verdict, joules.verdict) == ("ok", "invalid") and "the counter was reset" in joules.reason


# --- what is stored


def test_everything_is_in_the_document_and_comes_back(tmp_path):
    machine = Machine(slowdown={TRAIN.name: 1.1})
    outcome = machine.gate()
    path = write_gate(tmp_path, outcome)
    assert path == tmp_path / "gates" / f"{outcome.gate_id}.json" and read_gate(path) == outcome
    num_blocks = sum(len(blocks) for each in rounds_of(outcome).values() for blocks in each.restarts)
    assert num_blocks == len(machine.blocks)
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    with pytest.raises(RecordError, match="cannot be read as a gate"):
        read_gate(path)


def test_the_words_of_the_command_become_workloads():
    found = asked_workloads(["a", "b"], ["train_step", "generate", "attention", "data", "attention:softmax", "data"])
    assert [each.name for each in found] == [
        "train_step:a",
        "train_step:b",
        "generate:a",
        "generate:b",
        "attention:additive",
        "data:scenes",
        "attention:softmax",
    ]
    for models, words in ((["a"], ["training"]), ([], ["generate"])):
        with pytest.raises(UsageError):
            asked_workloads(models, words)


# --- the command


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": "3kimg"}, "--budget '3kimg' must be a time"),
        ({"min_effect": "3"}, "--min-effect '3'"),
        ({"min_effect": "-1%"}, "--min-effect"),
        ({"export": "bencher"}, "names no file"),
        ({"export": "benchr=a"}, "Did you mean 'bencher'"),
        ({"workloads": "training"}, "no kind of workload"),
        ({"device": "tpu"}, "--device 'tpu'"),
        ({"self_test": True, "json": True}, "--self-test"),
        ({"self_test": True, "workloads": "generate"}, "--self-test slows train steps"),
        ({"num_gates": 2}, "--num-gates"),
    ],
)
def test_wrong_words_are_one_sentence(options, words):
    with pytest.raises(UsageError) as caught:
        cli_gate.gate(**options)
    assert words in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize(("text", "share"), [("3%", 0.03), ("0.05", 0.05), (" 2.5% ", 0.025)])
def test_a_minimum_effect_is_a_share(text, share):
    assert cli_gate._share(text) == pytest.approx(share)


def simulated(monkeypatch, machine):
    """The command on simulated workers and folders."""

    def compare_only(question, around, *, base, head):
        return machine.gate(question.workloads, question.budget_s, inconclusive=question.inconclusive)

    monkeypatch.setattr("bench.gate.gate.gate", compare_only)


def test_the_command_writes_every_file_and_gives_the_exit_code(tmp_path, monkeypatch, capsys):
    simulated(monkeypatch, Machine(slowdown={TRAIN.name: 1.2}))
    files = {name: tmp_path / "deep" / name for name in ("a.md", "a.xml", "a.json", "b.json")}
    options = {
        "markdown": files["a.md"],
        "junit": files["a.xml"],
        "export": f"github-action-benchmark={files['a.json']}, bencher={files['b.json']}",
        "results": tmp_path / "results",
    }
    assert cli_gate.gate(workloads="train_step", **options) == 1
    assert all(path.stat().st_size for path in files.values())
    assert "regression" in capsys.readouterr().out
    assert cli_gate.gate(workloads="train_step", json=True, **options) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "regression"
    assert len(list((tmp_path / "results" / "gates").iterdir())) == 2


def test_a_file_that_cannot_be_written_is_not_a_regression(tmp_path, monkeypatch):
    simulated(monkeypatch, Machine())
    (tmp_path / "file").write_text("")
    with pytest.raises(GateError) as caught:
        cli_gate.gate(results=tmp_path / "file" / "below")
    assert caught.value.exit_code == 4


# --- the self-test


def test_a_slowed_copy_takes_that_much_longer_and_counts_the_same(tmp_path, monkeypatch):
    """The appended lines, run on a step of known length; the rest of the file is as it was."""
    folder = tmp_path / "head"
    (folder / "bench/training").mkdir(parents=True)
    plain = (
        "import time\nimport torch\n\n\nclass Trainer:\n    device = 'cpu'\n\n    def step(self, real):\n"
        "        until_s = time.perf_counter() + 0.02\n        while time.perf_counter() < until_s:\n            pass\n"
        "        return real\n"
    )
    (folder / selftest.SLOWED_FILE).write_text(plain)
    copies = {factor: slowed_copy(replace(BOTH.head, folder=folder), factor) for factor in (1.0, 1.5)}
    assert len({BOTH.head.code_hash, *(each.code_hash for each in copies.values())}) == 3
    shares = []
    for factor, copy in copies.items():
        text = (copy.folder / selftest.SLOWED_FILE).read_text()
        assert text.startswith(plain)
        scope = {"__name__": "copy"}
        exec(compile(text, "step.py", "exec"), scope)
        seconds = []
        for _ in range(5):
            started = scope["_perf_counter"]()
            assert scope["Trainer"]().step("real") == "real"
            seconds.append(scope["_perf_counter"]() - started)
        shares.append(min(seconds) / 0.02)
        assert 1.0 <= min(seconds) / 0.02 / factor < 1.2
    assert shares[1] > 1.3 * shares[0]


def test_the_self_test_counts_verdicts_per_slowdown(tmp_path, monkeypatch):
    machine = Machine()
    found = []

    def compare(both, question, around):
        machine.slowdown[TRAIN.name] = float(re.search(r"[\d.]+", both.head.asked)[0])
        assert both.base.asked == both.head.asked.split(",")[0] == "working tree"
        return machine.gate(question.workloads, question.budget_s)

    monkeypatch.setattr(selftest, "compare", compare)
    question = Question(workloads=(TRAIN,), budget_s=120.0, setting=Setting(device="cpu"))
    attempts = self_test(question, machine.around, slowdowns=(1.0, 1.25), num_gates=2, start=ROOT, keep=found.append)
    assert [each.slowdown for each in attempts] == [1.0, 1.25, 1.0, 1.25]
    assert [each.outcome for each in attempts] == found
    assert [each.outcome.verdict for each in attempts] == ["ok", "regression"] * 2
    assert not any(each.is_false_alarm for each in attempts)
    assert Attempt(slowdown=1.0, outcome=attempts[1].outcome).is_false_alarm
    lines = self_test_text(attempts).splitlines()
    assert [word.strip() for word in lines[0].split("|")[1:8]] == [
        "slowdown", "gates", "ok", "improved", "regression", "inconclusive", "invalid",
    ]  # fmt: skip
    assert [word.strip() for word in lines[3].split("|")[1:8]] == ["1.25", "2", "0", "0", "2", "0", "0"]


# --- for real


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """This project's code as it lies here in a repository of its own, and an empty folder for checkouts."""
    folder, temporary = tmp_path / "project", tmp_path / "tmp"
    temporary.mkdir()
    for name in ("bench", "models"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "tests")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "tests@example.org")
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "first"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True)
    return folder


def nothing_is_left(repository):
    worktrees = subprocess.run(
        ["git", "-C", str(repository), "worktree", "list"], capture_output=True, text=True, check=True
    ).stdout
    return len(worktrees.splitlines()) == 1 and list(Path(tempfile.gettempdir()).glob("bench-gate-*")) == []


def test_a_real_gate_of_a_version_against_itself_raises_no_alarm(repository, small_gan, monkeypatch):
    """Real worktrees, workers and blocks; one round of one restart, so that it decides nothing in a few seconds."""
    tiny = Plan(num_restarts=1, pairs_per_restart=6, duration_s=1.0)
    monkeypatch.setattr("bench.gate.sitting.plan_rounds", lambda *_, **__: tiny)
    monkeypatch.setattr("bench.gate.sitting._ROUNDS", ("first",))
    said = []
    workload = replace(TRAIN, subject=str(small_gan))
    question = Question(workloads=(workload,), budget_s=120.0, setting=Setting(device="cpu"))
    outcome = run_gate(question, Surroundings(say=said.append), base="HEAD", start=repository)
    assert (outcome.verdict, outcome.exit_code) == ("inconclusive", 3)
    assert outcome.base.code_hash == outcome.head.code_hash and "the same code" in outcome.notes[0]
    (found,) = outcome.workloads
    assert found.exact_changes == () and found.not_counted == {} and found.head.exact["macs_per_iteration"] > 0
    assert [len(blocks) for each in found.rounds for blocks in each.restarts] == [12]
    assert outcome.parent_cpu_s < 0.1 * outcome.timed_s + 0.5
    assert nothing_is_left(repository)


def test_a_gate_that_is_stopped_leaves_nothing_and_says_75(repository, small_gan, tmp_path):
    program = (
        "import sys\n"
        "from bench import cli_gate\n"
        "from bench.errors import BenchError\n"
        "try:\n"
        f"    cli_gate.gate(base='HEAD', models={str(small_gan)!r}, workloads='train_step')\n"
        "except BenchError as error:\n"
        "    print(error, file=sys.stderr)\n"
        "    sys.exit(error.exit_code)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=repository, env=environment, stderr=subprocess.PIPE, text=True) as gate:
        assert gate.stderr.readline().startswith("Comparing head")
        gate.send_signal(signal.SIGTERM)
        said = gate.stderr.read()
        assert gate.wait() == 75
    assert said == "The gate was stopped by SIGTERM; its worktrees and its processes are gone.\n"
    assert nothing_is_left(repository) and not (repository / "results").exists()


@pytest.mark.slow
def test_a_real_slowdown_is_found_in_two_minutes():
    question = Question(workloads=(TRAIN,), budget_s=120.0, setting=Setting(device="cpu"))
    found = self_test(question, Surroundings(), slowdowns=(1.0, 1.25), num_gates=1, start=ROOT)
    assert found[0].outcome.verdict != "regression"
    assert found[1].outcome.verdict in {"regression", "inconclusive"}
