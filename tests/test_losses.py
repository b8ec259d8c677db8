"""The logistic loss with R1 and balanced consistency, and the Wasserstein one, against cases worked by hand."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from models._augment import diff_augment
from models._losses import NonSaturatingR1, WassersteinGradientPenalty
from models._spec import Gan


class Affine(nn.Module):
    """Logits a·Σx + bias, once per entry of a; remembers the batches it was shown."""

    def __init__(self, *slopes):
        super().__init__()
        self.slopes = nn.Parameter(torch.tensor(slopes))
        self.seen = []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return x.sum(dim=(1, 2, 3))[:, None] * self.slopes


class Quadratic(Affine):
    """Logit a·‖x‖² / 2, whose gradient is a·x."""

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return x.square().sum(dim=(1, 2, 3))[:, None] * self.slopes / 2


class Scale(nn.Module):
    """The images are the latents, times one weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, z):
        return self.weight * z.view(-1, 3, 4, 4)


def gan_of(discriminator):
    return Gan(generator=Scale(), discriminator=discriminator, latent_dim=48)


def batch(b=4):
    torch.manual_seed(0)
    return torch.rand(b, 3, 4, 4) * 2 - 1, torch.randn(b, 48)


def test_losses_are_the_non_saturating_ones():
    real, z = batch()
    gan = gan_of(Affine(0.1))
    loss = NonSaturatingR1(r1_weight=0.0).discriminator_loss(gan, real, z, 0)
    real_logits, fake_logits = 0.1 * real.sum(dim=(1, 2, 3)), 0.2 * z.sum(dim=1)
    expected = {
        "real": torch.log(1 + torch.exp(-real_logits)).mean(),
        "fake": torch.log(1 + torch.exp(fake_logits)).mean(),
    }
    torch.testing.assert_close(loss.parts, expected)
    loss = NonSaturatingR1(r1_weight=0.0).generator_loss(gan, real, z, 0)
    torch.testing.assert_close(loss.parts, {"fake": torch.log(1 + torch.exp(-fake_logits)).mean()})


def test_r1_of_a_linear_discriminator_is_the_square_of_its_weights():
    real, z = batch()
    gan = gan_of(Affine(0.5))
    loss = NonSaturatingR1(r1_weight=3.0).discriminator_loss(gan, real, z, 0)
    assert float(loss.parts["r1"]) == pytest.approx(3.0 * 48 * 0.5**2)  # no ½


def test_r1_of_a_quadratic_discriminator_is_the_mean_square_of_the_images_and_is_differentiable():
    real, z = batch()
    gan = gan_of(Quadratic(0.5))
    loss = NonSaturatingR1(r1_weight=3.0).discriminator_loss(gan, real, z, 0)
    mean_square = float(real.square().sum(dim=(1, 2, 3)).mean())
    assert float(loss.parts["r1"]) == pytest.approx(3.0 * 0.25 * mean_square)
    plain = NonSaturatingR1(r1_weight=0.0).discriminator_loss(gan, real, z, 0)
    (slope,) = torch.autograd.grad(loss.total - plain.total, gan.discriminator.slopes)
    assert float(slope) == pytest.approx(3.0 * 2 * 0.5 * mean_square, rel=1e-5)  # d/da of 3 a² ‖x‖²


def test_r1_is_taken_on_the_sum_of_the_logits():
    real, z = batch()
    loss = NonSaturatingR1(r1_weight=1.0).discriminator_loss(gan_of(Affine(0.5, 0.25)), real, z, 0)
    assert float(loss.parts["r1"]) == pytest.approx(48 * 0.75**2)


def test_without_consistency_both_kinds_are_augmented_and_r1_is_taken_there():
    real, z = batch()
    gan = gan_of(Quadratic(1.0))
    torch.manual_seed(9)
    loss = NonSaturatingR1(r1_weight=1.0, augmentations=("color", "translation")).discriminator_loss(gan, real, z, 0)
    torch.manual_seed(9)
    real_changed = diff_augment(real, ("color", "translation"))
    fake_changed = diff_augment(gan.generator(z), ("color", "translation"))
    fake_seen, real_seen = gan.discriminator.seen  # two passes, generated first, as the official code has it
    torch.testing.assert_close(fake_seen, fake_changed.detach())
    torch.testing.assert_close(real_seen, real_changed)
    assert float(loss.parts["r1"]) == pytest.approx(float(real_changed.square().sum(dim=(1, 2, 3)).mean()), rel=1e-5)


def test_consistency_sees_clean_passes_then_both_kinds_augmented_in_one():
    real, z = batch()
    gan = gan_of(Quadratic(0.3))
    objective = NonSaturatingR1(r1_weight=1.0, augmentations=("cutout",), bcr_real_weight=0.1, bcr_fake_weight=0.7)
    torch.manual_seed(4)
    loss = objective.discriminator_loss(gan, real, z, 0)
    fake_seen, real_seen, both_seen = gan.discriminator.seen
    fake = gan.generator(z).detach()
    torch.manual_seed(4)
    both = torch.cat([diff_augment(real, ("cutout",)), diff_augment(fake, ("cutout",))])
    for seen, expected in ((fake_seen, fake), (real_seen, real), (both_seen, both)):
        torch.testing.assert_close(seen, expected)
    change = (gan.discriminator(both) - gan.discriminator(torch.cat([real, fake]))).square()
    expected = 0.1 * change[:4].mean() + 0.7 * change[4:].mean()
    torch.testing.assert_close(loss.parts["bcr"], expected.detach())
    assert float(loss.parts["r1"]) == pytest.approx(0.09 * float(real.square().sum(dim=(1, 2, 3)).mean()))


def test_consistency_costs_nothing_where_augmentation_changes_nothing():
    real, z = batch()
    objective = NonSaturatingR1(r1_weight=1.0, bcr_real_weight=0.1, bcr_fake_weight=0.1)
    assert float(objective.discriminator_loss(gan_of(Affine(0.5)), real, z, 0).parts["bcr"]) == 0


def test_both_sides_of_the_consistency_carry_gradient():
    real, z = batch()
    gan = gan_of(Quadratic(0.3))
    weights = {"bcr_real_weight": 1.0, "bcr_fake_weight": 1.0}
    torch.manual_seed(4)
    with_bcr = NonSaturatingR1(r1_weight=0.0, augmentations=("cutout",), **weights).discriminator_loss(gan, real, z, 0)
    without = NonSaturatingR1(r1_weight=0.0).discriminator_loss(gan, real, z, 0)
    (slope,) = torch.autograd.grad(with_bcr.total - without.total, gan.discriminator.slopes)
    # the consistency is a² times a constant, so its derivative is 2/a times itself only if both logits are varied
    assert float(slope) == pytest.approx(2 / 0.3 * float(with_bcr.parts["bcr"]), rel=1e-4)


@pytest.mark.parametrize("bcr_weight", [0.0, 0.1])
def test_generator_is_augmented_only_without_consistency(bcr_weight):
    real, z = batch()
    gan = gan_of(Affine(0.5))
    objective = NonSaturatingR1(
        r1_weight=1.0, augmentations=("color",), bcr_real_weight=bcr_weight, bcr_fake_weight=bcr_weight
    )
    objective.generator_loss(gan, real, z, 0)
    assert torch.equal(gan.discriminator.seen[0], gan.generator(z)) == (bcr_weight > 0)


@pytest.mark.parametrize("bcr_weight", [0.0, 0.1])
def test_parts_add_up_to_the_total_and_are_detached(bcr_weight):
    real, z = batch()
    objective = NonSaturatingR1(
        r1_weight=0.01, augmentations=("cutout",), bcr_real_weight=bcr_weight, bcr_fake_weight=bcr_weight
    )
    gan = gan_of(Quadratic(0.1))
    for loss in (objective.discriminator_loss(gan, real, z, 0), objective.generator_loss(gan, real, z, 0)):
        torch.testing.assert_close(sum(loss.parts.values()), loss.total.detach())
        assert not any(part.requires_grad for part in loss.parts.values())


def test_each_loss_moves_its_own_network():
    real, z = batch()
    gan = gan_of(Quadratic(0.1))
    objective = NonSaturatingR1(r1_weight=0.01, augmentations=("color", "translation", "cutout"))
    objective.discriminator_loss(gan, real, z, 0).total.backward()
    assert gan.generator.weight.grad is None
    assert float(gan.discriminator.slopes.grad) != 0
    objective.generator_loss(gan, real, z, 0).total.backward()
    assert float(gan.generator.weight.grad) != 0


def test_the_caller_s_images_are_left_alone():
    real, z = batch()
    before = real.clone()
    for weight in (0.0, 0.1):
        NonSaturatingR1(r1_weight=1.0, bcr_real_weight=weight).discriminator_loss(gan_of(Affine(0.5)), real, z, 0)
    assert torch.equal(real, before)
    assert not real.requires_grad


def test_under_bfloat16_autocast_the_penalty_is_summed_in_float32():
    torch.manual_seed(0)
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(48, 64), nn.Softplus(), nn.Linear(64, 5))
    real, z = batch(64)
    objective = NonSaturatingR1(r1_weight=1.0)
    full = objective.discriminator_loss(gan_of(discriminator), real, z, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = objective.discriminator_loss(gan_of(discriminator), real, z, 0)
    assert low.parts["r1"].dtype == torch.float32
    assert float(low.parts["r1"]) == pytest.approx(float(full.parts["r1"]), rel=0.02)
    low.total.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in discriminator.parameters())


def test_very_sure_logits_stay_finite():
    real, z = batch()
    loss = NonSaturatingR1(r1_weight=0.0).discriminator_loss(gan_of(Affine(1e6)), real, z, 0)
    assert math.isfinite(loss.total.item())


def test_objective_is_a_frozen_document_of_plain_values():
    objective = NonSaturatingR1(r1_weight=1e-4, augmentations=("color",), bcr_real_weight=0.1)
    stored = json.loads(json.dumps(dataclasses.asdict(objective)))
    assert stored == {
        "r1_weight": 1e-4,
        "r1_interval": 1,
        "augmentations": ["color"],
        "bcr_real_weight": 0.1,
        "bcr_fake_weight": 0.0,
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.r1_weight = 1.0


def test_softplus_is_used_on_every_logit_of_an_image():
    real, z = batch()
    loss = NonSaturatingR1(r1_weight=0.0).discriminator_loss(gan_of(Affine(0.1, -0.1)), real, z, 0)
    logits = real.sum(dim=(1, 2, 3))[:, None] * torch.tensor([0.1, -0.1])
    torch.testing.assert_close(loss.parts["real"], functional.softplus(-logits).mean())


def test_without_its_penalty_the_logistic_loss_takes_no_gradient_of_the_images():
    real, z = batch()
    gan = gan_of(Quadratic(0.5))
    objective = NonSaturatingR1(r1_weight=3.0, augmentations=("color",), bcr_real_weight=0.1)
    without = objective.without_penalty()
    assert without == dataclasses.replace(objective, r1_weight=0.0)
    loss = without.discriminator_loss(gan, real, z, 0)
    assert set(loss.parts) == {"real", "fake", "bcr"}
    assert torch.isfinite(loss.total)


def test_wasserstein_losses_of_a_linear_critic_are_differences_of_means():
    real, z = batch()
    gan = gan_of(Affine(0.5, -0.25))
    objective = WassersteinGradientPenalty(penalty_weight=0.0, drift_weight=0.1)
    real_logits = real.sum(dim=(1, 2, 3))[:, None] * torch.tensor([0.5, -0.25])
    fake_logits = 2 * z.sum(dim=1)[:, None] * torch.tensor([0.5, -0.25])
    loss = objective.discriminator_loss(gan, real, z, 0)
    torch.testing.assert_close(
        loss.parts,
        {"real": -real_logits.mean(), "fake": fake_logits.mean(), "drift": 0.1 * real_logits.square().mean()},
    )
    torch.testing.assert_close(loss.total.detach(), sum(loss.parts.values()))
    assert float(objective.generator_loss(gan, real, z, 0).total.detach()) == pytest.approx(
        -float(fake_logits.mean()), rel=1e-5
    )


@pytest.mark.parametrize("slopes", [(0.5,), (0.5, -0.25), (1 / math.sqrt(48),)])
def test_gradient_penalty_of_a_linear_critic_is_that_of_its_slope_whatever_the_images(slopes):
    real, z = batch()
    gan = gan_of(Affine(*slopes))
    loss = WassersteinGradientPenalty().discriminator_loss(gan, real, z, 0)
    length = math.sqrt(48) * abs(sum(slopes))  # the gradient of the summed logits has 48 equal entries
    assert float(loss.parts["gradient_penalty"]) == pytest.approx(10 * (length - 1) ** 2, abs=1e-10, rel=1e-4)
    (slope,) = torch.autograd.grad(loss.total, gan.discriminator.slopes)
    plain = WassersteinGradientPenalty(penalty_weight=0.0).discriminator_loss(gan, real, z, 0)
    (plain_slope,) = torch.autograd.grad(plain.total, gan.discriminator.slopes)
    expected = 20 * (length - 1) * math.sqrt(48) * math.copysign(1, sum(slopes))
    torch.testing.assert_close(slope - plain_slope, torch.full_like(slope, expected), atol=1e-3, rtol=1e-4)


def test_gradient_penalty_is_taken_between_the_augmented_images_at_one_point_per_pair():
    real, z = batch()
    gan = gan_of(Quadratic(0.5))
    torch.manual_seed(5)
    loss = WassersteinGradientPenalty(augmentations=("cutout",)).discriminator_loss(gan, real, z, 0)
    torch.manual_seed(5)
    changed = diff_augment(real, ("cutout",)), diff_augment(gan.generator(z), ("cutout",)).detach()
    fake_seen, real_seen, between = gan.discriminator.seen
    torch.testing.assert_close((real_seen, fake_seen), changed)
    offset, way = (between - fake_seen).flatten(1), (real_seen - fake_seen).flatten(1)
    share = (offset * way).sum(1) / way.square().sum(1)
    torch.testing.assert_close(offset, share[:, None] * way)  # on the line, the same share at every pixel
    assert len(set(share.tolist())) == 4 and share.min() >= 0 and share.max() <= 1
    lengths = 0.5 * between.flatten(1).norm(dim=1)  # the gradient of a ‖x‖² / 2 is a x
    assert float(loss.parts["gradient_penalty"]) == pytest.approx(10 * float((lengths - 1).square().mean()), rel=1e-4)


def test_a_critic_without_slope_has_a_finite_penalty_and_gradient():
    real, z = batch()
    gan = gan_of(Affine(0.0))
    loss = WassersteinGradientPenalty().discriminator_loss(gan, real, z, 0)
    assert float(loss.parts["gradient_penalty"]) == pytest.approx(10)
    loss.total.backward()
    assert torch.isfinite(gan.discriminator.slopes.grad).all()


def test_wasserstein_losses_move_their_own_network_and_leave_the_caller_s_images_alone():
    real, z = batch()
    before = real.clone()
    gan = gan_of(Quadratic(0.1))
    objective = WassersteinGradientPenalty(augmentations=("color", "translation"))
    objective.discriminator_loss(gan, real, z, 0).total.backward()
    assert gan.generator.weight.grad is None
    assert float(gan.discriminator.slopes.grad) != 0
    assert torch.equal(real, before) and not real.requires_grad
    objective.generator_loss(gan, real, z, 0).total.backward()
    assert float(gan.generator.weight.grad) != 0


def test_without_its_penalty_the_critic_sees_no_image_between():
    real, z = batch()
    gan = gan_of(Affine(0.5))
    objective = WassersteinGradientPenalty(drift_weight=1e-3)
    assert objective.without_penalty() == WassersteinGradientPenalty(penalty_weight=0.0, drift_weight=1e-3)
    objective.without_penalty().discriminator_loss(gan, real, z, 0)
    assert len(gan.discriminator.seen) == 2
    stored = json.loads(json.dumps(dataclasses.asdict(objective)))
    assert stored == {"penalty_weight": 10.0, "drift_weight": 1e-3, "augmentations": []}
