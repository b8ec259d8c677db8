"""DiffAugment: each function does what its name says, image by image, and lets derivatives through."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import _augment
from models._augment import bordered_translation, color, cutout, diff_augment, mild_color, translation

ALL = ("color", "mild_color", "translation", "bordered_translation", "cutout")
POLICIES = [(), *((name,) for name in ALL), ALL]


def images(b=16, h=12, w=12, dtype=torch.float32):
    torch.manual_seed(0)
    return torch.rand(b, 3, h, w, dtype=dtype) * 2 - 1


@pytest.mark.parametrize("policy", POLICIES)
def test_shape_dtype_and_device_are_kept(policy):
    x = images(h=12, w=20)
    y = diff_augment(x, policy)
    assert (y.shape, y.dtype, y.device) == (x.shape, x.dtype, x.device)


def test_empty_policy_is_the_identity():
    x = images()
    assert diff_augment(x, ()) is x


def test_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="Unknown augmentation 'flip'; known: color, mild_color, translation, "):
        diff_augment(images(), ("color", "flip"))


@pytest.mark.parametrize("name", ALL)
def test_same_seed_same_change_and_next_draw_differs(name):
    x = images()
    torch.manual_seed(3)
    first, second = diff_augment(x, (name,)), diff_augment(x, (name,))
    torch.manual_seed(3)
    assert torch.equal(diff_augment(x, (name,)), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ALL)
def test_equal_images_of_one_batch_get_draws_of_their_own(name):
    x = images(b=1).expand(16, -1, -1, -1)
    y = diff_augment(x, (name,))
    assert len({one.numpy().tobytes() for one in y}) > 4


@pytest.mark.parametrize("policy", POLICIES)
def test_one_image_does_not_change_what_happens_to_another(policy):
    x = images()
    changed = x.clone()
    changed[0] = 0.5
    torch.manual_seed(5)
    y = diff_augment(x, policy)
    torch.manual_seed(5)
    torch.testing.assert_close(diff_augment(changed, policy)[1:], y[1:])


@pytest.mark.parametrize(("augment", "saturation_reach", "contrast_reach"), [(color, 1, 0.5), (mild_color, 0.5, 0.25)])
def test_color_equals_brightness_then_saturation_then_contrast(augment, saturation_reach, contrast_reach):
    x = images(dtype=torch.float64)
    torch.manual_seed(7)
    y = augment(x)
    torch.manual_seed(7)
    brightness, saturation, contrast = torch.rand(3, x.shape[0], 1, 1, 1, dtype=x.dtype)
    expected = x + (brightness - 0.5)
    mean = expected.mean(dim=1, keepdim=True)
    expected = (expected - mean) * (1 + saturation_reach * (2 * saturation - 1)) + mean
    mean = expected.mean(dim=(1, 2, 3), keepdim=True)
    expected = (expected - mean) * (1 + contrast_reach * (2 * contrast - 1)) + mean
    torch.testing.assert_close(y, expected)


def test_brightness_moves_the_mean_by_at_most_one_half_both_ways():
    x = images(b=512, h=4, w=4)
    move = (color(x) - x).mean(dim=(1, 2, 3))
    assert move.abs().max() <= 0.5 + 1e-5
    assert move.min() < -0.45
    assert move.max() > 0.45


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 24), st.integers(4, 24), st.integers(0, 99))
def test_translation_is_a_pure_shift_that_brings_zeros_in(h, w, seed):
    torch.manual_seed(seed)
    x = torch.rand(4, 2, h, w) + 1  # no zero of its own
    y = translation(x)
    limit_h, limit_w = int(h / 8 + 0.5), int(w / 8 + 0.5)
    padded = torch.nn.functional.pad(x, (limit_w, limit_w, limit_h, limit_h))
    for one, wide in zip(y, padded, strict=True):
        shifts = [
            wide[:, top : top + h, left : left + w] for top in range(2 * limit_h + 1) for left in range(2 * limit_w + 1)
        ]
        assert any(torch.equal(one, shift) for shift in shifts)


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 24), st.integers(4, 24), st.integers(0, 99))
def test_bordered_translation_is_a_shift_that_brings_black_or_white_in(h, w, seed):
    torch.manual_seed(seed)
    x = torch.rand(4, 3, h, w, dtype=torch.float64) * 1.8 - 0.9  # neither black nor white of its own
    y = bordered_translation(x)
    limit_h, limit_w = int(h / 8 + 0.5), int(w / 8 + 0.5)
    shifts = [(top, left) for top in range(2 * limit_h + 1) for left in range(2 * limit_w + 1)]
    for one, before in zip(y, x, strict=True):
        wide = [
            torch.nn.functional.pad(before, (limit_w, limit_w, limit_h, limit_h), value=level) for level in (-1.0, 1.0)
        ]
        assert any(
            torch.allclose(one, each[:, top : top + h, left : left + w], rtol=0, atol=1e-12)
            for each in wide
            for top, left in shifts
        )


def test_bordered_translation_brings_black_and_white_in_equally_often():
    y = bordered_translation(torch.zeros(4096, 1, 8, 8)).flatten(1).sum(1).sign()
    num_black, num_moved = int((y < 0).sum()), int((y != 0).sum())
    num_expected = 4096 * 8 / 9  # by up to one pixel: one shift of nine is none
    assert num_moved == pytest.approx(num_expected, abs=5 * (num_expected / 9) ** 0.5)
    assert num_black == pytest.approx(num_moved / 2, abs=2.5 * num_moved**0.5)


def test_a_border_tells_what_contrast_batch_norm_hides():
    """Its reason: halved images give batch norm the same features, unless something of full contrast is there."""
    x = images()
    norm = torch.nn.BatchNorm2d(3, eps=1e-12, affine=False)

    def difference(augment):
        torch.manual_seed(2)
        full = norm(augment(x))
        torch.manual_seed(2)
        return (norm(augment(x / 2)) - full).abs().max()

    assert difference(translation) < 1e-5
    assert difference(bordered_translation) > 0.1


def test_translation_reaches_every_shift_up_to_an_eighth_equally_often():
    x = torch.zeros(4096, 1, 16, 16)
    x[:, :, 8, 8] = 1
    rows, columns = translation(x)[:, 0].flatten(1).argmax(1).div(16, rounding_mode="floor"), 8
    counts = torch.bincount(rows - columns + 2, minlength=5)
    assert len(counts) == 5
    assert (counts - 4096 / 5).abs().max() < 130  # five standard deviations of a binomial count


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 24), st.integers(4, 24), st.integers(0, 99))
def test_cutout_zeroes_one_rectangle_and_leaves_the_rest(h, w, seed):
    torch.manual_seed(seed)
    x = torch.rand(8, 3, h, w) + 1
    y = cutout(x)
    cut = y == 0
    assert torch.equal(y[~cut], x[~cut])
    assert torch.equal(cut, cut[:, :1].expand_as(cut))
    for hole in cut[:, 0]:
        num_rows, num_columns = int(hole.any(1).sum()), int(hole.any(0).sum())
        assert int(hole.sum()) == num_rows * num_columns  # a full rectangle
        assert int(h / 2 + 0.5) // 2 <= num_rows <= int(h / 2 + 0.5)
        assert int(w / 2 + 0.5) // 2 <= num_columns <= int(w / 2 + 0.5)
        edges = hole.any(1).int().diff().abs().sum() + hole.any(0).int().diff().abs().sum()
        assert edges <= 4  # rows and columns of the hole are contiguous


def test_cutout_area_is_a_quarter_where_the_square_lies_inside():
    x = torch.ones(4096, 1, 16, 16)
    areas = (cutout(x) == 0).flatten(1).sum(1)
    assert areas.max() == 64
    num_rows = [min(centre + 4, 16) - max(centre - 4, 0) for centre in range(17)]  # 8 rows, less what sticks out
    assert areas.double().mean() == pytest.approx((sum(num_rows) / 17) ** 2, rel=0.03)


@pytest.mark.parametrize("policy", POLICIES[1:])
def test_gradient_reaches_the_pixels_that_are_still_there(policy):
    x = images().requires_grad_()
    (gradient,) = torch.autograd.grad(diff_augment(x, policy).square().sum(), x)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).float().mean() > 0.5


@pytest.mark.parametrize("policy", POLICIES[1:])
def test_first_and_second_derivatives_are_right(policy):
    x = images(b=1, h=4, w=4, dtype=torch.float64).requires_grad_()

    def seeded(x):
        torch.manual_seed(1)
        return diff_augment(x, policy).square()

    assert torch.autograd.gradcheck(seeded, (x,))
    assert torch.autograd.gradgradcheck(seeded, (x,))


def test_every_augmentation_has_the_name_a_policy_uses():
    by_name = {
        "color": color,
        "mild_color": mild_color,
        "translation": translation,
        "bordered_translation": bordered_translation,
        "cutout": cutout,
    }
    assert by_name == _augment.AUGMENTATIONS
