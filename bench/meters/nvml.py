"""Energy of NVIDIA GPUs through NVML, and the state they were in at both edges of a window.

Two reads of the board's energy counter around a window (the order at the edges is the runner's: synchronise, monotonic
clock, meters). The counter is updated every 20 to 500 ms, so a window's energy is wrong by up to one period's; the
period is measured when the meter opens. Where the counter cannot be called the power is sampled by a thread instead
(`_nvml_gauge.py`). A failed read, a reset, a counter that stands still, 0 W, or more watts than the board may draw
leave the window without an energy, and say why.

Source: NVML API reference, docs.nvidia.com/deploy/nvml-api. Sensor error of ± 5 %: an external meter against NVML on
several boards, github.com/JimZeyuYang/GPU_Power_Benchmark and arXiv 2312.02741. `nvidia-smi` is never called.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import pynvml
from pydantic import JsonValue

from bench.errors import BenchError
from bench.meters._integrators import counter_error_j
from bench.meters._nvml_gauge import RESOLUTION_J, Gauge, PowerGauge, WindowEnergy, open_gauge, why_unreadable
from bench.meters._nvml_match import board_of
from bench.meters._nvml_opening import Clock
from bench.meters._nvml_power import said
from bench.meters._nvml_state import READINGS, State, flags, merged, read_state
from bench.meters._spec import EnergySource, Meter, MeterSpec, Readings
from bench.records import EnergyLabel

_ENERGY = "gpu_energy_j"
_SYSTEMATIC = 0.05
_MAX_OVER_LIMIT = 1.05  # ours: the cap is kept on the average of some 100 ms, not at every moment
_FAKE_DRIVER = "fake-nvml"  # the compiled library of the tests says so in its driver version


class NvmlMeter(Meter):
    """Energy of one or more boards, summed.

    Args:
        devices: torch devices, for example `cuda:0`; two that share a board count once.
        clock: monotonic seconds; a virtual one in tests.

    Raises:
        BenchError: a board cannot be found or read.
        pynvml.NVMLError: NVML cannot be initialised.
    """

    def __init__(self, devices: Sequence[str], clock: Clock | None = None) -> None:
        pynvml.nvmlInit()
        with ExitStack() as undo:
            undo.callback(pynvml.nvmlShutdown)
            self._driver: str = pynvml.nvmlSystemGetDriverVersion()
            boards = {board.uuid: board for board in map(board_of, devices)}
            self._gauges: list[Gauge] = [open_gauge(board, clock or Clock()) for board in boards.values()]
            undo.pop_all()  # all opened: `close` shuts NVML down

    def start(self) -> None:
        """State first, energy last: nearest to the work."""
        self._states = [read_state(gauge.board.handle) for gauge in self._gauges]
        for gauge in self._gauges:
            gauge.start()

    def tick(self) -> None:
        """Look at the counter in the middle of a long stretch, every 10 s at most."""
        for gauge in self._gauges:
            gauge.tick()

    def stop(self) -> Readings:
        """Energy first, then state."""
        windows = [gauge.stop() for gauge in self._gauges]
        states = [read_state(gauge.board.handle) for gauge in self._gauges]
        first, last = merged(self._states, "start"), merged(states, "end")
        values, problems = first.values | last.values, first.problems | last.problems
        energy_j, reason = self._total(windows, states)
        if energy_j is None:
            problems[_ENERGY] = reason
        else:
            values[_ENERGY] = energy_j
        edges = {name: ends for window in windows for name, ends in window.edges.items()}
        return Readings(values=values, edges=edges, problems=problems, flags=self._flags(states))

    def energy_sources(self) -> dict[str, EnergySource]:
        """One energy; its period is the slowest board's."""
        period_s = max(gauge.period_s for gauge in self._gauges)
        source = EnergySource(label=self._label(), part="gpu", period_s=period_s, systematic=_SYSTEMATIC)
        return {_ENERGY: source}

    def facts(self) -> dict[str, JsonValue]:
        """Driver, and for each board how it is read."""
        boards: dict[str, JsonValue] = {
            gauge.board.uuid: {"name": gauge.board.name, "mig": gauge.board.has_mig, **gauge.facts()}
            for gauge in self._gauges
        }
        return {"driver": self._driver, "boards": boards, "label": self._label()}

    def close(self) -> None:
        """Stop sampling and give NVML back."""
        for gauge in self._gauges:
            gauge.close()
        pynvml.nvmlShutdown()

    def _label(self) -> EnergyLabel:
        if _FAKE_DRIVER in self._driver:
            return "simulated:fake-nvml"
        is_polled = any(isinstance(gauge, PowerGauge) for gauge in self._gauges)
        return "measured:nvml-power-polling" if is_polled else "measured:nvml-energy-counter"

    def _total(self, windows: list[WindowEnergy], states: list[State]) -> tuple[float | None, str]:
        """Joules of all boards together, or None and the first reason."""
        energy_j = 0.0
        for gauge, window, first, last in zip(self._gauges, windows, self._states, states, strict=True):
            if window.energy_j.value is None:
                return None, f"{gauge.board.uuid}: {window.energy_j.reason}"
            if reason := _why_impossible(gauge, window, first, last):
                return None, f"{gauge.board.uuid}: {reason}"
            energy_j += window.energy_j.value
        return energy_j, ""

    def _flags(self, states: list[State]) -> tuple[str, ...]:
        found: list[str] = []
        for gauge, first, last in zip(self._gauges, self._states, states, strict=True):
            prefix = f"{gauge.board.uuid}: " if len(self._gauges) > 1 else ""
            found.extend(prefix + phrase for phrase in (*gauge.flags, *flags(first, last)))
        return tuple(found)


def _why_impossible(gauge: Gauge, window: WindowEnergy, first: State, last: State) -> str:
    """Why a working board cannot have used this energy, or nothing."""
    if 0.0 in (first.values.get("gpu_power_{}_w"), last.values.get("gpu_power_{}_w")):
        return "the power sensor reads 0 W on a working device"
    limits_w = [
        state.values["gpu_power_limit_{}_w"] for state in (first, last) if "gpu_power_limit_{}_w" in state.values
    ]
    energy_j = window.energy_j.value or 0.0
    surely_j = energy_j - counter_error_j(energy_j, window.duration_s, gauge.period_s, RESOLUTION_J)
    if limits_w and surely_j > _MAX_OVER_LIMIT * max(limits_w) * window.duration_s:
        mean_w = energy_j / window.duration_s
        return f"{mean_w:.0f} W on average is more than the board may draw ({max(limits_w):.0f} W)"
    return ""


def _why_unavailable(device: str) -> str | None:
    if device == "cpu":
        return "no GPU in this run (the device is cpu): needs an NVIDIA GPU and --device cuda"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return (
            "NVML (libnvidia-ml.so.1) is not installed: it comes with the NVIDIA driver; a container needs it passed "
            "in (`--gpus all`, driver capability `utility`)"
        )
    except pynvml.NVMLError as error:
        return f"NVML does not start: {said(error)}; the NVIDIA driver must be loaded on this machine"
    try:
        return why_unreadable(board_of(device))
    except BenchError as error:
        return str(error)
    except pynvml.NVMLError as error:
        return f"NVML cannot read this GPU: {said(error)}; a driver reload or a reboot may bring it back"
    finally:
        pynvml.nvmlShutdown()


METER = MeterSpec(
    title="energy and state of NVIDIA GPUs (NVML): energy counter, or sampled power where there is none",
    readings={
        _ENERGY: "joules of the GPU over the window: energy counter read at its edges, or sampled power (NVML)",
        **READINGS,
    },
    why_unavailable=_why_unavailable,
    open=lambda device: NvmlMeter([device]),
)
