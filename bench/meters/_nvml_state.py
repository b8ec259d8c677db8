"""The state of a GPU at a window's edges, and what of it disturbs the window.

Energy per image means little without the state it was read in: a hot board leaks more, a throttled one computes
slower, a board shared with another process is charged for both. So temperature, clocks, P-state, throttle reasons,
power limit and the other processes are read at both edges, and what disturbs is a flag on the window.

Source: NVML API reference, device queries and `nvmlClocksEventReasons`. Thresholds are ours.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pynvml
import torch

from bench.meters._nvml_power import MILLI, power_kind, power_w, said

_CLOCK_CHANGE = 0.10  # ours
_POWER_LIMIT_CHANGE_W = 0.5  # ours
_POWER_CAP = pynvml.nvmlClocksThrottleReasonSwPowerCap
_THROTTLE_REASONS: dict[int, str] = {
    pynvml.nvmlClocksThrottleReasonHwSlowdown: "throttled: hardware slowdown",
    pynvml.nvmlClocksThrottleReasonHwThermalSlowdown: "throttled: hardware thermal slowdown",
    pynvml.nvmlClocksThrottleReasonSwThermalSlowdown: "throttled: software thermal slowdown",
    pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown: "throttled: hardware power brake",
    pynvml.nvmlClocksThrottleReasonSyncBoost: "throttled: clocks synchronised with a slower GPU",
    pynvml.nvmlClocksThrottleReasonBoardLimit: "throttled: board limit",
    pynvml.nvmlClocksThrottleReasonReliability: "throttled: reliability voltage",
    _POWER_CAP: "power cap: clocks held down to stay under the power limit",
}

_READS: dict[str, Callable[[Any], float]] = {
    "gpu_temperature_{}_c": lambda handle: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
    "gpu_sm_clock_{}_mhz": lambda handle: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
    "gpu_performance_state_{}": pynvml.nvmlDeviceGetPerformanceState,
    "gpu_throttle_mask_{}": pynvml.nvmlDeviceGetCurrentClocksThrottleReasons,
    "gpu_power_limit_{}_w": lambda handle: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) * MILLI,
    "gpu_power_{}_w": lambda handle: power_w(handle, power_kind(handle) or "average"),
    "num_gpu_other_processes_{}": lambda handle: len(other_processes(handle)),
}

READINGS: dict[str, str] = {
    name.format(edge): meaning.format(edge)
    for edge in ("start", "end")
    for name, meaning in {
        "gpu_temperature_{}_c": "core temperature at the window's {} (NVML); the hottest of several GPUs",
        "gpu_sm_clock_{}_mhz": "clock of the multiprocessors at the window's {} (NVML); the slowest of several GPUs",
        "gpu_performance_state_{}": "P-state at the window's {}, 0 is the fastest (NVML); the slowest of several GPUs",
        "gpu_throttle_mask_{}": "reasons that hold the clocks down at the window's {}, NVML's bit mask; of several "
        "GPUs the largest",
        "gpu_power_limit_{}_w": "enforced power limit at the window's {} (NVML); the sum over several GPUs",
        "gpu_power_{}_w": "power reading at the window's {}, where the GPU has just finished its work (NVML); the sum "
        "over several GPUs",
        "num_gpu_other_processes_{}": "compute processes other than this one on the GPU at the window's {} (NVML)",
    }.items()
}


@dataclass(frozen=True, kw_only=True)
class State:
    """One GPU at one edge: figures by name (`{}` in the place of the edge), and why others are missing."""

    values: dict[str, float]
    problems: dict[str, str]


def read_state(handle: Any) -> State:
    """Read everything; what cannot be read has its reason."""
    values, problems = {}, {}
    for name, read in _READS.items():
        try:
            values[name] = float(read(handle))
        except pynvml.NVMLError as error:
            problems[name] = said(error)
    return State(values=values, problems=problems)


def other_processes(handle: Any) -> list[int]:
    """Process ids of others that compute on this GPU.

    In a container NVML may list processes under the host's numbers, and then this process is not found among them:
    where it holds a CUDA context, one of those listed is taken for it.
    """
    listed = [process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)]
    if os.getpid() in listed:
        return [pid for pid in listed if pid != os.getpid()]
    has_context: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return listed[1:] if has_context else listed


def merged(states: list[State], edge: str) -> State:
    """The states of several GPUs at one edge as one, with the names a window carries."""
    choose: dict[str, Callable[[list[float]], float]] = {
        "gpu_sm_clock_{}_mhz": min,
        "gpu_power_limit_{}_w": sum,
        "gpu_power_{}_w": sum,
        "num_gpu_other_processes_{}": sum,
    }
    problems = {name.format(edge): why for state in states for name, why in state.problems.items()}
    complete = [name for name in _READS if all(name in state.values for state in states)]
    values = {name.format(edge): choose.get(name, max)([state.values[name] for state in states]) for name in complete}
    return State(values=values, problems=problems)


def flags(first: State, last: State) -> list[str]:
    """What disturbed a window, from the states of one GPU at its two edges."""
    mask = int(first.values.get("gpu_throttle_mask_{}", 0)) | int(last.values.get("gpu_throttle_mask_{}", 0))
    found = [phrase for reason, phrase in _THROTTLE_REASONS.items() if mask & reason]
    num_others = max(state.values.get("num_gpu_other_processes_{}", 0) for state in (first, last))
    if num_others:
        found.append(f"other processes on the GPU: {num_others:.0f}")
    before_w, after_w = _both("gpu_power_limit_{}_w", first, last)
    if abs(after_w - before_w) > _POWER_LIMIT_CHANGE_W:
        found.append(f"power limit changed from {before_w:.0f} to {after_w:.0f} W")
    before_mhz, after_mhz = _both("gpu_sm_clock_{}_mhz", first, last)
    if abs(after_mhz - before_mhz) > _CLOCK_CHANGE * before_mhz:
        found.append(f"SM clock changed from {before_mhz:.0f} to {after_mhz:.0f} MHz")
    return found


def _both(name: str, first: State, last: State) -> tuple[float, float]:
    """The two edges' figures; not a number, which is never above a threshold, where one is missing."""
    return first.values.get(name, math.nan), last.values.get(name, math.nan)
