"""Every golden count of reference/models.md § 2 and 3 for a GAN of the zoo, in one table, beside what is counted here.

Parameters as printed there, to the last digit. Multiply-accumulates within 0.5 %; where more, which operations differ
is named and our own count pinned, so that an exception cannot hide another change. The tests of each model say more of
single terms; the multi-step models and LadaGAN's swapped operators are in `test_diffusion.py` and `test_ladagan.py`.
"""

from typing import NamedTuple

import pytest
import torch

from bench.catalog import MODELS
from bench.phases.cost import count_macs, count_params
from models._spec import Gan

TOLERANCE = 0.005


class Row(NamedTuple):
    """One network; figures as they are printed, G MACs at batch 1, None where none is given."""

    model: str
    resolution: int
    network: str
    params: str | None
    giga_macs: str | None
    attention: str | None = None


ROWS = [
    Row("ladagan", 32, "generator", "19,901,647", "0.7583"),
    Row("ladagan", 32, "discriminator", "6,775,940", "0.709"),
    Row("ladagan", 64, "generator", "19,900,351", "0.758349824"),
    Row("ladagan", 64, "discriminator", "7,004,356", "0.947"),
    Row("ladagan", 128, "generator", "24,025,871", "4.340"),
    Row("ladagan", 128, "discriminator", "7,061,220", "1.189"),
    Row("sagan", 32, "generator", "4.359 M", "1.705"),
    Row("sagan", 32, "discriminator", "1.074 M", "0.279"),
    Row("sagan", 64, "generator", "12.241 M", "1.997"),
    Row("sagan", 64, "discriminator", "19.548 M", "1.114"),
    Row("sagan", 128, "generator", "32,232,708", "9.216"),
    Row("sagan", 128, "discriminator", "38,439,618", None),
    Row("stylegan2", 64, "generator", "23,819,544", "7.664"),
    Row("stylegan2", 64, "discriminator", "23.407 M", "7.911"),
    Row("stylegan2", 128, "generator", "24,525,213", "11.329"),
    Row("stylegan2", 128, "discriminator", "23.882 M", "11.739"),
    Row("stylegan2", 256, "generator", "24,767,458", "15.036"),
    Row("stylegan2", 256, "discriminator", "24.001 M", "15.638"),
    Row("transgan", 32, "generator", "83,312,495", "5.394"),
    Row("transgan", 32, "discriminator", "10,210,400", "1.346"),
    Row("transgan", 256, "generator", "212.9 M", "114.1"),
    Row("styleswin", 64, "generator", "45.21 M", "36.49"),
    Row("styleswin", 256, "generator", "48,929,512", "95.6"),
    Row("styleswin", 256, "discriminator", "26,211,585", "21.07"),
    Row("ganformer", 256, "generator", "30,903,632", "68.93", "duplex"),
    Row("styleformer", 64, "generator", None, "11.264", "softmax"),
    Row("styleformer", 64, "generator", None, "3.211", "linformer"),
    Row("hit", 256, "generator", "46,217,670", "13.364"),
    Row("vitgan", 32, "generator", "16.99 M", "2.603"),
    Row("r3gan", 32, "generator", "20.732 M", "7.038"),
    Row("r3gan", 64, "generator", "22,429,824", "13.105"),
    Row("r3gan", 64, "discriminator", "22,381,440", None),
]
# (model, resolution, network) → what is counted here, and which operations make the difference.
MACS_APART = {
    ("sagan", 64, "generator"): (2_009_510_627, "σ of the spectral norm, one per weight, is counted here"),
    ("sagan", 64, "discriminator"): (1_133_071_153, "σ of the spectral norm, one per weight, is counted here"),
    ("stylegan2", 256, "discriminator"): (15_543_672_320, "the skip's filter only at the pixels that are kept"),
    ("ganformer", 256, "generator"): (68_523_414_528, "unused products, enlarged maps, filter taps, k-means step"),
    ("vitgan", 32, "generator"): (2_571_939_840, "queries and keys share a matrix, as the paper says"),
}
PARAMS_APART = {
    ("vitgan", 32, "generator"): (16_392_587, "the shared matrix, and biases that the official code keeps at 0"),
}
ELSEWHERE = {"adm": "test_diffusion.py", "ddpm": "test_diffusion.py"}


def name_of(row: Row) -> str:
    return "-".join(str(each) for each in (row.model, row.resolution, row.attention, row.network) if each)


@pytest.fixture(scope="module")
def build():
    built: dict[tuple[object, ...], Gan] = {}

    def on_meta(row: Row) -> Gan:
        key = (row.model, row.resolution, row.attention)
        if key not in built:
            settings = () if row.attention is None else (row.attention,)
            with torch.device("meta"):
                built[key] = MODELS.load(row.model).build(row.resolution, "paper", *settings)
        return built[key]

    return on_meta


def printed_like(count: int, text: str) -> str:
    """The count in the way the text is printed: all digits, or millions with as many decimals."""
    if not text.endswith(" M"):
        return f"{count:,}"
    return f"{count / 1e6:.{len(text.split('.')[1]) - 2}f} M"


@pytest.mark.parametrize("row", [row for row in ROWS if row.params], ids=name_of)
def test_parameters_are_those_of_the_official_code(row, build):
    count = count_params(getattr(build(row), row.network))
    if row[:3] in PARAMS_APART:
        assert count == PARAMS_APART[row[:3]][0]
        assert printed_like(count, row.params) != row.params, "no longer apart: drop the exception"
    else:
        assert printed_like(count, row.params) == row.params


@pytest.mark.parametrize("row", [row for row in ROWS if row.giga_macs], ids=name_of)
def test_multiply_accumulates_are_within_half_a_percent_or_the_difference_is_named(row, build):
    gan = build(row)
    shape = (1, gan.latent_dim) if row.network == "generator" else (1, 3, row.resolution, row.resolution)
    num_macs, unknown = count_macs(getattr(gan, row.network), torch.empty(shape, device="meta"))
    assert not unknown
    deviation = num_macs / (float(row.giga_macs) * 1e9) - 1
    if row[:3] in MACS_APART:
        assert num_macs == MACS_APART[row[:3]][0]
        assert TOLERANCE < abs(deviation) < 0.02
    else:
        assert abs(deviation) <= TOLERANCE


def test_every_model_has_a_row_or_a_test_elsewhere_and_no_exception_is_left_over():
    assert {row.model for row in ROWS} | set(ELSEWHERE) == set(MODELS.names())
    assert set(MACS_APART) | set(PARAMS_APART) <= {row[:3] for row in ROWS}
