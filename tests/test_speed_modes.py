"""Every way to compute a step gives the losses of the plain eager one: compiled, captured, and against a plain loop."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from plain_ladagan import trainer_from_ours
from torch import nn

from bench.errors import BenchError, UsageError
from bench.training import compiled
from bench.training.capture import NUM_WARM_UP_VISITS, CapturedStep
from bench.training.compiled import compile_losses
from bench.training.step import Trainer
from models._losses import NonSaturatingR1, WassersteinGradientPenalty
from models._spec import Gan, Loss
from models.ladagan import SPEC

R1 = NonSaturatingR1(r1_weight=0.1, r1_interval=2, augmentations=("color", "translation"))
WGAN_GP = WassersteinGradientPenalty()


def tiny(resolution=32):
    torch.manual_seed(0)
    return SPEC.build(resolution, "tiny")


def small():
    """The smallest GAN with all that is hard here: batch norm and a strided convolution, to be differentiated twice."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 3 * 32 * 32), nn.Unflatten(1, (3, 32, 32)), nn.BatchNorm2d(3))
    discriminator = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.LeakyReLU(0.2),
        nn.Conv2d(4, 5, 3, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(5 * 16 * 16, 2),
    )
    return Gan(generator=generator, discriminator=discriminator, latent_dim=4)


def batch(gan, num_images=4, resolution=32):
    draws = torch.Generator().manual_seed(1)
    real = torch.rand(num_images, 3, resolution, resolution, generator=draws) * 2 - 1
    return real, torch.randn(num_images, gan.latent_dim, generator=draws)


def gradients_after(loss_of, network, real, z, step, precision="fp32"):
    """One loss and its backward pass from a fixed seed → loss, gradients."""
    network.zero_grad()
    torch.manual_seed(2)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = loss_of(real, z, step)
    loss.total.backward()
    return loss, [parameter.grad for parameter in network.parameters()]


def compare(objective, network, step, *, build=small, precision="fp32", tolerance=1e-4):
    """Compiled against eager on copies of one model: parts, total, gradients, and buffers afterwards."""
    eager_gan, compiled_gan = build(), build()
    real, z = batch(eager_gan)
    eager = {"discriminator": objective.discriminator_loss, "generator": objective.generator_loss}[network]
    fast = dict(zip(("discriminator", "generator"), compile_losses(compiled_gan, objective), strict=True))[network]
    networks = [getattr(gan, network) for gan in (eager_gan, compiled_gan)]
    expected, wanted = gradients_after(lambda *inputs: eager(eager_gan, *inputs), networks[0], real, z, step, precision)
    found, gradients = gradients_after(fast, networks[1], real, z, step, precision)
    assert list(found.parts) == list(expected.parts)
    torch.testing.assert_close(found.total, expected.total, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.parts, expected.parts, rtol=tolerance, atol=tolerance)
    found_vector, wanted_vector = (torch.cat([each.flatten() for each in vectors]) for vectors in (gradients, wanted))
    assert (found_vector - wanted_vector).norm() <= tolerance * wanted_vector.norm()
    for gan_part in ("generator", "discriminator"):
        ours, theirs = getattr(compiled_gan, gan_part), getattr(eager_gan, gan_part)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=tolerance, atol=tolerance)


@pytest.fixture
def traced_only(monkeypatch):
    """The traced graph is run as it is: seconds instead of minutes; `slow` tests compile it."""
    monkeypatch.setattr(compiled.torch, "compile", lambda graph, **_: graph)


@pytest.mark.parametrize(("network", "step"), [("discriminator", 0), ("discriminator", 1), ("generator", 0)])
def test_the_traced_step_has_the_losses_gradients_and_statistics_of_the_eager_one(traced_only, network, step):
    compare(R1, network, step)


def test_ladagan_can_be_traced_with_its_penalty(traced_only):
    compare(R1, "discriminator", 0, build=tiny)


def test_the_traced_step_draws_what_the_eager_one_draws_under_bf16(traced_only):
    compare(R1, "discriminator", 0, precision="bf16", tolerance=2e-2)


def test_a_penalty_between_real_and_generated_images_can_be_traced(traced_only):
    compare(WGAN_GP, "discriminator", 0)


def test_backward_multiplies_the_gradients_as_accumulation_asks(traced_only):
    gan = small()
    real, z = batch(gan)
    discriminator_loss, _ = compile_losses(gan, WGAN_GP.without_penalty())
    _, whole = gradients_after(discriminator_loss, gan.discriminator, real, z, 0)
    _, half = gradients_after(
        lambda *inputs: Loss(discriminator_loss(*inputs).total / 2, {}), gan.discriminator, real, z, 0
    )
    torch.testing.assert_close([2 * each for each in half], whole)


def test_the_penalty_is_in_the_graph_of_its_own_steps_only(traced_only):
    gan = small()
    discriminator_loss, _ = compile_losses(gan, R1)
    found = [set(discriminator_loss(*batch(gan), step).parts) for step in range(4)]
    assert found == [{"real", "fake", "r1"}, {"real", "fake"}] * 2


def test_steps_that_are_alike_are_compiled_once(traced_only):
    gan = small()
    discriminator_loss, generator_loss = compile_losses(gan, dataclasses.replace(R1, r1_interval=4))
    for step in range(8):
        discriminator_loss(*batch(gan), step)
        generator_loss(*batch(gan), step)
    assert (len(discriminator_loss._by_content), len(generator_loss._by_content)) == (2, 1)


def test_tracing_does_not_touch_the_weights_or_the_random_numbers(traced_only):
    gan = small()
    real, z = batch(gan)
    loss_of, _ = compile_losses(gan, R1)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    statistics = copy.deepcopy(gan.discriminator.state_dict())
    names = list(dict(loss_of._module.named_parameters()) | dict(loss_of._module.named_buffers()))
    tensors = [dict(loss_of._module.state_dict())[name].detach() for name in names]
    loss_of._traced(names, tensors, (real, z, 0), None)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(gan.discriminator.state_dict(), statistics, rtol=0, atol=0)


def test_a_loss_that_reads_a_value_is_refused_in_one_sentence(traced_only):
    class Reading:
        period = 1

        def discriminator_loss(self, gan, real, *_):
            total = gan.discriminator(real).mean()
            return Loss(total if total.item() > 0 else -total, {})

        generator_loss = discriminator_loss

    gan = small()
    discriminator_loss, _ = compile_losses(gan, Reading())
    with pytest.raises(
        BenchError, match=r"discriminator's loss of this model cannot be compiled .*leave --compile out"
    ):
        discriminator_loss(*batch(gan), 0)


def test_what_the_compiler_cannot_do_is_said_in_one_sentence(monkeypatch):
    def failing(graph, _):
        raise RuntimeError("no C++ compiler here\nand a page of advice")

    compile_by = torch.compile
    monkeypatch.setattr(compiled.torch, "compile", lambda graph, **_: compile_by(graph, backend=failing))
    gan = small()
    discriminator_loss, _ = compile_losses(gan, R1)
    with pytest.raises(BenchError, match=r"cannot be compiled \(.*no C\+\+ compiler here.*\); leave --compile out\.$"):
        discriminator_loss(*batch(gan), 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # inductor's own
@pytest.mark.parametrize("network", ["discriminator", "generator"])
def test_the_compiled_step_has_the_losses_gradients_and_statistics_of_the_eager_one(network):
    compare(R1, network, 0, build=tiny)


def test_the_plain_loop_has_our_losses_for_three_steps(monkeypatch):
    """From the same weights and draws: ours and the port's way to write LadaGAN down are the same mathematics."""
    resolution, num_images = 64, 4
    gan = tiny(resolution)
    recipe = SPEC.recipe("celeba-64", resolution, "paper")
    plain = trainer_from_ours(gan, recipe, resolution=resolution)
    seeds, seed_torch = [], torch.manual_seed
    ours = Trainer(gan, recipe, device="cpu", precision="fp32", seed=0)
    for step in range(3):
        real, _ = batch(gan, num_images, resolution)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "manual_seed", lambda seed: (seeds.append(seed), seed_torch(seed))[1])
            found = ours.step(real)
        discriminator_seed, generator_seed = seeds[2 * step :]  # one per update
        seed_torch(discriminator_seed)
        expected = {f"discriminator_{name}": loss for name, loss in plain.discriminator_step(real).items()}
        seed_torch(generator_seed)
        expected |= plain.generator_step(num_images)
        torch.testing.assert_close({name: found[name] for name in expected}, expected, rtol=1e-4, atol=1e-5)


def test_capturing_on_a_cpu_is_refused_in_one_sentence():
    trainer = Trainer(tiny(), SPEC.recipe("scenes", 32, "tiny"), device="cpu", precision="fp32", seed=0)
    with pytest.raises(UsageError, match=r"--capture needs a CUDA device and this run is on cpu; leave --capture out"):
        CapturedStep(trainer)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_captured_steps_have_the_losses_of_eager_ones(precision):
    recipe = dataclasses.replace(SPEC.recipe("scenes", 32, "tiny"), objective=R1)
    trainers = [Trainer(tiny(), recipe, device="cuda", precision=precision, seed=0) for _ in range(2)]
    captured = CapturedStep(trainers[1])
    real = batch(trainers[0].gan)[0].cuda()
    for step in range(R1.period * (NUM_WARM_UP_VISITS + 3)):
        expected = trainers[0].step(real)
        found = captured.discriminator_update(real, step)
        trainers[1].num_images_shown += len(real)
        trainers[1].num_steps += 1
        found |= captured.generator_update(real, step)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    for ours, theirs in zip(trainers[1].ema.state_dict().values(), trainers[0].ema.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)
