"""LSUN bedroom: 3,033,042 photographs with a short side of 256 px, read straight from the published LMDB.

Why own code: torchvision's LSUN class pickles its key cache into the current folder under a name made of letters only,
and cannot be sent to a spawned process. Source: Yu et al., "LSUN: Construction of a Large-scale Image Dataset using
Deep Learning with Humans in the Loop" (arXiv 1506.03365), https://github.com/fyu/lsun; a key is 40 hexadecimal
characters, a value an encoded image (the README says JPEG of quality 75, the files hold WebP; both are read).

Opening gathers and hashes all keys: 8 to 11 s with 3,033,042 keys in a warm file (two cores, tried with made-up keys),
1 GB of memory at the peak and 121 MB after. The keys lie on some 50,000 index pages all over the 43 GB, so a cold
spinning disk adds minutes. Every run does it.

The validation database has 300 images, too few to measure against, so the reference is held out of the training one.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import lmdb
import numpy as np
from numpy.typing import NDArray

from bench.datasets._files import PerProcess, check_resolution, data_folder, missing, open_encoded, split_by_hash
from bench.datasets._images import Preparation
from bench.datasets._shards import open_prepared
from bench.datasets._spec import DatasetSpec, OpenDataset
from bench.errors import BenchError

_NAME = "lsun-bedroom"
_PAGE = "https://github.com/fyu/lsun"
_DATABASE = "bedroom_train_lmdb"
_KEY_BYTES = 40


@functools.cache  # LMDB refuses to open a database that this process already has open
def _environment(path: Path) -> PerProcess[lmdb.Environment]:
    return PerProcess(functools.partial(_open_environment, path))


def _open_environment(path: Path) -> lmdb.Environment:
    """The database, to be read. Raises BenchError where the file ends before its last page."""
    # lock=False: works on read-only media and writes no lock file; readahead=False: images are read at random.
    environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False, meminit=False)
    num_bytes = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if num_bytes > (path / "data.mdb").stat().st_size:
        environment.close()
        # Reading beyond the end of a mapped file would kill the process (SIGBUS) without a word.
        raise BenchError(f"The database '{path}' is cut off: fetch {path.name}.zip again and check it after unzip.")
    return environment


class _LmdbImages:
    """The values of an LMDB in the order of its keys.

    Raises:
        BenchError: the database is damaged, cut off, or not LSUN's.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with _environment(path).get().begin() as transaction:
                keys = b"".join(transaction.cursor().iternext(keys=True, values=False))
                num_keys = transaction.stat()["entries"]
        except (lmdb.Error, OSError) as error:
            raise BenchError(f"The database '{path}' cannot be read ({error}): fetch {path.name}.zip again.") from error
        if num_keys < 2 or len(keys) != num_keys * _KEY_BYTES:
            raise BenchError(
                f"The database '{path}' is not LSUN's ({num_keys} images, or keys that are not {_KEY_BYTES} characters "
                f"long): fetch {path.name}.zip from {_PAGE}."
            )
        self.keys: NDArray[np.bytes_] = np.frombuffer(keys, dtype=f"S{_KEY_BYTES}")

    def __len__(self) -> int:
        return len(self.keys)

    def encoded(self, position: int) -> bytes:
        """The value of that key. Raises BenchError where the database cannot give it."""
        try:
            with _environment(self._path).get().begin() as transaction:
                value = transaction.get(bytes(self.keys[position]))
        except lmdb.Error as error:
            raise BenchError(f"{self.label(position)} cannot be read ({error}).") from error
        if value is None:
            raise BenchError(f"{self.label(position)} is not there any more: do not change the database during a run.")
        return bytes(value)

    def label(self, position: int) -> str:
        """The key and its database in quotes."""
        return f"The image '{self.keys[position].decode('ascii', 'replace')}' of '{self._path}'"


def _open(resolution: int, _path: str | None) -> OpenDataset:
    """What was prepared, else both splits of the training database. Raises MissingDataError where neither is here."""
    check_resolution(_NAME, resolution, SPEC.resolutions)
    prepared = open_prepared(_NAME, resolution)
    if prepared is not None:
        return prepared
    path = data_folder(_NAME) / _DATABASE
    if not (path / "data.mdb").is_file():
        put = f"the unzipped folder {_DATABASE}"
        raise missing(_NAME, f"{_DATABASE}.zip", "46 GB", _PAGE, put, can_download=True)
    source = _LmdbImages(path)
    return open_encoded(
        source,
        split_by_hash(source.keys.tolist()),
        Preparation(resolution=resolution),
        {
            "selection": f"every image of {_DATABASE} (the published one has 3,033,042); bedroom_val_lmdb is not used",
            "manifest": "SHA-256 over the keys in key order",
            "manifest_sha256": hashlib.sha256(source.keys.tobytes()).hexdigest(),
        },
    )


SPEC = DatasetSpec(
    title="LSUN bedroom",
    source=_PAGE,
    licence="for research; the images belong to their owners and may never be passed on",
    resolutions=(64, 128, 256),
    default_resolution=128,
    open=_open,
)
