"""The contract between a meter and the harness.

A meter never synchronises, sleeps or prints, and starts a thread only where it can read in no other way. The runner
alone synchronises, once before the meters start and once before they stop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from bench.records import EnergyLabel


@dataclass(frozen=True, kw_only=True)
class Readings:
    """What a meter has to say of one window.

    Attributes:
        values: reading → figure; names end in their units. No figure, no key, and then `problems` says why.
        edges: counter → its raw values at the two edges, as read.
        problems: reading → why it has no value in this window; such a window's reading is invalid, never patched.
        flags: what disturbed the window, one phrase each, for example `throttled: thermal`.
    """

    values: dict[str, float] = field(default_factory=dict)
    edges: dict[str, tuple[float, float]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EnergySource:
    """How an energy reading is known.

    Attributes:
        label: from the closed list.
        part: whose energy it is.
        period_s: update period of the counter; two reads of it are wrong by at most one period's energy. 0 where the
            counter is read continuously.
        systematic: relative error of the sensor itself.
        is_cross_check: a second opinion on a part that another meter reads; never the headline.
    """

    label: EnergyLabel
    part: Literal["gpu", "cpu", "dram", "machine"]
    period_s: float
    systematic: float
    is_cross_check: bool = False


class Meter(ABC):
    """Two reads around a window."""

    @abstractmethod
    def start(self) -> None:
        """Read the counters at the first edge. A failed read is kept and told by `stop`; it does not raise."""

    @abstractmethod
    def stop(self) -> Readings:
        """Read them at the second edge → readings over the window."""

    def tick(self) -> None:  # noqa: B027 - most meters need none
        """Called at step edges of long stretches such as a training, so that a counter that wraps is read in time."""

    def energy_sources(self) -> dict[str, EnergySource]:
        """Reading → how it is known, for every reading that is an energy (`…_energy_j`)."""
        return {}

    def facts(self) -> dict[str, JsonValue]:
        """What the record keeps of the meter itself: devices, periods, versions."""
        return {}

    def close(self) -> None:  # noqa: B027 - most meters hold nothing
        """Give back what the meter holds (library handles, a thread)."""


@dataclass(frozen=True, kw_only=True)
class MeterSpec:
    """What a meter file ends with.

    Attributes:
        title: for people.
        readings: name → what it means and how it is known.
        why_unavailable: torch device as text (`cpu`, `cuda:0`) → why this machine cannot read it, in one sentence that
            also says what it would take, or None where it can.
        open: torch device as text → Meter. May take a few seconds (measuring a counter's period).
        in_windows: whether it reads every measured window; False for a meter that costs too much there and reads
            long stretches only.
    """

    title: str
    readings: dict[str, str]
    why_unavailable: Callable[[str], str | None]
    open: Callable[[str], Meter]
    in_windows: bool = True
