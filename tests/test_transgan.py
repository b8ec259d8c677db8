"""TransGAN against the known counts, and against what its paper promises: grid attention, position bias, two scales."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models._relative_position import RelativePositionBias, from_windows, to_windows
from models.transgan import CONFIGS, SPEC, Block, Stage, TransGanConfig, _upsampled


def on_meta(resolution, size="paper"):
    with torch.device("meta"):
        return SPEC.build(resolution, size)


def seeded(resolution=32, size="tiny"):
    torch.manual_seed(0)
    return SPEC.build(resolution, size)


def num_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def num_macs(network, shape):
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        network(torch.empty(shape, device="meta"))
    return flops.get_total_flops() // 2


def test_parameters_and_macs_at_32_px_are_those_of_the_official_code():
    gan = on_meta(32)
    assert (num_parameters(gan.generator), num_parameters(gan.discriminator)) == (83_312_495, 10_210_400)
    assert round(num_macs(gan.generator, (1, 256)) / 1e9, 3) == 5.394
    assert round(num_macs(gan.discriminator, (1, 3, 32, 32)) / 1e9, 3) == 1.346


def test_256_px_generator_has_the_known_size_and_nearly_the_known_macs():
    generator = on_meta(256).generator
    assert round(num_parameters(generator) / 1e6, 1) == 212.9
    assert num_macs(generator, (1, 512)) / 1e9 == pytest.approx(114.1, rel=0.005)


def test_position_bias_is_one_number_per_head_and_offset():
    torch.manual_seed(0)
    layer = RelativePositionBias(3, 2)
    bias = layer()
    assert bias.shape == (2, 9, 9)
    for i in range(9):
        for j in range(9):
            dy, dx = i // 3 - j // 3, i % 3 - j % 3
            assert torch.equal(bias[:, i, j], layer.table[:, dy + 2, dx + 2])


def test_position_bias_is_translation_consistent():
    torch.manual_seed(0)
    bias = RelativePositionBias(4, 1)().view(4, 4, 4, 4)  # query row, query column, key row, key column
    assert torch.equal(bias[:3, :, :3], bias[1:, :, 1:])  # both one row down
    assert torch.equal(bias[:, :3, :, :3], bias[:, 1:, :, 1:])  # both one column right
    assert not torch.equal(bias[0, 0, 0, 1], bias[0, 1, 0, 0])  # the offset has a sign


def test_windows_are_squares_in_row_major_order_and_can_be_undone():
    grid = torch.arange(2 * 4 * 6).view(2, 4, 6, 1)
    windows = to_windows(grid, 2)
    assert windows.shape == (2, 6, 4, 1)
    assert windows[0, 4, :, 0].tolist() == [14, 15, 20, 21]  # second row of windows, second of three
    assert torch.equal(from_windows(windows, 2, 3), grid)


SMALL = TransGanConfig(
    latent_dim=8,
    generator_widths=(8,),
    generator_depths=(1,),
    patch_sizes=(4,),
    discriminator_widths=(8,),
    discriminator_depths=(1,),
    full_grid=4,
    window_size=4,
    num_heads=2,
)


def tokens_that_change(stage, grid_size, row, column):
    """Which tokens [s, s] of the result differ when one token of the input does."""
    stage, x = stage.double(), torch.randn(1, grid_size**2, 8, dtype=torch.float64)
    moved = x.clone()
    moved[0, row * grid_size + column] += torch.randn(8)
    with torch.no_grad():
        return (stage(x) != stage(moved)).any(dim=2).view(grid_size, grid_size)


def test_grid_attention_does_not_mix_tokens_of_different_cells():
    torch.manual_seed(0)
    changed = tokens_that_change(Stage(8, 8, 2, SMALL), 8, row=5, column=2)
    cell = torch.zeros(8, 8, dtype=torch.bool)
    cell[4:, :4] = True
    assert torch.equal(changed, cell)


def test_on_a_small_grid_every_token_sees_every_other():
    torch.manual_seed(0)
    assert tokens_that_change(Stage(4, 8, 1, SMALL), 4, row=3, column=0).all()


@pytest.mark.parametrize("resolution", [32, 256])
def test_windows_stand_in_the_generator_from_64_px_up_and_are_16_wide(resolution):
    stages = on_meta(resolution).generator.stages
    sizes = {
        (8 << index, block.windows.window_size, block.windows.num_columns)
        for index, stage in enumerate(stages)
        for block in stage.blocks
    }
    large = {(64, 16, 4), (128, 16, 8), (256, 16, 16)} if resolution == 256 else set()
    assert sizes == {(8, 8, 1), (16, 16, 1), (32, 32, 1)} | large


def test_pixel_shuffle_quarters_the_width_and_bicubic_keeps_it():
    x = torch.arange(16.0).view(1, 4, 4)  # a 2 × 2 grid of 4 channels
    shuffled = _upsampled(x, 1)
    assert shuffled.shape == (1, 16, 1)
    assert shuffled.view(4, 4)[:2, :2].flatten().tolist() == [0, 1, 2, 3]  # the four channels of the first token
    flat = torch.ones(1, 4, 4)
    torch.testing.assert_close(_upsampled(flat, 4), torch.ones(1, 16, 4))


def test_both_patch_sizes_reach_the_logit_and_the_second_stage_joins_them():
    discriminator = seeded().discriminator
    assert [conv.kernel_size[0] for conv in discriminator.to_patches] == list(CONFIGS[32, "tiny"].patch_sizes)
    x = torch.randn(2, 3, 32, 32)
    before = discriminator(x)
    with torch.no_grad():
        discriminator.to_patches[1].weight.zero_()
    assert not torch.equal(discriminator(x), before)
    with torch.no_grad():
        discriminator.to_patches[0].weight.zero_()
    torch.testing.assert_close(*discriminator(x))  # blind: two different images, one logit


def test_noise_starts_at_zero_and_stays_out_of_eval_mode():
    torch.manual_seed(0)
    block, x = Block(8, 2, None, is_noisy=True), torch.randn(2, 5, 8)
    quiet = block(x)
    with torch.no_grad():
        block.noise_strength.fill_(1.0)
    assert not torch.equal(block(x), quiet)
    assert torch.equal(block.eval()(x), quiet)


def test_blocks_up_to_32_px_of_the_large_sizes_attend_to_z():
    stages = on_meta(128).generator.stages
    assert [all(block.cross is not None for block in stage.blocks) for stage in stages] == [True] * 3 + [False] * 2


@pytest.mark.parametrize("resolution", [32, 64])
def test_both_losses_reach_every_weight_of_their_network(resolution):
    gan, objective = seeded(resolution), SPEC.recipe("scenes", resolution, "paper").objective
    real, z = torch.rand(3, 3, resolution, resolution) * 2 - 1, torch.randn(3, gan.latent_dim)
    objective.discriminator_loss(gan, real, z, 0).total.backward()  # the penalty is a second backward pass
    assert all(parameter.grad is None for parameter in gan.generator.parameters())
    assert all(torch.isfinite(parameter.grad).all() for parameter in gan.discriminator.parameters())
    assert gan.discriminator.to_patches[0].weight.grad.any()
    gan.discriminator.requires_grad_(False)
    objective.generator_loss(gan, real, z, 0).total.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in gan.generator.parameters())


def test_gradient_penalty_alone_reaches_the_first_patch_embedding():
    gan, objective = seeded(), SPEC.recipe("cifar10", 32, "paper").objective
    real, z = torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(2, gan.latent_dim)
    weight = gan.discriminator.to_patches[0].weight
    gradients = []
    for each in (objective, objective.without_penalty()):
        torch.manual_seed(1)
        gradients.append(torch.autograd.grad(each.discriminator_loss(gan, real, z, 0).total, weight)[0])
    assert (gradients[0] - gradients[1]).norm() > 1e-3 * gradients[1].norm()


@pytest.mark.parametrize("resolution", [32, 64])
def test_the_same_z_gives_the_same_image_on_any_batch_size(resolution):
    gan = seeded(resolution)
    generator, z = gan.generator.eval(), torch.randn(4, gan.latent_dim)
    with torch.no_grad():
        torch.testing.assert_close(generator(z)[1:2], generator(z[1:2]), atol=1e-5, rtol=1e-4)


def test_recipe_is_the_papers_and_says_what_is_ours():
    found = SPEC.recipe("cifar10", 32, "paper")
    assert (found.batch_size, found.generator_lr, found.discriminator_lr) == (64, 1e-4, 1e-4)
    assert (found.adam_betas, found.num_discriminator_steps, found.max_gradient_norm) == ((0.0, 0.99), 4, 5.0)
    assert (found.objective.penalty_weight, found.objective.drift_weight) == (10.0, 1e-3)
    assert found.objective.augmentations == ("translation", "cutout", "color")
    assert SPEC.recipe("celeba-64", 64, "paper").source.startswith("ours")
    assert SPEC.recipe("scenes", 32, "tiny").source.startswith("ours")


def test_unknown_sizes_are_refused():
    with pytest.raises(ValueError, match="no size 'huge' at 32 px"):
        SPEC.build(32, "huge")
