"""The cost phase against golden values of the official code, closed forms, fvcore and a step that really runs."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bench.catalog import FoundModel, find_dataset, find_model
from bench.phases import cost
from bench.phases._context import Question
from bench.phases._cost_checks import (
    SoftmaxTransformer,
    count_on_shapes,
    macs_of_ladagan_generator,
    macs_of_transformer,
    table,
)
from bench.phases._cost_fvcore import compare_with_fvcore
from bench.phases._cost_step import count_step
from bench.phases._op_counter import OpCounter
from bench.phases._presets import PRESETS
from bench.records import RunSpec
from bench.training.step import Trainer
from bench.units import Budget
from models._losses import NonSaturatingR1, WassersteinGradientPenalty
from models._spec import Gan, Loss
from models.ladagan import CONFIGS, SPEC

DATASETS = {32: "cifar10", 64: "celeba-64", 128: "ffhq-128"}
STEP_FIGURES = {
    "macs_discriminator_step",
    "bytes_discriminator_step",
    "macs_generator_step",
    "bytes_generator_step",
    "macs_penalty",
    "macs_step_per_image",
    "bytes_step_per_image",
    "activation_bytes_discriminator_step",
    "activation_bytes_generator_step",
    "arithmetic_intensity_step",
    "counted_op_share",
}


def question_of(resolution=32, size="paper", batch_size=None, precision="fp32", model=None, **changes):
    """A question about LadaGAN; `changes` are the recipe's."""
    model = model or find_model("ladagan")
    recipe = dataclasses.replace(model.spec.recipe(DATASETS[resolution], resolution, size), **changes)
    return Question(
        spec=RunSpec(model=model.name, dataset=DATASETS[resolution], size=size, resolution=resolution, no_data=True),
        resolution=resolution,
        batch_size=batch_size or recipe.batch_size,
        precision=precision,
        device="cpu",
        model=model,
        recipe=recipe,
        found_dataset=find_dataset(DATASETS[resolution]),
        dataset=None,
        budget=Budget(num_images=1),
        preset=PRESETS["smoke"],
    )


def measure(question):
    return cost.measure(SimpleNamespace(question=question))


@pytest.mark.parametrize(("resolution", "gflop_per_image"), [(32, 21.8), (64, 27.1), (128, 61.2)])
def test_a_whole_step_of_ladagan_costs_per_image_what_the_official_code_does(resolution, gflop_per_image):
    """models.md § 2: one D and one G step, 2 × MAC, without bCR; and R1 adds 33 to 46 % to the discriminator's step."""
    objective = NonSaturatingR1(r1_weight=1e-4, augmentations=("color", "translation"))
    question = question_of(resolution, batch_size=16, objective=objective)
    outcome = measure(question)
    found = {name: figure.value for name, figure in outcome.quantities.items()}
    assert 2 * found["macs_step_per_image"] / 1e9 == pytest.approx(gflop_per_image, rel=0.02)
    assert found["counted_op_share"] == outcome.protocol["counted_byte_share"] == 1
    share = found["macs_penalty"] / (found["macs_discriminator_step"] - found["macs_penalty"])
    assert 0.325 < share < 0.465


def test_every_figure_is_computed_exact_and_agrees_with_the_others():
    outcome = measure(question_of(64))
    figures = outcome.quantities
    assert STEP_FIGURES | {
        "num_params_generator",
        "num_params_discriminator",
        "macs_generator",
        "macs_discriminator",
        "bytes_generator",
        "bytes_discriminator",
        "bytes_generator_per_image",
        "arithmetic_intensity_generator",
    } == set(figures)
    assert all(each.kind == "computed" and each.low == each.value == each.high for each in figures.values())
    assert (figures["num_params_generator"].value, figures["num_params_discriminator"].value) == (19_900_351, 7_004_356)
    assert (figures["macs_generator"].value, figures["macs_discriminator"].value) == (758_349_824, 947_339_264)
    parts = outcome.protocol["step_parts"]
    for unit in ("macs", "bytes"):
        whole = sum(part[unit] for part in parts.values())
        assert figures[f"{unit}_step_per_image"].value == whole / 128
        halves = figures[f"{unit}_discriminator_step"].value + figures[f"{unit}_generator_step"].value
        assert halves + parts["moving_average"][unit] == whole
    updates = parts["discriminator_update"], parts["generator_update"], parts["moving_average"]
    assert [part["macs"] for part in updates] == [0, 0, 0]
    num_params = 7_004_356, 19_900_351, 19_900_351
    reads_and_writes = 7, 7, 3  # Adam: p, g, m, v in, p, m, v out; the average: itself and p in, itself out
    for part, count, passes in zip(updates, num_params, reads_and_writes, strict=True):
        assert part["bytes"] == pytest.approx(4 * passes * count, rel=1e-4)  # and a step count per parameter
    saved = figures["bytes_generator"].value - figures["bytes_generator_per_image"].value
    assert saved == pytest.approx(4 * 19_900_351 * 127 / 128, rel=0.03)  # weights are read once, by one image or by 128
    checks = outcome.protocol["cross_check"]
    assert [checks[name]["ratio"] for name in ("generator", "discriminator")] == [1, 1]
    assert figures["macs_generator"].note == ""


def test_products_are_proportional_to_the_batch_and_bytes_are_not():
    small, large = (
        count_step(question, question.recipe.objective)
        for question in (question_of(size="tiny", batch_size=b) for b in (4, 16))
    )
    assert 4 * small.whole.num_macs == large.whole.num_macs > 0
    assert large.whole.num_bytes < 4 * small.whole.num_bytes
    for network, num_bytes in small.activation_bytes.items():
        assert 3 * num_bytes < large.activation_bytes[network] <= 4 * num_bytes


R1 = NonSaturatingR1(r1_weight=0.1, augmentations=("color",))
CONSISTENT = NonSaturatingR1(r1_weight=0.1, augmentations=("cutout",), bcr_real_weight=0.1, bcr_fake_weight=0.1)
WASSERSTEIN = WassersteinGradientPenalty(drift_weight=1e-3, augmentations=("color", "translation"))


@pytest.mark.parametrize(
    ("objective", "precision", "resolution"),
    [(R1, "fp32", 32), (R1, "bf16", 32), (CONSISTENT, "fp32", 128), (WASSERSTEIN, "bf16", 32)],
)
def test_on_shapes_alone_a_step_counts_what_the_step_that_trains_does(objective, precision, resolution):
    question = question_of(resolution, "tiny", batch_size=2, precision=precision, objective=objective)
    trainer = Trainer(question.build("cpu"), question.recipe, device="cpu", precision=precision, seed=0)
    real = torch.rand(2, 3, resolution, resolution)
    trainer.step(real)
    with OpCounter() as counter:
        trainer.step(real)
    inferred = count_step(question, question.recipe.objective).whole
    assert inferred.num_macs == counter.tally.num_macs
    assert inferred.products == counter.tally.products
    assert inferred.num_bytes == pytest.approx(counter.tally.num_bytes, rel=1e-3)
    assert not inferred.unknown


def test_bfloat16_moves_fewer_bytes_and_saves_smaller_activations_for_the_same_products():
    full, half = (
        count_step(question, question.recipe.objective)
        for question in (question_of(32, "paper", precision=precision) for precision in ("fp32", "bf16"))
    )
    assert full.whole.num_macs == half.whole.num_macs
    assert 0.4 < half.whole.num_bytes / full.whole.num_bytes < 0.8
    for network in ("generator", "discriminator"):
        assert 0.4 < half.activation_bytes[network] / full.activation_bytes[network] < 0.8


LATENT, PIXELS = 8, 3 * 32 * 32


def linear_gan(resolution, size):
    return Gan(
        generator=nn.Sequential(nn.Linear(LATENT, PIXELS, bias=False), nn.Unflatten(1, (3, 32, 32))),
        discriminator=nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 1, bias=False)),
        latent_dim=LATENT,
    )


def with_linear_networks(objective, build=linear_gan, **changes):
    spec = dataclasses.replace(SPEC, build=build, attentions={})
    model = FoundModel("linear", spec, "none")
    return question_of(size="tiny", batch_size=4, model=model, objective=objective, **changes)


@dataclasses.dataclass(frozen=True)
class Plain:
    """No penalty."""

    period: int = 1

    def discriminator_loss(self, gan, real, z, _step):
        with torch.no_grad():
            fake = gan.generator(z)
        total = (gan.discriminator(fake) - gan.discriminator(real)).mean()
        return Loss(total, {})

    def generator_loss(self, gan, _real, z, _step):
        return Loss(-gan.discriminator(gan.generator(z)).mean(), {})

    def without_penalty(self):
        return self


# Per image and in units of one pass of each network. D: G forward; D forward and weight gradient on real and fake.
# G: both forward, D's input gradient, G's weight gradient. R1: D's input gradient, the weight gradient of that, and the
# input gradient in the loss's own backward pass. The Wasserstein penalty: a forward pass more, but not the last.
D_PASSES, G_PASSES = (1, 4), (2, 2)


@pytest.mark.parametrize(
    ("objective", "penalty_passes"),
    [(Plain(), 0), (NonSaturatingR1(r1_weight=1.0), 3), (WassersteinGradientPenalty(), 3)],
)
def test_linear_networks_cost_their_closed_forms(objective, penalty_passes):
    figures = measure(with_linear_networks(objective)).quantities
    g, d, b = LATENT * PIXELS, PIXELS, 4
    penalty = b * penalty_passes * d
    assert figures["macs_penalty"].value == penalty
    assert figures["macs_discriminator_step"].value == b * (D_PASSES[0] * g + D_PASSES[1] * d) + penalty
    assert figures["macs_generator_step"].value == b * (G_PASSES[0] * g + G_PASSES[1] * d)
    assert figures["bytes_generator"].value == 4 * (LATENT + g + PIXELS)
    assert figures["arithmetic_intensity_generator"].value == g / (4 * (LATENT + g + PIXELS))
    assert figures["bytes_generator_per_image"].value == 4 * (LATENT + g / b + PIXELS)
    if penalty_passes == 0:
        assert "no penalty" in figures["macs_penalty"].note


def test_a_lazy_penalty_and_several_critic_updates_are_averaged_over_their_period():
    g, d, b = LATENT * PIXELS, PIXELS, 4
    every, lazy = (
        measure(with_linear_networks(NonSaturatingR1(r1_weight=1.0, r1_interval=k), num_discriminator_steps=2))
        for k in (1, 4)
    )
    assert (every.protocol["num_steps_counted"], lazy.protocol["num_steps_counted"]) == (2, 8)
    assert lazy.protocol["num_updates_counted"] == {"discriminator": 8, "generator": 4}
    every, lazy = every.quantities, lazy.quantities
    assert every["macs_penalty"].value == 4 * lazy["macs_penalty"].value == b * 3 * d
    for figures in (every, lazy):
        discriminator = b * (D_PASSES[0] * g + D_PASSES[1] * d) + figures["macs_penalty"].value
        generator = b * (G_PASSES[0] * g + G_PASSES[1] * d)
        assert figures["macs_discriminator_step"].value == discriminator
        assert figures["macs_generator_step"].value == generator
        assert figures["macs_step_per_image"].value == (discriminator + generator / 2) / b
    name = "activation_bytes_discriminator_step"
    assert every[name].value == lazy[name].value  # of the step that takes the penalty


def test_clipping_is_part_of_the_step_and_has_no_products():
    plain, clipped = (measure(with_linear_networks(Plain(), max_gradient_norm=most)).quantities for most in (None, 5.0))
    assert clipped["counted_op_share"].value == 1
    assert clipped["macs_step_per_image"].value == plain["macs_step_per_image"].value
    num_params = LATENT * PIXELS + PIXELS
    extra = clipped["bytes_step_per_image"].value - plain["bytes_step_per_image"].value
    assert extra * 4 == pytest.approx(4 * 2 * num_params, rel=0.01)  # to scale; every step has the norm


def test_activations_are_what_the_backward_pass_reads_without_the_weights():
    figures = measure(with_linear_networks(Plain())).quantities
    b = 4
    assert figures["activation_bytes_generator_step"].value == 4 * b * LATENT  # z, for G's weight gradient
    assert figures["activation_bytes_discriminator_step"].value == 4 * 2 * b * PIXELS  # both batches, for D's


def test_a_step_that_needs_a_value_is_unknown_with_the_reason_and_the_rest_is_known():
    class Peeking(Plain):
        def generator_loss(self, gan, real, z, step):
            loss = super().generator_loss(gan, real, z, step)
            return loss if loss.total.item() > 0 else Loss(2 * loss.total, {})

    figures = measure(with_linear_networks(Peeking())).quantities
    for name in STEP_FIGURES:
        assert figures[name].value is None
        assert "the step cannot be run on shapes alone" in figures[name].note
        assert figures[name].kind == "computed"
    assert figures["macs_generator"].value == LATENT * PIXELS


def test_losses_that_do_not_say_what_they_are_without_penalty_leave_it_alone_unknown():
    class Silent(Plain):
        without_penalty = None

    figures = measure(with_linear_networks(Silent())).quantities
    assert figures["macs_penalty"].value is None and "without the penalty" in figures["macs_penalty"].note
    assert all(figures[name].value is not None for name in STEP_FIGURES - {"macs_penalty"})


class Peeker(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(PIXELS, LATENT))

    def forward(self, z):
        return (z @ self.weight.T * float(z.sum())).view(-1, 3, 32, 32)


def test_a_network_that_needs_a_value_is_unknown_and_the_other_one_is_known():
    def build(resolution, size):
        return dataclasses.replace(linear_gan(resolution, size), generator=Peeker())

    figures = measure(with_linear_networks(Plain(), build)).quantities
    assert figures["macs_generator"].value is None and "the generator cannot be run" in figures["macs_generator"].note
    assert figures["bytes_generator_per_image"].value is None
    assert figures["num_params_generator"].value == LATENT * PIXELS
    assert figures["macs_discriminator"].value == PIXELS


def test_an_op_that_nobody_knows_is_listed_and_lowers_the_share():
    def build(resolution, size):
        generator = nn.Sequential(nn.Linear(LATENT, PIXELS), Cumulated(), nn.Unflatten(1, (3, 32, 32)))
        return dataclasses.replace(linear_gan(resolution, size), generator=generator)

    outcome = measure(with_linear_networks(Plain(), build))
    assert set(outcome.protocol["uncounted_ops_generator"]) == {"aten._fft_r2c"}
    assert 0.5 < outcome.quantities["counted_op_share"].value < 1
    assert 0 < outcome.protocol["counted_byte_share"] < 1


class Cumulated(nn.Module):
    def forward(self, x):
        return x + torch.view_as_real(torch.fft.rfft(x)).sum(dim=(1, 2))[:, None]


@pytest.mark.parametrize("resolution", [32, 64, 128, 256])
@pytest.mark.parametrize("size", ["paper", "tiny"])
def test_ladagan_s_generator_has_the_closed_form(resolution, size):
    with torch.device("meta"):
        gan = SPEC.build(resolution, size)
    closed = macs_of_ladagan_generator(CONFIGS[resolution, size], resolution)
    assert cost.count_macs(gan.generator, torch.empty(1, gan.latent_dim, device="meta")) == (closed, {})


@pytest.mark.parametrize("is_fused", [True, False])
@pytest.mark.parametrize(("width", "num_blocks", "num_tokens"), [(64, 2, 256), (32, 3, 17)])
def test_a_softmax_transformer_has_its_closed_form_on_meta_on_a_cpu_and_on_shapes(
    is_fused, width, num_blocks, num_tokens
):
    network = SoftmaxTransformer(width, 4, num_blocks, is_fused=is_fused)
    closed = macs_of_transformer(width, num_blocks, num_tokens)
    tokens = torch.zeros(1, num_tokens, width)
    assert cost.count_macs(network, tokens) == (closed, {})
    assert count_on_shapes(network, tokens) == closed
    assert cost.count_macs(network.to("meta"), tokens.to("meta")) == (closed, {})


def test_fvcore_agrees_where_it_knows_the_ops_and_is_flagged_with_the_reason_where_it_does_not():
    by_hand, fused = (SoftmaxTransformer(64, 4, 2, is_fused=is_fused).eval() for is_fused in (False, True))
    tokens, closed = torch.zeros(1, 256, 64), macs_of_transformer(64, 2, 256)
    agreed = compare_with_fvcore(by_hand, tokens, closed)
    assert agreed["macs"] == closed and agreed["ratio"] == 1 and agreed["flag"] == ""
    assert agreed["total"] == closed + 5 * 4 * 256 * 64  # its own total adds 5 per element of four layer norms
    missing = compare_with_fvcore(fused, tokens, closed)
    assert missing["not_counted_by_fvcore"] == {"aten::scaled_dot_product_attention": 2}
    assert closed - missing["macs"] == 2 * 2 * 256**2 * 64
    assert "over 1% apart" in missing["flag"] and "scaled_dot_product_attention" in missing["flag"]
    assert "unexplained" in compare_with_fvcore(by_hand, tokens, closed * 102 // 100)["flag"]


def test_a_flag_reaches_the_figure_and_an_untraceable_network_says_so_without_failing(recwarn):
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = SoftmaxTransformer(32, 4, 1, is_fused=True)

        def forward(self, x):
            return self.body(x.view(-1, 96, 32)).mean(dim=(1, 2))[:, None]

    def build(resolution, size):
        return dataclasses.replace(linear_gan(resolution, size), discriminator=Attending())

    outcome = measure(with_linear_networks(WassersteinGradientPenalty(), build))
    figures = outcome.quantities
    assert figures["macs_discriminator"].value == macs_of_transformer(32, 1, 96)
    assert "scaled_dot_product_attention" in figures["macs_discriminator"].note
    assert figures["macs_penalty"].value > 0  # the second derivative of attention, as products and a softmax
    assert outcome.protocol["uncounted_ops_step"] == {}

    class Untraceable(nn.Linear):
        def forward(self, x):
            if torch.jit.is_tracing():
                raise RuntimeError("not me\nat all")
            return super().forward(x)

    failed = compare_with_fvcore(Untraceable(2, 2), torch.zeros(1, 2), 4)
    assert failed == {"failed": "fvcore cannot trace the network: RuntimeError: not me"}
    assert not recwarn.list


def test_the_table_shows_all_three_counts_and_why_they_differ():
    text = table()
    assert text.count("758,349,824") == 6 and text.count("4,339,924,992") == 3  # two networks, three columns each
    assert "25,165,824" in text and "no formula for aten::scaled_dot_product_attention" in text
