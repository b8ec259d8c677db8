"""Fetching a published archive: it goes on where it broke off, and nothing is used before its hash was checked.

Why own code: what is fetched is up to 46 GB from a host that drops connections, and no library this project needs
resumes a plain HTTP download: torch's and torchvision's start again from zero (`torch/hub.py`,
`torchvision/datasets/utils.py`). The protocol is RFC 9110 §§ 13.1.5 and 14: `Range` asks for the rest, `If-Range` with
the validator of the first answer makes the server send everything anew where the file has changed meanwhile.

What has come lies beside the target as `<name>.part`, its validator as `<name>.part.json`; the target appears by a
rename, complete and checked, or not at all. The published sizes and hashes:
* CIFAR-10: MD5 as in torchvision/datasets/cifar.py, https://github.com/pytorch/vision at 00ce2d0;
* LSUN bedroom: size and SHA-256 as in tensorflow_datasets/url_checksums/lsun.txt, https://github.com/tensorflow/datasets
  at 10df6c2 (LSUN's own page publishes none). The host speaks plain HTTP, so the hash is the only proof of origin.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from bench.datasets._files import data_folder
from bench.datasets._safe_zip import unpack_one
from bench.errors import BenchError, StorageError, UsageError
from bench.units import format_bytes

_CHUNK_BYTES = 2**20
_SILENCE_S = 60.0  # without a byte: the connection counts as dropped
_NUM_TRIES = 5  # dropped in a row without one new byte: a person has to look
_FIRST_PAUSE_S = 1.0  # doubled after every drop in a row
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is published of a file, None where nothing is; hashes are lower-case hexadecimal."""

    size_bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A file that a data set is published as.

    Attributes:
        member: the one entry to unpack, to a file of that name; None where the archive is read as it is.
        unpacked_bytes: disk space that takes.
    """

    url: str
    expected: Expected
    member: str | None = None
    unpacked_bytes: int = 0


ARCHIVES = {
    "cifar10": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        expected=Expected(md5="c58f30108f718f92721af3b95e74349a"),
    ),
    "lsun-bedroom": Archive(
        url="http://dl.yf.io/lsun/scenes/bedroom_train_lmdb.zip",
        expected=Expected(
            size_bytes=45_922_737_680,
            sha256="a15644c2e7153106867f0adb3491fc41224102d1f01b24494fb47d9f5d1f174e",
        ),
        member="bedroom_train_lmdb/data.mdb",
        unpacked_bytes=50 * 2**30,  # WebP does not shrink: the archive's 42.8 GiB and a margin
    ),
}
"""The sets whose publishers let a program fetch them; CelebA and FFHQ want a person to agree first."""


def download_dataset(name: str) -> Path:
    """Fetch the archive of a named data set into its data folder, unpack it where that is needed → what will be read.

    Who calls it shows the licence first. What is there already is not fetched again.

    Raises:
        UsageError: no link of that data set is known.
        BenchError, StorageError: as `download`; or the archive cannot be unpacked.
    """
    if name not in ARCHIVES:
        raise UsageError(
            f"--download fetches {' and '.join(sorted(ARCHIVES))} only: run the command without it to be told where "
            f"the files of {name} come from and where to put them."
        )
    archive, folder = ARCHIVES[name], data_folder(name)
    packed = folder / Path(urllib.parse.urlsplit(archive.url).path).name
    target = folder / (archive.member or packed.name)
    if not target.is_file() and not packed.is_file():
        download(archive.url, packed, archive.expected, extra_bytes=archive.unpacked_bytes)
    if archive.member is not None and not target.is_file():
        unpack_one(packed, archive.member, target)
    return target


def download(url: str, path: Path, expected: Expected, *, extra_bytes: int = 0) -> None:
    """Fetch a file, going on from what an earlier call has left; it gets its name when all checks have passed.

    Args:
        url: http or https.
        path: where it goes; its folder is made.
        extra_bytes: free space that must remain, for what is made of the file.

    Raises:
        UsageError: another kind of URL.
        BenchError: the server refuses, keeps dropping the connection, does not say how much it sends, or sends another
            file than the published one; another process is fetching the same.
        StorageError: the disk is too small, or cannot be written.
    """
    if urllib.parse.urlsplit(url).scheme not in {"http", "https"}:
        raise UsageError(f"'{url}' cannot be fetched: only http and https links are.")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(f"{path}.lock", timeout=0):
                _Download(url, path, expected, extra_bytes).run()
        except Timeout as error:
            raise BenchError(f"'{path}' is being fetched by another process: wait for it.") from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """What goes wrong inside is the disk's fault and not the network's."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"'{path}' cannot be written ({error.strerror}): make room or give permission.") from error


class _BrokenError(Exception):
    """The connection was dropped, or the server is busy; a new request may go on."""


class _Download:
    """One file on its way. Arguments as for `download`."""

    def __init__(self, url: str, path: Path, expected: Expected, extra_bytes: int) -> None:
        self._url, self._path, self._expected, self._extra_bytes = url, path, expected, extra_bytes
        self._part = path.with_name(f"{path.name}.part")
        self._note = path.with_name(f"{path.name}.part.json")

    def run(self) -> None:
        """Request until all is here, check, rename."""
        num_failures, most_here = 0, self._num_here()
        while True:
            try:
                self._request(self._num_here())
                break
            except _BrokenError as error:
                num_failures = 0 if self._num_here() > most_here else num_failures + 1
                most_here = max(most_here, self._num_here())
                if num_failures == _NUM_TRIES:
                    raise BenchError(
                        f"'{self._url}' cannot be fetched ({error}, {_NUM_TRIES} times in a row): run the same command "
                        f"again later, it goes on after the {format_bytes(self._num_here())} that are here."
                    ) from error
                time.sleep(_FIRST_PAUSE_S * 2 ** max(0, num_failures - 1))
        self._check()
        self._part.replace(self._path)
        self._note.unlink(missing_ok=True)

    def _num_here(self) -> int:
        """Bytes of the part that may be kept; without a validator or a hash, none may."""
        if not self._part.is_file():
            return 0
        is_checked = bool(self._expected.sha256 or self._expected.md5)
        return self._part.stat().st_size if is_checked or self._validator() else 0

    def _validator(self) -> str | None:
        """The ETag or date of the answer that the part began with."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        is_ours = isinstance(note, dict) and note.get("url") == self._url and isinstance(note.get("validator"), str)
        return note["validator"] if is_ours else None

    def _request(self, num_here: int) -> None:
        """One request for what is missing. Raises _BrokenError where another may go on."""
        if num_here and num_here == self._expected.size_bytes:
            return
        request = urllib.request.Request(self._url, headers={"User-Agent": "gan-bench", "Accept-Encoding": "identity"})
        if num_here:
            request.add_header("Range", f"bytes={num_here}-")
            if validator := self._validator():
                request.add_header("If-Range", validator)
        try:
            with urllib.request.urlopen(request, timeout=_SILENCE_S) as answer:
                self._receive(answer, num_here)
        except urllib.error.HTTPError as error:
            self._refused(error, num_here)
        except (OSError, http.client.HTTPException) as error:  # no such host, no route, reset, silent, TLS
            raise _BrokenError(str(getattr(error, "reason", None) or error or type(error).__name__)) from error

    def _refused(self, error: urllib.error.HTTPError, num_here: int) -> None:
        error.close()
        if error.code in _TRANSIENT:
            raise _BrokenError(f"HTTP {error.code}") from error
        if error.code != 416:
            raise BenchError(
                f"'{self._url}' cannot be fetched (HTTP {error.code} {error.reason}): fetch it by hand and put it at "
                f"'{self._path}'."
            ) from error
        if error.headers.get("Content-Range", "").strip() != f"bytes */{num_here}":
            self._part.unlink()  # nothing begins there: what is here is longer than the file or another one's
            raise _BrokenError("HTTP 416") from error

    def _receive(self, answer: http.client.HTTPResponse, num_here: int) -> None:
        """Write what the server sends, after what is here or in its place."""
        length = answer.headers.get("Content-Length", "")
        size_bytes = int(length) if length.isdigit() else self._expected.size_bytes
        if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
            found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
            if found is None or int(found[1]) != num_here:
                raise BenchError(f"'{self._url}' answers with another part than was asked for: fetch it by hand.")
            size_bytes = int(found[2])
        else:
            num_here = 0  # the server knows no ranges, or the file has changed
        if size_bytes is None:
            raise BenchError(f"'{self._url}' does not say how much it sends: fetch it by hand.")
        if self._expected.size_bytes not in {None, size_bytes}:
            raise BenchError(
                f"'{self._url}' is not the published file ({size_bytes:,} bytes, published "
                f"{self._expected.size_bytes:,}): look at its page for a new link."
            )
        self._check_disk(size_bytes - num_here)
        if not num_here:
            etag = answer.headers.get("ETag", "")  # a weak one does not promise equal bytes
            validator = etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified")
            with _writing(self._note):
                self._note.write_text(json.dumps({"url": self._url, "validator": validator}), encoding="utf-8")
        self._write(answer, num_here, size_bytes)

    def _write(self, answer: http.client.HTTPResponse, num_here: int, size_bytes: int) -> None:
        """Bytes `num_here` to `size_bytes` of the part."""
        with _writing(self._part):
            part = self._part.open("ab" if num_here else "wb")
        with part, _bar(f"fetch {self._path.name}", num_here, size_bytes) as bar:
            while num_here < size_bytes and (chunk := answer.read1(min(_CHUNK_BYTES, size_bytes - num_here))):
                with _writing(self._part):
                    part.write(chunk)
                    part.flush()  # a full disk is told here, not when the file is closed
                num_here += len(chunk)
                bar.update(len(chunk))
        if num_here < size_bytes:
            raise _BrokenError(f"the connection ended after {num_here:,} of {size_bytes:,} bytes")

    def _check_disk(self, missing_bytes: int) -> None:
        free_bytes, needed_bytes = shutil.disk_usage(self._path.parent).free, missing_bytes + self._extra_bytes
        if free_bytes < needed_bytes:
            raise StorageError(
                f"'{self._path.parent}' has {format_bytes(free_bytes)} free where {format_bytes(needed_bytes)} are "
                f"needed for {self._path.name}: make room, or name another data folder with BENCH_DATA."
            )

    def _check(self) -> None:
        """Raises BenchError, and drops what has come, where a published hash is another."""
        for algorithm, published in (("sha256", self._expected.sha256), ("md5", self._expected.md5)):
            if published is None:
                continue
            found = _hash_of(self._part, algorithm)
            if found != published:
                self._part.unlink()
                self._note.unlink(missing_ok=True)
                raise BenchError(
                    f"'{self._url}' is not the published file ({algorithm.upper()} {found}, published {published}): "
                    "what has come was removed; run the same command again, or look at its page for a new link."
                )


def _hash_of(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file, _bar(f"check {path.name}", 0, os.fstat(file.fileno()).st_size) as bar:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def _bar(title: str, done: int, total: int) -> tqdm[None]:
    """A progress bar on a terminal, and nothing elsewhere."""
    return tqdm(desc=title, initial=done, total=total, unit="B", unit_scale=True, unit_divisor=1024, disable=None)
