"""FFHQ (Flickr-Faces-HQ) at 128 px: 70,000 aligned faces.

Why it exists here: one of the four sets in the LadaGAN paper. Source: Karras et al., "A Style-Based Generator
Architecture for Generative Adversarial Networks", CVPR 2019 (arXiv 1812.04948); files, split and licences as in the
README of https://github.com/NVlabs/ffhq-dataset at 193deb6.

Up to 128 px the published thumbnails are read if they are here, else the 1024 px originals; 256 px needs the originals.
Both may be a folder or the ZIP archive. Deliberate difference from the StyleGAN papers, which train on all 70,000: the
last 10,000, which the authors appoint for validation, are held out as the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from bench.datasets._files import (
    Split,
    check_resolution,
    data_folder,
    find_tree,
    missing,
    open_files,
    split_by,
    split_by_hash,
)
from bench.datasets._images import Preparation
from bench.datasets._shards import open_prepared
from bench.datasets._spec import DatasetSpec, OpenDataset

_NAME = "ffhq-128"
_PAGE = "https://github.com/NVlabs/ffhq-dataset"
_THUMBNAILS = "thumbnails128x128"
_ORIGINALS = "images1024x1024"
_NUM_IMAGES = 70_000
_NUM_TRAIN = 60_000


def _open(resolution: int, _path: str | None) -> OpenDataset:
    """What was prepared, else the thumbnails or the originals. Raises MissingDataError where none is here."""
    check_resolution(_NAME, resolution, SPEC.resolutions)
    prepared = open_prepared(_NAME, resolution)
    if prepared is not None:
        return prepared
    folder = data_folder(_NAME)
    for tree in (_THUMBNAILS, _ORIGINALS) if resolution <= 128 else (_ORIGINALS,):
        source = find_tree(folder, tree)
        if source is not None and len(source) >= 2:
            selection = f"every image of {tree} (the published set has {_NUM_IMAGES:,})"
            return open_files(source, _split(source.names), Preparation(resolution=resolution), selection)
    if resolution <= 128:
        raise missing(_NAME, f"{_THUMBNAILS}.zip or the folder {_THUMBNAILS}", "1.95 GB", _PAGE)
    raise missing(_NAME, f"{_ORIGINALS}.zip or the folder {_ORIGINALS}", "89 GB", _PAGE)


def _split(names: Sequence[str]) -> Split:
    """The authors' split where all 70,000 files `00000.png` to `69999.png` are here, else by hash."""
    numbers = [
        int(stem) if stem.isascii() and stem.isdigit() else -1 for stem in (PurePosixPath(name).stem for name in names)
    ]
    if sorted(numbers) == list(range(_NUM_IMAGES)):
        description = "official: train is files 00000 to 59999, reference is files 60000 to 69999"
        return split_by([number >= _NUM_TRAIN for number in numbers], description)
    return split_by_hash(names)


SPEC = DatasetSpec(
    title="FFHQ",
    source=_PAGE,
    licence="data set CC BY-NC-SA 4.0 (NVIDIA); each image under its author's licence, all allow non-commercial use",
    resolutions=(32, 64, 128, 256),
    default_resolution=128,
    open=_open,
)
