"""The sensors of a GPU as NVML gives them, energy counter and power reading, and whether each can be called.

Support is found by calling, not by the board's generation: virtual GPUs and old drivers lack calls their boards have.
Source: NVML API reference, `nvmlDeviceGetTotalEnergyConsumption` (mJ since the driver was loaded, Volta and newer),
`nvmlDeviceGetPowerUsage` (mW; on Ampere and newer a mean over one second), `NVML_FI_DEV_POWER_INSTANT`.
"""

from __future__ import annotations

from typing import Any, Literal

import pynvml

MILLI = 1e-3
PowerKind = Literal["instant", "average"]
NO_CALL = (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_NoPermission)


def said(error: pynvml.NVMLError) -> str:
    """An NVML error for a sentence: its code's name, number and text."""
    named = (key for key, value in vars(pynvml).items() if key.startswith("NVML_ERROR_") and value == error.value)
    return f"{next(named, 'NVML error')} ({error.value}): {error}"


def energy_mj(handle: Any) -> float:
    """Millijoules since the driver was loaded."""
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))


def power_w(handle: Any, kind: PowerKind) -> float:
    """Watts now, or over the last second."""
    if kind == "average":
        return float(pynvml.nvmlDeviceGetPowerUsage(handle)) * MILLI
    field_value = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_POWER_INSTANT])[0]
    if field_value.nvmlReturn != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(field_value.nvmlReturn)
    return float(field_value.value.uiVal) * MILLI


def has_counter(handle: Any) -> bool:
    """Whether the energy counter can be called. An error that is not about support or permission is raised."""
    try:
        energy_mj(handle)
    except NO_CALL:
        return False
    return True


def power_kind(handle: Any) -> PowerKind | None:
    """The better of the two power readings that can be called, None where there is neither."""
    kinds: tuple[PowerKind, ...] = ("instant", "average")
    for kind in kinds:
        try:
            power_w(handle, kind)
        except NO_CALL:
            continue
        return kind
    return None
