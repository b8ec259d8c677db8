"""What every model of the zoo that is trained has to do, at 32 px in its tiny size, whatever it is made of."""

import pytest
import torch
from torch import nn

from bench.catalog import MODELS
from models._losses import squared_gradient_norm

TRAINED = [name for name in MODELS.names() if not MODELS.load(name).why_not_trained]
CASES = [(name, attention) for name in TRAINED for attention in (tuple(MODELS.load(name).attentions) or (None,))]


def build(name, attention, seed):
    torch.manual_seed(seed)
    return MODELS.load(name).build(32, "tiny", *(() if attention is None else (attention,)))


@pytest.mark.parametrize(("name", "attention"), CASES)
def test_r1_of_every_discriminator_is_differentiable_on_the_cpu_in_fp32(name, attention):
    discriminator = build(name, attention, 0).discriminator.train()
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    squared_gradient_norm(discriminator(images), images).backward()
    gradients = [each.grad for each in discriminator.parameters() if each.grad is not None]
    assert all(torch.isfinite(each).all() for each in gradients)
    # Not all: the last convolution of R3GAN's blocks starts at zero and hides what comes before it.
    assert sum(bool(each.any()) for each in gradients) >= 3


@pytest.mark.parametrize(("name", "attention"), CASES)
def test_a_network_comes_back_from_its_state_and_makes_the_same_images(name, attention):
    gan, other = build(name, attention, 0), build(name, attention, 1)
    gan.discriminator(gan.generator(torch.randn(4, gan.latent_dim)))  # moves running statistics
    for network, copy in ((gan.generator, other.generator), (gan.discriminator, other.discriminator)):
        copy.load_state_dict(network.state_dict())
        network.eval()
        copy.eval()
    z = torch.randn(2, gan.latent_dim)
    with torch.no_grad():
        images = gan.generator(z)
        assert torch.equal(other.generator(z), images)
        assert torch.equal(other.discriminator(images), gan.discriminator(images))


@pytest.mark.parametrize(("name", "attention"), CASES)
def test_an_image_in_eval_mode_depends_on_its_latent_alone(name, attention):
    gan = build(name, attention, 0)
    generator = gan.generator.eval()
    for strength in generator.parameters():
        if strength.dim() == 0:  # of noise and gates, which start at 0 and would hide what they let in
            nn.init.constant_(strength, 0.3)
    z = torch.randn(5, gan.latent_dim)
    with torch.no_grad():
        together, alone = generator(z), generator(z[3:4])
    torch.testing.assert_close(alone[0], together[3], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[2], together[3], rtol=1e-3, atol=1e-4)
