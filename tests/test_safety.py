"""Files from strangers: each attack on the reader is refused in one sentence that names the file."""

import copy
import gzip
import hashlib
import io
import os
import pickle
import tarfile
import tracemalloc
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.datasets import _safe_zip, celeba_64, cifar10, ffhq_128, folder
from bench.errors import BenchError

MIB = 2**20


@contextmanager
def refused(match):
    """The block must end in one sentence."""
    with pytest.raises(BenchError, match=match) as caught:
        yield
    text = str(caught.value)
    assert "\n" not in text and text.endswith("."), text


@contextmanager
def at_most(num_bytes):
    """Python may never hold more than that inside."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < num_bytes
    finally:
        tracemalloc.stop()


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    for name in ("ffhq-128", "cifar10", "celeba-64"):
        (tmp_path / "data" / name).mkdir(parents=True)
    return tmp_path / "data"


def png(side=128, seed=0):
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@contextmanager
def ffhq_zip(data):
    """The archive with four honest entries, open for more."""
    with zipfile.ZipFile(data / "ffhq-128" / "thumbnails128x128.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(f"{number:05d}.png", png(seed=number))
        yield archive


def read_all(opened):
    for images in (opened.train, opened.reference):
        images.read(np.arange(len(images)))


# ZIP bombs


def test_an_archive_of_honest_images_is_read(data):
    with ffhq_zip(data):
        pass
    read_all(ffhq_128.SPEC.open(128, None))


def test_an_entry_that_unpacks_to_a_thousand_times_its_size_is_refused_before_it_is_unpacked(data):
    with ffhq_zip(data) as archive:
        archive.writestr("bomb.png", bytes(32 * MIB))
    with refused(r"ZIP bomb: its entry 'bomb\.png' unpacks from [\d,]+ to 33,554,432 bytes"), at_most(4 * MIB):
        ffhq_128.SPEC.open(128, None)


def test_an_entry_that_unpacks_to_more_than_an_image_can_have_is_refused_before_it_is_unpacked(data):
    with ffhq_zip(data) as archive:
        archive.writestr("large.png", np.random.default_rng(0).bytes(3 * MIB + 1))
        archive.filelist[-1].file_size = 600 * MIB
    opened = ffhq_128.SPEC.open(128, None)
    with refused(r"large\.png' of '.*' unpacks to 629,145,600 bytes and is refused"), at_most(8 * MIB):
        read_all(opened)


@pytest.mark.parametrize("is_crc_forged", [False, True])
def test_an_entry_that_says_it_is_small_and_is_not_never_takes_more_memory_than_it_said(data, is_crc_forged):
    with ffhq_zip(data) as archive:
        archive.writestr("liar.png", bytes(128 * MIB))
        info = archive.filelist[-1]
        info.file_size = 1000
        if is_crc_forged:
            info.CRC = zlib.crc32(bytes(1000))
    opened = ffhq_128.SPEC.open(128, None)
    with refused(r"liar\.png' of '.*' (is not a JPEG|cannot be unpacked \(Bad CRC)"), at_most(8 * MIB):
        read_all(opened)


def test_entries_that_share_their_bytes_are_refused(data):
    with ffhq_zip(data) as archive:
        for number in range(100):
            twin = copy.copy(archive.filelist[0])
            twin.filename = f"twin{number}.png"
            archive.filelist.append(twin)
    with refused("ZIP bomb: its entries share their bytes"):
        ffhq_128.SPEC.open(128, None)


def test_a_bomb_in_an_archive_that_is_to_be_unpacked_is_refused_and_writes_nothing(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("set/data.mdb", bytes(32 * MIB))
    with refused("ZIP bomb"):
        _safe_zip.unpack_one(tmp_path / "x.zip", "set/data.mdb", tmp_path / "set" / "data.mdb")
    assert not (tmp_path / "set").exists()


# Names that lead out


@pytest.mark.parametrize("name", ["../out.png", "/etc/out.png", "a/../../out.png", "..\\out.png", "C:\\out.png"])
def test_a_zip_entry_that_leads_out_is_refused(data, name):
    with ffhq_zip(data) as archive:
        archive.writestr(name, png())
    with refused("leads out of it"):
        ffhq_128.SPEC.open(128, None)


@pytest.mark.parametrize("name", ["../out.mdb", "/out.mdb"])
def test_unpacking_refuses_an_archive_with_such_a_name_even_where_another_entry_is_wanted(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("set/data.mdb", b"x")
        archive.writestr(name, b"y")
    with refused("leads out of it"):
        _safe_zip.unpack_one(tmp_path / "x.zip", "set/data.mdb", tmp_path / "set" / "data.mdb")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.zip"]


def cifar_archive(data, members):
    """cifar-10-python.tar.gz with those members: (name, content or TarInfo type, link target)."""
    with tarfile.open(data / "cifar10" / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name, content, target in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes) and len(content) != 1:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = content, target
                archive.addfile(member)


BATCH = "cifar-10-batches-py/data_batch_1"


@pytest.mark.parametrize("name", ["../../data_batch_1", "/etc/data_batch_1", "cifar-10-batches-py/../../data_batch_1"])
def test_a_tar_entry_that_leads_out_is_refused(data, name):
    cifar_archive(data, [(name, b"content", "")])
    with refused(r"cifar-10-python\.tar\.gz' is refused: its entry '.*data_batch_1' leads out of it"):
        cifar10.SPEC.open(32, None)


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.SYMTYPE, BATCH),
        (tarfile.SYMTYPE, "data_batch_1"),
        (tarfile.LNKTYPE, "../../etc/passwd"),
        (tarfile.FIFOTYPE, ""),
        (tarfile.CHRTYPE, ""),
    ],
    ids=["out", "path-loop", "loop", "hard-link", "fifo", "device"],
)
def test_a_tar_entry_that_is_a_link_or_a_device_is_refused(data, kind, target):
    cifar_archive(data, [(BATCH, kind, target)])
    with refused("data_batch_1' is a link or a device"):
        cifar10.SPEC.open(32, None)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_tar_that_unpacks_to_far_more_than_cifar_is_refused_within_bounds(data, monkeypatch, kind):
    monkeypatch.setattr(cifar10, "_MAX_UNPACKED_BYTES", 4 * MIB)
    member = tarfile.TarInfo("cifar-10-batches-py/ignored")
    member.type, member.size = kind, 2**32
    with gzip.open(data / "cifar10" / "cifar-10-python.tar.gz", "wb", compresslevel=1) as archive:
        archive.write(member.tobuf(tarfile.GNU_FORMAT))
        for _ in range(64):
            archive.write(bytes(MIB))
    with refused("refused as a decompression bomb"), at_most(24 * MIB):
        cifar10.SPEC.open(32, None)


# Pickles


class Attack:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_cifar_pickle_is_refused_and_not_run_even_under_the_right_hash(data, protocol, monkeypatch):
    proof = data / "proof"
    content = pickle.dumps([Attack(f"touch {proof}")], protocol=protocol)
    cifar_archive(data, [(BATCH, content, "")])
    with refused("is not the published one"):  # as it would really be met
        cifar10.SPEC.open(32, None)
    monkeypatch.setattr(cifar10, "_PUBLISHED_MD5", {"data_batch_1": hashlib.md5(content).hexdigest()})
    with refused("is not a CIFAR-10 batch .*system, which no CIFAR-10 file needs"):
        cifar10.SPEC.open(32, None)
    assert not proof.exists()
    pickle.loads(content)
    assert proof.exists(), "the attack works where it is let"


# Large images


def test_a_real_image_of_100_megapixels_is_refused(tmp_path):
    """The bytes of the file are few: 12 MB of one-bit black, 3 kB of JPEG a megapixel."""
    for suffix, mode in (("png", "1"), ("jpg", "L"), ("bmp", "1")):
        (tmp_path / suffix).mkdir()
        for name in ("one", "two"):
            Image.new(mode, (10_000, 10_000)).save(tmp_path / suffix / f"{name}.{suffix}")
        with refused(rf"\.{suffix}' is refused as a decompression bomb.*100,000,000 pixels"):
            read_all(folder.SPEC.open(64, str(tmp_path / suffix)))


@pytest.mark.parametrize("chunk", [b"zTXt", b"iCCP"])
def test_a_bomb_in_the_notes_of_a_png_stays_within_bounds(tmp_path, chunk):
    """Pillow's own limit: what unpacks to more than a MiB of text, or is no profile, is dropped or refused."""
    honest = png(64)
    body = b"note\0\0" + zlib.compress(bytes(64 * MIB))
    bomb = len(body).to_bytes(4, "big") + chunk + body + zlib.crc32(chunk + body).to_bytes(4, "big")
    for name in ("one", "two"):
        (tmp_path / f"{name}.png").write_bytes(honest[:33] + bomb + honest[33:])
    with at_most(32 * MIB):
        try:
            read_all(folder.SPEC.open(64, str(tmp_path)))
        except BenchError as error:
            assert "\n" not in str(error)


# Links


def make_photos(path):
    path.mkdir(parents=True)
    for number in range(4):
        (path / f"{number}.png").write_bytes(png(32, number))
    return path


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_link_to_a_folder_that_it_lies_in_is_refused(tmp_path, target):
    photos = make_photos(tmp_path / "photos")
    (photos / "a").mkdir()
    (photos / "a" / "loop").symlink_to(target, target_is_directory=True)
    with refused(r"The link '.*/a/loop' is a loop, because it leads back to"):
        folder.SPEC.open(32, str(photos))


@pytest.mark.parametrize("name", ["loop", "loop.png"])
def test_links_that_lead_to_one_another_are_refused(tmp_path, name):
    photos = make_photos(tmp_path / "photos")
    (photos / name).symlink_to(photos / f"other_{name}")
    (photos / f"other_{name}").symlink_to(photos / name)
    with refused(rf"(The link '.*{name}' leads back to itself|{name}' cannot be read \(Too many levels)"):
        folder.SPEC.open(32, str(photos))


def test_a_loop_in_a_named_set_is_refused_and_a_set_that_is_a_loop_is_not_there(data, tmp_path):
    faces = make_photos(data / "celeba-64" / "img_align_celeba")
    (faces / "loop").symlink_to(data, target_is_directory=True)
    with refused("is a loop"):
        celeba_64.SPEC.open(64, None)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    with refused("does not exist"):
        folder.SPEC.open(32, str(tmp_path / "self"))


def test_the_path_of_a_set_may_itself_be_a_link(tmp_path):
    make_photos(tmp_path / "photos")
    (tmp_path / "link").symlink_to(tmp_path / "photos", target_is_directory=True)
    opened = folder.SPEC.open(32, str(Path(tmp_path / "link")))
    assert len(opened.train) + len(opened.reference) == 4
