"""LadaGAN's attention maps: the α that the operator computes, as grids and as a picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from bench.attention_maps import attention_maps, attention_sheet
from bench.errors import UsageError
from models import ladagan, sagan


@pytest.fixture
def generator():
    torch.manual_seed(0)
    return ladagan.build(32, "tiny").generator.eval()


def test_the_maps_are_the_operator_s_weights_block_by_block(generator):
    z = torch.randn(3, 128)
    maps = attention_maps(generator, z)
    assert {name: tuple(alpha.shape) for name, alpha in maps.items()} == {
        "blocks.0": (3, 2, 8, 8),
        "blocks.1": (3, 2, 16, 16),
        "blocks.2": (3, 2, 32, 32),
    }
    block = generator.blocks[0]
    with torch.no_grad():  # equation (2) of models/_attention.py, by hand
        x = generator.positions[0](generator.to_first_tokens(z).unflatten(1, (64, -1)))
        q = block.attention.to_q(block.norm_attention(x, z))
        scores = block.attention.to_score(q) / (q.shape[-1] // 2) ** 0.5
        alpha = scores.exp() / scores.exp().sum(dim=1, keepdim=True)  # [b, n, h]
    assert torch.allclose(maps["blocks.0"].flatten(2), alpha.transpose(1, 2), atol=1e-6)


def test_every_map_sums_to_one(generator):
    for alpha in attention_maps(generator, torch.randn(2, 128)).values():
        assert torch.allclose(alpha.sum(dim=(2, 3)), torch.ones(2, 2), atol=1e-5)


def test_the_hooks_are_gone_afterwards(generator):
    attention_maps(generator, torch.randn(1, 128))
    assert not any(module._forward_hooks for module in generator.modules())


@pytest.mark.parametrize("build", [lambda: sagan.SPEC.build(32, "tiny"), lambda: ladagan.build(32, "tiny", "softmax")])
def test_a_model_without_additive_attention_has_no_maps(build):
    gan = build()
    with pytest.raises(UsageError, match=r"no additive attention, .* leave the option out\.$"):
        attention_maps(gan.generator, torch.zeros(1, gan.latent_dim))


def test_the_sheet_shows_the_image_and_where_the_weight_is():
    images = np.full((1, 3, 32, 32), 128, dtype=np.uint8)
    corner = torch.zeros(1, 1, 8, 8)
    corner[..., 0, 0] = 1.0
    maps = {"blocks.0": corner}
    sheet = np.asarray(Image.open(io.BytesIO(attention_sheet(images, maps))).convert("RGB")).astype(int)
    grey = np.abs(sheet - 128).max(axis=2) <= 1
    columns = np.flatnonzero(grey.sum(axis=0) > 60)
    assert len(columns) and columns.max() < sheet.shape[1] / 2  # the image itself, left
    panel = sheet[:, sheet.shape[1] // 2 :]
    is_bright = (panel[..., 0] > 150) & (panel[..., 2] < 170) & (panel.sum(axis=2) < 700)
    rows, columns = np.nonzero(is_bright)
    assert len(rows) > 20
    is_dark = panel.sum(axis=2) < 150
    dark_rows, dark_columns = np.nonzero(is_dark)
    assert rows.mean() < dark_rows.mean() and columns.mean() < dark_columns.mean()  # upper left


def test_the_same_maps_give_the_same_bytes(generator):
    maps = attention_maps(generator, torch.randn(2, 128))
    images = np.zeros((2, 3, 32, 32), dtype=np.uint8)
    assert attention_sheet(images, maps) == attention_sheet(images, maps)
