"""Trainings that are stopped, killed, resumed, starved of disk and fed with NaN; and evaluations on the way."""

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import bench
from bench import runner
from bench.errors import InterruptedRunError, StorageError, UsageError
from bench.meters._spec import EnergySource, Meter, Readings
from bench.metrics._spec import Figure, MetricSpec
from bench.phases import train
from bench.phases._context import Question
from bench.records import Quantity
from bench.runner import Sitting, run
from bench.training.checkpoint import Checkpoints
from bench.training.step import Trainer

TESTS = Path(__file__).parent


def spec(small_gan, **changes):
    words = {"model": str(small_gan), "dataset": "scenes", "resolution": 32, "batch_size": 8, "device": "cpu"}
    return bench.RunSpec(**words | {"preset": "smoke", "train_for": "320img"} | changes)


def outputs(folder):
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    losses = {line["images_shown"]: {k: v for k, v in line.items() if k != "duration_s"} for line in lines}
    images = {path.name: path.read_bytes() for path in (folder / "samples").iterdir()}
    return losses, images, (folder / "ema.safetensors").read_bytes()


class KilledError(Exception):
    pass


def killed_at_step(monkeypatch, num_steps, error):
    honest, seen = Trainer.step, []

    def step(self, real):
        seen.append(1)
        if len(seen) > num_steps:
            raise error
        return honest(self, real)

    monkeypatch.setattr(Trainer, "step", step)


def test_a_training_that_broke_off_ends_as_if_it_had_not(small_gan, tmp_path, monkeypatch):
    whole = run(spec(small_gan), results=tmp_path / "a", phases=("train",))
    with monkeypatch.context() as patch:
        killed_at_step(patch, 20, KilledError("pulled the plug"))
        broken = run(
            spec(small_gan), results=tmp_path / "b", phases=("train",), sitting=Sitting(checkpoint_every="136img")
        )
    assert broken.phases["train"].status == "failed"
    said = []
    again = run(spec(small_gan), results=tmp_path / "b", phases=("train",), say=said.append)
    assert "train: going on after 136 images" in said  # 17 steps of 8
    left, right = outputs(tmp_path / "a" / whole.run_id), outputs(tmp_path / "b" / again.run_id)
    assert left[1:] == right[1:]  # images and weights
    assert left[0][320] == right[0][320]  # the last losses
    assert again.quantity("num_resumes").value == 1
    assert any(finding.rule == "resumed" for finding in again.validity)
    assert not list((tmp_path / "b" / again.run_id / "checkpoints").glob("0*"))  # the training is done
    assert again.quantity("train_duration_s").value > 0
    lines = (tmp_path / "b" / again.run_id / "windows" / "train.jsonl").read_text().splitlines()
    windows = [json.loads(line) for line in lines]
    assert sum(each["num_units"] for each in windows if each["series"] == "train") == 320  # of both sittings


def test_a_signal_stops_the_training_with_a_checkpoint_and_leaves_the_phase_open(small_gan, tmp_path, monkeypatch):
    honest, seen = Trainer.step, []

    def step(self, real):
        seen.append(1)
        if len(seen) == 13:
            signal.raise_signal(signal.SIGTERM)
        return honest(self, real)

    monkeypatch.setattr(Trainer, "step", step)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(InterruptedRunError, match="104 images") as caught:
        run(spec(small_gan), results=tmp_path, phases=("train",))
    assert caught.value.exit_code == 75
    assert signal.getsignal(signal.SIGTERM) is before
    assert [path.name for path in tmp_path.glob("*/checkpoints/*")] == ["000000000104.safetensors"]
    record = run(spec(small_gan), results=tmp_path, phases=("train",))
    assert record.phases["train"].status == "ok"
    assert record.quantity("num_images_shown").value == 320


def test_sigterm_to_the_command_gives_exit_code_75_and_the_same_command_goes_on(small_gan, tmp_path):
    command = [
        *(sys.executable, "-m", "bench", "run", "--model", str(small_gan), "--dataset", "scenes", "--resolution", "32"),
        *("--device", "cpu", "--preset", "smoke", "--phases", "train", "--train-for", "6kimg"),
        *("--results", str(tmp_path / "r"), "--checkpoint-every", "160img"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for _ in range(600):
        if list((tmp_path / "r").glob("*/checkpoints/*.safetensors")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 75, told
    assert "Stopped by a signal" in told and "Traceback" not in told
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "going on after" in again.stderr


@pytest.mark.parametrize("num_kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_leaves_only_checkpoints_that_load_and_loses_one_interval_at_most(small_gan, tmp_path, num_kills):
    done = subprocess.run(
        [sys.executable, str(TESTS / "kill_at_random.py"), str(small_gan), str(tmp_path / "r"), str(num_kills)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["reached"] == sorted(found["reached"])
    assert found["reached"][-1] > 0
    assert all(lost <= 320 + 80 for lost in found["lost"]), found  # one interval, and the log's own


def test_a_disk_that_is_full_for_checkpoints_is_said_and_the_training_ends_well(small_gan, tmp_path, monkeypatch):
    def full(self, trainer, memory):
        raise StorageError("Cannot write: No space left on device.")

    monkeypatch.setattr(Checkpoints, "save", full)
    said = []
    record = run(
        spec(small_gan), results=tmp_path, phases=("train",), say=said.append, sitting=Sitting(checkpoint_every="80img")
    )
    assert record.phases["train"].status == "ok"
    assert sum("No space left" in each and "goes on" in each for each in said) == 3


def test_a_nan_in_one_step_is_in_the_record_and_many_end_the_phase_with_a_dump(small_gan, tmp_path, monkeypatch):
    honest, seen = Trainer.step, []

    def step(self, real):
        seen.append(1)
        return honest(self, real * float("nan") if len(seen) in broken else real)

    monkeypatch.setattr(Trainer, "step", step)
    broken = {5}
    record = run(spec(small_gan), results=tmp_path / "one", phases=("train",))
    assert record.phases["train"].status == "ok"
    assert record.quantity("num_nonfinite_updates").value == 1
    assert [each.detail for each in record.validity if each.rule == "nonfinite_updates"] == [
        "1 updates of the discriminator were not finite and were not applied"
    ]
    seen.clear()
    broken = set(range(9, 100))
    record = run(spec(small_gan), results=tmp_path / "many", phases=("train",))
    assert record.phases["train"].status == "failed"
    assert "diverged" in record.phases["train"].reason
    assert (tmp_path / "many" / record.run_id / "diverged.safetensors").is_file()


class Brightness:
    protocol: ClassVar = {"images": 64}

    def __init__(self):
        self.means = []

    def scorer(self):
        return Brightness()

    def update(self, images):
        self.means += images.reshape(len(images), -1).mean(axis=1).tolist()

    def figures(self):
        value = sum(self.means) / len(self.means)
        return {"rfd_v1": Quantity(value=value, unit="1", n=len(self.means), kind="computed", source="test")}


@pytest.fixture
def quick_metric(monkeypatch):
    """In place of the real metrics, which take a minute: the mean brightness of 64 images."""
    metric = MetricSpec(
        title="brightness", figures={"rfd_v1": Figure(unit="1", better="lower", meaning="test")}, num_images=64,
        why_not=lambda _: None, prepare=lambda _: Brightness(),
    )  # fmt: skip
    monkeypatch.setattr(Question, "metrics", lambda _: [metric])


@pytest.mark.usefixtures("quick_metric")
def test_evaluations_on_the_way_give_a_curve_whose_last_point_is_the_records_figure(small_gan, tmp_path):
    said = []
    record = run(spec(small_gan, eval_every="160img"), results=tmp_path, say=said.append)
    assert record.status == "ok"
    assert [point.num_images_shown for point in record.curve] == [0, 160, 320]
    assert record.curve[-1].quantities["rfd_v1"] == record.quantity("rfd_v1")
    assert record.curve[0].quantities["rfd_v1"].value == record.quantity("rfd_v1_untrained").value
    assert all(point.evaluation_duration_s > 0 for point in record.curve)
    assert record.curve[-1].train_energy.value is None or record.curve[-1].train_energy.value > 0
    seconds = [point.train_duration_s for point in record.curve]
    assert seconds == sorted(seconds) and seconds[0] == 0
    assert record.quantity("train_duration_s").value == seconds[-1]
    evaluation_s = record.quantity("evaluation_duration_s").value
    assert evaluation_s >= sum(point.evaluation_duration_s for point in record.curve)
    folder = tmp_path / record.run_id
    assert (folder / "checkpoints" / "best.safetensors").is_file()
    assert sum("rfd_v1" in each for each in said) == 3
    assert not (folder / "snapshots").exists()  # the figures are there, so the weights of each point need not be


@pytest.mark.usefixtures("quick_metric")
def test_a_goal_that_is_met_ends_the_training(small_gan, tmp_path):
    changes = {"train_for": "100kimg", "eval_every": "80img", "until": "rfd_v1<=1e6"}
    record = run(spec(small_gan, **changes), results=tmp_path, phases=("train",))
    assert [point.num_images_shown for point in record.curve] == [0, 80]  # the untrained state meets no goal
    assert record.quantity("num_images_shown").value == 80


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"until": "rfd<=1"}, "Did you mean 'rfd_v1'"),
        ({"until": "rfd_v1>=1"}, "better lower"),
        ({"until": "rfd_v1"}, "not a goal"),
        ({"eval_every": "0.1kWh"}, "images or time"),
        ({"eval_every": "5parsecs"}, "--eval-every"),
        ({"train_for": "0.2kWh"}, "energy meter"),
        ({"capture": True}, "CUDA graphs"),
        ({"num_accumulation_steps": 3}, "multiple of 3"),
        ({"weights": "absent.safetensors"}, "cannot be read"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_in_one_sentence(small_gan, tmp_path, changes, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        run(spec(small_gan, **changes), results=tmp_path, phases=("train",))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("quick_metric")
def test_given_weights_are_measured_and_scored_and_not_trained(small_gan, tmp_path):
    trained = run(spec(small_gan), results=tmp_path / "a", phases=("train", "quality"))
    weights = tmp_path / "a" / trained.run_id / "ema.safetensors"
    given = run(spec(small_gan, weights=str(weights)), results=tmp_path / "b")
    assert given.phases["train"].status == "skipped"
    assert given.phases["quality"].status == "ok"
    assert given.quantity("rfd_v1").value == pytest.approx(trained.quantity("rfd_v1").value, rel=1e-6)
    assert given.curve == ()


def test_tensorboard_gets_the_lines_of_the_log(small_gan, tmp_path):
    record = run(spec(small_gan), results=tmp_path, phases=("train",), sitting=Sitting(logs=("tensorboard",)))
    files = list((tmp_path / record.run_id / "tensorboard").glob("events.out.tfevents*"))
    assert len(files) == 1
    events = EventAccumulator(str(files[0])).Reload()
    assert "discriminator" in events.Tags()["scalars"]
    lines = (tmp_path / record.run_id / "train.jsonl").read_text().splitlines()
    assert [each.step for each in events.Scalars("generator")] == [json.loads(line)["images_shown"] for line in lines]


class CountingMeter(Meter):
    ticks = 0

    def start(self):
        pass

    def stop(self):
        return Readings(values={"cpu_energy_j": 100.0})

    def tick(self):
        self.ticks += 1

    def energy_sources(self):
        return {"cpu_energy_j": EnergySource(label="measured:rapl", part="cpu", period_s=0.001, systematic=0.02)}


@pytest.mark.usefixtures("quick_metric")
def test_scoring_has_seconds_and_joules_of_its_own_and_its_meters_are_read_on_the_way(small_gan, tmp_path, monkeypatch):
    meter = CountingMeter()

    @contextmanager
    def one_meter(device, *, in_windows):
        yield {"rapl": meter} if in_windows else {}

    monkeypatch.setattr(runner, "open_meters", one_meter)
    record = run(spec(small_gan, eval_every="160img"), results=tmp_path, phases=("train", "quality"))
    assert [point.evaluation_energy.value for point in record.curve] == [100.0, 100.0, 100.0]
    assert record.curve[0].train_energy.value is None  # nothing was trained yet
    assert record.curve[-1].train_energy.value > 0
    assert record.quantity("evaluation_energy_j").value == 300.0
    assert record.quantity("quality_energy_j").value == 100.0
    assert record.quantity("quality_energy_j").label == "measured:rapl"
    assert record.quantity("quality_duration_s").value > 0
    assert meter.ticks >= 4  # a batch of each evaluation and of the real images


@pytest.mark.usefixtures("quick_metric")
def test_a_training_ends_at_its_joules_where_there_is_a_meter(small_gan, tmp_path, monkeypatch):
    @contextmanager
    def one_meter(device, *, in_windows):
        yield {"rapl": CountingMeter()} if in_windows else {}

    monkeypatch.setattr(runner, "open_meters", one_meter)
    monkeypatch.setattr(train, "BUDGET_STRETCH_S", 0.0)  # 100 J at each look, every ten steps
    record = run(spec(small_gan, train_for="0.1Wh"), results=tmp_path, phases=("train",))
    assert record.phases["train"].status == "ok"
    assert record.quantity("train_energy_j").value == pytest.approx(400.0, abs=300)  # 360 J, and what a look adds
    assert record.quantity("train_energy_j").value >= 360
