"""Which board is `cuda:N`? CUDA's devices found again in NVML, by UUID.

Torch counts the devices that CUDA_VISIBLE_DEVICES leaves, in CUDA's order; NVML counts every board, in PCI order, and
knows nothing of the variable. Where torch sees the device, CUDA itself tells the UUID; else the variable is read as
CUDA reads it: integers or UUID prefixes, cut at the first entry that is not valid, no device where one comes twice.

Source: CUDA C++ programming guide, environment variables, CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER; MIG user guide,
"CUDA visible devices". NVML API: docs.nvidia.com/deploy/nvml-api.
Deliberate differences: an integer on boards of different models without CUDA_DEVICE_ORDER=PCI_BUS_ID is refused,
because CUDA then counts by speed and NVML does not say how; a MIG instance is read only where it is alone on its board,
because the energy counter is the board's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pynvml
import torch

from bench.errors import BenchError

_INTEGER = re.compile(r"\+?\d+")  # CUDA reads the integer at the start of an entry: `1gpu` is 1
_OLD_MIG = re.compile(r"MIG-(?P<gpu>GPU-[0-9a-f-]+)/\d+/\d+")  # drivers before R470


@dataclass(frozen=True, kw_only=True)
class Board:
    """One physical GPU.

    Attributes:
        uuid: `GPU-…`, as NVML writes it.
        handle: NVML's, valid until it is shut down.
        has_mig: whether the board is cut into MIG instances.
        mig_uuids: its instances, `MIG-…`.
    """

    uuid: str
    name: str
    handle: Any = field(repr=False, compare=False)
    has_mig: bool
    mig_uuids: tuple[str, ...]


def board_of(device: str) -> Board:
    """The board behind a torch device such as `cuda:1`; NVML must be initialised.

    Raises:
        BenchError: no such device, no board with its UUID, or a MIG instance that shares its board.
        pynvml.NVMLError: NVML cannot list the boards.
    """
    index = torch.device(device).index or 0
    boards = every_board()
    uuids = [_torch_uuid(index)] if torch.cuda.is_available() else visible_uuids(_variable(), boards)
    position = 0 if torch.cuda.is_available() else index
    if position >= len(uuids):
        raise BenchError(
            f"--device {device}: CUDA_VISIBLE_DEVICES='{_variable() or ''}' leaves {len(uuids)} of the {len(boards)} "
            "GPUs that NVML sees; name one that is there."
        )
    board = _owner(uuids[position], boards)
    if board.has_mig and len(board.mig_uuids) != 1:
        raise BenchError(
            f"{board.name} is cut into {len(board.mig_uuids)} MIG instances and its energy counter is the whole "
            "board's: destroy the other instances, or switch MIG off, to measure energy."
        )
    return board


def every_board() -> list[Board]:
    """Every board NVML sees, in PCI order."""
    return [_board(pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(pynvml.nvmlDeviceGetCount())]


def visible_uuids(variable: str | None, boards: Sequence[Board]) -> list[str]:
    """The UUIDs behind cuda:0, cuda:1, … under a CUDA_VISIBLE_DEVICES (None: not set), as CUDA reads it.

    Raises:
        BenchError: integers, and boards of different models in an order that NVML does not know.
    """
    if variable is not None and variable.startswith(("GPU-", "MIG-")):
        every_uuid = [uuid for board in boards for uuid in (board.uuid, *board.mig_uuids)]
        found = [_by_prefix(entry.strip(), every_uuid) for entry in variable.split(",")]
    else:
        if len({board.name for board in boards}) > 1 and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
            raise BenchError(
                "this machine has GPUs of different models and CUDA counts them by speed: set "
                "CUDA_DEVICE_ORDER=PCI_BUS_ID, or name the GPU by its UUID in CUDA_VISIBLE_DEVICES, to measure energy."
            )
        in_order = [board.uuid for board in boards]
        if variable is None:
            return in_order
        found = [_by_number(entry.strip(), in_order) for entry in variable.split(",")]
    valid = found[: found.index(None)] if None in found else found
    uuids = [uuid for uuid in valid if uuid is not None]
    return [] if len(set(uuids)) < len(uuids) else uuids


def _by_prefix(entry: str, every_uuid: Sequence[str]) -> str | None:
    old = _OLD_MIG.fullmatch(entry)
    if old is not None:
        return _by_prefix(old["gpu"], every_uuid)
    matching = [uuid for uuid in every_uuid if uuid.startswith(entry)]
    return matching[0] if entry.startswith(("GPU-", "MIG-")) and len(matching) == 1 else None


def _by_number(entry: str, uuids: Sequence[str]) -> str | None:
    match = _INTEGER.match(entry)
    return uuids[int(match[0])] if match is not None and int(match[0]) < len(uuids) else None


def _owner(uuid: str, boards: Sequence[Board]) -> Board:
    """The board of that UUID, or the board that holds the MIG instance of that UUID."""
    for board in boards:
        if uuid == board.uuid or uuid in board.mig_uuids:
            return board
    raise BenchError(f"CUDA's GPU {uuid} is not among the {len(boards)} GPUs that NVML sees in this container.")


def _board(handle: Any) -> Board:
    has_mig = _has_mig(handle)
    return Board(
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        name=pynvml.nvmlDeviceGetName(handle),
        handle=handle,
        has_mig=has_mig,
        mig_uuids=tuple(_mig_uuids(handle)) if has_mig else (),
    )


def _has_mig(handle: Any) -> bool:
    try:
        current, _pending = pynvml.nvmlDeviceGetMigMode(handle)
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        return False
    return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)


def _mig_uuids(handle: Any) -> list[str]:
    uuids = []
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except pynvml.NVMLError_NotFound:
            continue  # slots need not be filled from the front
        uuids.append(pynvml.nvmlDeviceGetUUID(instance))
    return uuids


def _torch_uuid(index: int) -> str:
    """As CUDA tells it; without its prefix in torch. A MIG instance tells its own or its board's."""
    if index >= torch.cuda.device_count():
        raise BenchError(f"--device cuda:{index}: torch sees {torch.cuda.device_count()} GPUs; name one that is there.")
    plain = str(torch.cuda.get_device_properties(index).uuid)
    instances = [uuid for board in every_board() for uuid in board.mig_uuids]
    return f"MIG-{plain}" if f"MIG-{plain}" in instances else f"GPU-{plain}"


def _variable() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")
