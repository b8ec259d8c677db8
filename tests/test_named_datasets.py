"""cifar10, celeba-64, ffhq-128, lsun-bedroom: small files of the published formats are read, absent ones are told."""

import hashlib
import io
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image

from bench.datasets import celeba_64, cifar10, ffhq_128, lsun_bedroom
from bench.errors import BenchError, MissingDataError, UsageError

MODULES = {"cifar10": cifar10, "celeba-64": celeba_64, "ffhq-128": ffhq_128, "lsun-bedroom": lsun_bedroom}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    for name in MODULES:
        (tmp_path / "data" / name).mkdir(parents=True)
    return tmp_path / "data"


def open_set(name: str, resolution: int | None = None) -> object:
    spec = MODULES[name].SPEC
    return spec.open(resolution or spec.default_resolution, None)


def read_all(images: object) -> np.ndarray:
    return images.read(np.arange(len(images)))


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def noise_image(width: int, height: int, seed: int) -> Image.Image:
    """Coarse noise, so that a lossy codec keeps it recognisable."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)


def prepared(encoded: bytes, box: tuple[int, int, int, int], resolution: int) -> np.ndarray:
    """What an image should come out as, told independently: this box of it, Lanczos."""
    cropped = Image.open(io.BytesIO(encoded)).convert("RGB").crop(box)
    resized = cropped.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return np.asarray(resized).transpose(2, 0, 1)


def assert_same_images(found: np.ndarray, expected: list[np.ndarray]) -> None:
    """Equal as sets of images."""
    assert sorted(image.tobytes() for image in found) == sorted(image.tobytes() for image in expected)


# What all four share


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("cifar10", ["cifar-10-python.tar.gz", "170 MB", "https://www.cs.toronto.edu/~kriz/cifar.html"]),
        ("celeba-64", ["img_align_celeba.zip", "1.4 GB", "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"]),
        ("ffhq-128", ["thumbnails128x128.zip", "1.95 GB", "https://github.com/NVlabs/ffhq-dataset"]),
        ("lsun-bedroom", ["bedroom_train_lmdb.zip", "46 GB", "https://github.com/fyu/lsun"]),
    ],
)
def test_absent_files_are_one_sentence_with_what_to_fetch_and_where_to_put_it(
    data: Path, name: str, facts: list[str]
) -> None:
    for folder_is_there in (True, False):
        with pytest.raises(MissingDataError) as caught:
            open_set(name)
        text = str(caught.value)
        for fact in [*facts, f"--dataset {name}", f"'{data / name}'", "--no-data", "BENCH_DATA"]:
            assert fact in text
        assert text.endswith(".")
        assert ". " not in text, "more than one sentence"
        assert "\n" not in text
        if folder_is_there:
            shutil.rmtree(data / name)


@pytest.mark.parametrize("setting", [None, ""])
def test_without_bench_data_the_files_belong_below_data_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCH_DATA", raising=False)
    if setting is not None:
        monkeypatch.setenv("BENCH_DATA", setting)
    with pytest.raises(MissingDataError) as caught:
        open_set("cifar10")
    assert f"'{tmp_path / 'data' / 'cifar10'}'" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "resolutions", "default"),
    [
        ("cifar10", (32,), 32),
        ("celeba-64", (32, 64, 128), 64),
        ("ffhq-128", (32, 64, 128, 256), 128),
        ("lsun-bedroom", (64, 128, 256), 128),
    ],
)
def test_shape_source_and_licence_are_known_without_the_files(
    data: Path, name: str, resolutions: tuple[int, ...], default: int
) -> None:
    spec = MODULES[name].SPEC
    assert (spec.resolutions, spec.default_resolution) == (resolutions, default)
    assert spec.source.startswith("https://")
    assert spec.licence
    assert not spec.takes_path
    with pytest.raises(UsageError, match=f"--resolution 48 .*--dataset {name}"):
        open_set(name, 48)


# CIFAR-10


def short_string(text: bytes) -> bytes:
    return b"U" + bytes([len(text)]) + text


def python2_pickle(rows: np.ndarray) -> bytes:
    """A batch as Python 2's cPickle wrote the published ones (protocol 2, byte strings, numpy.core).

    Args:
        rows: uint8 [n, 3072].
    """
    labels = b"".join(b"K" + bytes([row % 10]) for row in range(len(rows)))
    names = b"".join(short_string(b"photo_s_%06d.png" % row) for row in range(len(rows)))
    dtype = b"cnumpy\ndtype\n" + short_string(b"u1") + b"K\x00K\x01\x87R(K\x03" + short_string(b"|")
    dtype += b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + short_string(b"b") + b"\x87R"
    array += b"(K\x01M" + struct.pack("<H", len(rows)) + b"M" + struct.pack("<H", 3072) + b"\x86" + dtype
    array += b"\x89T" + struct.pack("<I", rows.size) + rows.tobytes() + b"tb"
    batch = b"\x80\x02}(" + short_string(b"batch_label") + short_string(b"training batch 1 of 5")
    batch += short_string(b"labels") + b"](" + labels + b"e" + short_string(b"data") + array
    return batch + short_string(b"filenames") + b"](" + names + b"eu."


def write_cifar(folder: Path, batches: dict[str, bytes]) -> dict[str, str]:
    """The archive, and the MD5 of its batches."""
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name, content in {"batches.meta": b"(dp0\n.", **batches}.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return {name: hashlib.md5(content).hexdigest() for name, content in batches.items()}


@pytest.fixture
def rows() -> dict[str, np.ndarray]:
    """Batch name → uint8 [4, 3072]; the shuffled order of names is not that of the archive."""
    generator = np.random.default_rng(0)
    names = ["data_batch_2", "test_batch", "data_batch_1", "data_batch_3", "data_batch_5", "data_batch_4"]
    return {name: generator.integers(0, 256, (4, 3072), dtype=np.uint8) for name in names}


def test_the_small_batches_of_these_tests_are_pickles_that_numpy_reads(rows: dict[str, np.ndarray]) -> None:
    content = pickle.loads(
        python2_pickle(rows["test_batch"]).replace(b"K\x00K\x01\x87R(", b"\x89\x88\x87R("), encoding="bytes"
    )
    np.testing.assert_array_equal(content[b"data"], rows["test_batch"])
    assert content[b"labels"] == [0, 1, 2, 3]


@pytest.mark.parametrize("is_extracted", [False, True], ids=["archive", "folder"])
def test_cifar10_is_the_training_batches_in_order_and_the_test_batch(
    data: Path, rows: dict[str, np.ndarray], is_extracted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = data / "cifar10"
    md5 = write_cifar(folder, {name: python2_pickle(batch) for name, batch in rows.items()})
    if is_extracted:
        with tarfile.open(folder / "cifar-10-python.tar.gz") as archive:
            archive.extractall(folder, filter="data")
        (folder / "cifar-10-python.tar.gz").unlink()
    monkeypatch.setattr(cifar10, "_PUBLISHED_MD5", md5)
    opened = open_set("cifar10")
    train = np.concatenate([rows[f"data_batch_{number}"] for number in range(1, 6)]).reshape(20, 3, 32, 32)
    np.testing.assert_array_equal(read_all(opened.train), train)
    np.testing.assert_array_equal(opened.train.read(np.array([7, 0, 7])), train[[7, 0, 7]])
    np.testing.assert_array_equal(read_all(opened.reference), rows["test_batch"].reshape(4, 3, 32, 32))
    assert opened.protocol["num_train_images"] == 20
    assert opened.protocol["num_reference_images"] == 4
    assert "test set" in opened.protocol["split"]


def test_a_fortran_ordered_batch_is_read_as_numpy_would(data: Path, rows: dict[str, np.ndarray]) -> None:
    batch = np.asfortranarray(rows["test_batch"])
    transposed = np.ascontiguousarray(batch.T).reshape(4, 3072)  # the same bytes as the Fortran-ordered array
    content = python2_pickle(transposed).replace(b"\x89T", b"\x88T")
    np.testing.assert_array_equal(cifar10._images_of(content, "x").reshape(4, 3072), batch)


def test_a_batch_that_is_not_the_published_one_is_refused_with_both_hashes(
    data: Path, rows: dict[str, np.ndarray]
) -> None:
    md5 = write_cifar(data / "cifar10", {name: python2_pickle(batch) for name, batch in rows.items()})
    with pytest.raises(BenchError, match="is not the published one") as caught:
        open_set("cifar10")
    first = "data_batch_2"
    assert md5[first] in str(caught.value)
    assert cifar10._PUBLISHED_MD5[first] in str(caught.value)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("this must never be printed",)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (pickle.dumps([Evil()], protocol=2), "__builtin__.print"),
        (pickle.dumps([Evil()], protocol=4), "builtins.print"),
        (pickle.dumps(np.zeros((2, 3072), np.uint8), protocol=4), "numpy._core"),
        (pickle.dumps({b"labels": [1]}, protocol=2, fix_imports=True), "_codecs.encode"),
        (python2_pickle(np.zeros((1, 3072), np.uint8)).replace(b"M\x00\x0c", b"M\x01\x0c"), "rows of 3072"),
        (python2_pickle(np.zeros((1, 3072), np.uint8)).replace(b"M\x01\x00", b"M\x02\x00"), "reshape"),
        (python2_pickle(np.zeros((1, 3072), np.uint8)).replace(b"u1", b"O8"), "uint8"),
        (python2_pickle(np.zeros((1, 3072), np.uint8))[:-500], "truncated|exhausted|ran out"),
        (b"}.", "data"),
        (b"", "Ran out"),
    ],
    ids=["evil", "evil-4", "numpy-2", "python-3", "columns", "rows", "object", "cut-off", "no-data", "empty"],
)
def test_a_pickle_with_anything_else_in_it_is_refused_and_not_run(
    data: Path, capsys: pytest.CaptureFixture[str], content: bytes, complaint: str
) -> None:
    md5 = write_cifar(data / "cifar10", {"data_batch_1": content})
    with pytest.raises(BenchError, match=rf"data_batch_1.* is not a CIFAR-10 batch \(.*({complaint})"):
        cifar10._read(data / "cifar10", md5)
    assert capsys.readouterr().out == ""


def test_a_cut_off_archive_and_a_missing_batch_are_named(data: Path, rows: dict[str, np.ndarray]) -> None:
    folder = data / "cifar10"
    md5 = write_cifar(folder, {name: python2_pickle(batch) for name, batch in rows.items()})
    with pytest.raises(BenchError, match="lacks 'cifar-10-batches-py/data_batch_6'"):
        cifar10._read(folder, {**md5, "data_batch_6": "0"})
    archive = folder / "cifar-10-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[:3000])
    with pytest.raises(BenchError, match=r"CIFAR-10 in '.*' cannot be read"):
        cifar10._read(folder, md5)
    archive.write_bytes(b"<html>404</html>")
    with pytest.raises(BenchError, match=r"CIFAR-10 in '.*' cannot be read"):
        cifar10._read(folder, md5)


# CelebA


def write_celeba(folder: Path, num_images: int = 6) -> list[bytes]:
    """Aligned 178×218 JPEGs as in the archive, 000001.jpg first."""
    files = [encode(noise_image(178, 218, seed), "JPEG", quality=90) for seed in range(num_images)]
    (folder / "img_align_celeba").mkdir()
    for number, content in enumerate(files, start=1):
        (folder / "img_align_celeba" / f"{number:06d}.jpg").write_bytes(content)
    return files


@pytest.mark.parametrize("resolution", [32, 64, 128])
def test_celeba_is_the_centre_148_of_every_aligned_image(data: Path, resolution: int) -> None:
    files = write_celeba(data / "celeba-64")
    opened = open_set("celeba-64", resolution)
    expected = [prepared(content, (15, 35, 163, 183), resolution) for content in files]
    assert_same_images(np.concatenate([read_all(opened.train), read_all(opened.reference)]), expected)
    assert len(opened.train) == len(opened.reference) == 3
    assert "148 px" in opened.protocol["preparation"]
    assert "SHA-256" in opened.protocol["split"]


def test_celeba_takes_the_official_split_when_its_list_is_there(data: Path) -> None:
    files = write_celeba(data / "celeba-64")
    partitions = [0, 0, 1, 2, 0, 2]
    lines = [f"{number:06d}.jpg {partition}" for number, partition in enumerate(partitions, start=1)]
    (data / "celeba-64" / "list_eval_partition.txt").write_text("\n".join([*lines, "000007.jpg 0"]) + "\n")
    opened = open_set("celeba-64")
    expected = np.stack([prepared(content, (15, 35, 163, 183), 64) for content in files])
    np.testing.assert_array_equal(read_all(opened.train), expected[[0, 1, 4]])
    np.testing.assert_array_equal(read_all(opened.reference), expected[[2, 3, 5]])
    assert opened.protocol["split"].startswith("official")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("000001.jpg 0\n000002.jpg 3\n", "Line 2 of"),
        ("000001.jpg\n", "Line 1 of"),
        ("000001.jpg 0\n000002.jpg 1\n", "does not list '000003.jpg'"),
        ("".join(f"{number:06d}.jpg 0\n" for number in range(1, 7)), "all of one split"),
        ("", "does not list '000001.jpg'"),
    ],
)
def test_a_celeba_split_list_that_does_not_fit_is_one_sentence(data: Path, text: str, complaint: str) -> None:
    write_celeba(data / "celeba-64")
    (data / "celeba-64" / "list_eval_partition.txt").write_text(text)
    with pytest.raises(BenchError, match=complaint):
        open_set("celeba-64")


def test_faces_of_another_size_are_not_taken_for_celeba(data: Path) -> None:
    write_celeba(data / "celeba-64")
    noise_image(256, 256, 0).save(data / "celeba-64" / "img_align_celeba" / "000002.jpg")
    opened = open_set("celeba-64")
    with pytest.raises(BenchError, match=r"000002\.jpg' is 256×256 px where this data set has 178×218"):
        [read_all(images) for images in (opened.train, opened.reference)]


# Folders and archives


def write_zip(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def ffhq_entries(num_images: int = 8, side: int = 128) -> dict[str, bytes]:
    """Entries as in the published archive: folders of a thousand, PNG."""
    return {
        f"{number // 1000:02d}000/{number:05d}.png": encode(noise_image(side, side, number), "PNG")
        for number in range(num_images)
    }


@pytest.mark.parametrize("first_folder", ["", "thumbnails128x128/"])
def test_ffhq_is_the_same_from_a_folder_and_from_an_archive(data: Path, first_folder: str) -> None:
    entries = ffhq_entries()
    clutter = {"LICENSE.txt": b"CC", "__MACOSX/._00000.png": b"junk", f"{first_folder}00000/": b""}
    write_zip(
        data / "ffhq-128" / "thumbnails128x128.zip",
        {**{first_folder + name: content for name, content in entries.items()}, **clutter},
        zipfile.ZIP_DEFLATED,
    )
    from_zip = open_set("ffhq-128")
    images = read_all(from_zip.train), read_all(from_zip.reference)
    expected = [prepared(content, (0, 0, 128, 128), 128) for content in entries.values()]
    assert_same_images(np.concatenate(images), expected)
    (data / "ffhq-128" / "thumbnails128x128.zip").unlink()
    for name, content in entries.items():
        path = data / "ffhq-128" / "thumbnails128x128" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    from_folder = open_set("ffhq-128")
    assert from_folder.protocol == from_zip.protocol
    np.testing.assert_array_equal(read_all(from_folder.train), images[0])
    np.testing.assert_array_equal(read_all(from_folder.reference), images[1])


def test_ffhq_at_256_px_needs_the_originals_and_smaller_sizes_prefer_the_thumbnails(data: Path) -> None:
    write_zip(data / "ffhq-128" / "thumbnails128x128.zip", ffhq_entries())
    with pytest.raises(MissingDataError, match=r"images1024x1024.* \(89 GB\)"):
        open_set("ffhq-128", 256)
    originals = ffhq_entries(2, side=1024)
    write_zip(data / "ffhq-128" / "images1024x1024.zip", originals)
    assert "thumbnails128x128" in open_set("ffhq-128", 64).protocol["selection"]
    opened = open_set("ffhq-128", 256)
    assert "images1024x1024" in opened.protocol["selection"]
    expected = [prepared(content, (0, 0, 1024, 1024), 256) for content in originals.values()]
    assert_same_images(np.concatenate([read_all(opened.train), read_all(opened.reference)]), expected)


def test_all_70000_files_of_ffhq_are_split_as_the_authors_say() -> None:
    names = sorted(f"{number // 1000:02d}000/{number:05d}.png" for number in range(70_000))
    split = ffhq_128._split(names)
    assert split.description.startswith("official")
    assert (len(split.train), len(split.reference)) == (60_000, 10_000)
    assert names[split.train[-1]] == "59000/59999.png"
    assert names[split.reference[0]] == "60000/60000.png"
    incomplete = ffhq_128._split(names[:-1])
    assert "SHA-256" in incomplete.description


@pytest.mark.parametrize("name", ["../outside.png", "/etc/outside.png", "00000/../../outside.png", "..\\outside.png"])
def test_an_archive_whose_names_lead_out_of_it_is_refused(data: Path, name: str) -> None:
    write_zip(data / "ffhq-128" / "thumbnails128x128.zip", {**ffhq_entries(), name: b"x"})
    with pytest.raises(BenchError, match="leads out of it") as caught:
        open_set("ffhq-128")
    assert name in str(caught.value)


def test_a_broken_archive_and_a_broken_entry_are_named(data: Path) -> None:
    path = data / "ffhq-128" / "thumbnails128x128.zip"
    entries = ffhq_entries()
    write_zip(path, entries)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BenchError, match=r"thumbnails128x128\.zip' cannot be read"):
        open_set("ffhq-128")
    content = entries["00000/00003.png"]
    path.write_bytes(whole.replace(content, content[:-30] + bytes(30)))
    opened = open_set("ffhq-128")
    with pytest.raises(BenchError, match=r"00000/00003\.png' of '.*\.zip' cannot be unpacked \(Bad CRC"):
        [read_all(images) for images in (opened.train, opened.reference)]


def test_an_entry_that_unpacks_to_more_than_an_image_can_have_is_refused(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.datasets._safe_zip.MAX_ENTRY_BYTES", 10**6)
    entries = {**ffhq_entries(), "00000/00003.png": bytes(10**6 + 1)}
    write_zip(data / "ffhq-128" / "thumbnails128x128.zip", entries, zipfile.ZIP_DEFLATED)
    opened = open_set("ffhq-128")
    with pytest.raises(BenchError, match=r"00003\.png' of '.*' unpacks to 1,000,001 bytes and is refused"):
        [read_all(images) for images in (opened.train, opened.reference)]


# LSUN


def write_lsun(folder: Path, num_images: int = 8) -> dict[bytes, bytes]:
    """The training database: 40 hexadecimal characters → WebP or JPEG with a short side of 256."""
    values = {}
    for seed in range(num_images):
        image = noise_image(341, 256, seed) if seed % 3 else noise_image(256, 320, seed)
        key = hashlib.sha1(bytes([seed])).hexdigest().encode()
        values[key] = encode(image, "JPEG" if seed % 2 else "WEBP", quality=75)
    write_lmdb(folder / "bedroom_train_lmdb", values)
    return values


def write_lmdb(path: Path, values: dict[bytes, bytes]) -> None:
    with lmdb.open(str(path), map_size=2**26) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)


def centre_box(encoded: bytes) -> tuple[int, int, int, int]:
    width, height = Image.open(io.BytesIO(encoded)).size
    left, top = (width - 256) // 2, (height - 256) // 2
    return left, top, left + 256, top + 256


@pytest.mark.parametrize("resolution", [64, 128, 256])
def test_lsun_is_every_value_of_the_database_webp_or_jpeg(data: Path, resolution: int) -> None:
    values = write_lsun(data / "lsun-bedroom")
    opened = open_set("lsun-bedroom", resolution)
    expected = [prepared(content, centre_box(content), resolution) for content in values.values()]
    assert_same_images(np.concatenate([read_all(opened.train), read_all(opened.reference)]), expected)
    assert len(opened.train) == len(opened.reference) == 4
    assert "bedroom_val_lmdb is not used" in opened.protocol["selection"]


def test_lsun_images_are_in_key_order_and_the_same_when_opened_twice(data: Path) -> None:
    values = write_lsun(data / "lsun-bedroom")
    first, second = open_set("lsun-bedroom"), open_set("lsun-bedroom")
    assert first.protocol == second.protocol
    np.testing.assert_array_equal(read_all(first.train), read_all(second.train))
    reference = sorted(sorted(values, key=lambda key: hashlib.sha256(key).hexdigest())[:4])
    expected = [prepared(values[key], centre_box(values[key]), 128) for key in reference]
    np.testing.assert_array_equal(read_all(first.reference), np.stack(expected))


def test_lsun_can_be_sent_to_another_process(data: Path) -> None:
    write_lsun(data / "lsun-bedroom")
    images = open_set("lsun-bedroom").train
    np.testing.assert_array_equal(read_all(pickle.loads(pickle.dumps(images))), read_all(images))


def test_a_cut_off_lsun_database_is_a_sentence_and_not_a_killed_process(data: Path) -> None:
    write_lsun(data / "lsun-bedroom")
    file = data / "lsun-bedroom" / "bedroom_train_lmdb" / "data.mdb"
    whole = file.read_bytes()
    for num_bytes in (len(whole) // 2, 100, 0):
        file.write_bytes(whole[:num_bytes])
        with pytest.raises(BenchError, match=r"bedroom_train_lmdb' (is cut off|cannot be read)"):
            open_set("lsun-bedroom")


@pytest.mark.parametrize("values", [{b"a": b"x", b"b": b"y"}, {b"0" * 40: b"x"}], ids=["short-keys", "one-image"])
def test_a_database_that_is_not_lsuns_is_refused(data: Path, values: dict[bytes, bytes]) -> None:
    write_lmdb(data / "lsun-bedroom" / "bedroom_train_lmdb", values)
    with pytest.raises(BenchError, match="is not LSUN's"):
        open_set("lsun-bedroom")


def test_a_damaged_value_is_named_by_its_key(data: Path) -> None:
    values = write_lsun(data / "lsun-bedroom")
    key = min(values)
    write_lmdb(data / "lsun-bedroom" / "bedroom_train_lmdb", {key: values[key][:200]})
    opened = open_set("lsun-bedroom")
    with pytest.raises(
        BenchError, match=rf"The image '{key.decode()}' of '.*bedroom_train_lmdb' is truncated or damaged"
    ):
        [read_all(images) for images in (opened.train, opened.reference)]


# Processes

FORKING_READER = """
import os, sys
import numpy as np
from bench.datasets import ffhq_128, lsun_bedroom
opened = {"ffhq-128": ffhq_128, "lsun-bedroom": lsun_bedroom}[sys.argv[1]].SPEC.open(128, None)
everything = np.arange(len(opened.train))
children = []
for child in range(4):
    pid = os.fork()
    if pid == 0:  # nothing is in memory yet: each child reads every file through a handle of its own
        sums = [int(opened.train.read(everything).sum()) for _ in range(5)]
        os._exit(0 if len(set(sums)) == 1 else 1)
    children.append(pid)
own = [int(opened.train.read(everything).sum()) for _ in range(5)]
sys.exit(sum(os.waitpid(pid, 0)[1] for pid in children) + len(set(own)) - 1)
"""


@pytest.mark.parametrize("name", ["ffhq-128", "lsun-bedroom"])
def test_forked_processes_read_at_the_same_time_without_disturbing_each_other(data: Path, name: str) -> None:
    write_lsun(data / "lsun-bedroom", 30)
    write_zip(data / "ffhq-128" / "thumbnails128x128.zip", ffhq_entries(60))
    script = FORKING_READER.replace(
        "import os, sys", "import os, sys\nimport bench.datasets._images as images\nimages.CACHE_LIMIT_BYTES = 0"
    )
    result = subprocess.run([sys.executable, "-c", script, name], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
