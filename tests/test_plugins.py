"""Every plug-in of every registry keeps its contract; a new file is tested the moment it exists."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from bench.catalog import DATASETS, METERS, METRICS, MODELS
from bench.errors import MissingDataError
from bench.training.step import Trainer
from models._spec import Gan

CONFIGURATIONS = [
    (name, resolution, size)
    for name in MODELS.names()
    for resolution in MODELS.load(name).resolutions
    for size in MODELS.load(name).sizes
]


@pytest.mark.parametrize("name", MODELS.names())
def test_a_model_says_where_it_comes_from(name):
    spec = MODELS.load(name)
    assert spec.title and spec.attention and spec.licence and spec.paper and spec.code
    assert {"paper", "tiny"} <= set(spec.sizes)
    assert all(origin == "paper" or origin.startswith("ours") for origin in spec.resolutions.values())


@pytest.mark.parametrize(("name", "resolution", "size"), CONFIGURATIONS)
def test_a_model_builds_on_meta_with_the_right_shapes_and_a_recipe_that_a_record_can_keep(name, resolution, size):
    spec = MODELS.load(name)
    with torch.device("meta"):
        gan = spec.build(resolution, size)
        images = gan.generator(torch.empty(2, gan.latent_dim))
        logits = gan.discriminator(torch.empty(2, 3, resolution, resolution))
    assert images.shape == (2, 3, resolution, resolution)
    assert logits.shape[0] == 2
    recipe = spec.recipe("scenes", resolution, size)
    assert recipe.source
    assert recipe.num_images > 0
    json.dumps(dataclasses.asdict(recipe))


@pytest.mark.parametrize("name", MODELS.names())
def test_two_steps_of_the_tiny_size_change_both_networks_and_keep_the_losses_finite(name):
    spec = MODELS.load(name)
    resolution = min(spec.resolutions)
    torch.manual_seed(0)
    gan: Gan = spec.build(resolution, "tiny")
    recipe = spec.recipe("scenes", resolution, "tiny")
    trainer = Trainer(gan, recipe, device="cpu", precision="fp32", seed=0)
    before = {key: value.clone() for key, value in trainer.gan.generator.state_dict().items()}
    before_d = {key: value.clone() for key, value in trainer.gan.discriminator.state_dict().items()}
    for _ in range(2):
        losses = trainer.step(torch.rand(4, 3, resolution, resolution) * 2 - 1)
        assert all(torch.isfinite(loss) for loss in losses.values())
    assert any(not torch.equal(value, before[key]) for key, value in trainer.gan.generator.state_dict().items())
    assert any(not torch.equal(value, before_d[key]) for key, value in trainer.gan.discriminator.state_dict().items())
    assert all(parameter.requires_grad for parameter in trainer.gan.discriminator.parameters())


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
