"""The codecarbon meter with the real tracker, in processes of its own: it must leave no trace and never say 0."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_nvml_library import SONAME, SOURCE, STATE_VARIABLE, UUIDS, FakeNvml

from bench.errors import BenchError
from bench.meters.codecarbon import METER, CodecarbonMeter, gap

ROOT = Path(__file__).resolve().parent.parent

# What the child may not do is recorded by Python's own audit hook: opening a file to write, talking to a network.
CHILD = """
import json, logging, os, signal, sys, threading, time
deeds = []
def watch(event, arguments):
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        if str(arguments[0]) != os.devnull and not isinstance(arguments[0], int):
            deeds.append(f"wrote {arguments[0]}")
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        deeds.append(f"{event} {arguments}")
sys.addaudithook(watch)
sys.dont_write_bytecode = True
from bench.errors import BenchError
from bench.meters.codecarbon import METER

def state():
    return [logging.root.level, len(logging.root.handlers), logging.root.manager.disable,
            str(signal.getsignal(signal.SIGINT)), str(signal.getsignal(signal.SIGTERM))]

def stretch(meter, seconds):
    meter.start()
    started = time.perf_counter()
    while time.perf_counter() < started + seconds:
        meter.tick()
    readings = meter.stop()
    power_w = {name: value / (time.perf_counter() - started) for name, value in readings.values.items()}
    return {"values": readings.values, "problems": readings.problems, "power_w": power_w}

device, durations_s = sys.argv[1], json.loads(sys.argv[2])
before = state()
loaded = "codecarbon" in sys.modules
reason = METER.why_unavailable(device)
loaded = loaded or "codecarbon" in sys.modules
meter = METER.open(device)
found = {"reason": reason, "loaded_early": loaded, "stretches": [stretch(meter, each) for each in durations_s]}
found["threads"] = []
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join(3)
        found["threads"] += [thread.name] * thread.is_alive()
try:
    METER.open(device)
    found["second"] = "opened"
except BenchError as error:
    found["second"] = str(error)
found["facts"] = meter.facts()
found["sources"] = {name: [each.label, each.part, each.is_cross_check] for name, each in meter.energy_sources().items()}
meter.close()
METER.open(device).close()
found["is_state_kept"] = state() == before
found["deeds"] = deeds
print(json.dumps(found))
"""


def run_child(folder, device, durations_s, move_time=lambda: None, **environment):
    """The child's report; it runs in an empty folder, with a HOME that nobody can write and without nvidia-smi."""
    work, path = folder / "work", folder / "programs"
    work.mkdir()
    path.mkdir(exist_ok=True)
    clean = {name: value for name, value in os.environ.items() if not name.upper().startswith("CODECARBON_")}
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", CHILD, device, json.dumps(durations_s)],
        cwd=work,
        env=clean | {"HOME": "/proc", "PATH": str(path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while child.poll() is None:
        move_time()
        time.sleep(0.005)
    output, errors = child.communicate()
    assert child.returncode == 0, errors
    assert errors == ""
    assert list(work.iterdir()) == []
    return json.loads(output)


@pytest.fixture(scope="module")
def on_the_cpu(tmp_path_factory):
    return run_child(tmp_path_factory.mktemp("cpu"), "cpu", [2.0, 0.02, 1.1])


def test_it_measures_processor_and_memory_in_each_stretch_apart(on_the_cpu):
    first, _, third = on_the_cpu["stretches"]
    for each in (first, third):
        assert set(each["values"]) == {"codecarbon_cpu_energy_j", "codecarbon_ram_energy_j"}
        assert all(energy_j > 0 for energy_j in each["values"].values())
    # Its memory figure is a constant power: no sum over the stretches, no carry-over.
    ratio = third["power_w"]["codecarbon_ram_energy_j"] / first["power_w"]["codecarbon_ram_energy_j"]
    assert ratio == pytest.approx(1, rel=0.1)


def test_a_run_on_the_processor_has_no_gpu_energy_and_says_why(on_the_cpu):
    for each in on_the_cpu["stretches"]:
        assert "no GPU belongs to it" in each["problems"]["codecarbon_gpu_energy_j"]


def test_a_stretch_that_it_would_lose_is_a_problem_and_no_number(on_the_cpu):
    short = on_the_cpu["stretches"][1]
    assert short["values"] == {}
    assert "too short for codecarbon" in short["problems"]["codecarbon_cpu_energy_j"]


def test_it_writes_nothing_and_asks_nobody(on_the_cpu):
    assert on_the_cpu["deeds"] == []


def test_it_leaves_logging_signals_and_threads_as_they_were(on_the_cpu):
    assert on_the_cpu["is_state_kept"]
    assert on_the_cpu["threads"] == []


def test_two_trackers_are_refused_and_one_after_the_other_is_not(on_the_cpu):
    assert "two at once each book the whole machine" in on_the_cpu["second"]


def test_it_is_not_imported_to_ask_whether_it_is_there(on_the_cpu):
    assert on_the_cpu["reason"] is None
    assert on_the_cpu["loaded_early"] is False


def test_it_says_version_sampling_and_how_it_knows(on_the_cpu):
    facts = on_the_cpu["facts"]
    assert facts["version"].count(".") == 2
    assert facts["sampling_s"] == 15.0
    assert facts["cpu_mode"].startswith("CPU")
    assert facts["tracking_mode"] == "machine" and facts["pue"] == 1.0
    assert on_the_cpu["sources"] == {
        "codecarbon_gpu_energy_j": ["estimated:codecarbon", "gpu", True],
        "codecarbon_cpu_energy_j": ["estimated:codecarbon", "cpu", True],
        "codecarbon_ram_energy_j": ["estimated:codecarbon", "dram", True],
    }
    assert set(on_the_cpu["sources"]) == set(METER.readings)
    assert METER.in_windows is False


@pytest.fixture
def two_gpus(tmp_path):
    """Environment of a child that finds two fake GPUs of 300 W and 900 W, and what moves their time with ours."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler (cc or gcc) to build the fake NVML with")
    source, library = tmp_path / "nvml_with_memory.c", tmp_path / SONAME
    source.write_text(  # codecarbon asks for the board's memory, our own meter does not
        f'#include "{SOURCE}"\n'
        "int nvmlDeviceGetMemoryInfo(void *handle, unsigned long long *total_free_used)\n"
        "{ (void)handle; total_free_used[0] = total_free_used[1] = 1ull << 37; total_free_used[2] = 0; return 0; }\n"
    )
    subprocess.run(
        [compiler, "-shared", "-fPIC", f"-Wl,-soname,{SONAME}", "-o", str(library), str(source), "-lm"], check=True
    )
    fake = FakeNvml(tmp_path / "state")
    fake.reset(num_devices=2)
    fake.device(1).load_w = 900.0
    started_s = time.perf_counter()

    def move_time():
        fake.sleep(1000.0 + time.perf_counter() - started_s - fake.now())

    return {
        "LD_LIBRARY_PATH": str(tmp_path),
        STATE_VARIABLE: str(tmp_path / "state"),
        "CUDA_VISIBLE_DEVICES": UUIDS[1],
        "move_time": move_time,
    }


def test_a_gpu_given_by_uuid_is_read_and_no_other_one(tmp_path, two_gpus):
    """By itself codecarbon reads none of them in the first stretch and both from the second on."""
    (tmp_path / "programs").mkdir()
    program = tmp_path / "programs" / "nvidia-smi"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    found = run_child(tmp_path, "cuda:0", [1.5, 1.5], **two_gpus)
    for stretch in found["stretches"]:
        assert stretch["problems"] == {}
        assert stretch["power_w"]["codecarbon_gpu_energy_j"] == pytest.approx(900, rel=0.1)
    assert found["facts"]["gpu_nvml_index"] == 1
    assert found["sources"]["codecarbon_gpu_energy_j"][0] == "simulated:fake-nvml"


def test_without_nvidia_smi_the_gpu_is_a_problem_and_the_users_configuration_changes_nothing(
    tmp_path, two_gpus, on_the_cpu
):
    found = run_child(
        tmp_path,
        "cuda:0",
        [1.1],
        **two_gpus,
        CODECARBON_PUE="3",
        CODECARBON_FORCE_RAM_POWER="5000",
        CODECARBON_FORCE_CPU_POWER="9000",
        CODECARBON_SAVE_TO_FILE="true",
        CODECARBON_OUTPUT_METHODS="csv,api",
        CODECARBON_EMISSIONS_ENDPOINT="http://192.0.2.1/",
        CODECARBON_ELECTRICITYMAPS_API_TOKEN="token",
        CODECARBON_CO2_SIGNAL_API_TOKEN="token",
        CODECARBON_ALLOW_MULTIPLE_RUNS="false",
        CODECARBON_LOG_LEVEL="debug",
    )
    (stretch,) = found["stretches"]
    assert "codecarbon_gpu_energy_j" not in stretch["values"]
    assert "nvidia-smi, which is not on PATH" in stretch["problems"]["codecarbon_gpu_energy_j"]
    plain_w = on_the_cpu["stretches"][0]["power_w"]
    assert stretch["power_w"]["codecarbon_ram_energy_j"] == pytest.approx(plain_w["codecarbon_ram_energy_j"], rel=0.1)
    assert stretch["power_w"]["codecarbon_cpu_energy_j"] < 800
    assert found["deeds"] == []


def test_without_nvml_the_gpu_is_a_problem(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-01234567-89ab-cdef-0123-456789abcdef")
    meter = METER.open("cuda:0")
    meter.start()
    time.sleep(1.05)
    readings = meter.stop()
    meter.close()
    assert "codecarbon_gpu_energy_j" not in readings.values
    assert len(readings.problems["codecarbon_gpu_energy_j"]) > 20
    assert readings.values["codecarbon_ram_energy_j"] > 0


def test_a_tracker_that_is_not_whole_has_reasons_and_no_numbers(tmp_path, monkeypatch):
    meter = METER.open("cpu")
    try:
        (tmp_path / ".codecarbon.config").write_text("no section\n")  # its constructor fails on it and swallows that
        monkeypatch.chdir(tmp_path)
        meter.start()
        readings = meter.stop()
    finally:
        meter.close()
    assert readings.values == {}
    assert "hides why" in readings.problems["codecarbon_cpu_energy_j"]
    assert set(readings.problems) == set(METER.readings)


def test_closing_in_the_middle_of_a_stretch_frees_the_place():
    meter = METER.open("cpu")
    meter.start()
    with pytest.raises(BenchError, match="close the first one"):
        CodecarbonMeter("cpu")
    meter.close()
    CodecarbonMeter("cpu").close()


LEVELS = {
    "ok": (100.0, 101.9, 98.1),
    "flag": (102.1, 97.9, 109.9, 90.1),
    "invalid": (110.1, 89.9, 200.0, 1.0),
}


@pytest.mark.parametrize(("theirs_j", "level"), [(each, level) for level, every in LEVELS.items() for each in every])
def test_a_gap_over_2_percent_is_flagged_and_over_10_invalid(theirs_j, level):
    relative, found = gap(100.0, theirs_j)
    assert relative == pytest.approx(theirs_j / 100 - 1)
    assert found == level


@pytest.mark.parametrize(("ours_j", "theirs_j"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (float("nan"), 1.0)])
def test_no_gap_is_made_of_an_energy_that_is_not_above_zero(ours_j, theirs_j):
    with pytest.raises(ValueError, match="above zero"):
        gap(ours_j, theirs_j)
