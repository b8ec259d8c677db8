"""How long an image takes to arrive: every storage of prepared images against decoding PNG files one by one.

The rows, each at 128 and 256 px, read in place and by two processes:
    files    a folder of PNG files, one opened and decoded at a time, as most GAN scripts do
    memmap   raw bytes mapped into memory
    zip      lossless WebP images in a stored ZIP archive
    lmdb     lossless WebP images in an LMDB

Images are photographs as far as a compressor can tell: smooth noise over several octaves. Batches of 32 come through
the harness's own feed (`bench.training.feed`), in training order, normalised on the CPU in all rows alike; that part is
measured once by itself (`memory`). Storages take turns, the order turned round in every other round, and the figure is
the median of the rounds with its exact interval. All files lie in the page cache, so disks do not count.

Run it on an idle machine: `OMP_NUM_THREADS=1 python benchmarks/loading.py`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from PIL import Image

from bench.datasets._manifest import Storage
from bench.datasets._shards import READERS, SUFFIXES, WRITERS, ShardedImages
from bench.datasets._spec import Images, ImageSet, Indices
from bench.stats import quantile_quantity
from bench.training.distributed import World
from bench.training.feed import Feed, Loading, open_feed

STORAGES: tuple[Storage, ...] = ("memmap", "zip", "lmdb")
BATCH = 32


@dataclass(frozen=True)
class PngFiles:
    """An `ImageSet` over files `000000.png` …, one opened at a time."""

    folder: Path
    num_images: int

    def __len__(self) -> int:
        return self.num_images

    def read(self, indices: Indices) -> Images:
        """indices [n] → uint8 [n, 3, h, w]."""
        rows = []
        for index in indices.tolist():
            with Image.open(self.folder / f"{index:06d}.png") as image:
                rows.append(np.asarray(image).transpose(2, 0, 1))
        return np.stack(rows)


@dataclass(frozen=True)
class InMemory:
    """An `ImageSet` over an array: what the feed costs by itself."""

    images: Images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Indices) -> Images:
        """indices [n] → uint8 [n, 3, h, w]."""
        return self.images[indices]


def main() -> None:
    """Measure and print."""
    options = _options()
    torch.set_num_threads(1)
    _say(f"{options.images} images, {options.rounds} rounds of {options.batches} batches of {BATCH}, 1 torch thread")
    for resolution in (128, 256):
        with tempfile.TemporaryDirectory() as folder:
            images = np.stack(list(_photographs(options.images, resolution)))
            sets, num_bytes = _written(Path(folder), images)
            for num_workers in (0, 2):
                _measure(sets, num_bytes, num_workers, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--batches", type=int, default=4)
    return parser.parse_args()


def _photographs(num_images: int, resolution: int) -> Iterator[Images]:
    """uint8 [3, h, w]: octaves of smooth noise whose amplitude falls with frequency, as in photographs."""
    for seed in range(num_images):
        random = np.random.default_rng(seed)
        total = np.zeros((resolution, resolution, 3))
        for side in (4, 8, 16, 32, 64, resolution):
            octave = random.standard_normal((side, side, 3)).astype(np.float32)
            channels = [Image.fromarray(octave[..., c]).resize((resolution, resolution), 2) for c in range(3)]
            total += np.stack([np.asarray(each) for each in channels], axis=2) * (90 / side**0.75)
        yield (total + 128).clip(0, 255).astype(np.uint8).transpose(2, 0, 1)


def _written(folder: Path, images: Images) -> tuple[dict[str, ImageSet], dict[str, float]]:
    """The set in every storage, and bytes per image of each."""
    num_images, _, resolution, _ = images.shape
    files = folder / "files"
    files.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(files / f"{index:06d}.png")
    sets: dict[str, ImageSet] = {"memory": InMemory(images), "files": PngFiles(files, num_images)}
    num_bytes = {
        "memory": float(images[0].nbytes),
        "files": sum(path.stat().st_size for path in files.iterdir()) / num_images,
    }
    for storage in STORAGES:
        path = folder / f"shard{SUFFIXES[storage]}"
        WRITERS[storage](path, iter(images), num_images)
        sets[storage] = ShardedImages([READERS[storage](path, num_images, resolution)], [num_images], resolution)
        num_bytes[storage] = path.stat().st_size / num_images
    return sets, num_bytes


def _measure(
    sets: dict[str, ImageSet], num_bytes: dict[str, float], num_workers: int, options: argparse.Namespace
) -> None:
    """Rounds in which the storages take turns, then one line for each."""
    # Forked, because twenty processes that each import torch would take longer than all the rest.
    loading = Loading(num_workers=num_workers, start_method="fork", place="storage")
    durations_ms: dict[str, list[float]] = {name: [] for name in sets}
    with ExitStack() as stack:
        feeds = {
            name: stack.enter_context(
                closing(
                    open_feed(each, seed=0, batch_size=BATCH, position=0, device="cpu", world=World(), loading=loading)
                )
            )
            for name, each in sets.items()
        }
        for round_number in range(options.rounds):
            for name in list(sets)[:: -1 if round_number % 2 else 1]:
                # Processes have read two batches each while it was another's turn: those are not counted.
                durations_ms[name].append(_ms_per_image(feeds[name], 1 + 2 * num_workers, options.batches))
    resolution = sets["memory"].read(np.array([0])).shape[-1]
    for name, found in durations_ms.items():
        figure = quantile_quantity(found, unit="ms", source="loading")
        ratio = np.median(durations_ms["files"]) / np.median(found)
        _say(
            f"{resolution} px, {num_workers} workers, {name:7}{figure.value:7.3f} ms per image "
            f"({figure.low:.3f} to {figure.high:.3f}), {ratio:5.1f} × as fast as files, "
            f"{num_bytes[name] / 1000:.1f} kB per image"
        )


def _ms_per_image(feed: Feed, num_uncounted: int, num_batches: int) -> float:
    for _ in range(num_uncounted):
        feed.next()
    started = perf_counter()
    for _ in range(num_batches):
        feed.next()
    return (perf_counter() - started) / (num_batches * BATCH) * 1000


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
