"""CelebA, aligned and cropped, at 64 px: 202,599 faces of 10,177 people.

Why it exists here: one of the four sets in the LadaGAN paper. Source: Liu et al., "Deep Learning Face Attributes in the
Wild", ICCV 2015 (arXiv 1411.7766); the files are `Img/img_align_celeba.zip` and, for the official split,
`Eval/list_eval_partition.txt` of https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html.

The aligned images are 178×218. Papers cut the centre 148 or the centre 178 (or squeeze the whole) and seldom say which.
LadaGAN's code does not: it squeezes whatever lies in a prepared folder to a square (`tensorflow/utils.py` and
`pytorch/image_datasets.py` of https://github.com/milmor/LadaGAN at eb3ed9c). Ours is the centre 148, and the record
says so.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from bench.datasets._files import (
    FolderImages,
    Split,
    ZipImages,
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
from bench.errors import BenchError

_NAME = "celeba-64"
_PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
_TREE = "img_align_celeba"
_PARTITION = "list_eval_partition.txt"
_OFFICIAL = "official: train is partition 0; reference is partitions 1 and 2 (validation and test, other people)"


def _open(resolution: int, _path: str | None) -> OpenDataset:
    """What was prepared, else the aligned images.

    Raises:
        MissingDataError: neither is here.
        BenchError: the partition file does not fit them.
    """
    check_resolution(_NAME, resolution, SPEC.resolutions)
    prepared = open_prepared(_NAME, resolution)
    if prepared is not None:
        return prepared
    folder = data_folder(_NAME)
    source = find_tree(folder, _TREE)
    if source is None or len(source) < 2:
        raise missing(_NAME, f"{_TREE}.zip", "1.4 GB", _PAGE, put="it, unzipped or not,")
    partition = folder / _PARTITION
    split = _official_split(source, partition) if partition.is_file() else split_by_hash(source.names)
    preparation = Preparation(resolution=resolution, crop=148, required_size=(178, 218))
    return open_files(source, split, preparation, f"every image of {_TREE} (the published set has 202,599)")


def _official_split(source: FolderImages | ZipImages, partition: Path) -> Split:
    """The split of `list_eval_partition.txt`, whose lines are `000001.jpg 0`.

    Raises:
        BenchError: a line is not of that form, an image is not in the list, or a split is empty.
    """
    rows = [
        line.split() for line in partition.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
    ]
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 or row[1] not in {"0", "1", "2"}:
            raise BenchError(
                f"Line {number} of '{partition}' is not a file name and 0, 1 or 2: fetch it again from {_PAGE}."
            )
    partitions = dict(rows)
    unlisted = [name for name in source.names if PurePosixPath(name).name not in partitions]
    if unlisted:
        raise BenchError(
            f"'{partition}' does not list '{unlisted[0]}': fetch both again from {_PAGE}, or remove the list, then the "
            "split is by hash."
        )
    split = split_by([partitions[PurePosixPath(name).name] != "0" for name in source.names], _OFFICIAL)
    if not len(split.train) or not len(split.reference):
        raise BenchError(
            f"The images beside '{partition}' are all of one split: fetch all of {_TREE}.zip, or remove the list, then "
            "the split is by hash."
        )
    return split


SPEC = DatasetSpec(
    title="CelebA, aligned, centre 148 px",
    source=_PAGE,
    licence="non-commercial research only; the images may not be passed on (CelebA agreement)",
    resolutions=(32, 64, 128),
    default_resolution=64,
    open=_open,
)
