"""The two byte formats inside a TensorFlow checkpoint's index: LevelDB's sorted table and protocol-buffer messages.

Why it exists: TensorFlow is too heavy to be needed for reading a few hundred names. Only bytes are read; every length
is checked against what is there.

Sources:
* table: https://github.com/google/leveldb/blob/main/doc/table_format.md; TensorFlow's copy has the same format and
  protects each block by CRC-32C over content and compression byte (tensorflow/core/lib/io/format.cc).
* messages: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from bench.released._crc32c import masked_crc32c

TABLE_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)  # the last eight bytes of a table
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5  # after a block: one byte of compression, four of checksum
_UNCOMPRESSED = 0
_MAX_VARINT_BYTES = 10


class DamagedError(ValueError):
    """The bytes are not what the format says; the message ends a sentence that begins with the file's name."""


def read_table(content: bytes) -> dict[bytes, bytes]:
    """All keys and values of a sorted table.

    Raises:
        DamagedError: cut short, changed, or compressed.
    """
    footer = content[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or not footer.endswith(TABLE_MAGIC):
        raise DamagedError("has no end: it is truncated")
    _, position = _handle(footer, 0)  # of the filters, which are not needed
    (offset, size), _ = _handle(footer, position)
    entries: dict[bytes, bytes] = {}
    for _, value in _entries(_block(content, offset, size)):
        (offset, size), _ = _handle(value, 0)
        entries.update(_entries(_block(content, offset, size)))
    return entries


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a message in order: a varint or fixed number as int, a string or message as bytes.

    Raises:
        DamagedError: not a message.
    """
    position = 0
    while position < len(message):
        tag, position = varint(message, position)
        number, kind = tag >> 3, tag & 7
        value: int | bytes
        if kind == 0:
            value, position = varint(message, position)
        elif kind == 2:
            size, position = varint(message, position)
            value, position = _slice(message, position, size), position + size
        elif kind in {1, 5}:
            size = 8 if kind == 1 else 4
            value, position = int.from_bytes(_slice(message, position, size), "little"), position + size
        else:
            raise DamagedError(f"has an entry with the unknown wire type {kind}")
        yield number, value


def varint(content: bytes, position: int) -> tuple[int, int]:
    """A number of seven bits per byte, lowest first → (number, position after it). Raises DamagedError."""
    number = 0
    for index, byte in enumerate(content[position : position + _MAX_VARINT_BYTES]):
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return number, position + index + 1
    raise DamagedError("has a number that does not end")


def _handle(content: bytes, position: int) -> tuple[tuple[int, int], int]:
    """Where a block lies: ((offset, size), position after it)."""
    offset, position = varint(content, position)
    size, position = varint(content, position)
    return (offset, size), position


def _block(content: bytes, offset: int, size: int) -> bytes:
    """One block, checked."""
    block = _slice(content, offset, size + _TRAILER_BYTES)
    stored = int.from_bytes(block[-4:], "little")
    if masked_crc32c(block[:-4]) != stored:
        raise DamagedError(f"is damaged: the checksum of the block at byte {offset} differs")
    if block[size] != _UNCOMPRESSED:
        raise DamagedError("is compressed, which TensorFlow's own writer never does")
    return block[:size]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values; a key repeats the beginning of the one before it."""
    num_restarts = int.from_bytes(_slice(block, len(block) - 4, 4), "little")
    end = len(block) - 4 - 4 * num_restarts
    key, position = b"", 0
    while position < end:
        num_shared, position = varint(block, position)
        num_new, position = varint(block, position)
        size, position = varint(block, position)
        key = key[:num_shared] + _slice(block, position, num_new)
        position += num_new
        yield key, _slice(block, position, size)
        position += size


def _slice(content: bytes, start: int, size: int) -> bytes:
    """That many bytes, or DamagedError where there are fewer."""
    if start < 0 or start + size > len(content):
        raise DamagedError("is truncated or damaged: a length in it points past its end")
    return content[start : start + size]
