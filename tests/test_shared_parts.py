"""The parts that model files share: heads, attention, MLP, look-up of configurations, positions on a grid."""

import math

import pytest
import torch
from torch import nn

from models import vitgan
from models._configs import ChannelRule, config_for, decay_of_half_life, gamma_by_pixels
from models._relative_position import PositionEmbedding
from models._style_mixing import layer_styles
from models._token_grid import as_image, as_tokens, sinusoids_of_grid
from models._transformer import attend, initialise_glorot, mlp, split_heads


def test_a_head_is_a_slice_of_neighbouring_channels():
    x = torch.arange(12.0).view(1, 2, 6)
    heads = split_heads(x, 3)
    assert heads.shape == (1, 3, 2, 2)
    assert heads[0, 1].tolist() == [[2.0, 3.0], [8.0, 9.0]]


@pytest.mark.parametrize("is_fused", [True, False])
def test_attention_of_one_query_worked_by_hand(is_fused):
    """d = 4, so scores are halved: 2 ln 3 / 2 = ln 3 against 0, weights 3/4 and 1/4."""
    q = torch.tensor([2 * math.log(3.0), 0, 0, 0]).view(1, 1, 1, 4)
    k = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]]).view(1, 1, 2, 4)
    v = torch.tensor([[4.0, 0, 8, 0], [0, 4, 0, 0]]).view(1, 1, 2, 4)
    torch.testing.assert_close(attend(q, k, v, is_fused=is_fused), torch.tensor([[[3.0, 1.0, 6.0, 0.0]]]))


def test_both_ways_to_attend_agree_and_only_the_plain_one_can_be_differentiated_twice():
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 7, 4), torch.randn(2, 3, 7, 4)
    plain = attend(q, k, v, is_fused=False)
    assert plain.shape == (2, 5, 12)
    torch.testing.assert_close(plain, attend(q, k, v, is_fused=True))
    inputs = tuple(each[:1, :1, :3].double().requires_grad_() for each in (q, k, v))
    assert torch.autograd.gradgradcheck(lambda *each: attend(*each, is_fused=False), inputs)
    with pytest.raises(RuntimeError, match="derivative"):
        torch.autograd.gradgradcheck(lambda *each: attend(*each, is_fused=True), inputs)


def test_the_mlp_has_two_linear_layers_and_a_gelu():
    layers = mlp(2, 1)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.fill_(1.0)
    hidden = 1.0 + 2.0 + 1.0
    gelu = hidden * 0.5 * (1 + math.erf(hidden / math.sqrt(2)))
    torch.testing.assert_close(layers(torch.tensor([[1.0, 2.0]])), torch.full((1, 2), gelu + 1))


def test_glorot_weights_are_uniform_within_their_bound_and_other_modules_keep_theirs():
    network = nn.Sequential(nn.Linear(30, 70), nn.LayerNorm(70), nn.Conv2d(4, 6, 3))
    network.apply(initialise_glorot)
    bounds = (math.sqrt(6 / 100), math.sqrt(6 / ((4 + 6) * 9)))
    for layer, bound in zip((network[0], network[2]), bounds, strict=True):
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()
    assert network[1].weight.eq(1).all()


def test_a_configuration_is_found_or_refused_with_the_known_ones():
    assert config_for({(32, "tiny"): "a"}, "X", 32, "tiny") == "a"
    with pytest.raises(ValueError, match=r"X has no size 'tiny' at 64 px; known: tiny at 32 px\."):
        config_for({(32, "tiny"): "a"}, "X", 64, "tiny")


def test_channels_halve_with_the_grid_below_a_maximum():
    rule = ChannelRule(channel_base=16384, channel_max=512)
    assert [rule.width_at(grid) for grid in (4, 32, 64, 256)] == [512, 512, 256, 64]


def test_the_weight_of_r1_follows_the_number_of_pixels():
    assert [gamma_by_pixels(resolution) for resolution in (256, 128, 64)] == [1, 1 / 4, 1 / 16]


def test_a_moving_average_forgets_half_in_its_half_life():
    assert decay_of_half_life(50, 1000) ** (1000 / 50) == pytest.approx(0.5)


def test_positions_of_a_grid_have_the_column_first_and_run_row_by_row():
    angles = torch.tensor([[0.0, 0.1], [0.5, 0.6], [1.0, 1.1]])  # 3 steps, 2 rates
    places = sinusoids_of_grid(angles)
    assert places.shape == (9, 8)
    of = [[*map(math.sin, step), *map(math.cos, step)] for step in angles.tolist()]
    row, column = 2, 1
    torch.testing.assert_close(places[row * 3 + column], torch.tensor(of[column] + of[row]))


def test_tokens_and_image_are_views_of_one_another():
    tokens = torch.randn(2, 9, 4)
    image = as_image(tokens)
    assert image.shape == (2, 4, 3, 3)
    assert image[1, 2, 0, 1] == tokens[1, 1, 2]
    assert as_tokens(image).data_ptr() == tokens.data_ptr()
    assert torch.equal(as_tokens(image), tokens)


def test_positions_are_drawn_within_two_deviations_or_left_to_the_model():
    torch.manual_seed(0)
    weight = PositionEmbedding(50, 40).weight.detach()
    assert weight.abs().max() <= 0.04
    assert weight.std().item() == pytest.approx(0.02 * 0.88, rel=0.05)  # N(0, 0.02²) cut at two deviations
    state = torch.get_rng_state()
    assert PositionEmbedding(50, 40, std=None).weight.shape == (50, 40)
    assert torch.equal(state, torch.get_rng_state())


def test_styles_are_the_mapped_latent_in_every_layer_where_nothing_is_mixed():
    z = torch.randn(3, 4)
    styles = layer_styles(lambda x: x.view(-1, 2, 2), z, 5, 0.0)
    assert styles.shape == (3, 5, 2, 2)
    assert all(torch.equal(styles[:, layer].flatten(1), z) for layer in range(5))
    mixed = layer_styles(lambda x: x, z, 5, 1.0)
    assert torch.equal(mixed[:, 0], z)
    assert not (mixed[:, -1] == z).any()


def test_vitgan_turns_its_tokens_into_an_image_row_by_row():
    """What `as_image` has to do there: the token of row r and column c of the coordinates is the pixel (r, c)."""
    coordinates = vitgan.FourierTokens(4).coordinates.unsqueeze(0)
    image = as_image(coordinates)[0]
    line = torch.linspace(-1, 1, vitgan.TOKEN_GRID)
    torch.testing.assert_close(image[0], line.expand(8, 8))
    torch.testing.assert_close(image[1], line[:, None].expand(8, 8))
