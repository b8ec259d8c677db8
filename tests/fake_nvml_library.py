"""The fake NVML of tests/fake_nvml/nvml.c: compile it, load it under the real nvidia-ml-py, set a scenario, move time.

Why not a mock: the binding, its structures and its error classes are part of what must work. Energy is known in closed
form (`FakeNvml.true_energy_j`), time is a number in shared memory, so 60 s of a window cost nothing.
"""

import _ctypes
import ctypes
import math
import mmap
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pynvml
import pytest

SOURCE = Path(__file__).parent / "fake_nvml" / "nvml.c"
SONAME = "libnvidia-ml.so.1"
STATE_VARIABLE = "FAKE_NVML_STATE"
CALLS = (
    "energy",
    "power_instant",
    "power_average",
    "limit",
    "temperature",
    "clock",
    "pstate",
    "throttle",
    "processes",
    "mig",
)
UUIDS = (
    "GPU-11111111-aaaa-0000-0000-000000000001",
    "GPU-11111111-bbbb-0000-0000-000000000002",
    "GPU-22222222-cccc-0000-0000-000000000003",
)
NOT_SUPPORTED, NO_PERMISSION, GPU_IS_LOST, UNKNOWN = 3, 4, 15, 999
_UUID_BYTES = 96


class Fault(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int64), ("from_s", ctypes.c_double), ("to_s", ctypes.c_double)]


class Device(ctypes.Structure):
    """The same layout as `struct device` in nvml.c, which explains the fields."""

    _fields_ = [
        ("uuid", ctypes.c_char * _UUID_BYTES),
        ("name", ctypes.c_char * _UUID_BYTES),
        *[
            (name, ctypes.c_double)
            for name in (
                *("idle_w", "load_w", "load_from_s", "tick_s", "phase_s", "offset_mj", "frozen_from_s", "reset_s"),
                *("counter_factor", "sensor_factor", "sensor_tick_s"),
                *("limit_w", "temperature_c", "sm_clock_mhz", "pstate"),
            )
        ],
        ("throttle_mask", ctypes.c_int64),
        ("num_processes", ctypes.c_int64),
        ("pids", ctypes.c_int64 * 4),
        ("has_mig", ctypes.c_int64),
        ("num_instances", ctypes.c_int64),
        ("instances", (ctypes.c_char * _UUID_BYTES) * 4),
        ("faults", Fault * len(CALLS)),
        ("num_reads", ctypes.c_int64 * len(CALLS)),
    ]

    def fail(self, call: str, code: int, from_s: float = -math.inf, to_s: float = math.inf) -> None:
        """Let one call return an error while the virtual clock is in [from_s, to_s)."""
        self.faults[CALLS.index(call)] = Fault(code, from_s, to_s)

    def num_calls(self, call: str) -> int:
        return self.num_reads[CALLS.index(call)]

    def add_mig_instance(self, uuid: str) -> None:
        self.has_mig = 1
        self.instances[self.num_instances].value = uuid.encode()
        self.num_instances += 1


class State(ctypes.Structure):
    _fields_ = [("now_s", ctypes.c_double), ("num_devices", ctypes.c_int64), ("devices", Device * 4)]


class FakeNvml:
    """One state file: a virtual clock and some GPUs."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(ctypes.sizeof(State)))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._state = State.from_buffer(self._map)
        self.reset()

    def reset(self, num_devices: int = 1) -> None:
        """Time 1000 s; healthy GPUs of 60 W idle that have worked at 300 W from the beginning, ticks of 20 ms."""
        self.stands_at_s = math.inf
        ctypes.memset(ctypes.byref(self._state), 0, ctypes.sizeof(State))
        self._state.now_s = 1000.0
        self._state.num_devices = num_devices
        for index in range(num_devices):
            device = self._state.devices[index]
            device.uuid, device.name = UUIDS[index].encode(), b"Fake H200"
            device.idle_w, device.load_w, device.load_from_s = 60.0, 300.0 + 50.0 * index, 0.0
            device.tick_s, device.sensor_tick_s = 0.02, 0.1
            device.offset_mj = 5e6
            device.frozen_from_s = device.reset_s = math.inf
            device.counter_factor = device.sensor_factor = 1.0
            device.limit_w, device.temperature_c, device.sm_clock_mhz = 700.0, 55.0, 1980.0

    def device(self, index: int = 0) -> Device:
        return self._state.devices[index]

    def now(self) -> float:
        return self._state.now_s

    def sleep(self, duration_s: float) -> None:
        self._state.now_s += duration_s

    def sleep_until_it_stands(self, duration_s: float) -> None:
        """For a thread that moves the clock: it stops at `stands_at_s`, and then costs a little real time."""
        left_s = self.stands_at_s - self.now()
        if duration_s < left_s:
            self.sleep(duration_s)
        else:
            self._state.now_s = self.stands_at_s
            time.sleep(1e-3)

    def true_energy_j(self, start_s: float, end_s: float, index: int = 0) -> float:
        device = self.device(index)
        idle_s = max(0.0, min(end_s, device.load_from_s) - start_s)
        return device.idle_w * idle_s + device.load_w * (end_s - start_s - idle_s)


def compile_library(folder: Path, *defines: str) -> Path:
    """Build the library under its SONAME → its path; skips the test where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler (cc or gcc) to build the fake NVML with")
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / SONAME
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", f"-Wl,-soname,{SONAME}"]
    command = [compiler, *options, *(f"-D{name}" for name in defines), "-o", str(library), str(SOURCE), "-lm"]
    subprocess.run(command, check=True)
    return library


@contextmanager
def loaded(library: Path, state_path: Path) -> Iterator[FakeNvml]:
    """The library in this process, found by nvidia-ml-py under its SONAME; gone again afterwards."""
    fake = FakeNvml(state_path)
    before = os.environ.get(STATE_VARIABLE)
    os.environ[STATE_VARIABLE] = str(state_path)
    handle = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    handle.fakeNvmlStateBytes.restype = ctypes.c_int64
    assert handle.fakeNvmlStateBytes() == ctypes.sizeof(State), "nvml.c and State have drifted apart"
    kept = pynvml.nvmlLib, dict(pynvml._nvmlGetFunctionPointer_cache)
    _bind(None, {})
    try:
        yield fake
    finally:
        if pynvml.nvmlLib is not None:
            _ctypes.dlclose(pynvml.nvmlLib._handle)
        _ctypes.dlclose(handle._handle)
        _bind(*kept)
        if before is None:
            del os.environ[STATE_VARIABLE]
        else:
            os.environ[STATE_VARIABLE] = before


def _bind(library: ctypes.CDLL | None, functions: dict) -> None:
    """Let nvidia-ml-py look for its library again, or have back the one it had."""
    pynvml.nvmlLib = library
    pynvml._nvmlGetFunctionPointer_cache.clear()
    pynvml._nvmlGetFunctionPointer_cache.update(functions)
