"""HiT against the official code's counts, and against what its paper promises: what each half of the heads sees."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models._losses import NonSaturatingR1
from models._relative_position import from_windows, to_windows
from models.hit import CONFIGS, SPEC, CrossAttention, MultiAxisAttention, TokenBatchNorm


def on_meta(resolution, size="paper"):
    with torch.device("meta"):
        return SPEC.build(resolution, size)


def seeded(resolution=32, size="tiny"):
    torch.manual_seed(0)
    return SPEC.build(resolution, size)


def num_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameters_and_macs_at_256_px_are_those_of_the_official_code():
    generator = on_meta(256).generator
    assert num_parameters(generator) == 46_217_670
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        generator(torch.empty(1, 512, device="meta"))
    assert round(flops.get_total_flops() / 2e9, 3) == 13.364


def pass_through(layer):
    """The output's channels are the heads', in their order."""
    with torch.no_grad():
        layer.to_out.weight.copy_(torch.eye(layer.to_out.in_features))
        layer.to_out.bias.zero_()
    return layer


def tokens_seen(layer, x, channels, block, place):
    """Which of the tokens [blocks, n] those channels of one result depend on."""
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x)[0, block, place, channels].square().sum(), x)
    return gradient[0].abs().sum(dim=-1) > 0


def test_the_first_half_of_the_heads_sees_its_block_and_the_second_half_its_place_in_every_block():
    torch.manual_seed(0)
    layer, x = pass_through(MultiAxisAttention(16, 4, 16)), torch.randn(1, 6, 9, 16)
    local, dilated = torch.zeros(2, 6, 9, dtype=torch.bool)
    local[4], dilated[:, 7] = True, True
    assert torch.equal(tokens_seen(layer, x, slice(0, 8), 4, 7), local)
    assert torch.equal(tokens_seen(layer, x, slice(8, 16), 4, 7), dilated)


def test_seen_in_the_image_a_block_is_a_square_and_its_dilated_partner_a_lattice():
    row_and_column = torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij"), dim=-1)[None]
    blocks = to_windows(row_and_column, 4)[0]  # [4 blocks, 16 places, 2]
    assert blocks[1, :, 0].unique().tolist() == [0, 1, 2, 3]
    assert blocks[1, :, 1].unique().tolist() == [4, 5, 6, 7]
    assert blocks[:, 6].tolist() == [[1, 2], [1, 6], [5, 2], [5, 6]]  # every fourth row and column
    assert torch.equal(from_windows(to_windows(row_and_column, 4), 4, 2), row_and_column)


def test_multi_axis_attention_is_its_formula():
    torch.manual_seed(0)
    layer, x = pass_through(MultiAxisAttention(4, 2, 4)), torch.randn(1, 2, 3, 4)
    q, k, v = layer.to_q(x), layer.to_k(x), layer.to_v(x)
    block, place = 1, 2
    inside = torch.softmax(k[0, block] @ q[0, block, place, :2] / 2**0.5, dim=0) @ v[0, block]
    across = torch.softmax(k[0, :, place] @ q[0, block, place, 2:] / 2**0.5, dim=0) @ v[0, :, place]
    torch.testing.assert_close(layer(x)[0, block, place], torch.cat([inside, across]))


def test_keys_and_values_are_shared_by_all_heads():
    layer = CrossAttention(16, 4, 24)
    assert layer.to_k.weight.shape == layer.to_v.weight.shape == (4, 24)


def test_cross_attention_is_its_formula_and_every_token_sees_every_embedding():
    torch.manual_seed(0)
    layer, x = pass_through(CrossAttention(8, 2, 6)), torch.randn(1, 2, 5, 8)
    embeddings = torch.randn(1, 3, 6, requires_grad=True)
    q, k, v = layer.to_q(x)[0, 1, 4], layer.to_k(embeddings)[0], layer.to_v(embeddings)[0]
    expected = torch.cat([torch.softmax(k @ head / 2, dim=0) @ v for head in q.chunk(2)])
    y = layer(x, embeddings)
    torch.testing.assert_close(y[0, 1, 4], expected)
    (gradient,) = torch.autograd.grad(y[0, 0, 0].sum(), embeddings)
    assert (gradient.abs().sum(dim=-1) > 0).all()


@pytest.mark.parametrize("resolution", sorted({resolution for resolution, _ in CONFIGS}))
def test_stages_without_attention_make_the_colours_and_the_last_one_always_does(resolution):
    for size in SPEC.sizes:
        stages = CONFIGS[resolution, size].stages
        assert stages[-1].block_size is None
        assert 8 << (len(stages) - 1) == resolution
        built = on_meta(resolution, size).generator.stages
        assert [stage.to_rgb is None for stage in built] == [stage.block_size is not None for stage in stages]


def test_tokens_of_a_stage_without_attention_do_not_see_one_another():
    gan = seeded()
    stage = gan.generator.stages[-1].eval()
    x, embeddings = torch.randn(1, 32, 32, 16), torch.randn(1, 16, 64)
    moved = x.clone()
    moved[0, 3, 5] += 1
    with torch.no_grad():
        changed = (stage(x, embeddings)[0] != stage(moved, embeddings)[0]).any(dim=-1)
    assert changed.nonzero().tolist() == [[0, 3, 5]]


def test_norms_have_keras_settings_and_count_every_token():
    norm, x = TokenBatchNorm(4), torch.randn(3, 2, 5, 4)
    assert (norm.momentum, norm.eps) == (0.01, 1e-3)
    flat = x.reshape(-1, 4)
    expected = (flat - flat.mean(0)) / (flat.var(0, correction=0) + 1e-3).sqrt()
    torch.testing.assert_close(norm(x).reshape(-1, 4), expected)
    modules = [module for module in on_meta(256).generator.modules() if isinstance(module, nn.BatchNorm1d)]
    assert modules and all(isinstance(module, TokenBatchNorm) for module in modules)


def test_double_backward_of_the_discriminator_reaches_its_first_convolution():
    gan, objective = seeded(), SPEC.recipe("ffhq-128", 256, "paper").objective
    real, z = torch.rand(3, 3, 32, 32) * 2 - 1, torch.randn(3, gan.latent_dim)
    loss = objective.discriminator_loss(gan, real, z, 0)
    assert set(loss.parts) == {"real", "fake", "r1", "bcr"}
    loss.total.backward()
    assert all(parameter.grad is None for parameter in gan.generator.parameters())
    assert all(torch.isfinite(parameter.grad).all() for parameter in gan.discriminator.parameters())
    x = real.requires_grad_()
    (gradient,) = torch.autograd.grad(gan.discriminator(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), gan.discriminator.from_rgb.weight)
    assert second.any()


@pytest.mark.parametrize("resolution", [32, 64])
def test_generator_loss_reaches_every_weight(resolution):
    gan, objective = seeded(resolution), SPEC.recipe("scenes", resolution, "tiny").objective
    real, z = torch.rand(3, 3, resolution, resolution) * 2 - 1, torch.randn(3, gan.latent_dim)
    objective.generator_loss(gan, real, z, 0).total.backward()
    gradients = {name: parameter.grad for name, parameter in gan.generator.named_parameters()}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    # the upsampling linear layers and all but the biases before a norm move
    assert all(gradient.any() for name, gradient in gradients.items() if name.endswith("weight"))


@pytest.mark.parametrize("resolution", [32, 64])
def test_the_same_z_gives_the_same_image_on_any_batch_size(resolution):
    gan = seeded(resolution)
    z = torch.randn(4, gan.latent_dim)
    gan.generator(z)  # the running statistics are no longer 0 and 1
    gan.generator.eval()
    with torch.no_grad():
        torch.testing.assert_close(gan.generator(z)[1:2], gan.generator(z[1:2]), atol=1e-5, rtol=1e-4)


def test_recipes_are_the_published_commands_and_say_that_the_data_is_another():
    small, large = SPEC.recipe("celeba-64", 128, "paper"), SPEC.recipe("folder", 256, "paper")
    assert (small.batch_size, small.generator_lr, small.num_images) == (256, 1e-4, 256_000_000)
    assert (large.batch_size, large.generator_lr, large.num_images) == (256, 5e-5, 128_000_000)
    assert small.objective == NonSaturatingR1(r1_weight=10.0)
    assert (large.objective.bcr_real_weight, large.objective.bcr_fake_weight) == (10.0, 10.0)
    assert small.source.startswith("ours") and "ImageNet" in small.source
    assert large.source.startswith("ours") and "FFHQ" in large.source


def test_unknown_sizes_are_refused():
    with pytest.raises(ValueError, match="no size 'huge' at 32 px"):
        SPEC.build(32, "huge")
