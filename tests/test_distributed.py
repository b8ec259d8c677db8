"""Two gloo processes follow one: same order of the data, same losses; and a whole run under torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.meters._spec import EnergySource
from bench.phases._job_energy import summed
from bench.phases._shared_windows import with_others
from bench.records import Quantity, Window
from bench.training.distributed import World

TESTS = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]


def losses_of(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_two_processes_with_half_the_batch_each_follow_one_with_the_whole():
    script = [str(TESTS / "follow.py"), "r3gan", "20"]  # without batch norm, whose statistics are of each share
    one, two = losses_of([sys.executable, *script]), losses_of([*TORCHRUN, *script])
    assert len(one) == len(two) == 20
    for left, right in zip(one, two, strict=True):
        assert left.keys() == right.keys()
        assert left["images"] == pytest.approx(right["images"], abs=1e-6)  # the same images
        assert left["shown"] == right["shown"]
        assert all(abs(left[name] - right[name]) < 1e-4 for name in left)


def test_a_run_under_torchrun_gives_one_record(small_gan, tmp_path):
    command = [
        *(*TORCHRUN, "-m", "bench", "run", "--model", str(small_gan), "--dataset", "scenes", "--resolution", "32"),
        *("--device", "cpu", "--preset", "smoke", "--phases", "cost,train_step,train"),
        *("--train-for", "640img", "--checkpoint-every", "160img"),
        *("--results", str(tmp_path / "r")),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "r").glob("*/record.json")
    record = json.loads(path.read_text())
    assert {name: phase["status"] for name, phase in record["phases"].items()} == dict.fromkeys(
        ("cost", "train_step", "train"), "ok"
    )
    assert record["spec"]["num_processes"] == 2
    assert record["phases"]["train"]["protocol"]["num_processes"] == 2
    assert record["phases"]["train"]["quantities"]["num_images_shown"]["value"] == 640
    snapshots = record["phases"]["train"]["protocol"]["snapshots"]
    assert [each["num_images_shown"] for each in snapshots] == [0, 224, 432, 640]
    assert done.stdout.count("Record:") == 1
    lines = [json.loads(line) for line in (path.parent / "train.jsonl").read_text().splitlines()]
    assert [line["images_shown"] for line in lines] == sorted({line["images_shown"] for line in lines})


def test_a_share_of_the_batch_is_each_process_own():
    shares = [World(rank=rank, size=4).share_of(12) for rank in range(4)]
    assert [list(range(12))[share] for share in shares] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


def window(readings, problems=None):
    return Window(
        series="x", index=0, is_warmup=False, num_units=1, duration_s=1.0, readings=readings, problems=problems or {}
    )


SOURCES = {
    "gpu_energy_j": EnergySource(label="measured:nvml-energy-counter", part="gpu", period_s=0.1, systematic=0.05),
    "cpu_energy_j": EnergySource(label="measured:rapl", part="cpu", period_s=0.001, systematic=0.02),
}


def whose(board, host):
    return {"gpu_energy_j": ("gpu", board), "cpu_energy_j": ("cpu", host)}


def test_every_board_and_every_host_counts_once():
    first = window({"gpu_energy_j": 10.0, "cpu_energy_j": 5.0})
    every = [
        (first, whose("A", "one")),
        (window({"gpu_energy_j": 20.0, "cpu_energy_j": 5.1}), whose("B", "one")),
        (window({"gpu_energy_j": 20.1, "cpu_energy_j": 7.0}), whose("B", "two")),
    ]
    assert with_others(first, every, SOURCES).readings == {"gpu_energy_j": 30.0, "cpu_energy_j": 12.0}


def test_a_board_that_failed_in_another_process_leaves_the_window_without_its_energy():
    first = window({"gpu_energy_j": 10.0, "cpu_energy_j": 5.0})
    lost = window({"cpu_energy_j": 5.0}, {"gpu_energy_j": "GPU is lost"})
    found = with_others(first, [(first, whose("A", "one")), (lost, whose("B", "one"))], SOURCES)
    assert "gpu_energy_j" not in found.readings
    assert found.problems == {"gpu_energy_j": "GPU is lost"}


def test_a_sum_has_the_weakest_label_and_is_unknown_where_a_part_is():
    def energy(value, label, kind="measured"):
        return Quantity(
            value=value, unit="J", low=None if value is None else value - 1, high=None if value is None else value + 1,
            kind=kind, source="test", note="" if value is not None else "no", label=label,
        )  # fmt: skip

    total = summed([energy(10.0, "measured:rapl"), energy(20.0, "estimated:tdp", "estimated")])
    assert (total.value, total.low, total.high) == (30.0, 28.0, 32.0)
    assert (total.label, total.kind) == ("estimated:tdp", "estimated")
    assert summed([energy(10.0, "measured:rapl"), energy(None, "unavailable")]).value is None
