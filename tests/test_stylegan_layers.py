"""The layers of StyleGAN2 against cases worked by hand and against the properties the papers give them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from models._style_mixing import mix_styles
from models._stylegan_layers import (
    EqualConv,
    EqualLinear,
    FirBlur,
    FirDownsample,
    FirUpsample,
    MappingNetwork,
    MinibatchStd,
    ModulatedConv,
    ResidualDiscriminator,
    ResidualDown,
    StyledConv,
    StyleNoise,
    ToRgb,
    activate,
    grids_to,
    modulated_conv,
    pixel_norm,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("is_demodulated", [False, True])
def test_scaled_and_grouped_modulated_convolution_agree_in_values_and_gradients(is_demodulated, is_transposed):
    inputs = [torch.randn(3, 5, 6, 6), torch.randn(4, 5, 3, 3), torch.randn(3, 5)]
    results = []
    for is_grouped in (False, True):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        settings = {"is_demodulated": is_demodulated, "is_transposed": is_transposed, "is_grouped": is_grouped}
        y = modulated_conv(*leaves, gain=1.7, **settings)
        results.append((y, *torch.autograd.grad((y * y.detach().cos()).sum(), leaves)))
    for scaled, grouped in zip(*results, strict=True):
        torch.testing.assert_close(scaled, grouped, atol=2e-5, rtol=1e-4)


def test_modulated_convolution_is_equations_1_to_3_worked_image_by_image():
    x, weight, scale = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3), torch.randn(2, 3)
    y = modulated_conv(x, weight, scale)
    for image in range(2):
        modulated = weight * scale[image][None, :, None, None] / math.sqrt(3 * 9)  # (1)
        sigma = torch.stack([(modulated[channel] ** 2).sum().sqrt() for channel in range(4)])  # (2)
        demodulated = modulated / sigma[:, None, None, None]  # (3)
        expected = functional.conv2d(x[image : image + 1], demodulated, padding=1)
        torch.testing.assert_close(y[image : image + 1], expected, atol=1e-5, rtol=1e-4)


def test_weight_demodulation_gives_unit_variance_whatever_the_style():
    x = torch.randn(4, 32, 48, 48)
    conv = ModulatedConv(32, 16, 3, 8).requires_grad_(False)
    inside = conv(x, 10 * torch.randn(4, 8))[..., 1:-1, 1:-1]  # zeros beyond the border have no variance
    variance = inside.var(dim=(2, 3))
    assert variance.mean() == pytest.approx(1, abs=0.02)
    assert (variance - 1).abs().max() < 0.25  # each image and channel by itself
    conv.is_demodulated = False
    assert conv(x, 10 * torch.randn(4, 8))[..., 1:-1, 1:-1].var() > 2


def test_up_sampling_modulated_convolution_doubles_the_grid_and_keeps_the_variance_of_smooth_images():
    smooth = torch.randn(2, 16, 1, 1).expand(-1, -1, 16, 16)
    up, plain = ModulatedConv(16, 64, 3, 8, is_up=True), ModulatedConv(16, 64, 3, 8)
    plain.load_state_dict(up.state_dict())
    style = torch.randn(2, 8)
    assert up(smooth, style).shape == (2, 64, 32, 32)
    inside, expected = up(smooth, style)[:, :, 16, 16], plain(smooth, style)[:, :, 8, 8]
    torch.testing.assert_close(inside, expected, atol=1e-4, rtol=1e-4)  # the filter spreads each pixel evenly


def test_scales_start_at_one_where_the_style_is_zero():
    conv = ModulatedConv(6, 4, 3, 8)
    assert torch.equal(conv.to_scale(torch.zeros(1, 8)), torch.ones(1, 6))


def test_up_sampling_spreads_a_pixel_as_1_3_3_1_does():
    x = torch.zeros(1, 2, 5, 5)
    x[0, 1, 2, 2] = 16.0
    y = FirUpsample()(x)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    assert torch.equal(y[0, 1, 3:7, 3:7], torch.outer(taps, taps))
    assert y.sum() == 64
    assert not y[0, 0].any()


def test_down_sampling_weighs_four_pixels_by_1_3_3_1():
    row = torch.arange(8.0).square()
    y = FirDownsample()(row.expand(1, 1, 8, 8))
    expected = [(row[i - 1] + 3 * row[i] + 3 * row[i + 1] + row[i + 2]) / 8 for i in (2, 4)]  # away from the border
    torch.testing.assert_close(y[0, 0, 1, 1:3], torch.stack(expected))
    assert y.shape == (1, 1, 4, 4)


def test_down_sampling_is_the_transpose_of_up_sampling():
    x, y = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close((FirDownsample()(x) * y).sum() * 4, (x * FirUpsample()(y)).sum(), rtol=1e-4, atol=1e-4)


def test_blur_then_every_second_pixel_is_down_sampling():
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(FirBlur(padding=1)(x)[..., ::2, ::2], FirDownsample()(x))
    assert FirBlur(padding=2)(x).shape == (2, 3, 9, 9)


@pytest.mark.parametrize("layer", [FirUpsample(), FirDownsample(), FirBlur(padding=2)])
def test_filters_have_derivatives_of_second_order(layer):
    x = torch.randn(1, 2, 4, 4, dtype=torch.double, requires_grad=True)
    layer = layer.double()
    assert torch.autograd.gradgradcheck(lambda image: layer(image).square(), (x,))


def test_styled_convolution_has_derivatives_of_second_order_in_image_and_style():
    layer = StyledConv(2, 3, 4, 4, is_up=True).double().eval()
    x = torch.randn(2, 2, 2, 2, dtype=torch.double, requires_grad=True)
    style = torch.randn(2, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(layer, (x, style))


@pytest.mark.parametrize("lr_multiplier", [1.0, 0.01])
def test_equalised_linear_keeps_unit_variance_and_stores_weights_by_their_learning_rate(lr_multiplier):
    layer = EqualLinear(256, 128, lr_multiplier=lr_multiplier, bias_init=0.5).requires_grad_(False)
    assert layer.weight.std() == pytest.approx(1 / lr_multiplier, rel=0.02)
    y = layer(torch.randn(512, 256))
    assert (y - 0.5).std() == pytest.approx(1, abs=0.05)
    assert y.mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("is_down", [False, True])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_activated_convolution_is_the_activation_of_the_plain_one(kernel_size, is_down):
    plain = EqualConv(6, 4, kernel_size, is_down=is_down)
    activated = EqualConv(6, 4, kernel_size, is_down=is_down, is_activated=True)
    torch.nn.init.normal_(plain.bias)
    activated.load_state_dict(plain.state_dict())
    x = torch.randn(2, 6, 8, 8)
    assert activated(x).shape == ((2, 4, 4, 4) if is_down else (2, 4, 8, 8))
    torch.testing.assert_close(activated(x), activate(plain(x)), atol=1e-5, rtol=1e-4)


def test_activation_keeps_the_mean_square_near_one():
    assert activate(torch.randn(100_000)).square().mean() == pytest.approx(1.04, abs=0.02)  # (1 + 0.2²) / 2 · 2


def test_pixel_norm_of_a_vector_worked_by_hand():
    torch.testing.assert_close(pixel_norm(torch.tensor([[3.0, 4.0]])), torch.tensor([[3.0, 4.0]]) / math.sqrt(12.5))


def test_mapping_does_not_see_the_length_of_z():
    mapping, z = MappingNetwork(8, 16, 3), torch.randn(4, 8)
    assert mapping(z).shape == (4, 16)
    torch.testing.assert_close(mapping(z), mapping(5 * z), atol=1e-5, rtol=1e-4)


def test_noise_is_drawn_per_image_in_training_and_constant_in_eval_mode():
    noise, x = StyleNoise(4), torch.zeros(3, 2, 4, 4)
    assert not noise(x).any()  # the strength starts at 0
    torch.nn.init.constant_(noise.strength, 2.0)
    first, second = noise(x), noise(x)
    assert first.shape == (3, 1, 4, 4)
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])
    noise.eval()
    assert torch.equal(noise(x), noise(x))
    assert torch.equal(noise(x), 2 * noise.constant)


def test_noise_and_bias_come_after_the_style_and_before_the_activation():
    layer = StyledConv(3, 4, 5, 6).eval()
    torch.nn.init.constant_(layer.noise.strength, 0.7)
    torch.nn.init.normal_(layer.bias)
    x, style = torch.randn(2, 3, 6, 6), torch.randn(2, 5)
    convolved = modulated_conv(x, layer.conv.weight, layer.conv.to_scale(style))
    expected = activate(convolved + 0.7 * layer.noise.constant + layer.bias[:, None, None])
    torch.testing.assert_close(layer(x, style), expected, atol=1e-5, rtol=1e-4)


def test_colours_are_added_to_the_enlarged_image_so_far():
    layer, x, style, skip = ToRgb(6, 5), torch.randn(2, 6, 8, 8), torch.randn(2, 5), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(layer(x, style, skip) - layer(x, style), FirUpsample()(skip), atol=1e-5, rtol=1e-4)
    doubled = ToRgb(6, 5)
    doubled.load_state_dict(layer.state_dict())
    torch.testing.assert_close(doubled(2 * x, style), 2 * layer(x, style))  # no demodulation, no activation


def test_minibatch_std_of_four_images_in_groups_of_two_worked_by_hand():
    x = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 2.0], [0.0, 8.0]])[:, :, None, None]
    y = MinibatchStd(group_size=2)(x)
    assert torch.equal(y[:, :2], x)
    # groups are images 0 and 2, 1 and 3; deviations (1, 0) and (0, 4); their means over channels are 0.5 and 2
    torch.testing.assert_close(y[:, 2, 0, 0], torch.tensor([0.5, 2.0, 0.5, 2.0]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3, 6])
def test_minibatch_std_takes_any_batch(batch_size):
    x = torch.randn(batch_size, 4, 4, 4)
    y = MinibatchStd(group_size=4)(x)
    assert y.shape == (batch_size, 5, 4, 4)
    if batch_size != 6:  # one image per group: nothing to compare
        assert (y[:, 4] < 1e-3).all()


def test_minibatch_std_has_a_gradient_where_all_images_are_alike():
    x = torch.ones(4, 2, 4, 4, requires_grad=True)
    MinibatchStd()(x)[:, 2].sum().backward()
    assert torch.isfinite(x.grad).all()


def test_residual_block_halves_the_grid_and_keeps_the_scale():
    x = torch.randn(64, 64, 1, 1).expand(-1, -1, 16, 16)  # smooth: the low-pass filter takes power from white noise
    y = ResidualDown(64, 64).requires_grad_(False)(x)
    assert y.shape == (64, 64, 8, 8)
    assert y[:, :, 2:6, 2:6].square().mean() == pytest.approx(1, abs=0.15)


def test_discriminator_is_differentiable_twice_on_a_cpu_in_float32():
    discriminator = ResidualDiscriminator(32, lambda grid: min(128 // grid, 16))
    x = torch.randn(4, 3, 32, 32, requires_grad=True)
    logits = discriminator(x)
    assert logits.shape == (4, 1)
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    gradient.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in discriminator.named_parameters()}
    without = {name for name, found in gradients.items() if found is None or not found.any()}
    # A piecewise linear function's slope depends on biases only where minibatch std, the one curved layer, follows.
    assert without == {"head.conv.bias", "head.hidden.bias", "head.to_logit.bias"}
    assert all(torch.isfinite(found).all() for found in gradients.values() if found is not None)


def test_grids_are_powers_of_two_from_4():
    assert list(grids_to(32)) == [4, 8, 16, 32]
    for wrong in (4, 48):
        with pytest.raises(ValueError, match=f"{wrong} px is not a power of 2"):
            grids_to(wrong)


@pytest.mark.parametrize("shape", [(500, 3), (500, 2, 3)])
def test_style_mixing_swaps_a_tail_of_the_layers_in_its_share_of_the_images(shape):
    style, other = torch.zeros(shape), torch.ones(shape)
    mixed = mix_styles(style, other, 6, 0.8)
    assert mixed.shape == (shape[0], 6, *shape[1:])
    taken = mixed.flatten(2).mean(dim=2)  # [b, layers], 0 or 1 as a whole vector comes from one latent
    assert set(taken.unique().tolist()) == {0.0, 1.0}
    assert (taken.diff(dim=1) >= 0).all() and not taken[:, 0].any()
    assert taken[:, -1].mean() == pytest.approx(0.8, abs=0.06)
    assert not mix_styles(style, other, 6, 0.0).any()
