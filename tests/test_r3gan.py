"""R3GAN against the golden values of the released models, its loss against hand-computed cases, and its start."""

from __future__ import annotations

import io
import math

import pytest
import torch
from torch import nn

from bench.phases.cost import count_macs, count_params
from models._relativistic import RelativisticPairing
from models._spec import Gan
from models.r3gan import CONFIGS, SPEC, BiasedLeakyRelu, DiscriminativeBasis, ResidualBlock


def on_meta(resolution, size):
    with torch.device("meta"):
        return SPEC.build(resolution, size)


def seeded(resolution=32, size="tiny", seed=0):
    torch.manual_seed(seed)
    return SPEC.build(resolution, size)


def awake(gan):
    """The networks as after some training: the last convolution of a block is no longer zero."""
    for network in (gan.generator, gan.discriminator):
        for module in network.modules():
            if isinstance(module, ResidualBlock):
                nn.init.kaiming_normal_(module.to_outer.weight)
    return gan


def test_parameters_are_those_of_the_released_models():
    ffhq, cifar = on_meta(64, "paper"), on_meta(32, "paper")
    assert count_params(ffhq.generator) == 22_429_824
    assert count_params(ffhq.discriminator) == 22_381_440
    assert count_params(cifar.generator) == 20_732_160  # 20.732 M in reference/models.md
    assert {name.rsplit(".")[-1] for name, _ in ffhq.generator.named_buffers()} == {"kernel"}  # the low-pass filter


def zeros_between_pixels(resolution, config):
    """Multiply-accumulates with the zeros an upsampling puts between pixels, which the official code counts."""
    grids = [4 * 2**stage for stage in range(1, int(math.log2(resolution // 4)) + 1)]
    return sum((grid**2 - (grid // 2) ** 2) * 16 * config.widths[stage + 1] for stage, grid in enumerate(grids))


@pytest.mark.parametrize(("resolution", "giga_macs"), [(32, 7.038), (64, 13.105)])
def test_macs_are_those_of_the_official_code_but_for_the_zeros_of_the_upsampling(resolution, giga_macs):
    generator = on_meta(resolution, "paper").generator
    num_macs, unknown = count_macs(generator, torch.empty(1, 64, device="meta"))
    assert not unknown
    assert num_macs / 1e9 == pytest.approx(giga_macs, rel=0.005)
    with_zeros = num_macs + zeros_between_pixels(resolution, CONFIGS[resolution, "paper"])
    assert with_zeros / 1e9 == pytest.approx(giga_macs, abs=0.0005)


@pytest.mark.parametrize(("resolution", "size"), sorted(CONFIGS))
def test_every_configuration_turns_latents_into_images_into_one_logit(resolution, size):
    gan = on_meta(resolution, size)
    images = gan.generator(torch.empty(2, gan.latent_dim, device="meta"))
    assert images.shape == (2, 3, resolution, resolution)
    assert gan.discriminator(images).shape == (2, 1)


def test_configurations_are_the_resolutions_and_sizes_the_spec_names():
    assert {(resolution, size) for resolution in SPEC.resolutions for size in SPEC.sizes} == set(CONFIGS)
    with pytest.raises(ValueError, match=r"no size 'huge' at 32 px; known: paper at 32 px"):
        SPEC.build(32, "huge")
    with pytest.raises(ValueError, match=r"no size 'paper' at 48 px"):
        SPEC.recipe("cifar10", 48, "paper")


def test_recipes_say_which_values_are_ours():
    for resolution in SPEC.resolutions:
        found = SPEC.recipe("scenes", resolution, "paper")
        assert found.source.startswith("ours")
        assert found.objective.gamma_at(0) == pytest.approx(10 * found.objective.gamma)
    assert SPEC.recipe("cifar10", 32, "paper").source.startswith("arXiv 2501.05441")


# What makes it this architecture


def test_blocks_have_no_normalisation_and_mix_sixteen_channels_at_a_time():
    gan = on_meta(64, "paper")
    for network in (gan.generator, gan.discriminator):
        kinds = {type(module).__name__ for module in network.modules()}
        assert not any("Norm" in kind for kind in kinds)
        blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
        assert len(blocks) == 2 * 5
        assert {block.mix.in_channels // block.mix.groups for block in blocks} == {16}
        assert {block.mix.in_channels / block.to_inner.in_channels for block in blocks} == {2}


def test_fix_up_makes_every_block_the_identity_at_the_start():
    gan = seeded()
    num_blocks = 0
    for network in (gan.generator, gan.discriminator):
        for module in network.modules():
            if isinstance(module, ResidualBlock):
                x = torch.randn(1, module.to_inner.in_channels, 8, 8)
                assert torch.equal(module(x), x)
                num_blocks += 1
            if isinstance(module, BiasedLeakyRelu):
                assert not module.bias.any()
    assert num_blocks == 8


def test_fix_up_scales_the_convolutions_by_the_number_of_blocks():
    torch.manual_seed(0)
    gan = SPEC.build(32, "paper")
    block = next(module for module in gan.generator.modules() if isinstance(module, ResidualBlock))
    expected = math.sqrt(2 / (1 + 0.2**2)) * 8**-0.25
    for convolution, fan_in in ((block.to_inner, 768), (block.mix, 16 * 9)):
        assert float(convolution.weight.detach().std()) * math.sqrt(fan_in) == pytest.approx(expected, rel=0.01)


def test_the_logit_is_a_weighted_sum_over_one_filter_per_channel():
    basis = DiscriminativeBasis(5)
    x = torch.randn(2, 5, 4, 4)
    by_hand = (x * basis.filters.weight[:, 0]).sum(dim=(2, 3)) @ basis.to_logit.weight.T
    torch.testing.assert_close(basis(x), by_hand)


@pytest.mark.parametrize("resolution", [32, 64])
def test_evaluated_generator_gives_an_image_that_does_not_depend_on_its_batch(resolution):
    generator = awake(seeded(resolution)).generator.eval()
    z = torch.randn(5, 64)
    with torch.no_grad():
        alone = torch.cat([generator(one[None]) for one in z])
        torch.testing.assert_close(generator(z), alone, atol=1e-4, rtol=1e-4)


def test_weights_survive_a_checkpoint():
    gan, other = awake(seeded()), seeded(seed=1)
    for name, x in (("generator", torch.randn(2, 64)), ("discriminator", torch.randn(2, 3, 32, 32))):
        saved, loaded = getattr(gan, name), getattr(other, name)
        file = io.BytesIO()
        torch.save(saved.state_dict(), file)
        loaded.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
        assert torch.equal(saved(x), loaded(x))
        assert all(parameter.is_contiguous() for parameter in saved.parameters())


# Loss


class Constant(nn.Module):
    """A generator whose images are those it was given."""

    def __init__(self, images):
        super().__init__()
        self.images = nn.Parameter(images)

    def forward(self, z):
        return self.images * torch.ones_like(z[:, :1, None, None])


class Quadratic(nn.Module):
    """D(x) = a Σ x², whose gradient is 2 a x."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x):
        return self.weight * x.square().sum(dim=(1, 2, 3)).unsqueeze(1)


REAL = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)  # D = a, 4 a; ‖∇D‖² = 4 a², 16 a²
FAKE = torch.tensor([3.0, 1.0]).view(2, 1, 1, 1)  # D = 9 a, a; ‖∇D‖² = 36 a², 4 a²


def by_hand():
    return Gan(generator=Constant(FAKE), discriminator=Quadratic(0.5), latent_dim=1)


def softplus(x):
    return math.log1p(math.exp(x))


def test_pairing_loss_and_both_penalties_against_a_case_worked_by_hand():
    loss = RelativisticPairing(gamma=0.2).discriminator_loss(by_hand(), REAL, torch.zeros(2, 1), 0)
    pairing = (softplus(4.5 - 0.5) + softplus(0.5 - 2.0)) / 2
    r1, r2 = 0.1 * (1 + 4) / 2, 0.1 * (9 + 1) / 2
    assert {name: float(part) for name, part in loss.parts.items()} == pytest.approx(
        {"pairing": pairing, "r1": r1, "r2": r2}
    )
    assert float(loss.total.detach()) == pytest.approx(pairing + r1 + r2)


def test_generator_loss_swaps_the_roles_and_reaches_the_generator():
    gan = by_hand()
    loss = RelativisticPairing(gamma=0.2).generator_loss(gan, REAL, torch.zeros(2, 1), 0)
    assert float(loss.total.detach()) == pytest.approx((softplus(0.5 - 4.5) + softplus(2.0 - 0.5)) / 2)
    loss.total.backward()
    assert (gan.generator.images.grad < 0).all()  # larger images, larger logits, smaller loss


def test_gradient_of_the_penalties_reaches_the_discriminator():
    gan = by_hand()
    RelativisticPairing(gamma=0.2).discriminator_loss(gan, REAL, torch.zeros(2, 1), 0).total.backward()
    with_penalty = float(gan.discriminator.weight.grad)
    gan.discriminator.weight.grad = None
    RelativisticPairing(gamma=0.2).without_penalty().discriminator_loss(
        gan, REAL, torch.zeros(2, 1), 0
    ).total.backward()
    # d/da of 0.1 (10 a² + 20 a²) at a = 0.5
    assert with_penalty - float(gan.discriminator.weight.grad) == pytest.approx(0.1 * 2 * 30 * 0.5, rel=1e-4)


def test_penalty_weight_falls_along_half_a_cosine_and_then_stays():
    objective = RelativisticPairing(gamma=0.2, first_gamma=2.0, num_burn_in_steps=100)
    assert [objective.gamma_at(step) for step in (0, 50, 100, 10_000)] == pytest.approx([2.0, 1.1, 0.2, 0.2])
    assert objective.gamma_at(25) == pytest.approx(0.2 + 1.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert RelativisticPairing(gamma=0.2).gamma_at(0) == 0.2
    assert objective.period == 1
    assert objective.without_penalty().gamma_at(0) == 0
    off = objective.without_penalty().discriminator_loss(by_hand(), REAL, torch.zeros(2, 1), 0)
    assert set(off.parts) == {"pairing"}


@pytest.mark.parametrize("resolution", [32, 64])
def test_a_training_step_has_finite_gradients_everywhere_through_the_double_backward(resolution):
    gan = awake(seeded(resolution))
    objective = SPEC.recipe("scenes", resolution, "tiny").objective
    real, z = torch.rand(4, 3, resolution, resolution) * 2 - 1, torch.randn(4, 64)
    objective.discriminator_loss(gan, real, z, 0).total.backward()
    gradients = [parameter.grad for parameter in gan.discriminator.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() and gradient.any() for gradient in gradients)
    objective.generator_loss(gan, real, z, 0).total.backward()
    gradients = [parameter.grad for parameter in gan.generator.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() and gradient.any() for gradient in gradients)


def test_double_backward_of_the_discriminator_is_exact():
    gan = awake(seeded())
    discriminator = gan.discriminator.double()
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    weight = discriminator.from_rgb.weight

    def r1():
        (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
        return gradient.square().sum()

    (analytic,) = torch.autograd.grad(r1(), weight)
    direction = analytic / analytic.norm()
    step = 1e-8  # small enough that no leaky ReLU changes sides, where the penalty would jump
    with torch.no_grad():
        weight += step * direction
    above = r1().detach()
    with torch.no_grad():
        weight -= 2 * step * direction
    below = r1().detach()
    assert float(above - below) / (2 * step) == pytest.approx(float(analytic.norm()), rel=1e-4)
