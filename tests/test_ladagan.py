"""LadaGAN against the golden values of the official code, and against what its description promises."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models._attention import OPERATORS
from models._losses import NonSaturatingR1
from models.ladagan import (
    CONFIGS,
    SPEC,
    Generator,
    Ladaformer,
    LadaGanConfig,
    PositionEmbedding,
    SelfModulatedLadaformer,
    _depth_to_space,
    _space_to_depth,
)

ALL_CONFIGS = sorted(CONFIGS)
TINY_WITH_DECODER = 128  # pixels; the smallest size with batch norm in the generator


def on_meta(resolution, size, attention="additive"):
    with torch.device("meta"):
        return SPEC.build(resolution, size, attention)


def seeded(resolution=32, size="tiny", seed=0, attention="additive"):
    torch.manual_seed(seed)
    return SPEC.build(resolution, size, attention)


# All counted by running the official PyTorch port, except the 128 px generator, which it cannot build: that one is
# counted on the TensorFlow configuration, its MACs to the four digits 4.340 G.
GOLDEN = {
    32: {"generator": (19_901_647, 758_349_824), "discriminator": (6_775_940, 708_919_296)},
    64: {"generator": (19_900_351, 758_349_824), "discriminator": (7_004_356, 947_339_264)},
    128: {"generator": (24_025_871, 4_339_924_992), "discriminator": (7_061_220, 1_189_298_176)},
}


@pytest.mark.parametrize("name", ["generator", "discriminator"])
@pytest.mark.parametrize("resolution", GOLDEN)
def test_parameters_and_macs_are_those_of_the_official_code(resolution, name):
    network = getattr(on_meta(resolution, "paper"), name)
    shape = (1, 128) if name == "generator" else (1, 3, resolution, resolution)
    with FlopCounterMode(display=False) as flops:
        network(torch.empty(shape, device="meta"))
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    assert (num_parameters, flops.get_total_flops() // 2) == GOLDEN[resolution][name]


# G MACs in G of the swapped operators, counted on the same skeleton; printed to these digits.
SWAPPED = {
    64: {"additive": 0.758, "window": 0.783, "kernel-linear": 0.801, "linformer": 0.866, "softmax": 0.934},
    128: {"additive": 4.340, "window": 4.396, "kernel-linear": 4.438, "linformer": 4.682, "softmax": 4.950},
}


def macs_of(network, shape):
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        network(torch.empty(shape, device="meta"))
    return flops.get_total_flops() // 2


def num_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("attention", OPERATORS)
@pytest.mark.parametrize("resolution", SWAPPED)
def test_swapping_the_operator_changes_the_macs_as_counted_elsewhere(resolution, attention):
    generator = on_meta(resolution, "paper", attention).generator
    giga = macs_of(generator, (1, 128)) / 1e9
    assert giga == pytest.approx(SWAPPED[resolution][attention], abs=1e-3)  # within 0.1 %
    assert {type(block.attention).__name__ for block in generator.blocks} == {
        type(on_meta(32, "paper", attention).discriminator.block.attention).__name__
    }


@pytest.mark.parametrize("resolution", list(SPEC.resolutions))
def test_the_operators_parameters_stay_within_one_and_a_half_per_cent(resolution):
    for name in ("generator", "discriminator"):
        counts = [num_parameters(getattr(on_meta(resolution, "paper", each), name)) for each in OPERATORS]
        assert max(counts) / min(counts) < 1.015


def test_tiny_is_matched_but_for_linformer_whose_projection_is_the_paper_s():
    counts = {each: num_parameters(on_meta(32, "tiny", each).generator) for each in OPERATORS}
    assert counts["linformer"] - counts["softmax"] == 256 * 1024
    others = [count for each, count in counts.items() if each != "linformer"]
    assert max(others) / min(others) < 1.015


def test_linformer_has_one_projection_at_1024_tokens_and_the_score_is_all_that_the_others_lack():
    counts = {each: num_parameters(on_meta(64, "paper", each).generator) for each in OPERATORS}
    without_score = counts["additive"] - sum(4 * width + 4 for width in (1024, 256, 64))
    assert counts["softmax"] == counts["window"] == counts["kernel-linear"] == without_score
    assert counts["linformer"] == without_score + 256 * 1024


def test_only_the_attention_differs_between_the_operators():
    def others(attention):
        gan = on_meta(128, "paper", attention)
        named = [*gan.generator.state_dict().items(), *gan.discriminator.state_dict().items()]
        return [(name, value.shape) for name, value in named if ".attention." not in f".{name}"]

    assert all(others(each) == others("additive") for each in OPERATORS)


def test_the_operator_is_additive_unless_it_is_asked_for():
    torch.manual_seed(0)
    weights = SPEC.build(32, "tiny").generator.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in seeded().generator.state_dict().items())
    assert next(iter(SPEC.attentions)) == "additive"
    assert dict(SPEC.attentions) == dict(OPERATORS)
    with pytest.raises(ValueError, match="no attention 'quadratic'"):
        SPEC.build(32, "tiny", "quadratic")


def training_step_losses(gan):
    """Both losses with R1, backward through both networks."""
    objective = NonSaturatingR1(r1_weight=1.0)
    real, z = torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(2, 128)
    found = objective.discriminator_loss(gan, real, z, 0), objective.generator_loss(gan, real, z, 0)
    for loss in found:
        loss.total.backward()
    return found


@pytest.mark.parametrize("attention", OPERATORS)
def test_every_operator_trains_under_a_penalty_and_reaches_every_weight(attention):
    gan = seeded(attention=attention)
    losses = training_step_losses(gan)
    assert all(torch.isfinite(loss.total) for loss in losses)
    for network in (gan.generator, gan.discriminator):
        gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
        # A key's bias shifts all scores of a query alike, and the softmax takes no notice.
        is_shift = {name for name in gradients if name.endswith("to_k.bias") and attention in SOFTMAXES}
        assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients.values())
        assert all(gradient.any() for name, gradient in gradients.items() if name not in is_shift)


SOFTMAXES = {"softmax", "linformer", "window"}


@pytest.mark.parametrize("attention", OPERATORS)
def test_every_operator_gives_images_that_do_not_depend_on_their_batch_and_survive_a_checkpoint(attention):
    gan, other = seeded(attention=attention), seeded(seed=1, attention=attention)
    other.generator.load_state_dict(gan.generator.state_dict())
    z = torch.randn(3, 128)
    with torch.no_grad():
        alone = torch.cat([gan.generator.eval()(one[None]) for one in z])
        torch.testing.assert_close(other.generator.eval()(z), alone, atol=1e-5, rtol=1e-4)


def test_a_generator_with_more_stages_attends_to_four_times_the_tokens_each():
    config = LadaGanConfig(generator_widths=(16, 8, 8, 8), encoder_widths=(8, 8), mlp_width=4, latent_dim=6)
    generator = Generator(64, config)
    assert [position.weight.shape[0] for position in generator.positions] == [64, 256, 1024, 4096]
    assert generator(torch.randn(1, 6)).shape == (1, 3, 64, 64)


def test_128_px_generator_has_384_batch_norm_statistics_and_the_smaller_ones_none():
    def num_statistics(resolution):
        named = on_meta(resolution, "paper").generator.named_buffers()
        return sum(buffer.numel() for name, buffer in named if not name.endswith("num_batches_tracked"))

    assert [num_statistics(resolution) for resolution in (32, 64, 128)] == [0, 0, 384]


@pytest.mark.parametrize(("resolution", "size"), ALL_CONFIGS)
def test_every_configuration_turns_latents_into_images_into_25_logits(resolution, size):
    gan = on_meta(resolution, size)
    images = gan.generator(torch.empty(2, gan.latent_dim, device="meta"))
    assert images.shape == (2, 3, resolution, resolution)
    assert gan.discriminator(images).shape == (2, 25)


def test_configurations_are_the_resolutions_and_sizes_the_spec_names():
    assert {(resolution, size) for resolution in SPEC.resolutions for size in SPEC.sizes} == set(CONFIGS)
    assert SPEC.resolutions[256].startswith("ours")


def test_unknown_configuration_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no size 'huge' at 32 px; known: paper at 32 px"):
        SPEC.build(32, "huge")
    with pytest.raises(ValueError, match=r"no size 'paper' at 48 px"):
        SPEC.recipe("cifar10", 48, "paper")


@pytest.mark.parametrize("resolution", [32, TINY_WITH_DECODER])
def test_same_seed_gives_the_same_weights_and_another_seed_others(resolution):
    first, again, other = seeded(resolution), seeded(resolution), seeded(resolution, seed=1)
    for name in ("generator", "discriminator"):
        weights = getattr(first, name).state_dict()
        assert all(torch.equal(weights[key], value) for key, value in getattr(again, name).state_dict().items())
        assert any(not torch.equal(weights[key], value) for key, value in getattr(other, name).state_dict().items())


def test_weights_survive_a_checkpoint():
    gan, other = seeded(TINY_WITH_DECODER), seeded(TINY_WITH_DECODER, seed=1)
    for name, x in (("generator", torch.randn(2, 128)), ("discriminator", torch.randn(2, 3, 128, 128))):
        saved, loaded = getattr(gan, name), getattr(other, name)
        saved(x)  # moves the batch-norm statistics, which the checkpoint must carry too
        file = io.BytesIO()
        torch.save(saved.state_dict(), file)
        loaded.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
        assert torch.equal(saved.eval()(x), loaded.eval()(x))
        assert all(parameter.is_contiguous() for parameter in saved.parameters())  # safetensors asks for it


@pytest.mark.parametrize("resolution", [32, TINY_WITH_DECODER])
def test_evaluated_generator_gives_an_image_that_does_not_depend_on_its_batch(resolution):
    generator = seeded(resolution).generator.eval()
    z = torch.randn(5, 128)
    with torch.no_grad():
        alone = torch.cat([generator(one[None]) for one in z])
        torch.testing.assert_close(generator(z), alone, atol=1e-5, rtol=1e-4)


def gram_error(weight):
    matrix = weight.detach().flatten(1)
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return float((matrix @ matrix.T - torch.eye(len(matrix))).abs().max())


@pytest.mark.parametrize("resolution", [64, TINY_WITH_DECODER])
def test_every_weight_is_orthogonal_and_every_bias_zero(resolution):
    gan = seeded(resolution)
    checked = 0
    for module in (*gan.generator.modules(), *gan.discriminator.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d | PositionEmbedding):
            assert gram_error(module.weight) < 1e-4
            checked += module.weight.numel()
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            assert not module.bias.any()
        if isinstance(module, nn.BatchNorm2d) or (isinstance(module, nn.LayerNorm) and module.elementwise_affine):
            assert (module.weight == 1).all()
            assert not module.bias.any()
    matrices = [parameter for network in (gan.generator, gan.discriminator) for parameter in network.parameters()]
    assert checked == sum(matrix.numel() for matrix in matrices if matrix.dim() > 1)  # no weight was left out


def test_norms_have_the_settings_of_the_tensorflow_code():
    gan = on_meta(128, "paper")
    modules = [*gan.generator.modules(), *gan.discriminator.modules()]
    batch_norms = [module for module in modules if isinstance(module, nn.BatchNorm2d)]
    layer_norms = [module for module in modules if isinstance(module, nn.LayerNorm)]
    assert {(norm.momentum, norm.eps) for norm in batch_norms} == {(0.01, 1e-3)}
    assert {norm.eps for norm in layer_norms} == {1e-6}
    assert (len(batch_norms), len(layer_norms)) == (2 + 9, 6 + 2)


SMALL = LadaGanConfig(generator_widths=(8, 8, 8), encoder_widths=(8, 8), mlp_width=4, latent_dim=6)


def silence(linear):
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)


def test_generator_block_has_no_residual_around_its_mlp_and_one_around_its_attention():
    torch.manual_seed(0)
    block, x, z = SelfModulatedLadaformer(8, 8, SMALL), torch.randn(2, 5, 8), torch.randn(2, 6)
    silence(block.attention.to_out)
    torch.testing.assert_close(block(x, z), block.mlp(block.norm_mlp(x, z)))
    silence(block.mlp[-1])
    assert not block(x, z).any()


def test_discriminator_block_has_both_residuals():
    torch.manual_seed(0)
    block, x = Ladaformer(8, 8, SMALL), torch.randn(2, 5, 8)
    silence(block.attention.to_out)
    silence(block.mlp[-1])
    assert torch.equal(block(x), x)


def test_self_modulated_norm_scales_without_adding_one():
    torch.manual_seed(0)
    norm = SelfModulatedLadaformer(8, 8, SMALL).norm_mlp
    x, z = torch.randn(2, 5, 8), torch.randn(2, 6)
    h = torch.relu(norm.hidden(z))[:, None]
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / centred.square().mean(-1, keepdim=True).add(1e-6).sqrt() * norm.to_scale(h) + norm.to_shift(h)
    torch.testing.assert_close(norm(x, z), expected)
    silence(norm.to_scale)
    torch.testing.assert_close(norm(x, z), norm.to_shift(h).expand_as(x))


def test_depth_to_space_has_tensorflow_s_channel_order_and_space_to_depth_undoes_it():
    tokens = torch.arange(2 * 9 * 8, dtype=torch.float32).view(2, 9, 8)  # a 3 × 3 grid of 2 · 2 · 2 channels
    image = _depth_to_space(tokens, 2)
    assert image.shape == (2, 2, 6, 6)
    row, column, block_row, block_column, channel = 2, 1, 1, 0, 1
    token = tokens[1, row * 3 + column].view(2, 2, 2)  # block row, block column, channel
    assert image[1, channel, 2 * row + block_row, 2 * column + block_column] == token[block_row, block_column, channel]
    back = _space_to_depth(image.flatten(2).transpose(1, 2), 2)
    assert torch.equal(back.flatten(2).transpose(1, 2), tokens)
    assert image.is_contiguous(memory_format=torch.channels_last)


def test_attention_maps_of_the_three_stages_can_be_read():
    gan, maps = seeded(), []
    for block in gan.generator.blocks:
        block.attention.token_softmax.register_forward_hook(lambda _layer, _args, out: maps.append(out.shape))
    gan.generator(torch.randn(2, 128))
    heads = CONFIGS[32, "tiny"].num_heads
    assert maps == [(2, heads, 64), (2, heads, 256), (2, heads, 1024)]


@pytest.mark.parametrize("dataset", ["celeba-64", "ffhq-128"])
def test_both_losses_of_the_recipe_reach_every_weight_of_their_network(dataset):
    resolution = int(dataset.split("-")[1])
    gan, objective = seeded(resolution), SPEC.recipe(dataset, resolution, "paper").objective
    real = torch.rand(3, 3, resolution, resolution) * 2 - 1
    z = torch.randn(3, 128)
    objective.discriminator_loss(gan, real, z, 0).total.backward()  # a second backward pass through the whole network
    assert all(parameter.grad is None for parameter in gan.generator.parameters())
    assert all(torch.isfinite(parameter.grad).all() for parameter in gan.discriminator.parameters())
    gan.discriminator.requires_grad_(False)
    objective.generator_loss(gan, real, z, 0).total.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in gan.generator.parameters())


def test_penalty_alone_reaches_the_first_convolution():
    gan = seeded()
    real, z = torch.rand(4, 3, 32, 32) * 2 - 1, torch.randn(4, 128)
    first = gan.discriminator.from_rgb[0].weight
    weighed, plain = (
        torch.autograd.grad(NonSaturatingR1(r1_weight=weight).discriminator_loss(gan, real, z, 0).total, first)[0]
        for weight in (1.0, 0.0)
    )
    assert (weighed - plain).norm() > 1e-3 * plain.norm()


def test_bfloat16_autocast_gives_float32_images_logits_and_a_penalty_near_the_exact_one():
    gan = seeded()
    real, z = torch.rand(8, 3, 32, 32) * 2 - 1, torch.randn(8, 128)
    objective = NonSaturatingR1(r1_weight=1.0)
    full = objective.discriminator_loss(copy.deepcopy(gan), real, z, 0).parts["r1"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = gan.generator(z)
        assert (images.dtype, gan.discriminator(images).dtype) == (torch.float32, torch.float32)
        low = objective.discriminator_loss(gan, real, z, 0)
    low.total.backward()
    assert float(low.parts["r1"]) == pytest.approx(float(full), rel=0.05)
    assert all(torch.isfinite(parameter.grad).all() for parameter in gan.discriminator.parameters())


PLAIN, WITH_CUTOUT = ("color", "translation"), ("color", "translation", "cutout")


@pytest.mark.parametrize(
    ("dataset", "resolution", "num_images", "batch_size", "augmentations", "bcr_weight"),
    [
        ("cifar10", 32, 68_100_000, 128, PLAIN, 0.0),
        ("celeba-64", 64, 72_200_000, 128, PLAIN, 0.0),
        ("ffhq-128", 128, 24_100_000, 64, WITH_CUTOUT, 0.1),
        ("lsun-bedroom", 128, 10_600_000, 64, WITH_CUTOUT, 0.1),
    ],
)
def test_recipe_is_the_published_one(dataset, resolution, num_images, batch_size, augmentations, bcr_weight):
    found = SPEC.recipe(dataset, resolution, "paper")
    assert (found.num_images, found.batch_size, found.ema_decay) == (num_images, batch_size, 0.999)
    assert (found.generator_lr, found.discriminator_lr, found.adam_betas) == (2e-4, 2e-4, (0.5, 0.99))
    assert found.objective == NonSaturatingR1(
        r1_weight=1e-4, augmentations=augmentations, bcr_real_weight=bcr_weight, bcr_fake_weight=bcr_weight
    )
    assert found.precision == "fp32"
    assert "ours" not in found.source


@pytest.mark.parametrize(
    ("dataset", "resolution", "published"),
    [
        ("scenes", 32, ("cifar10", 32)),
        ("ffhq-128", 64, ("celeba-64", 64)),
        ("folder", 128, ("ffhq-128", 128)),
        ("lsun-bedroom", 256, ("ffhq-128", 128)),
    ],
)
def test_other_data_sets_borrow_the_values_of_their_resolution_and_say_so(dataset, resolution, published):
    found, lender = SPEC.recipe(dataset, resolution, "paper"), SPEC.recipe(*published, "paper")
    assert (found.num_images, found.batch_size, found.objective) == (
        lender.num_images,
        lender.batch_size,
        lender.objective,
    )
    assert found.source.startswith("ours")
    assert published[0] in found.source


@pytest.mark.parametrize("resolution", list(SPEC.resolutions))
@pytest.mark.parametrize("dataset", ["scenes", "stacked-digits", "cifar10"])
def test_tiny_has_a_short_recipe_that_is_flagged_as_ours(dataset, resolution):
    found = SPEC.recipe(dataset, resolution, "tiny")
    assert found.source.startswith("ours")
    assert found.num_images <= 200_000


def test_the_high_learning_rates_of_scenes_stay_with_scenes_at_32_px():
    fast, *others = [
        SPEC.recipe(dataset, resolution, "tiny") for dataset, resolution in [("scenes", 32), ("scenes", 64), ("x", 32)]
    ]
    assert all(fast.generator_lr > other.generator_lr for other in others)
    assert others[0] == others[1]
