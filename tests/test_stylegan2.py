"""StyleGAN2 against the golden counts, and its penalties against cases worked by hand."""

from __future__ import annotations

import dataclasses
import io
import math

import pytest
import torch
from torch import nn

from bench.phases.cost import count_macs, count_params
from models._spec import Gan
from models._stylegan2_losses import PathLengthR1, path_lengths
from models.stylegan2 import CONFIGS, SPEC


def on_meta(resolution, size):
    with torch.device("meta"):
        return SPEC.build(resolution, size)


def seeded(resolution=32, seed=0):
    torch.manual_seed(seed)
    return SPEC.build(resolution, "tiny")


# Counted by running the official code: exact parameters of G, thousands of D, GMAC of both (reference/models.md).
GOLDEN = {
    64: (23_819_544, 23_407, 7.664, 7.911),
    128: (24_525_213, 23_882, 11.329, 11.739),
    256: (24_767_458, 24_001, 15.036, 15.638),
}


@pytest.mark.parametrize("resolution", GOLDEN)
def test_parameters_and_macs_are_those_of_the_official_code(resolution):
    gan, (g_params, d_kilo_params, g_gmac, d_gmac) = on_meta(resolution, "paper"), GOLDEN[resolution]
    assert count_params(gan.generator) == g_params
    assert count_params(gan.discriminator) // 1000 == d_kilo_params
    g_macs, g_unknown = count_macs(gan.generator, torch.empty(1, gan.latent_dim, device="meta"))
    d_macs, d_unknown = count_macs(gan.discriminator, torch.empty(1, 3, resolution, resolution, device="meta"))
    assert not g_unknown and not d_unknown
    assert g_macs / 1e9 == pytest.approx(g_gmac, rel=5e-4)
    # The official code filters every pixel of the skip branches and drops three of four; ours does not compute them.
    grids = [8 * 2**index for index in range(int(math.log2(resolution)) - 2)]
    dropped = sum(16 * CONFIGS[resolution, "paper"].width_at(grid) * 3 * (grid // 2) ** 2 for grid in grids)
    assert (d_macs + dropped) / 1e9 == pytest.approx(d_gmac, rel=5e-4)
    assert d_macs / 1e9 == pytest.approx(d_gmac, rel=7e-3)


@pytest.mark.parametrize(("resolution", "size"), sorted(CONFIGS))
def test_every_configuration_turns_latents_into_images_into_logits(resolution, size):
    gan = on_meta(resolution, size)
    images = gan.generator(torch.empty(4, gan.latent_dim, device="meta"))
    assert images.shape == (4, 3, resolution, resolution)
    assert gan.discriminator(images).shape == (4, 1)


def test_configurations_are_the_resolutions_and_sizes_the_spec_names():
    assert {(resolution, size) for resolution in SPEC.resolutions for size in SPEC.sizes} == set(CONFIGS)
    with pytest.raises(ValueError, match="no size 'huge' at 32 px; known: paper at 32 px"):
        SPEC.build(32, "huge")


def test_evaluated_generator_gives_an_image_that_does_not_depend_on_its_batch():
    generator = seeded().generator.eval()
    for module in generator.modules():
        if hasattr(module, "strength"):
            nn.init.constant_(module.strength, 0.5)  # noise that can be seen
    z = torch.randn(5, 64)
    with torch.no_grad():
        alone = torch.cat([generator(one[None]) for one in z])
        torch.testing.assert_close(generator(z), alone, atol=1e-5, rtol=1e-4)
        assert not torch.equal(generator(z), generator.train()(z))


def test_weights_noise_and_running_mean_survive_a_checkpoint():
    gan, other = seeded(), seeded(seed=1)
    gan.generator.path_length_mean.fill_(0.25)
    file = io.BytesIO()
    torch.save(gan.generator.state_dict(), file)
    other.generator.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    z = torch.randn(2, 64)
    assert torch.equal(gan.generator.eval()(z), other.generator.eval()(z))
    assert other.generator.path_length_mean == 0.25


def test_styles_are_mixed_in_training_only():
    torch.manual_seed(0)
    generator = SPEC.build(64, "tiny").generator
    generator.style_mixing = 0.9
    z = torch.randn(64, 64)
    styles = generator.to_styles(z)
    assert styles.shape == (64, 10, 64)
    is_mixed = (styles[:, 0] != styles[:, -1]).any(dim=1)
    assert 0.7 < is_mixed.float().mean() < 1
    generator.eval()
    styles = generator.to_styles(z)
    assert torch.equal(styles[:, 0], styles[:, -1])
    assert torch.equal(generator.synthesise(styles), generator(z))


def test_presets_mix_styles_but_the_one_for_cifar():
    mixing = {resolution: CONFIGS[resolution, "paper"].style_mixing for resolution in SPEC.resolutions}
    assert mixing == {32: 0.0, 64: 0.9, 128: 0.9, 256: 0.9}


class LinearDiscriminator(nn.Module):
    """D(x) = a · x with a of ones: its gradient has the squared length 3 h w."""

    def forward(self, x):
        return x.sum(dim=(1, 2, 3))[:, None]


class LinearGenerator(nn.Module):
    """g(w) = A applied to the sum of the layers' styles, one pixel of three colours; w = z in every layer."""

    def __init__(self, num_layers):
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor([[1.0, 2.0], [0.0, -1.0], [3.0, 0.0]]))
        self.num_layers = num_layers
        self.register_buffer("path_length_mean", torch.zeros(()))

    def forward(self, z):
        return self.synthesise(self.to_styles(z))

    def to_styles(self, z):
        return z.clone().requires_grad_().unsqueeze(1).expand(-1, self.num_layers, -1)

    def synthesise(self, styles):
        return (styles.sum(dim=1) @ self.matrix.T)[:, :, None, None]


def test_r1_of_a_linear_discriminator_is_its_squared_slope_every_16th_step():
    gan = Gan(generator=LinearGenerator(1), discriminator=LinearDiscriminator(), latent_dim=2)
    objective = PathLengthR1(r1_weight=0.5, r1_interval=16)
    real, z = torch.randn(4, 3, 1, 1), torch.randn(4, 2)
    for step, is_due in ((0, True), (1, False), (15, False), (16, True), (32, True)):
        total, parts = objective.discriminator_loss(gan, real, z, step)
        assert ("r1" in parts) == is_due
        assert total.item() == pytest.approx(float(sum(parts.values())), rel=1e-6)
        if is_due:
            assert parts["r1"] == pytest.approx(0.5 * 16 * 3)  # γ/2 · 16 · ‖(1, 1, 1)‖²


@pytest.mark.parametrize("num_layers", [1, 4])
def test_path_lengths_of_a_linear_generator_are_those_of_its_matrix(num_layers):
    generator, z = LinearGenerator(num_layers), torch.randn(5, 2)
    torch.manual_seed(7)
    lengths = path_lengths(generator, z)
    torch.manual_seed(7)
    y = torch.randn(5, 3)  # one pixel: no division
    # Each layer's gradient is Aᵀy, so their mean square is that of one layer.
    torch.testing.assert_close(lengths, (y @ generator.matrix).norm(dim=1))


def test_path_length_penalty_and_its_running_mean_worked_by_hand():
    generator = LinearGenerator(2)
    gan = Gan(generator=generator, discriminator=LinearDiscriminator(), latent_dim=2)
    objective = PathLengthR1(r1_weight=0.5, r1_interval=16)
    real, z = torch.randn(4, 3, 1, 1), torch.randn(4, 2)
    torch.manual_seed(7)
    total, parts = objective.generator_loss(gan, real, z, 0)
    torch.manual_seed(7)
    lengths = (torch.randn(2, 3) @ generator.matrix).norm(dim=1)  # half of the batch
    mean = 0.01 * lengths.mean()
    expected = 2.0 * 4 * (lengths - mean).square().mean()
    assert parts["path_length"] == pytest.approx(expected.item(), rel=1e-5)
    assert total.item() == pytest.approx(float(sum(parts.values())), rel=1e-6)
    assert generator.path_length_mean == pytest.approx(mean.item(), rel=1e-5)
    gradient, by_hand = (
        torch.autograd.grad(loss, generator.matrix)[0]
        for loss in (
            total - objective.without_penalty().generator_loss(gan, real, z, 0).total,
            2.0 * 4 * (lengths - mean.detach()).square().mean(),
        )
    )
    torch.testing.assert_close(gradient, by_hand, atol=1e-5, rtol=1e-4)
    assert "path_length" not in objective.generator_loss(gan, real, z, 3).parts
    assert "path_length" in objective.generator_loss(gan, real, z, 4).parts


def test_penalties_can_be_switched_off_and_repeat_every_16_steps():
    objective = SPEC.recipe("lsun-bedroom", 256, "paper").objective
    assert objective.period == 16
    off = objective.without_penalty()
    assert (off.r1_weight, off.path_length_weight) == (0, 0)
    gan = seeded()
    real, z = torch.zeros(4, 3, 32, 32), torch.randn(4, 64)
    assert set(off.discriminator_loss(gan, real, z, 0).parts) == {"real", "fake"}
    assert set(off.generator_loss(gan, real, z, 0).parts) == {"fake"}


def test_path_length_weight_2_is_the_gamma_of_the_paper():
    for resolution in (64, 256, 1024):
        num_layers = 2 * (math.log2(resolution) - 1)
        gamma = math.log(2) / (resolution**2 * (math.log(resolution) - math.log(2)))
        assert 2 / num_layers == pytest.approx(gamma * resolution**2)  # mean over layers; y of variance 1 / r²


def test_both_losses_of_the_recipe_reach_every_weight_of_their_network():
    gan, objective = seeded(), SPEC.recipe("scenes", 32, "tiny").objective
    real, z = torch.rand(4, 3, 32, 32) * 2 - 1, torch.randn(4, 64)
    objective.discriminator_loss(gan, real, z, 0).total.backward()
    assert all(parameter.grad is None for parameter in gan.generator.parameters())
    assert all(torch.isfinite(parameter.grad).all() for parameter in gan.discriminator.parameters())
    gan.discriminator.requires_grad_(False)
    objective.generator_loss(gan, real, z, 0).total.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in gan.generator.parameters())


def test_path_length_penalty_alone_reaches_the_first_layer_of_the_mapping():
    generator = seeded().generator
    lengths = path_lengths(generator, torch.randn(4, 64))
    assert lengths.shape == (4,) and (lengths > 0).all()
    lengths.square().mean().backward()
    assert generator.mapping.layers[0].weight.grad.abs().sum() > 0


def test_bfloat16_autocast_gives_float32_images_and_finite_penalties():
    gan, objective = seeded(), SPEC.recipe("scenes", 32, "tiny").objective
    real, z = torch.rand(4, 3, 32, 32) * 2 - 1, torch.randn(4, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert gan.generator(z).dtype == gan.discriminator(real).dtype == torch.float32
        d_loss = objective.discriminator_loss(gan, real, z, 0)
        g_loss = objective.generator_loss(gan, real, z, 0)
    for loss in (d_loss, g_loss):
        loss.total.backward()
        assert all(torch.isfinite(part) for part in loss.parts.values())


@pytest.mark.parametrize(
    ("dataset", "resolution", "gamma", "path_length_weight", "is_ours"),
    [
        ("lsun-bedroom", 256, 1.0, 2.0, False),
        ("cifar10", 32, 0.01, 0.0, False),
        ("celeba-64", 64, 1 / 16, 2.0, True),
        ("scenes", 256, 1.0, 2.0, True),
    ],
)
def test_recipe_is_the_preset_of_its_resolution(dataset, resolution, gamma, path_length_weight, is_ours):
    found = SPEC.recipe(dataset, resolution, "paper")
    assert (found.batch_size, found.generator_lr, found.discriminator_lr) == (64, 2.5e-3, 2.5e-3)
    assert found.objective == PathLengthR1(r1_weight=gamma / 2, r1_interval=16, path_length_weight=path_length_weight)
    assert found.source.startswith("ours") == is_ours


def test_tiny_recipe_is_flagged_as_ours():
    assert SPEC.recipe("scenes", 32, "tiny").source.startswith("ours")
    assert dataclasses.is_dataclass(SPEC.recipe("scenes", 32, "tiny").objective)
