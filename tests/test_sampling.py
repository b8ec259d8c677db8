"""`bench sample`: the same images every time, truncation, where the weights are from, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from bench import cli_weights
from bench.catalog import MODELS
from bench.errors import BenchError, CheckpointError, RecordError, UsageError
from bench.sampling import Configuration, load_file, load_run, sample
from bench.store import RunFolder, read_record
from bench.training.images import to_uint8
from bench.training.randomness import latents
from bench.training.truncation import truncated
from bench.training.weights import save_weights
from models import ladagan

FIXTURE = Path(__file__).parent / "fixtures" / "ladagan_patches.index"
RECORD = Path(__file__).parent / "records" / "schema_2.json"  # of ladagan tiny at 32 px
LADAGAN = Configuration(model="ladagan", size="tiny", resolution=32)


def weights_file(tmp_path, facts=None, model="ladagan"):
    torch.manual_seed(0)
    path = tmp_path / f"{model}.safetensors"
    save_weights(path, MODELS.load(model).build(32, "tiny").generator, facts or {})
    return path


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image).transpose(2, 0, 1)


def loaded_model(tmp_path, model):
    asked = Configuration(model=model, size="tiny", resolution=32)
    return load_file(weights_file(tmp_path, model=model), asked, device="cpu")


def test_image_i_is_the_generator_s_answer_to_latent_i_for_any_number(tmp_path):
    loaded = load_file(weights_file(tmp_path), LADAGAN, device="cpu")
    many = sample(loaded, num=19, out=tmp_path / "many", seed=3)
    few = sample(loaded, num=2, out=tmp_path / "few", seed=3)
    assert [path.name for path in many.images] == [f"{index:06d}.png" for index in range(19)]
    assert [path.read_bytes() for path in few.images] == [path.read_bytes() for path in many.images[:2]]
    with torch.no_grad():
        expected = to_uint8(loaded.generator(latents(3, 17, 1, 128)))[0]
    assert np.abs(pixels(many.images[17]).astype(int) - expected.astype(int)).max() <= 1
    assert pixels(many.images[0]).std() > 0 and many.images[0].read_bytes() != many.images[1].read_bytes()


def test_the_provenance_is_enough_to_make_them_again(tmp_path):
    path = weights_file(tmp_path, {"run_id": "x"})
    samples = sample(load_file(path, LADAGAN, device="cpu"), num=3, out=tmp_path / "out", seed=7)
    found = json.loads(samples.provenance.read_text())
    assert found["weights"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found["weights"]["model"], found["weights"]["size"], found["weights"]["resolution"]) == (
        "ladagan",
        "tiny",
        32,
    )
    assert (found["num_images"], found["seed"], found["truncation"]) == (3, 7, None)
    assert found["weights"]["header"] == {"run_id": "x"}


def test_the_grid_holds_the_images_in_order(tmp_path):
    samples = sample(load_file(weights_file(tmp_path), LADAGAN, device="cpu"), num=5, out=tmp_path / "out")
    grid = pixels(samples.grid)
    assert grid.shape == (3, 2 * 32 + 2, 3 * 32 + 2 * 2)
    assert np.array_equal(grid[:, 34:66, 34:66], pixels(samples.images[4]))


def test_a_header_says_what_the_options_need_not(tmp_path):
    facts = {"model": "ladagan", "size": "tiny", "resolution": 32}
    loaded = load_file(weights_file(tmp_path, facts), Configuration(), device="cpu")
    assert loaded.title == "ladagan tiny at 32 px"


@pytest.mark.parametrize(
    ("header", "asked", "said"),
    [
        ({}, Configuration(), "--model is needed"),
        ({}, Configuration(model="ladagan", size="tiny"), "--resolution is needed"),
        ({"size": "paper"}, LADAGAN, "--size tiny: the header"),
        ({}, Configuration(model="ladagan", size="tiny", resolution=48), "There is no ladagan tiny at 48 px"),
        ({}, Configuration(model="ladagan", size="huge", resolution=32), "There is no ladagan huge at 32 px"),
        ({}, Configuration(model="ladogan", size="tiny", resolution=32), "Unknown model"),
        ({"attention": "nothing"}, LADAGAN, "--attention 'nothing'"),
        ({"model": "evil.py", "size": "tiny", "resolution": 32}, Configuration(), "names no model of the zoo"),
        ({"resolution": "big"}, Configuration(model="ladagan", size="tiny"), "no number as its resolution"),
    ],
)
def test_weights_whose_networks_are_not_known_are_refused(header, asked, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UsageError, match=said):
        load_file(weights_file(tmp_path, header), asked, device="cpu")


def test_weights_of_another_size_or_cut_short_are_refused(tmp_path):
    path = weights_file(tmp_path)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        load_file(path, Configuration(model="ladagan", size="tiny", resolution=64), device="cpu")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        load_file(path, LADAGAN, device="cpu")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num": 0}, "--num 0"),
        ({"num": 1, "truncation": 1.5}, r"--truncation 1\.5"),
        ({"num": 1, "truncation": 0.7}, "ladagan tiny at 32 px has no mapping network"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_anything_is_written(options, said, tmp_path):
    with pytest.raises(UsageError, match=said):
        sample(load_file(weights_file(tmp_path), LADAGAN, device="cpu"), out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_shorter_series_does_not_mix_with_a_longer_one(tmp_path):
    loaded = load_file(weights_file(tmp_path), LADAGAN, device="cpu")
    sample(loaded, num=3, out=tmp_path / "out")
    sample(loaded, num=3, out=tmp_path / "out")  # the same again is allowed
    with pytest.raises(UsageError, match=r"000002\.png"):
        sample(loaded, num=2, out=tmp_path / "out")


MAPPED = ["stylegan2", "styleswin", "styleformer", "ganformer", "vitgan"]


def images_at(loaded, z, psi=None):
    with torch.no_grad():
        if psi is None:
            return loaded.generator(z)
        facts = {"latent_dim": loaded.latent_dim, "device": "cpu", "title": loaded.title}
        with truncated(loaded.generator, psi, **facts):
            return loaded.generator(z)


@pytest.mark.parametrize("model", MAPPED)
def test_truncation_goes_from_the_mean_image_to_none(model, tmp_path):
    loaded = loaded_model(tmp_path, model)
    z = latents(0, 0, 3, loaded.latent_dim)
    plain = images_at(loaded, z)
    mean, half, whole = (images_at(loaded, z, psi) for psi in (0.0, 0.5, 1.0))
    spread = [each.std(dim=0).mean() for each in (mean, half, whole)]
    assert spread[0] < 1e-4 * spread[2]  # one image for every latent
    assert spread[0] < spread[1] < spread[2]
    assert torch.allclose(whole, plain, atol=1e-3 * float(plain.abs().max()))
    assert torch.equal(images_at(loaded, z), plain)  # the hooks are gone


def test_the_mean_is_the_one_of_mapped_latents(tmp_path):
    loaded = loaded_model(tmp_path, "stylegan2")
    seen = []
    handle = loaded.generator.mapping.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        expected = loaded.generator.mapping(torch.randn(20_000, loaded.latent_dim)).mean(dim=0)
        handle.remove()
        z = latents(0, 0, 2, loaded.latent_dim)
        with truncated(loaded.generator, 0.0, latent_dim=loaded.latent_dim, device="cpu", title="x"):
            mean = loaded.generator.mapping(z)
    assert torch.equal(mean[0], mean[1])
    deviation = seen[0].std(dim=0).mean()
    assert (mean[0] - expected).abs().mean() < 0.03 * deviation  # √(1/10,000 + 1/20,000) = 0.012


def stored_run(tmp_path, has_weights=True):
    record = read_record(RECORD)
    folder = RunFolder(tmp_path / "results", record.run_id)
    folder.write(record)
    if has_weights:
        weights_file(tmp_path).replace(folder.path / "ema.safetensors")
    return record.run_id


def test_a_run_is_sampled_by_its_id(tmp_path):
    run_id = stored_run(tmp_path)
    loaded = load_run(tmp_path / "results", run_id[-6:], device="cpu")
    assert loaded.facts["run_id"] == run_id and loaded.title == "ladagan tiny at 32 px"


def test_a_run_without_weights_or_without_a_record_is_refused(tmp_path):
    run_id = stored_run(tmp_path, has_weights=False)
    with pytest.raises(CheckpointError, match=r"has no ema\.safetensors here"):
        load_run(tmp_path / "results", run_id)
    with pytest.raises(RecordError, match="There is no run"):
        load_run(tmp_path / "results", "nothing")


@pytest.fixture
def command():
    app = typer.Typer()
    app.command()(cli_weights.sample)
    app.command(name="import")(cli_weights.import_)

    def run(*words):
        done = CliRunner().invoke(app, [str(word) for word in words])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.output

    return run


def test_the_command_samples_with_attention_maps(command, tmp_path):
    path = weights_file(tmp_path, {"model": "ladagan", "size": "tiny", "resolution": 32})
    out = tmp_path / "out"
    said = command("sample", "--weights", path, "--num", 2, "--out", out, "--attention-maps", "--device", "cpu")
    assert sorted(each.name for each in out.iterdir()) == ["attention.png", "grid.png", "images", "samples.json"]
    assert sorted(each.name for each in (out / "images").iterdir()) == ["000000.png", "000001.png"]
    assert "2 images of ladagan tiny at 32 px" in said and str(out / "attention.png") in said
    with Image.open(out / "attention.png") as sheet:
        assert sheet.size[0] > 500


def test_the_command_wants_a_run_or_a_file(command, tmp_path):
    path = weights_file(tmp_path)
    for words in ([], ["--run", "x", "--weights", path], ["--run", "x", "--model", "ladagan"]):
        with pytest.raises(BenchError, match="--weights"):
            command("sample", "--out", tmp_path / "out", *words)


def test_an_imported_file_can_be_sampled_without_saying_what_it_is(command, tmp_path, monkeypatch):
    small = ladagan.LadaGanConfig(
        generator_widths=(16, 8, 4), latent_dim=4, encoder_widths=(4, 4, 8), mlp_width=8, num_heads=2
    )
    monkeypatch.setitem(ladagan.CONFIGS, (64, "tiny"), small)
    imported = tmp_path / "imported.safetensors"
    words = ["--resolution", 64, "--size", "tiny", "--out", imported]
    assert "trained on 72,200,000 images" in command("import", FIXTURE, *words)
    out = tmp_path / "out"
    said = command("sample", "--weights", imported, "--num", 1, "--out", out, "--device", "cpu")
    assert "1 image of ladagan tiny at 64 px" in said
    found = json.loads((out / "samples.json").read_text())
    assert found["weights"]["header"]["layout"] == "TensorFlow checkpoint"
