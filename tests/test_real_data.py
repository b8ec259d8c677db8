"""Real formats end to end: prepared, verified, trained on for 20 steps, scored; through the command's own path."""

import dataclasses

import numpy as np
import pytest
from test_named_datasets import (
    MODULES,
    ffhq_entries,
    python2_pickle,
    write_celeba,
    write_cifar,
    write_lsun,
    write_zip,
)

import bench
from bench.catalog import METRICS
from bench.datasets import cifar10
from bench.phases._context import Question
from bench.preparation import Options, prepare, verify
from bench.runner import run

NUM_IMAGES = 120


def write(name, data, monkeypatch):
    if name == "cifar10":
        generator = np.random.default_rng(0)
        names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
        counts = dict.fromkeys(names, 24) | {"test_batch": 60}
        batches = {
            each: python2_pickle(
                generator.integers(220, 250, (count, 3), dtype=np.uint8).repeat(1024, axis=1)
            )  # not noise
            for each, count in counts.items()
        }
        monkeypatch.setattr(cifar10, "_PUBLISHED_MD5", write_cifar(data / name, batches))
    elif name == "celeba-64":
        write_celeba(data / name, NUM_IMAGES)
    elif name == "ffhq-128":
        write_zip(data / name / "thumbnails128x128.zip", ffhq_entries(NUM_IMAGES))
    else:
        write_lsun(data / name, NUM_IMAGES)


@pytest.mark.parametrize(
    ("name", "resolution", "storage"),
    [("cifar10", 32, "memmap"), ("celeba-64", 64, "zip"), ("ffhq-128", 64, "memmap"), ("lsun-bedroom", 64, "lmdb")],
)
def test_a_set_is_prepared_verified_trained_on_and_scored(name, resolution, storage, small_gan, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / name).mkdir(parents=True)
    write(name, tmp_path / "data", monkeypatch)
    few = dataclasses.replace(METRICS.load("rfd-v1"), num_images=60)  # from so few the figure has its other name
    monkeypatch.setattr(Question, "metrics", lambda _: [few])
    spec = bench.RunSpec(
        model=str(small_gan), dataset=name, resolution=resolution, batch_size=2, device="cpu", preset="smoke",
        train_for="40img",
    )  # fmt: skip
    direct = run(spec, results=tmp_path / "direct", phases=("train", "quality"))
    said = []
    prepare(name, MODULES[name].SPEC, Options(resolution=resolution, storage=storage, num_workers=0), said.append)
    assert verify(name, resolution).corrupt == ()
    prepared = run(spec, results=tmp_path / "prepared", phases=("train", "quality"))
    for record in (direct, prepared):
        assert record.phases["train"].status == record.phases["quality"].status == "ok", (
            record.phases["train"].reason,
            record.phases["quality"].reason,
        )
        assert record.quantity("num_images_shown").value == 40
        assert record.quantity("rfd_v1").value is None
        assert record.quantity("rfd_v1_biased").value > 0
        assert 0 <= record.quantity("data_wait_share").value <= 1
    left, right = (record.quantity("rfd_v1_biased").value for record in (direct, prepared))
    assert left == pytest.approx(right, rel=1e-9)  # the same pixels, so the same training and the same figure
