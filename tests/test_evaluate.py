"""`bench evaluate`: any images, any reference, the figures a run would have given them; and three sampling seeds."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from bench import cli_evaluate
from bench.catalog import MODELS
from bench.datasets import scenes
from bench.errors import BenchError, MissingDataError, UsageError
from bench.evaluation import EvaluationQuestion, evaluate, read_evaluation, save
from bench.metrics import mode_coverage, rfd_v1
from bench.records import RunSpec
from bench.runner import run
from bench.training.randomness import fixed_selection
from bench.training.weights import save_weights

NUM_IMAGES = 100


@pytest.fixture(autouse=True)
def small_metrics(tmp_path, monkeypatch):
    """The metrics on 100 images, a cache of the test's own, and no pretrained weights."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for variable in [name for name in os.environ if name.startswith("BENCH_") and name.endswith("_WEIGHTS")]:
        monkeypatch.delenv(variable)
    for module in (rfd_v1, mode_coverage):
        monkeypatch.setattr(module, "NUM_IMAGES", NUM_IMAGES)
        monkeypatch.setattr(module, "METRIC", dataclasses.replace(module.METRIC, num_images=NUM_IMAGES))


def pictures(first=0, count=NUM_IMAGES, resolution=32):
    return scenes.SPEC.open(resolution, None).train.read(np.arange(first, first + count))


def write(folder, images):
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:04d}.png")
    return folder


@pytest.fixture
def real(tmp_path):
    return write(tmp_path / "real", pictures(0, 220))


@pytest.fixture
def generated(tmp_path):
    return write(tmp_path / "generated", pictures(1000))


def noise(count=NUM_IMAGES):
    return np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def known(evaluation, name="rfd_v1"):
    return evaluation.quantities[name].value


def test_a_folder_is_scored_against_a_folder_with_the_floor_beside_it(generated, real, tmp_path):
    found = evaluate(str(generated), str(real), results=tmp_path)
    assert found.status == "ok"
    assert found.question == EvaluationQuestion(
        generated=str(generated), real=f"folder:{real}", resolution=32, metrics=("rfd-v1",), device="cpu"
    )
    bad = evaluate(str(write(tmp_path / "noise", noise())), str(real), results=tmp_path)
    assert known(bad) > 20 * known(found) > 0
    assert 0 < known(found, "rfd_v1_real") < known(bad) / 20
    assert found.protocol["scored"]["num_files"] == NUM_IMAGES
    assert found.protocol["generated"]["images"].endswith("not resized")
    assert found.protocol[rfd_v1.METRIC.title]["num_reference"] == NUM_IMAGES
    assert found.dataset.protocol["manifest_sha256"]
    assert found.duration_s > 0


def test_real_scenes_pass_for_real_in_the_exact_metrics(tmp_path):
    found = evaluate(str(write(tmp_path / "same", pictures())), "scenes", metrics=["mode_coverage"], results=tmp_path)
    assert known(found, "validity") > 0.98
    assert known(found, "pair_consistency") > 0.98


def test_an_archive_scores_as_its_folder(generated, real, tmp_path):
    archive = tmp_path / "generated.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(generated.iterdir()):
            file.write(path, path.name)
    from_folder = evaluate(str(generated), str(real), results=tmp_path)
    from_archive = evaluate(str(archive), f"folder:{real}", results=tmp_path)
    assert from_archive.quantities == from_folder.quantities
    assert from_archive.protocol["scored"]["pixels_sha256"] == from_folder.protocol["scored"]["pixels_sha256"]


def test_of_more_images_a_fixed_selection_is_taken_and_never_the_first(tmp_path, real):
    """A folder that is sorted by kind: first noise, then scenes."""
    images = np.concatenate([noise(), pictures(1000, 200)])
    found = evaluate(str(write(tmp_path / "sorted", images)), str(real), results=tmp_path)
    chosen = write(tmp_path / "chosen", images[fixed_selection(len(images), NUM_IMAGES)])
    again = evaluate(str(chosen), str(real), results=tmp_path)
    assert again.protocol["scored"]["pixels_sha256"] == found.protocol["scored"]["pixels_sha256"]
    only_noise = evaluate(str(write(tmp_path / "noise", noise())), str(real), results=tmp_path)
    assert known(found) < known(only_noise) / 2


@pytest.fixture
def weights(small_gan, tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "generator.safetensors"
    save_weights(path, MODELS.load_file(small_gan).build(32, "paper").generator, {})
    return path


def spec(small_gan, weights, **changes):
    words = {"model": str(small_gan), "dataset": "scenes", "resolution": 32, "batch_size": 8, "device": "cpu"}
    return RunSpec(**words | {"preset": "standard", "weights": str(weights)} | changes)


def test_a_run_scores_what_its_own_record_says(small_gan, tmp_path):
    results = tmp_path / "results"
    asked = RunSpec(model=str(small_gan), dataset="scenes", resolution=32, batch_size=8, device="cpu", preset="smoke",
                    train_for="80img", seed=3)  # fmt: skip
    record = run(asked, results=results, phases=("train", "quality"))
    assert record.phases["quality"].status == "ok", record.phases["quality"].reason
    by_id = evaluate(record.run_id, "scenes", results=results)
    by_folder = evaluate(str(results / record.run_id), "scenes", results=tmp_path / "elsewhere")
    for name in (*rfd_v1.METRIC.figures, *mode_coverage.METRIC.figures):
        expected = record.quantity(name)
        for found in (by_id, by_folder):
            assert found.quantities[name] == expected, name
            assert found.quantities[f"{name}_real"] == record.quantity(f"{name}_real")
    quality = record.phases["quality"].protocol
    for key in ("generated", "real", rfd_v1.METRIC.title, mode_coverage.METRIC.title):
        assert by_id.protocol[key] == quality[key]
    assert by_id.protocol["scored"]["weights"]["sha256"] == quality["scored"]["weights_sha256"]
    with pytest.raises(UsageError, match=r"--resolution 64: the run .* generates 32 px"):
        evaluate(record.run_id, "scenes", resolution=64, results=results)


# What is refused


def refusal(kind, generated, real, tmp_path, **words):
    with pytest.raises(kind) as caught:
        evaluate(str(generated), str(real), results=tmp_path, **words)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_images_of_another_size_are_refused_and_never_resized(real, tmp_path):
    large = write(tmp_path / "large", pictures(resolution=64, count=3))
    message = refusal(UsageError, large, real, tmp_path, resolution=32)
    assert "is 64×64 px in an evaluation at 32 px" in message
    assert "not resized" in message
    mixed = write(tmp_path / "mixed", pictures(count=60))
    shutil.copy(large / "0001.png", mixed / "0050.png")
    assert "0050.png' is 64×64 px" in refusal(UsageError, mixed, real, tmp_path)
    wide = tmp_path / "wide"
    wide.mkdir()
    Image.new("RGB", (64, 32)).save(wide / "a.png")
    assert "64×32 px, and only squares" in refusal(UsageError, wide, real, tmp_path)
    odd = write(tmp_path / "odd", noise(3)[..., :31, :31])
    assert "--resolution 31" in refusal(UsageError, odd, real, tmp_path)


def test_what_is_no_source_of_images_is_refused(generated, real, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("x")
    (tmp_path / "bad.zip").write_bytes(b"no archive")
    assert "holds no image" in refusal(UsageError, tmp_path / "empty", real, tmp_path)
    assert "no ZIP archive" in refusal(UsageError, tmp_path / "text.txt", real, tmp_path)
    assert "cannot be read" in refusal(BenchError, tmp_path / "bad.zip", real, tmp_path)
    assert "is no folder, no ZIP archive and no run" in refusal(UsageError, "nowhere", real, tmp_path)
    assert "Did you mean 'scenes'" in refusal(UsageError, generated, "scene", tmp_path)
    (generated / "0000.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert "0000.png' is truncated or damaged" in refusal(BenchError, generated, real, tmp_path)
    assert "0000.png' is truncated or damaged" in refusal(BenchError, generated, real, tmp_path, resolution=32)


def test_a_metric_that_is_unknown_or_does_not_apply_is_refused_by_name(generated, real, tmp_path):
    message = refusal(UsageError, generated, real, tmp_path, metrics=["rfd_v2"])
    assert "Did you mean 'rfd-v1'?" in message
    message = refusal(UsageError, generated, real, tmp_path, metrics=["mode_coverage"])
    assert message.startswith("--metrics mode-coverage: mode_coverage decodes the factors of scenes")


def test_a_metric_whose_weights_are_missing_is_refused_by_name_and_left_out_otherwise(
    generated, real, tmp_path, monkeypatch
):
    lacking = dataclasses.replace(rfd_v1.METRIC, why_unavailable=lambda: "its weights are not here: fetch them.")
    monkeypatch.setattr(rfd_v1, "METRIC", lacking)
    message = refusal(MissingDataError, generated, real, tmp_path, metrics=["rfd_v1"])
    assert message == "--metrics rfd-v1: its weights are not here: fetch them."
    assert "--metrics fid-50k: " in refusal(MissingDataError, generated, real, tmp_path, metrics=["fid_50k"])
    assert "no metric applies" in refusal(UsageError, generated, real, tmp_path)
    assert evaluate(str(generated), "scenes", results=tmp_path).question.metrics == ("mode-coverage",)


# The document and the command


def app():
    typer_app = typer.Typer(pretty_exceptions_enable=False)
    typer_app.command()(cli_evaluate.evaluate)
    return typer_app


def invoke(*words):
    return CliRunner().invoke(app(), [str(word) for word in words])


def test_the_command_writes_the_record_and_prints_a_table(generated, real, tmp_path):
    results = tmp_path / "results"
    done = invoke("--generated", generated, "--real", real, "--results", results)
    assert done.exit_code == 0, done.output
    (path,) = results.glob("evaluations/*/record.json")
    found = read_evaluation(path)
    assert found.evaluation_id == path.parent.name
    assert found.evaluation_id.startswith("generated-folder-")
    assert "rfd_v1 " in done.stdout
    assert str(path) in done.stdout
    assert "rfd_v1_biased —: " in done.stdout, "why the other name has no value"
    assert json.loads(found.model_dump_json()) == json.loads(path.read_text())


def test_json_is_exactly_what_is_stored_and_out_says_where(generated, real, tmp_path):
    out = tmp_path / "deep" / "scores.json"
    done = invoke("--generated", generated, "--real", real, "--results", tmp_path / "r", "--out", out, "--json")
    assert done.exit_code == 0
    assert done.stdout == out.read_text()
    assert not (tmp_path / "r").exists()


def test_the_same_images_and_protocol_have_the_same_id(generated, real, tmp_path):
    first, second = (evaluate(str(generated), str(real), results=tmp_path) for _ in range(2))
    assert first.evaluation_id == second.evaluation_id
    assert first.quantities == second.quantities
    Image.new("RGB", (32, 32)).save(generated / "0000.png")
    assert evaluate(str(generated), str(real), results=tmp_path).evaluation_id != first.evaluation_id


def test_too_few_images_are_a_record_with_the_reason_and_exit_1(tmp_path, real):
    few = write(tmp_path / "few", pictures(count=12))
    results = tmp_path / "results"
    done = invoke("--generated", few, "--real", real, "--metrics", "rfd_v1", "--results", results)
    assert isinstance(done.exception, BenchError)
    assert done.exception.exit_code == 1
    assert "12 generated" in str(done.exception)
    (path,) = results.glob("evaluations/*/record.json")
    found = read_evaluation(path)
    assert found.status == "failed"
    assert found.quantities["rfd_v1_biased"].value is None


def test_a_stored_document_that_is_damaged_is_one_sentence(generated, real, tmp_path):
    path = save(evaluate(str(generated), str(real), results=tmp_path), tmp_path)
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    with pytest.raises(BenchError, match="is not an evaluation"):
        read_evaluation(path)


def test_the_command_loads_nothing_heavy_before_it_is_used():
    code = "import sys, bench.cli_evaluate; assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# Three sampling seeds


def test_standard_measures_three_sampling_seeds_and_gives_their_spread(small_gan, weights, tmp_path):
    record = run(spec(small_gan, weights), results=tmp_path, phases=("quality",))
    quality = record.phases["quality"]
    assert quality.status == "ok", quality.reason
    assert quality.protocol["scored"]["num_sampling_seeds"] == 3
    assert len(set(quality.protocol["scored"]["sampling_seeds"])) == 3
    spread = quality.quantities["rfd_v1_seed_spread"]
    assert spread.value > 0
    assert (spread.n, spread.kind, spread.unit) == (3, "computed", "1")
    assert "rfd_v1_biased_seed_spread" not in quality.quantities, "a figure without a value has no spread"
    assert spread.value < record.quantity("rfd_v1").value


def test_smoke_measures_one_and_says_so(small_gan, weights, tmp_path):
    record = run(spec(small_gan, weights, preset="smoke"), results=tmp_path, phases=("quality",))
    scored = record.phases["quality"].protocol["scored"]
    assert scored["num_sampling_seeds"] == 1
    assert "smoke" in scored["seed_spread"]
    assert not any(name.endswith("_seed_spread") for name in record.phases["quality"].quantities)
    standard = run(spec(small_gan, weights), results=tmp_path, phases=("quality",))
    assert standard.quantity("rfd_v1") == record.quantity("rfd_v1"), "the value is the first seed's in every preset"
