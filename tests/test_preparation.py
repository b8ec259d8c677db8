"""`bench data`: prepared images are the source's own, a killed preparation goes on, nothing is dropped in silence."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from test_named_datasets import (
    MODULES,
    ffhq_entries,
    open_set,
    python2_pickle,
    read_all,
    write_celeba,
    write_cifar,
    write_lmdb,
    write_lsun,
    write_zip,
)

from bench import cli_data, preparation
from bench.datasets import cifar10, scenes
from bench.datasets import folder as folder_dataset
from bench.datasets._manifest import CorruptEntry, fingerprint, prepared_folder, read_manifest
from bench.datasets._shards import open_prepared, sources_only
from bench.errors import BenchError, MissingDataError, StorageError, UsageError
from bench.preparation import Options, prepare, verify
from bench.training.distributed import World
from bench.training.feed import Loading, open_feed
from bench.training.images import normalised
from bench.training.randomness import training_order

SOURCES = ["cifar10", "celeba-64", "ffhq-128", "lsun-bedroom"]
STORAGES = ["memmap", "zip", "lmdb"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    for name in MODULES:
        (tmp_path / "data" / name).mkdir(parents=True)
    return tmp_path / "data"


def write_source(name: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small set in the published format."""
    if name == "cifar10":
        generator = np.random.default_rng(0)
        names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
        batches = {each: python2_pickle(generator.integers(0, 256, (4, 3072), dtype=np.uint8)) for each in names}
        monkeypatch.setattr(cifar10, "_PUBLISHED_MD5", write_cifar(data / name, batches))
    elif name == "celeba-64":
        write_celeba(data / name)
    elif name == "ffhq-128":
        write_zip(data / name / "thumbnails128x128.zip", ffhq_entries())
    else:
        write_lsun(data / name)


def direct(name: str, resolution: int | None = None) -> object:
    with sources_only():
        return open_set(name, resolution)


def resolution_of(name: str) -> int:
    return MODULES[name].SPEC.default_resolution


def prepare_set(name: str, said: list[str] | None = None, **options: object) -> object:
    settled = {"resolution": resolution_of(name), "num_workers": 0, **options}
    return prepare(name, MODULES[name].SPEC, Options(**settled), (said if said is not None else []).append)


def keys_of(name: str, split: str, resolution: int | None = None) -> list[str]:
    folder = prepared_folder(name, resolution or resolution_of(name))
    indices = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{split}-*.json"))]
    return [key for index in indices for key in index["keys"]]


# The same pixels


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", SOURCES)
def test_prepared_images_and_split_are_those_of_reading_the_source(
    data: Path, name: str, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_source(name, data, monkeypatch)
    source = direct(name)
    assert open_prepared(name, resolution_of(name)) is None
    manifest = prepare_set(name, storage=storage, num_images_per_shard=2)
    opened = open_prepared(name, resolution_of(name))
    for split in ("train", "reference"):
        found, expected = getattr(opened, split), getattr(source, split)
        assert len(found) == len(expected) > 0
        np.testing.assert_array_equal(read_all(found), read_all(expected))
    assert len(manifest.shards) > 2
    assert manifest.plan.licence == MODULES[name].SPEC.licence
    assert verify(name, resolution_of(name)) == manifest
    unchanged = {key: value for key, value in opened.protocol.items() if key in source.protocol}
    assert unchanged == source.protocol
    assert opened.protocol["num_corrupt_entries"] == 0
    assert len(opened.protocol["manifest_sha256"]) == len(opened.protocol["pixels_sha256"]) == 64


def test_the_protocol_does_not_depend_on_storage_shards_or_workers(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_source("lsun-bedroom", data, monkeypatch)
    protocols = []
    for number, storage in enumerate(STORAGES):
        out = data.parent / f"out{number}"
        prepare_set("lsun-bedroom", storage=storage, data=out, num_images_per_shard=number + 2, num_workers=number)
        monkeypatch.setenv("BENCH_DATA", str(out))
        protocols.append(open_prepared("lsun-bedroom", 128).protocol)
        monkeypatch.setenv("BENCH_DATA", str(data))
    assert protocols[0] == protocols[1] == protocols[2]


def test_the_hash_over_pixels_changes_with_one_pixel_of_one_image(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = ffhq_entries()
    write_zip(data / "ffhq-128" / "thumbnails128x128.zip", entries)
    first = prepare_set("ffhq-128", data=data.parent / "first")
    original = MODULES["ffhq-128"].Preparation.apply

    def one_off(self: object, encoded: bytes, label: str) -> np.ndarray:
        image = original(self, encoded, label)
        if encoded == entries["00000/00003.png"]:
            image[0, 0, 0] ^= 1
        return image

    monkeypatch.setattr(MODULES["ffhq-128"].Preparation, "apply", one_off)
    second = prepare_set("ffhq-128", data=data.parent / "second")
    assert first.plan == second.plan
    assert first.pixels_sha256 != second.pixels_sha256


def test_keys_are_the_names_of_the_source_and_each_carries_the_hash_of_its_pixels(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = write_lsun(data / "lsun-bedroom")
    prepare_set("lsun-bedroom")
    train, reference = keys_of("lsun-bedroom", "train"), keys_of("lsun-bedroom", "reference")
    assert sorted(train + reference) == sorted(key.decode() for key in values)
    assert train == sorted(train)
    index = json.loads((prepared_folder("lsun-bedroom", 128) / "train-00000.json").read_text())
    image = direct("lsun-bedroom").train.read(np.array([1]))[0]
    assert index["pixels_sha256"][1] == hashlib.sha256(image.tobytes()).hexdigest()


def test_several_resolutions_lie_side_by_side(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_source("lsun-bedroom", data, monkeypatch)
    for resolution in (64, 128):
        prepare_set("lsun-bedroom", resolution=resolution)
    for resolution in (64, 128):
        found = open_prepared("lsun-bedroom", resolution).train
        np.testing.assert_array_equal(read_all(found), read_all(direct("lsun-bedroom", resolution).train))
    assert open_prepared("lsun-bedroom", 256) is None


def test_the_source_is_not_needed_any_more(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_source("ffhq-128", data, monkeypatch)
    expected = read_all(direct("ffhq-128").train)
    prepare_set("ffhq-128")
    (data / "ffhq-128" / "thumbnails128x128.zip").unlink()
    np.testing.assert_array_equal(read_all(open_set("ffhq-128").train), expected)
    with pytest.raises(MissingDataError):
        direct("ffhq-128")


@pytest.mark.parametrize("name", SOURCES)
def test_every_named_set_reads_what_is_prepared(data: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_source(name, data, monkeypatch)
    assert "pixels_sha256" not in open_set(name).protocol
    manifest = prepare_set(name)
    assert open_set(name).protocol["pixels_sha256"] == manifest.pixels_sha256
    assert "pixels_sha256" not in direct(name).protocol


@pytest.mark.parametrize(
    ("storage", "num_workers", "start_method"),
    [
        *((storage, num_workers, "fork") for storage in STORAGES for num_workers in (0, 1, 2)),
        ("memmap", 2, "thread"),
        ("zip", 2, "thread"),
        ("lmdb", 2, "thread"),
        ("lmdb", 1, "spawn"),
    ],
)
def test_batches_are_those_of_the_source_for_every_storage_and_any_workers(
    data: Path, storage: str, num_workers: int, start_method: str
) -> None:
    write_celeba(data / "celeba-64", 12)
    source = direct("celeba-64").train
    prepare_set("celeba-64", storage=storage, num_images_per_shard=2)
    feed = open_feed(
        open_prepared("celeba-64", 64).train,
        seed=3,
        batch_size=2,
        position=4,
        device="cpu",
        world=World(),
        loading=Loading(num_workers=num_workers, start_method=start_method, place="storage"),
    )
    with closing(feed):
        for step in range(5):
            expected = normalised(torch.from_numpy(source.read(training_order(len(source), 3, 4 + 2 * step, 2))))
            assert torch.equal(feed.next(), expected)


# Part of a set


def test_a_part_is_fixed_lies_inside_a_larger_part_and_no_image_changes_its_split(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_zip(data / "ffhq-128" / "thumbnails128x128.zip", ffhq_entries(24, side=16))
    prepare_set("ffhq-128")
    whole = {split: keys_of("ffhq-128", split) for split in ("train", "reference")}
    parts = {}
    for max_images in (6, 7, 15, 24):
        out = data.parent / f"part{max_images}"
        manifest = prepare_set("ffhq-128", max_images=max_images, data=out)
        assert manifest.num_train_images + manifest.num_reference_images == max_images
        folder = prepared_folder("ffhq-128", 128, out)
        parts[max_images] = {
            split: json.loads((folder / f"{split}-00000.json").read_text())["keys"] for split in ("train", "reference")
        }
    for split in ("train", "reference"):
        assert set(parts[6][split]) <= set(parts[7][split]) <= set(parts[15][split]) <= set(whole[split])
        assert parts[24][split] == whole[split]
        assert parts[15][split] == [key for key in whole[split] if key in parts[15][split]], "the order stays"
    monkeypatch.setenv("BENCH_DATA", str(data.parent / "part6"))
    protocol = open_prepared("ffhq-128", 128).protocol
    assert "of these 24, within their split the 3 for train and 3 for reference" in protocol["selection"]
    assert (protocol["num_train_images"], protocol["num_reference_images"]) == (3, 3)


# Corrupt entries


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_corrupt_entry_is_named_and_counted_and_the_others_are_kept(data: Path, num_workers: int) -> None:
    values = write_lsun(data / "lsun-bedroom")
    broken = sorted(values)[3]
    write_lmdb(data / "lsun-bedroom" / "bedroom_train_lmdb", {broken: values[broken][:200]})
    said: list[str] = []
    manifest = prepare_set("lsun-bedroom", said, num_workers=num_workers, num_images_per_shard=2)
    assert [entry.key for entry in manifest.corrupt] == [broken.decode()]
    assert "truncated or damaged" in manifest.corrupt[0].reason
    assert said[-1].startswith("Corrupt entries left out: 1,") and broken.decode() in said[-1]
    opened = open_prepared("lsun-bedroom", 128)
    assert opened.protocol["num_corrupt_entries"] == 1
    assert len(opened.train) + len(opened.reference) == len(values) - 1
    assert opened.protocol["num_train_images"] == len(opened.train)
    keys = keys_of("lsun-bedroom", "train") + keys_of("lsun-bedroom", "reference")
    assert sorted(keys) == sorted(key.decode() for key in values if key != broken)
    source = direct("lsun-bedroom")
    split = manifest.corrupt[0].split
    other = "reference" if split == "train" else "train"
    np.testing.assert_array_equal(read_all(getattr(opened, other)), read_all(getattr(source, other)))
    everything = sorted(
        key.decode() for key in values if key.decode() in [*keys_of("lsun-bedroom", split), broken.decode()]
    )
    rows = np.array([row for row, key in enumerate(everything) if key != broken.decode()])
    np.testing.assert_array_equal(read_all(getattr(opened, split)), getattr(source, split).read(rows))


def test_a_set_of_which_nothing_can_be_read_is_refused_with_the_first_reason(data: Path) -> None:
    write_zip(data / "ffhq-128" / "thumbnails128x128.zip", dict.fromkeys(ffhq_entries(), b"no image"))
    with pytest.raises(BenchError, match=r"No image of the train split of ffhq-128.*is not a JPEG, PNG"):
        prepare_set("ffhq-128")
    assert open_prepared("ffhq-128", 128) is None


# Interruption

KILLED_AT_THE_SECOND_SHARD = """
import os, signal
from bench import preparation
from bench.datasets import lsun_bedroom

if __name__ == "__main__":
    write_shard, calls = preparation.write_shard, []
    def count(job, work):
        calls.append(job)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        write_shard(job, work)
    preparation.write_shard = count
    options = preparation.Options(resolution=128, num_workers=0, num_images_per_shard=2, storage={storage!r})
    preparation.prepare("lsun-bedroom", lsun_bedroom.SPEC, options, print)
"""


@pytest.mark.parametrize("storage", STORAGES)
def test_a_killed_preparation_goes_on_without_doing_the_first_shard_again(data: Path, storage: str) -> None:
    write_lsun(data / "lsun-bedroom")
    script = KILLED_AT_THE_SECOND_SHARD.format(storage=storage)
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert open_prepared("lsun-bedroom", 128) is None, "an unfinished preparation is not used"
    folder = prepared_folder("lsun-bedroom", 128)
    shards = [path for path in folder.iterdir() if path.suffix in {".u8", ".zip", ".lmdb"} and path.name[0] != "."]
    assert len(shards) == 1
    before = shards[0].stat()
    (folder / f".train-00001{shards[0].suffix}.partial").write_bytes(b"half a shard")
    prepare_set("lsun-bedroom", num_images_per_shard=2, storage=storage)
    after = shards[0].stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    np.testing.assert_array_equal(
        read_all(open_prepared("lsun-bedroom", 128).train), read_all(direct("lsun-bedroom").train)
    )
    assert not list(folder.glob(".*.partial"))


def test_a_finished_shard_that_was_damaged_meanwhile_is_written_again(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_source("lsun-bedroom", data, monkeypatch)
    monkeypatch.setattr(preparation, "_manifest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare_set("lsun-bedroom", num_images_per_shard=2, storage="memmap")
    monkeypatch.undo()
    monkeypatch.setenv("BENCH_DATA", str(data))
    folder = prepared_folder("lsun-bedroom", 128)
    kept, damaged = folder / "train-00000.u8", folder / "train-00001.u8"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    index = folder / "reference-00000.json"
    index.write_bytes(index.read_bytes()[:-5])
    inode = kept.stat().st_ino
    prepare_set("lsun-bedroom", num_images_per_shard=2, storage="memmap")
    assert damaged.read_bytes() == content
    assert kept.stat().st_ino == inode
    verify("lsun-bedroom", 128)


IN_PROCESSES = """
from bench import preparation
from bench.datasets import ffhq_128

if __name__ == "__main__":
    options = preparation.Options(resolution=256, num_workers=2, num_images_per_shard=2)
    preparation.prepare("ffhq-128", ffhq_128.SPEC, options, print)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent_and_the_next_run_goes_on(
    data: Path, tmp_path: Path, how: signal.Signals
) -> None:
    write_zip(data / "ffhq-128" / "images1024x1024.zip", ffhq_entries(40, side=400))
    script = tmp_path / "prepare_in_processes.py"
    script.write_text(textwrap.dedent(IN_PROCESSES))
    folder = prepared_folder("ffhq-128", 256)
    child = subprocess.Popen(
        [sys.executable, str(script)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    while not list(folder.glob("train-*.json")):
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.01)
    workers = psutil.Process(child.pid).children(recursive=True)
    os.kill(child.pid, how)
    child.communicate(timeout=30)
    assert child.returncode != 0
    assert not psutil.wait_procs(workers, timeout=30)[1], "no worker outlives its parent"
    assert read_manifest(folder) is None
    kept = {path: path.stat().st_ino for path in folder.glob("*.json") if path.name != "plan.json"}
    assert 0 < len(kept) < 20
    manifest = prepare_set("ffhq-128", resolution=256, num_workers=2, num_images_per_shard=2)
    assert all(path.stat().st_ino == inode for path, inode in kept.items())
    assert manifest.num_train_images + manifest.num_reference_images == 40
    verify("ffhq-128", 256)


def test_a_killed_worker_is_one_sentence_and_the_next_run_goes_on(data: Path) -> None:
    write_zip(data / "ffhq-128" / "images1024x1024.zip", ffhq_entries(40, side=400))
    folder = prepared_folder("ffhq-128", 256)

    def kill_a_worker() -> None:
        while not list(folder.glob("train-*.json")):
            time.sleep(0.01)
        workers = [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
        workers[0].kill()

    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    with pytest.raises(BenchError, match="A process that prepared images was killed"):
        prepare_set("ffhq-128", resolution=256, num_workers=2, num_images_per_shard=2)
    killer.join()
    assert prepare_set("ffhq-128", resolution=256, num_images_per_shard=2).plan.num_images == 40


# Refusals


def changed(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("storage", STORAGES)
def test_verify_names_the_first_shard_that_is_not_what_was_written(
    data: Path, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_source("lsun-bedroom", data, monkeypatch)
    manifest = prepare_set("lsun-bedroom", num_images_per_shard=2, storage=storage)
    folder = prepared_folder("lsun-bedroom", 128)
    for each in manifest.shards[2:0:-1]:
        changed(folder / each.shard.file, each.shard.num_bytes // 2)
    with pytest.raises(BenchError, match=r"train-00001\.\w+' is not what was written .*SHA-256.*prepare again"):
        verify("lsun-bedroom", 128)


def test_verify_notices_a_changed_index(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_source("celeba-64", data, monkeypatch)
    prepare_set("celeba-64")
    path = prepared_folder("celeba-64", 64) / "train-00000.json"
    path.write_text(path.read_text().replace("00000", "99999", 1))
    with pytest.raises(BenchError, match=r"train-00000\.json' is not what was written"):
        verify("celeba-64", 64)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda text: text.replace('"num_train_images": 3', '"num_train_images": 2'), "its hash is wrong"),
        (lambda text: text.replace('"crop', '"Crop').replace("148 px", "178 px"), "its hash is wrong"),
        (lambda text: text[: len(text) // 2], "is damaged or of another version"),
        (lambda text: text.replace('"corrupt"', '"skipped"'), "is damaged or of another version"),
    ],
    ids=["count", "preparation", "cut", "field"],
)
def test_a_changed_manifest_is_refused_at_opening(
    data: Path, monkeypatch: pytest.MonkeyPatch, change: object, sentence: str
) -> None:
    write_source("celeba-64", data, monkeypatch)
    prepare_set("celeba-64")
    path = prepared_folder("celeba-64", 64) / "manifest.json"
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before
    with pytest.raises(BenchError, match=sentence) as caught:
        open_prepared("celeba-64", 64)
    assert "prepare again" in str(caught.value) and "\n" not in str(caught.value)


def test_a_manifest_of_another_format_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_source("celeba-64", data, monkeypatch)
    manifest = prepare_set("celeba-64")
    later = manifest.model_copy(update={"plan": manifest.plan.model_copy(update={"format_version": 2})}).sealed()
    (prepared_folder("celeba-64", 64) / "manifest.json").write_text(later.model_dump_json())
    with pytest.raises(BenchError, match="has format 2, this program reads 1"):
        open_prepared("celeba-64", 64)


def test_a_shard_that_is_gone_or_of_another_size_is_refused_at_opening(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_source("celeba-64", data, monkeypatch)
    prepare_set("celeba-64", storage="memmap")
    path = prepared_folder("celeba-64", 64) / "reference-00000.u8"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BenchError, match=r"reference-00000\.u8' has 36,863 bytes where 36,864 were written"):
        open_prepared("celeba-64", 64)
    path.unlink()
    with pytest.raises(BenchError, match=r"reference-00000\.u8' cannot be read"):
        open_prepared("celeba-64", 64)


def test_prepared_again_with_the_same_options_nothing_is_written(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_source("celeba-64", data, monkeypatch)
    first = prepare_set("celeba-64")
    times = {path: path.stat().st_mtime_ns for path in prepared_folder("celeba-64", 64).iterdir()}
    said: list[str] = []
    assert prepare_set("celeba-64", said) == first
    assert said == [f"celeba-64 is already prepared in '{prepared_folder('celeba-64', 64)}'."]
    del times[prepared_folder("celeba-64", 64) / ".lock"]
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in times.items())


def test_other_options_or_another_source_are_refused_and_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_source("celeba-64", data, monkeypatch)
    prepare_set("celeba-64", storage="memmap")
    with pytest.raises(UsageError, match=r"holds a finished preparation that differs in storage:"):
        prepare_set("celeba-64", storage="zip")
    with pytest.raises(UsageError, match=r"differs in max_images, num_train_images"):
        prepare_set("celeba-64", max_images=4)
    (data / "celeba-64" / "img_align_celeba" / "000001.jpg").unlink()
    with pytest.raises(UsageError, match=r"differs in num_train_images|num_reference_images, .*protocol"):
        prepare_set("celeba-64")


def test_a_second_process_waits_its_turn(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_source("celeba-64", data, monkeypatch)
    folder = prepared_folder("celeba-64", 64)
    folder.mkdir(parents=True)
    with preparation._alone(folder), pytest.raises(BenchError, match="Another process is preparing"):
        prepare_set("celeba-64")


def test_a_full_disk_is_told_before_and_a_folder_that_cannot_be_written_in_one_sentence(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_source("celeba-64", data, monkeypatch)
    usage = preparation.shutil.disk_usage(data)
    monkeypatch.setattr(preparation.shutil, "disk_usage", lambda _: usage._replace(free=10_000))
    with pytest.raises(StorageError, match=r"needs 72\.00 KiB more and 9\.77 KiB are free: give --storage zip"):
        prepare_set("celeba-64")
    monkeypatch.setattr(preparation.shutil, "disk_usage", lambda _: usage)
    (data / "file").write_text("")
    with pytest.raises(StorageError, match="Cannot write to"):
        prepare_set("celeba-64", data=data / "file")


def test_sets_without_files_and_folders_are_not_prepared() -> None:
    with pytest.raises(UsageError, match="scenes needs no preparation"):
        prepare("scenes", scenes.SPEC, Options(resolution=32), print)
    with pytest.raises(UsageError, match="folder is read where it lies"):
        prepare("folder", folder_dataset.SPEC, Options(resolution=32), print)
    with pytest.raises(UsageError, match="--max-images must be at least 2"):
        prepare("cifar10", cifar10.SPEC, Options(resolution=32, max_images=1), print)


def test_the_fingerprint_covers_every_field_of_the_manifest(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_source("celeba-64", data, monkeypatch)
    manifest = prepare_set("celeba-64")
    changes = {
        "plan": manifest.plan.model_copy(update={"licence": "none"}),
        "shards": manifest.shards[:1],
        "corrupt": (CorruptEntry(split="train", key="x", reason="y"),),
        "num_train_images": 9,
        "num_reference_images": 9,
        "pixels_sha256": "0",
    }
    assert set(changes) | {"sha256"} == set(type(manifest).model_fields)
    for field, value in changes.items():
        assert fingerprint(manifest.model_copy(update={field: value})) != manifest.sha256, field


# The commands


def bench_data(*words: str) -> int | None:
    return cli_data.app(args=list(words), standalone_mode=False)


def test_the_commands_prepare_verify_list_and_describe(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_source("celeba-64", data, monkeypatch)
    bench_data("list")
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert rows["celeba-64"].rstrip().endswith("—") and str(data / "celeba-64") in rows["celeba-64"]
    assert "not here" in rows["lsun-bedroom"] and "computed" in rows["scenes"]
    bench_data("prepare", "celeba-64", "--storage", "zip", "--workers", "0")
    printed = capsys.readouterr()
    assert "3 train, 3 reference" in printed.out and "centre crop to 148 px" in printed.out
    assert "Licence: non-commercial research only" in printed.err
    assert "\r" not in printed.err, "no progress bar in a pipe"
    bench_data("verify", "celeba-64")
    assert capsys.readouterr().out == "ok: 6 images in 2 shards are as they were written\n"
    bench_data("list")
    assert "64 px (zip)" in capsys.readouterr().out
    bench_data("info", "celeba-64")
    printed = capsys.readouterr().out
    assert "0 entries left out" in printed and "may not be passed on" in printed
    changed(prepared_folder("celeba-64", 64) / "train-00000.zip", 100)
    with pytest.raises(BenchError, match=r"train-00000\.zip"):
        bench_data("verify", "celeba-64")


def test_the_commands_refuse_in_one_sentence(data: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'lsun-bedroom'"):
        bench_data("prepare", "lsun-bedrom")
    with pytest.raises(UsageError, match="lsun-bedroom is not prepared at 128 px"):
        bench_data("verify", "lsun-bedroom")
    with pytest.raises(MissingDataError, match="bedroom_train_lmdb"):
        bench_data("prepare", "lsun-bedroom")
    with pytest.raises(UsageError, match="--download fetches cifar10 and lsun-bedroom only"):
        bench_data("prepare", "ffhq-128", "--download")


def test_info_tells_an_unfinished_preparation(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_zip(data / "ffhq-128" / "thumbnails128x128.zip", dict.fromkeys(ffhq_entries(), b"no image"))
    with pytest.raises(BenchError):
        prepare_set("ffhq-128")
    bench_data("info", "ffhq-128")
    assert "unfinished    128 px" in capsys.readouterr().out
