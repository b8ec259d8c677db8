"""Official LadaGAN files through `bench import`: TensorFlow's own files, the port's layout, and every refusal."""

from __future__ import annotations

import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from bench.errors import BenchError, CheckpointError, UsageError
from bench.released import _wire, ladagan_torch
from bench.released._crc32c import crc32c, masked_crc32c
from bench.released._tensor_bundle import TensorBundle
from bench.released._wire import DamagedError, fields, varint
from bench.released.importing import import_weights
from bench.training.weights import load_state, read_tensors
from models import ladagan

FIXTURES = Path(__file__).parent / "fixtures"
FIXTURE_CONFIG = {"encoder_widths": (4, 4, 8), "head_widths": (8, 8), "mlp_width": 8, "num_heads": 2}


@pytest.fixture(autouse=True)
def configs(monkeypatch):
    """Sizes of the small files of these tests, beside the published ones."""
    small = ladagan.LadaGanConfig(generator_widths=(16, 8, 4), latent_dim=4, **FIXTURE_CONFIG)
    with_decoder = ladagan.LadaGanConfig(
        generator_widths=(16, 8, 4), decoder_widths=(4,), latent_dim=4, **FIXTURE_CONFIG
    )
    port = ladagan.LadaGanConfig(generator_widths=(64, 16, 4), latent_dim=8, **FIXTURE_CONFIG)
    for key, config in {
        (64, "patches"): small,
        (64, "decoder"): with_decoder,
        (64, "port"): port,
        (32, "port"): port,
    }.items():
        monkeypatch.setitem(ladagan.CONFIGS, key, config)


def imported_generator(path, tmp_path, size, resolution=64):
    out = tmp_path / "imported.safetensors"
    import_weights(path, model="ladagan", resolution=resolution, size=size, out=out)
    generator = ladagan.build(resolution, size).generator.eval()
    tensors, facts = read_tensors(out)
    load_state(generator, tensors, out)
    return generator, facts


def refusal(path, tmp_path, size="patches", resolution=64, error=CheckpointError, model="ladagan"):
    """The one sentence with which a file is refused; nothing is written."""
    out = tmp_path / "refused.safetensors"
    with pytest.raises(error) as caught:
        import_weights(path, model=model, resolution=resolution, size=size, out=out)
    message = str(caught.value)
    assert isinstance(caught.value, BenchError) and not out.exists()
    assert message.endswith(".") and ". " not in message and "\n" not in message
    return message


def copied(name, tmp_path):
    for path in FIXTURES.glob(f"{name}.*"):
        shutil.copy(path, tmp_path)
    return tmp_path / f"{name}.index", tmp_path / f"{name}.data-00000-of-00001"


# TensorFlow


@pytest.mark.parametrize("size", ["patches", "decoder"])
def test_a_checkpoint_that_tensorflow_wrote_gives_the_images_that_keras_gives(size, tmp_path):
    generator, _ = imported_generator(FIXTURES / f"ladagan_{size}.index", tmp_path, size)
    stored = np.load(FIXTURES / "ladagan_images.npz")
    with torch.no_grad():
        images = generator(torch.from_numpy(stored["z"])).numpy()[:, :, ::3]
    assert stored[size].std() > 0.1
    assert np.abs(images - stored[size]).max() < 1e-5


def test_the_header_says_whose_weights_these_are_and_how_many_images_they_have_seen(tmp_path):
    _, facts = imported_generator(FIXTURES / "ladagan_patches.index", tmp_path, "patches")
    assert (facts["model"], facts["size"], facts["resolution"]) == ("ladagan", "patches", 64)
    assert facts["num_images_shown"] == 72_200_000
    assert facts["layout"] == "TensorFlow checkpoint"
    assert sorted(facts["source_sha256"]) == ["ladagan_patches.data-00000-of-00001", "ladagan_patches.index"]
    assert all(len(digest) == 64 for digest in facts["source_sha256"].values())


def test_the_reader_finds_every_variable_with_its_shape():
    bundle = TensorBundle(FIXTURES / "ladagan_patches.index")
    ending = "/.ATTRIBUTES/VARIABLE_VALUE"
    assert bundle.tensor(f"ema_generator/init/layer_with_weights-0/kernel{ending}").shape == (4, 1024)
    assert bundle.tensor(f"ema_generator/conv_8/kernel{ending}").shape == (3, 3, 4, 8)
    assert bundle.tensor(f"fid{ending}").item() == pytest.approx(1.81)
    assert sum(name.startswith("ema_generator/") for name in bundle.names()) == 88


def test_strings_in_a_checkpoint_are_left_alone():
    with pytest.raises(CheckpointError, match="type 7"):
        TensorBundle(FIXTURES / "ladagan_patches.index").tensor("_CHECKPOINTABLE_OBJECT_GRAPH")


@pytest.mark.parametrize("kept", [0, 7, 47, 200, 6000])
def test_a_truncated_index_is_refused(kept, tmp_path):
    index, _ = copied("ladagan_patches", tmp_path)
    index.write_bytes(index.read_bytes()[:kept])
    assert "truncated" in refusal(index, tmp_path)


@pytest.mark.parametrize("kept", [0, 1000, 100_000])
def test_truncated_data_is_refused(kept, tmp_path):
    index, data = copied("ladagan_patches", tmp_path)
    data.write_bytes(data.read_bytes()[:kept])
    assert "is truncated" in refusal(index, tmp_path)


def test_missing_data_is_refused(tmp_path):
    index, data = copied("ladagan_patches", tmp_path)
    data.unlink()
    assert "No such file" in refusal(index, tmp_path)


def test_every_changed_byte_of_the_index_is_refused(tmp_path):
    index, _ = copied("ladagan_decoder", tmp_path)
    content = index.read_bytes()
    padding = range(len(content) - 44, len(content) - 8)  # of the footer; holds nothing
    accepted = []
    for position in range(0, len(content), 61):
        index.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        try:
            import_weights(index, model="ladagan", resolution=64, size="decoder", out=tmp_path / "out.safetensors")
        except CheckpointError:
            continue
        accepted.append(position)
    assert all(position in padding for position in accepted)


def test_a_changed_byte_of_the_data_is_refused_by_its_checksum(tmp_path):
    index, data = copied("ladagan_decoder", tmp_path)
    content = bytearray(data.read_bytes())
    content[20_000] ^= 1
    data.write_bytes(content)
    assert "checksum" in refusal(index, tmp_path, "decoder")


def with_header(content, new):
    """The index with another header, and the checksum of its block made right."""
    footer = content[-48:]
    _, position = _wire._handle(footer, 0)
    (offset, size), _ = _wire._handle(footer, position)
    _, first = next(iter(_wire._entries(_wire._block(content, offset, size))))
    (offset, size), _ = _wire._handle(first, 0)
    old = b"\x08\x01\x1a\x02\x08\x01"  # one shard, version {producer: 1}
    block = content[offset : offset + size + 1]
    assert old in block and len(old) == len(new)
    block = block.replace(old, new, 1)
    return content[:offset] + block + struct.pack("<I", masked_crc32c(block)) + content[offset + size + 5 :]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"\x08\x01\x1a\x02\x10\x09", "version 9"),  # min_consumer: 9
        (b"\x10\x01\x1a\x02\x08\x01", "big-endian"),
        (b"\x08\x00\x1a\x02\x08\x01", "not a TensorFlow checkpoint"),
    ],
)
def test_another_version_of_the_format_is_refused(header, said, tmp_path):
    index, _ = copied("ladagan_decoder", tmp_path)
    index.write_bytes(with_header(index.read_bytes(), header))
    assert said in refusal(index, tmp_path)


def test_a_tensorflow_checkpoint_of_other_shapes_or_names_is_refused_with_the_name(tmp_path):
    patches, decoder = FIXTURES / "ladagan_patches.index", FIXTURES / "ladagan_decoder.index"
    assert "'ema_generator/init/layer_with_weights-0/kernel" in refusal(patches, tmp_path, "tiny")
    assert "lacks 'ema_generator/dec/layer_with_weights-0/kernel" in refusal(patches, tmp_path, "decoder")
    assert "holds 'ema_generator/dec/layer_with_weights-0/bias" in refusal(decoder, tmp_path, "patches")


def test_varints_and_messages_that_do_not_end_are_damage():
    assert varint(b"\xac\x02", 0) == (300, 2)
    assert list(fields(b"\x08\x01\x1a\x02\x08\x01")) == [(1, 1), (3, b"\x08\x01")]
    for content in (b"\x80", b"\x80" * 11, b"\x1a\x05a", b"\x0d\x01", b"\x0b"):
        with pytest.raises(DamagedError):
            list(fields(content))


def test_the_checksum_is_crc_32c_for_every_length():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the polynomial
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    data = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()
    for length in (0, 1, 1023, 1024, 1025, 2048, 5000):
        state = 0xFFFFFFFF
        for byte in data[:length]:
            state ^= byte
            for _ in range(8):
                state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
        assert crc32c(data[:length]) == state ^ 0xFFFFFFFF


# The PyTorch port


def port_tensors(resolution, random):
    """A state dict with the port's names and shapes: widths 64, 16, 4, 2 heads, MLP 8, latent 8."""
    widths, latent_dim, mlp_width, num_heads = (64, 16, 4), 8, 8, 2
    shapes = {"init.0.weight": (64 * widths[0], latent_dim)}
    for width, num_tokens in zip(widths, (64, 256, 1024), strict=True):
        block = f"block_{num_tokens}"
        shapes[f"pos_{num_tokens}"] = (1, num_tokens, width)
        linear = {"attn.to_qkv": (3 * width, width), "attn.q_attn": (num_heads, width), "attn.to_out": (width, width)}
        linear |= {"mlp.0": (mlp_width, width), "mlp.2": (width, mlp_width)}
        for norm in ("ln_1", "ln_2"):
            linear |= {f"{norm}.h.0": (width, latent_dim)}
            linear |= {f"{norm}.mlp_gamma": (width, width), f"{norm}.mlp_beta": (width, width)}
        for name, shape in linear.items():
            shapes |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
    factor = resolution // 32
    for name, (width_out, width_in) in {
        "conv_256": (16, 16),
        "conv_1024": (4, 4),
        "ch_conv": (3, 4 // factor**2),
    }.items():
        shapes |= {f"{name}.weight": (width_out, width_in, 3, 3), f"{name}.bias": (width_out,)}
    return {
        name: torch.randn(shape, generator=random)
        * (0.3 if len(shape) == 1 or name.startswith("pos_") else (np.prod(shape) / shape[0]) ** -0.5)
        for name, shape in shapes.items()
    }


def port_images(weights, z, resolution):
    """The port's generator, stated from the facts of its model.py, on a state dict."""

    def linear(x, name):
        return functional.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def conv(x, name):
        return functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)

    def norm(x, name):
        h = linear(z, f"{name}.h.0").relu()
        x = functional.layer_norm(x, x.shape[-1:], eps=1e-6)
        return x * linear(h, f"{name}.mlp_gamma")[:, None] + linear(h, f"{name}.mlp_beta")[:, None]

    def attention(x, name):
        q, k, v = linear(x, f"{name}.to_qkv").chunk(3, dim=-1)
        depth = q.shape[-1] // 2
        alpha = (linear(q, f"{name}.q_attn") * depth**-0.5).softmax(dim=1)  # [b, n, h]
        g = (alpha.repeat_interleave(depth, dim=-1) * q).sum(dim=1, keepdim=True)
        return linear(g * k * v, f"{name}.to_out")

    def block(x, num_tokens):
        name = f"block_{num_tokens}"
        x = x + weights[f"pos_{num_tokens}"]
        x = attention(norm(x, f"{name}.ln_1"), f"{name}.attn") + x
        x = linear(functional.gelu(linear(norm(x, f"{name}.ln_2"), f"{name}.mlp.0")), f"{name}.mlp.2")
        side = int(num_tokens**0.5)
        return x.transpose(1, 2).unflatten(2, (side, side))

    x = block(linear(z, "init.0").unflatten(1, (64, -1)), 64)
    x = conv(functional.pixel_shuffle(x, 2), "conv_256").flatten(2).transpose(1, 2)
    x = block(x, 256)
    x = conv(functional.pixel_shuffle(x, 2), "conv_1024").flatten(2).transpose(1, 2)
    x = functional.pixel_shuffle(block(x, 1024), resolution // 32)
    return conv(x, "ch_conv")


def port_checkpoint(path, resolution=64, **changes):
    """What the port's train.py saves, in small: its FID is a numpy number, and the EMA is one of three networks."""
    random = torch.Generator().manual_seed(resolution)
    generator, ema = port_tensors(resolution, random), port_tensors(resolution, random)
    optimiser = torch.optim.Adam([torch.nn.Parameter(generator["init.0.weight"].clone())])
    content = {
        "iter": 5000,
        "generator": generator,
        "discriminator": {"inp_conv.0.weight": torch.zeros(4, 3, 3, 3)},
        "ema": ema,
        "g_opt": optimiser.state_dict(),
        "fid": np.float64(4.5),
        "best_fid": np.float64(4.5),
    }
    torch.save(content | changes, path)
    return ema


@pytest.mark.parametrize("resolution", [32, 64])
def test_a_checkpoint_of_the_port_gives_the_port_s_images(resolution, tmp_path):
    ema = port_checkpoint(tmp_path / "last_ckpt.pt", resolution)
    generator, facts = imported_generator(tmp_path / "last_ckpt.pt", tmp_path, "port", resolution)
    z = torch.randn(3, 8, generator=torch.Generator().manual_seed(1)).double()  # rounding is not what is compared
    expected = port_images({name: weight.double() for name, weight in ema.items()}, z, resolution)
    with torch.no_grad():
        images = generator.double()(z)
    assert expected.std() > 0.1
    assert (images - expected).abs().max() < 1e-10
    assert facts["num_images_shown"] is None and "5000 steps" in facts["num_images_note"]


def test_without_the_channel_order_the_port_s_images_would_not_come_out(tmp_path, monkeypatch):
    """The check above can fail: the order matters."""
    ema = port_checkpoint(tmp_path / "last_ckpt.pt")
    monkeypatch.setattr(ladagan_torch, "_unshuffled", lambda x, **_: x)
    generator, _ = imported_generator(tmp_path / "last_ckpt.pt", tmp_path, "port")
    z = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert (generator(z) - port_images(ema, z, 64)).abs().max() > 0.1


class RunsCode:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)


def test_a_pickle_payload_is_refused_and_never_runs(tmp_path):
    marker = tmp_path / "ran"
    port_checkpoint(tmp_path / "last_ckpt.pt", fid=RunsCode(str(marker)))
    assert "pickle payload" in refusal(tmp_path / "last_ckpt.pt", tmp_path, "port")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(RunsCode(str(marker))))
    assert "bare pickle" in refusal(tmp_path / "bare.pt", tmp_path, "port")
    assert not marker.exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_of_the_port_is_refused(share, tmp_path):
    path = tmp_path / "last_ckpt.pt"
    port_checkpoint(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "truncated" in refusal(path, tmp_path, "port")


def test_a_changed_byte_of_the_port_s_weights_is_refused(tmp_path):
    path = tmp_path / "last_ckpt.pt"
    port_checkpoint(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "damaged" in refusal(path, tmp_path, "port")


def test_a_port_checkpoint_of_another_model_is_refused_with_the_name(tmp_path):
    path = tmp_path / "last_ckpt.pt"
    port_checkpoint(path)
    assert "another model's shapes: 'init.0.weight' (4096, 8)" in refusal(path, tmp_path, "tiny")
    ema = port_tensors(64, torch.Generator().manual_seed(0))
    port_checkpoint(path, ema={name: value for name, value in ema.items() if name != "block_256.attn.to_qkv.bias"})
    assert "lacks 'block_256.attn.to_qkv.bias'" in refusal(path, tmp_path, "port")
    port_checkpoint(path, ema=ema | {"extra.weight": torch.zeros(1)})
    assert "holds 'extra.weight'" in refusal(path, tmp_path, "port")
    port_checkpoint(path, ema=ema | {"pos_64": torch.zeros(64)})
    assert "'pos_64' (64,)" in refusal(path, tmp_path, "port")
    port_checkpoint(path, ema=ema | {"ch_conv.bias": torch.tensor([0.0, float("nan"), 0.0])})
    assert "not finite" in refusal(path, tmp_path, "port")
    port_checkpoint(path, ema=None)
    assert "lacks 'ema'" in refusal(path, tmp_path, "port")


def test_the_port_has_no_128_px_model(tmp_path):
    path = tmp_path / "last_ckpt.pt"
    port_checkpoint(path)
    assert "no 128 px generator" in refusal(path, tmp_path, "tiny", 128, error=UsageError)


# What is neither


def test_what_is_no_checkpoint_at_all_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("LadaGAN\n")
    assert "not a checkpoint" in refusal(tmp_path / "notes.txt", tmp_path, "tiny")
    (tmp_path / "empty").touch()
    assert "not a checkpoint" in refusal(tmp_path / "empty", tmp_path, "tiny")
    assert "No such file" in refusal(tmp_path / "nothing", tmp_path, "tiny")
    assert "Is a directory" in refusal(tmp_path, tmp_path, "tiny")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("photo.txt", "a photo")
    assert "not one that torch.save wrote" in refusal(tmp_path / "photos.zip", tmp_path, "tiny")
    data = FIXTURES / "ladagan_decoder.data-00000-of-00001"
    assert "ends in .index" in refusal(data, tmp_path, "tiny")


def test_an_unknown_model_or_size_is_a_question_that_cannot_be_asked(tmp_path):
    path = FIXTURES / "ladagan_patches.index"
    assert "ladagan only" in refusal(path, tmp_path, "tiny", error=UsageError, model="sagan")
    assert "paper at 64 px" in refusal(path, tmp_path, "huge", error=UsageError)
