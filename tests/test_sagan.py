"""SAGAN and the hinge loss against the golden values of the official codes, and against what they promise."""

from __future__ import annotations

import functools
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from models._hinge import Hinge
from models._losses import squared_gradient_norm
from models._spec import Gan
from models.sagan import CONFIGS, SPEC, NonLocal

RESOLUTIONS = sorted(SPEC.resolutions)


@functools.cache
def on_meta(resolution, size):
    with torch.device("meta"):
        return SPEC.build(resolution, size)


def seeded(resolution=32, size="tiny", seed=0):
    torch.manual_seed(seed)
    return SPEC.build(resolution, size)


def num_params(network):
    return sum(parameter.numel() for parameter in network.parameters())


def num_macs(network, *shape):
    with FlopCounterMode(display=False) as flops:  # no formula for σ's matrix-vector product, like the reference
        network.eval()(torch.empty(shape, device="meta"))
    return flops.get_total_flops() // 2


def weights_of(network):
    """The layers whose weight is normalised, and those that have a matrix and are not."""
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    normalised = [layer for layer in layers if parametrize.is_parametrized(layer, "weight")]
    return normalised, [layer for layer in layers if layer not in normalised]


# 128 px: the TensorFlow layout, unconditional, parameters in full; 32 and 64 px: StudioGAN's, to the printed digits.
def test_parameters_are_those_of_the_official_codes():
    networks = {resolution: on_meta(resolution, "paper") for resolution in (32, 64, 128)}
    assert num_params(networks[128].generator) == 32_232_708
    assert num_params(networks[128].discriminator) == 38_439_618
    in_millions = {r: tuple(f"{num_params(n) / 1e6:.3f}" for n in (networks[r].generator, networks[r].discriminator))
                   for r in (32, 64)}  # fmt: skip
    assert in_millions == {32: ("4.359", "1.074"), 64: ("12.241", "19.548")}


@pytest.mark.parametrize(("resolution", "generator", "discriminator"), [
    (32, "1.705", "0.279"), (64, "1.997", "1.114"), (128, "9.216", None)])  # fmt: skip
def test_macs_are_those_of_the_official_codes(resolution, generator, discriminator):
    gan = on_meta(resolution, "paper")
    assert f"{num_macs(gan.generator, 1, 128) / 1e9:.3f}" == generator
    if discriminator is not None:
        assert f"{num_macs(gan.discriminator, 1, 3, resolution, resolution) / 1e9:.3f}" == discriminator


@pytest.mark.parametrize(("resolution", "size"), sorted(CONFIGS))
def test_every_configuration_turns_latents_into_images_into_one_logit(resolution, size):
    gan = on_meta(resolution, size)
    images = gan.generator(torch.empty(2, gan.latent_dim, device="meta"))
    assert images.shape == (2, 3, resolution, resolution)
    assert gan.discriminator(images).shape == (2, 1)


@pytest.mark.parametrize("size", SPEC.sizes)
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_each_network_attends_once_on_the_grid_of_its_configuration(resolution, size):
    gan = on_meta(resolution, size)
    num_pixels = CONFIGS[resolution, size].attention_grid ** 2
    z, images = torch.empty(1, gan.latent_dim), torch.empty(1, 3, resolution, resolution)
    for network, x in ((gan.generator, z), (gan.discriminator, images)):
        seen = []
        blocks = [module for module in network.modules() if isinstance(module, NonLocal)]
        for block in blocks:
            block.softmax.register_forward_hook(lambda _module, _inputs, beta, seen=seen: seen.append(beta.shape))
        network(x.to("meta"))
        assert seen == [(1, num_pixels, num_pixels // 4)]


def test_every_matrix_is_normalised_and_its_largest_singular_value_is_1():
    gan = seeded()
    objective, real = Hinge(), torch.rand(4, 3, 32, 32) * 2 - 1
    optimiser = torch.optim.Adam([*gan.generator.parameters(), *gan.discriminator.parameters()], lr=1e-3)
    for step in range(3):  # the weights move, the power iteration follows
        z = torch.randn(4, gan.latent_dim)
        loss = objective.discriminator_loss(gan, real, z, step).total + objective.generator_loss(gan, real, z, 0).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        for _ in range(60):  # and converges where they rest
            gan.discriminator(gan.generator(torch.randn(2, gan.latent_dim)))
    for network in (gan.generator.eval(), gan.discriminator.eval()):
        normalised, others = weights_of(network)
        assert len(normalised) > 10 and not others
        norms = [float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2)) for layer in normalised]
        assert norms == pytest.approx([1.0] * len(norms), abs=0.02)


def test_spectral_norm_rests_in_eval_mode_and_iterates_once_per_pass_in_training():
    discriminator = seeded().discriminator
    x = torch.randn(1, 3, 32, 32)

    def vectors():
        return [buffer.clone() for name, buffer in discriminator.named_buffers() if name.endswith(".left")]

    for is_training in (False, True):
        before = vectors()
        discriminator.train(is_training)(x)
        assert all(torch.equal(*pair) for pair in zip(before, vectors(), strict=True)) != is_training


def test_non_local_block_is_the_identity_at_the_start_because_its_gate_is_0():
    block, x = NonLocal(16), torch.randn(2, 16, 8, 8)
    assert block.gate.item() == 0
    assert torch.equal(block(x), x)
    block.gate.data.fill_(0.5)
    assert not torch.allclose(block(x), x, atol=1e-3)


def test_non_local_block_is_its_formula_pixel_by_pixel():
    torch.manual_seed(0)
    block, x = NonLocal(8).eval(), torch.randn(1, 8, 4, 4)
    block.gate.data.fill_(0.7)
    theta, phi, g = (layer.weight.flatten(1) for layer in (block.to_theta, block.to_phi, block.to_g))

    def pooled(matrix):  # the greatest of each 2 × 2 pixels, channel by channel: [n / 4, c]
        image = torch.einsum("dc,chw->dhw", matrix, x[0])
        tiles = [image[:, row : row + 2, column : column + 2] for row in (0, 2) for column in (0, 2)]
        return torch.stack([tile.amax(dim=(1, 2)) for tile in tiles])

    expected = x.clone()
    for row in range(4):
        for column in range(4):
            scores = pooled(phi) @ (theta @ x[0, :, row, column])
            mixed = torch.softmax(scores, dim=0) @ pooled(g)
            expected[0, :, row, column] += 0.7 * (block.to_out.weight.flatten(1) @ mixed)
    torch.testing.assert_close(block(x), expected)


def test_gate_learns():
    gan = seeded()
    loss = Hinge().generator_loss(gan, torch.empty(0), torch.randn(4, gan.latent_dim), 0).total
    loss.backward()
    gates = [module.gate for module in gan.generator.modules() if isinstance(module, NonLocal)]
    assert len(gates) == 1 and gates[0].grad.abs() > 0


def test_hinge_loss_on_logits_worked_by_hand():
    class First(nn.Module):
        def forward(self, x):
            return x[:, 0, 0, 0, None]

    real, z = torch.tensor([2.0, 0.25])[:, None, None, None], torch.tensor([-3.0, 0.5])[:, None]
    gan = Gan(generator=nn.Unflatten(1, (1, 1, 1)), discriminator=First(), latent_dim=1)
    objective = Hinge()
    loss = objective.discriminator_loss(gan, real, z, 0)
    assert {name: part.item() for name, part in loss.parts.items()} == {"real": 0.375, "fake": 0.75}
    assert loss.total.item() == 1.125
    assert objective.generator_loss(gan, real, z, 0).total.item() == 1.25
    assert objective.period == 1 and objective.without_penalty() is objective


@pytest.mark.parametrize("augmentations", [(), ("color", "translation", "cutout")])
def test_forward_and_backward_are_finite_in_every_parameter(augmentations):
    gan, objective = seeded(), Hinge(augmentations=augmentations)
    real, z = torch.rand(4, 3, 32, 32) * 2 - 1, torch.randn(4, 128)
    objective.discriminator_loss(gan, real, z, 0).total.backward()
    assert all(parameter.grad is None for parameter in gan.generator.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in gan.discriminator.parameters())
    objective.generator_loss(gan, real, z, 0).total.backward()
    assert all(parameter.grad.isfinite().all() for parameter in gan.generator.parameters())


def test_discriminator_can_be_differentiated_twice():
    discriminator = seeded().discriminator
    discriminator.requires_grad_(True)
    next(module for module in discriminator.modules() if isinstance(module, NonLocal)).gate.data.fill_(1.0)
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    squared_gradient_norm(discriminator(images), images).backward()
    gradients = {name: p.grad for name, p in discriminator.named_parameters() if "bias" not in name}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    assert all(gradient.any() for gradient in gradients.values())


def test_evaluated_generator_gives_an_image_that_does_not_depend_on_its_batch():
    generator = seeded().generator
    generator(torch.randn(8, 128))
    z = torch.randn(5, 128)
    with torch.no_grad():
        alone = torch.cat([generator.eval()(one[None]) for one in z])
        torch.testing.assert_close(generator(z), alone, atol=1e-5, rtol=1e-4)
    assert alone.abs().max() <= 1  # tanh


def test_same_seed_gives_the_same_weights_and_they_survive_a_checkpoint():
    gan, again, other = seeded(), seeded(), seeded(seed=1)
    for name, x in (("generator", torch.randn(2, 128)), ("discriminator", torch.randn(2, 3, 32, 32))):
        saved, same, loaded = (getattr(each, name) for each in (gan, again, other))
        assert all(torch.equal(value, same.state_dict()[key]) for key, value in saved.state_dict().items())
        assert any(not torch.equal(value, loaded.state_dict()[key]) for key, value in saved.state_dict().items())
        saved(x)  # moves statistics and power iterations
        file = io.BytesIO()
        torch.save(saved.state_dict(), file)
        loaded.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
        assert torch.equal(saved.eval()(x), loaded.eval()(x))


def test_recipes_say_whose_they_are():
    assert {(resolution, size) for resolution in SPEC.resolutions for size in SPEC.sizes} == set(CONFIGS)
    authors, studio = SPEC.recipe("imagenet", 128, "paper"), SPEC.recipe("cifar10", 32, "paper")
    assert (authors.generator_lr, authors.discriminator_lr, authors.adam_betas) == (1e-4, 4e-4, (0.0, 0.999))
    assert "StudioGAN" in studio.source and studio.num_discriminator_steps == 5
    with pytest.raises(ValueError, match=r"no size 'paper' at 48 px; known: paper at 32 px"):
        SPEC.recipe("cifar10", 48, "paper")
