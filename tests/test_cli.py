import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench.cli import main

ROOT = Path(__file__).resolve().parent.parent


def refused(capsys, *arguments, code=2):
    """The one sentence on stderr of a command that must fail."""
    assert main([*map(str, arguments)]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert "Traceback" not in captured.err
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "ladagn", "--dataset", "scenes"], ["ladagn", "Did you mean 'ladagan'"]),
        (["--model", "ladagan", "--dataset", "scene"], ["Did you mean 'scenes'"]),
        (["--model", "ladagan"], ["--dataset is missing"]),
        (["--dataset", "scenes"], ["--model is missing"]),
        (["--seed", "3"], ["--model is missing", "demo"]),
        (["--model", "ladagan", "--dataset", "scenes", "--batch-size", "0"], ["--batch-size 0"]),
        (["--model", "ladagan", "--dataset", "scenes", "--seed", "-1"], ["--seed -1"]),
        (["--model", "ladagan", "--dataset", "scenes", "--resolution", "48"], ["--resolution 48", "32, 64, 128, 256"]),
        (["--model", "ladagan", "--dataset", "scenes", "--train-for", "5parsecs"], ["5parsecs", "200kimg"]),
        (["--model", "ladagan", "--dataset", "scenes", "--device", "cuda"], ["--device 'cuda'", "--device cpu"]),
        (["--model", "ladagan", "--dataset", "scenes", "--precision", "fp8"], ["--precision fp8"]),
        (["--model", "ladagan", "--dataset", "scenes", "--preset", "quick"], ["--preset quick"]),
        (["--model", "ladagan", "--dataset", "scenes", "--size", "giant"], ["--size 'giant'", "paper, tiny"]),
        (["--model", "ladagan", "--dataset", "scenes", "--phases", "costs"], ["Did you mean 'cost'"]),
        (["--model", "ladagan", "--dataset", "scenes", "--colour", "red"], ["--colour"]),
        (["--model", "ladagan", "--dataset", "scenes", "--batch-size", "many"], ["--batch-size", "integer"]),
        (["--model", "absent.py", "--dataset", "scenes"], ["no model file 'absent.py'"]),
        (["--model", "ladagan", "--dataset", "folder:"], ["folder:PATH"]),
    ],
)
def test_a_wrong_question_is_one_sentence_with_the_option_and_what_to_do(capsys, tmp_path, arguments, words):
    sentence = refused(capsys, "run", "--results", tmp_path, *arguments)
    for word in words:
        assert word in sentence
    assert not list(tmp_path.iterdir())


def test_a_data_set_that_is_not_here_is_one_sentence_and_exit_1(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    sentence = refused(
        capsys, "run", "--model", "ladagan", "--dataset", "lsun-bedroom", "--results", tmp_path / "r", code=1
    )
    assert "--no-data" in sentence
    assert "bedroom_train_lmdb" in sentence


def test_a_folder_without_images_or_with_a_broken_one_is_refused_by_name(capsys, small_gan, tmp_path):
    (tmp_path / "empty").mkdir()
    words = ["run", "--model", small_gan, "--resolution", "32", "--preset", "smoke", "--results", tmp_path / "r"]
    assert main([*map(str, words), "--dataset", f"folder:{tmp_path / 'empty'}"]) in {1, 2}
    assert "empty" in capsys.readouterr().err
    folder = tmp_path / "broken"
    folder.mkdir()
    for index in range(8):
        image = np.random.default_rng(index).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{index}.png")
    whole = (folder / "5.png").read_bytes()
    (folder / "5.png").write_bytes(whole[: len(whole) // 2])
    code = main(
        [
            *map(str, words),
            "--dataset",
            f"folder:{folder}",
            "--batch-size",
            "8",
            "--train-for",
            "64img",
            "--phases",
            "train",
        ]
    )
    err = capsys.readouterr().err
    assert code == 1
    assert "5.png" in err
    assert "Traceback" not in err


def test_broken_records_are_named_and_skipped_by_the_report(capsys, small_gan, tmp_path):
    results, reports = tmp_path / "results", tmp_path / "reports"
    words = ["run", "--model", small_gan, "--dataset", "scenes", "--phases", "cost", "--results", results]
    assert main([*map(str, words)]) == 0
    good = next(results.iterdir())
    for name, text in {"cut": '{"schema_version": 1, "ru', "old": '{"schema_version": 0}', "list": "[]"}.items():
        (results / name).mkdir()
        (results / name / "record.json").write_text(text)
    capsys.readouterr()
    assert main(["report", "--results", str(results), "--out", str(reports)]) == 0
    captured = capsys.readouterr()
    for name in ("cut", "old", "list"):
        assert f"{name}/record.json" in captured.err
    table = pd.read_csv(reports / "results.csv")
    assert list(table["run_id"]) == [good.name]
    assert table["num_params_generator"].item() > 0


def test_plan_and_json_are_what_they_say(capsys, small_gan, tmp_path):
    words = [
        "run",
        "--model",
        str(small_gan),
        "--dataset",
        "scenes",
        "--phases",
        "cost",
        "--results",
        str(tmp_path / "r"),
    ]
    assert main([*words, "--dry-run"]) == 0
    assert "batch size 16" in capsys.readouterr().out
    assert not (tmp_path / "r").exists()
    assert main([*words, "--json"]) == 0
    printed = capsys.readouterr().out
    (record,) = (tmp_path / "r").glob("*/record.json")
    assert printed == record.read_text()
    assert main(["show", json.loads(printed)["run_id"][-10:], "--results", str(tmp_path / "r")]) == 0
    assert "num_params_generator" in capsys.readouterr().out
    assert main(["show", "no-such-run", "--results", str(tmp_path / "r")]) == 1


def test_no_option_at_all_is_the_demo_and_says_so(capsys, tmp_path):
    assert main(["run", "--dry-run", "--results", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "demo" in captured.err
    for words in ("ladagan", "tiny", "scenes", "32 px", "not publishable"):
        assert words in captured.out


@pytest.mark.parametrize("kind", ["models", "datasets", "meters", "metrics"])
def test_list_shows_every_plug_in(capsys, kind):
    assert main(["list", kind]) == 0
    out = capsys.readouterr().out
    for name in {
        "models": ["ladagan"],
        "datasets": ["scenes", "folder:PATH"],
        "meters": ["clock"],
        "metrics": ["rfd_v1"],
    }[kind]:
        assert name in out


def test_doctor_says_what_cannot_be_measured_and_why(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "energy is null; --tdp-w allows an estimate" in out
    assert "lsun-bedroom" in out


def test_a_throw_away_model_file_is_listed_run_and_tested_with_no_other_edit(small_gan, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(ROOT / "bench", project / "bench", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "models", project / "models", ignore=shutil.ignore_patterns("__pycache__"))
    (project / "tests").mkdir()
    for name in ("test_plugins.py", "conftest.py"):
        shutil.copy(ROOT / "tests" / name, project / "tests")
    (project / "pytest.ini").write_text("[pytest]\n")
    shutil.copy(small_gan, project / "models" / "throw_away.py")

    def python(*arguments):
        words = [sys.executable, *arguments]
        done = subprocess.run(words, cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "throw-away" in python("-m", "bench", "list", "models")
    run = ["run", "--model", "throw-away", "--dataset", "scenes", "--phases", "cost", "--json"]
    assert json.loads(python("-m", "bench", *run))["spec"]["model"] == "throw-away"
    assert "passed" in python("-m", "pytest", "-q", "tests/test_plugins.py", "-k", "throw-away")


def test_from_the_command_line_to_a_report_with_every_figure(capsys, small_gan, tmp_path):
    results, reports = tmp_path / "results", tmp_path / "reports"
    words = ["run", "--model", small_gan, "--dataset", "scenes", "--resolution", "32", "--batch-size", "64"]
    words += ["--preset", "smoke", "--train-for", "128img", "--device", "cpu", "--results", results]
    assert main([*map(str, words)]) == 0
    captured = capsys.readouterr()
    assert "small-gan" in captured.out
    assert "quality: ok" in captured.err
    assert main(["report", "--results", str(results), "--out", str(reports)]) == 0
    out = capsys.readouterr().out
    for name in ("results.csv", "report.md", "throughput.png", "loss.svg", "quality.png", "samples.png"):
        assert name in out
        assert list(reports.rglob(name))
    (row,) = pd.read_csv(reports / "results.csv").to_dict("records")
    for column in (
        "macs_generator",
        "macs_discriminator",
        "generate_images_per_s",
        "generate_latency_ms_p50",
        "train_images_per_s",
        "rfd_v1",
        "pair_consistency",
    ):
        assert row[f"{column}_low"] <= row[column] <= row[f"{column}_high"], column
    assert row["modes_covered"] == 0  # no interval follows from none
    assert {"modes_covered_low", "modes_covered_high"} <= set(row)
    assert row["peak_memory_bytes"] > 0  # the highest of its windows: no interval, so the two columns stay empty
    assert {"peak_memory_bytes_low", "peak_memory_bytes_high"} <= set(row)
    assert row["status"] == "ok"
    assert not row["publishable"]
    assert row["rfd_v1"] > 20 * row["rfd_v1_real"]  # it has learned nothing in 128 images
    assert "smoke" in (reports / "report.md").read_text()
