"""A worker times what it is told with the version it was given; whatever becomes of it is one sentence."""

import dataclasses
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.gate import lane as lane_module
from bench.gate import worker
from bench.gate.facts import (
    Difference,
    Facts,
    energy_is_comparable,
    exact_differences,
    what_is_measured_differs,
    why_not_counted,
)
from bench.gate.lane import Block, Lane, LaneError
from bench.gate.question import Setting, Workload, parse_workload
from bench.meters._spec import EnergySource, Meter, Readings

ROOT = Path(__file__).resolve().parent.parent

ANSWERING = """
import json, os, signal, sys, time
print(json.dumps({"ok": {}}), flush=True)
sys.stderr.write("some warning\\n")
sys.stderr.flush()
for line in sys.stdin:
    asked = json.loads(line)
    name = asked.get("name") or asked["workload"]["subject"]
    if asked["command"] == "quit":
        break
    if name == "crash":
        raise ValueError("the widths do not fit\\x1b[31m")
    if name == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "abort":
        os.kill(os.getpid(), signal.SIGABRT)
    if name == "hang":
        time.sleep(600)
    if name == "memory":
        print(json.dumps({"error": "CUDA out of memory. Tried to allocate 2 GiB", "kind": "out of memory"}), flush=True)
    if name == "refused":
        print(json.dumps({"error": "Unknown model 'x'. Known: y.", "kind": "refused"}), flush=True)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A worker that misbehaves on command, without torch; the protocol is the real one's."""

    def start(program=ANSWERING):
        path = tmp_path / "stand_in.py"
        path.write_text(program)
        monkeypatch.setattr(lane_module, "_WORKER", path)
        return Lane("head", tmp_path)

    return start


def has_ended(number, within_s=10.0):
    """Whether the process is gone, or dead and nobody has asked for its exit code yet."""
    stat = Path(f"/proc/{number}/stat")
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def failure_of(lane, subject, timeout_s=60.0):
    with lane, pytest.raises(LaneError) as caught:
        lane.prepare(Workload(kind="train_step", subject=subject), timeout_s=timeout_s)
    text = str(caught.value)
    assert caught.value.exit_code == 4 and caught.value.side == "head"
    assert "\n" not in text and text.endswith(".") and text.isprintable(), text
    return caught.value


@pytest.mark.parametrize(
    ("subject", "failure", "words"),
    [
        ("crash", "crash", "crashed in train_step:crash (exit code 1): ValueError: the widths do not fit"),
        ("abort", "crash", "crashed in train_step:abort (signal 6)"),
        ("kill", "out of memory", "killed by signal 9"),
        ("memory", "out of memory", "ran out of memory in train_step:memory: CUDA out of memory"),
        ("refused", "refused", "head cannot do train_step:refused: Unknown model 'x'"),
    ],
)
def test_what_becomes_of_a_worker_is_one_sentence(stand_in, subject, failure, words):
    error = failure_of(stand_in(), subject)
    assert error.failure == failure and words in str(error)


def test_a_worker_that_hangs_is_stopped(stand_in):
    lane = stand_in()
    started_s = time.monotonic()
    error = failure_of(lane, "hang", timeout_s=0.3)
    assert error.failure == "hang" and "no answer to train_step:hang for 0.3 s" in str(error)
    assert error.last_lines == ("some warning",)
    assert time.monotonic() - started_s < 30


def test_a_refusal_leaves_the_worker_alive_and_other_failures_end_it(stand_in):
    lane = stand_in()
    with lane:
        for _ in range(2):
            with pytest.raises(LaneError, match="Unknown model"):
                lane.prepare(Workload(kind="train_step", subject="refused"))
        for said in ("crashed", "not running"):
            with pytest.raises(LaneError, match=said):
                lane.prepare(Workload(kind="train_step", subject="crash"))
    lane.close()  # once more does no harm


def test_a_worker_takes_what_it_started_with_it(stand_in):
    program = (
        "import json, subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '600'], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)\n"
        "print(json.dumps({'ok': {'pid': child.pid}}), flush=True)\n"
        "sys.stdin.readline()\n"
    )
    with stand_in(program) as lane:
        grandchild = lane._answer("the start", 30.0)["ok"]["pid"]
        os.kill(grandchild, 0)
    assert has_ended(grandchild)


def test_an_error_in_the_gate_ends_a_busy_worker_at_once(stand_in):
    lane = stand_in()
    lane.start()
    lane.wait_until_ready()
    number = lane._process.pid
    lane.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


@pytest.fixture(scope="module")
def real():
    """A worker of this checkout."""
    with Lane("base", ROOT) as lane:
        yield lane


@pytest.fixture
def small(small_gan):
    return Workload(kind="train_step", subject=str(small_gan))


def changed(path, old, new):
    """A model file beside the other, with one thing changed."""
    text = path.read_text()
    assert old in text
    other = path.with_name("changed_gan.py")
    other.write_text(text.replace(old, new))
    return Workload(kind="train_step", subject=str(other))


def test_a_real_worker_times_a_step_and_sleeps_in_between(real, small):
    facts = real.prepare(small, with_counts=True)
    assert facts.unit == "image" and facts.num_units_per_iteration == 16
    assert facts.measured["batch_size"] == 16 and facts.measured["resolution"] == 32
    assert facts.exact["num_params_generator"] == 8 * 64 + 64 + 4 * 3 * 9 + 3
    assert facts.exact["macs_generator"] == 16 * (8 * 64 + 32 * 32 * 4 * 3 * 9)
    assert facts.exact["macs_per_iteration"] > 3 * facts.exact["macs_generator"] > 0
    assert facts.exact["peak_memory_bytes"] > 0 and facts.unknown == {}
    num_iterations = facts.num_iterations(0.05)
    blocks = [real.block(small, num_iterations) for _ in range(2)]
    for block in blocks:
        assert block.num_units == 16 * num_iterations
        assert block.units_per_s == block.num_units / block.duration_s > 0
        assert block.readings == {} and block.problems == {}
    stat = Path(f"/proc/{real._process.pid}/stat")
    before = stat.read_text().split()[13:15]
    time.sleep(0.2)
    assert stat.read_text().split()[13:15] == before  # not one tick of processor time while nobody asks


def test_the_parent_does_not_spin_while_blocks_run(real, small):
    num_iterations = real.prepare(small).num_iterations(0.1)
    wall_s, cpu_s = time.monotonic(), time.process_time()
    for _ in range(8):
        real.block(small, num_iterations)
    wall_s, cpu_s = time.monotonic() - wall_s, time.process_time() - cpu_s
    assert cpu_s < 0.05 * wall_s


def test_counts_are_the_same_every_time_and_one_channel_more_is_an_exact_regression(real, small, small_gan):
    first, again = (real.prepare(small, with_counts=True) for _ in range(2))
    assert first.exact == again.exact and exact_differences(first, again) == []
    wider = changed(small_gan, "nn.Linear(8, 4 * 16), nn.Unflatten(1, (4, 4, 4))", "nn.Linear(8, 5 * 16), "
                    "nn.Unflatten(1, (5, 4, 4))")  # fmt: skip
    wider_text = Path(wider.subject).read_text().replace("nn.Conv2d(4, 3, 3", "nn.Conv2d(5, 3, 3")
    Path(wider.subject).write_text(wider_text)
    differences = exact_differences(first, real.prepare(wider, with_counts=True))
    assert {each.name for each in differences if each.is_more} >= {
        "num_params_generator",
        "macs_generator",
        "macs_per_iteration",
        "bytes_per_iteration",
        "peak_memory_bytes",
    }
    assert all(each.is_more for each in differences)


def test_another_batch_size_or_loss_is_another_measurement(real, small, small_gan):
    base = real.prepare(small)
    head = real.prepare(changed(small_gan, "batch_size=16", "batch_size=8"))
    assert "batch_size: 16 in base, 8 in head" in what_is_measured_differs(base, head)
    head = real.prepare(changed(small_gan, "objective=Logistic()", "objective=Logistic(weight=2.0)"))
    assert any(said.startswith("objective: Logistic(weight=1.0)") for said in what_is_measured_differs(base, head))


@pytest.mark.parametrize("word", ["generate:ladagan", "attention:additive", "data:synthetic"])
def test_every_kind_of_workload_runs(real, word):
    workload = parse_workload(word, batch_size=2)
    facts = real.prepare(workload, with_counts=True)
    block = real.block(workload, 3)
    assert block.num_units == 3 * facts.num_units_per_iteration and block.duration_s > 0
    assert facts.measured["batch_size"] == 2
    assert bool(facts.exact) == (workload.kind != "data")


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        (Workload(kind="train_step", subject="ladagann"), "Did you mean 'ladagan'"),
        (Workload(kind="train_step", subject="ddpm"), "no train step"),
        (Workload(kind="generate", subject="ladagan", resolution=31), "at 31 px"),
        (Workload(kind="attention", subject="quadratic"), "known: additive"),
        (Workload(kind="data", subject="scenery"), "Did you mean 'scenes'"),
    ],
)
def test_what_a_version_does_not_know_is_said_in_its_words(real, workload, words):
    with pytest.raises(LaneError) as caught:
        real.prepare(workload)
    assert caught.value.failure == "refused" and words in str(caught.value)


def test_memory_that_runs_out_inside_a_real_worker_is_one_sentence(small_gan):
    build = "def build(resolution, size):"
    workload = changed(small_gan, build, f"{build}\n    print('on stdout')\n    raise MemoryError")
    with Lane("base", ROOT) as lane, pytest.raises(LaneError) as caught:
        lane.prepare(workload)
    assert caught.value.failure == "out of memory" and "base ran out of memory in train_step" in str(caught.value)
    assert caught.value.last_lines == ("on stdout",)  # where it disturbs no answer


def test_a_version_that_cannot_be_imported_says_why(tmp_path):
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").write_text("raise ValueError('a bad merge')\n")
    with Lane("head", tmp_path) as lane, pytest.raises(LaneError) as caught:
        lane.wait_until_ready()
    assert caught.value.failure == "start"
    assert str(caught.value) == "head cannot be loaded (exit code 1): ValueError: a bad merge."


def test_modules_from_outside_the_version_are_never_timed(tmp_path):
    """An empty checkout beside a project that is installed in place would measure the installed one."""
    with pytest.raises(SystemExit, match="outside the version under test"):
        worker.check_modules(tmp_path)
    worker.check_modules(ROOT)


class Wattmeter(Meter):
    """Two joules per window, and a second reading that fails."""

    def start(self):
        self.is_running = True

    def stop(self):
        assert self.is_running
        return Readings(
            values={"cpu_energy_j": 2.0, "temperature_c": 40.0}, problems={"dram_energy_j": "no permission"}
        )

    def energy_sources(self):
        return {"cpu_energy_j": EnergySource(label="measured:rapl", part="cpu", period_s=0.001, systematic=0.05)}


def test_the_worker_reads_joules_around_a_block_where_there_is_a_meter(monkeypatch):
    monkeypatch.setattr(worker, "_energy_meters", lambda _device: [Wattmeter()])
    asked = dataclasses.asdict(Setting(device="cpu", with_energy=True))
    here = worker.Bench(ROOT, asked)
    workload = parse_workload("data:synthetic", batch_size=1)
    try:
        found = Facts(**here.prepare(dataclasses.asdict(workload) | {"name": workload.name}, with_counts=False))
        block = Block(**here.block(workload.name, 2))
    finally:
        gc.unfreeze()
    assert found.energy == {"cpu_energy_j": "measured:rapl"} and len(found.energy_code) == 64
    assert block.readings == {"cpu_energy_j": 2.0} and block.problems == {"dram_energy_j": "no permission"}
    assert gc.isenabled()


def facts(**changes):
    plain = Facts(
        workload="train_step:x",
        unit="image",
        num_units_per_iteration=16,
        iteration_s=0.03,
        warmup_s=1.0,
        is_stationary=True,
        measured={"batch_size": 16, "benchmark_code": "one"},
        exact={"num_params_generator": 10, "macs_generator": 20},
        counter_code="a",
    )
    return dataclasses.replace(plain, **changes)


def test_a_block_is_at_least_as_long_as_asked():
    assert facts().num_iterations(0.2) * 0.03 >= 0.2 > (facts().num_iterations(0.2) - 2) * 0.03
    assert facts(iteration_s=7.0).num_iterations() == 1


def test_counts_by_different_code_are_not_compared_and_that_is_said():
    head = facts(exact={"num_params_generator": 11, "macs_generator": 25}, counter_code="b")
    assert exact_differences(facts(), head) == [Difference("num_params_generator", 10, 11)]
    assert why_not_counted(facts(), head) == {"macs_generator": "the two versions count by different code"}
    lost = facts(exact={"num_params_generator": 9}, unknown={"macs_generator": "no counter"})
    assert exact_differences(facts(), lost) == [Difference("num_params_generator", 10, 9)]
    assert not exact_differences(facts(), lost)[0].is_more
    assert why_not_counted(facts(), lost) == {"macs_generator": "no counter"}


def test_the_benchmarks_own_code_may_not_differ_but_may_be_new():
    changed_code = facts(measured={"batch_size": 16, "benchmark_code": "two"})
    new_code = facts(measured={"batch_size": 16, "benchmark_code": None})
    assert what_is_measured_differs(facts(), facts()) == []
    assert "own code" in what_is_measured_differs(facts(), changed_code)[0]
    assert what_is_measured_differs(new_code, facts()) == []


def test_joules_are_compared_only_where_both_sides_read_them_alike():
    metered = facts(energy={"gpu_energy_j": "measured:nvml-energy-counter"}, energy_code="m")
    assert energy_is_comparable(metered, metered)
    assert not energy_is_comparable(facts(), facts())
    assert not energy_is_comparable(metered, dataclasses.replace(metered, energy_code="n"))


@pytest.mark.parametrize("word", ["train_step", "train_step:", "training:ladagan", "ladagan"])
def test_a_workload_that_is_none_is_a_wrong_question(word):
    with pytest.raises(UsageError, match="--workload"):
        parse_workload(word)


def test_threads_hash_seed_and_path_of_a_worker_are_fixed(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setenv("RANK", "3")
    found = lane_module._environment(tmp_path, 2)
    assert found["PYTHONPATH"] == f"{tmp_path}{os.pathsep}elsewhere"
    assert (found["OMP_NUM_THREADS"], found["PYTHONHASHSEED"]) == ("2", "0") and "RANK" not in found
    assert Setting().num_threads == 1


def test_a_worker_ends_when_its_parent_is_killed(tmp_path):
    stand_in = tmp_path / "stand_in.py"
    stand_in.write_text(ANSWERING)
    program = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from bench.gate import lane\n"
        f"lane._WORKER = Path({str(stand_in)!r})\n"
        f"worker = lane.Lane('base', Path({str(tmp_path)!r}))\n"
        "worker.start()\n"
        "worker.wait_until_ready()\n"
        "print(worker._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert has_ended(int(done.stdout))
