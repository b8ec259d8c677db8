import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import bench
from bench.errors import StorageError, UsageError
from bench.runner import plan, run
from bench.store import RunFolder, load_all

QUICK = ("cost", "generate", "train_step", "train")


def spec(small_gan, **changes):
    words = {"model": str(small_gan), "dataset": "scenes", "resolution": 32, "batch_size": 8, "device": "cpu"}
    return bench.RunSpec(**words | {"preset": "smoke", "train_for": "160img"} | changes)


def test_from_python_a_spec_gives_a_record_with_every_phase_on_disk(small_gan, tmp_path):
    record = bench.run(spec(small_gan), results=tmp_path / "results", phases=QUICK)
    folder = tmp_path / "results" / record.run_id
    assert {name: result.status for name, result in record.phases.items()} == dict.fromkeys(QUICK, "ok")
    assert record.status == "incomplete"  # quality was not asked for
    assert record.quantity("num_params_generator").value == 8 * 64 + 64 + 4 * 3 * 9 + 3
    assert record.quantity("macs_generator").value == 8 * 64 + 32 * 32 * 9 * 4 * 3
    assert record.quantity("macs_discriminator").value == 3 * 64
    assert record.quantity("num_images_shown").value == 160
    throughput = record.quantity("generate_images_per_s")
    assert throughput.low <= throughput.value <= throughput.high
    assert throughput.n == 12
    for result in record.phases.values():
        for name in result.artifacts.values():
            assert (folder / name).is_file(), name
    windows = [json.loads(line) for line in (folder / "windows" / "generate.jsonl").read_text().splitlines()]
    assert sum(not each["is_warmup"] for each in windows if each["series"] == "generate.batch") == 12
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    assert [line["images_shown"] for line in lines][-1] == 160
    assert {"discriminator", "generator", "discriminator_real"} <= set(lines[0])


def test_the_same_command_again_measures_nothing_twice_and_fresh_starts_over(small_gan, tmp_path):
    first = run(spec(small_gan), results=tmp_path, phases=("cost",))
    second = run(spec(small_gan), results=tmp_path, phases=("cost", "generate"))
    assert second.phases["cost"] == first.phases["cost"]
    assert list(second.phases) == ["cost", "generate"]
    third = run(spec(small_gan), results=tmp_path, phases=("cost",), fresh=True)
    assert list(third.phases) == ["cost"]
    assert third.run_id == first.run_id


def test_another_question_another_run(small_gan, tmp_path):
    ids = {
        plan(spec(small_gan, **changes), results=tmp_path).run_id for changes in ({}, {"seed": 1}, {"batch_size": 4})
    }
    assert len(ids) == 3
    small_gan.write_text(small_gan.read_text() + "\n# changed\n")
    assert plan(spec(small_gan), results=tmp_path).run_id not in ids
    assert not list(tmp_path.glob("*/record.json"))  # a plan writes nothing


def test_without_data_cost_and_speed_are_measured_and_the_rest_says_why_not(small_gan, tmp_path):
    record = run(spec(small_gan, dataset="lsun-bedroom", resolution=64, no_data=True), results=tmp_path)
    assert record.status == "ok"
    assert record.phases["train"].status == record.phases["quality"].status == "skipped"
    assert "--no-data" in record.phases["quality"].reason
    assert record.quantity("train_images_per_s").value > 0


def test_the_same_seed_gives_the_same_losses_and_the_same_images(small_gan, tmp_path):
    outputs = []
    for name in ("a", "b"):
        record = run(spec(small_gan), results=tmp_path / name, phases=("train",))
        folder = tmp_path / name / record.run_id
        lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
        losses = [{key: value for key, value in line.items() if key != "duration_s"} for line in lines]
        images = [path.read_bytes() for path in sorted((folder / "samples").iterdir())]
        outputs.append((losses, images, (folder / "ema.safetensors").read_bytes()))
    assert outputs[0] == outputs[1]
    other = run(spec(small_gan, seed=1), results=tmp_path / "c", phases=("train",))
    assert (tmp_path / "c" / other.run_id / "ema.safetensors").read_bytes() != outputs[0][2]


def test_a_model_that_fails_leaves_a_record_with_the_reason_and_the_other_phases(small_gan, tmp_path):
    text = small_gan.read_text().replace(
        "def generator_loss(self, gan, real, z, step):", "def generator_loss(self, gan, real, z, step):\n        1 / 0"
    )
    small_gan.write_text(text)
    record = run(spec(small_gan), results=tmp_path)
    assert record.status == "failed"
    assert record.phases["generate"].status == "ok"
    assert record.phases["train_step"].reason == "ZeroDivisionError: division by zero"
    assert "1 / 0" in (tmp_path / record.run_id / "error-train_step.txt").read_text()
    assert record.phases["quality"].status == "skipped"
    small_gan.write_text(text.replace("        1 / 0\n", ""))
    assert run(spec(small_gan), results=tmp_path, phases=("train_step",)).phases["train_step"].status == "ok"


def test_running_out_of_memory_is_recorded_with_its_batch_size(small_gan, tmp_path):
    hungry = "def generator_loss(self, gan, real, z, step):\n        torch.empty(2**48)"
    small_gan.write_text(small_gan.read_text().replace("def generator_loss(self, gan, real, z, step):", hungry))
    record = run(spec(small_gan), results=tmp_path, phases=("train_step",))
    assert record.status == "oom"
    assert "batch size 8" in record.phases["train_step"].reason


def test_a_training_that_diverges_fails_with_the_image_count(small_gan, tmp_path):
    small_gan.write_text(small_gan.read_text().replace("generator_lr=1e-3", "generator_lr=float('inf')"))
    record = run(spec(small_gan), results=tmp_path, phases=("train",))
    assert record.phases["train"].status == "failed"
    assert "not finite" in record.phases["train"].reason


def test_quality_waits_for_the_training_and_is_done_once_it_is_there(small_gan, tmp_path):
    first = run(spec(small_gan), results=tmp_path, phases=("quality",))
    assert first.phases["quality"].status == "skipped"
    assert "quality" in plan(spec(small_gan), results=tmp_path).phase_s


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "huge"}, "--size 'huge'"),
        ({"resolution": 128}, "--resolution 128: small-gan has 32, 64"),
        ({"dataset": "cifar10", "resolution": 64}, "--resolution 64: cifar10 has 32"),
        ({"precision": "tf32"}, "NVIDIA"),
        ({"device": "cuda:99"}, "--device 'cuda:99'"),
        ({"device": "toaster"}, "not a device"),
        ({"train_for": "5parsecs"}, "5parsecs"),
        ({"train_for": "0.2kWh"}, "needs an energy meter"),
        ({"batch_size": 10**9}, "more than this machine's"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_in_one_sentence(small_gan, tmp_path, changes, message):
    with pytest.raises(UsageError, match=r"^[^\n]*$") as caught:
        run(spec(small_gan, **changes), results=tmp_path)
    assert message in str(caught.value)
    assert not list(tmp_path.glob("*/record.json"))


def test_a_results_folder_that_cannot_be_written_is_one_sentence(small_gan, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="--results"):
        run(spec(small_gan), results=tmp_path / "file", phases=("cost",))


def test_a_full_disk_keeps_what_was_measured(small_gan, tmp_path, monkeypatch):
    record = run(spec(small_gan), results=tmp_path, phases=("cost",))

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left on device"):
            run(spec(small_gan), results=tmp_path, phases=("generate",))
    kept = RunFolder(tmp_path, record.run_id)
    assert kept.read() == record
    assert not [path for path in kept.path.rglob("*") if path.name.startswith(".record.json.")]


def command(small_gan, results, *more):
    words = ["run", "--model", small_gan, "--dataset", "scenes", "--resolution", "32", "--batch-size", "8"]
    words += ["--preset", "smoke", "--device", "cpu", "--results", results, *more]
    return [sys.executable, "-m", "bench", *map(str, words)]


def test_a_run_killed_in_training_keeps_its_phases_and_the_same_command_finishes(small_gan, tmp_path):
    words = command(small_gan, tmp_path / "r", "--train-for", "20kimg", "--phases", ",".join(QUICK))
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "r").glob("*/train.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (killed,), problems = load_all(tmp_path / "r")
    assert problems == []
    assert list(killed.record.phases) == ["cost", "generate", "train_step"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (finished,), _ = load_all(tmp_path / "r")
    assert list(finished.record.phases) == list(QUICK)
    for name in ("cost", "generate", "train_step"):
        assert finished.record.phases[name] == killed.record.phases[name]


def test_two_runs_at_once_in_one_results_folder_lose_nothing(small_gan, tmp_path):
    same = command(small_gan, tmp_path / "r", "--phases", "cost,generate")
    other = [*same, "--seed", "1"]
    processes = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for words in (same, same, other)]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    runs, problems = load_all(tmp_path / "r")
    assert problems == []
    assert sorted(run.record.spec.seed for run in runs) == [0, 1]
    assert all(list(run.record.phases) == ["cost", "generate"] for run in runs)
    assert sum("kept" in text for text in errors[:2]) == 1  # the second of the two found everything done


def test_the_record_names_source_machine_recipe_and_origin(small_gan, tmp_path):
    record = run(spec(small_gan), results=tmp_path, phases=("cost",))
    assert record.model.configuration == "ours: for tests"
    tiny = run(spec(small_gan, size="tiny"), results=tmp_path, phases=("cost",))
    assert tiny.model.configuration == "ours: size tiny"
    assert record.recipe["objective"] == {"weight": 1.0}
    assert record.machine.torch
    assert record.dataset.protocol
    assert record.validity[0].rule == "preset"
    assert Path(record.spec.model) == small_gan
