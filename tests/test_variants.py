"""`--attention` and `--discriminator`: what they change, and what they refuse."""

import dataclasses

import pytest

from bench.cli import main
from bench.errors import UsageError
from bench.phases._settle import run_id_of, settle
from bench.records import RunSpec
from bench.runner import look, run


def question(**asked):
    return settle(RunSpec(**({"model": "ladagan", "size": "tiny", "dataset": "synthetic", "resolution": 32} | asked)))


def test_the_models_own_operator_is_no_variant_and_every_other_one_is_another_run():
    machine = look("cpu")
    default, named, other = question(), question(attention="additive"), question(attention="softmax")
    assert default.spec.attention is None
    assert default.spec.model_title == "ladagan tiny"
    assert run_id_of(default, machine) == run_id_of(named, machine) != run_id_of(other, machine)
    assert other.configuration == "ours: size tiny, softmax attention"
    assert other.spec.model_title == "ladagan tiny, softmax attention"
    assert question(size="paper", dataset="cifar10", no_data=True, attention="additive").configuration == "paper"


def test_a_foreign_discriminator_brings_its_losses_and_leaves_the_generators_settings():
    own, pair, lada = question(model="sagan"), question(model="sagan", discriminator="ladagan"), question()
    assert pair.recipe.objective == lada.recipe.objective != own.recipe.objective
    assert pair.recipe.discriminator_lr == lada.recipe.discriminator_lr
    assert pair.recipe.generator_lr == own.recipe.generator_lr
    built = pair.build("cpu")
    assert type(built.discriminator) is type(lada.build("cpu").discriminator)
    assert type(built.generator) is type(own.build("cpu").generator)
    assert "ladagan" in pair.recipe.source
    assert dataclasses.replace(pair.recipe, source="") != dataclasses.replace(own.recipe, source="")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"attention": "cubic"}, "--attention 'cubic': ladagan has additive, softmax"),
        ({"model": "sagan", "attention": "softmax"}, "--attention 'softmax': sagan offers no choice"),
        ({"discriminator": "ladagan"}, "the model's own"),
        ({"discriminator": "adm"}, "is not trained"),
        ({"model": "ddpm", "discriminator": "ladagan"}, "is not trained"),
        ({"discriminator": "nobody"}, "nobody"),
    ],
)
def test_what_cannot_be_combined_is_one_sentence(asked, message):
    with pytest.raises(UsageError, match=message):
        question(**asked)


def test_the_command_takes_both_options(capsys):
    words = ["run", "--model", "sagan", "--size", "tiny", "--dataset", "scenes", "--resolution", "32", "--dry-run"]
    assert main([*words, "--discriminator", "ladagan"]) == 0
    assert "discriminator of ladagan" in capsys.readouterr().out


def test_a_sampler_is_costed_per_image_and_per_step_and_never_trained(tmp_path):
    spec = RunSpec(
        model="ddpm", size="tiny", dataset="synthetic", resolution=32, batch_size=2, preset="smoke", no_data=True
    )
    record = run(spec, results=tmp_path, phases=("cost", "train_step"))
    steps, image, step = (
        record.quantity(name).value for name in ("num_sampling_steps", "macs_generator", "macs_generator_per_step")
    )
    assert (steps, image) == (10, 10 * step)
    assert record.quantity("num_params_discriminator").value is None
    assert record.phases["train_step"].status == "skipped"
    assert "out of scope" in record.phases["train_step"].reason
