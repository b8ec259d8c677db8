"""Any folder of images: `--dataset folder:PATH`.

Why it exists: most people's data is a folder. No format of its own, no index file: what is below the folder is the set,
and the manifest hash in the record says which files that were. Preparation and split: `_images.py` and `_files.py`.
"""

from __future__ import annotations

from pathlib import Path

from bench.datasets._files import SUFFIXES, FolderImages, check_resolution, open_files, split_by_hash
from bench.datasets._images import Preparation
from bench.datasets._spec import DatasetSpec, OpenDataset
from bench.errors import UsageError

_RESOLUTIONS = (32, 64, 128, 256)


def _open(resolution: int, path: str | None) -> OpenDataset:
    """The images below `path`.

    Raises:
        UsageError: no path, no such folder, or fewer than two images in it.
        BenchError: a sub-folder cannot be listed.
    """
    check_resolution("folder", resolution, _RESOLUTIONS)
    if not path:
        raise UsageError("--dataset folder needs the folder of images: write folder:PATH.")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        reason = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(
            f"--dataset folder:{path}: '{folder.absolute()}' {reason}; give the path of a folder of images."
        )
    source = FolderImages(folder.absolute())
    if len(source) < 2:
        found = "only one image" if len(source) else "no image"
        raise UsageError(
            f"--dataset folder:{path}: there is {found} ({', '.join(SUFFIXES)}) below '{folder.absolute()}'; a train "
            "and a reference split need at least 2."
        )
    selection = f"every {', '.join(SUFFIXES)} file below the folder; hidden files and linked folders left out"
    return open_files(source, split_by_hash(source.names), Preparation(resolution=resolution), selection)


SPEC = DatasetSpec(
    title="A folder of images",
    source="the files below PATH in --dataset folder:PATH",
    licence="that of the files; this project neither copies nor passes them on",
    resolutions=_RESOLUTIONS,
    default_resolution=64,
    open=_open,
    takes_path=True,
)
