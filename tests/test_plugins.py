"""Every plug-in of every registry keeps its contract; a new file is tested the moment it exists."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from bench.catalog import DATASETS, METERS, METRICS, MODELS, build_gan, find_model
from bench.errors import MissingDataError
from bench.phases.cost import one_step_of
from bench.training.step import Trainer
from bench.training.weights import load_weights, save_weights
from models._losses import squared_gradient_norm

CONFIGURATIONS = [
    (name, resolution, size, attention)
    for name in MODELS.names()
    for resolution in MODELS.load(name).resolutions
    for size in MODELS.load(name).sizes
    for attention in MODELS.load(name).attentions or [None]
]
TRAINED = [name for name in MODELS.names() if not MODELS.load(name).why_not_trained]


def tiny(name):
    """A small pair of networks, freshly initialised, and their resolution."""
    torch.manual_seed(0)
    resolution = min(MODELS.load(name).resolutions)
    return build_gan(find_model(name), resolution, "tiny", None), resolution


@pytest.mark.parametrize("name", MODELS.names())
def test_a_model_says_where_it_comes_from(name):
    spec = MODELS.load(name)
    assert spec.title and spec.attention and spec.licence and spec.paper and spec.code
    assert {"paper", "tiny"} <= set(spec.sizes)
    assert all(origin == "paper" or origin.startswith("ours") for origin in spec.resolutions.values())


@pytest.mark.parametrize(("name", "resolution", "size", "attention"), CONFIGURATIONS)
def test_a_model_builds_on_meta_with_the_right_shapes_and_a_recipe_that_a_record_can_keep(
    name, resolution, size, attention
):
    spec = MODELS.load(name)
    with torch.device("meta"):
        gan = build_gan(find_model(name), resolution, size, attention)
        real = torch.empty(2, 3, resolution, resolution)
        one_step, _ = one_step_of(gan.generator)  # a thousand of them say no more than one
        images = gan.generator(torch.empty(2, gan.latent_dim)) if one_step is None else one_step(real)
        assert images.shape == real.shape
        if not spec.why_not_trained:
            assert gan.discriminator(real).shape[0] == 2
    recipe = spec.recipe("scenes", resolution, size)
    assert recipe.source
    assert recipe.num_images > 0
    json.dumps(dataclasses.asdict(recipe))


@pytest.mark.parametrize("name", TRAINED)
def test_two_updates_of_the_tiny_size_change_both_networks_and_keep_the_losses_finite(name):
    gan, resolution = tiny(name)
    recipe = MODELS.load(name).recipe("scenes", resolution, "tiny")
    trainer = Trainer(gan, recipe, device="cpu", precision="fp32", seed=0)
    before = {key: value.clone() for key, value in trainer.gan.generator.state_dict().items()}
    before_d = {key: value.clone() for key, value in trainer.gan.discriminator.state_dict().items()}
    seen = set()
    for _ in range(2 * recipe.num_discriminator_steps):
        losses = trainer.step(torch.rand(4, 3, resolution, resolution) * 2 - 1)
        assert all(torch.isfinite(loss) for loss in losses.values())
        seen |= set(losses)
    assert {"discriminator", "generator"} <= seen
    assert any(not torch.equal(value, before[key]) for key, value in trainer.gan.generator.state_dict().items())
    assert any(not torch.equal(value, before_d[key]) for key, value in trainer.gan.discriminator.state_dict().items())
    assert all(parameter.requires_grad for parameter in trainer.gan.discriminator.parameters())


@pytest.mark.parametrize("name", TRAINED)
def test_a_gradient_penalty_can_be_differentiated_in_every_discriminator(name):
    gan, resolution = tiny(name)
    images = torch.randn(4, 3, resolution, resolution, requires_grad=True)
    squared_gradient_norm(gan.discriminator.train()(images), images).backward()
    gradients = [each.grad for each in gan.discriminator.parameters() if each.grad is not None]
    assert gradients
    assert all(torch.isfinite(each).all() for each in gradients)
    assert any((each != 0).any() for each in gradients)


@pytest.mark.parametrize("name", MODELS.names())
def test_the_same_latent_gives_the_same_image_in_a_batch_of_any_size(name):
    gan, _ = tiny(name)
    generator = gan.generator.eval()
    z = torch.randn(5, gan.latent_dim)
    with torch.no_grad():
        whole, apart = generator(z), torch.cat([generator(z[:2]), generator(z[2:])])
    # Products of another batch size are rounded otherwise; a batch that leaks would differ by whole grey levels.
    assert whole.std() > 0
    assert (whole - apart).abs().max() < 1e-3 * whole.std()


@pytest.mark.parametrize("name", TRAINED)
def test_weights_survive_a_round_trip_through_their_file(name, tmp_path):
    gan, _ = tiny(name)
    torch.manual_seed(1)
    other = build_gan(find_model(name), min(MODELS.load(name).resolutions), "tiny", None)
    z = torch.randn(2, gan.latent_dim)
    save_weights(tmp_path / "weights.safetensors", gan.generator, {})
    load_weights(tmp_path / "weights.safetensors", other.generator)
    with torch.no_grad():
        assert torch.equal(gan.generator.eval()(z), other.generator.eval()(z))


@pytest.mark.parametrize("name", DATASETS.names())
def test_a_data_set_opens_or_says_in_one_sentence_what_to_fetch(name, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "nothing-here"))
    spec = DATASETS.load(name)
    assert spec.title and spec.licence and spec.source
    assert spec.default_resolution in spec.resolutions
    if spec.takes_path:
        return  # tested with a folder of its own
    try:
        opened = spec.open(spec.default_resolution, None)
    except MissingDataError as error:
        assert "--no-data" in str(error)
        assert "\n" not in str(error)
        return
    json.dumps(opened.protocol)
    for images in (opened.train, opened.reference):
        indices = np.array([0, len(images) - 1, 3], dtype=np.int64)
        batch = images.read(indices)
        assert batch.dtype == np.uint8
        assert batch.shape == (3, 3, spec.default_resolution, spec.default_resolution)
        assert np.array_equal(images.read(indices[::-1]), batch[::-1])


@pytest.mark.parametrize("name", METERS.names())
def test_a_meter_reads_what_it_declares_or_says_why_it_cannot(name):
    spec = METERS.load(name)
    reason = spec.why_unavailable("cpu")
    if reason is not None:
        assert len(reason) > 10
        return
    meter = spec.open("cpu")
    meter.start()
    readings = meter.stop()
    meter.close()
    assert readings.values or readings.problems
    assert {*readings.values, *readings.problems} <= set(spec.readings)
    assert set(meter.energy_sources()) <= {name for name in spec.readings if name.endswith("_energy_j")}


def test_the_figures_of_all_metrics_have_names_of_their_own():
    names = [figure for name in METRICS.names() for figure in METRICS.load(name).figures]
    assert len(names) == len(set(names))
    assert all(name == name.lower() and " " not in name for name in names)


@pytest.mark.parametrize("name", METRICS.names())
def test_a_metric_applies_somewhere_and_says_why_not_elsewhere(name):
    spec = METRICS.load(name)
    reasons = {dataset: spec.why_not(dataset) for dataset in DATASETS.names()}
    assert None in reasons.values()
    assert all(reason is None or len(reason) > 10 for reason in reasons.values())
    assert spec.num_images > 0
