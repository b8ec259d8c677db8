"""StyleSwin: golden counts, what windows see, wavelets, spectral norm, losses."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from bench.phases.cost import count_macs, count_params
from models import styleswin
from models._haar import haar_transform
from models._losses import squared_gradient_norm
from models._styleswin_losses import SeparateConsistency, mirrored_at_random
from models._window_attention import SwinAttention
from models.styleswin import AdaptiveInstanceNorm, DoubleAttention, sinusoidal_position


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return styleswin.build(32, "tiny")


@pytest.mark.parametrize(
    ("resolution", "generator_params", "generator_gmacs", "discriminator_params", "discriminator_gmacs"),
    [(64, 45.21e6, 36.49, None, None), (256, 48_929_512, 95.6, 26_211_585, 21.07), (1024, 40.86e6, 52.5, None, None)],
)
def test_counts_are_those_of_the_official_code(
    resolution, generator_params, generator_gmacs, discriminator_params, discriminator_gmacs
):
    with torch.device("meta"):
        gan = styleswin.build(resolution, "paper")
        num_macs, unknown = count_macs(gan.generator, torch.empty(1, 512))
        assert not unknown
        assert num_macs == pytest.approx(generator_gmacs * 1e9, rel=0.001)
        assert count_params(gan.generator) == pytest.approx(generator_params, rel=0.0 if resolution == 256 else 2e-4)
        if discriminator_params is not None:
            assert count_params(gan.discriminator) == discriminator_params
            num_macs, unknown = count_macs(gan.discriminator, torch.empty(1, 3, resolution, resolution))
            assert not unknown
            assert num_macs == pytest.approx(discriminator_gmacs * 1e9, rel=0.005)


def _tokens_that_see(attend, source, grid_size=16, num_heads=2, width=4):
    """Places whose result changes when the value, key and query at `source` change: [s, s], bool."""
    torch.manual_seed(1)
    qkv = torch.randn(1, grid_size, grid_size, 3, num_heads, width)
    changed = qkv.clone()
    changed[0, source[0], source[1]] += 1
    return (attend(changed) != attend(qkv)).any(dim=(0, 3, 4) if attend(qkv).dim() == 5 else (0, 3))


def _square(first_row, first_column, size, grid_size=16):
    square = torch.zeros(grid_size, grid_size, dtype=torch.bool)
    square[first_row : first_row + size, first_column : first_column + size] = True
    return square


def test_plain_windows_do_not_see_beyond_themselves():
    attend = SwinAttention(16, 8, 2)
    assert torch.equal(_tokens_that_see(attend, (7, 7)), _square(0, 0, 8))
    assert torch.equal(_tokens_that_see(attend, (8, 3)), _square(8, 0, 8))


def test_shifted_windows_see_across_the_borders_of_the_plain_ones_and_not_around_the_edge():
    attend = SwinAttention(16, 8, 2, shift=4)
    assert torch.equal(_tokens_that_see(attend, (7, 7)), _square(4, 4, 8))
    assert torch.equal(_tokens_that_see(attend, (0, 0)), _square(0, 0, 4))  # rolled beside row 12 to 15, but hidden
    assert torch.equal(_tokens_that_see(attend, (15, 15)), _square(12, 12, 4))


def test_double_attention_sees_both_kinds_of_window_at_once():
    torch.manual_seed(0)
    attend = DoubleAttention(16, 4, 16)
    x = torch.randn(1, 256, 16)
    changed = x.clone()
    changed[0, 7 * 16 + 7] += 1
    seen = (attend(changed) - attend(x)).abs().amax(dim=(0, 2)).unflatten(0, (16, 16)) > 1e-6
    assert torch.equal(seen, _square(0, 0, 8) | _square(4, 4, 8))


def test_half_of_the_heads_are_shifted_by_half_a_window_above_8_px_only():
    above, below = DoubleAttention(64, 4, 16), DoubleAttention(64, 4, 8)
    assert (above.plain.shift, above.shifted.shift) == (0, 4)
    assert (below.plain.shift, below.shifted.shift) == (0, 0)
    assert above.shifted.position_bias.table.shape == (2, 15, 15)


def test_a_window_is_softmax_attention_with_a_bias():
    attend = SwinAttention(4, 4, 3)
    nn.init.normal_(attend.position_bias.table)
    qkv = torch.randn(2, 4, 4, 3, 3, 5)
    q, k, v = qkv.flatten(1, 2).permute(2, 0, 3, 1, 4)
    expected = torch.softmax(q @ k.mT / math.sqrt(5) + attend.position_bias(), dim=-1) @ v
    torch.testing.assert_close(attend(qkv).flatten(1, 2).transpose(1, 2), expected)


def test_windows_that_do_not_fill_the_grid_are_refused():
    with pytest.raises(ValueError, match="do not fill"):
        SwinAttention(12, 8, 2)
    with pytest.raises(ValueError, match="shift"):
        SwinAttention(16, 8, 2, shift=8)


def test_the_haar_transform_of_four_pixels_is_that_of_the_textbook():
    image = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]])
    torch.testing.assert_close(haar_transform(image).flatten(), torch.tensor([5.5, -2.5, -1.5, 0.5]))


def test_the_haar_transform_is_inverted_by_its_transpose():
    torch.manual_seed(0)
    image = torch.randn(2, 3, 8, 8, requires_grad=True)
    wavelets = haar_transform(image)
    assert wavelets.shape == (2, 12, 4, 4)
    (back,) = torch.autograd.grad(wavelets, image, grad_outputs=wavelets.detach())
    torch.testing.assert_close(back, image.detach())
    torch.testing.assert_close(wavelets.square().sum(), image.square().sum())


def test_adaptive_instance_norm_gives_channels_the_mean_and_deviation_of_the_style():
    norm = AdaptiveInstanceNorm(8, 16)
    style = torch.randn(3, 16)
    y = norm(torch.randn(3, 64, 8) * 5 + 2, style)
    scale, shift = norm.to_scale_and_shift(style).chunk(2, dim=1)
    torch.testing.assert_close(y.mean(dim=1), shift, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(y.std(dim=1, correction=0), scale.abs(), rtol=1e-4, atol=1e-5)


def test_sinusoidal_positions_count_columns_and_rows_from_one():
    position = sinusoidal_position(4, 16).unflatten(0, (4, 4))  # [rows, columns, c]
    torch.testing.assert_close(position[2, 1, 0], torch.tensor(math.sin(2.0)))  # the column comes first
    torch.testing.assert_close(position[2, 1, 8], torch.tensor(math.sin(3.0)))
    torch.testing.assert_close(position[2, 1, 4 + 3], torch.tensor(math.cos(2.0 / 10_000)))
    assert len(position.flatten(0, 1).unique(dim=0)) == 16


def test_every_weight_of_the_discriminator_has_spectral_norm_1(tiny):
    for _ in range(40):  # one power iteration each
        tiny.discriminator(torch.rand(2, 3, 32, 32))
    layers = [layer for layer in tiny.discriminator.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert len(layers) == 10  # three per stage of two, and four at the end
    for layer in layers:
        assert parametrize.is_parametrized(layer, "weight")
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.03)


def test_the_discriminator_looks_at_wavelets_of_every_size(tiny):
    seen = []
    for stage in tiny.discriminator.stages:
        stage.from_wavelets.register_forward_hook(lambda _, args, __: seen.append(args[0].shape))
    tiny.discriminator.from_wavelets.register_forward_hook(lambda _, args, __: seen.append(args[0].shape))
    tiny.discriminator(torch.zeros(2, 3, 32, 32))
    assert [tuple(shape) for shape in seen] == [(2, 12, 16, 16), (2, 12, 8, 8), (2, 12, 4, 4)]


def test_r1_of_the_discriminator_reaches_every_weight(tiny):
    images = (torch.rand(4, 3, 32, 32) * 2 - 1).requires_grad_()
    squared_gradient_norm(tiny.discriminator(images), images).backward()
    weights = [p for name, p in tiny.discriminator.named_parameters() if name.endswith("original")]
    assert len(weights) == 10
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in weights)


def test_r1_is_lazy_and_consistency_is_taken_in_every_step(tiny):
    objective = styleswin.recipe("scenes", 256, "paper").objective
    assert objective.period == 16
    real, z = torch.rand(4, 3, 32, 32) * 2 - 1, torch.randn(4, tiny.latent_dim)
    first = objective.discriminator_loss(tiny, real, z, 0)
    second = objective.discriminator_loss(tiny, real, z, 1)
    assert set(first.parts) == {"real", "fake", "r1", "bcr"}
    assert set(second.parts) == {"real", "fake", "bcr"}
    second.total.backward()
    objective.generator_loss(tiny, real, z, 0).total.backward()
    for network in (tiny.generator, tiny.discriminator):
        assert all(torch.isfinite(p.grad).all() for p in network.parameters())
    assert objective.without_penalty() == SeparateConsistency(
        r1_weight=0.0,
        r1_interval=16,
        augmentations=("translation", "color", "cutout"),
        bcr_real_weight=10.0,
        bcr_fake_weight=10.0,
    )


def test_consistency_takes_real_and_generated_images_in_passes_of_their_own(tiny):
    batches = []
    tiny.discriminator.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    objective = styleswin.recipe("scenes", 32, "tiny").objective
    objective.discriminator_loss(tiny, torch.zeros(4, 3, 32, 32), torch.randn(4, tiny.latent_dim), 1)
    assert batches == [4, 4, 4, 4]


def test_consistency_and_losses_mirror_images_before_their_augmentation(tiny):
    seen = []
    tiny.discriminator.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    objective = SeparateConsistency(r1_weight=0.0, bcr_real_weight=1.0, bcr_fake_weight=1.0)
    torch.manual_seed(0)
    real = torch.rand(16, 3, 32, 32)
    objective.discriminator_loss(tiny, real, torch.randn(16, tiny.latent_dim), 1)
    fake, clean, fake_again, real_again = seen
    assert torch.equal(clean, real)
    for images, again in ((fake, fake_again), (real, real_again)):
        is_mirrored = (again == images.flip(3)).all(dim=(1, 2, 3))
        assert (is_mirrored ^ (again == images).all(dim=(1, 2, 3))).all()
        assert 0 < is_mirrored.sum() < 16


def test_about_every_second_image_is_mirrored():
    torch.manual_seed(0)
    images = torch.rand(200, 3, 2, 4)
    mirrored = mirrored_at_random(images)
    is_mirrored = (mirrored == images.flip(3)).all(dim=(1, 2, 3))
    is_kept = (mirrored == images).all(dim=(1, 2, 3))
    assert (is_mirrored ^ is_kept).all()
    assert 70 < is_mirrored.sum() < 130


def test_an_image_depends_on_its_latent_alone(tiny):
    tiny.generator.eval()
    z = torch.randn(5, tiny.latent_dim)
    with torch.no_grad():
        together = tiny.generator(z)
        torch.testing.assert_close(tiny.generator(z[3:4]), together[3:4])
        assert (together[0] - together[1]).abs().max() > 1e-6


def test_an_unknown_configuration_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="tiny at 32 px"):
        styleswin.build(48, "paper")
    with pytest.raises(ValueError, match="known"):
        styleswin.recipe("scenes", 32, "huge")
