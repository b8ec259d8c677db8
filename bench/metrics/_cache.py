"""Statistics of a reference, computed once per protocol and kept on this machine.

Why own code: the caches of the field's tools are keyed by a name, so that other data, another crop or other weights
give the old value without a word (torch-fidelity 0.4.0, `cache_input1_name`). Here the key is the SHA-256 of the whole
protocol as JSON (metric, network and weights hash, resize, dtype, data set with its split, preparation and manifest,
selection, count), the protocol lies in the file beside its statistics, and both are compared again when it is read.

What a protocol cannot vouch for is the pixels of somebody's files: a manifest of names and sizes misses a pixel that
changed in a file of the same size. Times of change were considered and refused: tools that copy keep them, network
folders invent them, and they would make one data set two on two machines. So for files the stored statistics carry the
SHA-256 of the pixels they came from, and are taken only if the pixels of now have it (`same_pixels`). That costs a pass
of decoding, never one of the network. Data sets that are made by versioned code, and prepared ones, whose manifest has
the hash of every pixel (`bench data verify` checks the shards against it), need no pass at all.

Files: `$BENCH_CACHE/statistics/<sha256>.npz`, or `~/.cache/gan-bench/statistics/`; replaced as a whole, never pickled,
checksummed by the ZIP format. They may be removed at any time. A cache that cannot be read or written is said once, on
stderr, and costs the pass that it would have saved; it never fails a run.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from bench.datasets._spec import Images, OpenDataset
from bench.errors import StorageError
from bench.store import write_atomically

Arrays = dict[str, NDArray]  # type: ignore[type-arg]  # of any real type
PIXELS_SHA256 = "pixels_sha256"

_VOUCHERS = {"version", "pixels_sha256"}
_FORMAT = 1
_PROTOCOL = "protocol_json"  # no name of statistics
_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
_LOG = logging.getLogger(__name__)
_said: set[str] = set()


def cached(
    protocol: Mapping[str, JsonValue],
    compute: Callable[[], Arrays],
    *,
    still_holds: Callable[[Arrays], bool] | None = None,
) -> Arrays:
    """The statistics of that protocol: from the cache, or computed and put there.

    Args:
        protocol: everything that decides the statistics; two that differ anywhere have two entries.
        compute: does the pass; arrays by name, of any type but object. What it raises is raised, and nothing is stored.
        still_holds: asked whether stored statistics are those of the data as it is now (`same_pixels`); where it says
            no they are computed again. None where the protocol alone decides that.
    """
    document = json.dumps({"cache_format": _FORMAT, "protocol": dict(protocol)}, sort_keys=True, allow_nan=False)
    path = _path_of(document)
    if path is None:
        return compute()
    stored = _read(path, document)
    if stored is not None and (still_holds is None or still_holds(stored)):
        return stored
    arrays = compute()
    _write(path, document, arrays)
    return arrays


def same_pixels(dataset: OpenDataset, read: Callable[[], Iterable[Images]]) -> Callable[[Arrays], bool] | None:
    """For `still_holds`: whether the entry `pixels_sha256` is that of the images as `read` gives them now.

    None, which is no question, where the data set's protocol names the version of the code that makes its pixels, or
    the hash of the prepared ones.
    """
    if _VOUCHERS & dataset.protocol.keys():
        return None
    return lambda stored: PIXELS_SHA256 in stored and np.array_equal(stored[PIXELS_SHA256], hash_of_pixels(read()))


def hash_of_pixels(batches: Iterable[Images]) -> NDArray[np.uint8]:
    """SHA-256 over the pixels in order, whatever the batches: uint8 [32]."""
    digest = hashlib.sha256()
    for images in batches:
        digest.update(images.tobytes())
    return as_array(digest.digest())


def as_array(digest: bytes) -> NDArray[np.uint8]:
    """Bytes as an array that the cache can hold: uint8 [n]."""
    return np.frombuffer(digest, dtype=np.uint8)


def _path_of(document: str) -> Path | None:
    """Where the entry lies; None where this user has no folder for it."""
    asked = os.environ.get("BENCH_CACHE")
    try:
        folder = Path(asked).expanduser() if asked else Path.home() / ".cache" / "gan-bench"
    except RuntimeError as error:
        _say_once(f"Statistics are not kept: {error} Set BENCH_CACHE to a folder.")
        return None
    return folder / "statistics" / f"{hashlib.sha256(document.encode()).hexdigest()}.npz"


def _read(path: Path, document: str) -> Arrays | None:
    """The stored statistics; None where there are none, they are damaged, or they are another protocol's."""
    try:
        with path.open("rb") as file:  # numpy leaves a damaged file that it opened itself open
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("no archive of arrays")
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        return None
    except _DAMAGE as error:
        _say_once(f"The kept statistics '{path}' cannot be read ({error}); they are computed again.")
        return None
    if arrays.pop(_PROTOCOL, np.empty(0, np.uint8)).tobytes() != document.encode():
        _say_once(f"The kept statistics '{path}' are of another protocol than its name says; they are computed again.")
        return None
    return arrays


def _write(path: Path, document: str, arrays: Arrays) -> None:
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **{_PROTOCOL: as_array(document.encode())}, **arrays)
    try:
        write_atomically(path, content.getvalue())
    except StorageError as error:
        _say_once(
            f"Statistics are not kept: '{path.parent}' cannot be written ({error.__cause__}); "
            "set BENCH_CACHE to a folder that can."
        )


def _say_once(sentence: str) -> None:
    """To stderr, where logging is not set up otherwise."""
    if sentence not in _said:
        _said.add(sentence)
        _LOG.warning("%s", sentence)
