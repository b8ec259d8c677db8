"""Batches: order and content are a function of images shown, however many workers read them and however they start."""

import gc
import hashlib
import io
import os
import pickle
import signal
import warnings
import zipfile
from pathlib import Path

import lmdb
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from bench.datasets import cifar10, ffhq_128, folder, lsun_bedroom
from bench.datasets._manifest import prepared_folder
from bench.datasets._shards import open_manifest
from bench.errors import BenchError, UsageError
from bench.preparation import Options, prepare
from bench.training import feed as feeds
from bench.training.distributed import ALONE, World
from bench.training.feed import InPlace, Loading, Prefetched, Resident, open_feed
from bench.training.images import to_networks
from bench.training.randomness import training_order
from bench.training.workers import WorkerProcesses

SEED, BATCH_SIZE = 3, 8
WAYS = [
    (0, "thread"),
    (1, "thread"),
    (2, "thread"),
    (1, "fork"),
    (2, "fork"),
]


class Numbers:
    """Forty images of 4×4 px, each of its own number; of module level, so that spawned processes find it."""

    def __len__(self):
        return 40

    def read(self, indices):
        return np.broadcast_to(indices.astype(np.uint8)[:, None, None, None], (len(indices), 3, 4, 4)).copy()


class Together:
    """Several sets of equal shape, one after the other."""

    def __init__(self, *parts):
        self.parts = parts

    def __len__(self):
        return sum(map(len, self.parts))

    def read(self, indices):
        whole = [(part, row) for part in self.parts for row in range(len(part))]
        return np.concatenate([part.read(np.array([row])) for part, row in (whole[index] for index in indices)])


class Damaged(Numbers):
    def read(self, indices):
        if (indices == 17).any():
            raise BenchError("The file 'seventeen.png' is truncated or damaged: remove or replace it.")
        return super().read(indices)


class Mortal(Numbers):
    """Kills its reader as the kernel does that has no memory left."""

    def __init__(self):
        self.parent = os.getpid()

    def read(self, indices):
        if os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(indices)


def noise_png(side, seed, file_format="PNG", **options):
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, file_format, **options)
    return stream.getvalue()


def open_images(images, loading, position=0, world=ALONE):
    return open_feed(
        images, seed=SEED, batch_size=BATCH_SIZE, position=position, device="cpu", world=world, loading=loading
    )


def batches(images, loading, num_batches, position=0, world=ALONE):
    """That many batches, as uint8 [n, b, 3, h, w]."""
    feed = open_images(images, loading, position, world)
    try:
        found = [feed.next() for _ in range(num_batches)]
    finally:
        feed.close()
    assert all(batch.dtype == torch.float32 and batch.min() >= -1 and batch.max() <= 1 for batch in found)
    return torch.stack(found).add(1).mul(127.5).round().to(torch.uint8).numpy()


def expected(images, num_batches, position=0, share=slice(None)):
    """What must come, told without a feed."""
    order = training_order(len(images), SEED, position, num_batches * BATCH_SIZE).reshape(num_batches, BATCH_SIZE)
    return np.stack([images.read(row[share]) for row in order])


def folder_set(home):
    for number in range(24):
        (home / f"{number:02d}.png").write_bytes(noise_png(64, number))
    return folder.SPEC.open(64, str(home))


def zip_set(home):
    (home / "ffhq-128").mkdir()
    with zipfile.ZipFile(home / "ffhq-128" / "thumbnails128x128.zip", "w") as archive:
        for number in range(24):
            archive.writestr(f"{number:05d}.png", noise_png(128, number))
    return ffhq_128.SPEC.open(64, None)


def lmdb_set(home):
    path = home / "lsun-bedroom" / "bedroom_train_lmdb"
    path.mkdir(parents=True)
    with lmdb.open(str(path), map_size=2**26) as environment, environment.begin(write=True) as transaction:
        for number in range(24):
            key = hashlib.sha1(bytes([number])).hexdigest().encode()
            transaction.put(key, noise_png(256, number, "JPEG" if number % 2 else "WEBP", quality=75))
    return lsun_bedroom.SPEC.open(64, None)


def prepared_sets(home):
    """The set of `zip_set` prepared in shards of five images: storage → training images."""
    found = {}
    for storage in ("memmap", "zip", "lmdb"):
        options = Options(resolution=64, storage=storage, num_workers=0, data=home / storage, num_images_per_shard=5)
        manifest = prepare("ffhq-128", ffhq_128.SPEC, options, lambda _text: None)
        found[storage] = open_manifest(prepared_folder("ffhq-128", 64, home / storage), manifest).train
    return found


@pytest.fixture(params=[folder_set, zip_set, lmdb_set], ids=["folder", "zip", "lmdb"])
def files(request, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    return request.param(tmp_path).train


# The same order and content


@pytest.mark.parametrize(("num_workers", "start_method"), WAYS)
def test_order_and_content_are_the_same_for_any_workers_and_every_kind_of_file(files, num_workers, start_method):
    """Five batches of twelve images: past the end of the third epoch."""
    wanted = expected(pickle.loads(pickle.dumps(files)), 5)
    assert len(files) == 12
    found = batches(files, Loading(num_workers=num_workers, start_method=start_method), 5)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("storage", ["memmap", "zip", "lmdb"])
def test_prepared_images_come_as_those_of_the_source_for_any_workers(tmp_path, monkeypatch, storage):
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    wanted = expected(zip_set(tmp_path).train, 4)
    for num_workers, start_method in WAYS:
        images = prepared_sets(tmp_path)[storage]  # anew: nothing is open yet when the workers start
        found = batches(images, Loading(num_workers=num_workers, start_method=start_method), 4)
        np.testing.assert_array_equal(found, wanted)


def test_spawned_workers_read_the_same_from_every_kind_of_file_and_storage(tmp_path, monkeypatch):
    """One start for all: a spawned process imports torch anew."""
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    (tmp_path / "photos").mkdir()
    sources = [folder_set(tmp_path / "photos").train, zip_set(tmp_path).train, lmdb_set(tmp_path).train]
    images = Together(*sources, *prepared_sets(tmp_path).values())
    wanted = expected(Together(*sources, *[sources[1]] * 3), 9, position=20)
    found = batches(images, Loading(num_workers=2, start_method="spawn"), 9, position=20)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("num_workers", "start_method"), WAYS)
@pytest.mark.parametrize("position", [0, 16, 37])
def test_a_resumed_training_goes_on_at_the_very_image(num_workers, start_method, position):
    loading = Loading(num_workers=num_workers, start_method=start_method)
    np.testing.assert_array_equal(batches(Numbers(), loading, 7, position), expected(Numbers(), 7, position))


@pytest.mark.parametrize(("num_workers", "start_method"), WAYS)
def test_each_of_several_processes_gets_its_share_of_every_batch(num_workers, start_method):
    loading = Loading(num_workers=num_workers, start_method=start_method)
    parts = [batches(Numbers(), loading, 6, world=World(rank=rank, size=2)) for rank in range(2)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), expected(Numbers(), 6))


@pytest.mark.parametrize("place", ["auto", "storage", "memory", "device"])
@pytest.mark.parametrize(("num_workers", "start_method"), [(0, "thread"), (1, "thread"), (1, "fork")])
def test_where_the_images_lie_changes_none_of_them(place, num_workers, start_method):
    loading = Loading(num_workers=num_workers, start_method=start_method, place=place)
    np.testing.assert_array_equal(batches(Numbers(), loading, 11), expected(Numbers(), 11))


def test_every_way_of_reading_is_the_one_that_was_asked_for():
    kinds = {
        Loading(): Prefetched,
        Loading(num_workers=0): InPlace,
        Loading(num_workers=3): Prefetched,
        Loading(start_method="fork"): WorkerProcesses,
        Loading(place="memory"): Prefetched,
        Loading(place="device"): Resident,
        None: Prefetched,
    }
    for loading, kind in kinds.items():
        feed = open_images(Numbers(), loading)
        assert type(feed) is kind
        feed.close()


def test_workers_leave_the_global_random_numbers_alone():
    """Else a training would depend on how its images are read."""
    torch.manual_seed(0)
    wanted = torch.rand(3)
    for num_workers, start_method in WAYS:
        torch.manual_seed(0)
        batches(Numbers(), Loading(num_workers=num_workers, start_method=start_method), 2)
        assert torch.equal(torch.rand(3), wanted)


# What can go wrong


@pytest.mark.parametrize(("num_workers", "start_method"), WAYS)
def test_a_damaged_image_is_the_same_sentence_from_every_worker(num_workers, start_method):
    with pytest.raises(BenchError) as caught:
        batches(Damaged(), Loading(num_workers=num_workers, start_method=start_method), 5)
    assert str(caught.value) == "The file 'seventeen.png' is truncated or damaged: remove or replace it."


def test_a_killed_worker_is_one_sentence():
    with pytest.raises(BenchError, match=r"loads images was killed.*fewer workers") as caught:
        batches(Mortal(), Loading(num_workers=2, start_method="fork"), 5)
    assert "\n" not in str(caught.value)


def test_closing_ends_the_processes_and_leaves_none_behind():
    before = set(psutil.Process().children())
    feed = open_images(Numbers(), Loading(num_workers=2, start_method="fork"))
    feed.next()
    workers = set(psutil.Process().children()) - before
    assert len(workers) == 2
    feed.close()
    gc.collect()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


def test_a_training_step_is_not_interrupted_by_a_worker_that_dies():
    """DataLoader's own handler would raise in whatever is running; the error belongs to the next batch."""
    before = signal.getsignal(signal.SIGCHLD)
    feed = open_images(Numbers(), Loading(num_workers=1, start_method="fork"))
    assert signal.getsignal(signal.SIGCHLD) is before
    feed.close()


def test_forked_workers_start_without_the_warning_of_python_3_12(monkeypatch):
    """`os.fork` as of 3.12 in a process with threads; warnings are errors here."""
    fork = os.fork

    def fork_of_3_12():
        message = f"This process (pid={os.getpid()}) is multi-threaded, use of fork() may lead to deadlocks"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return fork()

    monkeypatch.setattr(os, "fork", fork_of_3_12)
    np.testing.assert_array_equal(batches(Numbers(), Loading(start_method="fork"), 2), expected(Numbers(), 2))
    with pytest.raises(DeprecationWarning):
        os.fork()


@pytest.mark.gpu
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_worker_processes_reach_a_gpu_through_pinned_memory(start_method):
    torch.zeros(1, device="cuda")  # the device is in use before the workers start, as in a training
    loading = Loading(num_workers=2, start_method=start_method, place="storage")
    feed = open_feed(
        Numbers(), seed=SEED, batch_size=BATCH_SIZE, position=0, device="cuda", world=ALONE, loading=loading
    )
    try:
        for row in expected(Numbers(), 6):
            batch = feed.next()
            assert batch.is_cuda
            assert torch.equal(batch.cpu(), to_networks(row, "cpu"))
    finally:
        feed.close()


def test_workers_outlive_the_signals_that_the_training_handles():
    feed = open_images(Numbers(), Loading(num_workers=2, start_method="fork"))
    try:
        found = [feed.next() for _ in range(2)]
        for worker in psutil.Process().children():
            worker.send_signal(signal.SIGINT)
            worker.send_signal(signal.SIGTERM)
        found += [feed.next() for _ in range(8)]
    finally:
        feed.close()
    wanted = to_networks(expected(Numbers(), 10).reshape(80, 3, 4, 4), "cpu")
    assert torch.equal(torch.cat(found), wanted)


def test_wrong_words_and_numbers_are_one_sentence():
    for wrong in ({"num_workers": -1}, {"start_method": "forkserver"}, {"place": "disk"}):
        with pytest.raises(UsageError) as caught:
            Loading(**wrong)
        assert str(caught.value).endswith(".")


@pytest.mark.parametrize("place", ["memory", "device"])
def test_images_that_do_not_fit_where_they_were_wanted_are_refused(monkeypatch, place):
    monkeypatch.setattr(feeds, "_free_bytes", lambda _device: 40 * 48 - 1)
    with pytest.raises(UsageError, match=r"40 images take 1\.88 KiB and do not fit into the 1\.87 KiB"):
        open_images(Numbers(), Loading(place=place))
    monkeypatch.setattr(feeds, "_free_bytes", lambda _device: 40 * 48)
    open_images(Numbers(), Loading(place=place)).close()


def test_images_in_memory_are_read_from_the_storage_once(tmp_path):
    images = folder_set(tmp_path).train
    wanted = expected(images, 4)
    fresh = folder.SPEC.open(64, str(tmp_path)).train
    feed = open_images(fresh, Loading(num_workers=0, place="memory"))
    for path in Path(tmp_path).glob("*.png"):
        path.unlink()
    for row in wanted:
        assert torch.equal(feed.next(), to_networks(row, "cpu"))


def test_cifar_in_memory_reaches_spawned_workers_whole():
    """The one set whose pixels travel to a spawned process: through a pickle they must not change."""
    images = cifar10._ImagesInMemory(np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), dtype=np.uint8))
    again = pickle.loads(pickle.dumps(images))
    np.testing.assert_array_equal(again.read(np.arange(20)), images.read(np.arange(20)))
