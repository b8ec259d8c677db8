"""GANformer against the golden counts, and its attention against its formulas."""

from __future__ import annotations

import math

import pytest
import torch

from bench.phases.cost import count_macs, count_params
from models._ganformer_attention import BipartiteAttention, ImageAttention, grid_positions
from models._losses import NonSaturatingR1
from models.ganformer import CONFIGS, SPEC

WIDTH, LATENT_WIDTH, NUM_LATENTS = 8, 4, 3


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def on_meta(resolution, size, attention):
    with torch.device("meta"):
        return SPEC.build(resolution, size, attention)


def macs_of(network, *shape):
    macs, unknown = count_macs(network, torch.empty(shape, device="meta"))
    assert not unknown
    return macs


def pixels_times_width(config):
    """Σ n c over the attention layers of the 256 px generator."""
    grids = [4] + [grid for grid in (8, 16, 32, 64, 128) for _ in range(2)]
    return sum(grid**2 * config.width_at(grid) for grid in grids)


def test_256_px_duplex_generator_has_the_parameters_of_the_official_code():
    gan = on_meta(256, "paper", "duplex")
    assert count_params(gan.generator) == 30_903_632
    assert gan.latent_dim == 17 * 32


def test_256_px_duplex_generator_has_the_macs_of_the_official_code_but_for_four_named_differences():
    """68.93 G officially (reference/models.md); every term in MACs, see the header of `_ganformer_attention`."""
    gan, config = on_meta(256, "paper", "duplex"), CONFIGS[256, "paper"]
    products = pixels_times_width(config)
    unused = (16 + 32) * products  # queries · keys, and centroids that the learned ones replace
    kmeans_step = (32 + 32) * products
    grids = (8, 16, 32, 64, 128, 256)
    filter_taps = sum(12 * grid**2 * config.width_at(grid) for grid in grids)  # 16 taps a pixel, ours 4
    ours = macs_of(gan.generator, 1, gan.latent_dim)
    as_official = ours + unused - kmeans_step + filter_taps + enlarged_maps()
    assert as_official / 1e9 == pytest.approx(68.93, abs=0.02)
    assert ours / 1e9 == pytest.approx(68.93, rel=7e-3)


def enlarged_maps():
    """Nearest-neighbour filters, 16 maps a layer to 256 px: f² taps; from f = 8 on f by f, the first on padded rows."""
    factors = [64] + [factor for factor in (32, 16, 8, 4, 2) for _ in range(2)]
    taps = [factor * (255 + factor) / 256 + factor if factor >= 8 else factor**2 for factor in factors]
    return sum(16 * 256**2 * each for each in taps)


def test_simplex_has_no_centroids_and_is_the_default():
    duplex, simplex = (count_params(on_meta(256, "paper", name).generator) for name in ("duplex", "simplex"))
    widths = [512] * 9 + [256] * 2
    assert duplex - simplex == sum(16 * 2 * width + 2 * width for width in widths)
    assert next(iter(SPEC.attentions)) == "simplex"
    with torch.device("meta"):
        assert count_params(SPEC.build(256, "paper").generator) == simplex


@pytest.mark.parametrize("name", ["simplex", "duplex"])
def test_attention_is_linear_in_the_pixels(name):
    def macs(grid):
        with torch.device("meta"):
            layer = ImageAttention(64, 32, grid, num_centroids=16 if name == "duplex" else 0, dropout=0.0)
            latents, position = torch.empty(1, 16, 32), torch.empty(16, 32)
            wrapped = torch.nn.Module()
            wrapped.forward = lambda x: layer(x, latents, position)
            return macs_of(wrapped, 1, 64, grid, grid)

    once, twice, four_times = macs(32), macs(32 * 2), macs(32 * 4)  # pixels × 1, 4, 16
    assert four_times - twice == 4 * (twice - once)
    assert once > 0.99 * (twice - once) / 3  # the part that does not grow is small


def attention(num_centroids=0, dropout=0.0):
    layer = BipartiteAttention(WIDTH, LATENT_WIDTH, LATENT_WIDTH, num_centroids=num_centroids, dropout=dropout)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer.requires_grad_(False)


def arguments(num_tokens=5, batch_size=2):
    return (
        torch.randn(batch_size, num_tokens, WIDTH),
        torch.randn(batch_size, NUM_LATENTS, LATENT_WIDTH),
        torch.randn(num_tokens, LATENT_WIDTH),
        torch.randn(NUM_LATENTS, LATENT_WIDTH),
    )


def softmax_rows(scores):
    exponentials = [[math.exp(score) for score in row] for row in scores]
    return torch.tensor([[each / sum(row) for each in row] for row in exponentials])


def test_simplex_attention_is_its_formula():
    layer = attention()
    x, latents, x_position, latent_position = arguments(batch_size=1)
    query = layer.to_query(x[0]) + layer.position_to_query(x_position)
    key = layer.to_key(latents[0]) + layer.position_to_key(latent_position)
    scores = [[float(q @ k) / math.sqrt(WIDTH) for k in key] for q in query]
    expected = layer.to_out(softmax_rows(scores) @ layer.to_value(latents[0]))
    torch.testing.assert_close(layer(x, latents, x_position, latent_position)[0], expected, atol=1e-4, rtol=1e-3)


def test_duplex_attention_is_one_step_of_k_means_from_the_learned_centroids():
    layer = attention(num_centroids=NUM_LATENTS)
    x, latents, x_position, latent_position = arguments(batch_size=1)
    elements = torch.cat([layer.to_query(x[0]), layer.position_to_query(x_position)], dim=1)

    def maps_to(centroids):
        weighed = elements * layer.channel_weight
        return softmax_rows([[float(e @ k) / math.sqrt(WIDTH) for k in centroids] for e in weighed])

    maps = maps_to(layer.centroids)
    centroids = torch.stack([(maps[:, j, None] * elements).sum(0) / maps[:, j].sum() for j in range(NUM_LATENTS)])
    expected = layer.to_out(maps_to(centroids) @ layer.to_value(latents[0]))
    torch.testing.assert_close(layer(x, latents, x_position, latent_position)[0], expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("num_centroids", "is_seen"), [(0, False), (NUM_LATENTS, True)])
def test_where_a_pixel_looks_depends_on_other_pixels_in_duplex_only(num_centroids, is_seen):
    layer, maps = attention(num_centroids), []
    layer.maps.register_forward_hook(lambda _layer, _args, out: maps.append(out))
    x, *rest = arguments()
    layer(x, *rest)
    changed = x.clone()
    changed[:, -1] += 1
    before = maps[-1]
    layer(changed, *rest)
    assert (not torch.allclose(maps[-1][:, 0], before[:, 0])) == is_seen
    assert before.shape == (2, 5, NUM_LATENTS)
    torch.testing.assert_close(before.sum(dim=-1), torch.ones(2, 5))


def test_image_attention_scales_normalised_pixels_by_one_plus_what_was_found():
    layer = ImageAttention(WIDTH, LATENT_WIDTH, 4, num_centroids=0, dropout=0.0)
    x, latents, position = torch.randn(2, WIDTH, 4, 4), torch.randn(2, 3, LATENT_WIDTH), torch.randn(3, LATENT_WIDTH)
    tokens = x.flatten(2).transpose(1, 2)
    found = layer.attention(tokens, latents, layer.position, position)
    normed = tokens / tokens.square().mean(dim=2, keepdim=True).sqrt()
    expected = (normed * (1 + found)).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(layer(x, latents, position), expected, atol=1e-5, rtol=1e-4)
    torch.nn.init.zeros_(layer.attention.to_out.weight)
    norms = layer(x, latents, position).square().mean(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms), atol=1e-4, rtol=1e-4)


def test_dropout_drops_cells_and_whole_latents_in_training_only():
    layer = attention(dropout=0.8).maps
    maps = layer(torch.zeros(50, 20, 8))
    assert ((maps == 0).all(dim=1).float().mean() - 0.4).abs() < 0.1  # latents that no pixel of an image sees
    assert ((maps == 0).float().mean() - (1 - 0.6**2)).abs() < 0.05
    assert torch.equal(layer.eval()(torch.zeros(2, 3, 8)), torch.full((2, 3, 8), 1 / 8))


def test_positions_have_x_in_the_first_half_and_y_in_the_second():
    position = grid_positions(4, 8).unflatten(0, (4, 4))  # [y, x, 8]
    assert torch.equal(position[0, :, :4], position[3, :, :4])
    assert torch.equal(position[:, 0, 4:], position[:, 3, 4:])
    torch.testing.assert_close(position[0, :, 0], torch.linspace(-1, 1, 4).sin())
    torch.testing.assert_close(position[:, 0, 6], torch.linspace(-1, 1, 4).cos())
    assert position.flatten(0, 1).unique(dim=0).shape[0] == 16


@pytest.mark.parametrize("name", SPEC.attentions)
@pytest.mark.parametrize(("resolution", "size"), sorted(CONFIGS))
def test_every_configuration_turns_latents_into_images_into_logits(resolution, size, name):
    gan = on_meta(resolution, size, name)
    images = gan.generator(torch.empty(2, gan.latent_dim, device="meta"))
    assert images.shape == (2, 3, resolution, resolution)
    assert gan.discriminator(images).shape == (2, 1)


def test_unknown_attention_or_size_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no attention 'triplex'; known: simplex, duplex"):
        SPEC.build(32, "tiny", "triplex")
    with pytest.raises(ValueError, match="no size 'huge' at 32 px"):
        SPEC.build(32, "huge", "simplex")


def test_attention_ends_at_128_px():
    generator = on_meta(256, "paper", "simplex").generator
    widths = [
        (module.attention is not None, module.noise.constant.shape[-1])
        for module in generator.modules()
        if hasattr(module, "attend")
    ]
    assert [grid for has_attention, grid in widths if not has_attention] == [256, 256]
    assert len(widths) == 13


@pytest.mark.parametrize("name", SPEC.attentions)
def test_evaluated_generator_gives_an_image_that_does_not_depend_on_its_batch(name):
    gan = SPEC.build(32, "tiny", name)
    for module in gan.generator.modules():
        if hasattr(module, "strength"):
            torch.nn.init.constant_(module.strength, 0.5)
    z, generator = torch.randn(4, gan.latent_dim), gan.generator.eval()
    with torch.no_grad():
        alone = torch.cat([generator(one[None]) for one in z])
        torch.testing.assert_close(generator(z), alone, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", SPEC.attentions)
def test_both_losses_of_the_recipe_reach_every_weight_that_is_used(name):
    gan, objective = SPEC.build(32, "tiny", name), SPEC.recipe("scenes", 32, "tiny").objective
    real, z = torch.rand(4, 3, 32, 32) * 2 - 1, torch.randn(4, gan.latent_dim)
    d_loss = objective.discriminator_loss(gan, real, z, 0)
    assert "r1" in d_loss.parts
    d_loss.total.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in gan.discriminator.parameters())
    gan.discriminator.requires_grad_(False)
    objective.generator_loss(gan, real, z, 0).total.backward()
    unused = {key for key, parameter in gan.generator.named_parameters() if parameter.grad is None}
    keys_of_duplex = {
        key
        for key, _ in gan.generator.named_parameters()
        if key.startswith("blocks") and ("to_key" in key and "query" not in key)
    }
    assert unused == (keys_of_duplex if name == "duplex" else set())


def test_latents_are_mixed_by_layer_in_training_only():
    gan = SPEC.build(32, "tiny", "simplex")
    generator = gan.generator
    z = torch.randn(3, gan.latent_dim)
    styles = generator.eval().to_styles(z)
    assert styles.shape == (3, 9, 9, 16)  # 2 · 3 + 1 convolutions, the last one, colours; 8 latents and the global one
    assert torch.equal(styles[:, 0], styles[:, -1])


@pytest.mark.parametrize(
    ("dataset", "resolution", "gamma", "is_ours"),
    [("lsun-bedroom", 256, 100.0, False), ("ffhq-128", 128, 10.0, True), ("scenes", 32, 10.0, True)],
)
def test_recipe_is_the_published_default(dataset, resolution, gamma, is_ours):
    found = SPEC.recipe(dataset, resolution, "paper")
    assert (found.batch_size, found.generator_lr, found.adam_betas) == (32, 2e-3, (0.0, 0.99))
    assert found.objective == NonSaturatingR1(r1_weight=gamma / 2, r1_interval=16)
    assert found.source.startswith("ours") == is_ours
