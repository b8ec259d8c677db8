"""CRC-32C of large arrays, fast enough for checkpoints of hundreds of megabytes.

Why it exists: TensorFlow's checkpoints protect every tensor with it, and Python's `zlib` has another polynomial only.

Source: Castagnoli's polynomial in the reflected form 0x82F63B78 (RFC 3720, appendix B.4). A checksum is linear over
GF(2), so the bytes are cut into lanes of equal length that numpy advances side by side, and the lanes are joined by the
operator "followed by so many zero bytes", as `crc32_combine` of zlib does.
"""

from __future__ import annotations

from functools import lru_cache, reduce

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78
_ALL_ONES = 0xFFFFFFFF
_LANE_BYTES = 1024  # a power of two
_MASK_DELTA = 0xA282EAD8  # tensorflow/core/lib/hash/crc32c.h: a stored checksum is rotated and shifted by this


def crc32c(data: bytes) -> int:
    """The CRC-32C of the bytes, for example 0xE3069283 for b"123456789"."""
    num_lanes = len(data) // _LANE_BYTES
    state = _ALL_ONES
    if num_lanes:
        lanes = np.frombuffer(data, np.uint8, num_lanes * _LANE_BYTES).reshape(num_lanes, _LANE_BYTES)
        for of_lane in _advanced(lanes).tolist():
            state = _after_lane(state) ^ of_lane
    for byte in data[num_lanes * _LANE_BYTES :]:
        state = _table_of_ints()[(state ^ byte) & 0xFF] ^ (state >> 8)
    return state ^ _ALL_ONES


def masked_crc32c(data: bytes) -> int:
    """The checksum as TensorFlow stores it."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & _ALL_ONES


def _advanced(lanes: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Bytes [lanes, _LANE_BYTES] → every lane's state [lanes], started at 0."""
    table = np.array(_table_of_ints(), dtype=np.uint32)
    states = np.zeros(len(lanes), dtype=np.uint32)
    for column in np.ascontiguousarray(lanes.T):
        states = table[(states ^ column) & 0xFF] ^ (states >> 8)
    return states


@lru_cache(maxsize=1)
def _table_of_ints() -> list[int]:
    """The state after one byte, by the lowest byte of (state xor byte)."""
    table = []
    for byte in range(256):
        state = byte
        for _ in range(8):
            state = (state >> 1) ^ (_POLYNOMIAL if state & 1 else 0)
        table.append(state)
    return table


def _after_lane(state: int) -> int:
    """The state after _LANE_BYTES zero bytes."""
    tables = _lane_tables()
    return (
        tables[0][state & 0xFF]
        ^ tables[1][(state >> 8) & 0xFF]
        ^ tables[2][(state >> 16) & 0xFF]
        ^ tables[3][state >> 24]
    )


@lru_cache(maxsize=1)
def _lane_tables() -> list[list[int]]:
    """That linear operator, by each of the four bytes of a state."""
    table = _table_of_ints()
    columns = [table[(1 << bit) & 0xFF] ^ ((1 << bit) >> 8) for bit in range(32)]  # after one zero byte
    for _ in range(_LANE_BYTES.bit_length() - 1):
        columns = [_applied(columns, column) for column in columns]  # twice as many
    return [[_applied(columns, byte << shift) for byte in range(256)] for shift in (0, 8, 16, 24)]


def _applied(columns: list[int], state: int) -> int:
    """A 32 × 32 bit matrix, given by its columns, times a state."""
    return reduce(lambda found, bit: found ^ columns[bit] if state >> bit & 1 else found, range(32), 0)
