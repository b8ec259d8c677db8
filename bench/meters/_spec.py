"""The contract between a meter and the harness.

A meter never synchronises, sleeps, prints, or starts a thread inside a window. The runner alone synchronises, once
before the meters start and once before they stop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Meter(Protocol):
    """Two reads around a window."""

    def start(self) -> None:
        """Read the counters at the first edge."""
        ...

    def stop(self) -> dict[str, float]:
        """Read them at the second edge → readings over the window; names end in their units. No reading, no key."""
        ...


@dataclass(frozen=True, kw_only=True)
class MeterSpec:
    """What a meter file ends with.

    Attributes:
        title: for people.
        readings: name → what it means and how it is known.
        why_unavailable: why this machine cannot read it, in one sentence, or None where it can.
        open: torch device as text (`cpu`, `cuda:0`) → Meter.
    """

    title: str
    readings: dict[str, str]
    why_unavailable: Callable[[], str | None]
    open: Callable[[str], Meter]
