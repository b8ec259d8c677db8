"""Image data sets in the format of Hugging Face `datasets`: `--dataset hugging-face:NAME[@SPLIT][#COLUMN]`.

Why it exists: many sets are published there and nowhere else, already cut out and named. `datasets` is an extra
(`pip install "gan-bench[hugging-face]"`); this file is its one adapter. API: https://huggingface.co/docs/datasets
(`load_from_disk`, `Image(decode=False)`, `Dataset.with_format("arrow")`), tried with 5.2.0.

NAME is a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` has written, or a name of the Hub that was
loaded on this computer before. Nothing is fetched: a measurement must not change with what a server holds today.
Only the encoded files are taken; they are decoded by `_images.py`, with its limits and its choices, and not by
`datasets`. What a figure is measured against is held out of SPLIT by hash, as for `folder`: one split is enough.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.datasets._files import check_resolution, open_encoded, split_by_hash
from bench.datasets._images import Preparation
from bench.datasets._spec import DatasetSpec, OpenDataset
from bench.errors import BenchError, MissingDataError, UsageError

_NAME = "hugging-face"
_RESOLUTIONS = (32, 64, 128, 256)
_DEFAULT_SPLIT = "train"
_WORD = re.compile(r"(?P<name>[^@#]+)(@(?P<split>\w+))?(#(?P<column>[^@#]+))?")


class _Rows:
    """The encoded images of one column, by row.

    Args:
        rows: a `datasets.Dataset` whose column of images is not decoded; it can be pickled, and maps its files.
        label: what the user asked for, for messages.
    """

    def __init__(self, rows: Any, column: str, label: str) -> None:
        self._rows, self._column, self._label = rows, column, label
        self.names = [f"{row:09d}" for row in range(len(rows))]

    def __len__(self) -> int:
        return len(self.names)

    def encoded(self, position: int) -> bytes:
        """The bytes of the file in that row. Raises BenchError where there are none."""
        cell = self._rows[position][self._column]
        if cell is None or (cell["bytes"] is None and not cell["path"]):
            raise BenchError(f"{self.label(position)} is empty: leave such rows out (`Dataset.filter`).")
        if cell["bytes"] is not None:
            return bytes(cell["bytes"])
        try:
            return Path(cell["path"]).read_bytes()
        except OSError as error:
            raise BenchError(f"{self.label(position)} cannot be read ({error.strerror}).") from error

    def label(self, position: int) -> str:
        """The row and its data set."""
        return f"Row {position} of '{self._label}'"

    def manifest_sha256(self) -> str:
        """SHA-256 over all rows' encoded bytes, a linked file's path in place of its bytes."""
        digest = hashlib.sha256()
        for batch in self._rows.select_columns([self._column]).with_format("arrow").iter(batch_size=256):
            for cell in batch.column(self._column).to_pylist():
                content = b"" if cell is None else cell["bytes"] or str(cell["path"]).encode()
                digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()


def _open(resolution: int, path: str | None) -> OpenDataset:
    """The images of one column of one split.

    Raises:
        UsageError: the words after the colon are not of the form, or name no split or column of images.
        MissingDataError: the package or the data set is not here.
        BenchError: the data set is damaged.
    """
    check_resolution(_NAME, resolution, _RESOLUTIONS)
    found = _WORD.fullmatch(path or "")
    if found is None:
        raise UsageError(f"--dataset {_NAME} is written {_NAME}:NAME, and @SPLIT and #COLUMN after it where needed.")
    label = f"{_NAME}:{path}"
    library = _library()
    rows = _load(library, found["name"], found["split"], label)
    column = _image_column(library, rows, found["column"], label)
    source = _Rows(rows.cast_column(column, library.Image(decode=False)), column, label)
    if len(source) < 2:
        raise UsageError(f"--dataset {label} has fewer than the 2 images that a train and a reference split need.")
    return open_encoded(
        source,
        split_by_hash(source.names),
        Preparation(resolution=resolution),
        {
            "selection": f"column {column} of every row of split {found['split'] or _DEFAULT_SPLIT}",
            "manifest": "SHA-256 over the SHA-256 of each row's encoded image, in order of rows",
            "manifest_sha256": source.manifest_sha256(),
        },
    )


def _library() -> ModuleType:
    """The package `datasets`, imported when it is first needed: it is optional, and takes a second."""
    try:
        return importlib.import_module("datasets")
    except ModuleNotFoundError as error:
        raise MissingDataError(
            f"--dataset {_NAME} needs the package datasets: pip install 'gan-bench[hugging-face]', or give --no-data, "
            "which measures everything but quality."
        ) from error


def _load(library: ModuleType, name: str, split: str | None, label: str) -> Any:
    """The rows of one split, from a folder or else from the package's own cache."""
    folder = Path(name).expanduser()
    try:
        if folder.is_dir():
            loaded = library.load_from_disk(str(folder))
        else:
            cache = importlib.import_module("datasets.packaged_modules.cache.cache")
            builder = cache.Cache(repo_id=name, dataset_name=name.rpartition("/")[2], version="auto", hash="auto")
            loaded = builder.as_dataset()
    except FileNotFoundError as error:
        raise UsageError(
            f"--dataset {label}: '{folder}' was not written by `save_to_disk` of the package datasets; read a folder "
            "of image files with --dataset folder:PATH."
        ) from error
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        if folder.is_dir():
            raise BenchError(f"--dataset {label} cannot be read ({reason}): save it again.") from error
        raise MissingDataError(
            f"--dataset {label} is not on this computer ({reason}): load it once with datasets.load_dataset('{name}'), "
            "give the folder of a saved one, or give --no-data, which measures everything but quality."
        ) from error
    if not isinstance(loaded, dict):  # a DatasetDict is one; a Dataset that was saved alone has one split
        if split is not None and str(loaded.split or "") != split:
            raise UsageError(f"--dataset {label}: '{folder}' holds one split, {loaded.split}; leave @{split} out.")
        return loaded
    wanted = split or _DEFAULT_SPLIT
    if wanted not in loaded:
        raise UsageError(f"--dataset {label} has no split {wanted}; known: {', '.join(map(str, loaded))}.")
    return loaded[wanted]


def _image_column(library: ModuleType, rows: Any, column: str | None, label: str) -> str:
    """The column that was asked for, or the only one with images."""
    known = [name for name, feature in rows.features.items() if isinstance(feature, library.Image)]
    if column in known:
        return str(column)
    if column is None and len(known) == 1:
        return str(known[0])
    names = f"its columns of images: {', '.join(known)}" if known else "it has no column of images"
    wrong = f"has no column of images '{column}'" if column else "needs the column, as #COLUMN"
    raise UsageError(f"--dataset {label} {wrong}; {names}.")


SPEC = DatasetSpec(
    title="A data set of the package `datasets` (Hugging Face)",
    source="the folder or the cached Hub data set NAME in --dataset hugging-face:NAME[@SPLIT][#COLUMN]",
    licence="that of the data set (see its card); this project neither copies nor passes it on",
    resolutions=_RESOLUTIONS,
    default_resolution=64,
    open=_open,
    takes_path=True,
)
