"""Styleformer: golden counts, style injection, Linformer's projection, losses."""

import math

import pytest
import torch

from bench.phases.cost import count_macs
from models import styleformer
from models._losses import squared_gradient_norm
from models._token_grid import as_image, as_tokens, instance_norm
from models.styleformer import StyledAttention, StyleformerConfig

CONFIG = StyleformerConfig(widths=(16,), num_layers=(1,), head_width=8, style_width=12)


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return StyledAttention(16, 8, 8, CONFIG)


@pytest.mark.parametrize(("operator", "gmacs"), [("softmax", 11.264), ("linformer", 3.211)])
def test_counts_at_64_px_are_those_of_the_official_code(operator, gmacs):
    with torch.device("meta"):
        gan = styleformer.build(64, "paper", operator)
        num_macs, unknown = count_macs(gan.generator, torch.empty(1, 512))
    assert not unknown
    assert num_macs == pytest.approx(gmacs * 1e9, rel=0.005)


def _layer_macs(operator, grid):
    rank = styleformer.LINFORMER_RANK if operator == "linformer" else None
    with torch.device("meta"):
        layer = StyledAttention(16, 16, grid, CONFIG, rank)
        return count_macs(_WithoutStyle(layer), torch.empty(1, 16, grid, grid))[0]


class _WithoutStyle(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x, torch.empty(x.shape[0], 12))


def test_linformer_is_linear_in_the_tokens_and_softmax_is_quadratic():
    small, large = (_layer_macs("linformer", grid) for grid in (32, 128))
    assert large / small == pytest.approx(16, rel=0.01)
    small, large = (_layer_macs("softmax", grid) for grid in (32, 128))
    assert large / small > 16 * 12


def test_linformer_shortens_keys_and_values_from_32_px_up():
    generator = styleformer.build(64, "tiny", "linformer").generator
    shapes = [None if layer.mixtures is None else tuple(layer.mixtures.shape) for layer in generator.layers]
    assert shapes == [None, None, (256, 32 * 32), (256, 64 * 64)]
    assert all(layer.mixtures is None for layer in styleformer.build(64, "tiny", "softmax").generator.layers)


def test_linformer_whose_mixtures_are_the_tokens_is_softmax_attention(layer):
    projected = StyledAttention(16, 8, 8, CONFIG, rank=64)
    projected.load_state_dict(layer.state_dict(), strict=False)
    projected.mixtures.data = torch.eye(64) * math.sqrt(64)  # 1 / √n is taken at run time
    x, style = torch.randn(2, 16, 8, 8), torch.randn(2, 12)
    torch.testing.assert_close(projected.eval()(x, style), layer.eval()(x, style))


def test_linformer_attends_to_mixtures_of_keys_and_values():
    layer = StyledAttention(8, 8, 4, CONFIG, rank=3)
    q, k, v = torch.randn(3, 2, 16, 8)
    mixtures = layer.mixtures / 4
    expected = torch.softmax(q @ (mixtures @ k).mT / math.sqrt(8), dim=-1) @ (mixtures @ v)
    torch.testing.assert_close(layer._attended(torch.cat((q, k, v), dim=2)), expected)


def test_a_layer_is_the_formula_of_its_description(layer):
    layer.eval()
    x, style = torch.randn(1, 16, 8, 8), torch.randn(1, 12)
    scale_in, scale_out = layer.to_scale_in(style)[0], layer.to_scale_out(style)[0]
    weight = layer.weight_in[:, :, 0, 0] * scale_in
    weight = weight / weight.norm(dim=1, keepdim=True)
    q, k, v = (instance_norm(as_tokens(x))[0] @ weight.mT).chunk(3, dim=1)
    u = as_tokens(x)[0] @ (layer.skip.weight[:, :, 0, 0] / math.sqrt(16)).mT
    heads = [
        torch.softmax(q[:, each] @ k[:, each].mT / math.sqrt(8), dim=-1) @ v[:, each]
        for each in (slice(0, 8), slice(8, 16))
    ]
    weight = layer.weight_out[:, :, 0, 0] * scale_out
    weight = weight / weight.norm(dim=1, keepdim=True)
    y = torch.nn.functional.leaky_relu(torch.cat(heads, dim=1) @ weight.mT + u, 0.2)
    torch.testing.assert_close(as_tokens(layer(x, style))[0], y, rtol=1e-4, atol=1e-4)


def test_the_strength_of_a_style_is_demodulated_away(layer):
    layer.eval()
    x, style = torch.randn(2, 16, 8, 8), torch.randn(2, 12)
    before = layer(x, style)
    for to_scale in (layer.to_scale_in, layer.to_scale_out):
        to_scale.weight.data *= 7
        to_scale.bias.data *= 7
    torch.testing.assert_close(layer(x, style), before, rtol=1e-4, atol=1e-4)


def test_queries_keys_and_values_have_unit_variance(layer):
    seen = []
    layer._attended = lambda qkv: seen.append(qkv) or qkv[..., :16]
    layer(torch.randn(8, 16, 8, 8) * 3 + 1, torch.randn(8, 12))
    assert seen[0].std().item() == pytest.approx(1, abs=0.05)


def test_every_pixel_sees_every_other(layer):
    layer.eval()
    x, style = torch.randn(1, 16, 8, 8, requires_grad=True), torch.randn(1, 12)
    (gradient,) = torch.autograd.grad(layer(x, style)[0, :, 0, 0].sum(), x)
    assert (gradient.abs().sum(dim=1) > 0).all()


def test_instance_norm_is_torchs_own():
    x = torch.randn(3, 25, 6) * 4 + 2
    expected = torch.nn.functional.instance_norm(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(instance_norm(x), expected)
    assert as_image(x).shape == (3, 6, 5, 5)
    assert torch.equal(as_tokens(as_image(x)), x)
    assert as_image(x).data_ptr() == x.data_ptr()


@pytest.mark.parametrize("operator", ["softmax", "linformer"])
def test_the_losses_of_the_tiny_size_are_finite_and_reach_every_weight(operator):
    torch.manual_seed(0)
    gan = styleformer.build(32, "tiny", operator)
    objective = styleformer.recipe("scenes", 32, "tiny").objective
    real, z = torch.rand(4, 3, 32, 32) * 2 - 1, torch.randn(4, gan.latent_dim)
    loss = objective.discriminator_loss(gan, real, z, 0)
    assert set(loss.parts) == {"real", "fake", "r1"}
    loss.total.backward()
    objective.generator_loss(gan, real, z, 0).total.backward()
    for network in (gan.generator, gan.discriminator):
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_r1_of_the_discriminator_reaches_every_weight():
    gan = styleformer.build(32, "tiny", "softmax")
    images = (torch.rand(4, 3, 32, 32) * 2 - 1).requires_grad_()
    squared_gradient_norm(gan.discriminator(images), images).backward()
    weights = [p for name, p in gan.discriminator.named_parameters() if name.endswith("weight")]
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in weights)


@pytest.mark.parametrize("operator", ["softmax", "linformer"])
def test_an_image_depends_on_its_latent_alone_in_eval_mode_and_on_noise_in_training(operator):
    torch.manual_seed(0)
    generator = styleformer.build(32, "tiny", operator).generator
    for layer in generator.layers:
        layer.noise.strength.data.fill_(0.5)
    z = torch.randn(5, 64)
    with torch.no_grad():
        assert (generator(z) - generator(z)).abs().max() > 1e-3
        generator.eval()
        torch.testing.assert_close(generator(z[3:4]), generator(z)[3:4], rtol=1e-4, atol=1e-4)


def test_an_unknown_configuration_or_operator_is_refused():
    with pytest.raises(ValueError, match="tiny at 32 px"):
        styleformer.build(48, "paper")
    with pytest.raises(ValueError, match="linformer"):
        styleformer.build(32, "tiny", "window")
