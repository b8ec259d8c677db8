"""Energy of one GPU over a window: by its counter where it has one, else by sampling its power.

The counter is read at the two edges and nothing runs between them. Where calling it does not work (before Volta, some
virtual GPUs) the power is sampled by a thread and integrated; that thread is the one thing of ours that runs inside a
window, so it is never started beside a working counter. Its interval is jittered: A100 and H100 look at their power in
25 of every 100 ms, and a steady beat near that period reads up to 27 % wrong (arXiv 2312.02741).

Power: `NVML_FI_DEV_POWER_INSTANT` where the board has it; `nvmlDeviceGetPowerUsage` is a mean over the last second on
Ampere and newer, wrong by up to one second's energy at each window.
"""

from __future__ import annotations

import random
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass

import pynvml
from pydantic import JsonValue

from bench.errors import BenchError
from bench.meters._integrators import Figure, PowerIntegral, RisingCounter
from bench.meters._nvml_match import Board
from bench.meters._nvml_opening import MAX_POLL_S, POWER_INTERVALS_S, Clock, look
from bench.meters._nvml_power import MILLI, PowerKind, energy_mj, has_counter, power_kind, power_w, said

RESOLUTION_J = 1e-3  # the counter is in millijoules
# Update period of the power sensor, the longest seen (arXiv 2312.02741): the energy of one is the error of a window.
_POWER_PERIOD_S = {"instant": 0.1, "average": 1.0}
_TICK_INTERVAL_S = 10.0


@dataclass(frozen=True, kw_only=True)
class WindowEnergy:
    """What one GPU used over a window.

    Attributes:
        energy_j: joules, or why they are not known.
        duration_s: between the two reads.
        edges: raw value of the counter, or of the power sensor, at the two edges, by name.
    """

    energy_j: Figure
    duration_s: float
    edges: dict[str, tuple[float, float]]


class Gauge(ABC):
    """Energy of one board between `start` and `stop`.

    Attributes:
        period_s: update period of what is read.
        flags: what is doubtful of every window.
    """

    method: str
    period_s: float
    flags: tuple[str, ...] = ()

    def __init__(self, board: Board, clock: Clock) -> None:
        self.board = board
        self._clock = clock

    @abstractmethod
    def start(self) -> None:
        """The first edge."""

    @abstractmethod
    def stop(self) -> WindowEnergy:
        """The second edge."""

    def tick(self) -> None:  # noqa: B027 - polling needs none
        """A step edge inside a long stretch."""

    def close(self) -> None:  # noqa: B027 - the counter holds nothing
        """End a thread."""

    @abstractmethod
    def facts(self) -> dict[str, JsonValue]:
        """How it reads, for the record."""


@dataclass(kw_only=True)
class _Edges:
    """The first and the last read that worked, of one window."""

    first: tuple[float, float] | None = None
    last: tuple[float, float] | None = None

    def add(self, time_s: float, value: float) -> None:
        self.first = self.first or (time_s, value)
        self.last = (time_s, value)

    def raw(self, name: str) -> dict[str, tuple[float, float]]:
        return {name: (self.first[1], self.last[1])} if self.first and self.last else {}


class CounterGauge(Gauge):
    """Two reads of `nvmlDeviceGetTotalEnergyConsumption`, with a look between them every 10 s where there are ticks."""

    method = "nvmlDeviceGetTotalEnergyConsumption"

    def __init__(self, board: Board, clock: Clock) -> None:
        super().__init__(board, clock)
        self._opening = look(board.handle, clock)
        self._fault = self._opening.fault()
        self.flags = self._opening.flags()
        period_s = self._opening.period_s.value
        # A change is seen up to one polling interval late; too long a period only widens the error.
        self.period_s = MAX_POLL_S if period_s is None else period_s + self._opening.interval_s

    def start(self) -> None:
        self._sum = RisingCounter(self.period_s)
        self._edges = _Edges()
        if self._fault:
            self._sum.fail(self._fault)
        self._started_s = self._clock.now()
        self._looked_s = self._started_s
        self._read(self._started_s, "first edge")

    def tick(self) -> None:
        now_s = self._clock.now()
        if now_s - self._looked_s >= _TICK_INTERVAL_S:
            self._looked_s = now_s
            self._read(now_s, "middle")

    def stop(self) -> WindowEnergy:
        now_s = self._clock.now()
        self._read(now_s, "second edge")
        total = self._sum.result()
        energy_j = total if total.value is None else Figure(value=total.value * MILLI)
        edges = self._edges.raw(f"{self.board.uuid} total_energy_mj")
        return WindowEnergy(energy_j=energy_j, duration_s=now_s - self._started_s, edges=edges)

    def facts(self) -> dict[str, JsonValue]:
        return {
            "method": self.method,
            "period_s": self.period_s,
            "resolution_j": RESOLUTION_J,
            "opening_counter_w": self._opening.counter_w.value,
            "opening_power_sensor_w": self._opening.sensor_w.value,
            "opening_disagreement": self._opening.disagreement,
            "fault": self._fault,
        }

    def _read(self, time_s: float, where: str) -> None:
        try:
            value_mj = energy_mj(self.board.handle)
        except pynvml.NVMLError as error:
            self._sum.add(time_s, None, f"the energy counter could not be read at the window's {where}: {said(error)}")
            return
        self._sum.add(time_s, value_mj)
        self._edges.add(time_s, value_mj)


class PowerGauge(Gauge):
    """Power samples from a thread, integrated by the trapezoid rule."""

    def __init__(self, board: Board, clock: Clock, kind: PowerKind) -> None:
        super().__init__(board, clock)
        self.method = "NVML_FI_DEV_POWER_INSTANT" if kind == "instant" else "nvmlDeviceGetPowerUsage"
        self.period_s = _POWER_PERIOD_S[kind]
        self._kind = kind
        self._intervals = random.Random(0)  # its own, so that the run's seeds stay untouched
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._sum = PowerIntegral()
        self._edges = _Edges()
        self._is_over = threading.Event()
        self._started_s = self._clock.now()
        self._sample("first edge")
        self._thread = threading.Thread(target=self._poll, name="gpu-power", daemon=True)
        self._thread.start()

    def stop(self) -> WindowEnergy:
        with self._lock:
            self._is_over.set()
            now_s = self._sample("second edge")
        self.close()
        edges = self._edges.raw(f"{self.board.uuid} power_mw")
        return WindowEnergy(energy_j=self._sum.result(), duration_s=now_s - self._started_s, edges=edges)

    def close(self) -> None:
        if self._thread is not None:
            self._is_over.set()
            self._thread.join()
            self._thread = None

    def facts(self) -> dict[str, JsonValue]:
        note = "mean over the last second on Ampere and newer" if self._kind == "average" else ""
        return {"method": self.method, "period_s": self.period_s, "resolution_w": MILLI, "note": note}

    def _poll(self) -> None:
        while not self._is_over.is_set():
            self._clock.sleep(self._intervals.uniform(*POWER_INTERVALS_S))
            with self._lock:
                if not self._is_over.is_set():
                    self._sample("middle")

    def _sample(self, where: str) -> float:
        now_s = self._clock.now()
        try:
            sampled_w = power_w(self.board.handle, self._kind)
        except pynvml.NVMLError as error:
            self._sum.add(now_s, None, f"the power sensor could not be read at the window's {where}: {said(error)}")
            return now_s
        self._sum.add(now_s, sampled_w)
        self._edges.add(now_s, sampled_w / MILLI)
        return now_s


def why_unreadable(board: Board) -> str | None:
    """Why neither energy nor power of this board can be read, or None. NVML's other errors are raised."""
    if has_counter(board.handle) or power_kind(board.handle) is not None:
        return None
    return (
        f"the driver gives neither energy nor power of {board.name} to this process (a virtual GPU, or no permission): "
        "run on the bare machine, or ask its administrator."
    )


def open_gauge(board: Board, clock: Clock) -> Gauge:
    """The best way this board can be read. Takes up to 3 s where it has a counter.

    Raises:
        BenchError: it can be read in no way.
    """
    if has_counter(board.handle):
        return CounterGauge(board, clock)
    kind = power_kind(board.handle)
    if kind is None:
        raise BenchError(why_unreadable(board))
    return PowerGauge(board, clock, kind)
