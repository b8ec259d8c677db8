"""DDPM and ADM against golden counts, and the samplers against their equations and against those of `diffusers`."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from torch import nn

from bench.phases.cost import count_macs, count_params
from bench.phases.generate import per_step
from bench.records import Quantity, unknown
from models import adm, ddpm
from models._diffusion import (
    SAMPLERS,
    DenoisingStep,
    Diffusion,
    MultiStepGenerator,
    betas,
    gaussian_noise,
    latent_keys,
    plan,
    time_steps,
)

diffusers = pytest.importorskip("diffusers", reason="the extra `diffusion` is not installed")

MODELS = {"ddpm": ddpm, "adm": adm}
SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}  # ours → what diffusers calls it


def on_meta(model, resolution, size):
    with torch.device("meta"):
        return model.build(resolution, size).generator.eval()


def macs_of_one_step(generator):
    resolution = generator.resolution
    return count_macs(generator.one_step, torch.empty(1, 3, resolution, resolution, device="meta"))


def seeded(model, size="tiny", resolution=32):
    torch.manual_seed(0)
    return model.build(resolution, size).generator.eval()


# ADM-IP: counted by running the official code, parameters in thousands, one step with and without attention, GMAC.
ADM_GOLDEN = {
    32: (57_095, 9.27, 9.016),
    64: (295_136, 109.7, 103.46),
    128: (542_811, 399.1, 390.86),
}


@pytest.mark.parametrize("resolution", ADM_GOLDEN)
def test_adm_counts_are_those_of_the_official_code(resolution):
    generator = on_meta(adm, resolution, "paper")
    num_macs, unknown = macs_of_one_step(generator)
    of_layers = 0

    def add_up(module, inputs, output):
        nonlocal of_layers
        positions = output.numel() // output.shape[1] if isinstance(module, nn.Conv2d) else output.shape[:-1].numel()
        of_layers += positions * module.weight.numel()

    for module in generator.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(add_up)
    macs_of_one_step(generator)
    thousands, with_attention, without = ADM_GOLDEN[resolution]
    assert round(count_params(generator) / 1e3) == thousands
    assert num_macs / 1e9 == pytest.approx(with_attention, rel=5e-4)
    assert not unknown
    # ADM-IP prints 9.0, 103.5 and 391.0 G: convolutions and linear layers of one step.
    assert of_layers / 1e9 == pytest.approx(without, rel=5e-5)


# arXiv 2006.11239 prints 35.7 M and 114 M; the exact numbers are those of the released weights.
@pytest.mark.parametrize(("resolution", "num_parameters"), [(32, 35_746_307), (256, 113_673_219)])
def test_ddpm_parameters_are_those_of_the_released_networks(resolution, num_parameters):
    assert count_params(on_meta(ddpm, resolution, "paper")) == num_parameters


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("resolution", [32, 64, 128, 256])
def test_a_step_keeps_the_shape_at_every_resolution_and_no_discriminator_exists(name, resolution):
    with torch.device("meta"):
        gan = MODELS[name].build(resolution, "paper")
        x = torch.empty(2, 3, resolution, resolution)
        assert gan.generator.one_step(x, 3, x).shape == x.shape
    with pytest.raises(RuntimeError, match="sampled here"):
        gan.discriminator(x)
    assert gan.latent_dim == 3 * resolution**2


@pytest.mark.parametrize("name", MODELS)
def test_an_image_costs_as_many_steps_as_the_size_says(name):
    sizes = {"paper": 1000, "ddim-250": 250, "ddim-80": 80, "ddim-50": 50, "ddim-10": 10, "tiny": 10}
    assert {size: sampler.num_steps for size, sampler in SAMPLERS.items()} == sizes
    assert tuple(sizes) == MODELS[name].SPEC.sizes
    assert on_meta(MODELS[name], 32, "ddim-80").num_steps == 80
    generator = on_meta(MODELS[name], 32, "tiny")
    whole, unknown = count_macs(generator, torch.empty(1, 3 * 32 * 32, device="meta"))
    assert whole == 10 * macs_of_one_step(generator)[0] > 0
    assert not unknown


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_is_not_trained_says_so(name):
    assert "out of scope" in MODELS[name].SPEC.why_not_trained
    recipe = MODELS[name].SPEC.recipe("scenes", 32, "tiny")
    with pytest.raises(RuntimeError, match="not trained"):
        recipe.objective.generator_loss(None, None, None, 0)
    with pytest.raises(ValueError, match=r"no size 'huge' at 32 px; known: paper, ddim-250"):
        MODELS[name].SPEC.build(32, "huge")
    assert "sampling only" in MODELS[name].SPEC.title


def test_the_models_are_listed_without_diffusers_and_built_with_it_only(monkeypatch):
    code = "import sys, models.ddpm, models.adm; print('diffusers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    monkeypatch.setitem(sys.modules, "diffusers", None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError, match=r"pip install gan-bench\[diffusion\]"):
        ddpm.build(32, "tiny")


# Samplers


class Network(nn.Module):
    """What stands in for a `diffusers.UNet2DModel`, which is called with `return_dict=False`."""

    def forward(self, x, time_step, *, return_dict):
        assert return_dict is False
        return (self.output(x, time_step),)


class Oracle(Network):
    """A network that knows the image: ε = (x - √ā x₀) / √(1 - ā); with a learned variance also where σ² lies."""

    def __init__(self, image, schedule, share=None):
        super().__init__()
        self.image, self.share = image, share
        self.alpha_bars = torch.cumprod(1 - torch.tensor(betas(schedule), dtype=torch.float64), 0)

    def output(self, x, time_step):
        alpha_bar = self.alpha_bars[time_step]
        epsilon = (x - alpha_bar.sqrt() * self.image) / (1 - alpha_bar).sqrt()
        return epsilon if self.share is None else torch.cat([epsilon, self.share.expand_as(x)], dim=1)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("kind", "variance"), [("ddim", "small"), ("ddpm", "large"), ("ddpm", "learned")])
def test_a_network_that_knows_the_noise_gets_the_image_back(schedule, kind, variance):
    image = torch.rand(2, 3, 4, 4, dtype=torch.float64) * 2 - 1
    share = torch.zeros(1, dtype=torch.float64) if variance == "learned" else None
    steps = plan(time_steps(20), kind, Diffusion(schedule=schedule, variance=variance))
    generator = MultiStepGenerator(DenoisingStep(Oracle(image, schedule, share), steps), 4)
    z = torch.randn(2, 48, dtype=torch.float64)
    torch.testing.assert_close(generator(z), image, atol=1e-6, rtol=0)


def one_step(x, output, steps, index, noise=None):
    network = Network()
    network.output = lambda *_: output
    return DenoisingStep(network, steps)(x, index, noise)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_ddim_step_is_that_of_diffusers(schedule):
    scheduler = diffusers.DDIMScheduler(beta_schedule=SCHEDULES[schedule], beta_start=1e-4, beta_end=0.02)
    scheduler.set_timesteps(50)
    taken = scheduler.timesteps.tolist()  # 980, 960, …, 0
    steps = plan(taken, "ddim", Diffusion(schedule=schedule, variance="small"))
    x, epsilon = torch.randn(2, 2, 3, 4, 4)
    for index in (0, 20, 48, 49):
        theirs = scheduler.step(epsilon, taken[index], x, use_clipped_model_output=True).prev_sample
        torch.testing.assert_close(one_step(x, epsilon, steps, index), theirs, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("variance", "theirs"), [("small", "fixed_small"), ("large", "fixed_large")])
def test_a_ddpm_step_is_that_of_diffusers(schedule, variance, theirs):
    scheduler = diffusers.DDPMScheduler(
        beta_schedule=SCHEDULES[schedule], beta_start=1e-4, beta_end=0.02, variance_type=theirs
    )
    steps = plan(time_steps(1000), "ddpm", Diffusion(schedule=schedule, variance=variance))
    x, epsilon = torch.randn(2, 2, 3, 4, 4)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
    for t in (999, 500, 1, 0):
        expected = scheduler.step(epsilon, t, x, generator=torch.Generator().manual_seed(7)).prev_sample
        torch.testing.assert_close(one_step(x, epsilon, steps, 999 - t, noise), expected, atol=2e-4, rtol=2e-4)


def test_a_ddpm_step_with_a_learned_variance_is_that_of_diffusers():
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range")
    steps = plan(time_steps(1000), "ddpm", Diffusion(schedule="cosine", variance="learned"))
    x, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(7))
    output = torch.randn(2, 6, 4, 4)
    for t in (998, 500, 2):
        expected = scheduler.step(output, t, x, generator=torch.Generator().manual_seed(7)).prev_sample
        torch.testing.assert_close(one_step(x, output, steps, 999 - t, noise), expected, atol=2e-4, rtol=2e-4)


def test_time_steps_run_evenly_from_the_noise_to_the_image():
    assert time_steps(1000) == list(range(999, -1, -1))
    for num_steps in (10, 50, 80, 250):
        taken = time_steps(num_steps)
        assert (taken[0], taken[-1], len(set(taken))) == (999, 0, num_steps)
        gaps = [before - after for before, after in pairwise(taken)]
        assert max(gaps) - min(gaps) <= 1


# Noise


def splitmix64(seed, index):
    mask = 2**64 - 1
    word = (seed + (index + 1) * 0x9E3779B97F4A7C15) & mask
    word = ((word ^ word >> 30) * 0xBF58476D1CE4E5B9) & mask
    word = ((word ^ word >> 27) * 0x94D049BB133111EB) & mask
    return word ^ word >> 31


def test_noise_is_splitmix64_by_box_and_muller():
    assert splitmix64(1234567, 0) == 6457827717110365317  # the generator's published first value for that seed
    noise = gaussian_noise(torch.tensor([1234567]), first=1, num_steps=1, num_values=6)[0, 0]
    for index in range(3):
        word = splitmix64(1234567, 3 + index)  # step 1 begins after the three draws of step 0
        radius = math.sqrt(-2 * math.log(((word >> 32) + 0.5) / 2**32))
        angle = 2 * math.pi * (word % 2**32) / 2**32
        assert float(noise[index]) == pytest.approx(radius * math.cos(angle), abs=1e-5)
        assert float(noise[3 + index]) == pytest.approx(radius * math.sin(angle), abs=1e-5)


def test_noise_is_standard_normal_and_independent_between_images_steps_and_pixels():
    noise = gaussian_noise(latent_keys(torch.randn(40, 12)), 0, 50, 200)
    assert noise.shape == (50, 40, 200)
    n = noise.numel()
    assert abs(float(noise.mean())) < 5 / math.sqrt(n)
    assert abs(float(noise.var()) - 1) < 5 * math.sqrt(2 / n)
    assert abs(float((noise**4).mean()) - 3) < 5 * math.sqrt(96 / n)
    for shifted in (noise.roll(1, 0), noise.roll(1, 1), noise.roll(1, 2), noise.roll(100, 2)):
        assert abs(float((noise * shifted).mean())) < 5 / math.sqrt(n)


def test_noise_of_a_step_does_not_depend_on_the_block_it_is_computed_in():
    keys = latent_keys(torch.randn(3, 12))
    together = gaussian_noise(keys, 0, 6, 12)
    apart = torch.cat([gaussian_noise(keys, step, 1, 12) for step in range(6)])
    assert torch.equal(together, apart)


def test_the_smallest_change_of_a_latent_changes_its_key():
    z = torch.randn(1, 3072)
    other = z.clone()
    other[0, 17] = torch.nextafter(other[0, 17], torch.tensor(9.0))
    assert len({int(key) for key in latent_keys(torch.cat([z, other, z.flip(1)]))}) == 3


def short_ddpm(model):
    """The tiny network of a model with 12 steps of DDPM, blocks of noise included."""
    generator = seeded(model)
    diffusion = Diffusion(schedule="cosine", variance="learned" if model is adm else "small")
    return MultiStepGenerator(DenoisingStep(generator.one_step.unet, plan(time_steps(12), "ddpm", diffusion)), 32)


@pytest.mark.parametrize("make", [seeded, short_ddpm], ids=["ddim", "ddpm"])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_same_latent_gives_the_same_image_in_any_batch_and_under_any_seed(name, make, monkeypatch):
    monkeypatch.setattr("models._diffusion.NOISE_BLOCK", 3 * 32 * 32 * 5)  # blocks of 5 steps alone, of 1 in a batch
    generator = make(MODELS[name])
    z = torch.randn(4, 3072)
    together = generator(z)
    torch.manual_seed(1)
    alone = torch.cat([generator(one[None]) for one in z])
    torch.testing.assert_close(together, alone, atol=2e-3, rtol=0)
    assert together.abs().max() <= 1.0001
    assert float((together[0] - together[1]).abs().mean()) > 0.05
    assert torch.isfinite(together).all()


def test_weights_survive_a_checkpoint():
    generator = seeded(adm)
    torch.manual_seed(1)
    other = adm.build(32, "tiny").generator.eval()
    file = io.BytesIO()
    torch.save(generator.state_dict(), file)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    z = torch.randn(1, 3072)
    with torch.no_grad():
        assert torch.equal(generator(z), other(z))


def test_joules_and_milliseconds_per_step_are_those_per_image_over_the_steps():
    def figure(value, unit):
        return Quantity(value=value, unit=unit, low=value - 1, high=value + 1, n=12, kind="computed", source="test")

    found = per_step(figure(50.0, "1"), figure(200.0, "ms"), figure(25.0, "J/image"))
    assert (found["generate_latency_ms_per_step"].value, found["generate_latency_ms_per_step"].unit) == (4.0, "ms")
    joules = found["generate_energy_j_per_step"]
    assert (joules.value, joules.low, joules.high, joules.unit) == (0.5, 0.48, 0.52, "J")
    unknown_j = unknown("J/image", "no meter", source="test", label="unavailable")
    assert per_step(figure(50.0, "1"), figure(200.0, "ms"), unknown_j)["generate_energy_j_per_step"].value is None
    assert per_step(None, figure(200.0, "ms"), unknown_j) == {}
