"""Peak memory over a window.

On a GPU: the allocator's high-water mark (tensors) and what it reserved. On a CPU: the kernel's high-water mark of the
resident set, reset at the first edge by writing 5 to /proc/self/clear_refs (proc(5), Linux 4.0); it holds the whole
process, interpreter and libraries included, and what earlier phases left in the heap, so it is an upper bound.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from bench.meters._spec import Meter, MeterSpec, Readings

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5\n"


class CpuMemoryMeter(Meter):
    """High-water mark of the resident set, bytes."""

    def start(self) -> None:
        """Set the mark back to the present size."""
        _CLEAR_REFS.write_text(_RESET_PEAK)

    def stop(self) -> Readings:
        """The mark now."""
        return Readings(values={"peak_memory_bytes": _peak_resident_bytes()})


class GpuMemoryMeter(Meter):
    """High-water marks of torch's allocator on one device, bytes."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)

    def start(self) -> None:
        """Set the marks back to the present size."""
        torch.cuda.reset_peak_memory_stats(self._device)

    def stop(self) -> Readings:
        """The marks now."""
        return Readings(
            values={
                "peak_memory_bytes": float(torch.cuda.max_memory_allocated(self._device)),
                "peak_reserved_bytes": float(torch.cuda.max_memory_reserved(self._device)),
            }
        )


def _peak_resident_bytes() -> float:
    match = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    if match is None:
        raise OSError(f"{_STATUS} has no VmHWM line")
    return float(int(match[1]) * 1024)


def _why_unavailable(device: str) -> str | None:
    if device != "cpu":
        return None
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK)
        _peak_resident_bytes()
    except OSError as error:
        return f"the kernel does not let this process reset its memory mark ({error})"
    return None


def _open(device: str) -> Meter:
    return CpuMemoryMeter() if device == "cpu" else GpuMemoryMeter(device)


METER = MeterSpec(
    title="peak memory: the GPU allocator's high-water mark, or the process's resident set on a CPU",
    readings={
        "peak_memory_bytes": "GPU: bytes held by tensors at most; CPU: resident set of the whole process at most",
        "peak_reserved_bytes": "GPU: bytes torch's allocator had reserved at most",
    },
    why_unavailable=_why_unavailable,
    open=_open,
)
