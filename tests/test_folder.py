"""`--dataset folder:PATH` and the preparation and split that it shares with the named data sets."""

import hashlib
import io
import os
import pickle
import random
import shutil
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.datasets import _images
from bench.datasets._files import split_by_hash
from bench.datasets._images import Preparation
from bench.datasets.folder import SPEC
from bench.errors import BenchError, UsageError

NAMES = [
    "b/deep/er/two.JPEG",
    "a.png",
    "b/one.jpg",
    "b/three.WebP",
    "c d/ü.bmp",
    "z.PNG",
]


def colour(number: int) -> tuple[int, int, int]:
    return 40 * number, 255 - 40 * number, 128


def write_photos(folder: Path, names: list[str] = NAMES) -> None:
    """Flat pictures whose colour says which of NAMES they are."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (50, 40), colour(NAMES.index(name))).save(folder / name)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos")
    return tmp_path / "photos"


def encode(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def noise_image(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def prepare(encoded: bytes, resolution: int = 32) -> np.ndarray:
    return Preparation(resolution=resolution).apply(encoded, "The file 'x'")


def read_all(images: object) -> np.ndarray:
    return images.read(np.arange(len(images)))


def colours_of(images: object) -> list[int]:
    """Which of NAMES each image is, from its mean colour."""
    means = read_all(images).mean(axis=(2, 3))
    palette = np.array([colour(number) for number in range(len(NAMES))])
    return [int(np.abs(palette - mean).sum(axis=1).argmin()) for mean in means]


def one_sentence(error: BenchError) -> str:
    text = str(error)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def test_every_image_below_the_folder_is_in_exactly_one_split(photos: Path) -> None:
    (photos / "notes.txt").write_text("no image")
    (photos / ".hidden.png").write_text("no image")
    (photos / ".thumbnails").mkdir()
    shutil.copy(photos / "a.png", photos / ".thumbnails" / "a.png")
    opened = SPEC.open(32, str(photos))
    train, reference = colours_of(opened.train), colours_of(opened.reference)
    assert sorted(train + reference) == list(range(len(NAMES)))
    assert len(train) == len(reference) == 3
    assert opened.protocol["num_train_images"] == 3
    assert opened.protocol["num_reference_images"] == 3


def test_images_of_a_split_are_in_order_of_their_path(photos: Path) -> None:
    opened = SPEC.open(32, str(photos))
    for images in (opened.train, opened.reference):
        names = [NAMES[number] for number in colours_of(images)]
        assert names == sorted(names)


def test_the_same_files_elsewhere_written_in_another_order_are_the_same_data_set(photos: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "elsewhere", NAMES[::-1])
    first, second = SPEC.open(64, str(photos)), SPEC.open(64, str(tmp_path / "elsewhere"))
    assert first.protocol == second.protocol
    np.testing.assert_array_equal(read_all(first.train), read_all(second.train))
    np.testing.assert_array_equal(read_all(first.reference), read_all(second.reference))
    assert str(tmp_path) not in str(first.protocol)


def test_the_manifest_changes_when_a_file_comes_goes_or_grows(photos: Path) -> None:
    manifests = [SPEC.open(32, str(photos)).protocol["manifest_sha256"]]
    shutil.copy(photos / "a.png", photos / "new.png")
    manifests.append(SPEC.open(32, str(photos)).protocol["manifest_sha256"])
    (photos / "new.png").write_bytes((photos / "a.png").read_bytes() + b"\0")
    manifests.append(SPEC.open(32, str(photos)).protocol["manifest_sha256"])
    (photos / "new.png").rename(photos / "newer.png")
    manifests.append(SPEC.open(32, str(photos)).protocol["manifest_sha256"])
    assert len(set(manifests)) == 4


def test_an_index_gives_the_same_image_in_any_batch(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = SPEC.open(32, str(photos)).train
    indices = np.array([2, 0, 2, 1, 0])
    batch = cached.read(indices)
    assert batch.shape == (5, 3, 32, 32)
    assert batch.dtype == np.uint8
    np.testing.assert_array_equal(batch, np.concatenate([cached.read(indices[[row]]) for row in range(5)]))
    monkeypatch.setattr(_images, "CACHE_LIMIT_BYTES", 0)
    np.testing.assert_array_equal(batch, SPEC.open(32, str(photos)).train.read(indices))
    assert cached.read(np.array([], dtype=np.int64)).shape == (0, 3, 32, 32)


def test_a_caller_that_writes_into_a_batch_does_not_change_the_data(photos: Path) -> None:
    images = SPEC.open(32, str(photos)).train
    before = read_all(images)
    read_all(images)[:] = 7
    np.testing.assert_array_equal(read_all(images), before)


def test_a_small_split_is_read_from_disk_once_and_a_large_one_every_time(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = SPEC.open(32, str(photos)).train
    monkeypatch.setattr(_images, "CACHE_LIMIT_BYTES", 3 * 3 * 32 * 32 - 1)
    large = SPEC.open(32, str(photos)).train
    before = read_all(small)
    np.testing.assert_array_equal(read_all(large), before)
    shutil.rmtree(photos)
    np.testing.assert_array_equal(read_all(small), before)
    with pytest.raises(BenchError, match=r"The file '.*' cannot be read \(No such file"):
        read_all(large)


def test_a_set_can_be_sent_to_another_process(photos: Path) -> None:
    images = SPEC.open(32, str(photos)).train
    before = read_all(images)
    message = pickle.dumps(images)
    assert len(message) < 2000, "the pixels travelled too"
    np.testing.assert_array_equal(read_all(pickle.loads(message)), before)


def test_a_linked_folder_is_not_followed_and_a_linked_file_is_read(photos: Path) -> None:
    (photos / "b" / "again").symlink_to(photos / "c d", target_is_directory=True)
    (photos / "link.png").symlink_to(photos / "a.png")
    (photos / "notes").symlink_to(photos / "nothing")
    opened = SPEC.open(32, str(photos))
    assert len(opened.train) + len(opened.reference) == len(NAMES) + 1


def test_a_link_that_leads_nowhere_is_named(photos: Path) -> None:
    (photos / "gone.png").symlink_to(photos / "nothing.png")
    with pytest.raises(BenchError, match=r"gone\.png"):
        SPEC.open(32, str(photos))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_named(photos: Path) -> None:
    (photos / "b").chmod(0)
    with pytest.raises(BenchError, match=r"'.*/b' cannot be listed"):
        SPEC.open(32, str(photos))
    (photos / "b").chmod(0o755)


# The split


@pytest.mark.parametrize(
    ("num_files", "num_reference"),
    [(2, 1), (3, 1), (9_999, 4_999), (10_000, 5_000), (49_000, 5_000), (60_000, 6_000), (600_000, 50_000)],
)
def test_the_reference_is_half_then_5000_then_a_tenth_then_50000(num_files: int, num_reference: int) -> None:
    split = split_by_hash(f"{number:06d}.png" for number in range(num_files))
    assert len(split.reference) == num_reference
    assert len(split.train) == num_files - num_reference
    together = np.concatenate([split.train, split.reference])
    np.testing.assert_array_equal(np.sort(together), np.arange(num_files))


def test_the_reference_is_the_files_with_the_smallest_sha256() -> None:
    names = [f"{number:03d}.png" for number in range(20)]
    smallest = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:10]
    assert [names[position] for position in split_by_hash(names).reference] == sorted(smallest)


def test_one_more_file_moves_at_most_one_other_across() -> None:
    names = [f"{number:03d}.png" for number in range(101)]
    before = {names[position] for position in split_by_hash(names[:100]).reference}
    after = {names[position] for position in split_by_hash(names).reference} - {names[100]}
    assert len(before ^ after) <= 1


def test_the_split_does_not_follow_the_order_of_the_files() -> None:
    reference = split_by_hash(f"{number:05d}.png" for number in range(10_000)).reference
    assert abs(reference.mean() - 5_000) < 200, "the reference should be spread over the whole list"


# The preparation


def test_the_centre_is_cropped_before_the_resize() -> None:
    wide = Image.new("RGB", (100, 40), (255, 0, 0))
    wide.paste((0, 0, 255), (30, 0, 70, 40))
    for image in (wide, wide.rotate(90, expand=True)):
        pixels = prepare(encode(image))
        assert (pixels[0] == 0).all()
        assert (pixels[2] == 255).all()


def test_the_resize_is_pillows_lanczos_of_the_crop() -> None:
    image = noise_image(75, 60)
    expected = image.crop((7, 0, 67, 60)).resize((32, 32), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(prepare(encode(image)), np.asarray(expected).transpose(2, 0, 1))


def test_an_image_of_the_right_size_is_not_touched() -> None:
    image = noise_image(64, 64)
    for file_format, options in (("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})):
        np.testing.assert_array_equal(
            prepare(encode(image, file_format, **options), 64), np.asarray(image).transpose(2, 0, 1)
        )


def test_transparency_is_put_on_black() -> None:
    image = Image.new("RGBA", (32, 32), (200, 100, 50, 0))
    image.paste((200, 100, 50, 255), (0, 0, 32, 16))
    image.paste((200, 100, 50, 128), (0, 24, 32, 32))
    for file_format, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
        pixels = prepare(encode(image, file_format, **options))
        np.testing.assert_array_equal(pixels[:, 0, 0], [200, 100, 50])
        np.testing.assert_array_equal(pixels[:, 20, 0], [0, 0, 0])
        np.testing.assert_allclose(pixels[:, 31, 0], [100, 50, 25], atol=1)


def test_a_transparent_colour_of_a_palette_or_of_grey_is_put_on_black() -> None:
    for mode, transparent, opaque in (("P", 3, 5), ("L", 90, 200)):
        image = Image.new(mode, (32, 32), transparent)
        if mode == "P":
            image.putpalette([value for entry in range(200) for value in (entry + 50,) * 3])
        image.paste(opaque, (0, 0, 32, 16))
        pixels = prepare(encode(image, "PNG", transparency=transparent))
        assert (pixels[:, 16:] == 0).all(), mode
        assert (pixels[:, :16] == (55 if mode == "P" else 200)).all(), mode


def test_grey_is_three_equal_channels_and_16_bit_grey_keeps_its_shades() -> None:
    shades = np.tile(np.arange(32, dtype=np.uint16), (32, 1))
    eight, sixteen = Image.fromarray((shades * 8).astype(np.uint8)), Image.fromarray(shades * 8 * 256 + 77)
    np.testing.assert_array_equal(prepare(encode(sixteen)), prepare(encode(eight)))
    np.testing.assert_array_equal(prepare(encode(eight)), np.broadcast_to(shades * 8, (3, 32, 32)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_upright_as_its_exif_says(orientation: int) -> None:
    upright = noise_image(32, 32)
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }.get(orientation, [])
    stored = upright
    for step in undo:
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for file_format, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        pixels = prepare(encode(stored, file_format, exif=exif, **options))
        np.testing.assert_array_equal(pixels, np.asarray(upright).transpose(2, 0, 1))


def test_every_mode_of_every_format_can_be_read() -> None:
    for file_format, modes in (
        ("JPEG", ("RGB", "L", "CMYK")),
        ("PNG", ("RGB", "RGBA", "L", "LA", "P", "1")),
        ("WEBP", ("RGB", "RGBA")),
        ("BMP", ("RGB", "L", "P", "1")),
    ):
        for mode in modes:
            pixels = prepare(encode(noise_image(40, 50, mode), file_format))
            assert pixels.shape == (3, 32, 32)
            assert pixels.std() > 1, f"{file_format} {mode} came out flat"


# Wrong inputs: one sentence each


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"folder:.*nowhere.*does not exist") as caught:
        SPEC.open(64, str(tmp_path / "nowhere"))
    one_sentence(caught.value)


def test_a_file_in_place_of_a_folder_is_one_sentence(photos: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder") as caught:
        SPEC.open(64, str(photos / "a.png"))
    one_sentence(caught.value)


def test_a_folder_with_too_few_images_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UsageError, match=r"no image .*at least 2") as caught:
        SPEC.open(64, str(tmp_path))
    one_sentence(caught.value)
    Image.new("RGB", (8, 8)).save(tmp_path / "only.png")
    with pytest.raises(UsageError, match=r"only one image .*at least 2") as caught:
        SPEC.open(64, str(tmp_path))
    one_sentence(caught.value)


def test_no_path_and_an_unknown_resolution_are_one_sentence(photos: Path) -> None:
    with pytest.raises(UsageError, match="folder:PATH"):
        SPEC.open(64, None)
    with pytest.raises(UsageError, match="--resolution 48"):
        SPEC.open(48, str(photos))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims that many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


def bmp_claiming(width: int, height: int) -> bytes:
    encoded = bytearray(encode(Image.new("RGB", (8, 8)), "BMP"))
    struct.pack_into("<ii", encoded, 18, width, height)
    return bytes(encoded)


def jpeg_claiming(width: int, height: int) -> bytes:
    encoded = encode(Image.new("RGB", (8, 8)), "JPEG")
    frame = encoded.index(b"\xff\xc0")
    return encoded[: frame + 5] + struct.pack(">HH", height, width) + encoded[frame + 9 :]


def webp_claiming(width: int, height: int) -> bytes:
    frames = [Image.new("RGB", (8, 8), shade) for shade in ("black", "white")]  # a still picture must fill its canvas
    encoded = bytearray(encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    encoded[24:30] = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return bytes(encoded)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
@pytest.mark.parametrize("size", [(9_500, 9_500), (16_000, 16_000)], ids=["above-once", "above-twice"])
def test_a_decompression_bomb_is_refused_by_name(photos: Path, suffix: str, size: tuple[int, int]) -> None:
    claim = {"png": png_claiming, "jpg": jpeg_claiming, "webp": webp_claiming, "bmp": bmp_claiming}[suffix]
    for name in NAMES:
        (photos / name).unlink()
    for name in ("bomb", "bomb2"):
        (photos / f"{name}.{suffix}").write_bytes(claim(*size))
    with warnings.catch_warnings(record=True) as printed:
        warnings.simplefilter("always")
        with pytest.raises(BenchError, match=rf"bomb2?\.{suffix}' is refused as a decompression bomb") as caught:
            read_all(SPEC.open(64, str(photos)).train)
    one_sentence(caught.value)
    assert not printed


def test_the_largest_allowed_image_is_not_called_a_bomb() -> None:
    with pytest.raises(BenchError, match="truncated or damaged"):
        prepare(png_claiming(9_459, 9_459))
    with pytest.raises(BenchError, match="decompression bomb"):
        prepare(png_claiming(9_460, 9_460))


@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_image_is_named_when_it_is_first_read(photos: Path, name: str) -> None:
    noise_image(60, 60).save(photos / name)
    whole = (photos / name).read_bytes()
    (photos / name).write_bytes(whole[: len(whole) // 2])
    opened = SPEC.open(32, str(photos))
    with pytest.raises(BenchError, match="truncated or damaged") as caught:
        [read_all(images) for images in (opened.train, opened.reference)]
    assert str(photos / name) in one_sentence(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello, world\n" * 50, b"\x89PNG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\0" * 1000],
    ids=["empty", "text", "four-bytes", "svg", "zeros"],
)
def test_a_file_that_is_no_image_is_named_when_it_is_first_read(photos: Path, content: bytes) -> None:
    (photos / "a.png").write_bytes(content)
    opened = SPEC.open(32, str(photos))
    with pytest.raises(BenchError, match=r"a\.png' is not a JPEG, PNG, WebP or BMP image") as caught:
        [read_all(images) for images in (opened.train, opened.reference)]
    one_sentence(caught.value)


def test_another_format_under_an_image_name_is_refused_and_a_wrong_suffix_is_not(photos: Path) -> None:
    with pytest.raises(BenchError, match="not a JPEG"):
        prepare(encode(noise_image(8, 8), "GIF"))
    (photos / "z.PNG").write_bytes((photos / "b/one.jpg").read_bytes())
    opened = SPEC.open(32, str(photos))
    assert len(colours_of(opened.train)) + len(colours_of(opened.reference)) == len(NAMES)


def test_the_images_beside_a_damaged_one_can_still_be_read(photos: Path) -> None:
    (photos / "a.png").write_bytes(b"")
    opened = SPEC.open(32, str(photos))
    complaints = []
    for images in (opened.train, opened.reference):
        for index in range(len(images)):
            try:
                assert images.read(np.array([index])).shape == (1, 3, 32, 32)
            except BenchError as error:
                complaints.append(str(error))
    assert len(complaints) == 1
    assert "a.png" in complaints[0]


def test_damaged_files_of_every_format_raise_nothing_but_a_named_error() -> None:
    generator = random.Random(0)
    complaints = []
    for file_format, mode in (
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("PNG", "RGBA"),
        ("PNG", "P"),
        ("WEBP", "RGB"),
        ("BMP", "P"),
    ):
        for content in damaged_copies(encode(noise_image(24, 20, mode), file_format), generator):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow may remark on broken metadata
                try:
                    assert prepare(content).shape == (3, 32, 32)
                except BenchError as error:
                    complaints.append(error)
    assert len(complaints) > 600
    assert all("The file 'x'" in one_sentence(error) for error in complaints)


def damaged_copies(whole: bytes, generator: random.Random) -> Iterator[bytes]:
    """100 copies that are cut off and 200 with a few wrong bytes, half of those among the first 64."""
    for _ in range(100):
        yield whole[: generator.randrange(len(whole))]
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(generator.choice((1, 4))):
            content[generator.randrange(generator.choice((64, len(whole))))] = generator.randrange(256)
        yield bytes(content)
