"""Shards: every storage gives back the pixels it was given, lazily, in any process, and says where it is damaged."""

import os
import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.datasets._shards import (
    READERS,
    SUFFIXES,
    WRITERS,
    ShardedImages,
    automatic_storage,
    images_per_shard,
)
from bench.errors import BenchError

STORAGES = ["memmap", "zip", "lmdb"]
RESOLUTION = 16


def noise(num_images: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_images, 3, RESOLUTION, RESOLUTION), dtype=np.uint8)


def write(storage: str, folder: Path, images: np.ndarray, name: str = "shard") -> Path:
    path = folder / (name + SUFFIXES[storage])
    WRITERS[storage](path, iter(images), len(images))
    return path


def read_all(reader: object, num_images: int) -> np.ndarray:
    return reader.read(np.arange(num_images))


@pytest.mark.parametrize("storage", STORAGES)
def test_every_storage_gives_back_the_pixels_in_any_order_and_more_than_once(tmp_path: Path, storage: str) -> None:
    images = noise(23)
    reader = READERS[storage](write(storage, tmp_path, images), 23, RESOLUTION)
    np.testing.assert_array_equal(read_all(reader, 23), images)
    rows = np.array([22, 0, 7, 7, 3])
    np.testing.assert_array_equal(reader.read(rows), images[rows])
    assert reader.read(np.array([], dtype=np.int64)).shape == (0, 3, RESOLUTION, RESOLUTION)


@pytest.mark.parametrize("storage", ["memmap", "zip"])
def test_equal_images_give_equal_bytes_whenever_they_are_written(tmp_path: Path, storage: str) -> None:
    first = write(storage, tmp_path, noise(5), "first").read_bytes()
    assert write(storage, tmp_path, noise(5), "second").read_bytes() == first
    assert write(storage, tmp_path, noise(5, seed=1), "third").read_bytes() != first


def test_a_zip_shard_is_an_archive_that_other_programs_read(tmp_path: Path) -> None:
    images = noise(4)
    with zipfile.ZipFile(write("zip", tmp_path, images)) as archive:
        assert archive.testzip() is None
        assert [info.compress_type for info in archive.infolist()] == [zipfile.ZIP_STORED] * 4
        with archive.open("000002.webp") as file:
            np.testing.assert_array_equal(np.asarray(Image.open(file)).transpose(2, 0, 1), images[2])


@pytest.mark.parametrize("storage", STORAGES)
def test_writing_over_what_an_interrupted_writing_left_gives_the_new_images(tmp_path: Path, storage: str) -> None:
    write(storage, tmp_path, noise(9, seed=1))
    images = noise(4)
    reader = READERS[storage](write(storage, tmp_path, images), 4, RESOLUTION)
    np.testing.assert_array_equal(read_all(reader, 4), images)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_reader_that_was_read_from_can_be_pickled_and_takes_no_pixels_along(tmp_path: Path, storage: str) -> None:
    images = noise(50)
    reader = READERS[storage](write(storage, tmp_path, images), 50, RESOLUTION)
    read_all(reader, 50)
    pickled = pickle.dumps(reader)
    assert len(pickled) < 1000
    np.testing.assert_array_equal(read_all(pickle.loads(pickled), 50), images)


@pytest.mark.parametrize("storage", STORAGES)
def test_nothing_is_opened_before_it_is_read(tmp_path: Path, storage: str) -> None:
    path = write(storage, tmp_path, noise(3))
    path.unlink()
    reader = READERS[storage](path, 3, RESOLUTION)
    with pytest.raises(BenchError, match=r"shard.* cannot be read .*bench data verify"):
        reader.read(np.array([0]))


def sum_in_process(images: ShardedImages) -> int:
    return int(images.read(np.arange(len(images))).astype(np.int64).sum())


@pytest.mark.parametrize("storage", STORAGES)
def test_forked_processes_and_threads_read_what_the_parent_reads(tmp_path: Path, storage: str) -> None:
    """A child forks from a parent that has the shards open; threads share a first opening."""
    parts = [noise(size, seed=size) for size in (7, 1, 12)]
    paths = [write(storage, tmp_path, part, str(number)) for number, part in enumerate(parts)]
    readers = [READERS[storage](path, len(part), RESOLUTION) for path, part in zip(paths, parts, strict=True)]
    images = ShardedImages(readers, [7, 1, 12], RESOLUTION)
    expected = int(np.concatenate(parts).astype(np.int64).sum())
    assert sum_in_process(images) == expected
    child = os.fork()
    if child == 0:
        os._exit(0 if all(sum_in_process(images) == expected for _ in range(5)) else 1)
    assert all(sum_in_process(images) == expected for _ in range(5))
    assert os.waitpid(child, 0)[1] == 0
    again = pickle.loads(pickle.dumps(images))
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(sum_in_process, [again] * 8)) == {expected}


def test_spawned_processes_read_what_the_parent_reads(tmp_path: Path) -> None:
    sets = []
    for storage in STORAGES:
        path = write(storage, tmp_path, noise(6))
        sets.append(ShardedImages([READERS[storage](path, 6, RESOLUTION)], [6], RESOLUTION))
    expected = [sum_in_process(images) for images in sets]
    with get_context("spawn").Pool(1) as pool:
        assert pool.map(sum_in_process, sets) == expected


def test_an_index_finds_its_shard_and_one_outside_is_refused(tmp_path: Path) -> None:
    parts = [noise(size, seed=size) for size in (3, 1, 5)]
    readers = [
        READERS["memmap"](write("memmap", tmp_path, part, str(len(part))), len(part), RESOLUTION) for part in parts
    ]
    images = ShardedImages(readers, [3, 1, 5], RESOLUTION)
    everything = np.concatenate(parts)
    assert len(images) == 9
    for indices in ([0, 2, 3, 4, 8], [8, 0, 3, 3], []):
        np.testing.assert_array_equal(images.read(np.array(indices, dtype=np.int64)), everything[indices])
    for outside in (-1, 9):
        with pytest.raises(IndexError, match="0 to 8"):
            images.read(np.array([0, outside]))


def test_a_changed_byte_in_a_zip_shard_is_named_with_its_entry(tmp_path: Path) -> None:
    path = write("zip", tmp_path, noise(5))
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        content[archive.getinfo("000003.webp").header_offset + 200] ^= 1
    path.write_bytes(content)
    reader = READERS["zip"](path, 5, RESOLUTION)
    reader.read(np.array([0, 1, 2, 4]))
    with pytest.raises(BenchError, match=r"entry '000003.webp' of '.*shard.zip' is damaged .*CRC"):
        reader.read(np.array([3]))


@pytest.mark.parametrize(
    "change",
    [lambda whole: whole[:-1], lambda whole: whole[:10], lambda _: b"", lambda whole: whole + b"x"],
    ids=["shorter", "much-shorter", "empty", "longer"],
)
def test_a_zip_shard_of_another_length_is_one_sentence(tmp_path: Path, change: object) -> None:
    path = write("zip", tmp_path, noise(5))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BenchError, match=r"shard\.zip' (cannot be read|is not as it was written)"):
        READERS["zip"](path, 5, RESOLUTION).read(np.array([0]))


def test_a_damaged_value_in_an_lmdb_shard_is_named(tmp_path: Path) -> None:
    images = noise(5)
    path = write("lmdb", tmp_path, images)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"VP8L", b"VPXL"))
    with pytest.raises(BenchError, match=r"Image 2 of the shard '.*shard\.lmdb' is damaged"):
        READERS["lmdb"](path, 5, RESOLUTION).read(np.array([2]))
    write("lmdb", tmp_path, images, "short")
    with pytest.raises(BenchError, match=r"Image 5 of the shard .* is not there"):
        READERS["lmdb"](tmp_path / "short.lmdb", 6, RESOLUTION).read(np.array([5]))


def test_auto_is_memmap_up_to_200000_images_and_zip_beyond() -> None:
    assert automatic_storage(200_000) == "memmap"
    assert automatic_storage(200_001) == "zip"


@pytest.mark.parametrize("resolution", [32, 64, 128, 256])
@pytest.mark.parametrize("num_images", [2, 50_000, 202_599, 3_033_042])
def test_a_process_can_keep_every_shard_open_and_a_shard_stays_a_plain_zip(num_images: int, resolution: int) -> None:
    each = images_per_shard(num_images, resolution)
    assert -(-num_images // each) <= 256
    assert each < 65_535
    assert each * 3 * resolution**2 < 2**32
