"""ViTGAN against the golden values of the authors' code, and against what its description promises."""

from __future__ import annotations

import dataclasses
import functools
import io

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from models._losses import squared_gradient_norm
from models._spec import Gan
from models._stylegan_layers import EqualLinear
from models.vitgan import (
    CONFIGS,
    SPEC,
    AugmentedConsistencyR1,
    Block,
    FourierTokens,
    Generator,
    L2Attention,
    SelfModulatedNorm,
)

NUM_KEY_WEIGHTS = 4 * 384**2  # of four blocks, where keys have a matrix of their own
NUM_BIASES_HELD_AT_0 = 4 * 3 * 384  # of query, key and value; the authors' code counts them, they never learn


@functools.cache
def on_meta(resolution, size):
    with torch.device("meta"):
        return SPEC.build(resolution, size)


def seeded(resolution=32, size="tiny", seed=0):
    torch.manual_seed(seed)
    return SPEC.build(resolution, size)


def num_params(network, *, trained_only=True):
    return sum(each.numel() for each in network.parameters() if each.requires_grad or not trained_only)


def num_macs(network, *shape):
    with FlopCounterMode(display=False) as flops:  # no formula for σ's matrix-vector product, like the reference
        network.eval()(torch.empty(shape, device="meta"))
    return flops.get_total_flops() // 2


def test_with_keys_of_their_own_every_count_is_that_of_the_authors_code():
    config = dataclasses.replace(CONFIGS[32, "paper"], ties_query_key=False)
    with torch.device("meta"):
        generator = Generator(config)
    assert num_params(generator, trained_only=False) == 16_987_019  # 16.99 M
    assert num_params(generator) == 16_987_019 - NUM_BIASES_HELD_AT_0
    assert f"{num_macs(generator, 1, 384) / 1e9:.3f}" == "2.603"


def test_tied_keys_save_one_matrix_per_block_and_nothing_else():
    generator = on_meta(32, "paper").generator
    assert num_params(generator) == 16_987_019 - NUM_BIASES_HELD_AT_0 - NUM_KEY_WEIGHTS == 16_392_587
    assert num_macs(generator, 1, 384) == 2_603_188_224 - 64 * NUM_KEY_WEIGHTS  # 64 tokens


@pytest.mark.parametrize(("resolution", "size"), sorted(CONFIGS))
def test_every_configuration_turns_latents_into_images_into_one_logit(resolution, size):
    gan = on_meta(resolution, size)
    images = gan.generator(torch.empty(4, gan.latent_dim, device="meta"))
    assert images.shape == (4, 3, resolution, resolution)
    assert gan.discriminator(images).shape == (4, 1)


def l2_attention(width=6, num_heads=2, **settings):
    torch.manual_seed(0)
    attention = L2Attention(width, num_heads, **settings).eval()
    attention.temperature.data.fill_(0.8)
    return attention


@pytest.mark.parametrize("ties_query_key", [True, False])
def test_l2_attention_is_its_formula_token_by_token(ties_query_key):
    attention, x = l2_attention(ties_query_key=ties_query_key), torch.randn(1, 3, 6)
    heads = attention.to_qkv(x)[0].unflatten(-1, (-1, 2, 3))  # [token, projection, head, d]
    mixed = torch.zeros(3, 2, 3)
    for head in range(2):
        q, k, v = heads[:, 0, head], heads[:, -2, head], heads[:, -1, head]
        for token in range(3):
            distances = torch.stack([(q[token] - k[other]).square().sum() for other in range(3)])
            mixed[token, head] = torch.softmax(-0.8 * distances / 3**0.5, dim=0) @ v
    torch.testing.assert_close(attention(x)[0], attention.to_out(mixed.flatten(1)))


def test_query_and_key_are_one_matrix_so_a_token_attends_most_to_itself():
    def maps_of(attention):
        seen = []
        attention.softmax.register_forward_hook(lambda _module, _inputs, maps: seen.append(maps))
        attention(torch.randn(4, 9, 6))
        return seen[0]  # [b, h, n, n]

    tied, untied = l2_attention(), l2_attention(ties_query_key=False)
    assert (tied.to_qkv.weight.shape, untied.to_qkv.weight.shape) == ((2 * 6, 6), (3 * 6, 6))
    diagonal = torch.arange(9).expand(4, 2, 9)
    assert torch.equal(maps_of(tied).argmax(dim=-1), diagonal)
    assert not torch.equal(maps_of(untied).argmax(dim=-1), diagonal)


def test_query_key_and_value_have_no_bias():
    generator = seeded().generator
    generator(torch.randn(4, generator.mapping.layers[0].weight.shape[1])).square().sum().backward()
    biases = [module.to_qkv.bias for module in generator.modules() if isinstance(module, L2Attention)]
    assert biases
    assert all(bias.grad is None and not bias.any() for bias in biases)


def test_improved_spectral_norm_holds_the_norm_a_layer_started_with():
    generator = seeded().generator
    held = [module for module in generator.modules() if parametrize.is_parametrized(module, "weight")]
    assert len(held) == 4 * CONFIGS[32, "tiny"].num_blocks  # two in the attention, two in the MLP
    for layer in held:
        original = layer.parametrizations.weight.original
        first_norm = torch.linalg.matrix_norm(original.detach(), ord=2)
        assert first_norm > 5  # of a normal matrix, about √c_in + √c_out
        original.data.mul_(3).add_(torch.randn_like(original))
        for _ in range(200):
            assert layer(torch.zeros(1, original.shape[1])).isfinite().all()
        norm = torch.linalg.matrix_norm(layer.eval().weight.detach(), ord=2)
        torch.testing.assert_close(norm, first_norm, rtol=1e-2, atol=0)


def test_self_modulated_norm_scales_by_one_plus_gamma():
    norm, x, style = SelfModulatedNorm(4), torch.randn(2, 3, 4), torch.randn(2, 4)
    for layer, (weight, bias) in ((norm.to_gamma, (0.0, 0.5)), (norm.to_beta, (0.0, -2.0))):
        layer.weight.data.fill_(weight)
        layer.bias.data.fill_(bias)
    torch.testing.assert_close(norm(x, style), functional.layer_norm(x, (4,), eps=1e-3) * 1.5 - 2)
    assert isinstance(norm.to_gamma, EqualLinear)
    norm.to_gamma.weight.data.normal_()
    assert not torch.allclose(norm(x, style), norm(x, -style))


def test_residuals_take_the_normalised_tokens():
    class Nothing(nn.Module):
        def forward(self, x):
            return torch.zeros_like(x)

    block = Block(CONFIGS[32, "tiny"])
    block.attention, block.mlp = Nothing(), Nothing()
    x, style = torch.randn(2, 64, 64), torch.randn(2, 64)
    torch.testing.assert_close(block(x, style), block.norm_mlp(block.norm_attention(x, style), style))


def test_tokens_are_sines_of_a_linear_function_of_the_grid():
    tokens = FourierTokens(16)
    assert tokens().shape == (64, 16)
    phase = tokens.to_phase.weight @ torch.tensor([1.0, -1.0]) + tokens.to_phase.bias  # right end of the first row
    torch.testing.assert_close(tokens()[7], torch.sin(phase))
    assert tokens.to_phase.weight.abs().max() <= 4.5**0.5


class Linear(nn.Module):
    """Logit = weight · pixels."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.num_passes = 0

    def forward(self, x):
        self.num_passes += 1
        return x.flatten(1) @ self.weight[:, None]


def linear_gan(weight=(1.0, -2.0, 0.5)):
    return Gan(generator=nn.Unflatten(1, (3, 1, 1)), discriminator=Linear(weight), latent_dim=3)


def test_losses_on_a_linear_discriminator_are_those_worked_by_hand():
    objective = AugmentedConsistencyR1(r1_weight=0.2, bcr_weight=0.0, augmentations=())
    gan, real, z = linear_gan(), torch.ones(1, 3, 1, 1), torch.tensor([[0.0, 1.0, 2.0]])
    loss = objective.discriminator_loss(gan, real, z, 0)
    softplus = torch.nn.functional.softplus
    real_logit, fake_logit, squared_weight = torch.tensor(-0.5), torch.tensor(-1.0), 5.25
    expected = {"real": softplus(-real_logit), "fake": softplus(fake_logit), "r1": torch.tensor(0.2 * squared_weight)}
    assert loss.parts.keys() == expected.keys()
    for name, part in expected.items():
        torch.testing.assert_close(loss.parts[name], part)
    torch.testing.assert_close(loss.total, sum(expected.values()))
    assert gan.discriminator.num_passes == 1  # real and generated in one batch
    torch.testing.assert_close(objective.generator_loss(gan, real, z, 0).total, softplus(-fake_logit))
    assert "r1" not in objective.without_penalty().discriminator_loss(gan, real, z, 0).parts


def test_consistency_compares_two_augmentations_of_real_and_generated_images():
    objective = AugmentedConsistencyR1(r1_weight=0.0, bcr_weight=3.0, augmentations=("color",))
    gan, real, z = linear_gan(), torch.randn(8, 3, 1, 1), torch.randn(8, 3)
    torch.manual_seed(0)
    part = objective.discriminator_loss(gan, real, z, 0).parts["bcr"]
    torch.manual_seed(0)
    logits = []
    gan.discriminator.register_forward_hook(lambda _module, _inputs, output: logits.append(output.detach()))
    objective.discriminator_loss(gan, real, z, 0)
    change = (logits[1] - logits[0]).square()
    torch.testing.assert_close(part, 3 * change[:8].mean() + 3 * change[8:].mean())
    assert part > 0.01
    still = dataclasses.replace(objective, augmentations=())
    assert still.discriminator_loss(gan, real, z, 0).parts["bcr"] == 0


def test_penalty_is_taken_before_the_augmentation():
    objective = AugmentedConsistencyR1(r1_weight=1.0, bcr_weight=0.0, augmentations=("color",))
    gan, real = linear_gan((1.0, 1.0, 1.0)), torch.zeros(64, 3, 1, 1)
    penalty = objective.discriminator_loss(gan, real, torch.zeros(64, 3), 0).parts["r1"]
    # One pixel is its own mean, so contrast cancels and the grey gradient passes colour unchanged: ‖w‖² = 3.
    torch.testing.assert_close(penalty, torch.tensor(3.0))
    gan = linear_gan((1.0, -1.0, 0.0))  # a colour difference is scaled by the saturation drawn, U(0, 2), and contrast
    scaled = objective.discriminator_loss(gan, real, torch.zeros(64, 3), 0).parts["r1"]
    assert not torch.isclose(scaled, torch.tensor(2.0), rtol=1e-3)


@pytest.mark.parametrize("bcr_weight", [0.0, 1.0])
def test_forward_and_backward_are_finite_in_every_parameter(bcr_weight):
    gan = seeded()
    objective = dataclasses.replace(SPEC.recipe("scenes", 32, "tiny").objective, bcr_weight=bcr_weight)
    real, z = torch.rand(4, 3, 32, 32) * 2 - 1, torch.randn(4, gan.latent_dim)
    objective.discriminator_loss(gan, real, z, 0).total.backward()
    assert all(parameter.grad is None for parameter in gan.generator.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in gan.discriminator.parameters())
    objective.generator_loss(gan, real, z, 0).total.backward()
    assert all(each.grad.isfinite().all() for each in gan.generator.parameters() if each.requires_grad)


def test_discriminator_can_be_differentiated_twice():
    discriminator = seeded().discriminator
    images = torch.randn(4, 3, 32, 32, requires_grad=True)
    squared_gradient_norm(discriminator(images), images).backward()
    gradients = [parameter.grad for name, parameter in discriminator.named_parameters() if "bias" not in name]
    assert all(gradient is not None and gradient.isfinite().all() and gradient.any() for gradient in gradients)


def test_evaluated_generator_gives_an_image_that_does_not_depend_on_its_batch():
    gan = seeded()
    gan.generator(torch.randn(8, gan.latent_dim))
    for conv in gan.generator.convs:
        conv.noise.strength.data.fill_(1.0)
    z = torch.randn(5, gan.latent_dim)
    with torch.no_grad():
        alone = torch.cat([gan.generator.eval()(one[None]) for one in z])
        torch.testing.assert_close(gan.generator(z), alone, atol=1e-4, rtol=1e-4)


def test_same_seed_gives_the_same_weights_and_they_survive_a_checkpoint():
    gan, again, other = seeded(), seeded(), seeded(seed=1)
    for name, x in (("generator", torch.randn(2, gan.latent_dim)), ("discriminator", torch.randn(2, 3, 32, 32))):
        saved, same, loaded = (getattr(each, name) for each in (gan, again, other))
        assert all(torch.equal(value, same.state_dict()[key]) for key, value in saved.state_dict().items())
        assert any(not torch.equal(value, loaded.state_dict()[key]) for key, value in saved.state_dict().items())
        saved(x)  # moves the power iterations
        file = io.BytesIO()
        torch.save(saved.state_dict(), file)
        loaded.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
        assert torch.equal(saved.eval()(x), loaded.eval()(x))


def test_recipes_say_whose_they_are():
    assert {(resolution, size) for resolution in SPEC.resolutions for size in SPEC.sizes} == set(CONFIGS)
    assert not SPEC.recipe("cifar10", 32, "paper").source.startswith("ours")
    assert SPEC.recipe("ffhq-128", 128, "paper").source.startswith("ours")
    with pytest.raises(ValueError, match=r"no size 'huge' at 32 px; known: paper at 32 px"):
        SPEC.build(32, "huge")
