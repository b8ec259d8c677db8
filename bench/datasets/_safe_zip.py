"""ZIP archives that may be forged: what is refused before a byte of them is unpacked, and unpacking within bounds.

Why own code: `zipfile` trusts the archive. It unpacks an entry whole before it compares with the size that was declared
(up to 2 GiB at a time), gives names that lead out of the folder, and knows overlapping entries only since Python
3.11.8. A data set comes from somewhere, so four things are refused, each in one sentence:
* a name that leads out of the archive (absolute, `..`, a backslash);
* an entry that unpacks to more than 512 MiB where an image is expected;
* one that unpacks to more than 200 times its size, once that is more than 16 MiB (a flat picture may shrink as much);
* entries that share their bytes, which is how 46 MB become 4.5 PB (https://www.bamsoftware.com/hacks/zipbomb/).
"""

from __future__ import annotations

import lzma
import os
import shutil
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from bench.errors import BenchError, StorageError
from bench.units import format_bytes

MAX_ENTRY_BYTES = 2**29
"""Largest entry that is unpacked into memory: twice the bytes of the largest image that is decoded, as a bitmap."""
MAX_RATIO = 200
"""Unpacked to packed bytes, from `RATIO_FROM_BYTES` on. Deflate reaches 1,032."""
RATIO_FROM_BYTES = 2**24

_CHUNK_BYTES = 2**20
_DAMAGE = (zipfile.BadZipFile, OSError, RuntimeError, EOFError, ValueError, zlib.error)
_DAMAGE_INSIDE = (*_DAMAGE, lzma.LZMAError)


def open_zip(path: Path) -> zipfile.ZipFile:
    """The archive, to be read.

    Raises:
        BenchError: it is damaged, or a sign of a forged one is in its directory.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise BenchError(f"The archive '{path}' cannot be read ({error}): fetch it again.") from error
    try:
        _check(path, archive.infolist())
    except BenchError:
        archive.close()
        raise
    return archive


def _check(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    for info in infos:
        name = info.filename
        if name.startswith("/") or ".." in PurePosixPath(name).parts or "\\" in name:
            raise BenchError(f"The archive '{path}' is refused: its entry '{name}' leads out of it.")
        if info.file_size > RATIO_FROM_BYTES and info.file_size > MAX_RATIO * info.compress_size:
            raise BenchError(
                f"The archive '{path}' is refused as a ZIP bomb: its entry '{name}' unpacks from "
                f"{info.compress_size:,} to {info.file_size:,} bytes, more than {MAX_RATIO} times as much."
            )
    if sum(info.compress_size for info in infos) > path.stat().st_size:
        raise BenchError(f"The archive '{path}' is refused as a ZIP bomb: its entries share their bytes.")


def read_entry(archive: zipfile.ZipFile, name: str, label: str) -> bytes:
    """The unpacked bytes of an entry, of at most `MAX_ENTRY_BYTES`.

    Args:
        label: the entry and its archive, for messages.

    Raises:
        BenchError: it is damaged, encrypted or too large.
    """
    try:
        info = archive.getinfo(name)
        if info.file_size > MAX_ENTRY_BYTES:
            raise BenchError(f"{label} unpacks to {info.file_size:,} bytes and is refused.")
        with archive.open(info) as entry:
            return entry.read(info.file_size)  # with a number: never more in memory than was declared
    except _DAMAGE_INSIDE as error:
        raise BenchError(f"{label} cannot be unpacked ({error}): fetch the archive again.") from error


def unpack_one(path: Path, name: str, target: Path) -> None:
    """Unpack one entry of an archive to a file, which appears complete or not at all; no other entry is written.

    Raises:
        BenchError: the archive is refused, damaged, or lacks the entry.
        StorageError: the disk has too little room, or cannot be written.
    """
    with open_zip(path) as archive:
        if name not in archive.NameToInfo:
            raise BenchError(f"The archive '{path}' has no entry '{name}': fetch it again.")
        info = archive.NameToInfo[name]
        part = target.with_name(f"{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            free_bytes = shutil.disk_usage(target.parent).free
            if free_bytes < info.file_size:
                raise StorageError(
                    f"'{target.parent}' has {format_bytes(free_bytes)} free where {format_bytes(info.file_size)} are "
                    f"needed to unpack '{name}': make room."
                )
            with archive.open(info) as entry, part.open("wb") as file:
                while chunk := entry.read(_CHUNK_BYTES):
                    file.write(chunk)
                os.fsync(file.fileno())
            part.replace(target)
        except OSError as error:
            raise StorageError(f"'{target}' cannot be written ({error.strerror or error}): make room.") from error
        except _DAMAGE_INSIDE as error:
            raise BenchError(f"'{name}' in '{path}' cannot be unpacked ({error}): fetch the archive again.") from error
        finally:
            part.unlink(missing_ok=True)
