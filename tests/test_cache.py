"""The cache of reference statistics: keyed by the whole protocol, checked when it is read, and never in the way."""

import dataclasses
import io
import itertools
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.datasets import folder, scenes
from bench.datasets._files import split_by_hash
from bench.datasets._spec import OpenDataset
from bench.errors import BenchError
from bench.metrics import _cache, _random_features, rfd_v1
from bench.metrics._cache import cached

PROTOCOL = {
    "metric": "rfd_v1",
    "weights_sha256": "ab" * 32,
    "resize": "none",
    "forward": "float32",
    "dataset": {"name": "scenes", "split": "reference", "preparation": "crop 148", "manifest_sha256": "cd" * 32},
    "selection": "fixed",
    "num_reference": 5000,
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of the test's own."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_cache, "_said", set())
    return tmp_path / "cache" / "statistics"


class Counted:
    """A computation that knows how often it was done."""

    def __init__(self, value=1.0):
        self.value = value
        self.num_calls = 0

    def __call__(self):
        self.num_calls += 1
        return {"mean": np.full(7, self.value), "scatter": np.arange(12.0).reshape(3, 4), "count": np.array(5000)}


class CountedImages:
    """An ImageSet that counts the images read from it."""

    def __init__(self, images):
        self.images = images
        self.num_read = 0

    def __len__(self):
        return len(self.images)

    def read(self, indices):
        self.num_read += len(indices)
        return self.images.read(indices)


def with_counted_reference(dataset):
    return dataclasses.replace(dataset, reference=CountedImages(dataset.reference))


def changed(protocol, path, value):
    head, *rest = path
    return protocol | {head: changed(protocol[head], rest, value) if rest else value}


def test_an_unchanged_protocol_is_computed_once_and_comes_back_bit_for_bit(cache):
    compute = Counted()
    first = cached(PROTOCOL, compute)
    second = cached(dict(reversed(PROTOCOL.items())), compute)
    assert compute.num_calls == 1
    assert set(first) == set(second) == {"mean", "scatter", "count"}
    for name, array in compute().items():
        assert second[name].dtype == array.dtype
        assert np.array_equal(second[name], array)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("metric",), "rfd_v2"),
        (("weights_sha256",), "ac" * 32),
        (("resize",), "bilinear"),
        (("forward",), "float16"),
        (("dataset", "name"), "folder"),
        (("dataset", "split"), "train"),
        (("dataset", "preparation"), "crop 178"),
        (("dataset", "manifest_sha256"), "ce" * 32),
        (("selection",), "first"),
        (("num_reference",), 4999),
        (("one_more",), None),
    ],
)
def test_another_field_is_another_entry(path, value):
    compute, other = Counted(1.0), Counted(2.0)
    cached(PROTOCOL, compute)
    assert cached(changed(PROTOCOL, path, value), other)["mean"][0] == 2.0
    assert cached(PROTOCOL, compute)["mean"][0] == 1.0
    assert (compute.num_calls, other.num_calls) == (1, 1)


def test_what_a_computation_raises_is_raised_and_nothing_is_kept(cache):
    def fail():
        raise BenchError("no weights")

    with pytest.raises(BenchError, match="no weights"):
        cached(PROTOCOL, fail)
    assert not cache.exists()


def entry(cache):
    (path,) = cache.iterdir()
    return path


def truncated(content):
    return content[:100]


def emptied(_):
    return b""


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def pickled(_):
    buffer = io.BytesIO()
    np.savez(buffer, mean=np.array([{"a": 1}], dtype=object))
    return buffer.getvalue()


@pytest.mark.parametrize("damage", [truncated, emptied, flipped, pickled])
def test_a_damaged_entry_is_said_once_and_computed_again(cache, caplog, damage):
    compute = Counted()
    cached(PROTOCOL, compute)
    path = entry(cache)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            path.write_bytes(damage(path.read_bytes()))
            assert cached(PROTOCOL, compute)["mean"][0] == 1.0
    assert compute.num_calls == 3
    assert [str(path) in record.message for record in caplog.records] == [True]
    assert cached(PROTOCOL, compute)["mean"][0] == 1.0
    assert compute.num_calls == 3, "the repaired entry is used"


def test_every_single_flipped_byte_gives_the_right_statistics_or_a_new_computation(cache):
    compute = Counted()
    cached(PROTOCOL, compute)
    path = entry(cache)
    whole = path.read_bytes()
    for position in range(0, len(whole), 17):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        found = cached(PROTOCOL, compute)
        assert np.array_equal(found["mean"], np.full(7, 1.0)), position
        assert np.array_equal(found["scatter"], np.arange(12.0).reshape(3, 4)), position


def test_an_entry_under_another_protocol_s_name_is_not_taken(cache, caplog):
    cached(PROTOCOL, Counted(1.0))
    first = entry(cache)
    other = Counted(2.0)
    cached(PROTOCOL | {"num_reference": 1}, other)
    (second,) = set(cache.iterdir()) - {first}
    shutil.copy(first, second)
    assert cached(PROTOCOL | {"num_reference": 1}, other)["mean"][0] == 2.0
    assert other.num_calls == 2
    assert "another protocol" in caplog.text


def test_a_folder_that_cannot_be_written_is_said_once_and_stops_nothing(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "file"))
    compute = Counted()
    for _ in range(3):
        assert cached(PROTOCOL, compute)["mean"][0] == 1.0
    assert compute.num_calls == 3
    written = [record.message for record in caplog.records if "cannot be written" in record.message]
    assert len(written) == 1
    assert "BENCH_CACHE" in written[0]


def test_a_user_without_a_home_has_no_cache_and_no_error(monkeypatch, caplog):
    def homeless(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("BENCH_CACHE")
    monkeypatch.setattr(Path, "home", classmethod(homeless))
    compute = Counted()
    cached(PROTOCOL, compute)
    cached(PROTOCOL, compute)
    assert compute.num_calls == 2
    assert caplog.text.count("Set BENCH_CACHE") == 1


def test_without_the_variable_it_lies_in_the_user_s_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("BENCH_CACHE")
    monkeypatch.setattr(Path, "home", classmethod(lambda _: tmp_path / "home"))
    cached(PROTOCOL, Counted())
    assert len(list((tmp_path / "home" / ".cache" / "gan-bench" / "statistics").glob("*.npz"))) == 1


# rfd_v1 through the cache


@pytest.fixture
def few(monkeypatch):
    """60 reference images instead of 5,000."""
    monkeypatch.setattr(rfd_v1, "NUM_IMAGES", 60)


def figures_of(prepared, images):
    scorer = prepared.scorer()
    scorer.update(images)
    return scorer.figures()


def test_the_second_preparation_on_scenes_reads_no_image_and_gives_the_same_figures(few):
    dataset = with_counted_reference(scenes.SPEC.open(32, None))
    first = rfd_v1.METRIC.prepare(dataset)
    assert dataset.reference.num_read == 60
    second = rfd_v1.METRIC.prepare(dataset)
    assert dataset.reference.num_read == 60
    assert second.protocol == first.protocol
    images = dataset.train.read(np.arange(60))
    assert figures_of(second, images) == figures_of(first, images)


def test_another_resolution_count_or_network_is_computed_anew(few, monkeypatch):
    rfd_v1.METRIC.prepare(scenes.SPEC.open(32, None))

    def num_read_of(resolution):
        dataset = with_counted_reference(scenes.SPEC.open(resolution, None))
        rfd_v1.METRIC.prepare(dataset)
        return dataset.reference.num_read

    assert num_read_of(32) == 0
    assert num_read_of(64) == 60
    monkeypatch.setattr(rfd_v1, "NUM_IMAGES", 70)
    assert num_read_of(32) == 70
    network = _random_features.checked_features()
    monkeypatch.setattr(rfd_v1, "checked_features", lambda: network)
    monkeypatch.setattr(_random_features, "WEIGHTS_SHA256", "0" * 64)
    assert num_read_of(32) == 70


@pytest.fixture
def photos(tmp_path):
    """A folder of 160 bitmaps, all of one size in bytes."""
    path = tmp_path / "photos"
    path.mkdir()
    images = scenes.SPEC.open(32, None).train.read(np.arange(160))
    for number, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(path / f"{number:03d}.bmp")
    return path


def opened_folder(path):
    return with_counted_reference(folder.SPEC.open(32, str(path)))


def repaint_one(photos):
    """Change one channel of one pixel of a reference image; the file keeps its size and its times."""
    names = sorted(path.name for path in photos.iterdir())
    path = photos / names[split_by_hash(names).reference[3]]
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-5] ^= 0x40
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def test_files_are_checked_by_their_pixels_without_a_pass_of_the_network(photos, monkeypatch):
    passes = itertools.count()
    features_of = rfd_v1.features_of

    def counted(network, images):
        next(passes)
        return features_of(network, images)

    monkeypatch.setattr(rfd_v1, "features_of", counted)
    first = rfd_v1.METRIC.prepare(opened_folder(photos))
    num_passes = next(passes)
    second = rfd_v1.METRIC.prepare(opened_folder(photos))
    assert num_passes >= 2
    assert next(passes) == num_passes + 1, "no batch went through the network"
    assert second.protocol == first.protocol


def test_one_changed_pixel_in_a_file_of_the_same_size_and_time_gives_another_value(photos):
    dataset = opened_folder(photos)
    first = rfd_v1.METRIC.prepare(dataset)
    repaint_one(photos)
    again = opened_folder(photos)
    assert again.protocol == dataset.protocol, "the manifest of names and sizes cannot know"
    second = rfd_v1.METRIC.prepare(again)
    assert second.protocol["reference_sha256"] != first.protocol["reference_sha256"]
    images = dataset.train.read(np.arange(80))
    values = [figures_of(prepared, images)["rfd_v1_biased"].value for prepared in (first, second)]
    assert values[0] != values[1]
    assert rfd_v1.METRIC.prepare(opened_folder(photos)).protocol == second.protocol


def test_a_reference_that_is_refused_is_refused_again(cache):
    class Noise:
        def __len__(self):
            return 100

        def read(self, indices):
            return np.random.default_rng(0).integers(0, 256, (100, 3, 32, 32), dtype=np.uint8)[indices]

    dataset = OpenDataset(train=Noise(), reference=Noise(), protocol={"version": "noise"})
    for _ in range(2):
        with pytest.raises(BenchError, match="look like noise"):
            rfd_v1.METRIC.prepare(dataset)
    assert not cache.exists()
